"""How far the committor can be trusted: on held-out shots, and against independent committor shooting."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
from scipy.special import expit

from separatrix.progress import told_apart
from separatrix_dashboards.access import Role
from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.hub import Failure
from separatrix_dashboards.theme import BLUE, GREY, empty, html
from separatrix_dashboards.views.analysis import AnalysisControls
from separatrix_dashboards.views.base import Scope, View, card, fact, result_query
from separatrix_dashboards.widgets import integer, number_in, select
from separatrix_dashboards.words import escaped, with_error

Result = Mapping[str, Any]

_RANGE = (-0.02, 1.02)


class ValidationView(View):
    """What the run holds of tests against new molecular dynamics, and its calibration on held-out shots."""

    id = "validation"
    title = "Validation"

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._result: Result | None = None
        self.predictor = select("predictor", ["network"], width=260)
        self.predictor.param.watch(lambda event: self._draw(), "value")
        self._chart = Chart(height=400, fixed=("x", "y"))
        self._formula, self._table, self._counted = html(""), html(""), html("")

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        content, facts = pn.Column(sizing_mode="stretch_width", margin=(0, 0, 12, 0)), html("", margin=(8, 0, 0, 0))
        chart = pn.Column(self.predictor, self._chart.pane, sizing_mode="stretch_width", margin=0)
        scores = pn.Column(self._table, self._counted, sizing_mode="stretch_width", margin=(0, 0, 0, 16))
        shooting = card(
            "Sampled against predicted p_B",
            pn.Row(chart, scores, sizing_mode="stretch_width", margin=0),
            self._formula,
            note="New trajectories from configurations spread over the predicted p_B; bars: exact 95 % intervals.",
            margin=0,
        )
        chart.min_width, chart.max_width, scores.min_width = 360, 560, 420

        def show(result: Result | Failure | None) -> None:
            self._result = None if isinstance(result, Failure) else result
            if isinstance(result, Failure):
                content[:] = [empty(escaped(result.message))]
            elif result is None:
                content[:] = [empty(how_to_get_it(self.feed.snapshot, may=self._may_shoot()))]
            else:
                self._offer(result["predictors"])
                self._draw()
                self._table.object = scores_html(result)
                self._counted.object = f'<div class="sx-note">{counted(result)}</div>'
                if content.objects != [shooting]:
                    content[:] = [shooting]

        configurations = integer("configurations", 40, least=1, step=10, width=120)
        shots = integer("shots of each", 50, least=1, step=10, width=110)
        controls = AnalysisControls(
            self.scope,
            "validate",
            "Validate",
            lambda: {"configurations": number_in(configurations), "shots": number_in(shots)},
            configurations,
            shots,
        )
        self.scope.follow(lambda snapshot: setattr(facts, "object", calibration_html(snapshot)))
        self.scope.add(result_query("validation"), show)
        return pn.Column(
            content,
            *([controls.__panel__()] if self._can_shoot() else []),
            card("On held-out shots", facts, note="Shots that the members judging them were not trained on."),
            sizing_mode="stretch_width",
        )

    def _may_shoot(self) -> bool:
        """Return whether it is for whoever looks to shoot: not for the viewers of a server."""
        return self.scope.hub.pool is None or self.scope.role() is Role.OPERATOR

    def _can_shoot(self) -> bool:
        snapshot = self.feed.snapshot
        return snapshot.config.table is None and len(snapshot.state_names) == 2

    def _offer(self, predictors: Sequence[Result]) -> None:
        """Let the user choose among the predictors that there are now; what was chosen stays chosen."""
        options = dict(zip(labels(predictors), (row["name"] for row in predictors), strict=True))
        if options != self.predictor.options:
            chosen = self.predictor.value
            self.predictor.param.update(
                options=options, value=chosen if chosen in options.values() else next(iter(options.values()))
            )

    def _draw(self) -> None:
        if self._result is None:
            return
        chosen = predictor_of(self._result, self.predictor.value)
        self._chart.apply(Drawing(draw_validation(self._result, chosen)))
        expression = "" if chosen["expression"] is None else f"<code>q = {escaped(chosen['expression'])}</code>"
        self._formula.object = f'<div class="sx-note" style="overflow-wrap: anywhere">{expression}</div>'


def predictor_of(result: Result, name: str) -> Result:
    """Return a predictor by its name, the network if it is not there any more."""
    predictors: Sequence[Result] = result["predictors"]
    return next((row for row in predictors if row["name"] == name), predictors[0])


def labels(predictors: Sequence[Result]) -> list[str]:
    """Return short names: formulas are known by their complexity, as on the Mechanism page."""
    return told_apart(
        ["network" if row["expression"] is None else f"formula of complexity {row['complexity']}" for row in predictors]
    )


def how_to_get_it(snapshot: RunSnapshot, *, may: bool = True) -> str:
    """Return what to do about a run that holds no validation.

    Parameters
    ----------
    may : whether whoever asks may do it
    """
    if snapshot.config.table is not None:
        return (
            "No committor shooting: this run was made from a table, and nothing can be simulated in it. Hold it "
            "against independent shots: <code>separatrix learn TABLE RUN --test TABLE2</code>."
        )
    if len(snapshot.state_names) > 2:
        return (
            "No committor shooting: it tests p<sub>B</sub> of two states so far, and this run has more. How well each "
            "probability agrees with the shots stands below."
        )
    if snapshot.model_version == 0:
        return "No committor shooting yet: it tests a trained committor, and the first training comes after ten shots."
    if not may:
        return (
            "No committor shooting yet. It starts many trajectories from configurations spread over the predicted "
            "p<sub>B</sub> and counts where they end, as <code>separatrix validate</code> does."
        )
    command = escaped(f"separatrix validate {shlex.quote(str(snapshot.path))}")
    return (
        "No committor shooting yet. It starts many trajectories from configurations spread over the predicted "
        f"p<sub>B</sub> and counts where they end: <code>{command}</code>, or <code>session.validate()</code>, when "
        "the run does not sample. Results appear here while they come."
    )


def calibration_html(snapshot: RunSnapshot) -> str:
    """Return slope and intercept of the newest model on held-out shots, in words."""
    calibration = snapshot.reports[snapshot.model_version].get("calibration") if snapshot.model_version else None
    if calibration and "states" in calibration:
        return "".join(
            f'<div style="margin-top:6px">p of <b>{escaped(name)}</b></div>{_fit_html(fit, snapshot.model_version)}'
            for name, fit in calibration["states"].items()
        )
    return _fit_html(calibration, snapshot.model_version)


def _fit_html(calibration: Result | None, version: int) -> str:
    if not calibration or calibration["slope"] is None:
        return '<div class="sx-note">Not known yet: too few shots were held out.</div>'
    facts = [
        (
            "slope",
            with_error(calibration["slope"], calibration["slope_error"], 2),
            "1 is right, below 1 over-confident",
        ),
        ("intercept", with_error(calibration["intercept"], calibration["intercept_error"], 2), "0 is right"),
        ("held-out shots", f"{calibration['n_shots']:,}", f"model version {version}"),
    ]
    return '<div class="sx-facts">' + "".join(fact(*each) for each in facts) + "</div>"


def counted(result: Result) -> str:
    """Return what the scores rest on, and what they mean."""
    wanted = result["configurations"] * result["shots"]
    progress = "" if result["complete"] else f" of {wanted:,}"
    drawn, judged = result["drawn_with"], result["model_version"]
    models = f"drawn with model {drawn}" + ("" if drawn == judged else f", judged is model {judged}")
    return (
        f"{result['trajectories']:,}{progress} trajectories from {result['configurations']} configurations, {models}; "
        f"{result['neither']:,} reached no state in time and {result['failed']:,} failed: they are left out. "
        "R²: 1 - residual / spread of the sampled p<sub>B</sub>; what is missing between the ceiling and 1 is the "
        "noise of counting, which is taken off the RMSE. Log-loss: per trajectory. Bold: recommended by the mechanism."
    )


def scores_html(result: Result) -> str:
    """Return the scores of all predictors as a table, between what a constant and a perfect predictor reach."""
    columns = ("predictor", "R²", "RMSE of p<sub>B</sub>", "log-loss", "slope", "intercept")
    head = "".join(f"<th{' class=sx-right' if name != 'predictor' else ''}>{name}</th>" for name in columns)
    rows = [
        _row(
            escaped(label),
            with_error(row["r_squared"], row["r_squared_error"], 2),
            with_error(row["rmse"], row["rmse_error"], 3),
            with_error(row["loss"], None, 3),
            with_error(row["slope"], row["slope_error"], 2),
            with_error(row["intercept"], row["intercept_error"], 2),
            bold=row["recommended"],
        )
        for label, row in zip(labels(result["predictors"]), result["predictors"], strict=True)
    ]
    ceiling = with_error(result["r_squared_ceiling"], result["r_squared_ceiling_error"], 2)
    rows.append(_row("perfect: noise ceiling", ceiling, "0", "", "1", "0"))
    rows.append(_row("constant", "0", "", with_error(result["null_loss"], None, 3), "", ""))
    rows.append(_row("the frequencies themselves", "1", "", with_error(result["saturated_loss"], None, 3), "", ""))
    return f"<div class='sx-scroll'><table class='sx-table sx-tight'><tr>{head}</tr>{''.join(rows)}</table></div>"


def _row(name: str, *cells: str, bold: bool = False) -> str:
    style = " style=font-weight:bold" if bold else ""
    return f"<tr{style}><td>{name}</td>" + "".join(f"<td class='sx-right'>{cell}</td>" for cell in cells) + "</tr>"


def draw_validation(result: Result, predictor: Result) -> hv.Overlay:
    """Return sampled against predicted p_B of a predictor, with intervals and the diagonal."""
    points = result["points"]
    predicted = expit(np.array(predictor["q"], dtype=float))  # what is not known is None, and becomes nan
    observed, lower, upper = (np.array(points[name], dtype=float) for name in ("observed", "lower", "upper"))
    there = np.isfinite(predicted) & np.isfinite(observed)
    predicted, observed, lower, upper = (each[there] for each in (predicted, observed, lower, upper))
    x = hv.Dimension("predicted", label="predicted p_B", range=_RANGE)
    y = hv.Dimension("sampled", label="sampled p_B", range=_RANGE)
    diagonal = hv.Curve(([0.0, 1.0], [0.0, 1.0]), x, y).opts(color=GREY, line_dash="dashed")
    bars = hv.ErrorBars((predicted, observed, observed - lower, upper - observed), x, [y, "below", "above"])
    dots = hv.Scatter((predicted, observed), x, y).opts(color=BLUE, size=7)
    bars = bars.opts(line_color=BLUE, line_alpha=0.8, line_width=1.5, lower_head=None, upper_head=None)
    return (diagonal * bars * dots).opts(xlim=_RANGE, ylim=_RANGE)
