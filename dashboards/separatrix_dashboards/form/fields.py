"""One field per value of the configuration: its widget, its value as plain data, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final

import panel as pn
import panel_material_ui as pmui

from separatrix_dashboards.form.specs import FieldSpec, parse_cell, show_cell

Problem = tuple[tuple[Any, ...], str]
"""Where inside a value something is wrong (nowhere, in a row by name or number, in its column), and what."""

_MONOSPACE: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
_WORDS: Final = {
    "lorentzian": "Lorentzian (guided)",
    "gaussian": "Gaussian (guided)",
    "uniform": "Uniform (standard TPS)",
    "langevin": "Langevin, with inertia",
    "brownian": "Brownian, overdamped",
    "none": "None",
    "rotatable": "Rotatable bonds",
    "all": "All",
    "vacuum": "Vacuum",
    "obc2": "Implicit water (OBC2)",
    "tip3p": "Explicit water (TIP3P)",
    "whole": "Whole",
    "solute": "Solute alone",
}
_AUTOMATIC: Final = "Automatic"
_HEIGHT: Final = "37px"
_HELP_SX: Final = {"fontSize": "12px", "lineHeight": 1.45, "mx": "2px"}
_CAPTION_CSS: Final = """
.caption { font-size: 12px; line-height: 1.45; color: var(--panel-on-surface-color, #333); opacity: 0.68; }
.caption.wrong { color: var(--mui-palette-error-main, #d32f2f); opacity: 1; }
"""


class Field:
    """One value in a form: its widget, its value as plain data, and what is wrong with it.

    Parameters
    ----------
    spec : what it shows
    changed : called after every change by the user
    """

    def __init__(self, spec: FieldSpec, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.message = ""
        self._changed = changed
        self.widget = self._make()

    def _make(self) -> Any:
        raise NotImplementedError

    @property
    def value(self) -> Any:
        """The value as plain data; None when there is none."""
        raise NotImplementedError

    def set(self, value: Any) -> None:
        """Show a value."""
        raise NotImplementedError

    def problems(self) -> list[Problem]:
        """Return what is wrong with the text before it is a value at all."""
        return []

    def show(self, problems: Sequence[Problem]) -> None:
        """Show what is wrong, or that nothing is."""
        self.message = problems[0][1] if problems else ""

    def __panel__(self) -> Any:
        """Return what is laid out."""
        return self.widget


class TextField(Field):
    """A text, an expression or a number, checked while it is typed.

    Numbers are typed into a text field on purpose: number inputs of browsers and of MUI pass on nothing until they are
    left, and then quietly put the old number in the place of one that they cannot read.
    """

    def _make(self) -> Any:
        self._given: tuple[str, Any] = ("", None)
        widget = text_input(self.spec, self.spec.label)
        widget.param.watch(lambda _: self._changed(), "value_input")
        return widget

    @property
    def value(self) -> Any:
        """The value as plain data; None when the field is empty."""
        text = self.widget.value_input or ""
        shown, given = self._given
        return given if text == shown else parse_cell(self.spec.kind, text)

    def set(self, value: Any) -> None:
        """Show a value; while it stays untouched it keeps every digit."""
        text = show_cell(self.spec.kind, value)
        self._given = (text, value)
        self.widget.value = text

    def show(self, problems: Sequence[Problem]) -> None:
        """Show what is wrong in the place of the help."""
        super().show(problems)
        mark(self.widget, self.message, self.spec.help)


class FixedField(TextField):
    """A text that is not to be changed here."""

    def _make(self) -> Any:
        widget = super()._make()
        widget.disabled = True
        return widget


class LinesField(TextField):
    """A list of texts, one per line."""

    @property
    def value(self) -> list[str]:
        """The lines that are not empty."""
        return [line.strip() for line in (self.widget.value_input or "").splitlines() if line.strip()]

    def set(self, value: Any) -> None:
        """Show a list of texts."""
        self.widget.value = "\n".join(value or ())


class ChoiceField(Field):
    """One of a few words; an optional yes or no has a third answer."""

    def _make(self) -> Any:
        options: dict[str, Any] = {_WORDS.get(word, str(word).capitalize()): word for word in self.spec.options}
        if not options:
            options = {_AUTOMATIC: _AUTOMATIC, "Yes": True, "No": False}
        widget = pmui.Select(
            label=self.spec.label,
            options=options,
            helper_text=self.spec.help,
            size="small",
            sx={"height": _HEIGHT, "& ~ .MuiFormHelperText-root": _HELP_SX},
            margin=(6, 0, 0, 0),
            sizing_mode="stretch_width",
        )
        widget.param.watch(lambda _: self._changed(), "value")
        return widget

    @property
    def value(self) -> Any:
        """The word chosen; None for the automatic choice."""
        return None if self.widget.value == _AUTOMATIC else self.widget.value

    def set(self, value: Any) -> None:
        """Show a choice; a word that is no choice is kept, for the check to name it."""
        shown = _AUTOMATIC if value is None and not self.spec.options else value
        if shown is not None and shown not in self.widget.options.values():
            self.widget.options = {**self.widget.options, str(shown): shown}
        self.widget.value = shown

    def show(self, problems: Sequence[Problem]) -> None:
        """Show what is wrong in the place of the help."""
        super().show(problems)
        mark(self.widget, self.message, self.spec.help)


class CheckField(Field):
    """Yes or no."""

    def _make(self) -> Any:
        self._check = pmui.Checkbox(label=self.spec.label, size="small", sizing_mode="stretch_width", margin=0)
        self._check.param.watch(lambda _: self._changed(), "value")
        self._caption = pn.pane.HTML(stylesheets=[_CAPTION_CSS], sizing_mode="stretch_width", margin=(0, 0, 0, 14))
        self.show(())
        return pn.Column(self._check, self._caption, sizing_mode="stretch_width", margin=0)

    @property
    def value(self) -> Any:
        """Whether it is checked."""
        return self._check.value

    def set(self, value: Any) -> None:
        """Show yes or no."""
        self._check.value = bool(value)

    def show(self, problems: Sequence[Problem]) -> None:
        """Show what is wrong in the place of the help."""
        super().show(problems)
        self._caption.object = caption_html(self.message or self.spec.help, wrong=bool(self.message))


class RowsField(Field):
    """A table that grows: names and values, or records of a few values."""

    def _make(self) -> Any:
        self._rows: list[list[pmui.TextInput]] = []
        self._named = self.spec.kind == "table"
        self._list = pn.Column(sizing_mode="stretch_width", margin=0)
        self._caption = pn.pane.HTML(stylesheets=[_CAPTION_CSS], sizing_mode="stretch_width", margin=(0, 0, 4, 2))
        add = pmui.Button(label="Add", icon="add", variant="text", size="small", margin=(0, 0, 0, -4))
        add.on_click(lambda _: self._add_row([""] * len(self.spec.columns), announce=True))
        self.show(())
        return pn.Column(self._caption, self._list, add, sizing_mode="stretch_width", margin=0)

    @property
    def value(self) -> Any:
        """A table from names to values, or a list of records."""
        rows = [[cell.value_input or "" for cell in row] for row in self._rows]
        filled = [row for row in rows if any(cell.strip() for cell in row)]
        if self._named:
            kind = self.spec.columns[1].kind
            return {row[0].strip(): parse_cell(kind, row[1]) or "" for row in filled}
        return [self._record(row) for row in filled]

    def _record(self, cells: Sequence[str]) -> dict[str, Any]:
        values = (
            (spec.key[0], parse_cell(spec.kind, cell)) for spec, cell in zip(self.spec.columns, cells, strict=True)
        )
        return {name: value for name, value in values if value is not None}

    def set(self, value: Any) -> None:
        """Show a table or a list of records."""
        self._rows = []
        self._list.clear()
        kinds = [column.kind for column in self.spec.columns]
        if self._named:
            table = [list(row) for row in (value or {}).items()]
        else:
            table = [[record.get(c.key[0], c.default) for c in self.spec.columns] for record in value or ()]
        for row in table:
            self._add_row([show_cell(kind, cell) for kind, cell in zip(kinds, row, strict=True)])

    def _add_row(self, texts: Sequence[str], *, announce: bool = False) -> None:
        cells = []
        for spec, text in zip(self.spec.columns, texts, strict=True):
            cell = text_input(spec, spec.label, grow=1 if spec.kind in ("expression", "points") else 0)
            cell.value = text
            cell.param.watch(lambda _: self._changed(), "value_input")
            cells.append(cell)
        remove = pmui.IconButton(
            icon="delete_outline", size="small", description="Remove this row", margin=(2, 0, 0, 4)
        )
        line = pn.Row(*cells, remove, sizing_mode="stretch_width", margin=(0, 0, 6, 0))
        remove.on_click(lambda _: self._remove_row(cells, line))
        self._rows.append(cells)
        self._list.append(line)
        if announce:
            self._changed()

    def _remove_row(self, cells: list[pmui.TextInput], line: pn.Row) -> None:
        self._rows = [row for row in self._rows if row is not cells]
        self._list.remove(line)
        self._changed()

    def problems(self) -> list[Problem]:
        """Return rows without a name, names given twice, and points that are none."""
        if not self._named:
            return []
        found: list[Problem] = []
        seen: set[str] = set()
        for index, row in enumerate(self._rows):
            name, text = (cell.value_input.strip() for cell in row)
            value = parse_cell(self.spec.columns[1].kind, text)
            if name in seen:
                found.append(((index,), f"There are two rows called {name}"))
            elif text and not name:
                found.append(((index,), "Give it a name"))
            elif name and not text:
                found.append(((index, "value"), "Needs a value"))
            elif self.spec.columns[1].kind == "points" and text and not _are_points(value):
                found.append(((index, "value"), "Expected x, y, z in nm, such as -1, 0.5, 0"))
            if name:
                seen.add(name)
        return found

    def show(self, problems: Sequence[Problem]) -> None:
        """Show what is wrong under the row it belongs to, and what belongs to no row above them all."""
        super().show(problems)
        rest = list(problems)
        for index, row in enumerate(self._rows):
            names = (index, (row[0].value_input or "").strip()) if self._named else (index,)
            mine = [problem for problem in rest if problem[0][:1] and problem[0][0] in names]
            rest = [problem for problem in rest if problem not in mine]
            self._mark_row(row, mine)
        text = rest[0][1] if rest else self.spec.help
        self._caption.object = caption_html(text, wrong=bool(rest))

    def _mark_row(self, row: list[pmui.TextInput], problems: Sequence[Problem]) -> None:
        for cell, spec in zip(row, self.spec.columns, strict=True):
            mine = [text for where, text in problems if where[1:2] == spec.key[:1]]
            if not mine and cell is row[-1 if self._named else 0]:
                mine = [text for where, text in problems if len(where) < 2]
            mark(cell, mine[0] if mine else "", "")


FIELDS: Final[dict[str, type[Field]]] = {
    "integer": TextField,
    "number": TextField,
    "text": TextField,
    "expression": TextField,
    "fixed": FixedField,
    "lines": LinesField,
    "choice": ChoiceField,
    "check": CheckField,
    "table": RowsField,
    "records": RowsField,
}
"""Kind of value -> the field that shows it."""


def text_input(spec: FieldSpec, label: str, grow: int | None = None) -> Any:
    """Return the text widget of a value: monospaced for code, with its unit at its end."""
    sx: dict[str, Any] = {"& .MuiFormHelperText-root": _HELP_SX}
    if spec.kind in ("expression", "points", "lines"):
        sx["& .MuiInputBase-input"] = {"fontFamily": _MONOSPACE, "fontSize": "13px", "lineHeight": "20px"}
    if spec.unit and spec.kind not in ("expression", "lines"):
        unit = {"content": json.dumps(spec.unit), "color": "text.secondary", "mr": "14px", "whiteSpace": "nowrap"}
        sx["& .MuiInputBase-root::after"] = unit | {"fontSize": "13px"}
    settings = {"label": label, "helper_text": spec.help, "size": "small", "sx": sx, "margin": (6, 0, 0, 0)}
    if grow is not None:
        settings["margin"] = (6, 8, 0, 0)
    if spec.kind == "lines" or (spec.kind == "expression" and grow is None):
        return pmui.TextAreaInput(rows=2, auto_grow=True, max_rows=12, sizing_mode="stretch_width", **settings)
    if grow == 0:
        return pmui.TextInput(width=120, **settings)
    return pmui.TextInput(sizing_mode="stretch_width", **settings)


def mark(widget: Any, message: str, otherwise: str) -> None:
    """Put a message under a widget in the colour of errors, or the usual text."""
    if widget.error_state != bool(message) or widget.helper_text != (message or otherwise):
        widget.param.update(error_state=bool(message), helper_text=message or otherwise)


def caption_html(text: str, *, wrong: bool = False) -> str:
    """Return a line of help, or of what is wrong, as HTML."""
    attributes = 'class="caption wrong" role="alert"' if wrong else 'class="caption"'
    return f"<div {attributes}>{escape(text)}</div>" if text else ""


def _are_points(value: Any) -> bool:
    def is_point(item: Any) -> bool:
        return isinstance(item, list) and len(item) == 3 and all(isinstance(v, int | float) for v in item)

    return is_point(value) or (isinstance(value, list) and bool(value) and all(is_point(item) for item in value))
