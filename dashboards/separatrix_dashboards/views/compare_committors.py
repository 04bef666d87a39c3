"""Two runs' committors on the same configurations: what one model says against what the other says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import holoviews as hv
import numpy as np
from numpy.typing import NDArray

from separatrix.errors import SeparatrixError
from separatrix.estimates import Agreement, agreement, thinned
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Query
from separatrix_dashboards.theme import BLUE, GREY
from separatrix_dashboards.views.live_figures import overlay

if TYPE_CHECKING:
    from separatrix.committor import Committor

POINTS = 500
"""Points of the scatter, about."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CommittorPair:
    """What two models say of the same configurations: p_B (n,) of each, and how well they agree.

    Of more than two states it is p of every one of them, those of a configuration in a row.
    """

    first: NDArray[Any]
    second: NDArray[Any]
    agreement: Agreement
    n_states: int = 2


def committor_pair(other: Feed) -> Query:
    """Return the query, of one run, for its model and another's on its shooting points.

    The other model is the newest there is when this is called: ask again when there is a newer one.
    """
    return Query(
        key=("compare.committors", str(other.path), other.snapshot.model_version),
        compute=lambda feed, snapshot: compare_committors(feed, snapshot, other),
        depends=lambda snapshot: snapshot.model_version,
        slow=True,
    )


def compare_committors(feed: Feed, snapshot: RunSnapshot, other: Feed) -> CommittorPair:
    """Return p_B of two runs' newest models on the newest shooting points of the first.

    Raises
    ------
    SeparatrixError
        If they cannot be compared, with the reason.
    """
    theirs = other.snapshot
    if snapshot.feature_names != theirs.feature_names or snapshot.state_names != theirs.state_names:
        raise SeparatrixError(
            f"{snapshot.name} and {theirs.name} have different descriptors or states: their committors are functions "
            "of different numbers"
        )
    for run in (snapshot, theirs):
        if not run.model_version:
            raise SeparatrixError(f"{run.name} has no model yet: the first is trained after ten shots")
    frames = snapshot.frames
    points = np.flatnonzero(frames["offset"] == 0)
    features = frames["features"][points[thinned(len(points), POINTS)]]
    p, p_other = (_probabilities(model, features) for model in (feed.model(), other.model()))
    return CommittorPair(first=p, second=p_other, agreement=agreement(p, p_other), n_states=len(snapshot.state_names))


def _probabilities(model: Committor, features: NDArray[Any]) -> NDArray[Any]:
    return model.p_B(features) if model.n_outputs == 1 else model.probabilities(features).ravel()


def draw_committors(pair: CommittorPair, first: str, second: str) -> hv.Overlay:
    """Return what one model says against what the other says, with the diagonal."""
    p = "p_B" if pair.n_states == 2 else "p of each state"
    x, y = (
        hv.Dimension("first", label=f"{p}, model of {first}"),
        hv.Dimension("second", label=f"{p}, model of {second}"),
    )
    window = (-0.03, 1.03)
    parts = [
        hv.Curve(([0.0, 1.0], [0.0, 1.0]), x, y).opts(color=GREY, line_dash="dashed", line_width=1.5),
        hv.Scatter((pair.first, pair.second), x, y).opts(color=BLUE, size=5, alpha=0.55, line_alpha=0),
    ]
    return overlay(parts, xlabel=x.label, ylabel=y.label).opts(xlim=window, ylim=window)


def agreement_words(found: Agreement, n_states: int = 2) -> str:
    """Return how well two models agree, in words."""
    n_points = found.n if n_states == 2 else found.n // n_states
    r_squared = "not defined" if math.isnan(found.r_squared) else f"{found.r_squared:.3f}"
    return (
        f'<div class="sx-note">R² (squared correlation) <b>{r_squared}</b>, root mean square difference '
        f"<b>{found.rmse:.3f}</b>, on {n_points:,} shooting points of the first run.</div>"
    )
