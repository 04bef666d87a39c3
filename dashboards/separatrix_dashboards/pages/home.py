"""The gallery of runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import panel as pn
import panel_material_ui as pmui
import param
from panel.custom import AnyWidgetComponent

from separatrix.errors import SeparatrixError
from separatrix_dashboards.access import Role
from separatrix_dashboards.feeds import Latest, RunSnapshot
from separatrix_dashboards.hub import UnreadableRun
from separatrix_dashboards.pages.cards import (
    LIVE,
    UNREADABLE,
    CardFacts,
    card_facts,
    card_html,
    compare_address,
    run_address,
)
from separatrix_dashboards.pages.pictures import system_picture, unknown_picture
from separatrix_dashboards.pages.shell import shell
from separatrix_dashboards.pages.visit import FORM_CSS, Invitation
from separatrix_dashboards.theme import CSS, STATE_CHIPS, html
from separatrix_dashboards.words import escaped

if TYPE_CHECKING:
    from separatrix_dashboards.workspace import Workspace

Run = RunSnapshot | UnreadableRun

PERIOD_MS: Final = 1000
"""Between two looks of a page at the runs."""
_PAGE: Final = 48
"""Cards shown at first; more on request."""
_EVERY_STATE: Final = "every state"

_CARD_CSS = """
:host { display: flex; align-self: stretch !important; height: auto !important; }
.run-card { display: flex; }
.card { position: relative; display: flex; width: 100%; box-sizing: border-box; border: 1px solid var(--sx-line);
  border-radius: 12px; background: var(--sx-paper); transition: border-color 0.15s, box-shadow 0.15s; }
.card:hover, .card:focus-within { border-color: var(--sx-accent); box-shadow: 0 2px 12px rgb(0 0 0 / 10%); }
.card.selected { border-color: var(--sx-accent); box-shadow: inset 0 0 0 1px var(--sx-accent); }
a { position: relative; display: flex; flex: 1 1 auto; min-width: 0; padding: 14px; box-sizing: border-box;
  color: inherit; text-decoration: none; border-radius: 12px; }
a:focus-visible { outline: 2px solid var(--sx-accent); outline-offset: 2px; }
.picture { position: absolute; left: 14px; top: 14px; width: 116px; height: 80px; border-radius: 8px; overflow: hidden;
  background: var(--sx-faint); }
.picture svg { width: 100%; height: 100%; display: block; }
.content { display: flex; flex-direction: column; flex: 1 1 auto; gap: 12px; min-width: 0; }
.head { margin-left: 130px; min-height: 80px; min-width: 0; display: flex; flex-direction: column; gap: 3px; }
.name { font-size: 16px; font-weight: 650; }
.name, .system, .about { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.system, .age, .about { color: var(--sx-dim); font-size: 12.5px; }
.progress { display: flex; align-items: center; justify-content: space-between; gap: 2px 8px; margin-top: auto;
  flex-wrap: wrap; }
.progress .sx-chip { margin-left: -2px; min-width: 0; overflow: hidden; text-overflow: ellipsis; }
.sx-bar { flex: none; height: 6px; margin-top: 3px; }
.body { display: flex; flex: 1 1 auto; flex-direction: column; gap: 10px; min-width: 0; }
.numbers { display: flex; justify-content: space-between; gap: 18px; align-items: flex-end; }
.sx-number { font-size: 17px; }
.learning { text-align: right; flex: 1 1 auto; min-width: 0; max-width: 236px; }
.learning .sx-fact-more { display: flex; flex-wrap: wrap; justify-content: flex-end; column-gap: 8px; }
.curve { width: 100%; height: 38px; display: block; }
.curve polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.curve .seen { stroke: var(--sx-accent); }
.curve .foretold { stroke: #d9822b; stroke-dasharray: 4 3; }
i.line { display: inline-block; width: 12px; height: 0; border-top: 2px solid var(--sx-accent); margin: 0 4px 3px 0; }
i.line.foretold { border-top: 2px dashed #d9822b; }
.note { font-size: 12.5px; line-height: 1.4; color: var(--sx-dim); overflow-wrap: anywhere; display: -webkit-box;
  overflow: hidden; -webkit-line-clamp: 2; -webkit-box-orient: vertical; }
.note.bad { color: color-mix(in srgb, var(--sx-bad) 72%, var(--sx-ink)); -webkit-line-clamp: 3; }
.foot { display: flex; justify-content: space-between; gap: 10px; margin-top: auto; padding-left: 90px; }
.unselectable .foot { padding-left: 0; }
.age { white-space: nowrap; }
label { position: absolute; left: 14px; bottom: 10px; display: flex; gap: 6px; align-items: center; font-size: 12.5px;
  color: var(--sx-dim); cursor: pointer; padding: 4px 4px 4px 0; }
label input { width: 16px; height: 16px; margin: 0; accent-color: var(--sx-accent); cursor: pointer; }
"""


class RunCard(AnyWidgetComponent):
    """One card; only what changed of it travels to the browser."""

    address = param.String(doc="Of the run's page.")
    label = param.String(doc="What the card is about, for those who cannot see it.")
    content = param.String(doc="HTML of what the card says.")
    picture = param.String(doc="SVG of the system; sent once.")
    selectable = param.Boolean(default=True)
    selected = param.Boolean(default=False)

    _stylesheets = [CSS, _CARD_CSS]  # noqa: RUF012 - Panel's own way
    _esm = """
    function render({ model, el }) {
      const card = document.createElement("article")
      card.className = "card"
      card.innerHTML = '<a><div class="picture"></div><div class="content"></div></a>' +
        '<label><input type="checkbox">compare</label>'
      const [link, label] = card.children
      const box = label.querySelector("input")
      const show = () => {
        link.href = model.get("address")
        link.setAttribute("aria-label", model.get("label"))
        link.querySelector(".content").innerHTML = model.get("content")
        label.style.display = model.get("selectable") ? "" : "none"
        card.classList.toggle("unselectable", !model.get("selectable"))
        box.setAttribute("aria-label", "compare " + model.get("label"))
        box.checked = model.get("selected")
        card.classList.toggle("selected", model.get("selected"))
      }
      const draw = () => { link.querySelector(".picture").innerHTML = model.get("picture") }
      for (const name of ["address", "label", "content", "selectable", "selected"]) model.on("change:" + name, show)
      model.on("change:picture", draw)
      box.addEventListener("change", () => { model.set("selected", box.checked); model.save_changes() })
      show()
      draw()
      el.append(card)
      return () => {}
    }
    export default { render }
    """


class Gallery:
    """All runs of a workspace as cards; looks at them once a second and sends what changed.

    Parameters
    ----------
    workspace : whose runs
    role : of who looks
    """

    def __init__(self, workspace: Workspace, role: Role) -> None:
        self._workspace, self._role = workspace, role
        self._facts: dict[Path, tuple[Hashable, CardFacts]] = {}
        self._cards: dict[Path, RunCard] = {}
        self._shown: list[Path] = []
        self._limit = _PAGE
        self.search = pmui.TextInput(
            label="Search", placeholder="name, system or state", size="small", width=260, margin=(4, 8, 4, 0)
        )
        self.sort = pmui.Select(
            label="Sort by", options=list(_ORDERS), size="small", width=150, sx={"height": "37px"}, margin=(4, 8)
        )
        self.state = pmui.Select(
            label="State", options=[_EVERY_STATE], size="small", width=190, sx={"height": "37px"}, margin=(4, 8)
        )
        self.compare = pmui.Button(label="Compare", variant="outlined", disabled=True, margin=(6, 8))
        self._summary = html("")
        self._nothing = html("", visible=False, margin=(12, 0))
        self._more = pmui.Button(label="Show more", variant="text", visible=False, margin=(10, 0))
        self._grid = pn.Column(sizing_mode="stretch_width", margin=(10, 0), styles=_GRID)
        self.search.param.watch(lambda _: self._choose(), "value_input")
        for widget in (self.sort, self.state):
            widget.param.watch(lambda _: self._choose(), "value")
        self._more.on_click(lambda _: self._show_more())
        self.refresh()

    def refresh(self) -> None:
        """Look at the runs; change the cards that changed, add new ones, take away those that are gone."""
        runs = {run.path: run for run in self._workspace.hub.runs()}
        before = {path: facts for path, (_, facts) in self._facts.items()}
        for path in set(before) - set(runs):
            del self._facts[path]
        for path, run in runs.items():
            mark = run.error if isinstance(run, UnreadableRun) else run.revision, run.modified
            if path not in self._facts or self._facts[path][0] != mark:
                self._facts[path] = mark, self._read(run)
                if path in before and _looks(before[path]) != _looks(self._facts[path][1]):
                    self._cards.pop(path, None)  # another run by the same name, or one that could not be read
        now = time.time()
        after = {path: facts for path, (_, facts) in self._facts.items()}
        if after != before or not before:
            self._list_states(after.values())
            self._choose()
        self._cards = {path: card for path, card in self._cards.items() if path in after}
        _update(self._summary, object=summary_html(after.values(), self._workspace.pool))
        for path in self._shown:
            _update(self._cards[path], content=card_html(after[path], now))

    def _read(self, run: Run) -> CardFacts:
        if isinstance(run, UnreadableRun):
            return card_facts(run)
        try:
            feed = self._workspace.hub.feed(run.path)
        except (SeparatrixError, OSError):  # removed a moment ago; the next look sees it
            return card_facts(run)
        latest: Latest = feed.cached("card", Latest)
        return latest.get(run.revision, lambda: card_facts(run))

    def _choose(self) -> None:
        """Show the cards that are asked for, in the order that is asked for."""
        facts = {path: facts for path, (_, facts) in self._facts.items()}
        chosen = choose(facts, self.search.value_input or "", self.state.value, self.sort.value)
        self._more.visible = len(chosen) > self._limit
        self._more.label = f"Show all {len(chosen)}"
        chosen = chosen[: self._limit]
        for path in chosen:
            if path not in self._cards:
                self._cards[path] = self._make_card(path, facts[path])
        self._shown = chosen
        cards = [self._cards[path] for path in chosen]
        if cards != self._grid.objects:
            self._grid[:] = cards
        words = "" if chosen else nothing_html(len(facts), self._workspace.folder, self._role)
        _update(self._nothing, object=words, visible=not chosen)
        for widget in (self.search, self.sort, self.state, self.compare):
            _update(widget, visible=bool(facts))
        self._offer_comparison()

    def _make_card(self, path: Path, facts: CardFacts) -> RunCard:
        run = next((run for run in self._workspace.hub.runs() if run.path == path), None)
        card = RunCard(
            address=run_address(facts.name),
            label=facts.name,
            content=card_html(facts, time.time()),
            picture=system_picture(run.config) if isinstance(run, RunSnapshot) else unknown_picture(),
            selectable=facts.state != UNREADABLE and not facts.about,
            sizing_mode="stretch_width",
            margin=0,
        )
        card.param.watch(lambda _: self._offer_comparison(), "selected")
        return card

    def _offer_comparison(self) -> None:
        names = tuple(self._facts[path][1].name for path in self._shown if self._cards[path].selected)
        ready = len(names) > 1
        label = f"Compare {len(names)} runs" if ready else "Compare"
        _update(self.compare, label=label, disabled=not ready, href=compare_address(names) if ready else None)

    def _list_states(self, facts: Iterable[CardFacts]) -> None:
        there = {each.state for each in facts}
        words = {key: word for key, (word, _) in STATE_CHIPS.items()} | {UNREADABLE: "cannot be read"}
        options = [_EVERY_STATE, *(word for key, word in words.items() if key in there)]
        if self.state.value not in options:
            options.append(self.state.value)  # what was chosen stays chosen while no run is in it
        if options != self.state.options:
            self.state.options = options

    def _show_more(self) -> None:
        self._limit = len(self._facts)
        self._choose()

    def first_html(self) -> str:
        """Return the cards as HTML, for the moment until the browser has made the page."""
        cards = "".join(
            f'<article class="card"><a href="{escaped(card.address)}"><div class="picture">{card.picture}</div>'
            f'<div class="content">{card.content}</div></a></article>'
            for card in (self._cards[path] for path in self._shown)
        )
        grid = ";".join(f"{name}:{value}" for name, value in _GRID.items())
        return f'{self._summary.object}<div style="{grid};margin-top:58px">{cards}</div>'

    def __panel__(self) -> pn.Column:
        """Return the gallery."""
        links = [self.compare]
        if self._role == Role.OPERATOR:
            links.append(pmui.Button(label="New session", icon="add", href="new", margin=(6, 0, 6, 4)))
        bar = pn.FlexBox(
            pn.Row(self.search, self.sort, self.state, margin=0),
            pn.Row(*links, margin=0),
            align_items="center",
            justify_content="space-between",
            sizing_mode="stretch_width",
            margin=(10, 0, 0, 0),
        )
        parts = (self._summary, bar, self._nothing, self._grid, self._more)
        return pn.Column(*parts, sizing_mode="stretch_width", margin=(8, 4), styles={"flex": "none"})


_GRID = {
    "display": "grid",
    "grid-template-columns": "repeat(auto-fill, minmax(min(100%, 390px), 1fr))",
    "grid-auto-rows": "max-content",  # a page that is too short scrolls, and does not squeeze the cards
    "flex": "none",
    "gap": "14px",
}


def home_page(workspace: Workspace, role: Role) -> pmui.Page:
    """Return the page with the gallery of all runs."""
    gallery = Gallery(workspace, role)
    # The hub looks at runs in the gallery only while somebody looks at the gallery.
    end = workspace.hub.watch_runs(_nothing_to_do)
    pn.state.on_session_destroyed(lambda context: end())
    pn.state.add_periodic_callback(_held(gallery.refresh), period=PERIOD_MS)
    if workspace.sandbox is None:
        return shell(workspace, role, "Runs", gallery, first=gallery.first_html(), first_css=_CARD_CSS)
    invitation = Invitation(workspace.sandbox, workspace.visitor())
    pn.state.add_periodic_callback(_held(invitation.refresh), period=PERIOD_MS)
    # Later each is in a shadow root of its own; until then their style sheets, which use the same names, must not meet.
    first = f'<div class="try">{invitation.first_html()}</div><div class="runs">{gallery.first_html()}</div>'
    first_css = f".try {{ {FORM_CSS} }} .runs {{ {_CARD_CSS} }}"
    return shell(workspace, role, "Runs", invitation, gallery, first=first, first_css=first_css)


def _looks(facts: CardFacts) -> tuple[str, bool]:
    """Return what of a card is made once."""
    return facts.system, facts.state == UNREADABLE


def _nothing_to_do() -> None:
    """Take the hub's word that something changed: the page looks by itself once a second."""


def _held(refresh: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with pn.io.hold():
            refresh()

    return run


# -- choosing --------------------------------------------------------------------------------------------------------


def choose(facts: dict[Path, CardFacts], search: str, state: str, order: str) -> list[Path]:
    """Return the runs that are asked for, in order.

    Parameters
    ----------
    search : words that must all occur
    state : in words, or "every state"
    order : a key of the orders
    """
    words = search.lower().split()
    key = _ORDERS[order]
    found = [
        path
        for path, each in facts.items()
        if all(word in each.words for word in words) and (state == _EVERY_STATE or _state_words(each) == state)
    ]
    return sorted(found, key=lambda path: (key(facts[path]), facts[path].name.lower()))


def _state_words(facts: CardFacts) -> str:
    return STATE_CHIPS[facts.state][0] if facts.state in STATE_CHIPS else facts.word


_ORDERS: Final[dict[str, Callable[[CardFacts], Any]]] = {
    # Live runs change all the time: by their times they would change places every second.
    "last change": lambda facts: (facts.state not in LIVE, 0.0 if facts.state in LIVE else -facts.modified),
    "name": lambda facts: 0,
    "steps": lambda facts: -facts.steps,
    "yield": lambda facts: -(facts.rate or 0.0),
}


# -- HTML ------------------------------------------------------------------------------------------------------------


def summary_html(facts: Iterable[CardFacts], pool: Any) -> str:
    """Return in a line how many runs there are and what they do."""
    every: Sequence[CardFacts] = tuple(facts)
    counts = {
        word: sum(each.state == key for each in every)
        for key, (word, _) in STATE_CHIPS.items()
        if key in ("running", "seeding", "queued", "paused", "failed")
    }
    parts = [f"{len(every)} run{'' if len(every) == 1 else 's'}"]
    parts += [f"{number} {word}" for word, number in counts.items() if number]
    parts.append(f"{pool.busy_workers} of {pool.max_workers} workers of this server taken")
    return f'<div class="sx-note" style="font-size:14px">{escaped(" · ".join(parts))}</div>'


def nothing_html(n_runs: int, folder: Path, role: Role) -> str:
    """Return what stands in the place of the cards when there are none."""
    if n_runs:
        return '<div class="sx-empty">No run matches. Change the search or the state.</div>'
    if role != Role.OPERATOR:
        return '<div class="sx-empty">No runs yet. They appear here when somebody starts one.</div>'
    command = f"separatrix run {folder / 'first'} --system alanine-dipeptide"
    return (
        '<div class="sx-empty">No runs yet. Start one: <a href="new">New session</a>, or on the command line'
        f"<br><br><code>{escaped(command)}</code></div>"
    )


def _update(pane: Any, **values: Any) -> None:
    """Set what is different: setting what is there already would travel to the browser all the same."""
    changes = {name: value for name, value in values.items() if getattr(pane, name) != value}
    if changes:
        pane.param.update(**changes)
