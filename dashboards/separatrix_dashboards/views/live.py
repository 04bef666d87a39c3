"""A run as it learns: what it was expected to give, what it gave, and how well the model knows."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh  # elements know their options once it is loaded
import numpy as np
import panel as pn
from numpy.typing import NDArray
from scipy import special

from separatrix.config import RunConfig
from separatrix.estimates import (
    cumulative_transitions,
    expected_transitions,
    perfect_yield,
    thinned,
    transition_yield,
    window_yield,
)
from separatrix.records import NO_STATE, Reason
from separatrix.rows import are_transitions
from separatrix_dashboards.charts import Element
from separatrix_dashboards.feeds import Failure, Feed, Hub, Query, RunSnapshot
from separatrix_dashboards.theme import BLUE, GREEN, GREY, ORANGE, PURPLE, STATE_COLOURS, html
from separatrix_dashboards.views.base import View, card
from separatrix_dashboards.words import ago, escaped, with_error

WINDOW = 100
"""Shots over which the running yield is taken."""

NEWEST = 30
"""Shots in the table."""

_FIRST = 10
"""Shots after which a yield is shown."""

_TRAININGS = 250
"""Models of which the learning curves show losses and rates, about; all of them up to this many."""

_LOOK_AGAIN = 5.0
"""Seconds after which times in words are written anew."""

SHOTS = hv.Dimension("shots")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """A run of standard path sampling on the same system, to hold another against."""

    name: str
    is_transition: NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class _Lessons:
    """What trainings reported, without the arrays: n_shots, training and held-out loss, learning rate, efficiency."""

    rows: dict[int, tuple[float, float, float, float, float]] = field(default_factory=dict)


class LiveView(View):
    """Counts against expectation, the yield against its limits, how the model learned, and the newest shots."""

    id = "live"
    title = "Live"

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        start, table = html(""), html("", styles={"overflow": "auto", "max-height": "372px"}, min_height=372)

        def write() -> None:
            if self.scope.active:
                start.object, table.object = start_html(self.feed.snapshot), shots_html(self.feed.snapshot)

        self.scope.follow(lambda snapshot: write())
        _again(write)
        cards = [
            self._transitions(),
            self._yield(),
            _later(self._losses),
            _later(self._rates),
            _later(self._calibration),
            card("Newest shots", table, **CELL),
        ]
        return pn.Column(start, grid(*cards), sizing_mode="stretch_width", margin=0)

    def _hub(self) -> Hub:
        return self.scope._watch.hub  # noqa: SLF001

    def _transitions(self) -> pn.Column:
        chart = self.scope.chart(
            "live.transitions", with_reference(draw_transitions, self._hub()), _by_shots, height=330, ready=from_zero
        )
        note = html("")
        query = Query(key="live.note", compute=with_reference(transitions_note, self._hub()), depends=_by_shots)
        self.scope.add(query, partial(_write, note))
        return card("Transitions", note, chart.pane, **CELL)

    def _yield(self) -> pn.Column:
        chart = self.scope.chart(
            "live.yield", with_reference(draw_yield, self._hub()), _by_shots, height=330, ready=from_zero
        )
        note = f"Transitions per shot over the last {WINDOW} shots, with the 95 % interval of the count."
        return card("Running yield", chart.pane, note=note, **CELL)

    def _losses(self) -> pn.Column:
        chart = self.scope.chart("live.losses", draw_losses, _by_model, slow=True, height=300)
        note = "Per shot, on shooting points. Held-out shots are those that the networks judging them never trained on."
        return card("Loss", chart.pane, note=note, **FILLING)

    def _rates(self) -> pn.Column:
        options: dict[str, Any] = {"slow": True, "height": 150, "ready": _aligned}
        rate = self.scope.chart("live.rate", draw_rate, _by_model, **options)
        efficiency = self.scope.chart("live.efficiency", draw_efficiency, _by_model, fixed=("y",), **options)
        note = (
            "A model that keeps its promises moves little: the factor (1 - found / expected)², at most 1, scales the "
            "learning rate of each training."
        )
        return card("Learning rate and efficiency factor", rate.pane, efficiency.pane, note=note, **FILLING)

    def _calibration(self) -> pn.Column:
        chart = self.scope.chart(
            "live.calibration", draw_calibration, _by_model, slow=True, height=330, fixed=("x", "y")
        )
        words = html("")
        query = Query(key="live.calibrated", compute=calibration_words, depends=_by_model, slow=True)
        self.scope.add(query, partial(_write, words))
        return card("Calibration on held-out shots", words, chart.pane, **FILLING)


CELL: dict[str, Any] = {"styles": {"flex": "1 1 520px", "align-self": "stretch", "height": "auto"}, "margin": 0}
"""Options of a card in a `grid`: two in a row at 1280 px, one on a small screen."""


FILLING: dict[str, Any] = {"styles": {"height": "auto", "flex": "1 1 auto"}, "margin": 0}
"""Options of a card that fills such a place."""


def _later(make: Callable[[], pn.Column]) -> pn.Column:
    """Return the place of a card that is made once the page is in sight: nobody waits for all figures to see one."""
    place = pn.Column(min_height=380, **{"sizing_mode": "stretch_width", **CELL})
    pn.state.onload(lambda: place.append(make()))
    return place


def grid(*cards: pn.viewable.Viewable) -> pn.FlexBox:
    """Return cards side by side as far as there is room."""
    return pn.FlexBox(*cards, gap="12px", align_items="stretch", sizing_mode="stretch_width", margin=0)


def from_zero(figure: Any) -> None:
    """Let the vertical axis begin at zero."""
    figure.y_range.start = 0


def _aligned(figure: Any) -> None:
    """Let both axes begin at zero, and figures that stand on top of each other begin at the same place."""
    figure.x_range.start = figure.y_range.start = 0
    figure.min_border_left = 84


def _by_shots(snapshot: RunSnapshot) -> int:
    return snapshot.n_shots


def _by_model(snapshot: RunSnapshot) -> int:
    return snapshot.model_version


def _write(pane: pn.pane.HTML, result: str | Failure) -> None:
    text = f'<div class="sx-note">{escaped(result.message)}</div>' if isinstance(result, Failure) else result
    if pane.object != text:
        pane.object = text


def _again(write: Callable[[], None]) -> None:
    """Call a function now and then in a served page; a notebook has no clock of its own."""
    document = pn.state.curdoc
    if document is not None and document.session_context is not None:
        pn.state.add_periodic_callback(write, period=int(_LOOK_AGAIN * 1000))


# -- the reference -----------------------------------------------------------------------------------------------------


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


def with_reference(
    compute: Callable[[RunSnapshot, Reference | None], Any], hub: Hub
) -> Callable[[Feed, RunSnapshot], Any]:
    """Return ``compute`` as a query takes it, the reference found for it."""
    return lambda feed, snapshot: compute(snapshot, find_reference(hub, snapshot))


# -- shots -------------------------------------------------------------------------------------------------------------


def start_html(snapshot: RunSnapshot) -> str:
    """Return what a run without shots is waiting for; nothing for one with shots."""
    if snapshot.n_shots:
        return ""
    status = snapshot.status
    words = {
        "new": "No shots yet. Start the run, and everything on this page fills while it goes on.",
        "seeding": "Looking for a first transition path; the first shots follow at once.",
        "running": "The first shots are under way.",
        "failed": "The run failed before its first shot; its log tells more.",
    }.get(status.state.value, "No shots yet.")
    message = f"<br>{escaped(status.message)}" if status.message else ""
    return f'<div class="sx-empty" style="margin-bottom:12px">{words}{message}</div>'


def transitions_note(snapshot: RunSnapshot, reference: Reference | None) -> str:
    """Return what the lines mean, and how to get the one that is missing."""
    parts = ["Expected: the probabilities predicted before each shot, summed, ± one standard deviation."]
    if ideal_yield(snapshot.config) is not None:
        parts.append(
            "Ideal: a perfect committor whose two half-trajectories are independent; with inertia a run may lie above."
        )
    if snapshot.config.sampling.selector == "uniform":
        parts.append("This run is standard path sampling itself.")
    elif reference is None:
        name = shlex.quote(snapshot.name)
        command = (
            f"separatrix run {shlex.quote(snapshot.name + '-uniform')} --config {name}/config.toml "
            "--set sampling.selector=uniform"
        )
        parts.append(
            f"Uniform reference: none yet; make one in the folder of the runs: <code>{escaped(command)}</code>"
        )
    else:
        parts.append(f"Uniform: standard path sampling, run <i>{escaped(reference.name)}</i>.")
    return f'<div class="sx-note">{" ".join(parts)}</div>'


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
    band = window_yield(are_transitions(snapshot.shots["ends"]), WINDOW)
    n, value, low, high = rows + 1, band.value[rows], band.lower[rows], band.upper[rows]
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
    return overlay(parts, xlabel="shots", ylabel="transitions per shot", legend="top_right")


def shots_html(snapshot: RunSnapshot, now: float | None = None) -> str:
    """Return the newest shots as a table."""
    if not snapshot.n_shots:
        return '<div class="sx-note">None yet.</div>'
    two = len(snapshot.state_names) == 2
    predicted = "p<sub>B</sub>" if two else "p<sub>trans</sub>"
    head = ("shot", "chain, step", predicted, "result", "verdict", "frames, time", "")
    right = (True, True, True, False, False, True, True)
    cells = "".join(f"<th{_right(r)}>{name}</th>" for name, r in zip(head, right, strict=True))
    rows = [f'<table class="sx-table" style="font-size:12.5px"><tr>{cells}</tr>']
    for shot in range(snapshot.n_shots - 1, max(-1, snapshot.n_shots - 1 - NEWEST), -1):
        values = _shot_words(snapshot, shot, two, now)
        cells = "".join(f"<td{_right(r)}>{value}</td>" for value, r in zip(values, right, strict=True))
        rows.append(f"<tr>{cells}</tr>")
    return "".join([*rows, "</table>"])


_VERDICTS: dict[Reason, str] = {
    Reason.ACCEPTED: "<b>accepted</b>",
    Reason.FIRST_TRANSITION: "<b>accepted</b>, first transition",
} | {
    reason: f'<span style="opacity:0.72">rejected, {reason.label}</span>'
    for reason in Reason
    if reason not in (Reason.ACCEPTED, Reason.FIRST_TRANSITION)
}


def _right(right: bool) -> str:
    return ' class="sx-right"' if right else ""


def _shot_words(snapshot: RunSnapshot, shot: int, two: bool, now: float | None) -> tuple[str, ...]:
    row = {name: column[shot] for name, column in snapshot.shots.items()}
    reason = Reason(int(row["reason"]))
    config = snapshot.config
    picoseconds = (int(row["n_frames"]) - 1) * config.sampling.stride * config.system.timestep / 1000
    predicted = float(special.expit(row["q"])) if two else float(row["p_transition"])
    if reason is Reason.FAILURE:
        result, length = "no result", "-"
    else:
        result = "-".join(_end(snapshot.state_names, int(end)) for end in row["ends"])
        length = f"{int(row['n_frames']):,}, {picoseconds:.3g} ps"
    return (
        f"{shot:,}",
        f"{int(row['chain'])}, {int(row['step']):,}",
        f"{predicted:.2f}",
        result,
        _VERDICTS[reason],
        length,
        _briefly(ago(float(row["time"]), now)),
    )


def _briefly(words: str) -> str:
    """Return a time in words for a narrow column.

    >>> _briefly("16 minutes ago"), _briefly("1 second ago")
    ('16 min ago', '1 s ago')
    """
    for long, short in ((" minutes", " min"), (" minute", " min"), (" seconds", " s"), (" second", " s")):
        words = words.replace(long, short)
    return words


def _end(names: tuple[str, ...], state: int) -> str:
    if state == NO_STATE:
        return "no end"
    colour = STATE_COLOURS[state % len(STATE_COLOURS)]
    dot = f"display:inline-block;width:8px;height:8px;border-radius:50%;background:{colour};margin-right:3px"
    return f'<span style="{dot}"></span>{escaped(names[state])}'


# -- the model ---------------------------------------------------------------------------------------------------------


def _lessons(feed: Feed, snapshot: RunSnapshot) -> NDArray[np.float64]:
    """Return what trainings gave, (n, 5), oldest first; only new ones are read, and of very many every n-th."""
    known = feed.cached("live.lessons", _Lessons).rows
    versions = sorted(snapshot.reports)
    chosen = [versions[i] for i in thinned(len(versions), _TRAININGS)]
    for version in chosen:
        if version not in known:
            with feed.lock:
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
    """Return observed against predicted p_B of held-out shots, with exact 95 % intervals and the diagonal."""
    names = ("predicted", "observed", "lower", "upper")
    fit = newest_calibration(snapshot) or {name: [] for name in names} | {"n_ends": np.empty((0, 2))}
    predicted, observed, lower, upper = (np.array(fit[name], dtype=float) for name in names)
    n = np.asarray(fit["n_ends"], dtype=float).reshape(-1, 2).sum(axis=1)
    there = np.isfinite(predicted) & np.isfinite(observed)
    predicted, observed, lower, upper, n = (each[there] for each in (predicted, observed, lower, upper, n))
    x, y = hv.Dimension("predicted", label="predicted p_B"), hv.Dimension("observed", label="observed p_B")
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
    parts = [
        hv.Curve(([0.0, 1.0], [0.0, 1.0]), x, y).opts(color=GREY, line_dash="dashed", line_width=1.5),
        bars.opts(color=BLUE, line_width=1.5, upper_head=None, lower_head=None),
        hv.Scatter(columns, x, [y, "lower", "upper", "n"]).opts(color=BLUE, size=8, **hover),
    ]
    window = (-0.03, 1.03)
    return overlay(parts, xlabel="predicted p_B", ylabel="observed p_B").opts(xlim=window, ylim=window)


def calibration_words(feed: Feed, snapshot: RunSnapshot) -> str:  # noqa: ARG001 - as queries are called
    """Return slope and intercept of the newest model, in words."""
    fit = newest_calibration(snapshot)
    if fit is None:
        return '<div class="sx-note">No model yet: the first is trained after ten shots.</div>'
    about = f"{fit['n_shots']:,} held-out shots, model {snapshot.model_version}; bars: exact 95 % intervals."
    if fit["slope"] is None:
        return f'<div class="sx-note">Slope not determined yet. {about}</div>'
    slope = with_error(fit["slope"], fit["slope_error"], 2)
    intercept = with_error(fit["intercept"], fit["intercept_error"], 2)
    return (
        f'<div class="sx-note">Slope <b>{slope}</b> (1 is right, below 1 over-confident), '
        f"intercept <b>{intercept}</b> (0 is right). {about}</div>"
    )


def overlay(parts: list[Any], *, xlabel: str = "", ylabel: str = "", legend: str = "top_left") -> hv.Overlay:
    """Return elements in one figure in the style of this package."""
    return hv.Overlay(parts).opts(
        xlabel=xlabel,
        ylabel=ylabel,
        legend_position=legend,
        legend_opts={"background_fill_alpha": 0.6, "border_line_alpha": 0},
        fontsize={"legend": "12px"},
        show_grid=True,
        default_tools=["pan", "wheel_zoom", "box_zoom", "reset"],
        active_tools=[],
        framewise=True,
    )
