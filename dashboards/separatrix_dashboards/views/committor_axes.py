"""What the committor view is asked for, and the axes over which it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.estimates import bin_edges
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.views.committor_landscape import coordinate, in_plane, landscape_of

Array = NDArray[Any]

MOST_FRAMES: Final = 200_000
"""The conditional mean, and the path density, are taken over this many of the newest frames."""

LAYERS: Final = ("learned", "exact", "difference", "spread")

_GRID_BINS: Final = 80
_MAP_BINS: Final = (24, 36, 48, 72)
_CURVE_BINS: Final = (20, 30, 45, 60)
_FRAMES_PER_BIN: Final = 4
_FINE: Final = 241
"""Points along each axis on which the outlines of states are found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the user chose to see.

    Attributes
    ----------
    x, y : names of collective variables; without y there is a curve over x
    version : of the model, None for the newest
    layer : one of `LAYERS`
    state : whose probability is shown
    least : frames a bin must hold to be shown
    """

    x: str
    y: str | None
    version: int | None = None
    layer: str = "learned"
    state: int = 1
    least: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The collective variables of the axes."""
        return (self.x,) if self.y is None else (self.x, self.y)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axis:
    """One axis of a map: a collective variable, its column, and the edges of its bins."""

    name: str
    unit: str
    column: int
    periodic: bool
    edges: Array

    @property
    def centres(self) -> Array:
        """Middles of the bins."""
        return np.asarray((self.edges[1:] + self.edges[:-1]) / 2)

    @property
    def fine(self) -> Array:
        """Many points from end to end; where the ends meet they are one."""
        return np.linspace(self.edges[0], self.edges[-1], _FINE, endpoint=not self.periodic)


def first_choice(snapshot: RunSnapshot) -> Choice:
    """Return what is shown before anybody chose."""
    names = snapshot.cv_names
    return Choice(x=names[0], y=names[1] if len(names) > 1 else None)


def layers_of(feed: Feed, choice: Choice) -> tuple[str, ...]:
    """Return the layers over the axes of a choice; quick, so that a page can ask."""
    return LAYERS if in_plane(feed, choice.names) else ("learned", "spread")


def axis_of(feed: Feed, snapshot: RunSnapshot, name: str, choice: Choice) -> Axis:
    """Return an axis: over the window of a landscape, round the circle, or over the values sampled."""
    column = snapshot.cv_names.index(name)
    periodic = feed.reader.observables.columns.periodic[column]
    landscape, place = landscape_of(feed), coordinate(feed, name)
    if landscape is not None and landscape.window is not None and place is not None and in_plane(feed, choice.names):
        edges = np.linspace(*landscape.window[place[1]], _GRID_BINS + 1)
    else:
        values = snapshot.frames["cvs"][-MOST_FRAMES:, column]
        n_bins = _n_bins(len(values), choice)
        if not len(values):  # before the first shot: about where the states are
            values = np.array(feed.reader.observables.states.constants)
        edges = bin_edges(values, n_bins, periodic=periodic)
    return Axis(name=name, unit=snapshot.cv_units[column], column=column, periodic=periodic, edges=edges)


def _n_bins(n_frames: int, choice: Choice) -> int:
    """Return how many bins along an axis leave some frames to each of them."""
    sizes = _CURVE_BINS if choice.y is None else _MAP_BINS
    wanted = (n_frames / _FRAMES_PER_BIN) ** (1 / len(choice.names))
    return max((size for size in sizes if size <= wanted), default=sizes[0])
