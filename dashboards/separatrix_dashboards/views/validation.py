"""How far the committor can be trusted: on held-out shots, and against independent committor shooting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn

from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import BLUE, GREY, empty, html
from separatrix_dashboards.views.base import View, card, fact
from separatrix_dashboards.words import escaped, with_error


class ValidationView(View):
    """What the run holds of tests against new molecular dynamics, and its calibration on held-out shots."""

    id = "validation"
    title = "Validation"

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        content, facts = pn.Column(sizing_mode="stretch_width"), html("", margin=(8, 0, 0, 0))
        chart = Chart(height=380, fixed=("x", "y"))

        def show(result: Mapping[str, Any] | Failure | None) -> None:
            if isinstance(result, Failure):
                content[:] = [empty(escaped(result.message))]
            elif result is None:
                content[:] = [empty(nothing_yet(self.feed.snapshot))]
            else:
                chart.apply(Drawing(draw_validation(result)))
                content[:] = [card("Sampled against predicted p_B", chart.pane)]

        self.scope.follow(lambda snapshot: setattr(facts, "object", calibration_html(snapshot)))
        self.scope.add(Query(key="validation", compute=lambda feed, snapshot: feed.result("validation")), show)
        return pn.Column(
            card("On held-out shots", facts, note="Shots that the members judging them were not trained on."),
            content,
            sizing_mode="stretch_width",
        )


def nothing_yet(snapshot: RunSnapshot) -> str:
    """Return why there is no validation, as HTML."""
    if snapshot.config.table is not None:
        return (
            "No committor shooting: this run was made from a table, and nothing can be simulated in it. Hold it "
            "against independent shots: <code>separatrix learn TABLE RUN --test TABLE2</code>."
        )
    return (
        "No committor shooting yet. It starts many trajectories from configurations spread over the predicted "
        "p<sub>B</sub> and counts where they end; results appear here as soon as the run holds them."
    )


def calibration_html(snapshot: RunSnapshot) -> str:
    """Return slope and intercept of the newest model on held-out shots, in words."""
    calibration = snapshot.reports[snapshot.model_version].get("calibration") if snapshot.model_version else None
    if not calibration or calibration["slope"] is None:
        return '<div class="sx-note">Not known yet: too few shots were held out.</div>'
    facts = [
        (
            "slope",
            with_error(calibration["slope"], calibration["slope_error"], 2),
            "1 is right, below 1 over-confident",
        ),
        ("intercept", with_error(calibration["intercept"], calibration["intercept_error"], 2), "0 is right"),
        ("held-out shots", f"{calibration['n_shots']:,}", f"model version {snapshot.model_version}"),
    ]
    return '<div class="sx-facts">' + "".join(fact(*each) for each in facts) + "</div>"


def draw_validation(result: Mapping[str, Any]) -> hv.Overlay:
    """Return sampled against predicted p_B, with intervals and the diagonal."""
    predicted, observed, lower, upper = (
        np.asarray(result.get(name, []), dtype=float) for name in ("predicted", "observed", "lower", "upper")
    )
    x = hv.Dimension("predicted", label="predicted p_B")
    y = hv.Dimension("sampled", label="sampled p_B", range=(-0.02, 1.02))
    diagonal = hv.Curve(([0.0, 1.0], [0.0, 1.0]), x, y).opts(color=GREY, line_dash="dashed")
    bars = hv.ErrorBars((predicted, observed, observed - lower, upper - observed), x, [y, "below", "above"])
    return (diagonal * bars * hv.Scatter((predicted, observed), x, y).opts(color=BLUE, size=7)).opts(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
