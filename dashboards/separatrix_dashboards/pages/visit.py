"""What visitors do of their own: they choose a landscape on the home page, and watch and control its session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from separatrix.errors import SeparatrixError
from separatrix.records import RunState
from separatrix.systems import CATALOGUE
from separatrix_dashboards.access import Role
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.pages.controls import CHOICE_CSS, Choice, Redirect
from separatrix_dashboards.pages.head import Head, first_html
from separatrix_dashboards.pages.pictures import catalogue_picture
from separatrix_dashboards.pages.run import argument, tabs
from separatrix_dashboards.pages.shell import shell
from separatrix_dashboards.sandbox import LANDSCAPES, SELECTORS, Sandbox, Visit, VisitOverError, Wish
from separatrix_dashboards.theme import CSS, empty, html
from separatrix_dashboards.views.base import Scope, watch_page
from separatrix_dashboards.widgets import button
from separatrix_dashboards.words import escaped, lasting

if TYPE_CHECKING:
    from separatrix_dashboards.workspace import Workspace

PERIOD_MS: Final = 1000
"""Between two looks of a page at what is left of a session."""

FORM_CSS: Final = (
    CHOICE_CSS
    + """
@media (max-width: 560px) {
  fieldset { grid-template-columns: 1fr 1fr; gap: 8px; }
  .description { display: none; }
  .title { padding-bottom: 9px; }
}
"""
)

_SHOTS: Final = (200, 500, 1_000, 2_000)
_FIRST: Final = "hummer-szabo"
_INVITATION: Final = (
    "Choose a landscape, and this server samples how it is crossed: it shoots trajectories from points of a path, and "
    "from every shot a neural network learns the committor, the probability of each point to end in either state. You "
    "watch it learn on a page of your own, which is gone some time after you left it."
)
_SELECTION: Final = (
    "Guided: the committor learned so far chooses where to shoot next. Uniform: any point of the path, as in standard "
    "transition path sampling; compare how many shots become transitions."
)


def address_of(key: str) -> str:
    """Return the address of a visitor's session, relative to that of the gallery."""
    return f"try?session={key}"


# -- the home page -----------------------------------------------------------------------------------------------------


class Invitation:
    """The form with which a visitor begins a session.

    Parameters
    ----------
    sandbox : in which it will lie
    visitor : who looks at the page
    """

    def __init__(self, sandbox: Sandbox, visitor: str) -> None:
        self._sandbox, self._visitor = sandbox, visitor
        self.landscape = Choice(
            label="landscape",
            options=_options(),
            value=_FIRST,
            sizing_mode="stretch_width",
            margin=(10, 0, 0, 0),
            stylesheets=[FORM_CSS],
        )
        self.selection = pmui.RadioButtonGroup(
            label="Selection of shooting points",
            options=list(SELECTORS),
            value="guided",
            size="small",
            margin=(4, 12, 4, 0),
        )
        shots = [number for number in _SHOTS if number <= sandbox.limits.shots] or [sandbox.limits.shots]
        self.shots = pmui.Select(
            label="Shots",
            options=shots,
            value=shots[-2:][0],
            size="small",
            width=110,
            sx={"height": "37px"},
            margin=(4, 12, 4, 0),
        )
        self.start = pmui.Button(label="Start", icon="play_arrow", margin=(4, 12, 4, 0))
        self.back = pmui.Button(label="Back to your session", variant="outlined", visible=False, margin=(4, 12, 4, 0))
        self._message = html("", margin=(6, 0, 0, 0))
        self._redirect = Redirect(margin=0, width=0, height=0)
        self._said = False
        self.start.on_click(self.begin)
        self.refresh()

    async def begin(self, _: Any = None) -> None:
        """Begin the session that was chosen and go to its page, or say why not."""
        self.start.disabled = True
        self._say("Preparing your session …")
        wish = Wish(landscape=self.landscape.value, selection=self.selection.value, shots=self.shots.value)
        try:
            key = await asyncio.to_thread(self._sandbox.begin, self._visitor, wish)
        except SeparatrixError as error:
            self._say(str(error), wrong=True)
        else:
            self._say("Going to its page.")
            self._redirect.address = address_of(key)
        finally:
            self.start.disabled = False

    def refresh(self) -> None:
        """Tell what there is now: the visitor's own session, and how long another one would wait."""
        own = self._sandbox.of(self._visitor)
        self.back.param.update(visible=own is not None, href=None if own is None else address_of(own.key))
        label = "Start" if own is None else "Discard it and start anew"
        if self.start.label != label:
            self.start.label = label
        if not self._said:
            self._message.object = _note(availability(self._sandbox))

    def _say(self, text: str, *, wrong: bool = False) -> None:
        self._said = True
        self._message.object = f'<div class="sx-problem" role="alert">{escaped(text)}</div>' if wrong else _note(text)

    def first_html(self) -> str:
        """Return the invitation as HTML, for the moment until the browser has made the page."""
        choice = f'<div class="choice" style="margin-top:10px">{self.landscape.first_html()}</div>'
        return f'<section style="padding:12px 14px">{_HEADING}{choice}</section>'

    def __panel__(self) -> pn.Column:
        """Return the card."""
        row = pn.FlexBox(
            self.selection,
            self.shots,
            self.start,
            self.back,
            align_items="center",
            sizing_mode="stretch_width",
            margin=(8, 0, 0, 0),
        )
        return pn.Column(
            html(_HEADING),
            self.landscape,
            row,
            html(_note(_SELECTION)),
            self._message,
            self._redirect,
            css_classes=["sx-card"],
            stylesheets=[CSS],
            sizing_mode="stretch_width",
            margin=(8, 4),
            styles={"flex": "none"},
        )


_HEADING: Final = (
    '<div class="sx-card-title" style="font-size:17px">Try it yourself</div>'
    f'<div class="sx-note" style="font-size:14px;max-width:900px">{_INVITATION}</div>'
)


def availability(sandbox: Sandbox) -> str:
    """Return what a visitor may have now, in a sentence or two."""
    limits = sandbox.limits
    wait, places = sandbox.wait(), sandbox.pool.max_workers
    taken = "The place for visitors is" if places == 1 else f"All {places} places for visitors are"
    when = f"{taken} taken now: yours starts within {lasting(wait)}." if wait else "It starts at once."
    return f"A session makes {limits.shots:,} shots at most, within {lasting(limits.seconds)}. {when}"


def _options() -> list[dict[str, str]]:
    entries = {name: CATALOGUE[name] for name in sorted(LANDSCAPES, key=lambda name: name != _FIRST)}
    return [
        {"name": name, "title": entry.title, "description": entry.description, "picture": catalogue_picture(name)}
        for name, entry in entries.items()
    ]


def _note(text: str) -> str:
    return f'<div class="sx-note" role="status">{escaped(text)}</div>'


# -- the page of a session ---------------------------------------------------------------------------------------------


class VisitControls:
    """The controls of one session for one visitor, as the head of a run's page uses those of a server's sessions.

    Whatever a page says of roles and numbers counts for nothing: the sandbox looks at who asks and at its limits.
    """

    max_workers = 1

    def __init__(self, sandbox: Sandbox, visitor: str, key: str) -> None:
        self._sandbox, self._visitor, self._key = sandbox, visitor, key

    def start(self, path: Any, *, role: Role) -> None:
        """Go on sampling."""
        del path, role
        self._sandbox.go_on(self._visitor, self._key)

    def pause(self, path: Any, *, role: Role) -> None:
        """Finish the shots in flight and keep the worker."""
        del path, role
        self._sandbox.pause(self._visitor, self._key)

    def resume(self, path: Any, *, role: Role) -> None:
        """Go on after a pause."""
        del path, role
        self._sandbox.resume(self._visitor, self._key)

    def stop(self, path: Any, *, role: Role) -> None:
        """End sampling."""
        del path, role
        self._sandbox.stop(self._visitor, self._key)


class VisitHead(Head):
    """The head of a run's page without numbers to choose: a session has what its visitor chose at first."""

    def __init__(self, scope: Scope, sandbox: Sandbox, visitor: str, key: str, refresh: Callable[[], None]) -> None:
        self._sandbox, self._key = sandbox, key

        def role() -> Role:
            return Role.OPERATOR if sandbox.owns(visitor, key) else Role.VIEWER

        super().__init__(scope, VisitControls(sandbox, visitor, key), role, refresh)

    def _make_controls(self) -> pn.Row:
        super()._make_controls()
        return pn.Row(self._start, self._pause, self._stop, margin=0)

    def _wanted(self) -> dict[str, int]:
        return {}

    def _enable(self, snapshot: RunSnapshot) -> None:
        super()._enable(snapshot)
        visit = self._sandbox.find(self._key)
        exhausted = visit is None or bool(visit.over) or snapshot.status.steps >= self._sandbox.limits.shots
        self._start.disabled = self._start.disabled or exhausted
        self._start.label = "More shots" if snapshot.status.state is RunState.FINISHED else "Continue"


class VisitPage:
    """What stands under the head of a session's page: what is left of it, and the way out.

    Parameters
    ----------
    over : called once when the session is not there any more
    """

    def __init__(self, sandbox: Sandbox, visitor: str, key: str, over: Callable[[], None]) -> None:
        self._sandbox, self._visitor, self._key, self._over = sandbox, visitor, key, over
        self._words = html("", sizing_mode=None, styles={"flex": "1 1 320px"})
        self._discard = button("Discard", self._on_discard, visible=sandbox.owns(visitor, key), margin=(0, 4))
        self._redirect = Redirect(margin=0, width=0, height=0)
        self._gone = False
        self.refresh()

    def __panel__(self) -> Viewable:
        """Return the line."""
        return pn.FlexBox(
            self._words,
            self._discard,
            self._redirect,
            align_items="center",
            sizing_mode="stretch_width",
            margin=(0, 0, 6, 0),
        )

    def refresh(self) -> None:
        """Tell what is left now."""
        visit = self._sandbox.find(self._key)
        if visit is None:
            self._discard.visible = False
            self._words.object = f'<div class="sx-problem" role="status">{_GONE}</div>'
            if not self._gone:
                self._gone = True
                self._over()
            return
        words = visit_words(self._sandbox, visit, own=self._sandbox.owns(self._visitor, self._key))
        if self._words.object != words:
            self._words.object = words

    def _on_discard(self, _: Any) -> None:
        try:
            self._sandbox.discard(self._visitor, self._key)
        except SeparatrixError as error:
            self._words.object = f'<div class="sx-problem">{escaped(error)}</div>'
        else:
            self._redirect.address = "./"


_GONE: Final = 'This session is over, and what it had sampled is gone. <a href="./">Begin another</a>'


def visit_words(sandbox: Sandbox, visit: Visit, *, own: bool) -> str:
    """Return what is left of a session, as HTML."""
    limits = sandbox.limits
    if not own:
        return _note(
            "You may look at this session but not control it: it is another visitor's, or your browser has no cookies."
        )
    wait = sandbox.wait(visit) if sandbox.pool.place(visit.path) is not None else None
    parts = []
    if visit.over:
        parts.append(visit.over)
    elif wait is not None:
        parts.append(f"Waiting for a free worker{f', {lasting(wait)} at most' if wait >= 1 else ''}.")
    else:
        left = max(0.0, limits.seconds - visit.used)
        parts.append(f"{lasting(left)} of sampling and {limits.shots:,} shots at most.")
    parts.append(f"Nobody else sees this session; it is removed when its page was closed for {lasting(limits.unseen)}.")
    return _note(f"Your session. {' '.join(parts)}")


def visit_page(workspace: Workspace, role: Role) -> Viewable:
    """Return the page of the session that the address names: ``try?session=KEY&tab=VIEW``."""
    sandbox, visitor, key = workspace.sandbox, workspace.visitor(), argument("session")
    try:
        if sandbox is None:
            raise VisitOverError("this server has no sessions of visitors")
        feed = sandbox.feed(key)
        sandbox.hub.look(feed)
    except SeparatrixError:
        problem = empty(_GONE)
        return shell(workspace, role, "Your session", problem, first=problem.object)
    watch = watch_page(sandbox.hub, feed)
    leave = sandbox.enter(key)
    pn.state.on_session_destroyed(lambda context: leave())
    head = VisitHead(watch.scope(), sandbox, visitor, key, lambda: sandbox.hub.refresh(watch))
    line = VisitPage(sandbox, visitor, key, watch.close)
    pn.state.add_periodic_callback(line.refresh, period=PERIOD_MS)
    top = pn.Column(head, line, sizing_mode="stretch_width", margin=0)
    return shell(
        workspace, role, "Your session", tabs(watch, argument("tab")), head=top, first=first_html(feed.snapshot)
    )
