"""The page on which a new run is made: a system, its configuration, a name, and off it goes."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import panel as pn
import panel_material_ui as pmui
import param

from separatrix.config import parse_toml
from separatrix.equilibration import EquilibrationProgress
from separatrix.errors import ConfigError, RunExistsError, SeparatrixError
from separatrix.progress import equilibration_in_words
from separatrix.systems import CATALOGUE
from separatrix_dashboards.access import PermissionDeniedError, Role
from separatrix_dashboards.form import ConfigForm, check, plain_error
from separatrix_dashboards.pages.cards import run_address
from separatrix_dashboards.pages.controls import CHOICE_CSS, Choice, Redirect
from separatrix_dashboards.pages.pictures import catalogue_picture, unknown_picture
from separatrix_dashboards.pages.shell import shell
from separatrix_dashboards.theme import html
from separatrix_dashboards.views.base import card
from separatrix_dashboards.widgets import CopyText
from separatrix_dashboards.words import escaped

if TYPE_CHECKING:
    from separatrix_dashboards.workspace import Workspace

LARGEST_TOML: Final = 2**20
"""Bytes of a configuration that is taken."""
LONGEST_NAME: Final = 80
_LONGEST_TEXT: Final = 1_000

_OWN: Final = "own"
_FIRST: Final = next(iter(CATALOGUE))
_TEMPLATE: Final = """\
[system]
kind = "potential"
expression = "10*((x^2-1)^2 + (x-y)^2) + 5*z^2"
start = { A = [-1, -1, 0], B = [1, 1, 0] }
temperature = 300.0
integrator = "brownian"
friction = 10.0
timestep = 1.0

[collective_variables]
x = "x(0)"
y = "y(0)"

[states]
A = "(x+1)^2 + (y+1)^2 < 0.0625"
B = "(x-1)^2 + (y-1)^2 < 0.0625"
"""
_AUTOMATIC: Final = "automatic"
_TELL_SECONDS: Final = 0.5


def new_page(workspace: Workspace, role: Role) -> pmui.Page:
    """Return the page that makes runs; viewers are told that they cannot."""
    if role != Role.OPERATOR:
        note = '<div class="sx-empty">Only operators may make runs. <a href="./">All runs</a></div>'
        return shell(workspace, role, "New session", html(note, margin=(16, 4)))
    new = NewSession(workspace)
    return shell(workspace, role, "New session", new, first=new.system.first_html(), first_css=CHOICE_CSS)


class TomlUpload(pmui.FileInput):
    """A button that uploads a file; one that the browser finds too large is a refusal, not an error of the server."""

    refusal = param.String()

    def _handle_msg(self, msg: Any) -> None:
        status = msg.get("status") if isinstance(msg, Mapping) else None
        if status == "error":
            self.refusal = str(msg.get("error", "the file was refused"))
        elif status == "upload_event" and not _is_small_file(msg):
            self.refusal = "expected a TOML file of 1 MB at most, got something else"
        elif status in ("upload_event", "finished", "initializing"):
            self.refusal = ""
            if status == "upload_event":
                self._buffer.clear()  # what was sent before and is not finished
            super()._handle_msg(msg)


def _is_small_file(msg: Mapping[str, Any]) -> bool:
    """Return whether a message brings a whole file that is small enough; the component itself would take any number."""
    data, name, kind = (msg.get(key) for key in ("data", "name", "mime_type"))
    whole = (msg.get("chunk"), msg.get("total_chunks")) == (1, 1)
    texts = isinstance(name, str) and isinstance(kind, str) and len(name) + len(kind) <= _LONGEST_TEXT
    return whole and texts and isinstance(data, bytes | bytearray | memoryview) and len(data) <= LARGEST_TOML


class NewSession:
    """What makes a run.

    Parameters
    ----------
    workspace : where it will lie

    Attributes
    ----------
    form : of the system that is chosen
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._forms: dict[str, ConfigForm] = {}
        self.form = self._form_of(_FIRST)
        self._suggested = ""
        self._progress: EquilibrationProgress | None = None
        self.system = Choice(label="system", options=_options(), value=_FIRST, sizing_mode="stretch_width", margin=0)
        self._own = self._make_own()
        self._place = pn.Column(sizing_mode="stretch_width", margin=0)
        self._preview = CopyText(sizing_mode="stretch_width", margin=(10, 0, 0, 0))
        self._make_launch()
        self._redirect = Redirect(margin=0, width=0, height=0)
        self.system.param.watch(lambda event: self._choose(event.new), "value")
        self._choose(_FIRST)

    # -- the system ------------------------------------------------------------------------------------------------

    def _make_own(self) -> pn.Column:
        self.upload = TomlUpload(
            label="Upload a TOML file",
            accept=".toml",
            max_file_size=LARGEST_TOML,
            variant="outlined",
            margin=(10, 12, 4, 0),
        )
        self.paste = pmui.TextAreaInput(
            label="or paste TOML",
            placeholder='[system]\nkind = "potential"\n...',
            rows=4,
            auto_grow=True,
            max_rows=12,
            max_length=LARGEST_TOML,
            sizing_mode="stretch_width",
            sx={
                "& .MuiInputBase-input": {"fontFamily": "ui-monospace, Menlo, Consolas, monospace", "fontSize": "13px"}
            },
            margin=(10, 0, 0, 0),
        )
        self.use = pmui.Button(label="Fill the form with this text", variant="outlined", margin=(8, 0, 0, 0))
        self._own_problem = html("", margin=(8, 0, 0, 0))
        self.upload.param.watch(self._take_file, "value", onlychanged=False)  # what it names may have changed
        self.upload.param.watch(lambda event: self._complain(event.new), "refusal")
        self.use.on_click(lambda _: self.take_toml(self.paste.value_input or ""))
        content = (self.upload, self.paste, self.use, self._own_problem)
        note = (
            "The form below holds a custom landscape to begin with; a TOML file, uploaded or pasted, takes its place."
        )
        return card("Your own configuration", *content, note=note, visible=False, margin=(14, 0, 0, 0))

    def _take_file(self, event: Any) -> None:
        if not event.new:
            return
        try:
            text = toml_text(event.new)
        except ConfigError as error:
            self._complain(error)
            return
        self.paste.value = text
        self.take_toml(text, where=str(self.upload.filename or "file"))

    def _complain(self, problem: Exception | str) -> None:
        text = escaped(problem)
        self._own_problem.object = f'<div class="sx-problem" role="alert">{text}</div>' if text else ""

    def take_toml(self, text: str, where: str = "configuration") -> None:
        """Fill the form with a configuration, or say what is wrong with it."""
        try:
            form = ConfigForm(parsed_toml(text, where))
        except SeparatrixError as error:
            self._complain(error)
            return
        self._complain("")
        self._forms[_OWN] = form
        if self.system.value == _OWN:
            self._show(form)
        else:
            self.system.value = _OWN

    def _choose(self, name: str) -> None:
        self._own.visible = name == _OWN
        self._show(self._form_of(name))

    def _form_of(self, name: str) -> ConfigForm:
        """Return the form of a system as it was left, or a fresh one."""
        if name not in self._forms:
            data = tomllib.loads(_TEMPLATE) if name == _OWN else {"system": {"kind": name}}
            self._forms[name] = ConfigForm(data)
        return self._forms[name]

    def _show(self, form: ConfigForm) -> None:
        self.form = form
        form.listen(self._take_change)
        self._place[:] = [form.__panel__()]
        self._take_change()
        self._suggest(form.kind)

    def _take_change(self) -> None:
        self._say("")
        self._preview.text = self.form.toml

    # -- name and start --------------------------------------------------------------------------------------------

    def _make_launch(self) -> None:
        self.name = pmui.TextInput(
            label="Name of the run", size="small", max_length=200, sizing_mode="stretch_width", margin=(14, 0, 0, 0)
        )
        most = self._workspace.pool.max_workers
        self.workers = pmui.Select(
            label="Workers",
            options=[_AUTOMATIC, *range(1, most + 1)],
            helper_text=f"Processes that simulate. Automatic: one per chain, at most {most} on this server.",
            size="small",
            sx={"height": "37px"},
            sizing_mode="stretch_width",
            margin=(14, 0, 0, 0),
        )
        style = {"sizing_mode": "stretch_width", "margin": (10, 0, 0, 0)}
        self.start = pmui.Button(label="Create and start", icon="play_arrow", **style)
        self.create = pmui.Button(label="Create only", variant="outlined", **style)
        self.check = pmui.Button(label="Check", variant="text", **style)
        self._busy = pmui.LinearProgress(
            variant="indeterminate", visible=False, sizing_mode="stretch_width", margin=(10, 0, 0, 0)
        )
        self._message = html("", margin=(10, 0, 0, 0))
        self.name.param.watch(lambda _: self._check_name(), "value_input")
        self.start.on_click(partial(self.act, "start"))
        self.create.on_click(partial(self.act, "create"))
        self.check.on_click(partial(self.act, "check"))

    def _suggest(self, kind: str) -> None:
        """Suggest a name that is free, unless the user chose one."""
        if (self.name.value_input or "") == self._suggested:
            self._suggested = suggested_name(kind, self._workspace.folder)
            self.name.value = self._suggested

    def _check_name(self) -> str:
        problem = name_problem(self.name.value_input or "", self._workspace.folder)
        self.name.param.update(error_state=bool(problem), helper_text=problem)
        return problem

    async def act(self, action: str, _: Any = None) -> None:
        """Check or make what the form says, in a thread, and say how it went.

        Parameters
        ----------
        action : "check", "create", or "start" to create and start
        """
        form, name = self.form, (self.name.value_input or "").strip()
        role = self._workspace.role()  # asked now: it may be another one than when the page was made
        if not self._ready(form, action):
            return
        self._set_busy("checking the configuration" if action == "check" else "building the system")
        try:
            data, workers = form.data, None if self.workers.value == _AUTOMATIC else int(self.workers.value)
            if action == "check":
                await asyncio.to_thread(check, data)
            else:
                make = partial(self._make, name, data, workers, role, start=action == "start")
                await self._watched(asyncio.create_task(asyncio.to_thread(make)))
        except (PermissionDeniedError, RunExistsError) as error:
            self._say(str(error), wrong=True)
        except SeparatrixError as error:
            form.show(error)
            self._say(plain_error(error), wrong=True)
        else:
            self._say("Nothing is wrong." if action == "check" else "Made. Going to its page.")
            if action != "check":
                self._redirect.address = run_address(name)
        finally:
            self._set_busy("")

    async def _watched(self, making: asyncio.Task[None]) -> None:
        """Wait until a run is made, and say meanwhile how far its water is."""
        while not (await asyncio.wait([making], timeout=_TELL_SECONDS))[0]:
            if (progress := self._progress) is not None:
                self._say(f"{progress.activity.capitalize()}: {equilibration_in_words(progress)}")
        making.result()

    def _take_progress(self, progress: EquilibrationProgress) -> None:
        self._progress = progress

    def _ready(self, form: ConfigForm, action: str) -> bool:
        """Return whether everything that was typed can be meant; say what cannot."""
        wrong = [form.fields[key].spec.label for key in form.problems]
        if action != "check" and self._check_name():
            wrong.insert(0, self.name.label)
        if wrong:
            form.show_problems()
            self._say(f"Mend first: {', '.join(wrong)}.", wrong=True)
        return not wrong

    def _make(self, name: str, data: Mapping[str, Any], workers: int | None, role: Role, *, start: bool) -> None:
        path = self._workspace.folder / name
        self._workspace.pool.create(path, data, role=role, report=self._take_progress)
        if start:
            self._workspace.pool.start(path, workers=workers, role=role)
        self._workspace.hub.refresh()

    def _set_busy(self, doing: str) -> None:
        self._progress = None
        for button in (self.start, self.create, self.check):
            button.disabled = bool(doing)
        self._busy.visible = bool(doing)
        if doing:
            self._say(f"{doing.capitalize()} …")

    def _say(self, text: str, *, wrong: bool = False) -> None:
        kind = "sx-problem" if wrong else "sx-note"
        self._message.object = f'<div class="{kind}" role="status">{escaped(text)}</div>' if text else ""

    # -- layout ----------------------------------------------------------------------------------------------------

    def __panel__(self) -> pn.Column:
        """Return the content of the page."""
        launch = card("Start", self.name, self.workers, self.start, self.create, self.check, self._busy, self._message)
        note = (
            "What differs from the system's own settings; <code>separatrix new RUN --config FILE.toml</code> takes it."
        )
        preview = card("As TOML", self._preview, note=note)
        side = pn.Column(launch, preview, self._redirect, styles=_SIDE, margin=0, sizing_mode="stretch_width")
        layout = {"stylesheets": [_COLUMNS], "margin": (14, 0, 0, 0), "sizing_mode": "stretch_width"}
        columns = pn.Column(self._place, side, **layout)
        heading = html('<div class="sx-card-title" style="font-size:17px;margin-bottom:8px">Choose a system</div>')
        parts = (heading, self.system, self._own, columns)
        return pn.Column(*parts, sizing_mode="stretch_width", margin=(10, 4), styles={"flex": "none"})


_COLUMNS = """
:host { display: grid; grid-template-columns: minmax(0, 1fr) minmax(300px, 372px); gap: 16px; }
@media (max-width: 900px) { :host { grid-template-columns: minmax(0, 1fr); } }
"""
_SIDE = {"position": "sticky", "top": "8px", "align-self": "start"}


def _options() -> list[dict[str, str]]:
    systems = [
        {"name": name, "title": entry.title, "description": entry.description, "picture": catalogue_picture(name)}
        for name, entry in CATALOGUE.items()
    ]
    description = "A landscape given by its potential energy, or settings from a file: upload or paste TOML."
    own = {"name": _OWN, "title": "Your own", "description": description, "picture": unknown_picture()}
    return [*systems, own]


# -- pure parts --------------------------------------------------------------------------------------------------------


def toml_text(content: bytes | str) -> str:
    """Return the text of an uploaded file.

    Raises
    ------
    ConfigError
        If it is too large, or no text.
    """
    data = content.encode() if isinstance(content, str) else content
    if len(data) > LARGEST_TOML:
        raise ConfigError(f"expected a TOML file of 1 MB at most, got {len(data) / LARGEST_TOML:.1f} MB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError("expected a TOML file in UTF-8, got something that is no text") from None


def parsed_toml(text: str, where: str = "configuration") -> dict[str, Any]:
    """Return TOML as plain data.

    Raises
    ------
    ConfigError
        If it is none, saying in which line.
    """
    if len(text) > LARGEST_TOML:
        raise ConfigError(f"{where}: expected a configuration of 1 MB at most, got {len(text) / LARGEST_TOML:.1f} MB")
    return parse_toml(text, where)


def name_problem(name: str, folder: Path) -> str:
    """Return what is wrong with the name of a new run, or nothing.

    Parameters
    ----------
    folder : where the run will lie
    """
    name = name.strip()
    bad = re.search(r'[/\\<>:"|?*,]', name)
    problems = (
        (not name, "Give the run a name"),
        (len(name) > LONGEST_NAME, f"At most {LONGEST_NAME} characters, this has {len(name)}"),
        (name.startswith((".", "_")), f"May not begin with {name[:1]!r}"),
        (bad is not None, f"May not contain {bad and bad[0]!r}"),
        (not name.isprintable(), "May not contain invisible characters"),
    )
    found = next((text for wrong, text in problems if wrong), "")
    if not found and (folder / name).exists():
        return f"There is something called {name} already"
    return found


def suggested_name(kind: str, folder: Path) -> str:
    """Return a name for a run of a system that is free: the system's own, with a number if need be."""
    number = 1
    name = "landscape" if kind == "potential" else kind
    while name_problem(name if number == 1 else f"{name}-{number}", folder):
        number += 1
    return name if number == 1 else f"{name}-{number}"
