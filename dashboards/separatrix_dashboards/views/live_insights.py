"""What a run tells of its mechanism while it samples, and how that changed with the shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import holoviews as hv
import numpy as np

from separatrix_dashboards.charts import Drawing
from separatrix_dashboards.feeds import Feed, RunSnapshot, stamp
from separatrix_dashboards.hub import Query
from separatrix_dashboards.theme import SERIES
from separatrix_dashboards.views.live_figures import SHOTS
from separatrix_dashboards.views.mechanism.formulas import typeset_html
from separatrix_dashboards.words import escaped, with_error

GROUPS: Final = 4
"""Groups of inputs whose relevance is drawn: those that lead now and are above the noise."""

_APART: Final = 0.12
"""Names of lines are left out that would stand nearer than so much of the height to one before."""

LINES: Final = 6
"""Formulas in the table, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Insights:
    """What is shown of the insights of a run: the newest formula, the table of changes, and the relevance."""

    formula: str
    table: str
    relevance: Drawing


def insights_query() -> Query:
    """Return the query of the insights; its result is None as long as there are none."""
    return Query(
        key="live.insights",
        compute=_compute,
        depends=lambda snapshot: stamp(snapshot.result_file("insights")),
        slow=True,
    )


def _compute(feed: Feed, snapshot: RunSnapshot) -> Insights | None:  # noqa: ARG001 - as every query
    entries = (feed.result("insights") or {}).get("entries", [])
    if not entries:
        return None
    return Insights(formula=formula_html(entries[-1]), table=table_html(entries), relevance=Drawing(draw(entries)))


def formula_html(entry: Mapping[str, Any]) -> str:
    """Return the newest formula, typeset, with its losses."""
    from separatrix.symbolic import Formula  # noqa: PLC0415 - brings sympy, for which the first paint does not wait

    words = (
        f"After {entry['n_shots']:,} shots, by model {entry['model_version']}. Held-out loss per shot "
        f"{with_error(entry['validation_loss'], None)}, the network's {with_error(entry['network_loss'], None)}."
    )
    return f'{typeset_html(Formula.from_data(entry))}<div class="sx-note">{words}</div>'


def table_html(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the newest formulas that differ from the one before, newest first."""
    changes = [
        entry
        for before, entry in zip([None, *entries], entries, strict=False)
        if before is None or before["expression"] != entry["expression"]
    ]
    rows = [
        f"<tr><td class='sx-right'>{entry['n_shots']:,}</td>"
        f"<td class='sx-wrap'><code class='sx-code'>q = {escaped(entry['expression'])}</code></td>"
        f"<td class='sx-right'>{with_error(entry['validation_loss'], None)}</td></tr>"
        for entry in reversed(changes[-LINES:])
    ]
    head = "<tr><th class='sx-right'>shots</th><th>formula</th><th class='sx-right'>held-out loss</th></tr>"
    return f"<table class='sx-table sx-tight'>{head}{''.join(rows)}</table>"


def draw(entries: Sequence[Mapping[str, Any]]) -> hv.Overlay:
    """Return the relevance of the leading groups against the number of shots."""
    rise = hv.Dimension("relevance")
    shots = np.array([entry["n_shots"] for entry in entries], dtype=float)
    newest = entries[-1]
    leading = [group["name"] for group in newest["groups"][:GROUPS] if group["mean"] > newest["noise_line"]]
    means = [{group["name"]: group["mean"] for group in entry["groups"]} for entry in entries]
    lines = [np.array([known.get(name, np.nan) for known in means], dtype=float) for name in leading]
    leaves: list[Any] = []
    for place in range(GROUPS):
        points = (shots, lines[place]) if place < len(leading) else ([], [])
        style = {"color": SERIES[place], "show_legend": False}
        leaves += [
            hv.Curve(points, SHOTS, rise).opts(line_width=1.8, **style),
            hv.Scatter(points, SHOTS, rise).opts(size=5, **style),
        ]
    ends: list[tuple[float, float, str]] = []
    height = max((float(np.nanmax(line)) for line in lines), default=0.0)
    for line, name in zip(lines, leading, strict=True):
        if not ends or ends[-1][1] - line[-1] > _APART * height:
            ends.append((shots[-1], line[-1], name))
    names = tuple(zip(*ends, strict=True)) if ends else ([], [], [])
    labels = hv.Labels(names, [SHOTS, rise], "name").opts(
        text_align="right", text_baseline="bottom", text_font_size="9pt", text_color="#8A8F98", show_legend=False
    )
    return hv.Overlay([*leaves, labels]).opts(show_legend=False)
