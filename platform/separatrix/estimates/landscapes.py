"""Exact committors of two-dimensional landscapes, to hold learned ones against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from separatrix.errors import ConfigError
from separatrix.expressions import compile_expression

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_ENERGY_CUTOFF = 60.0
"""Energies further above the minimum, in kT, count as this high: nothing goes there, and exp must not underflow."""
_CHECKED_ENERGY = 20.0
"""Up to this energy above the minimum, in kT, z is checked not to couple to x and y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A function on a rectangular mesh.

    Attributes
    ----------
    x, y : (n_x,), (n_y,) ascending, nm
    values : (n_y, n_x)
    """

    x: Float64Array
    y: Float64Array
    values: Float64Array

    def at(self, points: ArrayLike) -> Float64Array:
        """Return bilinear interpolation at points (n, 2) nm; nan outside the mesh."""
        px, py = np.asarray(points, dtype=float).reshape(-1, 2).T
        i = np.clip(np.searchsorted(self.x, px, side="right") - 1, 0, len(self.x) - 2)
        j = np.clip(np.searchsorted(self.y, py, side="right") - 1, 0, len(self.y) - 2)
        a = (px - self.x[i]) / (self.x[i + 1] - self.x[i])
        b = (py - self.y[j]) / (self.y[j + 1] - self.y[j])
        low = (1 - a) * self.values[j, i] + a * self.values[j, i + 1]
        high = (1 - a) * self.values[j + 1, i] + a * self.values[j + 1, i + 1]
        inside = (a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)
        return np.where(inside, (1 - b) * low + b * high, np.nan)


def landscape_energy(expression: str, x: ArrayLike, y: ArrayLike, z: float = 0.0) -> Float64Array:
    """Return the potential energy (n_y, n_x), kJ/mol, of a landscape in a plane of constant z.

    Parameters
    ----------
    expression : in x, y and z, nm, as in ``system.expression``
    x, y : (n_x,), (n_y,) nm

    Raises
    ------
    ExpressionError
        If the expression uses what only OpenMM knows.
    """
    mesh_x, mesh_y = np.meshgrid(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    points = np.stack([mesh_x.ravel(), mesh_y.ravel(), np.full(mesh_x.size, z)], axis=1)
    energy = compile_expression(expression, ("x", "y", "z")).array(points)
    return np.asarray(energy, dtype=float).reshape(mesh_x.shape)


def landscape_committor(
    expression: str,
    kT: float,
    collective_variables: Mapping[str, str],
    states: Mapping[str, str],
    x: ArrayLike,
    y: ArrayLike,
) -> Grid:
    """Return the exact overdamped committor from the first to the second state of a two-dimensional landscape.

    Parameters
    ----------
    expression : potential energy of particle 0 in x, y, z; z must not couple to x and y
    kT : kJ/mol
    collective_variables, states : as configured; the states may use x(0) and y(0) only
    x, y : (n_x,), (n_y,) ascending, nm

    Raises
    ------
    ConfigError
        If there is no such map: other than two states, states of other variables, or a z that couples.
    """
    if len(states) != 2:
        raise ConfigError(f"expected two states for a committor map, got {len(states)}")
    return _of_landscape(expression, kT, collective_variables, states, x, y, towards=(1,))[0]


def landscape_committors(
    expression: str,
    kT: float,
    collective_variables: Mapping[str, str],
    states: Mapping[str, str],
    x: ArrayLike,
    y: ArrayLike,
) -> tuple[Grid, ...]:
    """Return the exact overdamped probability of ending in each of the states of a two-dimensional landscape.

    Parameters are those of `landscape_committor`; there may be any number of states.

    Raises
    ------
    ConfigError
        As `landscape_committor`.
    """
    return _of_landscape(expression, kT, collective_variables, states, x, y, towards=range(len(states)))


def _of_landscape(
    expression: str,
    kT: float,
    collective_variables: Mapping[str, str],
    states: Mapping[str, str],
    x: ArrayLike,
    y: ArrayLike,
    *,
    towards: Sequence[int],
) -> tuple[Grid, ...]:
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    energy = landscape_energy(expression, xs, ys)
    reached = energy - np.nanmin(energy) < _CHECKED_ENERGY * kT
    for z in (-0.3, 0.7):
        lifted = landscape_energy(expression, xs, ys, z) - energy
        if np.ptp(lifted[reached]) > 1e-3 * kT:
            raise ConfigError(f"z couples to x and y in {expression!r}: its committor is no map of x and y alone")
    mesh = dict(zip(("x(0)", "y(0)"), np.meshgrid(xs, ys), strict=True))
    columns = {
        name: mesh[key]
        for name, definition in collective_variables.items()
        if (key := definition.replace(" ", "")) in mesh
    }
    masks = {state: _mask(state, text, collective_variables, columns) for state, text in states.items()}
    return _committors(energy, kT, masks, xs, ys, towards=towards)


def _mask(
    state: str, text: str, collective_variables: Mapping[str, str], columns: Mapping[str, Float64Array]
) -> BoolArray:
    expression = compile_expression(text, tuple(collective_variables))
    others = [name for name in expression.names_used if name not in columns]
    if others:
        raise ConfigError(
            f"state {state!r} uses {', '.join(others)}: a committor map needs states of x(0) and y(0) alone"
        )
    shape = next(iter(columns.values())).shape if columns else ()
    values = [columns.get(name, np.zeros(shape)).ravel() for name in collective_variables]
    mask = np.asarray(expression.array(np.stack(values, axis=1)), dtype=bool).reshape(shape)
    if not mask.any():
        raise ConfigError(f"state {state!r} has no cell of the mesh; widen or refine it")
    return mask


def exact_committor(
    potential: ArrayLike, kT: float, in_A: ArrayLike, in_B: ArrayLike, x: ArrayLike, y: ArrayLike
) -> Grid:
    """Return the committor to B of overdamped motion on a mesh.

    Solves ``div(exp(-V/kT) grad p) = 0`` with p = 0 on A, p = 1 on B and no flux through the border, by finite
    volumes: the flux between two cells is that of a potential linear between their centres (Scharfetter & Gummel,
    IEEE Trans. Electron Devices 16, 64 (1969)), so that steep walls do no harm.

    Parameters
    ----------
    potential : (n_y, n_x) kJ/mol
    kT : kJ/mol
    in_A, in_B : (n_y, n_x) bool
    x, y : (n_x,), (n_y,) ascending, nm

    Raises
    ------
    ConfigError
        If a state has no cell of the mesh, both states share one, or the shapes differ.
    """
    return _committors(potential, kT, {"A": in_A, "B": in_B}, x, y, towards=(1,))[0]


def exact_committors(
    potential: ArrayLike, kT: float, states: Mapping[str, ArrayLike], x: ArrayLike, y: ArrayLike
) -> tuple[Grid, ...]:
    """Return for each of several states the probability of ending there, of overdamped motion on a mesh.

    As `exact_committor`: ``div(exp(-V/kT) grad p_i) = 0`` with p_i = 1 on state i and 0 elsewhere. They add up to 1.

    Parameters
    ----------
    potential, kT, x, y : as for `exact_committor`
    states : name -> (n_y, n_x) bool, where it lies

    Raises
    ------
    ConfigError
        As `exact_committor`.
    """
    return _committors(potential, kT, states, x, y, towards=range(len(states)))


def _committors(
    potential: ArrayLike,
    kT: float,
    states: Mapping[str, ArrayLike],
    x: ArrayLike,
    y: ArrayLike,
    *,
    towards: Sequence[int],
) -> tuple[Grid, ...]:
    """Return the committors towards some of the states."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    energy = np.asarray(potential, dtype=float)
    masks = {name: np.asarray(mask, dtype=bool) for name, mask in states.items()}
    _check_mesh(energy, masks, (len(ys), len(xs)))
    reduced = np.minimum((energy - np.nanmin(energy)) / kT, _ENERGY_CUTOFF)
    reduced = np.nan_to_num(reduced, nan=_ENERGY_CUTOFF)
    cell, other, conductance = _faces(reduced, xs, ys)
    inside = list(masks.values())
    free = np.flatnonzero(~np.any(inside, axis=0).ravel())
    ends = np.stack([inside[state].ravel().astype(float) for state in towards])
    if len(free):
        ends[:, free] = _solve(cell, other, conductance, ends, free)
    return tuple(Grid(x=xs, y=ys, values=np.clip(p, 0.0, 1.0).reshape(energy.shape)) for p in ends)


def _check_mesh(energy: Float64Array, masks: Mapping[str, BoolArray], shape: tuple[int, int]) -> None:
    for name, array in (("potential", energy), *((f"in_{state}", mask) for state, mask in masks.items())):
        if array.shape != shape:
            raise ConfigError(f"expected {name} of shape (n_y, n_x) = {shape}, got {array.shape}")
    for state, mask in masks.items():
        if not mask.any():
            raise ConfigError(f"state {state} has no cell of the mesh; widen or refine it")
    shared = np.sum(list(masks.values()), axis=0) > 1
    if shared.any():
        raise ConfigError(f"the states share {int(shared.sum())} cells of the mesh; they must not overlap")


def _faces(
    reduced: Float64Array, x: Float64Array, y: Float64Array
) -> tuple[NDArray[np.intp], NDArray[np.intp], Float64Array]:
    """Return for every face between two cells their flat indices and its conductance."""
    index = np.arange(reduced.size).reshape(reduced.shape)
    width, height = np.gradient(x)[None, :], np.gradient(y)[:, None]
    across = _conductance(reduced[:, :-1], reduced[:, 1:]) * (height / np.diff(x)[None, :])
    along = _conductance(reduced[:-1], reduced[1:]) * (width / np.diff(y)[:, None])
    return (
        np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()]),
        np.concatenate([index[:, 1:].ravel(), index[1:].ravel()]),
        np.concatenate([across.ravel(), along.ravel()]),
    )


def _conductance(first: Float64Array, second: Float64Array) -> Float64Array:
    """Return ``1 / mean(exp(u))`` over the line between two cells, u linear: ``exp(-mean u) (d/2) / sinh(d/2)``."""
    half = np.maximum(np.abs(second - first) / 2, 1e-6)
    result: Float64Array = np.exp(-(first + second) / 2) * half / np.sinh(half)
    return result


def _solve(
    cell: NDArray[np.intp],
    other: NDArray[np.intp],
    conductance: Float64Array,
    ends: Float64Array,
    free: NDArray[np.intp],
) -> Float64Array:
    """Return p in the free cells, (n_wanted, n_free), from p in the states, (n_wanted, n_cells).

    Rows and columns are scaled by the diagonal, which spans 26 orders of magnitude.
    """
    n = ends.shape[1]
    scale = 1 / np.sqrt(np.bincount(cell, conductance, n) + np.bincount(other, conductance, n))
    number = np.full(n, -1)
    number[free] = np.arange(len(free))
    inner = (number[cell] >= 0) & (number[other] >= 0)
    row, column = number[cell[inner]], number[other[inner]]
    coupling = -conductance[inner] * scale[cell[inner]] * scale[other[inner]]
    diagonal = np.arange(len(free))
    matrix = sparse.csc_matrix(
        (
            np.concatenate([coupling, coupling, np.ones(len(free))]),
            (np.concatenate([row, column, diagonal]), np.concatenate([column, row, diagonal])),
        ),
        shape=(len(free), len(free)),
    )
    # Symmetric positive definite: no pivoting, and an ordering for symmetric matrices, halve the time.
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solution = np.empty((len(ends), len(free)))
    for place, fixed in enumerate(np.where(number >= 0, 0.0, ends)):
        source = np.bincount(cell, conductance * fixed[other], n) + np.bincount(other, conductance * fixed[cell], n)
        solution[place] = factors.solve(source[free] * scale[free]) * scale[free]
    return solution
