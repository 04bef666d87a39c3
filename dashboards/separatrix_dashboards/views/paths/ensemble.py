"""The ensemble of transition paths: where they run and how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import holoviews as hv
import numpy as np
import panel as pn
from bokeh.models import ColorBar, Image, LinearColorMapper, Plot, PrintfTickFormatter
from contourpy import contour_generator
from numpy.typing import NDArray

from separatrix.estimates import (
    bin_edges,
    innermost,
    path_density,
    running_transition_time,
    state_masks,
    thinned,
    transition_times,
)
from separatrix_dashboards.charts import Chart, drawn
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Query
from separatrix_dashboards.theme import BLUE, GREY, PURPLE, STATE_COLOURS, html
from separatrix_dashboards.views.base import Scope, card
from separatrix_dashboards.views.paths.choice import AcceptedPaths, counted, frame_time, multiplicities, pace
from separatrix_dashboards.views.paths.marks import Marks
from separatrix_dashboards.widgets import select
from separatrix_dashboards.words import with_error

_HISTOGRAM = "(histogram)"
"""What the second axis of a density says when it shows how dense the first one is."""

_MESH = 241
_FEWEST_BINS, _MOST_BINS = 24, 72
_CURVE_POINTS = 500

RAMP: Final = tuple(f"{PURPLE}{alpha:02x}" for alpha in range(24, 256, 11))
"""Densities: from clear to full, on light ground as on dark."""


class Density:
    """The density of transition paths, with the chosen one drawn over it.

    Parameters
    ----------
    scope : of the run and the document
    marks : of the chosen path
    """

    def __init__(self, scope: Scope, marks: Marks) -> None:
        self._scope, self._marks = scope, marks
        names = scope.feed.snapshot.cv_names
        self._x = select("across", names, names[0], width=130)
        self._y = select("up", [*names, _HISTOGRAM], _second(names), width=130)
        self._place = pn.Column(sizing_mode="stretch_width", margin=0)
        self._query: Query | None = None
        for widget in (self._x, self._y):
            widget.param.watch(self._choose_axes, "value")
        self._note, self._counted, self._unit = html(""), "", ""
        self._choose_axes()

    def __panel__(self) -> pn.Column:
        """Return the card."""
        return card(
            "Transition-path density", pn.Row(self._x, self._y, margin=(2, 0)), self._place, self._note, margin=0
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The collective variables shown."""
        return (self._x.value,) if self._y.value in (_HISTOGRAM, self._x.value) else (self._x.value, self._y.value)

    def _choose_axes(self, *_: Any) -> None:
        axes = self.axes
        periodic = self._scope.feed.reader.observables.columns.periodic
        places = [self._scope.feed.snapshot.cv_names.index(name) for name in axes]
        fixed = tuple(axis for axis, place in zip("xy", places, strict=False) if periodic[place])
        chart = Chart(fixed=fixed, height=320, ready=self._mark)
        query = drawn(
            ("paths", "density", axes), lambda feed, snapshot: draw_density(feed, snapshot, axes), pace, slow=True
        )
        # Of a map alone, said in words: Bokeh writes the title of a bar of colours upright, and into the map.
        self._unit = _inverse([self._scope.feed.snapshot.cv_units[place] for place in places]) if len(axes) == 2 else ""
        self._say()
        self._marks.look_along(places, [periodic[place] for place in places])
        self._place[:] = [chart.pane]
        self._scope.add(query, chart.apply, replacing=self._query)
        self._query = query

    def _mark(self, figure: Plot) -> None:
        # Up to the greatest density of the moment. HoloViews sets the limits of its own mapper again with new data.
        mapper = LinearColorMapper(palette=list(RAMP), low=0, high=None, nan_color="rgba(0, 0, 0, 0)")
        for image in figure.select({"type": Image}):
            image.color_mapper = mapper
        for bar in figure.select({"type": ColorBar}):
            bar.update(color_mapper=mapper, formatter=PrintfTickFormatter(format="%.2g"), title=None)
        self._marks.draw_course(figure)

    def count(self, paths: AcceptedPaths) -> None:
        """Say how many paths the density rests on."""
        self._counted = counted_words(paths)
        self._say()

    def _say(self) -> None:
        colour = f" Colour: path density, {self._unit}." if self._unit and self._counted else ""
        self._note.object = f'<div class="sx-note">{self._counted}{colour}</div>'


class Times:
    """How long transition paths take, and how that number came about along the run."""

    def __init__(self, scope: Scope) -> None:
        self._mean = html("")
        self._histogram = scope.chart(("paths", "times"), draw_times, pace, slow=True, height=230)
        self._running = scope.chart(("paths", "running mean"), draw_running_mean, pace, slow=True, height=230)
        scope.add(
            Query(key=("paths", "mean time"), compute=lambda feed, shot: time_words(shot), depends=pace), self._say
        )

    def cards(self) -> tuple[pn.Column, pn.Column]:
        """Return the two cards."""
        along = card(
            "Mean transition time along the run",
            self._running.pane,
            note="Over all trials so far, each adding the path its chain then stands on; band: one standard error.",
            margin=0,
        )
        return card("Transition times", self._mean, self._histogram.pane, margin=0), along

    def _say(self, words: Any) -> None:
        self._mean.object = words if isinstance(words, str) else ""


def draw_density(feed: Feed, snapshot: RunSnapshot, axes: Sequence[str]) -> hv.Overlay:
    """Return the density of the frames of transition paths over one or two collective variables, with the states.

    Every frame counts as often as its path: once, and once more for every rejected trial after it.
    """
    places = [snapshot.cv_names.index(name) for name in axes]
    periodic = [feed.reader.observables.columns.periodic[place] for place in places]
    weights = multiplicities(feed, snapshot)[snapshot.frames["shot"]]
    used = weights > 0
    values = snapshot.frames["cvs"][used][:, places]
    n_bins = int(np.clip(12 * round(len(values) ** 0.5 / 24), _FEWEST_BINS, _MOST_BINS))
    edges = [bin_edges(column, n_bins, periodic=around) for column, around in zip(values.T, periodic, strict=True)]
    density = path_density(values, weights[used], edges)
    units = [snapshot.cv_units[place] for place in places]
    dimensions = [hv.Dimension(name, unit=unit or None) for name, unit in zip(axes, units, strict=True)]
    height = hv.Dimension("path density", unit=_inverse(units))
    angles = {
        f"{axis}{what}": value
        for axis, around in zip("xy", periodic, strict=False)
        if around
        for what, value in (("lim", (-180.0, 180.0)), ("ticks", list(range(-180, 181, 60))))
    }
    if len(axes) == 1:
        picture = hv.Histogram((edges[0], density.values), kdims=dimensions, vdims=[height]).opts(
            color=PURPLE, line_width=0
        )
        top = float(density.values.max(initial=0.0)) or 1.0
        spans, labels = outlined_spans(snapshot, axes[0], edges[0], (dimensions[0], height), top)
        parts = [*spans, picture, labels]
    else:
        bounds = (edges[0][0], edges[1][0], edges[0][-1], edges[1][-1])
        seen = np.where(density.values > 0, density.values, np.nan)
        if not density.n_frames:
            seen[0, 0] = 0.0  # HoloViews looks for the range of numbers
        picture = hv.Image(seen[::-1], bounds=bounds, kdims=dimensions, vdims=[height]).opts(
            cmap=list(RAMP), colorbar=True, clim=(0, 1)
        )
        ranges = [_widened(edge, around) for edge, around in zip(edges, periodic, strict=True)]
        parts = [picture, *outlined_states(snapshot, axes, ranges, dimensions, periodic)]
    return hv.Overlay(parts).opts(**angles, show_legend=False)


def outlined_states(
    snapshot: RunSnapshot,
    axes: Sequence[str],
    ranges: Sequence[tuple[float, float]],
    dimensions: Sequence[hv.Dimension],
    periodic: Sequence[bool] = (False, False),
) -> list[hv.Element]:
    """Return the borders of the states over two collective variables and their names; nothing of others' states."""
    x, y = (np.linspace(low, high, _MESH) for low, high in ranges)
    masks = state_masks(snapshot.config.states, snapshot.cv_names, dict(zip(axes, (x, y), strict=True)))
    parts: list[hv.Element] = []
    names: list[tuple[float, float, str]] = []
    for state, colour in zip(snapshot.state_names, _colours(snapshot), strict=True):
        mask = masks.get(state)
        lines = [] if mask is None else contour_generator(x, y, mask.astype(float)).lines(0.5)
        parts.append(hv.Path(list(lines), kdims=list(dimensions)).opts(color=colour, line_width=2))
        middle = None if mask is None else innermost(mask, periodic=tuple(reversed(periodic)))
        if middle is not None:
            names.append((x[middle[1]], y[middle[0]], state))
    return [*parts, _labels(names or [(float(x.mean()), float(y.mean()), "")], dimensions)]


def outlined_spans(
    snapshot: RunSnapshot,
    axis: str,
    edges: NDArray[np.float64],
    dimensions: tuple[hv.Dimension, hv.Dimension],
    top: float,
) -> tuple[list[hv.Area], hv.Labels]:
    """Return the spans of the states over one collective variable, as high as ``top``, and their names."""
    x = np.linspace(edges[0], edges[-1], 4 * _MESH)
    masks = state_masks(snapshot.config.states, snapshot.cv_names, {axis: x})
    spans = []
    for state, colour in zip(snapshot.state_names, _colours(snapshot), strict=True):
        height = top * masks[state] if state in masks else np.zeros(len(x))
        spans.append(hv.Area((x, height), dimensions[0], f"in {state}").opts(color=colour, alpha=0.18, line_width=0))
    middles = [(float(x[mask].mean()), 0.95 * top, state) for state, mask in masks.items() if mask.any()]
    return spans, _labels(middles or [(float(x.mean()), 0.95 * top, "")], dimensions)


def _labels(names: list[tuple[float, float, str]], dimensions: Sequence[hv.Dimension]) -> hv.Labels:
    """Return names at their places, one at least: HoloViews cannot draw labels of nothing."""
    return hv.Labels(names, kdims=list(dimensions), vdims=["state"]).opts(
        text_color=GREY, text_font_size="11pt", text_font_style="bold"
    )


def draw_times(feed: Feed, snapshot: RunSnapshot) -> hv.Overlay:
    """Return the distribution of the transition times, with their mean and its standard error."""
    del feed
    times = transition_times(**counted(snapshot), frame_time=frame_time(snapshot))
    duration = hv.Dimension("transition time", unit="ps")
    density = hv.Dimension("probability density", unit="1/ps")
    edges = times.edges if len(times.edges) else np.array([0.0, 1.0])
    top = float(times.density.max(initial=0.0)) * 1.05
    mean, error = np.nan_to_num([times.mean.value, times.mean.error])
    return hv.Overlay(
        [
            hv.Histogram(
                (edges, times.density if len(times.density) else np.zeros(1)), kdims=[duration], vdims=[density]
            ).opts(color=PURPLE, alpha=0.55, line_width=0),
            hv.Area(([mean - error, mean + error], [top, top]), duration, density).opts(
                color=BLUE, alpha=0.3, line_width=0
            ),
            hv.Curve(([mean, mean], [0.0, top]), duration, density).opts(color=BLUE, line_width=2),
        ]
    ).opts(show_legend=False)


def draw_running_mean(feed: Feed, snapshot: RunSnapshot) -> hv.Overlay:
    """Return the mean transition time as it stood after every trial, with its standard error."""
    del feed
    series = running_transition_time(**counted(snapshot), frame_time=frame_time(snapshot))
    known = np.flatnonzero(np.isfinite(series.value))
    rows = known[thinned(len(known), _CURVE_POINTS)]
    step = hv.Dimension("Monte Carlo steps", label="Monte Carlo steps of all chains")
    mean = hv.Dimension("mean transition time", unit="ps")
    value, error = series.value[rows], np.nan_to_num(series.error[rows])
    return hv.Overlay(
        [
            hv.Area((rows + 1, value - error, value + error), step, [mean, "upper"]).opts(
                color=BLUE, alpha=0.2, line_width=0
            ),
            hv.Curve((rows + 1, value), step, mean).opts(color=BLUE, line_width=2),
        ]
    ).opts(show_legend=False)


def counted_words(paths: AcceptedPaths) -> str:
    """Return how many paths the pictures of the ensemble rest on."""
    n_paths, n_steps = int((paths.counts > 0).sum()), int(paths.counts.sum())
    if not n_paths:
        return (
            "Nothing counts yet: every chain still descends from its seed path, which is no equilibrium path (burn-in)."
        )
    left_out = f" {paths.n_burn_in:,} trials of burn-in are left out." if paths.n_burn_in else ""
    return (
        f"{n_paths:,} accepted paths over {n_steps:,} steps; a rejected trial counts the old path once more.{left_out}"
    )


def time_words(snapshot: RunSnapshot) -> str:
    """Return the mean transition time with its error, as HTML."""
    times = transition_times(**counted(snapshot), frame_time=frame_time(snapshot))
    if not len(times.times):
        return '<div class="sx-note">No path counts yet.</div>'
    n_steps = int(times.weights.sum())
    return (
        f'<div class="sx-number">{with_error(times.mean.value, times.mean.error)} ps</div>'
        f'<div class="sx-note">mean and standard error of {len(times.times):,} paths over {n_steps:,} steps; '
        "from the last frame in one state to the first in the other</div>"
    )


def _second(names: Sequence[str]) -> str:
    return names[1] if len(names) > 1 else _HISTOGRAM


def _colours(snapshot: RunSnapshot) -> list[str]:
    return [STATE_COLOURS[i % len(STATE_COLOURS)] for i in range(len(snapshot.state_names))]


def _inverse(units: Sequence[str]) -> str:
    known = [unit for unit in units if unit]
    if len(known) == 2 and known[0] == known[1]:
        return f"1/{known[0]}²"
    return f"1/({'·'.join(known)})" if len(known) > 1 else f"1/{known[0]}" if known else "1"


def _widened(edges: NDArray[np.float64], around: bool) -> tuple[float, float]:
    margin = 0.0 if around else 0.2 * (edges[-1] - edges[0])
    return float(edges[0] - margin), float(edges[-1] + margin)
