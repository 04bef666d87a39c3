"""A run as it learns: what it was expected to give, what it gave, and how well the model knows."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import panel as pn
from scipy import special

from separatrix.estimates import Pair, transitions_by_pair
from separatrix.records import NO_STATE, Reason
from separatrix_dashboards.charts import Chart
from separatrix_dashboards.feeds import Feed, Latest, RunSnapshot
from separatrix_dashboards.hub import Failure, Hub, Query
from separatrix_dashboards.theme import STATE_COLOURS, empty, html
from separatrix_dashboards.views.base import View, card
from separatrix_dashboards.views.live_figures import (
    WINDOW,
    Reference,
    draw_calibration,
    draw_efficiency,
    draw_losses,
    draw_rate,
    draw_transitions,
    draw_yield,
    find_reference,
    from_zero,
    ideal_yield,
    newest_calibration,
)
from separatrix_dashboards.views.live_insights import Insights, insights_query
from separatrix_dashboards.words import ago, escaped, with_error

NEWEST = 30
"""Shots in the table."""

_FIRST_MODEL = "when the first model is trained, after ten shots"

_LOOK_AGAIN = 5.0
"""Seconds after which times in words are written anew."""


class LiveView(View):
    """Counts against expectation, the yield against its limits, how the model learned, and the newest shots."""

    id = "live"
    title = "Live"

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        if self.feed.snapshot.config.table is not None:
            return self._of_table()
        start, table = html(""), html("", styles={"overflow": "auto", "max-height": "372px"})

        def write() -> None:
            if self.scope.active:
                start.object, table.object = start_html(self.feed.snapshot), newest_shots(self.feed)

        self.scope.follow(lambda snapshot: write())
        _again(write)
        cards = [
            self._later(self._transitions),
            self._later(self._yield),
            self._later(self._losses),
            self._later(self._rates),
            self._later(self._calibration),
            *([self._later(self._pairs)] if len(self.feed.snapshot.state_names) > 2 else []),
            self._later(self._mechanism),
            card("Newest shots", table, **CELL),
        ]
        return pn.Column(start, grid(*cards), sizing_mode="stretch_width", margin=0)

    def _of_table(self) -> pn.viewable.Viewable:
        """Return the tab of a run that was made from a table: what was learned, and from what."""
        scroll = {"overflow": "auto", "max-height": "372px"}
        trainings, rows = html(""), html("", styles=scroll)

        def write(snapshot: RunSnapshot) -> None:
            trainings.object, rows.object = trainings_html(snapshot), given_html(snapshot)

        self.scope.follow(write)
        note = "Per shot. Held-out configurations are those that the networks judging them never trained on."
        return grid(
            self._later(self._calibration),
            card("Trainings", trainings, note=note, **CELL),
            card("Configurations", rows, note="The last ones of the table.", **CELL),
        )

    def _hub(self) -> Hub:
        return self.scope.hub

    def _later(self, make: Callable[[], pn.Column]) -> pn.Column:
        """Return the place of a card that is made when those before it are on their way."""
        place = pn.Column(min_height=380, **{"sizing_mode": "stretch_width", **CELL})

        def fill() -> None:
            place.append(make())
            place.min_height = None

        self.scope.soon(fill)
        return place

    def _transitions(self) -> pn.Column:
        draw, note = with_reference(draw_transitions, self._hub()), html("")
        chart = self.scope.chart("live.transitions", draw, _by_shots, height=340, ready=from_zero)
        words = partial(transitions_note, command=not self._hub().for_visitors)
        query = Query(key="live.note", compute=with_reference(words, self._hub()), depends=_by_shots)
        self.scope.add(query, partial(_write, note))
        drawn = self._from(_by_shots, "from the first shot on", chart)
        about = "Counted from the first shot on; band: one standard deviation of what was expected."
        return card("Transitions", drawn, note, note=about, **FILLING)

    def _yield(self) -> pn.Column:
        draw = with_reference(draw_yield, self._hub())
        chart = self.scope.chart("live.yield", draw, _by_shots, height=340, ready=from_zero)
        note = f"Transitions per shot over the last {WINDOW} shots, with the 95 % interval of the count."
        return card("Running yield", self._from(_by_shots, "from the first shot on", chart), note=note, **FILLING)

    def _losses(self) -> pn.Column:
        chart = self.scope.chart("live.losses", draw_losses, _by_model, slow=True, height=300)
        note = "Per shot, on shooting points. Held-out shots are those that the networks judging them never trained on."
        return card("Loss", self._from(_by_model, _FIRST_MODEL, chart), note=note, **FILLING)

    def _rates(self) -> pn.Column:
        options: dict[str, Any] = {"slow": True, "height": 150, "ready": _aligned}
        rate = self.scope.chart("live.rate", draw_rate, _by_model, **options)
        efficiency = self.scope.chart("live.efficiency", draw_efficiency, _by_model, fixed=("y",), **options)
        note = (
            "A model that keeps its promises moves little: the factor (1 - found / expected)², at most 1, scales the "
            "learning rate of each training."
        )
        charts = self._from(_by_model, _FIRST_MODEL, rate, efficiency)
        return card("Learning rate and efficiency factor", charts, note=note, **FILLING)

    def _calibration(self) -> pn.Column:
        options: dict[str, Any] = {"slow": True, "height": 330, "fixed": ("x", "y")}
        chart = self.scope.chart("live.calibration", draw_calibration, _by_model, **options)
        words = html("")
        query = Query(key="live.calibrated", compute=calibration_words, depends=_by_model, slow=True)
        self.scope.add(query, partial(_write, words))
        return card("Calibration on held-out shots", words, self._from(_by_model, _FIRST_MODEL, chart), **FILLING)

    def _pairs(self) -> pn.Column:
        words = html("")
        query = Query(key="live.pairs", compute=lambda feed, snapshot: pairs_html(snapshot), depends=_by_shots)
        self.scope.add(query, partial(_write, words))
        note = "Shots that connected two states, in either direction, and their share of all shots."
        return card("Transitions between states", words, note=note, **FILLING)

    def _mechanism(self) -> pn.Column:
        if len(self.feed.snapshot.state_names) > 2:
            words = "Formulas are for two states so far. Which inputs matter: <code>separatrix explain</code>."
            return card("Mechanism so far", empty(words), **FILLING)
        every = self.feed.snapshot.config.analysis.every
        waiting = empty(
            f"Found after every {every} shots while worker processes sample, as far as they leave time for it."
            if every
            else "Not looked for: this run's <code>analysis.every</code> is 0."
        )
        formula, table = html(""), html("", margin=(8, 0, 0, 0))
        place = pn.Column(waiting, sizing_mode="stretch_width", margin=0)
        chart = Chart(height=200, ready=from_zero)

        def show(insights: Insights | Failure | None) -> None:
            if isinstance(insights, Failure):
                place[:] = [html(f'<div class="sx-problem">{escaped(insights.message)}</div>')]
            elif insights is not None:
                formula.object, table.object = insights.formula, insights.table
                chart.apply(insights.relevance)
                if formula not in place:
                    place[:] = [formula, chart.pane, table]

        self.scope.add(insights_query(), show)
        note = (
            "The best short formula for the logit q of the committor, and the relevance of the leading inputs: the "
            "rise of the held-out loss per shot when they are shuffled."
        )
        return card("Mechanism so far", place, note=note, **FILLING)

    def _from(self, count: Callable[[RunSnapshot], int], when: str, *charts: Chart) -> pn.Column:
        """Return charts that stand in the place of a few words from the time on when there is something to draw."""
        waiting = empty(f"Drawn {when}.")
        waiting.margin = (8, 0, 0, 0)
        drawn = pn.Column(*[chart.pane for chart in charts], sizing_mode="stretch_width", margin=0)

        def show(snapshot: RunSnapshot) -> None:
            drawn.visible = count(snapshot) > 0
            waiting.visible = not drawn.visible

        self.scope.follow(show)
        return pn.Column(waiting, drawn, sizing_mode="stretch_width", margin=0)


CELL: dict[str, Any] = {"styles": {"flex": "1 1 520px", "align-self": "stretch", "height": "auto"}, "margin": 0}
"""Options of a card in a `grid`: two in a row at 1280 px, one on a small screen."""

FILLING: dict[str, Any] = {"styles": {"height": "auto", "flex": "1 1 auto"}, "margin": 0}
"""Options of a card that fills such a place."""


def grid(*cards: pn.viewable.Viewable) -> pn.FlexBox:
    """Return cards side by side as far as there is room."""
    return pn.FlexBox(*cards, gap="12px", align_items="stretch", sizing_mode="stretch_width", margin=0)


def _aligned(figure: Any) -> None:
    """Let figures that stand on top of each other begin at the same place."""
    from_zero(figure)
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


def with_reference(
    compute: Callable[[RunSnapshot, Reference | None], Any], hub: Hub
) -> Callable[[Feed, RunSnapshot], Any]:
    """Return ``compute`` as a query takes it, the reference found for it."""
    return lambda feed, snapshot: compute(snapshot, find_reference(hub, snapshot))


# -- in words ----------------------------------------------------------------------------------------------------------


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


def transitions_note(snapshot: RunSnapshot, reference: Reference | None, *, command: bool = True) -> str:
    """Return what the lines mean, and how to get the one that is missing.

    Parameters
    ----------
    command : whether that is by a command
    """
    parts = ["Expected: the probabilities predicted before each shot, summed."]
    if ideal_yield(snapshot.config) is not None:
        parts.append(
            "Ideal: a perfect committor whose two half-trajectories are independent; with inertia a run may lie above."
        )
    if snapshot.config.sampling.selector == "uniform":
        parts.append("This run is standard path sampling itself.")
    elif reference is None and not command:
        parts.append("Try uniform selection, too: it has no committor to choose by.")
    elif reference is None:
        name = shlex.quote(snapshot.name)
        line = (
            f"separatrix run {shlex.quote(snapshot.name + '-uniform')} --config {name}/config.toml "
            "--set sampling.selector=uniform"
        )
        parts.append(f"Uniform reference: none yet; make one in the folder of the runs: <code>{escaped(line)}</code>")
    else:
        parts.append(f"Uniform: standard path sampling, run <i>{escaped(reference.name)}</i>.")
    return f'<div class="sx-note">{" ".join(parts)}</div>'


def newest_shots(feed: Feed) -> str:
    """Return the table of the newest shots, written once for all documents."""
    latest: Latest = feed.cached("live.shots", Latest)
    snapshot = feed.snapshot
    return latest.get((snapshot.n_shots, int(time.time() / _LOOK_AGAIN)), lambda: shots_html(snapshot))


def shots_html(snapshot: RunSnapshot, now: float | None = None) -> str:
    """Return the newest shots as a table."""
    if not snapshot.n_shots:
        return '<div class="sx-note">None yet.</div>'
    two = len(snapshot.state_names) == 2
    predicted = "p<sub>B</sub>" if two else "p<sub>trans</sub>"
    head = ("shot", "chain, step", predicted, "result", "verdict", "frames, time", "")
    right = (True, True, True, False, False, True, True)
    cells = "".join(f"<th{_right(r)}>{name}</th>" for name, r in zip(head, right, strict=True))
    rows = [f'<table class="sx-table sx-tight"><tr>{cells}</tr>']
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
    picoseconds = (int(row["n_frames"]) - 1) * config.sampling.stride * config.dynamics.timestep / 1000
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
    return f'<span style="color:{colour}">●</span> {escaped(names[state])}'


def pairs_html(snapshot: RunSnapshot) -> str:
    """Return the transitions between every two states as a table: a row and a column for each state."""
    names, shots = snapshot.state_names, snapshot.shots
    if not snapshot.n_shots:
        return '<div class="sx-note">Counted from the first shot on.</div>'
    pairs = {pair.states: pair for pair in transitions_by_pair(shots["ends"], shots["accepted"], len(names))}
    heads = [_end(names, state) for state in range(len(names))]
    rows = [_row("th", ("", *heads[1:]))]
    for first, head in enumerate(heads[:-1]):
        cells = [_pair_html(pairs.get((first, second))) for second in range(1, len(names))]
        rows.append(_row("td", (head, *cells)))
    return f'<div class="sx-scroll"><table class="sx-table">{"".join(rows)}</table></div>'


def _pair_html(pair: Pair | None) -> str:
    if pair is None:
        return ""
    share = with_error(pair.share.value, pair.share.error, 3)
    return f'<b>{pair.transitions:,}</b><div class="sx-note">yield {share}<br>{pair.accepted:,} accepted</div>'


def trainings_html(snapshot: RunSnapshot) -> str:
    """Return the trainings of a run that was made from a table, the newest last, as a table."""
    head = ("model", "training loss", "held-out loss", "epochs")
    rows = [_row("th", head)]
    for version in sorted(snapshot.reports):
        report = snapshot.reports[version]
        losses = (with_error(report[name], None, 4) for name in ("training_loss", "validation_loss"))
        rows.append(_row("td", (f"{version}", *losses, f"{report['epochs']:,}")))
    return f'<table class="sx-table sx-tight">{"".join(rows)}</table>'


def given_html(snapshot: RunSnapshot) -> str:
    """Return the last configurations of a table, where shots from each ended, and p by networks that hold it out."""
    names = [escaped(name) for name in snapshot.state_names]
    two = len(names) == 2
    predicted = "p<sub>B</sub> held out" if two else "p<sub>trans</sub> held out"
    rows, counts = [_row("th", ("configuration", *(f"ended in {name}" for name in names), predicted))], snapshot.n_ends
    p = special.expit(snapshot.foretold_q) if two else snapshot.foretold_p_transition
    for row in range(snapshot.n_shots - 1, max(-1, snapshot.n_shots - 1 - NEWEST), -1):
        ends = (f"{n:,}" for n in counts[row].tolist())
        rows.append(_row("td", (f"{row:,}", *ends, with_error(float(p[row]), None, 2))))
    return f'<table class="sx-table sx-tight">{"".join(rows)}</table>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}{_right(True)}>{cell}</{tag}>' for cell in cells)}</tr>"


def calibration_words(feed: Feed, snapshot: RunSnapshot) -> str:  # noqa: ARG001 - as queries are called
    """Return slope and intercept of the newest model, in words."""
    fit = newest_calibration(snapshot)
    if fit is None:
        p = "p<sub>B</sub>" if len(snapshot.state_names) == 2 else "p of every state"
        return f'<div class="sx-note">Observed against predicted {p}, with slope and intercept.</div>'
    if "states" in fit:
        return "".join(
            f"<div>{_end(snapshot.state_names, state)}</div>{_fit_words(snapshot, fit['states'][name])}"
            for state, name in enumerate(snapshot.state_names)
        )
    return _fit_words(snapshot, fit)


def _fit_words(snapshot: RunSnapshot, fit: Mapping[str, Any]) -> str:
    about = f"{fit['n_shots']:,} held-out shots, model {snapshot.model_version}; bars: exact 95 % intervals."
    if fit["slope"] is None:
        return f'<div class="sx-note">Slope not determined yet. {about}</div>'
    slope = with_error(fit["slope"], fit["slope_error"], 2)
    intercept = with_error(fit["intercept"], fit["intercept_error"], 2)
    return (
        f'<div class="sx-note">Slope <b>{slope}</b> (1 is right, below 1 over-confident), '
        f"intercept <b>{intercept}</b> (0 is right). {about}</div>"
    )
