"""The page that compares runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import panel as pn
import panel_material_ui as pmui

from separatrix.errors import SeparatrixError
from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Failure, Hub
from separatrix_dashboards.pages.cards import compare_address
from separatrix_dashboards.pages.head import first_html
from separatrix_dashboards.pages.shell import shell
from separatrix_dashboards.theme import empty, html
from separatrix_dashboards.views.base import Watch, card
from separatrix_dashboards.views.compare import Comparison, comparison, family
from separatrix_dashboards.views.compare_committors import (
    CommittorPair,
    agreement_words,
    committor_pair,
    draw_committors,
)
from separatrix_dashboards.views.live import CELL, grid
from separatrix_dashboards.views.live_figures import from_zero
from separatrix_dashboards.words import escaped

if TYPE_CHECKING:
    from separatrix_dashboards.access import Role
    from separatrix_dashboards.workspace import Workspace

PERIOD_MS: Final = 2000
"""Between two looks of a page at what runs there are."""

_HINT = (
    "Choose two or more runs. What guided selection brings shows best against standard path sampling of the same "
    "system, a run made with <code>--set sampling.selector=uniform</code>; further runs with other seeds give "
    "better errors."
)
_NUMBERS_NOTE = (
    "With one standard error. Losses of different selections do not compare: shots from near the separatrix are the "
    "hardest to foretell."
)


def compare_page(workspace: Workspace, role: Role) -> pmui.Page:
    """Return the page that compares the runs that the address names: ``compare?runs=NAME,NAME``."""
    search = pn.state.location.search if pn.state.location is not None else ""
    page = ComparePage(workspace.hub, names_in(search))
    pn.state.on_session_destroyed(lambda context: page.close())
    pn.state.add_periodic_callback(page.look, period=PERIOD_MS)
    return shell(workspace, role, "Compare", page.__panel__(), first=page.first_html())


def names_in(search: str) -> tuple[str, ...]:
    """Return the runs that a query string names.

    >>> names_in("?runs=a,b%2Fc&theme=dark")
    ('a', 'b/c')
    """
    for part in search.removeprefix("?").split("&"):
        name, _, value = part.partition("=")
        if name == "runs":
            return tuple(dict.fromkeys(unquote(run) for run in value.split(",") if run))
    return ()


def _sampled(hub: Hub) -> list[RunSnapshot]:
    """Return the runs that sample; a table of shots has nothing to compare."""
    return [run for run in hub.runs() if isinstance(run, RunSnapshot) and run.config.table is None]


class ComparePage:
    """Runs beside each other, as they go on.

    Parameters
    ----------
    hub : that publishes the runs
    names : of the runs shown first; without any, a family of guided and standard sampling if there is one
    """

    def __init__(self, hub: Hub, names: Sequence[str]) -> None:
        self._hub = hub
        self._watches: list[Watch] = []
        self._feeds: dict[str, Feed] = {}
        self._pair_watches: list[Watch] = []
        known = _sampled(hub)
        self._problems = html("")
        self._content = pn.Column(sizing_mode="stretch_width", margin=0)
        self._runs = pmui.MultiChoice(
            label="Runs",
            options=sorted({run.name for run in known} | set(names)),
            value=list(names) or list(family(known)),
            sizing_mode="stretch_width",
            margin=(10, 12, 4, 0),
        )
        self._together = pmui.Switch(label="Runs that differ in their seed alone as one", value=True, margin=(18, 0))
        self._runs.param.watch(lambda event: self._choose(), "value")
        self._together.param.watch(lambda event: self._choose(), "value")

    def first_html(self) -> str:
        """Return the numbers of the chosen runs as HTML, for the moment until the browser has made the page."""
        heads = (first_html(feed.snapshot) for feed in self._feeds.values())
        return "".join(f'<section style="margin-bottom:20px">{head}</section>' for head in heads)

    def __panel__(self) -> pn.viewable.Viewable:
        """Return what is shown."""
        self._choose()
        return pn.Column(
            pn.Row(self._runs, self._together, sizing_mode="stretch_width", margin=0),
            self._problems,
            self._content,
            sizing_mode="stretch_width",
            margin=0,
        )

    def look(self) -> None:
        """Offer the runs that there are now; what is chosen stays chosen, even if it is gone."""
        there = sorted({run.name for run in _sampled(self._hub)} | set(self._runs.value))
        if there != self._runs.options:
            self._runs.options = there

    def close(self) -> None:
        """Stop watching."""
        for watch in (*self._watches, *self._pair_watches):
            watch.close()
        self._watches, self._pair_watches = [], []

    # -- what is chosen --------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        self.close()
        self._feeds, problems = {}, []
        for name in self._runs.value:
            try:
                feed = self._hub.feed(name)
            except (SeparatrixError, OSError) as error:
                problems.append(f'<div class="sx-problem">{escaped(self._hub.words(error))}</div>')
                continue
            if feed.snapshot.config.table is None:
                self._feeds[name] = feed
            else:
                words = f"{name} was made from a table of shots: there is no sampling to compare."
                problems.append(f'<div class="sx-problem">{escaped(words)}</div>')
        self._problems.object = "".join(problems)
        if pn.state.location is not None and self._runs.value:
            pn.state.location.search = "?" + compare_address(tuple(self._runs.value)).partition("?")[2]
        if not self._feeds:
            self._content[:] = [empty(_HINT)]
            return
        self._content[:] = self._cards()
        query = comparison(list(self._feeds.values()), together=self._together.value)
        scopes = []
        for feed in self._feeds.values():
            watch = Watch(self._hub, feed)
            self._watches.append(watch)
            scopes.append(watch.scope())
        for scope in scopes:
            scope.add(query, self._show)
        self._choose_pair()
        self._hub.refresh()

    def _cards(self) -> list[pn.viewable.Viewable]:
        self._shown: Comparison | None = None
        self._counts, self._rates, self._times = (Chart(height=height, ready=from_zero) for height in (340, 340, 400))
        self._scatter = pn.Column(sizing_mode="stretch_width", min_height=340, margin=0)
        self._headline, self._numbers, self._agreement = html(""), html("", styles={"overflow": "auto"}), html("")
        note = "One standard error as a band; of several runs, the mean as far as all of them reach."
        cards = [
            card("Transitions per shot", self._counts.pane, note=note, **CELL),
            card("Transitions per MD step", self._rates.pane, note="What they cost: long shots cost more.", **CELL),
            card("Transition time", self._times.pane, note="Running mean; it must not depend on selection.", **CELL),
            card("Committors", self._pair_choice(), self._agreement, self._scatter, **CELL),
        ]
        return [
            pn.Column(self._headline, sizing_mode="stretch_width", margin=(0, 0, 10, 4)),
            grid(*cards),
            card("Numbers", self._numbers, note=_NUMBERS_NOTE, margin=(12, 0)),
        ]

    def _show(self, result: Comparison | Failure) -> None:
        if isinstance(result, Failure):
            self._problems.object = f'<div class="sx-problem">{escaped(result.message)}</div>'
            return
        if result is self._shown:
            return
        self._shown = result
        self._counts.apply(result.per_shot)
        self._rates.apply(result.per_md_step)
        self._times.apply(result.times)
        self._numbers.object, self._headline.object = result.numbers, result.headline

    # -- two committors --------------------------------------------------------------------------------------------

    def _pair_choice(self) -> pn.Row:
        names = list(self._feeds)
        second = next((name for name in names[1:] if self._same_columns(names[0], name)), names[-1])
        options = {"options": names, "width": 230, "size": "small", "margin": (8, 10, 2, 0)}
        self._first = pmui.Select(label="across", value=names[0], **options)
        self._second = pmui.Select(label="up", value=second, **options)
        for choice in (self._first, self._second):
            choice.param.watch(lambda event: self._choose_pair(), "value")
        return pn.Row(self._first, self._second, margin=0, visible=len(names) > 2)

    def _same_columns(self, first: str, second: str) -> bool:
        one, other = self._feeds[first].snapshot, self._feeds[second].snapshot
        return one.feature_names == other.feature_names

    def _choose_pair(self) -> None:
        """Ask for two committors, anew whenever the second run has a newer model."""
        for watch in self._pair_watches:
            watch.close()
        names = self._first.value, self._second.value
        first, second = (self._feeds[name] for name in names)
        self._agreement.object = ""
        if first is second:
            self._pair_watches = []
            self._scatter[:] = [empty("Choose two runs.")]
            return
        chart = Chart(height=340, fixed=("x", "y"))
        self._scatter[:] = [chart.pane]

        def show(result: CommittorPair | Failure) -> None:
            if isinstance(result, Failure):
                chart.apply(result)
                self._agreement.object = ""
            else:
                chart.apply(Drawing(draw_committors(result, *names)))
                self._agreement.object = agreement_words(result.agreement, result.n_states)

        def follow(_: RunSnapshot) -> None:
            nonlocal asked
            newer = committor_pair(second)
            if newer.key != asked.key:
                scope.add(newer, show, replacing=asked)
                asked = newer

        self._pair_watches = [Watch(self._hub, first), Watch(self._hub, second)]
        scope, asked = self._pair_watches[0].scope(), committor_pair(second)
        scope.add(asked, show)
        self._pair_watches[1].scope().follow(follow)
