"""Numbers along a run and across runs: yields in a window, counts with their error, means over runs, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separatrix.estimates.shots import Estimate, Float64Array, Series, clopper_pearson, statistical_inefficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A number along a run with its interval: three arrays (n,)."""

    value: Float64Array
    lower: Float64Array
    upper: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two predictions of the same points agree.

    Attributes
    ----------
    r_squared : squared Pearson correlation; nan where one of the two is constant
    rmse : root of the mean squared difference; nan without points
    n : number of points
    """

    r_squared: float
    rmse: float
    n: int


def thinned(n: int, limit: int = 1000) -> NDArray[np.int64]:
    """Return at most ``limit + 1`` of the rows 0 ... n - 1, evenly spaced, the last among them.

    The spacing is a power of two: while a series grows, what is shown of it stays.

    >>> thinned(10, 4).tolist(), thinned(3).tolist()
    ([0, 4, 8, 9], [0, 1, 2])
    """
    if n == 0:
        return np.empty(0, dtype=np.int64)
    stride = 1
    while n > stride * limit:
        stride *= 2
    rows = np.arange(0, n, stride, dtype=np.int64)
    return rows if rows[-1] == n - 1 else np.append(rows, n - 1)


def window_yield(
    is_transition: ArrayLike, window: int = 100, level: float = 0.95, *, rows: ArrayLike | None = None
) -> Band:
    """Return transitions per shot over the last ``window`` shots up to each, with exact binomial intervals.

    The first shots have a shorter window: all shots so far.

    Parameters
    ----------
    is_transition : (n_shots,)
    window : shots
    level : of the intervals
    rows : (n,) shots up to which to look, each by default: intervals take time

    Returns
    -------
    Band of (n,)
    """
    hits = np.cumsum(np.asarray(is_transition, dtype=np.int64))
    at = np.arange(len(hits)) if rows is None else np.asarray(rows, dtype=np.int64)
    n = np.minimum(at + 1, window)
    k = hits[at] - np.where(at >= window, hits[np.maximum(at - window, 0)], 0)
    lower, upper = clopper_pearson(k, n, level)
    return Band(value=k / n, lower=lower, upper=upper)


def cumulative_transitions(is_transition: ArrayLike) -> Series:
    """Return the number of transitions after each shot, and how far a repetition of the run may differ.

    The variance after n shots is ``n p (1 - p) g`` with ``p = (k + 1) / (n + 2)``, which is certain of nothing, and the
    statistical inefficiency g of the whole series, 1 at least.
    """
    data = np.asarray(is_transition, dtype=float)
    n, k = np.arange(1, len(data) + 1), np.cumsum(data)
    p = (k + 1) / (n + 2)
    return Series(value=k, error=np.sqrt(n * p * (1 - p) * max(1.0, statistical_inefficiency(data))))


def transitions_per_md_step(is_transition: ArrayLike, md_steps: ArrayLike) -> Estimate:
    """Return transitions per integration step.

    A ratio of sums, ``r = sum k / sum m``; its error is that of the sum of ``k - r m`` (linearised), which knows that
    long shots may end otherwise than short ones. Without a transition the error is that of one.

    Parameters
    ----------
    is_transition, md_steps : (n_shots,) of each shot
    """
    k, m = np.asarray(is_transition, dtype=float), np.asarray(md_steps, dtype=float)
    total = m.sum()
    if total == 0:
        return Estimate(value=np.nan, error=np.nan)
    rate = float(k.sum() / total)
    if len(k) < 2 or not k.any():
        return Estimate(value=rate, error=float(1 / total))
    rest = k - rate * m
    variance = len(k) * rest.var(ddof=1) * statistical_inefficiency(rest)
    return Estimate(value=rate, error=float(np.sqrt(variance) / total))


def quotient(numerator: Estimate, denominator: Estimate) -> Estimate:
    """Return how many times one independent number is another, its error to first order; nan for none.

    >>> ratio = quotient(Estimate(value=0.4, error=0.03), Estimate(value=0.1, error=0.01))
    >>> round(ratio.value, 3), round(ratio.error, 3)
    (4.0, 0.5)
    """
    if not numerator.value or not denominator.value:
        return Estimate(value=np.nan, error=np.nan)
    value = numerator.value / denominator.value
    relative = np.hypot(numerator.error / numerator.value, denominator.error / denominator.value)
    return Estimate(value=value, error=float(abs(value) * relative))


def mean_over_runs(x: Sequence[ArrayLike], y: Sequence[Series], points: int = 400) -> tuple[Float64Array, Series]:
    """Return the mean of several runs' curves where all of them are known, with its standard error.

    The error is that of the runs' own or the one their spread tells, whichever is larger: a few runs may agree by
    chance.

    Parameters
    ----------
    x : increasing, one array (n_i,) per run
    y : one series of (n_i,) per run, interpolated linearly

    Returns
    -------
    x (n,) from the last of the beginnings to the first of the ends, at most ``points`` values, and the mean there
    """
    xs = [np.asarray(each, dtype=float) for each in x]
    nothing = np.empty(0), Series(value=np.empty(0), error=np.empty(0))
    if not xs or not all(map(len, xs)):
        return nothing
    first, last = max(each[0] for each in xs), min(each[-1] for each in xs)
    if last < first:
        return nothing
    if len(xs) == 1:
        return xs[0], y[0]
    n = min(points, max(map(len, xs)))
    grid = np.linspace(first, last, n) if last > first else np.array([first])
    values, errors = (
        np.stack([np.interp(grid, at, getattr(series, what)) for at, series in zip(xs, y, strict=True)])
        for what in ("value", "error")
    )
    spread = values.std(axis=0, ddof=1) / np.sqrt(len(xs))
    own = np.sqrt((errors**2).sum(axis=0)) / len(xs)
    return grid, Series(value=values.mean(axis=0), error=np.fmax(spread, own))


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates of one number; what is not known (nan) is left out.

    Its error is that of theirs or the one their spread tells, whichever is larger: a few may agree by chance.

    >>> round(pooled([Estimate(value=1.0, error=0.1), Estimate(value=2.0, error=0.1)]).error, 3)
    0.5
    """
    known = [each for each in estimates if np.isfinite(each.value)]
    if not known:
        return Estimate(value=np.nan, error=np.nan)
    values, errors = np.array([each.value for each in known]), np.array([each.error for each in known])
    own = np.sqrt((errors**2).sum()) / len(known)
    spread = values.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
    return Estimate(value=float(values.mean()), error=float(np.fmax(own, spread)))


def agreement(x: ArrayLike, y: ArrayLike) -> Agreement:
    """Return how well two predictions (n,) of the same points agree.

    >>> found = agreement([0.0, 0.5, 1.0], [0.1, 0.6, 1.1])
    >>> round(found.r_squared, 6), round(found.rmse, 6)
    (1.0, 0.1)
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    n = len(a)
    rmse = float(np.sqrt(np.mean((a - b) ** 2))) if n else np.nan
    if n < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Agreement(r_squared=np.nan, rmse=rmse, n=n)
    return Agreement(r_squared=float(np.corrcoef(a, b)[0, 1] ** 2), rmse=rmse, n=n)
