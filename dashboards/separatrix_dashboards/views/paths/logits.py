"""The committor along the chosen path."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import holoviews as hv
import numpy as np
import panel as pn
from bokeh.events import Tap
from bokeh.models import Plot
from numpy.typing import NDArray

from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.theme import BLUE, GREY, STATE_COLOURS, html
from separatrix_dashboards.views.base import card
from separatrix_dashboards.views.paths.choice import ChosenPath
from separatrix_dashboards.views.paths.marks import Marks
from separatrix_dashboards.words import escaped


class Logits:
    """q along the path; a tap anywhere at a time goes to the frame of that time.

    Parameters
    ----------
    marks : of the chosen path
    jump : goes to a frame
    state_names : in order
    """

    def __init__(self, marks: Marks, jump: Callable[[int], None], state_names: Sequence[str]) -> None:
        self._marks, self._jump, self._state_names = marks, jump, state_names
        self._chart = Chart(height=390, ready=self._mark)
        self._note = html("")
        self._path: ChosenPath | None = None

    def __panel__(self) -> pn.Column:
        """Return the card."""
        return card("Committor along the path", self._note, self._chart.pane, margin=0)

    def show(self, path: ChosenPath, drawing: Drawing, members: int) -> None:
        """Show a path."""
        self._path = path
        self._chart.apply(drawing)
        self._note.object = f'<div class="sx-note">{logit_words(path, members, self._state_names)}</div>'

    def _mark(self, figure: Plot) -> None:
        self._marks.draw_time(figure)
        figure.on_event(Tap, self._tap)

    def _tap(self, event: Tap) -> None:
        if event.x is not None and self._path is not None:
            self._jump(int(np.abs(self._path.times - event.x).argmin()))


def draw_logits(path: ChosenPath) -> hv.Overlay:
    """Return q along a path with the spread of the ensemble, and the separatrix q = 0."""
    if path.p is not None:
        return _draw_probabilities(path, path.p)
    time = hv.Dimension("time along the path", unit="ps")
    q = hv.Dimension("q", label="q = logit of the committor")
    ends = path.times[[0, -1]]
    return hv.Overlay(
        [
            hv.Area((path.times, path.q - path.spread, path.q + path.spread), time, [q, "upper"]).opts(
                color=BLUE, alpha=0.2, line_width=0
            ),
            hv.Curve((ends, np.zeros(2)), time, q).opts(color=GREY, line_width=1.5, line_dash="dashed"),
            hv.Curve((path.times, path.q), time, q).opts(color=BLUE, line_width=1.8),
        ]
    ).opts(show_legend=False)


def _draw_probabilities(path: ChosenPath, p: NDArray[np.float64]) -> hv.Overlay:
    """Return p of each of more than two states along a path, with the spread of the one it leads to, and one half."""
    time, y = hv.Dimension("time along the path", unit="ps"), hv.Dimension("q", label="p of each state")
    ends, colours = path.times[[0, -1]], [STATE_COLOURS[i % len(STATE_COLOURS)] for i in range(p.shape[1])]
    low, high = np.clip(path.q - path.spread, 0, 1), np.clip(path.q + path.spread, 0, 1)
    band = hv.Area((path.times, low, high), time, [y, "upper"]).opts(color=GREY, alpha=0.3, line_width=0)
    half = hv.Curve((ends, np.full(2, 0.5)), time, y).opts(color=GREY, line_width=1.5, line_dash="dashed")
    curves = [
        hv.Curve((path.times, column), time, y).opts(color=colour, line_width=1.8)
        for column, colour in zip(p.T, colours, strict=True)
    ]
    return hv.Overlay([band, half, *curves]).opts(show_legend=False, ylim=(0, 1))


def logit_words(path: ChosenPath, members: int, state_names: Sequence[str] = ()) -> str:
    """Return what the curve shows; of more than two states, which colour is which."""
    if path.p is not None:
        names = " ".join(
            f'<span style="color:{STATE_COLOURS[i % len(STATE_COLOURS)]}">●</span> {escaped(name)}'
            for i, name in enumerate(state_names)
        )
        if path.model_version == 0:
            return (
                f"{names}. The committor is not trained yet: all are alike. The first training comes after ten shots."
            )
        return (
            f"{names}, by model {path.model_version}; band: spread of its {members} members for the state it leads to. "
            "Star: the shooting point. Tap a time to see its frame."
        )
    if path.model_version == 0:
        return "The committor is not trained yet: q is 0 everywhere. The first training comes after ten shots."
    return (
        f"By model {path.model_version}; band: spread of its {members} members. Dashed: the separatrix, q = 0, where "
        "both states are equally likely. Star: the shooting point. Tap a time to see its frame."
    )
