"""Predicted committors held against trajectories: losses, calibration, R^2 and RMSE, with the noise of counting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from separatrix.estimates.shots import Estimate, Float64Array, calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What any predictor of p_B can reach on given counts.

    Attributes
    ----------
    null_loss : log-loss per trajectory of a constant, the overall share of B
    saturated_loss : of the observed frequencies themselves; no predictor does better
    ceiling : R^2 that a perfect predictor would have in expectation; its error is the jackknife's
    n_points, n_trials : configurations and trajectories that count
    """

    null_loss: float
    saturated_loss: float
    ceiling: Estimate
    n_points: int
    n_trials: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; what is not known is None."""
        return {
            "null_loss": _plain(self.null_loss),
            "saturated_loss": _plain(self.saturated_loss),
            "r_squared_ceiling": _plain(self.ceiling.value),
            "r_squared_ceiling_error": _plain(self.ceiling.error),
            "n_points": self.n_points,
            "n_trials": self.n_trials,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How well a predictor of p_B does; nan for what the counts leave open, and where a prediction is no number.

    Attributes
    ----------
    loss : log-loss per trajectory; chance is ln 2
    entropy : the loss that it would have if every one of its probabilities were right
    explained : its share of the way from the null model's loss to the saturated model's
    slope, intercept : of ``logit P(B) = intercept + slope q``, with binomial errors; 1 and 0 for a calibrated predictor
    r_squared : ``1 - sum (f - p)^2 / sum (f - mean f)^2`` of the observed frequencies f, below 0 for a predictor that
        is worse than a constant; to be read beside `Bounds.ceiling`
    rmse : root mean square error of p_B, the noise of counting taken off; 0 when all that is seen may be noise. Its
        error reaches one standard error of the mean square upwards
    n_undefined : configurations where the prediction is no number
    """

    loss: Estimate
    entropy: float
    explained: Estimate
    slope: Estimate
    intercept: Estimate
    r_squared: Estimate
    rmse: Estimate
    n_undefined: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; what is not known is None."""
        named = ("loss", "explained", "slope", "intercept", "r_squared", "rmse")
        numbers: dict[str, Any] = {"entropy": _plain(self.entropy), "n_undefined": self.n_undefined}
        for name in named:
            estimate: Estimate = getattr(self, name)
            numbers |= {name: _plain(estimate.value), f"{name}_error": _plain(estimate.error)}
        return numbers


def bounds(n_A: ArrayLike, n_B: ArrayLike, blocks: ArrayLike | None = None) -> Bounds:
    r"""Return what any predictor can reach.

    The variance of a frequency f = k/n about p is ``p (1 - p) / n``, without bias estimated by ``f (1 - f) / (n - 1)``.
    A perfect predictor has that as its mean square residual, so that the ceiling of R^2 is

    ``1 - sum f (1 - f) / (n - 1) / sum (f - mean f)^2``,

    over the configurations with two trajectories or more; single ones tell nothing of their noise.

    Parameters
    ----------
    n_A, n_B : (n,) trajectories that ended in each state; configurations without any are left out
    blocks : (n,) numbers of blocks left out together by the jackknife, for correlated rows; by default each row is one
    """
    rows, block = _rows(n_A, n_B, None, blocks)
    ceiling = _jackknife(rows, block, _ceiling)
    total = rows.sum(axis=0)
    return Bounds(
        null_loss=_jackknife(rows, block, _null).value,
        saturated_loss=_jackknife(rows, block, _saturated).value,
        ceiling=ceiling,
        n_points=len(rows),
        n_trials=int(total[_N]),
    )


def scores(q: ArrayLike, n_A: ArrayLike, n_B: ArrayLike, blocks: ArrayLike | None = None) -> Scores:
    """Hold predicted logits against counts.

    Standard errors come from the jackknife over configurations (those of slope and intercept from the curvature of the
    likelihood): they tell of the noise of counting and of the choice of configurations.

    Parameters
    ----------
    q : (n,) predicted logits of p_B
    n_A, n_B : (n,) trajectories that ended in each state; configurations without any are left out
    blocks : as of `bounds`
    """
    logits = np.asarray(q, dtype=float)
    counted = np.asarray(n_A, dtype=float) + np.asarray(n_B, dtype=float) > 0
    n_undefined = int((~np.isfinite(logits[counted])).sum())
    rows, block = _rows(n_A, n_B, logits, blocks)
    if n_undefined or not len(rows):
        unknown = Estimate(value=math.nan, error=math.nan)
        return Scores(
            loss=unknown,
            entropy=math.nan,
            explained=unknown,
            slope=unknown,
            intercept=unknown,
            r_squared=unknown,
            rmse=unknown,
            n_undefined=n_undefined,
        )
    fit = calibration(logits, n_A, n_B)
    total, square = rows.sum(axis=0), _jackknife(rows, block, _mean_square)
    return Scores(
        loss=_jackknife(rows, block, _loss),
        entropy=float(total[_ENTROPY] / total[_N]),
        explained=_jackknife(rows, block, _explained),
        slope=fit.slope,
        intercept=fit.intercept,
        r_squared=_jackknife(rows, block, _r_squared),
        rmse=_root(square),
        n_undefined=0,
    )


def evenly_spread(p: ArrayLike, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose n rows whose p is spread as evenly over [0, 1] as the rows allow.

    One row is drawn at random from each of n equal strata. An empty stratum takes the row nearest to its middle among
    those that are left.

    Parameters
    ----------
    p : (m,) in [0, 1], m >= n

    Returns
    -------
    (n,) rows, none of them twice, in the order of their strata

    Examples
    --------
    >>> evenly_spread([0.9, 0.1, 0.6, 0.95], 2, np.random.default_rng(0)).tolist()[0]
    1
    >>> evenly_spread([0.9, 0.3, 0.2], 3, np.random.default_rng(0)).tolist()  # nothing between 1/3 and 2/3
    [2, 1, 0]
    """
    values = np.asarray(p, dtype=float)
    stratum = np.minimum((values * n).astype(int), n - 1)
    order = rng.permutation(len(values))
    chosen = np.full(n, -1)
    filled, first = np.unique(stratum[order], return_index=True)  # the first of a random order is a random one
    chosen[filled] = order[first]
    left = np.ones(len(values), dtype=bool)
    left[chosen[chosen >= 0]] = False
    for place in np.flatnonzero(chosen < 0).tolist():
        distance = np.where(left, np.abs(values - (place + 0.5) / n), np.inf)
        chosen[place] = int(np.argmin(distance))
        left[chosen[place]] = False
    return chosen.astype(np.int64)


# Sums over configurations; every statistic is a function of them, and so is its jackknife.
_N, _K, _SATURATED, _ONE, _F, _F_SQUARED, _NOISE, _LOSS, _ENTROPY, _RESIDUAL = range(10)


def _rows(
    n_A: ArrayLike, n_B: ArrayLike, q: Float64Array | None, blocks: ArrayLike | None
) -> tuple[Float64Array, NDArray[np.int64]]:
    """Return what every configuration adds to the sums, (n, 10), and the number of its block, (n,) from 0 on."""
    a, b = np.asarray(n_A, dtype=float), np.asarray(n_B, dtype=float)
    counted = a + b > 0
    k, n = b[counted], (a + b)[counted]
    block = np.arange(len(k)) if blocks is None else np.unique(np.asarray(blocks)[counted], return_inverse=True)[1]
    rows = np.zeros((len(k), 10))
    f = k / n
    several = n > 1
    rows[:, _N], rows[:, _K], rows[:, _SATURATED] = n, k, n * _entropy(f)
    rows[:, _ONE], rows[:, _F], rows[:, _F_SQUARED] = several, f * several, f**2 * several
    rows[:, _NOISE] = f * (1 - f) / np.maximum(n - 1, 1) * several
    if q is not None:
        logits = q[counted]
        p = special.expit(logits)
        with np.errstate(invalid="ignore"):  # what is no number is told as such
            rows[:, _LOSS] = n * np.logaddexp(0.0, logits) - k * logits
        rows[:, _ENTROPY], rows[:, _RESIDUAL] = n * _entropy(p), (f - p) ** 2 * several
    return rows, np.asarray(block, dtype=np.int64)


def _entropy(p: Any) -> Any:
    return special.entr(p) + special.entr(1.0 - p)


def _null(sums: Float64Array) -> Any:
    return _entropy(sums[..., _K] / sums[..., _N])


def _saturated(sums: Float64Array) -> Any:
    return sums[..., _SATURATED] / sums[..., _N]


def _loss(sums: Float64Array) -> Any:
    return sums[..., _LOSS] / sums[..., _N]


def _explained(sums: Float64Array) -> Any:
    null = _null(sums)
    return (null - _loss(sums)) / (null - _saturated(sums))


def _spread(sums: Float64Array) -> Any:
    squares = sums[..., _F_SQUARED] - sums[..., _F] ** 2 / sums[..., _ONE]
    return np.where(squares > 1e-12 * sums[..., _ONE], squares, np.nan)  # equal frequencies leave rounding errors


def _ceiling(sums: Float64Array) -> Any:
    return 1.0 - sums[..., _NOISE] / _spread(sums)


def _r_squared(sums: Float64Array) -> Any:
    return 1.0 - sums[..., _RESIDUAL] / _spread(sums)


def _mean_square(sums: Float64Array) -> Any:
    return (sums[..., _RESIDUAL] - sums[..., _NOISE]) / sums[..., _ONE]


def _jackknife(rows: Float64Array, block: NDArray[np.int64], statistic: Any) -> Estimate:
    """Return a statistic of the sums over all rows, with its delete-a-block jackknife error (Efron & Stein 1981)."""
    n_blocks = int(block.max()) + 1 if len(block) else 0
    parts = np.zeros((n_blocks, rows.shape[1]))
    np.add.at(parts, block, rows)
    total = parts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # nan is told as what is not known
        value = float(statistic(total))
        others = np.asarray(statistic(total - parts), dtype=float)
    if not math.isfinite(value):
        return Estimate(value=math.nan, error=math.nan)
    if n_blocks < 2 or not np.isfinite(others).all():
        return Estimate(value=value, error=math.nan)
    variance = (n_blocks - 1) / n_blocks * float(((others - others.mean()) ** 2).sum())
    return Estimate(value=value, error=math.sqrt(variance))


def _root(square: Estimate) -> Estimate:
    """Return the root of a mean square that the noise may have made negative."""
    if not math.isfinite(square.value):
        return square
    positive = max(square.value, 0.0)
    root = math.sqrt(positive)
    return Estimate(value=root, error=math.sqrt(positive + square.error) - root)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
