"""What is known of a run on a landscape: its energy, its exact committor, and descriptors on a grid of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.collective_variables import parse_definition
from separatrix.errors import SeparatrixError
from separatrix.estimates import Grid, landscape_committors, landscape_energy, landscape_window
from separatrix.observables import Observables
from separatrix.systems import build_sketch
from separatrix.units import thermal_energy
from separatrix_dashboards.feeds import Feed

if TYPE_CHECKING:
    from separatrix_dashboards.views.committor_axes import Axis

Array = NDArray[Any]
Window = tuple[tuple[float, float], tuple[float, float]]

PLANE: Final = ((0, 0), (0, 1))
"""Coordinates x and y of particle 0: those of the exact committor."""

_EXACT_POINTS: Final = 181
_EXACT_MARGIN: Final = 0.15
"""The exact committor is solved on a window that is wider by this share: no path turns at its border."""

_DISPLACEMENT: Final = 0.37


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Landscape:
    """The potential of a run, and where its particles start.

    Attributes
    ----------
    expression : potential energy of particle 0, kJ/mol
    thermal_energy : kT, kJ/mol
    starts : (n_states, n_atoms, 3) nm
    plane : collective variables that are x and y of particle 0, by their place; None if one is missing
    window : where the potential is low, nm; None where it is an expression that only OpenMM knows
    """

    expression: str
    thermal_energy: float
    starts: Array
    plane: tuple[int, int] | None
    window: Window | None


def landscape_of(feed: Feed) -> Landscape | None:
    """Return the landscape of a run; None for molecules, and where no collective variable is a coordinate."""
    return feed.cached("landscape", lambda: _landscape(feed))


def _landscape(feed: Feed) -> Landscape | None:
    places = [coordinate(feed, name) for name in feed.snapshot.cv_names]
    if not any(places):
        return None
    config = feed.snapshot.config
    try:
        system = build_sketch(config)
    except SeparatrixError:  # it runs elsewhere, and can be looked at without
        return None
    if system.landscape is None:
        return None
    starts = np.stack([start.positions for start in system.starts.values()])
    unit = thermal_energy(config.dynamics.temperature)
    try:
        window = landscape_window(system.landscape, unit, starts[:, 0, :2])
    except SeparatrixError:
        window = None
    plane = tuple(places.index(place) for place in PLANE if place in places)
    return Landscape(
        expression=system.landscape,
        thermal_energy=unit,
        starts=starts,
        plane=(plane[0], plane[1]) if len(plane) == 2 else None,
        window=window,
    )


def coordinate(feed: Feed, name: str) -> tuple[int, int] | None:
    """Return (particle, axis) of a collective variable that is a plain coordinate, else None."""
    observables = feed.reader.observables
    if not isinstance(observables, Observables):
        return None
    definition = parse_definition(observables.definitions[name], observables.n_atoms)
    return (definition.terms[0][0], "xyz".index(definition.name)) if definition.name in ("x", "y", "z") else None


def in_plane(feed: Feed, names: Sequence[str]) -> bool:
    """Return whether two collective variables are x and y of particle 0, in any order."""
    return {coordinate(feed, name) for name in names} == set(PLANE)


def exact_of(feed: Feed, landscape: Landscape) -> tuple[Grid, ...] | str:
    """Return the exact committor to each state of a landscape, or why there is none."""

    def compute() -> tuple[Grid, ...] | str:
        if landscape.window is None:
            return "the potential uses what only OpenMM knows"
        margins = [_EXACT_MARGIN * (high - low) for low, high in landscape.window]
        x, y = (
            np.linspace(low - margin, high + margin, _EXACT_POINTS)
            for (low, high), margin in zip(landscape.window, margins, strict=True)
        )
        config = feed.snapshot.config
        try:
            return landscape_committors(
                landscape.expression, landscape.thermal_energy, config.collective_variables, config.states, x, y
            )
        except SeparatrixError as error:
            return str(error)

    return feed.cached("exact committor", compute)


def exact_on(feed: Feed, axes: Sequence[Axis], state: int) -> tuple[Array, str | None]:
    """Return the exact committor to a state in the bins of the axes, and why it is not known where one expects it."""
    unknown = np.full(tuple(len(axis.centres) for axis in reversed(axes)), np.nan)
    if not in_plane(feed, [axis.name for axis in axes]):
        return unknown, None
    landscape = landscape_of(feed)
    exact = "the system is no landscape" if landscape is None else exact_of(feed, landscape)
    if isinstance(exact, str):
        return unknown, exact
    mesh = np.meshgrid(*(axis.centres for axis in axes))
    x, y = reversed(mesh) if _swapped(feed, axes) else mesh
    return exact[state].at(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(unknown.shape), None


def energy_on(feed: Feed, axes: Sequence[Axis]) -> Array | None:
    """Return the potential energy, kT, on the fine points of the axes; None where there is none to draw."""
    landscape = landscape_of(feed)
    if landscape is None or landscape.window is None or not in_plane(feed, [axis.name for axis in axes]):
        return None
    swapped = _swapped(feed, axes)
    x, y = (axis.fine for axis in (reversed(axes) if swapped else axes))

    def compute() -> Array:
        return landscape_energy(landscape.expression, x, y) / landscape.thermal_energy

    energy = feed.cached(("energy", swapped), compute)
    return energy.T if swapped else energy


def _swapped(feed: Feed, axes: Sequence[Axis]) -> bool:
    return coordinate(feed, axes[0].name) == PLANE[1]


def features_on(feed: Feed, axes: Sequence[Axis]) -> Array | None:
    """Return the descriptors (n_y n_x, d) of positions in the bins of two axes; None where positions have no such grid.

    The other coordinates lie in the middle of the starts.
    """
    landscape = landscape_of(feed)
    places = [coordinate(feed, axis.name) for axis in axes]
    if landscape is None or len(axes) != 2 or None in places:
        return None
    mesh = np.meshgrid(*(axis.centres for axis in axes))

    def compute() -> Array:
        positions = _middle(landscape, mesh[0].size)
        for place, values in zip(places, mesh, strict=True):
            positions[:, place[0], place[1]] = values.ravel()
        return feed.reader.observables.features(positions, None)

    marks = tuple((axis.name, float(axis.edges[0]), float(axis.edges[-1]), len(axis.edges)) for axis in axes)
    return feed.cached(("descriptors on a grid", marks), compute)


def sees_others(feed: Feed, axes: Sequence[Axis]) -> bool:
    """Return whether descriptors depend on coordinates that are on no axis."""
    landscape = landscape_of(feed)
    places = [coordinate(feed, axis.name) for axis in axes]
    if landscape is None or None in places:
        return False

    def compute() -> bool:
        positions = _middle(landscape, 2)
        moved = np.ones(positions.shape[1:], dtype=bool)
        for place in places:
            moved[place] = False
        positions[1][moved] += _DISPLACEMENT
        first, second = feed.reader.observables.features(positions, None)
        return not np.array_equal(first, second)

    return feed.cached(("descriptors see others", tuple(axis.name for axis in axes)), compute)


def _middle(landscape: Landscape, n: int) -> Array:
    """Return the middle of the starts n times, (n, n_atoms, 3) nm."""
    return np.repeat(landscape.starts.mean(axis=0)[None].astype(np.float32), n, axis=0)
