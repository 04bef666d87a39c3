"""Several runs beside each other: the picture that shows what guided selection brings over the standard one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import holoviews as hv
import numpy as np
from numpy.typing import NDArray

from separatrix.config import RunConfig
from separatrix.estimates import (
    Estimate,
    Series,
    cumulative_transitions,
    mean_over_runs,
    pooled,
    quotient,
    running_transition_time,
    thinned,
    transition_times,
    transition_yield,
    transitions_per_md_step,
)
from separatrix.rows import are_transitions
from separatrix_dashboards.charts import Drawing
from separatrix_dashboards.feeds import Feed, Latest, RunSnapshot
from separatrix_dashboards.hub import Query
from separatrix_dashboards.theme import GREY, SERIES, STATE_CHIPS
from separatrix_dashboards.views.base import fact
from separatrix_dashboards.views.live_figures import ideal_yield, is_reference, newest_calibration, overlay
from separatrix_dashboards.views.paths.choice import counted, frame_time
from separatrix_dashboards.words import escaped, with_error

POINTS = 500
"""Points of a curve, about."""

_UNKNOWN = Estimate(value=math.nan, error=math.nan)
_DASHES = ("solid", "dashed", "dotted", "dotdash")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSummary:
    """What comparing needs of one run.

    Attributes
    ----------
    shots : (k,) shots made, from 0 on
    md_steps : (k,) millions of integration steps made by then
    found : (k,) transitions by then
    time_shots : (l,) shots made, from the first path on
    mean_time : (l,) ps, running mean of the transition times
    share : transitions per shot
    rate : transitions per million integration steps
    time : ps, mean transition time
    """

    name: str
    config: RunConfig
    state: str
    n_shots: int
    n_transitions: int
    n_md_steps: int
    shots: NDArray[Any]
    md_steps: NDArray[Any]
    found: Series
    time_shots: NDArray[Any]
    mean_time: Series
    share: Estimate
    rate: Estimate
    time: Estimate
    validation_loss: float
    slope: Estimate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Runs that are shown as one: a single one, or several that differ in their seed alone."""

    label: str
    runs: tuple[RunSummary, ...]

    @property
    def config(self) -> RunConfig:
        """What the runs have in common."""
        return self.runs[0].config

    def pooled(self, number: str) -> Estimate:
        """Return the mean over the runs of one of their numbers."""
        return pooled([getattr(run, number) for run in self.runs])

    def curve(self, x: str, y: str) -> tuple[NDArray[Any], Series]:
        """Return the mean over the runs of one of their curves, as far as all of them reach."""
        return mean_over_runs(
            [getattr(run, x) for run in self.runs], [getattr(run, y) for run in self.runs], points=POINTS
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Everything that is shown of several runs but the committors."""

    per_shot: Drawing
    per_md_step: Drawing
    times: Drawing
    numbers: str
    headline: str


# -- what is computed --------------------------------------------------------------------------------------------------


def comparison(feeds: Sequence[Feed], *, together: bool) -> Query:
    """Return the query of a comparison; every one of the runs is asked, and the work is done once.

    Parameters
    ----------
    together : whether runs that differ in their seed alone are shown as one
    """
    key = ("compare", tuple(str(feed.path) for feed in feeds), together)

    def compute(_feed: Feed, _snapshot: RunSnapshot) -> Comparison:
        snapshots = [feed.snapshot for feed in feeds]
        latest: Latest = feeds[0].cached(key, Latest)
        mark = tuple(_mark(snapshot) for snapshot in snapshots)
        runs = [summary_of(*pair) for pair in zip(feeds, snapshots, strict=True)]
        return latest.get(mark, lambda: compare(runs, together=together))

    return Query(key=key, compute=compute, depends=_mark)


def _mark(snapshot: RunSnapshot) -> Hashable:
    return snapshot.history, snapshot.n_shots, snapshot.model_version, snapshot.status.state


def summary_of(feed: Feed, snapshot: RunSnapshot) -> RunSummary:
    """Return the summary of a run, computed once for all comparisons."""
    latest: Latest = feed.cached("compare.summary", Latest)
    return latest.get(_mark(snapshot), lambda: summarize(snapshot))


def summarize(snapshot: RunSnapshot) -> RunSummary:
    """Return what comparing needs of a run."""
    shots = snapshot.shots
    hits = are_transitions(shots["ends"])
    rows = thinned(snapshot.n_shots, POINTS)
    found, md_steps = cumulative_transitions(hits), np.cumsum(shots["md_steps"])
    counting = np.flatnonzero(~shots["burn_in"])
    paths = counted(snapshot)
    mean_time = running_transition_time(**paths, frame_time=frame_time(snapshot))
    timed = thinned(len(counting), POINTS)
    timed = timed[np.isfinite(mean_time.value[timed])]
    rate = transitions_per_md_step(hits, shots["md_steps"] / 1e6)
    fit = newest_calibration(snapshot) or {}
    loss = snapshot.status.validation_loss
    return RunSummary(
        name=snapshot.name,
        config=snapshot.config,
        state=snapshot.status.state.value,
        n_shots=snapshot.n_shots,
        n_transitions=int(hits.sum()),
        n_md_steps=int(shots["md_steps"].sum()),
        shots=np.append(0, rows + 1),
        md_steps=np.append(0.0, md_steps[rows] / 1e6),
        found=Series(value=np.append(0.0, found.value[rows]), error=np.append(0.0, found.error[rows])),
        time_shots=counting[timed] + 1,
        mean_time=Series(value=mean_time.value[timed], error=mean_time.error[timed]),
        share=transition_yield(hits),
        rate=rate,
        time=transition_times(**paths, frame_time=frame_time(snapshot)).mean,
        validation_loss=math.nan if loss is None else loss,
        # Of more than two states there is one for each, and none of the run.
        slope=_UNKNOWN if fit.get("slope") is None else Estimate(value=fit["slope"], error=fit["slope_error"]),
    )


def compare(runs: Sequence[RunSummary], *, together: bool) -> Comparison:
    """Return everything that is shown of several runs but the committors."""
    groups = grouped(runs, together=together)
    return Comparison(
        per_shot=Drawing(draw_counts(groups, "shots")),
        per_md_step=Drawing(draw_counts(groups, "md_steps")),
        times=Drawing(draw_times(groups)),
        numbers=numbers_html(groups),
        headline=headline_html(groups),
    )


def without_seed(config: RunConfig) -> RunConfig:
    """Return what two runs have in common that repeat each other with other random numbers, and for longer."""
    sampling = config.sampling.model_copy(update={"seed": 0, "steps": 0})
    return config.model_copy(update={"sampling": sampling})


def grouped(runs: Sequence[RunSummary], *, together: bool) -> tuple[Group, ...]:
    """Return runs in groups, guided selection first and otherwise in their order."""
    members: dict[Hashable, list[RunSummary]] = {}
    for run in runs:
        members.setdefault(without_seed(run.config).content_hash if together else run.name, []).append(run)
    ordered = sorted(members.values(), key=lambda each: each[0].config.sampling.selector == "uniform")
    labels = [_label(each) for each in ordered]
    return tuple(
        Group(label=label if labels.count(label) == 1 else _names(each), runs=tuple(each))
        for label, each in zip(labels, ordered, strict=True)
    )


def _label(runs: Sequence[RunSummary]) -> str:
    if len(runs) == 1:
        return runs[0].name
    config = runs[0].config
    return f"{config.system.kind}, {config.sampling.selector}, {len(runs)} runs"


def _names(runs: Sequence[RunSummary]) -> str:
    return runs[0].name if len(runs) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def family(runs: Sequence[RunSnapshot]) -> tuple[str, ...]:
    """Return the names of runs worth comparing: guided and standard sampling of one transition; none if there are none.

    Of several such families it is the one with most shots.
    """
    best: tuple[int, tuple[str, ...]] = (0, ())
    for standard in runs:
        guided = [
            run
            for run in runs
            if run.config.sampling.selector != "uniform" and is_reference(run.config, standard.config) and run.n_shots
        ]
        if guided and standard.n_shots:
            others = [run for run in runs if run.n_shots and is_reference(guided[0].config, run.config)]
            chosen = [*guided, *others]
            best = max(best, (sum(run.n_shots for run in chosen), tuple(run.name for run in chosen)))
    return best[1]


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _styles(n: int) -> Iterator[tuple[str, str]]:
    colours = cycle(SERIES)
    for i in range(n):
        yield next(colours), _DASHES[(i // len(SERIES)) % len(_DASHES)]


def draw_counts(groups: Sequence[Group], over: str) -> hv.Overlay:
    """Return transitions over ``shots`` or ``md_steps``, with a band of one standard error."""
    x = hv.Dimension("shots") if over == "shots" else hv.Dimension("md_steps", label="MD steps", unit="million")
    parts = _bands(groups, x, over, "found", "transitions", "@found{0,0.0} ± @error{0.0}")
    ideal = next((value for group in groups if (value := ideal_yield(group.config)) is not None), None)
    if over == "shots" and ideal is not None:
        longest = max((group.curve("shots", "found")[0][-1] for group in groups), default=0)
        line = hv.Curve(([0, longest], [0.0, ideal * longest]), x, "ideal", label="ideal, independent halves")
        parts.append(line.opts(color=GREY, line_dash="dashed", line_width=1.5))
    return overlay(parts, xlabel="shots" if over == "shots" else "MD steps (million)", ylabel="transitions")


def draw_times(groups: Sequence[Group]) -> hv.Overlay:
    """Return the running mean of the transition times, with a band of one standard error."""
    parts = _bands(groups, hv.Dimension("shots"), "time_shots", "mean_time", "time", "@time{0.000} ± @error{0.000} ps")
    return overlay(parts, xlabel="shots", ylabel="mean transition time (ps)", legend="bottom_right")


def _bands(groups: Sequence[Group], x: hv.Dimension, over: str, y: str, name: str, tip: str) -> list[Any]:
    parts: list[Any] = []
    curves = [group.curve(over, y) for group in groups]
    styles = list(_styles(len(groups)))
    for (at, series), (colour, _) in zip(curves, styles, strict=True):
        error = np.nan_to_num(series.error)
        band = hv.Area(
            (at, np.maximum(series.value - error, 0), series.value + error), x, [f"{name}_low", f"{name}_up"]
        )
        parts.append(band.opts(color=colour, alpha=0.15, line_alpha=0))
    for group, (at, series), (colour, dash) in zip(groups, curves, styles, strict=True):
        columns = {x.name: at, name: series.value, "error": series.error, "run": np.full(len(at), group.label)}
        curve = hv.Curve(columns, x, [name, "error", "run"], label=group.label)
        tips = [("run", "@run"), (x.label, f"@{x.name}{{0,0.[00]}}"), (name, tip.replace("@found", f"@{name}"))]
        parts.append(curve.opts(color=colour, line_dash=dash, line_width=2.5, tools=["hover"], hover_tooltips=tips))
    return parts


def headline_html(groups: Sequence[Group]) -> str:
    """Return in numbers what guided selection brings over the standard one; nothing without such a pair."""
    parts = []
    for guided in groups:
        standard = next((other for other in groups if is_reference(guided.config, other.config)), None)
        if guided.config.sampling.selector == "uniform" or standard is None:
            continue
        gains = [
            ("transitions per shot", quotient(guided.pooled("share"), standard.pooled("share"))),
            ("transitions per MD step", quotient(guided.pooled("rate"), standard.pooled("rate"))),
        ]
        facts = "".join(
            fact(name, f"{with_error(gain.value, gain.error, 2)} times", "those of uniform selection")
            for name, gain in gains
            if math.isfinite(gain.value)
        )
        if facts:
            words = f"{escaped(guided.label)} against {escaped(standard.label)}"
            parts.append(
                f'<div class="sx-note" style="margin:6px 0 4px">{words}</div><div class="sx-facts">{facts}</div>'
            )
    return "".join(parts)


def numbers_html(groups: Sequence[Group]) -> str:
    """Return the numbers of every run, and of the runs taken together, as a table."""
    head = (
        ("run", False),
        ("state", False),
        ("selection", False),
        ("steps", True),
        ("transitions", True),
        ("yield", True),
        ("MD steps", True),
        ("transitions per 10<sup>6</sup> MD steps", True),
        ("mean transition time", True),
        ("held-out loss", True),
        ("calibration slope", True),
    )
    cells = "".join(f'<th style="white-space:normal"{_right(right)}>{name}</th>' for name, right in head)
    rows = [f'<table class="sx-table"><tr>{cells}</tr>']
    for group, (colour, _) in zip(groups, _styles(len(groups)), strict=True):
        rows.append(_row(group, colour))
        if len(group.runs) > 1:
            rows += [_row(Group(label=run.name, runs=(run,)), None) for run in group.runs]
    return "".join([*rows, "</table>"])


def _row(group: Group, colour: str | None) -> str:
    runs = group.runs
    share, rate, time, slope = (group.pooled(number) for number in ("share", "rate", "time", "slope"))
    losses = [run.validation_loss for run in runs if math.isfinite(run.validation_loss)]
    values = [
        STATE_CHIPS[runs[0].state][0] if len({run.state for run in runs}) == 1 else "-",
        group.config.sampling.selector,
        f"{sum(run.n_shots for run in runs):,}",
        f"{sum(run.n_transitions for run in runs):,}",
        with_error(share.value, share.error),
        f"{sum(run.n_md_steps for run in runs):,}",
        with_error(rate.value, rate.error, _digits(rate)),
        f"{with_error(time.value, time.error, _digits(time))} ps" if math.isfinite(time.value) else "-",
        with_error(float(np.mean(losses)) if losses else None, None),
        with_error(slope.value, slope.error, 2),
    ]
    mark = "padding-left:28px" if colour is None else ""
    dot = "" if colour is None else _dot(colour)
    faint = ' style="opacity:0.72"' if colour is None else ""
    cells = "".join(f"<td{_right(i > 1)}>{value}</td>" for i, value in enumerate(values))
    return f'<tr{faint}><td style="{mark}">{dot}{escaped(group.label)}</td>{cells}</tr>'


def _dot(colour: str) -> str:
    style = f"display:inline-block;width:10px;height:10px;border-radius:50%;background:{colour};margin-right:7px"
    return f'<span style="{style}"></span>'


def _digits(estimate: Estimate) -> int:
    """Return decimals that show two figures of the error."""
    if not math.isfinite(estimate.error) or estimate.error <= 0:
        return 2
    return min(6, max(0, 1 - math.floor(math.log10(estimate.error))))


def _right(right: bool) -> str:
    return ' class="sx-right"' if right else ""
