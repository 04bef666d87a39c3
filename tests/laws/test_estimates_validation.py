"""Scores of predicted committors: known answers from simulated counts, and predictors that must score low."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from separatrix.estimates import bounds, evenly_spread, scores

TRUE = (np.arange(30) + 0.5) / 30
Q = special.logit(TRUE)
REPEATS = 300


def counts(rng, n, p=TRUE):
    """Return simulated ends of n trajectories from each configuration."""
    k = rng.binomial(n, p)
    return n - k, k


def near(values, expected, factor=4.0):
    """Assert that a mean agrees with what is expected, within standard errors of the mean."""
    values = np.asarray(values)
    assert abs(values.mean() - expected) < factor * values.std(ddof=1) / math.sqrt(len(values)), (
        values.mean(),
        expected,
    )


@pytest.mark.statistics
@pytest.mark.parametrize("n", [5, 50])
def test_a_perfect_predictor_reaches_the_ceiling_on_average(n):
    rng = np.random.default_rng(n)
    drawn = [counts(rng, n) for _ in range(REPEATS)]
    reached = np.array([scores(Q, *ends).r_squared.value for ends in drawn])
    ceilings = np.array([bounds(*ends).ceiling.value for ends in drawn])
    near(reached - ceilings, 0.0)
    assert ceilings.mean() < {5: 0.75, 50: 0.97}[n]
    blurred = special.logit(0.15 + 0.7 * TRUE)
    worse = np.array([scores(blurred, *ends).r_squared.value for ends in drawn])
    assert (worse < reached).mean() > 0.9


@pytest.mark.statistics
def test_the_noise_of_counting_is_taken_off_the_rmse():
    rng, n, error = np.random.default_rng(1), 40, 0.08
    off = np.clip(TRUE + error * rng.choice([-1, 1], len(TRUE)), 0.01, 0.99)
    expected = np.mean((off - TRUE) ** 2)
    found = [scores(special.logit(off), *counts(rng, n)) for _ in range(REPEATS)]
    squares = np.array([score.rmse.value**2 for score in found])
    assert squares.mean() == pytest.approx(expected, rel=0.05)
    plain = [np.mean((counts(rng, n)[1] / n - off) ** 2) for _ in range(REPEATS)]
    assert np.mean(plain) > 1.5 * expected  # what it would be if the noise were left in
    perfect = [scores(Q, *counts(rng, n)).rmse for _ in range(REPEATS)]
    # Two standard errors of the mean square above zero happen to a perfect predictor in a few of a hundred cases.
    within = np.mean([rmse.value**2 <= 2 * ((rmse.value + rmse.error) ** 2 - rmse.value**2) for rmse in perfect])
    assert within > 0.9


@pytest.mark.statistics
def test_standard_errors_are_as_wide_as_results_scatter():
    rng = np.random.default_rng(2)
    slanted = 1.4 * Q + 0.3
    found = []
    for _ in range(REPEATS):
        p = rng.uniform(0.02, 0.98, 40)
        found.append((scores(1.4 * special.logit(p) + 0.3, *counts(rng, 30, p)), counts(rng, 30)))
    for name in ("loss", "explained", "r_squared", "slope", "intercept"):
        estimates = [getattr(score, name) for score, _ in found]
        scatter = np.std([estimate.value for estimate in estimates], ddof=1)
        assert np.mean([estimate.error for estimate in estimates]) == pytest.approx(scatter, rel=0.25), name
    slopes = np.array([scores(slanted, *ends).slope.value for _, ends in found])
    near(slopes, 1 / 1.4, factor=8.0)  # maximum likelihood leans to steep slopes a little


@pytest.mark.statistics
def test_bad_predictors_score_low():
    ends = counts(np.random.default_rng(3), 50)
    limits, good = bounds(*ends), scores(Q, *ends)
    assert limits.saturated_loss < good.loss.value < limits.null_loss < math.log(2) + 1e-9
    assert good.loss.value == pytest.approx(good.entropy, abs=0.02)
    assert good.explained.value > 0.9
    assert good.r_squared.value > 0.9
    assert good.slope.value == pytest.approx(1.0, abs=5 * good.slope.error)
    constant, reversed_, loud = (scores(q, *ends) for q in (np.full_like(Q, 0.1), -Q, 5 * Q))
    for bad in (constant, reversed_, loud):
        assert bad.r_squared.value < 0.7
        assert bad.rmse.value > 0.1
        assert bad.loss.value > good.loss.value
    assert constant.r_squared.value < 0.01
    assert math.isnan(constant.slope.value)
    assert reversed_.slope.value == pytest.approx(-good.slope.value)
    assert loud.slope.value == pytest.approx(good.slope.value / 5)
    assert loud.entropy < loud.loss.value - 0.2


def test_losses_are_those_of_their_definitions():
    a, b, q = np.array([3, 0, 10, 0]), np.array([1, 4, 10, 0]), np.array([-1.0, 2.0, 0.5, np.nan])
    limits, score = bounds(a, b), scores(q, a, b)
    p = special.expit(q[:3])
    f, n = b[:3] / (a + b)[:3], (a + b)[:3]
    total = n.sum()

    def loss(chance):
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.nansum(b[:3] * np.log(chance) + a[:3] * np.log(1 - chance)) / total

    assert (limits.n_points, limits.n_trials) == (3, 28)  # nothing ended from the last one, so it does not count
    assert limits.null_loss == pytest.approx(loss(np.full(3, 15 / 28)))
    own = special.xlogy(b[:3], f) + special.xlogy(a[:3], 1 - f)
    assert limits.saturated_loss == pytest.approx(-own.sum() / total)
    assert score.loss.value == pytest.approx(loss(p))
    assert score.entropy == pytest.approx(-(n * (p * np.log(p) + (1 - p) * np.log(1 - p))).sum() / total)
    spread = ((f - f.mean()) ** 2).sum()
    assert score.r_squared.value == pytest.approx(1 - ((f - p) ** 2).sum() / spread)
    noise = (f * (1 - f) / (n - 1)).sum()
    assert limits.ceiling.value == pytest.approx(1 - noise / spread)
    assert score.rmse.value == pytest.approx(math.sqrt(max(0.0, (((f - p) ** 2).sum() - noise) / 3)))
    off = scores([-4.0, -2.0, -3.0], a[:3], b[:3]).rmse
    squares = ((f - special.expit([-4.0, -2.0, -3.0])) ** 2).sum()
    assert off.value == pytest.approx(math.sqrt((squares - noise) / 3))


def test_blocks_of_alike_rows_have_wider_errors():
    rng = np.random.default_rng(4)
    p = np.repeat(rng.uniform(0.1, 0.9, 30), 20)
    a, b = counts(rng, 2, p)
    alone = scores(special.logit(p), a, b).loss
    together = scores(special.logit(p), a, b, np.arange(len(p)) // 20).loss
    assert together.value == pytest.approx(alone.value)
    assert together.error > 1.3 * alone.error


@pytest.mark.parametrize(
    ("q", "a", "b"),
    [([], [], []), ([0.3], [0], [0]), ([0.3], [1], [0]), ([0.3], [3], [2]), ([0.3, 0.1], [2, 2], [2, 2])],
)
def test_what_the_counts_leave_open_is_not_known(q, a, b):
    limits, score = bounds(a, b), scores(q, a, b)
    for plain in (limits.as_dict(), score.as_dict()):
        assert all(value is None or math.isfinite(value) for value in plain.values())
    assert limits.as_dict()["r_squared_ceiling"] is None
    if sum(map(sum, (a, b))) < 8:
        assert score.as_dict()["slope"] is None


def test_a_prediction_that_is_no_number_has_no_scores_and_is_counted():
    score = scores([0.1, np.nan, np.inf, np.nan], [3, 2, 1, 0], [1, 2, 3, 0])
    assert score.n_undefined == 2
    assert score.as_dict() == dict.fromkeys(score.as_dict()) | {"n_undefined": 2}


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=60), share=st.floats(0.01, 1.0), seed=st.integers(0, 2**32 - 1))
def test_configurations_are_drawn_once_each_and_from_every_stratum(p, share, seed):
    n = max(1, int(share * len(p)))
    rows = evenly_spread(p, n, np.random.default_rng(seed))
    assert len(rows) == len(set(rows.tolist())) == n
    values = np.asarray(p)
    strata = np.minimum((values * n).astype(int), n - 1)
    for place in range(n):
        if place in strata:
            assert strata[rows[place]] == place
    assert rows.tolist() == evenly_spread(p, n, np.random.default_rng(seed)).tolist()


def test_every_row_of_a_stratum_can_be_drawn():
    p = [0.1, 0.2, 0.3, 0.9]
    drawn = {int(evenly_spread(p, 2, np.random.default_rng(seed))[0]) for seed in range(40)}
    assert drawn == {0, 1, 2}
