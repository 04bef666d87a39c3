"""Which coordinates matter and what formula they make, as far as the run holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import panel as pn

from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import BLUE, empty, html
from separatrix_dashboards.views.base import View, card
from separatrix_dashboards.words import escaped, with_error

_MOST_BARS = 20


class MechanismView(View):
    """Relevance of the inputs and the formulas of the run's mechanism."""

    id = "mechanism"
    title = "Mechanism"

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        content = pn.Column(sizing_mode="stretch_width")
        formulas = html("")

        def show(result: Mapping[str, Any] | Failure | None) -> None:
            if isinstance(result, Failure):
                content[:] = [empty(escaped(result.message))]
            elif result is None:
                content[:] = [empty(how_to_get_it(self.feed.snapshot))]
            else:
                # Drawn anew each time: names on an axis do not follow the columns of a figure, and results are rare.
                bars = draw_relevance(result)
                relevance = Chart(height=80 + 24 * len(bars.get(0)), fixed=("y",))
                relevance.apply(Drawing(bars))
                formulas.object = formulas_html(result)
                content[:] = [
                    card("Formulas", formulas, note=formulas_note(result)),
                    card("Relevance", relevance.pane, note=relevance_note(result)),
                ]

        self.scope.add(Query(key="mechanism", compute=lambda feed, snapshot: feed.result("mechanism")), show)
        return content


def how_to_get_it(snapshot: RunSnapshot) -> str:
    """Return what to do about a run that holds no mechanism."""
    if snapshot.model_version == 0:
        return "No mechanism yet: it is read off a trained committor, and the first training comes after ten shots."
    return (
        "No mechanism yet. The committor of this run is trained; what it learned is made readable by ranking its "
        "inputs and fitting formulas to the shots: <code>separatrix explain</code> with the folder of this run, or "
        "<code>session.explain()</code>, also while it samples. The result appears here by itself."
    )


def formulas_note(result: Mapping[str, Any]) -> str:
    """Return what the formulas mean."""
    best = " Bold: recommended by the Bayesian information criterion." if "recommended" in result else ""
    return f"The logit of the committor, in the original names and units.{best}"


def relevance_note(result: Mapping[str, Any]) -> str:
    """Return what the bars mean."""
    line = result.get("noise_line")
    noise = "" if line is None else f" What stays below {line:.2g} is noise."
    return f"Rise of the held-out loss when inputs are shuffled.{noise}"


def draw_relevance(result: Mapping[str, Any]) -> hv.Overlay:
    """Return bars with errors, the most relevant inputs on top; inputs that belong together are one bar."""
    rows = sorted(result.get("groups") or result.get("relevance", []), key=lambda row: -row["mean"])[:_MOST_BARS]
    rows.reverse()  # the axis runs upwards
    names = [str(row["name"]) for row in rows]
    means, errors = [float(row["mean"]) for row in rows], [float(row["std"]) for row in rows]
    bars = hv.Bars((names, means), "input", "relevance").opts(color=BLUE, line_width=0, invert_axes=True)
    return bars * hv.ErrorBars((names, means, errors), "input", ["relevance", "error"]).opts(invert_axes=True)


def formulas_html(result: Mapping[str, Any]) -> str:
    """Return the Pareto front as a table, the simplest formula first."""
    rows = sorted(result.get("expressions", []), key=lambda row: row["complexity"])
    if not rows:
        return '<div class="sx-note">No formula was found.</div>'
    body = "".join(_row_html(row, row["expression"] == result.get("recommended")) for row in rows)
    columns = ("complexity", "formula", "training loss", "held-out loss")
    head = "".join(f"<th{' class=sx-right' if name != 'formula' else ''}>{name}</th>" for name in columns)
    return f"<table class='sx-table'><tr>{head}</tr>{body}</table>"


def _row_html(row: Mapping[str, Any], recommended: bool) -> str:
    """Return a formula as a row of the table."""
    return (
        f"<tr{' style=font-weight:bold' if recommended else ''}>"
        f"<td class='sx-right'>{escaped(row['complexity'])}</td>"
        f"<td class='sx-wrap'><code class='sx-code'>q = {escaped(row['expression'])}</code></td>"
        f"<td class='sx-right'>{with_error(row['training_loss'], None)}</td>"
        f"<td class='sx-right'>{with_error(row['validation_loss'], None)}</td></tr>"
    )
