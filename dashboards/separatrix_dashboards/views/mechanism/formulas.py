"""The formulas of a run: their front, and one of them beside the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import holoviews as hv
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from separatrix.estimates import Agreement, agreement, thinned
from separatrix_dashboards.charts import Drawing, Templates
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Query
from separatrix_dashboards.theme import BLUE, GREY, ORANGE
from separatrix_dashboards.views.committor_axes import MOST_FRAMES, Axis, Choice, first_choice
from separatrix_dashboards.views.committor_figure import drawing_of
from separatrix_dashboards.views.committor_landscape import features_on
from separatrix_dashboards.views.committor_map import (
    CommittorMap,
    Prediction,
    committor_map,
    dependence,
    mean_over_frames,
)
from separatrix_dashboards.words import escaped, with_error

if TYPE_CHECKING:
    from separatrix.symbolic import Formula

POINTS: Final = 1000
"""Shooting points on which formula and network are compared in the picture, about."""

Row = Mapping[str, Any]


def rows_of(result: Row) -> list[Row]:
    """Return the formulas of a result, the simplest first."""
    return sorted(result.get("expressions", []), key=lambda row: row["complexity"])


def recommended_row(result: Row) -> int:
    """Return the place of the recommended formula among `rows_of`; of the best one where none is recommended."""
    rows = rows_of(result)
    for place, row in enumerate(rows):
        if row["expression"] == result.get("recommended"):
            return place
    return min(range(len(rows)), key=lambda place: rows[place]["validation_loss"])


def draw_front(result: Row, chosen: int) -> hv.Overlay:
    """Return the held-out loss of formulas against their length, with the network's and a ring round the chosen one."""
    rows = rows_of(result)
    x, y = hv.Dimension("complexity", label="operations in the formula"), hv.Dimension("loss", label="held-out loss")
    lengths, losses = ([float(row[name]) for row in rows] for name in ("complexity", "validation_loss"))
    best = recommended_row(result)
    network = result.get("network_loss")
    best_of = {
        length: min(loss for at, loss in zip(lengths, losses, strict=True) if at == length) for length in lengths
    }
    ends = [lengths[0], lengths[-1]] if network is not None else []
    ring = hv.Scatter(([lengths[chosen]], [losses[chosen]]), x, y)
    star = hv.Scatter(([lengths[best]], [losses[best]]), x, y)
    leaves = [
        hv.Curve((ends, [network] * len(ends)), x, y).opts(color=GREY, line_dash="dashed", line_width=1.5),
        hv.Curve((list(best_of), list(best_of.values())), x, y).opts(
            color=BLUE, line_width=1.2, interpolation="steps-post"
        ),
        hv.Scatter((lengths, losses), x, y).opts(color=BLUE, size=9, tools=["hover"]),
        star.opts(color=ORANGE, size=15, marker="star"),
        ring.opts(fill_alpha=0, line_color=ORANGE, line_width=2, size=20),
    ]
    return hv.Overlay(leaves).opts(show_legend=False)


def front_note(result: Row) -> str:
    """Return what the front shows."""
    network = ", dashed: the network" if result.get("network_loss") is not None else ""
    star = "; star: recommended by the Bayesian information criterion" if "recommended" in result else ""
    return f"Loss per shot on shots that fitted nothing{network}{star}. Tap a point to see its formula."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownFormula:
    """A formula beside the network.

    Attributes
    ----------
    formula : as it is stored
    texts : language -> the formula in it
    points : q of both on shooting points
    maps : p_B by the formula and by the network, over the first collective variables; none before there are frames
    on_map : whether these are maps, and not curves over a single variable
    agreement : of the two q on all shooting points
    """

    formula: Formula
    texts: Mapping[str, str]
    points: Drawing
    maps: tuple[Drawing, ...]
    on_map: bool
    agreement: Agreement


def formula_query(row: Row, version: int) -> Query:
    """Return the query of a formula and the model it was made to explain; documents with the same choice share it."""

    def compute(feed: Feed, snapshot: RunSnapshot) -> ShownFormula:
        from separatrix.symbolic import Formula  # noqa: PLC0415 - brings sympy, for which the first paint does not wait

        choice = replace(first_choice(snapshot), version=version or None)
        return _shown(feed, snapshot, Formula.from_data({"symbols": {}, **row}), choice)

    return Query(
        key=("formula", row["expression"], version),
        compute=compute,
        depends=lambda snapshot: dependence(snapshot, first_choice(snapshot)),
        slow=True,
    )


def _shown(feed: Feed, snapshot: RunSnapshot, formula: Formula, choice: Choice) -> ShownFormula:
    names, model = snapshot.feature_names, feed.model(choice.version or snapshot.model_version)
    features = snapshot.frames["features"]
    begins = features[snapshot.frames["offset"] == 0]
    network, short = model.q(begins), formula.q(begins, names)
    known = np.isfinite(short)
    rows = np.flatnonzero(known)[thinned(int(known.sum()), POINTS)]
    found, drawn = _of_network(feed, snapshot, choice)
    same = replace(found, model=_prediction(feed, snapshot, found, formula, choice))
    return ShownFormula(
        formula=formula,
        texts={
            "Text": formula.expression,
            "LaTeX": formula.latex,
            "Python": formula.python,
            "PLUMED": formula.lepton,
        },
        points=Drawing(_draw_points(network[rows], short[rows]), feed.shared("formula points", Templates)).ready(),
        maps=(drawing_of(feed, same, choice, snapshot.state_names), drawn),
        on_map=choice.y is not None,
        agreement=agreement(network[known], short[known]),
    )


def _of_network(feed: Feed, snapshot: RunSnapshot, choice: Choice) -> tuple[CommittorMap, Drawing]:
    """Return the map of the network and its drawing, the same for every formula."""

    def compute() -> tuple[CommittorMap, Drawing]:
        found = committor_map(feed, snapshot, choice)
        return found, drawing_of(feed, found, choice, snapshot.state_names)

    return feed.cached(("map beside formulas", choice, dependence(snapshot, choice)), compute)


def _prediction(feed: Feed, snapshot: RunSnapshot, found: CommittorMap, formula: Formula, choice: Choice) -> Prediction:
    """Return p_B by a formula in the bins of a map: at their middles where the model's is, else over the frames."""
    axes: Sequence[Axis] = found.axes
    names = snapshot.feature_names
    features = features_on(feed, axes)
    if features is not None:
        p = expit(formula.q(features, names)).reshape(found.model.p.shape)
        unknown = np.full_like(p, np.nan)
        return Prediction(p=p, smooth=p, within=unknown, spread=unknown, on_grid=True)
    p = expit(formula.q(snapshot.frames["features"][-MOST_FRAMES:], names))
    return mean_over_frames(snapshot, axes, np.nan_to_num(p, nan=0.5), np.zeros(len(p)), choice.least)


def _draw_points(network: NDArray[Any], short: NDArray[Any]) -> hv.Overlay:
    x, y = hv.Dimension("network", label="q of the network"), hv.Dimension("formula", label="q of the formula")
    ends = np.array([network.min(), network.max()]) if len(network) else np.empty(0)
    return hv.Overlay(
        [
            hv.Curve((ends, ends), x, y).opts(color=GREY, line_dash="dashed", line_width=1.5),
            hv.Scatter((network, short), x, y).opts(color=BLUE, size=4, alpha=0.5),
        ]
    ).opts(show_legend=False)


def typeset_html(formula: Formula) -> str:
    """Return a formula typeset, and what the letters in it stand for."""
    letters = [f"<i>{letter}</i>&thinsp;=&thinsp;{escaped(column)}" for letter, column in formula.letters.items()]
    legend = f'<div class="sx-note">{"; ".join(letters)}</div>' if letters else ""
    return f'<div class="sx-formula"><math><mi>q</mi><mo>=</mo></math>{formula.mathml}</div>{legend}'


def formulas_html(result: Row, chosen: int | None = None) -> str:
    """Return the front as a table, the simplest formula first; the chosen one is marked."""
    rows = rows_of(result)
    if not rows:
        return '<div class="sx-note">No formula was found.</div>'
    best = result.get("recommended")
    body = "".join(_row_html(row, row["expression"] == best, place == chosen) for place, row in enumerate(rows))
    columns = ("operations", "formula", "training loss", "held-out loss")
    head = "".join(f"<th{' class=sx-right' if name != 'formula' else ''}>{name}</th>" for name in columns)
    return f"<table class='sx-table'><tr>{head}</tr>{body}</table>"


def _row_html(row: Row, recommended: bool, chosen: bool) -> str:
    styles = ("font-weight:bold;" if recommended else "") + ("background:var(--sx-faint)" if chosen else "")
    return (
        f"<tr{f' style={styles!r}' if styles else ''}>"
        f"<td class='sx-right'>{escaped(row['complexity'])}</td>"
        f"<td class='sx-wrap'><code class='sx-code'>q = {escaped(row['expression'])}</code></td>"
        f"<td class='sx-right'>{with_error(row['training_loss'], None)}</td>"
        f"<td class='sx-right'>{with_error(row['validation_loss'], None)}</td></tr>"
    )
