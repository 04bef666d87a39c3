"""The figures of a run as it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh  # elements know their options once it is loaded
import numpy as np
from numpy.typing import NDArray

from separatrix.config import RunConfig
from separatrix.estimates import (
    cumulative_transitions,
    expected_transitions,
    perfect_yield,
    thinned,
    transition_yield,
    window_yield,
)
from separatrix.rows import are_transitions
from separatrix_dashboards.charts import Element
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.theme import BLUE, GREEN, GREY, ORANGE, PURPLE, STATE_COLOURS

WINDOW = 100
"""Shots over which the running yield is taken."""

_FIRST = 10
"""Shots after which a yield is shown."""

_TRAININGS = 250
"""Models of which the learning curves show losses and rates, about; all of them up to this many."""

SHOTS = hv.Dimension("shots")

LEGEND: Mapping[str, Any] = {
    "background_fill_alpha": 0.6,
    "border_line_alpha": 0,
    "label_text_font_size": "12.5px",
    # Served pages set the size of the labels themselves, relative to that of the legend.
    "stylesheets": [":host { font-size: 13px; }"],
}
"""Of every legend."""


def overlay(parts: list[Any], *, xlabel: str = "", ylabel: str = "", legend: str = "top_left") -> hv.Overlay:
    """Return elements in one figure in the style of this package."""
    return hv.Overlay(parts).opts(
        xlabel=xlabel,
        ylabel=ylabel,
        legend_position=legend,
        legend_opts=LEGEND,
        show_grid=True,
        default_tools=["pan", "wheel_zoom", "box_zoom", "reset"],
        active_tools=[],
        framewise=True,
    )


def from_zero(figure: Any) -> None:
    """Let both axes begin at zero."""
    figure.x_range.start = figure.y_range.start = 0


# -- what a run is held against --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """A run of standard path sampling on the same system, to hold another against."""

    name: str
    is_transition: NDArray[np.bool_]


def ideal_yield(config: RunConfig) -> float | None:
    """Return the transitions per shot of a perfect committor, where theory gives them."""
    sampling = config.sampling
    if sampling.selector != "lorentzian" or not sampling.density_correction or len(config.states) != 2:
        return None
    return perfect_yield(sampling.scale)


def is_reference(config: RunConfig, other: RunConfig) -> bool:
    """Return whether ``other`` is standard path sampling of the transition that ``config`` samples."""
    return (
        other.sampling.selector == "uniform"
        and other.system == config.system
        and other.collective_variables == config.collective_variables
        and other.states == config.states
    )


def find_reference(hub: Hub, snapshot: RunSnapshot) -> Reference | None:
    """Return the longest run of standard path sampling of the same transition, as it stands on the disk."""
    found: Reference | None = None
    if snapshot.config.sampling.selector == "uniform":
        return None
    for run in hub.runs():
        if not isinstance(run, RunSnapshot) or run.path == snapshot.path:
            continue
        if is_reference(snapshot.config, run.config):
            # The hub refreshes what is watched; the disk knows of what is not.
            feed = hub.feed(run.path)
            with feed.lock:
                ends = feed.reader.columns("shots")["ends"]
            if len(ends) and (found is None or len(ends) > len(found.is_transition)):
                found = Reference(name=run.name, is_transition=are_transitions(ends))
    return found


# -- shots -----------------------------------------------------------------------------------------------------------


def draw_transitions(snapshot: RunSnapshot, reference: Reference | None) -> Element:
    """Return transitions generated, expected and accepted after every shot, with the limit and the reference."""
    shots = snapshot.shots
    rows = thinned(snapshot.n_shots)
    n = np.concatenate([[0], rows + 1])
    found = _from_nothing(cumulative_transitions(are_transitions(shots["ends"])).value[rows])
    expected = expected_transitions(shots["p_transition"])
    value, error = _from_nothing(expected.value[rows]), _from_nothing(expected.error[rows])
    accepted = _from_nothing(np.cumsum(shots["accepted"])[rows])
    count = hv.Dimension("transitions")
    columns = {"shots": n, "transitions": found, "expected": value, "chance": error, "accepted": accepted}
    hover = {
        "tools": ["hover"],
        "hover_mode": "vline",
        "hover_tooltips": [
            ("shots", "@shots{0,0}"),
            ("transitions", "@transitions{0,0}"),
            ("expected", "@expected{0,0.0} ± @chance{0.0}"),
            ("accepted", "@accepted{0,0}"),
        ],
    }
    band = hv.Area((n, np.maximum(value - error, 0), value + error), SHOTS, ["expected_low", "expected_high"])
    parts = [
        band.opts(color=ORANGE, alpha=0.16, line_alpha=0),
        *_limits(snapshot, reference),
        hv.Curve((n, value), SHOTS, hv.Dimension("expected", label="transitions expected"), label="expected").opts(
            color=ORANGE, line_width=2
        ),
        hv.Curve((n, accepted), SHOTS, hv.Dimension("accepted"), label="accepted").opts(color=GREEN, line_width=2),
        hv.Curve(columns, SHOTS, [count, "expected", "chance", "accepted"], label="generated").opts(
            color=BLUE, line_width=2.5, **hover
        ),
    ]
    return overlay(parts, xlabel="shots", ylabel="transitions")


def _limits(snapshot: RunSnapshot, reference: Reference | None) -> list[hv.Curve]:
    """Return the counts to hold the run's own against, as far as its shots reach."""
    parts, n_shots = [], snapshot.n_shots
    ideal = ideal_yield(snapshot.config)
    if ideal is not None:
        line = hv.Curve(([0, n_shots], [0.0, ideal * n_shots]), SHOTS, "ideal", label="ideal, independent halves")
        parts.append(line.opts(color=GREY, line_dash="dashed", line_width=1.5))
    if reference is not None:
        data = reference.is_transition[:n_shots]
        rows = thinned(len(data))
        count = _from_nothing(np.cumsum(data)[rows])
        curve = hv.Curve((np.concatenate([[0], rows + 1]), count), SHOTS, "uniform", label="uniform selection")
        parts.append(curve.opts(color=PURPLE, line_dash="dotdash", line_width=2))
    return parts


def _from_nothing(values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([[0], values])


def draw_yield(snapshot: RunSnapshot, reference: Reference | None) -> Element:
    """Return transitions per shot in a sliding window, against the limit and the reference."""
    rows = thinned(snapshot.n_shots)
    rows = rows[rows >= min(_FIRST, snapshot.n_shots) - 1]  # of fewer shots the interval is all there is
    band = window_yield(are_transitions(snapshot.shots["ends"]), WINDOW, rows=rows)
    n, value, low, high = rows + 1, band.value, band.lower, band.upper
    ends = [min(1, snapshot.n_shots), snapshot.n_shots]
    columns = {"shots": n, "yield": value, "yield_low": low, "yield_high": high}
    parts = [hv.Area((n, low, high), SHOTS, ["low", "high"]).opts(color=BLUE, alpha=0.16, line_alpha=0)]
    ideal = ideal_yield(snapshot.config)
    if ideal is not None:
        line = hv.Curve((ends, [ideal] * 2), SHOTS, "ideal", label=f"ideal, {ideal:.3f}")
        parts.append(line.opts(color=GREY, line_dash="dashed", line_width=1.5))
    if reference is not None:
        share = transition_yield(reference.is_transition)
        line = hv.Curve((ends, [share.value] * 2), SHOTS, "uniform", label="uniform selection")
        parts.append(line.opts(color=PURPLE, line_dash="dotdash", line_width=2))
    hover = {
        "tools": ["hover"],
        "hover_mode": "vline",
        "hover_tooltips": [
            ("shots", "@shots{0,0}"),
            ("yield", "@yield{0.000}"),
            ("95 %", "@yield_low{0.000} to @yield_high{0.000}"),
        ],
    }
    curve = hv.Curve(columns, SHOTS, ["yield", "yield_low", "yield_high"], label=f"last {WINDOW} shots")
    parts.append(curve.opts(color=BLUE, line_width=2.5, **hover))
    return overlay(parts, xlabel="shots", ylabel="transitions per shot", legend="bottom_right").opts(legend_cols=3)


# -- the model -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Lessons:
    """What trainings reported, without the arrays: n_shots, training and held-out loss, learning rate, efficiency."""

    rows: dict[int, tuple[float, float, float, float, float]] = field(default_factory=dict)


def _lessons(feed: Feed, snapshot: RunSnapshot) -> NDArray[np.float64]:
    """Return what trainings gave, (n, 5), oldest first; only new ones are read, and of very many every n-th."""
    known = feed.cached("live.lessons", _Lessons).rows
    versions = sorted(snapshot.reports)
    chosen = [versions[i] for i in thinned(len(versions), _TRAININGS)]
    for version in chosen:
        if version not in known:
            report = feed.reader.model_report(version)
            names = ("n_shots", "training_loss", "validation_loss", "learning_rate", "efficiency")
            known[version] = tuple(_number(report.get(name)) for name in names)  # type: ignore[assignment]
    return np.array([known[version] for version in chosen], dtype=float).reshape(-1, 5)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def draw_losses(feed: Feed, snapshot: RunSnapshot) -> Element:
    """Return training and held-out loss of every model over the shots it was trained on, with the level of chance."""
    n, training, held_out, _, _ = _lessons(feed, snapshot).T
    chance = math.log(len(snapshot.state_names))
    ends = [0.0, max(n, default=0.0)]
    hover = {"tools": ["hover"], "hover_tooltips": [("shots", "@shots{0,0}"), ("held-out loss", "@held_out{0.000}")]}
    level = hv.Curve((ends, [chance] * 2), SHOTS, "chance", label=f"chance, {chance:.3f}")
    held = hv.Dimension("held_out", label="held-out loss")
    parts = [
        level.opts(color=GREY, line_dash="dashed", line_width=1.5),
        hv.Curve((n, training), SHOTS, "training", label="training").opts(color=ORANGE, line_width=2),
        hv.Curve((n, held_out), SHOTS, held, label="held out").opts(color=BLUE, line_width=2.5),
        hv.Scatter((n, held_out), SHOTS, held).opts(color=BLUE, size=5, **hover),
    ]
    return overlay(parts, xlabel="shots trained on", ylabel="loss per shot", legend="bottom_right")


def draw_rate(feed: Feed, snapshot: RunSnapshot) -> Element:
    """Return the learning rate of every training."""
    rows = _lessons(feed, snapshot)
    rate = hv.Dimension("rate", label="learning rate")
    return _steps(rows[:, 0], rows[:, 3], rate, ORANGE).opts(ylabel="learning rate", yformatter="%.3g")


def draw_efficiency(feed: Feed, snapshot: RunSnapshot) -> Element:
    """Return the expected-efficiency factor of every training."""
    rows = _lessons(feed, snapshot)
    return _steps(rows[:, 0], rows[:, 4], hv.Dimension("efficiency"), GREEN).opts(
        ylabel="efficiency", xlabel="shots trained on", ylim=(0, 1.05)
    )


def _steps(n: NDArray[np.float64], value: NDArray[np.float64], dimension: hv.Dimension, colour: str) -> hv.Overlay:
    hover = {"tools": ["hover"], "hover_tooltips": [("shots", "@shots{0,0}"), (dimension.label, f"@{dimension.name}")]}
    line = hv.Curve((n, value), SHOTS, dimension).opts(color=colour, line_width=2)
    return overlay([line, hv.Scatter((n, value), SHOTS, dimension).opts(color=colour, size=5, **hover)], xlabel="")


def newest_calibration(snapshot: RunSnapshot) -> Mapping[str, Any] | None:
    """Return the calibration of the newest model, None where there is none yet."""
    return snapshot.reports[snapshot.model_version].get("calibration") if snapshot.model_version else None


def draw_calibration(feed: Feed, snapshot: RunSnapshot) -> Element:  # noqa: ARG001 - as charts call it
    """Return observed against predicted p_B of held-out shots, with exact 95 % intervals and the diagonal.

    For more than two states it shows p of every one of them, in its colour.
    """
    names, states = ("predicted", "observed", "lower", "upper"), snapshot.state_names
    nothing = {name: [] for name in names} | {"n_ends": np.empty((0, 2))}
    newest = newest_calibration(snapshot) or {}
    what = "p_B" if len(states) == 2 else "p"
    x, y = (hv.Dimension(name, label=f"{name} {what}") for name in ("predicted", "observed"))
    parts = [hv.Curve(([0.0, 1.0], [0.0, 1.0]), x, y).opts(color=GREY, line_dash="dashed", line_width=1.5)]
    if len(states) == 2:
        parts += _calibrated(newest or nothing, x, y, BLUE)
    else:
        fits = newest.get("states", {})
        for index, state in enumerate(states):
            colour = STATE_COLOURS[index % len(STATE_COLOURS)]
            parts += _calibrated(fits.get(state, nothing), x, y, colour, label=state)
    window = (-0.03, 1.03)
    return overlay(parts, xlabel=x.label, ylabel=y.label).opts(xlim=window, ylim=window)


def _calibrated(
    fit: Mapping[str, Any], x: hv.Dimension, y: hv.Dimension, colour: str, *, label: str = ""
) -> list[hv.Element]:
    """Return the bars and points of one calibration."""
    names = ("predicted", "observed", "lower", "upper")
    predicted, observed, lower, upper = (np.array(fit[name], dtype=float) for name in names)
    n = np.asarray(fit["n_ends"], dtype=float).reshape(-1, 2).sum(axis=1)
    there = np.isfinite(predicted) & np.isfinite(observed)
    predicted, observed, lower, upper, n = (each[there] for each in (predicted, observed, lower, upper, n))
    columns = {"predicted": predicted, "observed": observed, "lower": lower, "upper": upper, "n": n}
    hover = {
        "tools": ["hover"],
        "hover_tooltips": [
            ("predicted", "@predicted{0.000}"),
            ("observed", "@observed{0.000}"),
            ("95 %", "@lower{0.000} to @upper{0.000}"),
            ("half-trajectories", "@n{0,0}"),
        ],
    }
    bars = hv.ErrorBars((predicted, observed, observed - lower, upper - observed), x, [y, "below", "above"])
    return [
        bars.opts(color=colour, line_width=1.5, upper_head=None, lower_head=None),
        hv.Scatter(columns, x, [y, "lower", "upper", "n"], label=label).opts(color=colour, size=8, **hover),
    ]
