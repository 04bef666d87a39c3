"""Numbers of a run's shots: yield, calibration, transition times, and errors that know of correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Float64Array = NDArray[np.float64]

_NEWTON_STEPS = 50
_HISTOGRAM_BINS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A number that grew with the run, and its standard error, after every shot: two arrays (n_shots,)."""

    value: Float64Array
    error: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How well predicted logits agree with what the shots did.

    Attributes
    ----------
    slope, intercept : of ``logit P(B) = intercept + slope q``; 1 and 0 for a calibrated model, a slope below 1 for an
        over-confident one; nan when the shots do not determine them
    edges : (n_bins + 1,) edges of the bins of predicted p_B
    n_ends : (n_bins, 2) half-trajectories that ended in A and in B
    predicted : (n_bins,) mean predicted p_B, nan in an empty bin
    observed, lower, upper : (n_bins,) sampled p_B with its exact 95 % interval; nan, 0 and 1 in an empty bin
    n_shots : shots with a prediction
    """

    slope: Estimate
    intercept: Estimate
    edges: Float64Array
    n_ends: NDArray[np.int64]
    predicted: Float64Array
    observed: Float64Array
    lower: Float64Array
    upper: Float64Array
    n_shots: int

    def as_dict(self) -> dict[str, Any]:
        """Return the calibration as plain data for JSON; what is not known is None."""

        def plain(values: ArrayLike) -> list[float | None]:
            return [value if math.isfinite(value) else None for value in np.asarray(values, dtype=float).tolist()]

        slope, slope_error, intercept, intercept_error = plain(
            [self.slope.value, self.slope.error, self.intercept.value, self.intercept.error]
        )
        return {
            "slope": slope,
            "slope_error": slope_error,
            "intercept": intercept,
            "intercept_error": intercept_error,
            "n_shots": self.n_shots,
            "edges": self.edges.tolist(),
            "n_ends": self.n_ends.tolist(),
            "predicted": plain(self.predicted),
            "observed": plain(self.observed),
            "lower": plain(self.lower),
            "upper": plain(self.upper),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionTimes:
    """Durations of the transition paths, a rejected trial counting the old path once more.

    Attributes
    ----------
    times : (n_paths,) ps, from the last frame in one state to the first in the other
    weights : (n_paths,) how often each path counts
    mean : ps, with a standard error that knows of the correlation
    edges, density : weighted histogram, ps and 1/ps; empty without paths
    """

    times: Float64Array
    weights: NDArray[np.int64]
    mean: Estimate
    edges: Float64Array
    density: Float64Array


def clopper_pearson(successes: ArrayLike, trials: ArrayLike, level: float = 0.95) -> tuple[Float64Array, Float64Array]:
    """Return the exact binomial interval of a probability, as two arrays; 0 and 1 without trials.

    Source: Clopper & Pearson, Biometrika 26, 404 (1934).

    >>> low, high = clopper_pearson(3, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.067, 0.652)
    """
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    tail = (1 - level) / 2
    lower = np.where(k > 0, special.betaincinv(np.maximum(k, 1), n - np.minimum(k, n) + 1, tail), 0.0)
    upper = np.where(k < n, special.betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
    return lower, upper


def calibration(q: ArrayLike, n_A: ArrayLike, n_B: ArrayLike, bins: int = 10) -> Calibration:
    """Compare predicted logits with the outcomes of shots the model had not seen.

    Parameters
    ----------
    q : (n,) logits predicted for the shooting points; nan where there is no prediction
    n_A, n_B : (n,) half-trajectories that ended in each state
    bins : number of equal bins of p_B
    """
    logits, a, b = np.asarray(q, dtype=float), np.asarray(n_A, dtype=np.int64), np.asarray(n_B, dtype=np.int64)
    known = np.isfinite(logits) & (a + b > 0)
    logits, a, b = logits[known], a[known], b[known]
    p = special.expit(logits)
    index = np.minimum((p * bins).astype(int), bins - 1)
    shots = np.bincount(index, minlength=bins)
    n_ends = np.stack([np.bincount(index, ends, bins) for ends in (a, b)], axis=1).astype(np.int64)
    trials = n_ends.sum(axis=1)
    lower, upper = clopper_pearson(n_ends[:, 1], trials)
    intercept, slope = _recalibrate(logits, a, b)
    return Calibration(
        slope=slope,
        intercept=intercept,
        edges=np.linspace(0.0, 1.0, bins + 1),
        n_ends=n_ends,
        predicted=_ratio(np.bincount(index, p, bins), shots),
        observed=_ratio(n_ends[:, 1], trials),
        lower=lower,
        upper=upper,
        n_shots=len(logits),
    )


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Float64Array:
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    result: Float64Array = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return result


def _recalibrate(q: Float64Array, n_A: NDArray[np.int64], n_B: NDArray[np.int64]) -> tuple[Estimate, Estimate]:
    """Return intercept and slope of the logistic regression of outcomes on logits, by Newton's method."""
    unknown = Estimate(value=np.nan, error=np.nan)
    if len(q) < 2 or np.ptp(q) < 1e-6 or not n_A.any() or not n_B.any():
        return unknown, unknown
    design = np.stack([np.ones_like(q), q], axis=1)
    n = n_A + n_B
    parameters = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        p = special.expit(design @ parameters)
        information = design.T @ (design * (n * p * (1 - p))[:, None])
        if np.linalg.cond(information) > 1e12:  # outcomes separated by q: the slope runs to infinity
            return unknown, unknown
        change = np.linalg.solve(information, design.T @ (n_B - n * p))
        # A full Newton step can overshoot far from the solution; the cap keeps it within reach.
        parameters = parameters + change / max(1.0, float(np.abs(change).max()))
        if np.abs(change).max() < 1e-10:
            errors = np.sqrt(np.diag(np.linalg.inv(information)))
            intercept, slope = (
                Estimate(value=float(v), error=float(e)) for v, e in zip(parameters, errors, strict=True)
            )
            return intercept, slope
    return unknown, unknown


def statistical_inefficiency(values: ArrayLike) -> float:
    """Return the factor by which correlation in a series enlarges the variance of its mean.

    The series is halved into longer and longer blocks (Flyvbjerg & Petersen, J. Chem. Phys. 91, 461 (1989)); taken is
    the shortest block B with ``B^3 > 2 n g^2`` (Lee et al., Phys. Rev. E 83, 066706 (2011)).
    """
    data = np.asarray(values, dtype=float)
    n = len(data)
    if n < 4 or np.ptp(data) == 0:
        return 1.0
    first = data.var(ddof=1) / n
    block, largest = 1, 1.0
    while len(data) >= 4:
        factor = data.var(ddof=1) / len(data) / first
        largest = max(largest, factor)
        if block**3 > 2 * n * factor**2:
            return float(factor)
        data = 0.5 * (data[0 : len(data) // 2 * 2 : 2] + data[1::2])
        block *= 2
    return float(largest)


def mean_with_error(values: ArrayLike) -> Estimate:
    """Return the mean of a correlated series; nan for what too few values leave open."""
    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return Estimate(value=float(data[0]) if len(data) else np.nan, error=np.nan)
    error = np.sqrt(data.var(ddof=1) / len(data) * statistical_inefficiency(data))
    return Estimate(value=float(data.mean()), error=float(error))


def running_mean(values: ArrayLike) -> Series:
    """Return the mean of the first 1, 2, ... values; the correlation is that of the whole series."""
    data = np.asarray(values, dtype=float)
    n = np.arange(1, len(data) + 1)
    mean = np.cumsum(data) / n
    # Squares about the overall mean: about zero they would cancel for a series far from it.
    shifted = data - (data.mean() if len(data) else 0.0)
    spread = np.cumsum(shifted**2) - np.cumsum(shifted) ** 2 / n
    variance = np.divide(np.maximum(spread, 0.0), n - 1, out=np.full(len(data), np.nan), where=n > 1)
    return Series(value=mean, error=np.sqrt(variance / n * statistical_inefficiency(data)))


def transition_yield(is_transition: ArrayLike) -> Estimate:
    """Return transitions per shot.

    The error is never below the binomial one of ``(k + 1) / (n + 2)``: no transition in few shots is no certainty.
    """
    data = np.asarray(is_transition, dtype=float)
    estimate = mean_with_error(data)
    n = len(data)
    if n == 0:
        return estimate
    p = (data.sum() + 1) / (n + 2)
    floor = float(np.sqrt(p * (1 - p) / n))
    return Estimate(value=estimate.value, error=max(floor, estimate.error) if n > 1 else floor)


def expected_transitions(p_transition: ArrayLike) -> Series:
    """Return how many transitions the model foretold up to each shot, and how far chance alone may take the count.

    ``n_exp = sum p``, with variance ``sum p (1 - p)``; shots without a prediction (nan) add nothing.
    """
    p = np.nan_to_num(np.asarray(p_transition, dtype=float), nan=0.0)
    return Series(value=np.cumsum(p), error=np.sqrt(np.cumsum(p * (1 - p))))


def perfect_yield(scale: float) -> float:
    """Return the transitions per shot of a perfect committor with Lorentzian selection and density correction.

    ``int 2 p (1 - p) f dp / int f dp`` with ``f = scale / (scale^2 + q^2)`` and p uniform on [0, 1].

    >>> round(perfect_yield(1.0), 3)
    0.422
    """
    q = np.linspace(-40.0, 40.0, 40_001)
    density = special.expit(q) * special.expit(-q)  # dp/dq
    weight = density / (scale**2 + q**2)
    return float((2 * density * weight).sum() / weight.sum())


def path_multiplicities(chain: ArrayLike, accepted: ArrayLike) -> NDArray[np.int64]:
    """Return how often each shot's path counts: once when accepted, once more for every rejection that follows it.

    Parameters
    ----------
    chain : (n,) chain of every shot, in the order of their steps
    accepted : (n,) bool

    >>> path_multiplicities([0, 0, 1, 0, 1], [True, False, True, True, False]).tolist()
    [2, 0, 2, 1, 0]
    """
    chains, taken = np.asarray(chain), np.asarray(accepted, dtype=bool)
    result = np.zeros(len(chains), dtype=np.int64)
    for name in np.unique(chains):
        rows = np.flatnonzero(chains == name)
        at = np.flatnonzero(taken[rows])
        result[rows[at]] = np.diff(np.append(at, len(rows)))
    return result


def transition_times(
    chain: ArrayLike, accepted: ArrayLike, n_frames: ArrayLike, *, frame_time: float
) -> TransitionTimes:
    """Return the durations of the accepted paths with their multiplicities.

    Parameters
    ----------
    chain, accepted : (n_shots,) as for `path_multiplicities`
    n_frames : (n_shots,) saved frames of each path, both ends included
    frame_time : ps between saved frames
    """
    multiplicity = path_multiplicities(chain, accepted)
    all_times = (np.asarray(n_frames, dtype=float) - 1) * frame_time
    order = np.argsort(np.asarray(chain), kind="stable")  # the correlation lives along a chain
    mean = mean_with_error(np.repeat(all_times[order], multiplicity[order]))
    times, weights = all_times[multiplicity > 0], multiplicity[multiplicity > 0]
    if not len(times):
        empty = np.empty(0)
        return TransitionTimes(times=times, weights=weights, mean=mean, edges=empty, density=empty)
    # The last bin ends one frame beyond the longest path, so that a single duration has a width too.
    span = (times.min(), times.max() + frame_time)
    density, edges = np.histogram(times, bins=_HISTOGRAM_BINS, range=span, weights=weights, density=True)
    return TransitionTimes(times=times, weights=weights, mean=mean, edges=edges, density=density)
