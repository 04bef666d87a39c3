"""Laws of the numbers along a run and across runs, each against brute force or repetition, with controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from separatrix.estimates import (
    Estimate,
    Series,
    agreement,
    clopper_pearson,
    cumulative_transitions,
    mean_over_runs,
    pooled,
    quotient,
    thinned,
    transition_yield,
    transitions_per_md_step,
    window_yield,
)

outcomes = hnp.arrays(bool, st.integers(0, 300))
predictions = hnp.arrays(float, st.integers(2, 60), elements=st.floats(0, 1, width=32))


def correlated(rng, n, p, stay):
    """Return outcomes (n,) of a chain that keeps its last outcome with probability ``stay``."""
    fresh, kept = rng.random(n) < p, rng.random(n) < stay
    result = np.empty(n, dtype=bool)
    last = fresh[0]
    for i in range(n):
        last = last if kept[i] else fresh[i]
        result[i] = last
    return result


# Rows that are shown.


@given(n=st.integers(0, 5000), limit=st.integers(1, 100))
def test_thinned_rows_are_few_and_even_and_end_with_the_last(n, limit):
    rows = thinned(n, limit)
    assert len(rows) <= limit + 1
    if n == 0:
        assert len(rows) == 0
        return
    assert (rows[0], rows[-1]) == (0, n - 1)
    assert len(set(np.diff(rows)[:-1].tolist())) <= 1
    assert (np.diff(rows) > 0).all()
    if n <= limit:
        assert rows.tolist() == list(range(n))
    else:
        assert len(rows) > limit / 2


@given(n=st.integers(1, 3000), more=st.integers(1, 50), limit=st.integers(4, 100))
def test_what_is_shown_stays_while_a_series_grows(n, more, limit):
    before, after = thinned(n, limit)[:-1], thinned(n + more, limit)
    stride = np.diff(after)[0] if len(after) > 1 else 1
    assert set(before[before % stride == 0]) <= set(after)


# The yield in a window.


@given(data=outcomes, window=st.integers(1, 120))
def test_a_window_counts_the_last_shots(data, window):
    band = window_yield(data, window)
    parts = [data[max(0, i + 1 - window) : i + 1] for i in range(len(data))]
    lower, upper = clopper_pearson([part.sum() for part in parts], [len(part) for part in parts])
    assert band.value == pytest.approx(np.array([part.mean() for part in parts]))
    assert band.lower == pytest.approx(lower)
    assert band.upper == pytest.approx(upper)
    assert ((band.lower <= band.value) & (band.value <= band.upper)).all()
    rows = thinned(len(data), 10)
    some = window_yield(data, window, rows=rows)
    for name in ("value", "lower", "upper"):
        np.testing.assert_array_equal(getattr(some, name), getattr(band, name)[rows])


def test_a_window_forgets():
    data = np.arange(300) >= 150
    assert window_yield(data, 100).value[[149, 199, 299]].tolist() == [0.0, 0.5, 1.0]
    assert window_yield(data, 300).value[-1] == 0.5


# Counts and rates.


@given(data=outcomes)
def test_the_last_count_is_the_yield_times_the_shots(data):
    series = cumulative_transitions(data)
    assert series.value.tolist() == np.cumsum(data).tolist()
    assert (series.error > 0).all()
    if len(data):
        assert series.value[-1] == pytest.approx(transition_yield(data).value * len(data))


@pytest.mark.statistics
@pytest.mark.parametrize("stay", [0.0, 0.6])
def test_the_error_of_a_count_is_its_spread_over_runs(stay):
    rng = np.random.default_rng(5)
    series = [cumulative_transitions(correlated(rng, 400, 0.3, stay)) for _ in range(400)]
    spread = np.std([each.value[-1] for each in series])
    told = np.sqrt(np.mean([each.error[-1] ** 2 for each in series]))
    assert told == pytest.approx(spread, rel=0.15)
    independent = np.sqrt(400 * 0.3 * 0.7)  # the control: without correlation
    assert (abs(independent / spread - 1) > 0.3) == (stay > 0)


@pytest.mark.statistics
def test_the_error_of_a_rate_is_its_spread_over_runs():
    rng = np.random.default_rng(6)
    rates, wrong = [], []
    for _ in range(500):
        hits = rng.random(300) < 0.4
        md_steps = rng.exponential(np.where(hits, 100.0, 900.0))  # transitions come from the short shots
        rates.append(transitions_per_md_step(hits, md_steps))
        wrong.append(transition_yield(hits).error / md_steps.mean())  # the control: lengths without an error
    spread = np.std([rate.value for rate in rates])
    assert np.mean([rate.error for rate in rates]) == pytest.approx(spread, rel=0.1)
    assert abs(np.mean(wrong) / spread - 1) > 0.2
    expected = 0.4 / (0.4 * 100 + 0.6 * 900)
    assert np.mean([rate.value for rate in rates]) == pytest.approx(expected, rel=0.03)


@given(data=hnp.arrays(bool, st.integers(1, 50)), scale=st.floats(0.1, 1e4))
def test_a_rate_has_the_unit_of_its_steps(data, scale):
    steps = np.arange(1.0, len(data) + 1)
    one, other = transitions_per_md_step(data, steps), transitions_per_md_step(data, scale * steps)
    assert other.value * scale == pytest.approx(one.value)
    assert other.error * scale == pytest.approx(one.error)


def test_a_rate_without_shots_is_not_known_and_one_without_transitions_is_no_certainty():
    assert np.isnan(transitions_per_md_step([], []).value)
    assert np.isnan(transitions_per_md_step([False], [0]).value)
    nothing = transitions_per_md_step([False] * 10, [50] * 10)
    assert (nothing.value, nothing.error) == (0.0, 1 / 500)


# Across runs.

estimates = st.builds(Estimate, value=st.floats(0.1, 100), error=st.floats(0.001, 10))


@given(one=estimates, other=estimates)
def test_a_quotient_and_its_inverse_have_one_relative_error(one, other):
    there, back = quotient(one, other), quotient(other, one)
    assert there.value * back.value == pytest.approx(1)
    assert there.error / there.value == pytest.approx(back.error / back.value)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_quotient_with_nothing_is_not_known(value):
    for pair in ((0.5, value), (value, 0.5)):
        assert np.isnan(quotient(*(Estimate(value=each, error=0.1) for each in pair)).value)


@given(each=st.lists(estimates, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_pooled_number_is_the_mean_in_any_order_and_leaves_out_the_unknown(each, seed):
    found = pooled(each)
    shuffled = [each[i] for i in np.random.default_rng(seed).permutation(len(each))]
    assert found.value == pytest.approx(np.mean([one.value for one in each]))
    assert pooled(shuffled).error == pytest.approx(found.error)
    assert pooled([*each, Estimate(value=np.nan, error=np.nan)]) == found
    own = np.sqrt(sum(one.error**2 for one in each)) / len(each)
    assert found.error >= own * (1 - 1e-12)
    if len(each) == 1:
        assert (found.value, found.error) == pytest.approx((each[0].value, each[0].error))


def test_nothing_pooled_is_not_known():
    assert np.isnan(pooled([]).value)


def series(value, error=None):
    """Return a series with an error of a tenth of a value, or the one given."""
    value = np.asarray(value, dtype=float)
    return Series(value=value, error=0.1 * value if error is None else np.asarray(error, dtype=float))


@given(slopes=st.lists(st.floats(0.1, 10), min_size=2, max_size=5), ends=st.lists(st.integers(5, 60), min_size=5))
def test_the_mean_of_lines_is_a_line_as_far_as_all_of_them_reach(slopes, ends):
    x = [np.arange(end + 1) for end in ends[: len(slopes)]]
    y = [series(slope * at) for slope, at in zip(slopes, x, strict=True)]
    grid, mean = mean_over_runs(x, y)
    assert (grid[0], grid[-1]) == (0, min(ends[: len(slopes)]))
    assert mean.value == pytest.approx(np.mean(slopes) * grid)
    spread = np.std(slopes, ddof=1) / np.sqrt(len(slopes))
    own = 0.1 * np.sqrt(np.sum(np.square(slopes))) / len(slopes)
    assert mean.error == pytest.approx(max(spread, own) * grid)


def test_a_single_run_is_its_own_mean():
    x, y = np.array([0.0, 1.0, 5.0]), series([0.0, 2.0, 3.0])
    grid, mean = mean_over_runs([x], [y])
    assert grid is x
    assert mean is y


def test_an_error_that_is_not_known_leaves_that_of_the_spread():
    x = [np.arange(3.0)] * 2
    y = [series([1.0, 1.0, 1.0], [np.nan, 0.1, 0.1]), series([3.0, 3.0, 3.0], [np.nan, 0.1, 5.0])]
    _, mean = mean_over_runs(x, y)
    assert mean.error == pytest.approx([1.0, 1.0, np.hypot(0.1, 5) / 2])


@pytest.mark.parametrize("x", [[], [[]], [[], [1.0]], [[1.0, 2.0], [3.0, 4.0]]])
def test_runs_that_share_nothing_have_no_mean(x):
    grid, mean = mean_over_runs(x, [series(each) for each in x])
    assert len(grid) == len(mean.value) == len(mean.error) == 0


def test_runs_that_share_one_place_have_one_value():
    grid, mean = mean_over_runs([[0.0, 1.0], [1.0, 2.0]], [series([0.0, 4.0]), series([2.0, 9.0])])
    assert (grid.tolist(), mean.value.tolist()) == ([1.0], [3.0])


# Two predictions.


@given(x=predictions, seed=st.integers(0, 99))
def test_agreement_is_the_squared_correlation(x, seed):
    y = np.clip(x + np.random.default_rng(seed).normal(0, 0.1, len(x)), 0, 1)
    found = agreement(x, y)
    assert found.n == len(x)
    assert found.rmse == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    if np.ptp(x) > 1e-3 and np.ptp(y) > 1e-3:
        assert found.r_squared == pytest.approx(stats.pearsonr(x, y).statistic ** 2, abs=1e-6)
    assert agreement(y, x).rmse == pytest.approx(found.rmse)


def test_agreement_tells_a_shift_from_noise():
    x = np.linspace(0, 1, 50)
    assert agreement(x, x).rmse == 0
    assert agreement(x, x + 0.2).r_squared == pytest.approx(1)
    assert agreement(x, x + 0.2).rmse == pytest.approx(0.2)
    assert agreement(x, np.random.default_rng(1).random(50)).r_squared < 0.2


def test_agreement_without_points_or_spread_is_not_known():
    assert np.isnan(agreement([], []).rmse)
    assert np.isnan(agreement([0.5, 0.5], [0.1, 0.2]).r_squared)
