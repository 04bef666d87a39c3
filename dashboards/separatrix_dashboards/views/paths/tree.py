"""How paths descend from each other, chain by chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, Plot
from numpy.typing import NDArray

from separatrix.estimates import path_tree
from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import GREY, STATE_COLOURS
from separatrix_dashboards.views.base import Scope, card
from separatrix_dashboards.views.paths.choice import Choice, frame_time
from separatrix_dashboards.views.paths.marks import CHOSEN
from separatrix_dashboards.widgets import checkbox, select
from separatrix_dashboards.words import escaped

STEPS = 200
"""Newest Monte Carlo steps of a chain that are shown."""

_STEPS_AT_ONCE = 5
"""While a run goes on, the tree is drawn anew with every path, or after so many trials without one."""

_TIPS = [("shot", "@shot"), ("transition time", "@transition_time{0.[000]} ps")]

_GAP = 0.12
"""Between two paths, steps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """The newest trials of one chain on one axis of time.

    Attributes
    ----------
    shots : (n,) their numbers
    accepted : (n,) bool
    top, bottom : (n,) first step of the chain on the path, and the first one after it; of a rejected trial its own
    begin, shared, end : (n,) ps, first frame, shooting point and last frame
    ends : (n, 2) states of the first and the last frame
    """

    shots: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    top: NDArray[np.float64]
    bottom: NDArray[np.float64]
    begin: NDArray[np.float64]
    shared: NDArray[np.float64]
    end: NDArray[np.float64]
    ends: NDArray[np.int8]


def newest_branch(snapshot: RunSnapshot, chain: int, steps: int = STEPS) -> Branch:
    """Return the newest trials of a chain; times count from the beginning of the oldest path among them."""
    columns = snapshot.shots
    rows = np.flatnonzero(columns["chain"] == chain)
    tree = path_tree(*(columns[name][rows] for name in ("chain", "accepted", "frame", "shooting_frame", "n_frames")))
    accepted, step = columns["accepted"][rows], columns["step"][rows].astype(float)
    last = step[-1] + 1 if len(step) else 0.0
    bottom = step + 1
    bottom[accepted] = np.append(step[accepted], last)[1:]
    shown = (bottom > last - steps) & (columns["n_frames"][rows] > 0)
    oldest = tree.begin[shown & accepted]
    spacing, origin = frame_time(snapshot), oldest[0] if len(oldest) else 0
    return Branch(
        shots=rows[shown],
        accepted=accepted[shown],
        top=np.maximum(step, last - steps)[shown],
        bottom=bottom[shown],
        begin=((tree.begin - origin) * spacing)[shown],
        shared=((tree.shared - origin) * spacing)[shown],
        end=((tree.end - origin) * spacing)[shown],
        ends=columns["ends"][rows][shown],
    )


def _sides(state_names: Sequence[str]) -> str:
    """Return what the colours of a bar mean."""
    if len(state_names) == 2:
        return "Blue leads to the first state, orange to the second."
    names = ", ".join(
        f'<span style="color:{STATE_COLOURS[i % len(STATE_COLOURS)]}">■</span> {escaped(name)}'
        for i, name in enumerate(state_names)
    )
    return f"Its two colours tell where its ends are: {names}."


def path_at(branch: Branch, step: float) -> int | None:
    """Return the shot of the path on which the chain stood at a step; None before its first one."""
    hit = np.flatnonzero(branch.accepted & (branch.top <= step) & (step < branch.bottom))
    return int(branch.shots[hit[0]]) if len(hit) else None


def draw_tree(branch: Branch, *, rejected: bool, n_states: int = 2) -> hv.Overlay:
    """Return one bar for each path, as high as the chain stayed on it, shooting points on the frames they came from.

    Its two sides have the colours of the states they lead to.
    """
    time = hv.Dimension("time along the branch", unit="ps")
    step = hv.Dimension("step of the chain")
    late, later = hv.Dimension("later time", unit="ps"), hv.Dimension("later step")
    taken = branch.accepted
    top, bottom = branch.top[taken] + _GAP, branch.bottom[taken] - _GAP
    sides = ((branch.begin, branch.shared), (branch.shared, branch.end))
    known = (branch.shots[taken], (branch.end - branch.begin)[taken])
    bars = []
    for side, (left, right) in enumerate(sides):
        columns: list[Any] = [left[taken], top, right[taken], bottom, *known]
        vdims, colour = ["shot", "transition_time"], STATE_COLOURS[side]
        if n_states > 2:
            columns, colour = _coloured(columns, branch.ends[taken, side], n_states), "look"
            vdims.append(colour)
        bars.append(
            hv.Rectangles(tuple(columns), kdims=[time, step, late, later], vdims=vdims).opts(
                color=colour, alpha=0.75, line_width=0, tools=["hover"], hover_tooltips=_TIPS
            )
        )
    missed = ~taken if rejected else np.zeros(len(taken), dtype=bool)
    middle = branch.top[missed] + 0.5
    lines = hv.Segments((branch.begin[missed], middle, branch.end[missed], middle), kdims=[time, step, late, later])
    points = hv.Scatter((branch.shared[taken], branch.top[taken] + _GAP), time, step)
    return hv.Overlay(
        [
            *bars,
            lines.opts(color=GREY, line_width=1, alpha=0.8),
            points.opts(color="#ffffff", line_color="#1b1f24", size=4.5, line_width=0.8),
        ]
    ).opts(show_legend=False)


def _coloured(columns: Sequence[NDArray[Any]], states: NDArray[np.int8], n_states: int) -> list[NDArray[Any]]:
    """Return the columns of bars with the colours of their states, and a bar of every colour that is nowhere.

    HoloViews takes a column that holds one value for that value, for ever.
    """
    numbers = [np.append(column.astype(float), np.full(n_states, np.nan)) for column in columns]
    each = [STATE_COLOURS[state % len(STATE_COLOURS)] for state in (*states.tolist(), *range(n_states))]
    return [*numbers, np.array(each, dtype=object)]


def tree_query(chain: int, *, rejected: bool) -> Query:
    """Return the query of the newest trials of a chain and their drawing."""

    def compute(feed: Feed, snapshot: RunSnapshot) -> tuple[Branch, Drawing]:
        del feed
        branch = newest_branch(snapshot, chain)
        return branch, Drawing(draw_tree(branch, rejected=rejected, n_states=len(snapshot.state_names)))

    return Query(key=("paths", "tree", chain, rejected), compute=compute, depends=partial(_growth, chain=chain))


def _growth(snapshot: RunSnapshot, chain: int) -> tuple[int, int, str]:
    """Return what changes with every path of a chain and, less often, with the trials between."""
    own = snapshot.shots["chain"] == chain
    n_paths = int(np.count_nonzero(snapshot.shots["accepted"] & own))
    state = snapshot.status.state.value
    n_steps = int(np.count_nonzero(own))
    return n_paths, n_steps // _STEPS_AT_ONCE if state == "running" else n_steps, state


class Tree:
    """The path tree of one chain at a time; a tap chooses a path.

    Parameters
    ----------
    scope : of the run and the document
    choice : the path that is looked at
    """

    def __init__(self, scope: Scope, choice: Choice) -> None:
        self._scope, self._choice = scope, choice
        n_chains = scope.feed.snapshot.config.sampling.chains
        self._chain = select("chain", list(range(n_chains)), self._chosen_chain(), width=80)
        self._rejected = checkbox("rejected trials", value=False, margin=(22, 6, 4, 6))
        self._outline = ColumnDataSource(data={name: [] for name in ("left", "right", "top", "bottom")})
        self._chart = Chart(height=330, ready=self._mark)
        self._query: Query | None = None
        self._branch: Branch | None = None
        for widget in (self._chain, self._rejected):
            widget.param.watch(self._look, "value")
        choice.param.watch(self._follow_choice, "shot")
        self._look()

    def __panel__(self) -> pn.Column:
        """Return the card."""
        return card(
            "Path tree",
            pn.Row(self._chain, self._rejected, margin=(2, 0)),
            self._chart.pane,
            note="A bar is an accepted path, as high as its chain stayed on it; the dot is the frame it was shot from. "
            f"{_sides(self._scope.feed.snapshot.state_names)} Tap a bar.",
            margin=0,
        )

    def _look(self, *_: Any) -> None:
        chain, rejected = self._chain.value, self._rejected.value
        query = tree_query(chain, rejected=rejected)
        self._scope.add(query, self._show, replacing=self._query)
        self._query = query

    def _show(self, result: Any) -> None:
        if isinstance(result, Failure):
            self._chart.apply(result)
            return
        self._branch, drawing = result
        self._chart.apply(drawing)
        self._show_outline()

    def _follow_choice(self, *_: Any) -> None:
        """Turn to the chain of the chosen path."""
        self._chain.value = self._chosen_chain()
        self._show_outline()

    def _chosen_chain(self) -> int:
        chains = self._scope.feed.snapshot.shots["chain"]
        return int(chains[self._choice.shot]) if 0 <= self._choice.shot < len(chains) else 0

    def _show_outline(self) -> None:
        branch = self._branch
        if branch is None:
            return
        at = branch.shots == self._choice.shot
        self._outline.data = {
            "left": branch.begin[at],
            "right": branch.end[at],
            "top": branch.top[at],
            "bottom": branch.bottom[at],
        }

    def _mark(self, figure: Plot) -> None:
        figure.y_range.flipped = True
        figure.quad(source=self._outline, fill_alpha=0, line_color=CHOSEN, line_width=2.5, level="annotation")
        figure.on_event(Tap, self._tap)

    def _tap(self, event: Tap) -> None:
        if event.y is None or self._branch is None:
            return
        shot = path_at(self._branch, event.y)
        if shot is not None:
            self._choice.choose(shot)
