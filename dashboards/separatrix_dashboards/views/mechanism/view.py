"""Which coordinates matter and what formula they make, as far as the run holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import panel as pn
from bokeh.events import Tap
from bokeh.models import Plot

from separatrix.progress import told_apart
from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import empty, html
from separatrix_dashboards.views.analysis import AnalysisControls
from separatrix_dashboards.views.base import Scope, View, beside, card, fact, result_query
from separatrix_dashboards.views.committor_figure import finish, show_overlays
from separatrix_dashboards.views.mechanism.formulas import (
    ShownFormula,
    draw_front,
    formula_query,
    formulas_html,
    front_note,
    recommended_row,
    rows_of,
    typeset_html,
)
from separatrix_dashboards.views.mechanism.relevance import draw_relevance, relevance_note
from separatrix_dashboards.widgets import CopyText, integer, number_in, one_of, select
from separatrix_dashboards.words import escaped, with_error

_MAP_HEIGHT = 300
_MOST_INPUTS = 12


class MechanismView(View):
    """Relevance of the inputs and the formulas of the run's mechanism."""

    id = "mechanism"
    title = "Mechanism"

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._result: Mapping[str, Any] = {}
        self._query: Query | None = None
        self._content = pn.Column(sizing_mode="stretch_width", margin=0)

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        numbers = range(1, min(len(self.feed.snapshot.feature_names), _MOST_INPUTS) + 1)
        inputs = select("inputs", {"the relevant ones": 0} | {str(number): number for number in numbers}, width=150)
        generations = integer("generations", 5000, least=1, step=500, width=110)
        controls = AnalysisControls(
            self.scope,
            "explain",
            "Explain",
            lambda: {"inputs": inputs.value or None, "generations": number_in(generations)},
            inputs,
            generations,
        )
        self.scope.add(result_query("mechanism"), self._show)
        return pn.Column(controls.__panel__(), self._content, sizing_mode="stretch_width", margin=0)

    def _show(self, result: Mapping[str, Any] | Failure | None) -> None:
        if isinstance(result, Failure):
            self._content[:] = [empty(escaped(result.message))]
        elif result is None:
            self._content[:] = [empty(how_to_get_it(self.feed.snapshot))]
        elif result != self._result:
            # Drawn anew each time: names on an axis do not follow the columns of a figure, and results are rare.
            self._result = result
            bars = draw_relevance(result)
            relevance = Chart(height=80 + 24 * len(bars.get(0)), fixed=("y",))
            relevance.apply(Drawing(bars))
            several = len(self.feed.snapshot.state_names) > 2
            none = _NO_FORMULAS if several else formulas_html(result)
            formulas = self._formulas() if rows_of(result) else [card("Formulas", html(none))]
            self._content[:] = [*formulas, card("Relevance", relevance.pane, note=relevance_note(result))]

    # -- formulas --------------------------------------------------------------------------------------------------

    def _formulas(self) -> list[pn.viewable.Viewable]:
        """Return the cards of the front and of the chosen formula."""
        rows, best = rows_of(self._result), recommended_row(self._result)
        self._front = Chart(height=270, ready=self._listen)
        self._points = Chart(height=_MAP_HEIGHT)
        self._maps = [Chart(height=_MAP_HEIGHT, fixed=("y",), ready=self._finish) for _ in range(2)]
        self._typeset, self._facts, self._table = html(""), html(""), html("")
        self._copy = CopyText(sizing_mode="stretch_width")
        names = told_apart([f"{row['complexity']} operations" for row in rows])
        options = {name: place for place, name in enumerate(names)}
        self._choice = select("formula", options, best, width=150)
        self._language = one_of("as", ["Text", "LaTeX", "Python", "PLUMED"])
        self._choice.param.watch(lambda event: self._choose(), "value")
        self._language.param.watch(lambda event: self._write(), "value")
        self._shown: ShownFormula | None = None
        self._choose()
        return [
            beside(
                card("Formulas", self._front.pane, note=front_note(self._result)),
                card(
                    "Chosen formula",
                    pn.Row(self._choice, self._facts, sizing_mode="stretch_width", margin=(6, 0)),
                    self._typeset,
                    pn.Column(self._language, self._copy, sizing_mode="stretch_width", margin=(6, 0)),
                    note="The logit of the committor, in the original names and units.",
                ),
                least=380,
            ),
            beside(
                card("Committor by the formula", self._maps[0].pane),
                card("Committor by the network", self._maps[1].pane),
                card("Formula against network", self._points.pane, note="At the shooting points."),
                least=380,
            ),
            card("All formulas", self._table, note="Bold: recommended. Shaded: chosen."),
        ]

    def _listen(self, figure: Plot) -> None:
        figure.on_event(Tap, self._tap)

    def _finish(self, figure: Plot) -> None:
        on_map = len(self.feed.snapshot.cv_names) > 1
        finish(figure, on_map=on_map)
        show_overlays(figure, (), n_states=2, on_map=on_map)
        figure.xaxis.ticker.desired_num_ticks = 4  # three in a row are narrow

    def _tap(self, event: Tap) -> None:
        """Choose the formula that is nearest in length, of several the one nearest in loss."""
        if event.x is not None and event.y is not None:
            rows = rows_of(self._result)
            away = [(abs(row["complexity"] - event.x), abs(row["validation_loss"] - event.y)) for row in rows]
            self._choice.value = away.index(min(away))

    def _choose(self) -> None:
        place = int(self._choice.value)
        row = rows_of(self._result)[place]
        self._front.apply(Drawing(draw_front(self._result, place)))
        self._table.object = formulas_html(self._result, place)
        self._typeset.object = (
            f'<div class="sx-formula"><code class="sx-code">q = {escaped(row["expression"])}</code></div>'
        )
        self._facts.object = facts_html(self._result, row, None)
        self._shown = None
        before, self._query = self._query, formula_query(row, int(self._result.get("model_version", 0)))
        self.scope.add(self._query, lambda shown: self._compare(row, shown), replacing=before)

    def _compare(self, row: Mapping[str, Any], shown: ShownFormula | Failure) -> None:
        if row is not rows_of(self._result)[int(self._choice.value)]:
            return
        if isinstance(shown, Failure):
            self._facts.object = f'<div class="sx-problem">{escaped(shown.message)}</div>'
            return
        self._shown = shown
        self._typeset.object = typeset_html(shown.formula)
        self._facts.object = facts_html(self._result, row, shown)
        self._write()
        self._points.apply(shown.points)
        for chart, drawing in zip(self._maps, shown.maps, strict=True):
            chart.apply(drawing)

    def _write(self) -> None:
        if self._shown is not None:
            self._copy.text = self._shown.texts[self._language.value]


_NO_FORMULAS = (
    '<div class="sx-note">Formulas are for two states so far: this run has more. Look at one pair of them in a run of '
    "its own for that.</div>"
)


def facts_html(result: Mapping[str, Any], row: Mapping[str, Any], shown: ShownFormula | None) -> str:
    """Return the numbers of a formula."""
    facts = [fact("held-out loss", with_error(row["validation_loss"], None), _against(result))]
    if shown is not None:
        facts.append(
            fact(
                "R² with the network's q",
                with_error(shown.agreement.r_squared, None),
                f"{shown.agreement.n:,} shooting points",
            )
        )
    return f'<div class="sx-facts">{"".join(facts)}</div>'


def _against(result: Mapping[str, Any]) -> str:
    network = result.get("network_loss")
    return "" if network is None else f"the network: {network:.3f}"


def how_to_get_it(snapshot: RunSnapshot) -> str:
    """Return what to do about a run that holds no mechanism."""
    if snapshot.model_version == 0:
        return "No mechanism yet: it is read off a trained committor, and the first training comes after ten shots."
    if len(snapshot.state_names) > 2:
        return (
            "No mechanism yet. The committor of this run is trained; which inputs it depends on is told by "
            "<code>separatrix explain</code> with the folder of this run, or <code>session.explain()</code>, also "
            "while it samples. Formulas are for two states so far. The result appears here by itself."
        )
    return (
        "No mechanism yet. The committor of this run is trained; what it learned is made readable by ranking its "
        "inputs and fitting formulas to the shots: <code>separatrix explain</code> with the folder of this run, or "
        "<code>session.explain()</code>, also while it samples. The result appears here by itself."
    )
