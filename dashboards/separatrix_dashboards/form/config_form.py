"""The form that makes a configuration: fields from the schema of `RunConfig`, checked while one types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import panel as pn
import panel_material_ui as pmui
import tomli_w

from separatrix.config import RunConfig
from separatrix.systems import KINDS, resolve
from separatrix_dashboards.form.fields import FIELDS, Field, Problem
from separatrix_dashboards.form.problems import Key, place_of, plain_error, value_problems
from separatrix_dashboards.form.specs import FieldSpec, field_specs, is_own

_SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "System": ("system",),
    "Sampling": ("sampling",),
    "Collective variables": ("collective_variables",),
    "States": ("states",),
    "Descriptors": ("descriptors",),
    "Committor": ("committor",),
    "First path": ("seeding",),
    "Mechanism": ("analysis",),
}
"""Heading -> the tables of the configuration below it; the order is that of the page."""

_OPEN: Final = ("System", "Sampling")
_FOREMOST: Final[tuple[Key, ...]] = (
    ("system", "solvent"),
    ("system", "expression"),
    ("system", "start"),
    ("system", "topology"),
    ("system", "force_field"),
    ("system", "starts"),
    ("system", "temperature"),
    ("sampling", "steps"),
    ("sampling", "chains"),
    ("sampling", "selector"),
)
"""What is in sight at once, in this order; the rest of an open section folds under "More"."""


class ConfigForm:
    """A form for the configuration of a new run.

    Parameters
    ----------
    data : plain data such as parsed TOML; what it leaves out comes from the catalogue

    Attributes
    ----------
    fields : path in the configuration -> its field

    Raises
    ------
    ConfigError
        If the data are no configuration.

    Examples
    --------
    >>> form = ConfigForm({"system": {"kind": "hummer-szabo"}, "sampling": {"chains": 8}})
    >>> form.data
    {'system': {'kind': 'hummer-szabo'}, 'sampling': {'chains': 8}}
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        config = resolve(data)
        values = config.model_dump(mode="json", exclude_none=True)
        self.kind: str = config.system.kind
        self._listener: Callable[[], None] = lambda: None
        self._filling = True
        self._baseline = self._defaults(values["system"].get("solvent"))
        specs = field_specs(RunConfig.model_json_schema(), self.kind)
        self.fields: dict[Key, Field] = {
            spec.key: FIELDS[s.kind](s, self._changed) for spec in specs for s in [self._own(spec)]
        }
        self._mores: dict[str, pn.Column] = {}
        self._alert = pmui.Alert(severity="error", visible=False, sizing_mode="stretch_width", margin=(0, 0, 10, 0))
        self._fill(_as_written(values, self._baseline))
        self._filling = False
        if (solvent := self.fields.get(("system", "solvent"))) is not None and self._solvents:
            solvent.widget.param.watch(lambda event: self._take_solvent(event.new), "value")
        self._layout = self._lay_out()
        self._validate()

    # -- what the form says ------------------------------------------------------------------------------------------

    @property
    def complete(self) -> dict[str, Any]:
        """The whole configuration as plain data; what cannot be read stays as it was typed."""
        result: dict[str, Any] = {}
        for key, field in self.fields.items():
            if (value := field.value) is not None:
                _put(result, key, value)
        return result

    @property
    def data(self) -> dict[str, Any]:
        """The kind of system and what differs from its defaults, as plain data."""
        result: dict[str, Any] = {"system": {"kind": self.kind}}
        for key, field in self.fields.items():
            value = field.value
            if value is not None and not _same(value, _get(self._baseline, key)):
                _put(result, key, value)
        if (solvent := _get(self._baseline, ("system", "solvent"))) not in (None, *self._solvents[:1]):
            result["system"]["solvent"] = solvent
        return result

    @property
    def toml(self) -> str:
        """`data` as TOML: it resolves to the same configuration."""
        # Every point on a line of its own: strings have no line breaks here, so this meets numbers alone.
        return re.sub(r"\[\n((?: +[-+.\deE]+,\n)+) *\]", _on_one_line, tomli_w.dumps(self.data))

    @property
    def problems(self) -> dict[Key, str]:
        """What is wrong with single values, by their place."""
        return {key: field.message for key, field in self.fields.items() if field.message}

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function after every change, in place of the one before."""
        self._listener = listener

    # -- what is wrong -----------------------------------------------------------------------------------------------

    def show(self, error: Exception) -> None:
        """Show an error of the whole configuration at the field that it names, or at the top."""
        text = plain_error(error)
        place = place_of(text, tuple(self.fields))
        if place is None:
            self._alert.param.update(object=_plain(text), visible=True)
            return
        key, where = place
        self.fields[key].show([(where, text)])
        self._unfold(key)

    def show_problems(self) -> None:
        """Unfold whatever hides a mistake."""
        for key in self.problems:
            self._unfold(key)

    def _changed(self) -> None:
        if self._filling:
            return
        self._validate()
        self._listener()

    def _validate(self) -> None:
        self._alert.visible = False
        found: dict[Key, list[Problem]] = {key: list(field.problems()) for key, field in self.fields.items()}
        for key, field in self.fields.items():
            # Left out, it would mean a default that is not on the page.
            if field.value is None and _get(self._baseline, key) is not None:
                found[key].append(((), "Needs a value"))
        for key, where, message in value_problems(self.complete, tuple(self.fields)):
            limits = self.fields[key].spec.limits
            found[key].append((where, f"{message} ({limits})" if " to " in limits else message))
        for key, field in self.fields.items():
            field.show(found[key])

    # -- filling -----------------------------------------------------------------------------------------------------

    @property
    def _solvents(self) -> tuple[str, ...]:
        return KINDS[self.kind].solvents

    def _own(self, spec: FieldSpec) -> FieldSpec:
        """Return a field with what only this system knows: its solvents."""
        if spec.key != ("system", "solvent") or not self._solvents:
            return spec
        changes = {"kind": "choice", "options": self._solvents, "help": "Each has states of its own."}
        return FieldSpec(**{name: getattr(spec, name) for name in spec.__slots__} | changes)

    def _defaults(self, solvent: str | None) -> dict[str, Any]:
        """Return what the configuration is when nothing is said but the kind of system and its solvent."""
        if is_own(self.kind):
            schema = RunConfig.model_json_schema()
            defaults: dict[str, Any] = {}
            for spec in field_specs(schema, self.kind):
                if spec.default is not None:
                    _put(defaults, spec.key, spec.default)
            return defaults
        system = {"kind": self.kind} | ({} if solvent is None else {"solvent": solvent})
        return _as_written(resolve({"system": system}).model_dump(mode="json", exclude_none=True), {})

    def _fill(self, values: Mapping[str, Any]) -> None:
        for key, field in self.fields.items():
            field.set(_get(values, key))

    def _take_solvent(self, solvent: str) -> None:
        """Go over to the defaults of another solvent; what the user changed stays."""
        before, self._baseline = self._baseline, self._defaults(solvent)
        self._filling = True
        for key, field in self.fields.items():
            old, new = _get(before, key), _get(self._baseline, key)
            if not _same(old, new) and _same(field.value, old):
                field.set(new)
        self._filling = False
        self._changed()

    # -- layout ------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> pn.Column:
        cards = [self._card(heading) for heading in _OPEN]
        folded = [
            (heading, pn.Column(self._grid(self._keys(heading)), sizing_mode="stretch_width", margin=(0, 8)))
            for heading in _SECTIONS
            if heading not in _OPEN
        ]
        self._accordion = pmui.Accordion(
            *folded,
            active=[],
            title_variant="subtitle1",
            sizing_mode="stretch_width",
            disable_gutters=True,
            elevation=0,
            variant="outlined",
            dynamic=True,
            sx={"&:not(:last-of-type)": {"borderBottom": 0}, "&::before": {"display": "none"}},
        )
        return pn.Column(self._alert, *cards, self._accordion, sizing_mode="stretch_width", margin=0)

    def _keys(self, heading: str) -> list[Key]:
        tables = _SECTIONS[heading]
        entry = KINDS[self.kind]
        shown = {"pressure": bool(entry.boxed), "equilibration": bool(entry.boxed)}
        shown["solvent"] = bool(entry.solvents) or is_own(self.kind)
        hidden = {("system", name) for name, is_shown in shown.items() if not is_shown}
        return [key for key in self.fields if key[0] in tables and key not in hidden]

    def _card(self, heading: str) -> pmui.Card:
        keys = self._keys(heading)
        foremost = [key for key in _FOREMOST if key in keys]
        # Around the grid, whose own style would undo its being hidden; filled when it is first opened.
        more = pn.Column(visible=False, sizing_mode="stretch_width", margin=(12, 0, 0, 0))
        self._mores[heading] = more
        toggle = pmui.Button(label="More", icon="expand_more", variant="text", size="small", margin=(4, 0, 0, -4))
        toggle.on_click(lambda _: setattr(more, "visible", not more.visible))

        def turn(event: Any) -> None:
            toggle.param.update(**_toggle_look(event.new))
            if not len(more):
                more.append(self._grid([key for key in keys if key not in foremost]))

        more.param.watch(turn, "visible")
        return pmui.Card(
            self._grid(foremost),
            more,
            toggle,
            title=heading,
            collapsible=False,
            variant="outlined",
            title_variant="subtitle1",
            sizing_mode="stretch_width",
            margin=(0, 0, 12, 0),
        )

    def _grid(self, keys: list[Key]) -> pn.Column:
        wide = ("table", "records", "lines", "expression")
        items = []
        for key in keys:
            item = pn.panel(self.fields[key])
            item.styles = (
                {**item.styles, "grid-column": "1 / -1"} if self.fields[key].spec.kind in wide else item.styles
            )
            items.append(item)
        styles = {
            "display": "grid",
            "grid-template-columns": "repeat(auto-fill, minmax(230px, 1fr))",
            "gap": "10px 14px",
        }
        return pn.Column(*items, styles=styles, sizing_mode="stretch_width", margin=0)

    def _unfold(self, key: Key) -> None:
        heading = next(heading for heading, tables in _SECTIONS.items() if key[0] in tables)
        if heading in self._mores:
            self._mores[heading].visible = self._mores[heading].visible or key not in _FOREMOST
            return
        index = [name for name in _SECTIONS if name not in _OPEN].index(heading)
        self._accordion.active = sorted({*self._accordion.active, index})

    def __panel__(self) -> pn.Column:
        """Return the form without its preview and buttons."""
        return self._layout


def _as_written(values: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration less what `resolve` works out from the rest, so that it follows the rest."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    if result["committor"].get("frames") == (result["system"].get("integrator") == "brownian"):
        result["committor"].pop("frames")
    descriptors = result["descriptors"]
    follows = descriptors.get("columns") == list(result.get("collective_variables", {}))
    alone = descriptors.get("internal_coordinates") == "none" and not descriptors.get("symmetry_functions")
    if follows and alone and not _get(baseline, ("descriptors", "columns")):
        descriptors["columns"] = []
    return result


def _get(data: Mapping[str, Any], key: Key) -> Any:
    value: Any = data
    for name in key:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _put(data: dict[str, Any], key: Key, value: Any) -> None:
    for name in key[:-1]:
        data = data.setdefault(name, {})
    data[key[-1]] = value


def _same(first: Any, second: Any) -> bool:
    """Return whether two values are equal, the order of tables included: it is that of the states' indices."""
    empty = (None, [], {})
    return _as_text(first) == _as_text(second) or (first in empty and second in empty)


def _as_text(value: Any) -> str:
    """Return a value as text, in which 1 is 1.0."""
    return json.dumps(json.loads(json.dumps(value), parse_int=float))


def _on_one_line(array: re.Match[str]) -> str:
    return f"[{', '.join(number.strip().rstrip(',') for number in array[1].splitlines())}]"


def _toggle_look(is_open: bool) -> dict[str, str]:
    return {"label": "Less" if is_open else "More", "icon": "expand_less" if is_open else "expand_more"}


def _plain(text: str) -> str:
    """Return text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|<>&~-])", r"\\\1", text)
