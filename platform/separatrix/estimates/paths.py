"""Numbers of the transition path ensemble: where its paths run, how long they take, and how they descend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separatrix.estimates.shots import Series, statistical_inefficiency

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathDensity:
    """Where frames of transition paths lie.

    Attributes
    ----------
    edges : for each variable (n_bins + 1,) edges of equal bins
    values : (n_y, n_x) for two variables, (n_x,) for one: probability density in the inverse units of the variables;
        zero everywhere without frames
    n_frames : frames that lie within the edges, each counted once
    """

    edges: tuple[Float64Array, ...]
    values: Float64Array
    n_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTree:
    """Trials laid on one axis of time, each with the frame it was shot from lying on the same frame of its parent.

    Attributes
    ----------
    parent : (n_trials,) row of the path shot from, -1 for the seed path
    begin, shared, end : (n_trials,) first frame, shooting point and last frame, counted from the first frame of the
        chain's seed path
    """

    parent: IntArray
    begin: IntArray
    shared: IntArray
    end: IntArray


def standing_paths(chain: ArrayLike, accepted: ArrayLike) -> IntArray:
    """Return the row of the path on which each trial's chain stands after it, -1 before its first accepted one.

    Parameters
    ----------
    chain : (n_trials,) chain of every trial, in the order of their steps
    accepted : (n_trials,) bool

    >>> standing_paths([0, 0, 1, 0, 1], [True, False, True, True, False]).tolist()
    [0, 0, 2, 3, 2]
    """
    chains, taken = np.asarray(chain), np.asarray(accepted, dtype=bool)
    result = np.full(len(chains), -1, dtype=np.int64)
    for name in np.unique(chains):
        rows = np.flatnonzero(chains == name)
        result[rows] = np.maximum.accumulate(np.where(taken[rows], rows, -1))
    return result


def running_transition_time(chain: ArrayLike, accepted: ArrayLike, n_frames: ArrayLike, *, frame_time: float) -> Series:
    """Return the mean duration of the transition paths, ps, as it stood after each trial.

    Every trial adds the path on which its chain stands after it, so that after the last one the mean and its error are
    those of `transition_times`. The correlation is that along the chains over the whole run.

    Parameters
    ----------
    chain, accepted : (n_trials,) as for `standing_paths`
    n_frames : (n_trials,) saved frames of each trial, both ends included
    frame_time : ps between saved frames

    Returns
    -------
    Series of (n_trials,); nan before the first path, and an error of nan before the second
    """
    chains = np.asarray(chain)
    path = standing_paths(chains, accepted)
    there = path >= 0
    duration = np.where(there, (np.asarray(n_frames, dtype=float)[path] - 1) * frame_time, 0.0) if len(path) else there
    along = np.argsort(chains, kind="stable")
    inefficiency = statistical_inefficiency(np.asarray(duration, dtype=float)[along][there[along]])
    n = np.cumsum(there)
    mean = _ratio(np.cumsum(duration), n)
    # Squares about the overall mean: about zero they would cancel for a series far from it.
    shifted = np.where(there, duration - (mean[-1] if len(mean) else 0.0), 0.0)
    squares = np.cumsum(shifted**2) - _ratio(np.cumsum(shifted) ** 2, n)
    variance = _ratio(np.maximum(squares, 0.0), n - 1)
    # Before the series is as long as its correlation, the mean is as uncertain as a single path, not more.
    return Series(value=mean, error=np.sqrt(variance * np.minimum(inefficiency / np.maximum(n, 1), 1.0)))


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Float64Array:
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    result: Float64Array = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return result


def path_density(values: ArrayLike, weights: ArrayLike, edges: Sequence[ArrayLike]) -> PathDensity:
    """Return the density of frames of transition paths over one or two collective variables.

    Parameters
    ----------
    values : (n, k) the variables in each frame
    weights : (n,) how often each frame counts: the multiplicity of its path
    edges : for each variable ascending edges of equal bins; the last edge belongs to the last bin. Frames outside
        count nowhere

    >>> path_density([[0.2], [0.7], [0.8]], [2, 1, 1], [[0.0, 0.5, 1.0]]).values
    array([1., 1.])
    """
    borders = tuple(np.asarray(border, dtype=float) for border in edges)
    columns = np.asarray(values).reshape(-1, len(borders)).T
    counts = np.asarray(weights)
    inside = counts > 0
    for column, border in zip(columns, borders, strict=True):
        inside &= (column >= border[0]) & (column <= border[-1])
    flat = np.zeros(int(inside.sum()), dtype=np.intp)
    # The last variable varies slowest, so that two of them give rows of y. Equal bins are found without a search.
    for column, border in reversed(list(zip(columns, borders, strict=True))):
        n = len(border) - 1
        place = ((column[inside] - border[0]) * (n / (border[-1] - border[0]))).astype(np.intp)
        flat = flat * n + np.minimum(place, n - 1)
    shape = tuple(len(border) - 1 for border in reversed(borders))
    total = np.bincount(flat, counts[inside], math.prod(shape))
    volume = math.prod((border[-1] - border[0]) / (len(border) - 1) for border in borders)
    return PathDensity(
        edges=borders, values=(total / (max(total.sum(), 1.0) * volume)).reshape(shape), n_frames=len(flat)
    )


def path_tree(
    chain: ArrayLike, accepted: ArrayLike, frame: ArrayLike, shooting_frame: ArrayLike, n_frames: ArrayLike
) -> PathTree:
    """Lay the trials of every chain on one axis of time: the shooting point of each on the frame it was taken from.

    Parameters
    ----------
    chain, accepted : (n_trials,) as for `standing_paths`
    frame : (n_trials,) index of the shooting point in the path shot from
    shooting_frame : (n_trials,) index of the shooting point in the trial
    n_frames : (n_trials,) saved frames of each trial

    >>> tree = path_tree([0, 0, 0], [True, False, True], [5, 2, 6], [3, 4, 1], [9, 7, 8])
    >>> tree.begin.tolist(), tree.shared.tolist(), tree.parent.tolist()
    ([2, 0, 7], [5, 4, 8], [-1, 0, 0])
    """
    chains, taken = np.asarray(chain), np.asarray(accepted, dtype=bool)
    origin, place = np.asarray(frame, dtype=np.int64), np.asarray(shooting_frame, dtype=np.int64)
    parent = np.full(len(chains), -1, dtype=np.int64)
    begin = origin - place
    after = standing_paths(chains, taken)
    for name in np.unique(chains):
        rows = np.flatnonzero(chains == name)
        parent[rows[1:]] = after[rows[:-1]]
        shift = np.where(taken[rows], origin[rows] - place[rows], 0)
        begin[rows] += np.cumsum(shift) - shift
    return PathTree(
        parent=parent, begin=begin, shared=begin + place, end=begin + np.asarray(n_frames, dtype=np.int64) - 1
    )
