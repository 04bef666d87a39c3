"""Maps over one or two collective variables: conditional means, densities, states and windows, on meshes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from separatrix.estimates.landscapes import landscape_energy
from separatrix.expressions import compile_expression

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_TRANSITION_REGION = (0.05, 0.95)
_WINDOW_MESH = 161


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedMean:
    """The mean of a quantity over the frames in every bin of some collective variables.

    The last variable comes first in the shapes: (n_x,) for one variable, (n_y, n_x) for two, as images want them.

    Attributes
    ----------
    mean : nan in an empty bin
    deviation : standard deviation of the values in the bin, how much the variables leave open; nan in an empty bin
    count : frames in the bin
    """

    mean: Float64Array
    deviation: Float64Array
    count: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far predictions are from the truth.

    Attributes
    ----------
    rmse : root of the mean squared difference, nan without any frame
    n_frames : frames it was taken over
    """

    rmse: float
    n_frames: int


def bin_edges(values: ArrayLike, n_bins: int, *, periodic: bool = False) -> Float64Array:
    """Return the edges (n_bins + 1,) of equal bins that hold every value.

    Parameters
    ----------
    values : of one collective variable; what is not finite is left out
    periodic : whether they are angles, whose bins always span -180 to 180 degrees

    Borders are round numbers, so that a growing run rarely moves them. Values that differ by less than 1e-12, or by
    less than a billionth of the largest, count as one, which gets bins around it.

    >>> bin_edges([0.1234, 4.321], 4).round(3).tolist()
    [0.0, 1.1, 2.2, 3.3, 4.4]
    """
    if periodic:
        return np.linspace(-180.0, 180.0, n_bins + 1)
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if high - low < max(1e-9 * max(abs(low), abs(high)), 1e-12):  # one value, up to rounding
        margin = 0.05 * max(abs(low), 1e-3)
        low, high = low - margin, high + margin
    step = _round_step((high - low) / 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.asarray(np.linspace(first, max(last, first + 1), n_bins + 1) * step)


def _round_step(step: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is no larger."""
    power = 10.0 ** math.floor(math.log10(step))
    return float(max(factor for factor in (1.0, 2.0, 5.0) if factor * power <= step * (1 + 1e-9)) * power)


def binned_mean(coordinates: ArrayLike, values: ArrayLike, edges: Sequence[ArrayLike]) -> BinnedMean:
    """Return the mean of values over the frames in every bin.

    Parameters
    ----------
    coordinates : (n, k) collective variables, k is 1 or more
    values : (n,)
    edges : for each variable ascending edges of equal bins; the last edge belongs to the last bin. Frames outside
        count nowhere, and neither do values that are not finite
    """
    data = np.asarray(values, dtype=float)
    cell, shape = _cells(coordinates, edges)
    inside = (cell >= 0) & np.isfinite(data)
    cell, data = cell[inside], data[inside]
    size = math.prod(shape)
    count = np.bincount(cell, minlength=size)
    mean = _ratio(np.bincount(cell, data, size), count)
    # Squares about the mean of the bin: about zero they would cancel for values far from it.
    variance = _ratio(np.bincount(cell, (data - mean[cell]) ** 2, size), count)
    return BinnedMean(
        mean=mean.reshape(shape),
        deviation=np.sqrt(variance).reshape(shape),
        count=count.reshape(shape).astype(np.int64),
    )


def _cells(coordinates: ArrayLike, edges: Sequence[ArrayLike]) -> tuple[NDArray[np.intp], tuple[int, ...]]:
    """Return the flat index of the bin of every frame, -1 outside, and the shape of the bins, last variable first."""
    points = np.asarray(coordinates)
    if points.ndim != 2 or points.shape[1] != len(edges):
        raise ValueError(f"expected coordinates of shape (n, {len(edges)}), got {points.shape}")
    cell = np.zeros(len(points), dtype=np.intp)
    inside = np.ones(len(points), dtype=bool)
    shape = []
    for column, borders in zip(reversed(range(len(edges))), reversed(edges), strict=True):
        border = np.asarray(borders, dtype=float)
        n_bins = len(border) - 1
        value = points[:, column]
        index = np.searchsorted(border, value, side="right") - 1
        index[value == border[-1]] = n_bins - 1
        inside &= (index >= 0) & (index < n_bins)  # nan is sorted behind everything
        cell = cell * n_bins + index
        shape.append(n_bins)
    return np.where(inside, cell, -1), tuple(shape)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Float64Array:
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    result: Float64Array = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return result


def _modes(periodic: Sequence[bool]) -> list[Literal["wrap", "constant"]]:
    """Return how filters go on beyond the ends of each axis of binned values."""
    return ["wrap" if around else "constant" for around in reversed(periodic)]


def smoothed_density(
    coordinates: ArrayLike,
    weights: ArrayLike,
    edges: Sequence[ArrayLike],
    *,
    periodic: Sequence[bool],
    width: float = 1.0,
) -> Float64Array:
    """Return the weight of frames per bin, smoothed by a Gaussian; the sum is 1, or 0 without frames.

    Parameters
    ----------
    coordinates : (n, k) collective variables
    weights : (n,) how often each frame counts
    edges, periodic : for each variable, as for `binned_mean`; smoothing goes round where it is periodic
    width : standard deviation of the Gaussian, bins
    """
    cell, shape = _cells(coordinates, edges)
    inside = cell >= 0
    density = np.bincount(cell[inside], np.asarray(weights, dtype=float)[inside], math.prod(shape)).reshape(shape)
    smooth = ndimage.gaussian_filter(density, width, mode=_modes(periodic))
    total = float(smooth.sum())
    return np.asarray(smooth / total if total > 0 else smooth)


def smoothed_mean(means: BinnedMean, *, periodic: Sequence[bool], width: float = 1.0) -> Float64Array:
    """Return binned means smoothed by a Gaussian, every bin counting by its frames; nan where a bin is empty.

    Parameters
    ----------
    periodic, width : as for `smoothed_density`
    """
    mode = _modes(periodic)
    total = ndimage.gaussian_filter(np.nan_to_num(means.mean) * means.count, width, mode=mode)
    weight = ndimage.gaussian_filter(means.count.astype(float), width, mode=mode)
    return _ratio(total, np.where(means.count > 0, weight, 0.0))


def near_frames(count: ArrayLike, *, periodic: Sequence[bool]) -> BoolArray:
    """Return the bins that hold frames themselves or touch one that does, corners included.

    Parameters
    ----------
    count : frames in every bin
    periodic : for each variable, as for `smoothed_density`

    >>> near_frames([0, 0, 0, 0, 3], periodic=[True]).tolist()
    [True, False, False, True, True]
    """
    filled = np.asarray(count) > 0
    wide = np.pad(filled, [(1, 1) if around else (0, 0) for around in reversed(periodic)], mode="wrap")
    grown = ndimage.binary_dilation(wide, np.ones((3,) * filled.ndim, dtype=bool))
    inner = tuple(slice(1, -1) if around else slice(None) for around in reversed(periodic))
    return np.asarray(grown[inner], dtype=bool)


def enclosing_levels(density: ArrayLike, shares: Sequence[float]) -> tuple[float, ...]:
    """Return for every share the density whose contour encloses it: regions of highest density.

    >>> enclosing_levels([0.1, 0.2, 0.7], [0.6, 0.85])
    (0.7, 0.2)
    """
    values = np.sort(np.asarray(density, dtype=float).ravel())[::-1]
    total = np.cumsum(values)
    if not len(values) or total[-1] <= 0:
        return ()
    places = np.searchsorted(total, np.asarray(shares) * total[-1] * (1 - 1e-12))
    return tuple(float(values[min(place, len(values) - 1)]) for place in places)


def state_masks(
    states: Mapping[str, str], cv_names: Sequence[str], axes: Mapping[str, ArrayLike]
) -> dict[str, BoolArray]:
    """Return where on a mesh each state lies; states of other collective variables than those of the axes are left out.

    Parameters
    ----------
    states : name -> condition over the collective variables
    cv_names : all collective variables
    axes : collective variable -> its values along the mesh; in the order of `binned_mean`, the masks' shape is that
        of the last axis first
    """
    mesh = dict(zip(axes, np.meshgrid(*(np.asarray(values, dtype=float) for values in axes.values())), strict=True))
    shape = next(iter(mesh.values())).shape
    columns = [mesh[name].ravel() if name in mesh else np.zeros(math.prod(shape)) for name in cv_names]
    table = np.stack(columns, axis=1)
    masks = {}
    for name, condition in states.items():
        expression = compile_expression(condition, cv_names)
        if set(expression.names_used) <= set(mesh):
            masks[name] = np.asarray(expression.array(table), dtype=bool).reshape(shape)
    return masks


def innermost(mask: ArrayLike, *, periodic: Sequence[bool]) -> tuple[int, ...] | None:
    """Return the cell of a mask that is farthest from its border; None for an empty mask.

    Parameters
    ----------
    mask : of any shape
    periodic : for each of its axes, whether its ends meet
    """
    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        return None
    half = [(n // 2, n // 2) if around else (0, 0) for n, around in zip(inside.shape, periodic, strict=True)]
    wide = np.pad(inside, half, mode="wrap")
    # A state that leaves the mesh is cut off there, not thick there.
    depth = ndimage.distance_transform_edt(np.pad(wide, 1))[(slice(1, -1),) * wide.ndim]
    depth = depth[tuple(slice(low, low + n) for (low, _), n in zip(half, inside.shape, strict=True))]
    cells = np.argwhere(depth > depth.max() - 0.5)
    middle = cells[np.argmin(((cells - cells.mean(axis=0)) ** 2).sum(axis=1))]
    return tuple(int(index) for index in middle)


def landscape_window(
    expression: str, kT: float, points: ArrayLike, *, height: float = 4.0
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the part of the plane, ((x_low, x_high), (y_low, y_high)) nm, in which paths between some points run.

    That is where one comes to from the points without going higher than ``height`` kT above the lowest pass between
    them, within twice the extent of the points from their middle.

    Parameters
    ----------
    expression : potential energy in x, y and z, as in ``system.expression``
    kT : kJ/mol
    points : (n, 2) nm, one in every state

    Raises
    ------
    ExpressionError
        If the expression uses what only OpenMM knows.
    """
    known = np.asarray(points, dtype=float).reshape(-1, 2)
    middle = (known.min(axis=0) + known.max(axis=0)) / 2
    reach = 2 * max(float(np.ptp(known, axis=0).max()), 0.1)
    x, y = (np.linspace(centre - reach, centre + reach, _WINDOW_MESH) for centre in middle)
    energy = landscape_energy(expression, x, y)
    energy = np.where(np.isfinite(energy), energy, np.inf)
    own = tuple(np.rint((known - middle + reach).T[::-1] / (2 * reach) * (_WINDOW_MESH - 1)).astype(int))
    reached = _basin(energy, own, _lowest_pass(energy, own) + height * kT)
    reached[own] = True
    spans = []
    for axis, values in ((0, x), (1, y)):
        inside = values[reached.any(axis=axis)]
        spans.append((float(inside[0]), float(inside[-1])))
    return spans[0], spans[1]


def _lowest_pass(energy: Float64Array, points: tuple[NDArray[np.intp], ...]) -> float:
    """Return the lowest energy below which all points are connected, by bisection; the highest where they never are."""
    levels = np.unique(energy[energy >= energy[points].max()])
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if _basin(energy, points, levels[middle])[points].all():
            high = middle
        else:
            low = middle + 1
    return float(levels[high])


def _basin(energy: Float64Array, points: tuple[NDArray[np.intp], ...], ceiling: float) -> BoolArray:
    """Return the cells that can be reached from the first point below a ceiling."""
    labels, _ = ndimage.label(energy <= ceiling)
    own = labels[points][0]
    return np.asarray((labels == own) & (own > 0))


def transition_region_error(predicted: ArrayLike, exact: ArrayLike) -> Deviation:
    """Return how far a learned committor is from the exact one on the frames with exact p_B between 0.05 and 0.95.

    Parameters
    ----------
    predicted, exact : (n,) p_B of the frames; frames where either is not finite are left out
    """
    p, truth = np.asarray(predicted, dtype=float), np.asarray(exact, dtype=float)
    low, high = _TRANSITION_REGION
    counted = np.isfinite(p) & (truth > low) & (truth < high)
    if not counted.any():
        return Deviation(rmse=math.nan, n_frames=0)
    return Deviation(rmse=float(np.sqrt(np.mean((p - truth)[counted] ** 2))), n_frames=int(counted.sum()))
