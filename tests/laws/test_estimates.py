"""Laws of the estimates, each against a closed form, another code, or a control that must fail."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, special, stats

from separatrix.errors import ConfigError
from separatrix.estimates import (
    Grid,
    calibration,
    clopper_pearson,
    exact_committor,
    exact_committors,
    expected_transitions,
    landscape_committor,
    landscape_energy,
    mean_with_error,
    path_multiplicities,
    perfect_yield,
    running_mean,
    statistical_inefficiency,
    transition_times,
    transition_yield,
    transitions_by_pair,
)

HUMMER_SZABO = "4*((x^2 - 1)^2 + (x - y)^2) + 2*z^2"
VARIABLES = {"x": "x(0)", "y": "y( 0 )", "r": "distance(0, 1)"}
DISCS = {"A": "(x + 1)^2 + (y + 1)^2 < 0.0625", "B": "(x - 1)^2 + (y - 1)^2 < 0.0625"}

short_series = hnp.arrays(float, st.integers(2, 60), elements=st.floats(-100, 100, width=32))


# The exact committor.


def strip(n, height=0.0, thermal=1.0, seed=None):
    """Return a map of V = 3 kT (x^2 - 1)^2 + height * W(y) between x = -1 and x = 1, and the closed form on x."""
    x, y = np.linspace(-1.25, 1.25, n), np.linspace(-1, 1, 21)
    mesh_x, mesh_y = np.meshgrid(x, y)
    rough = np.cos(3 * mesh_y) if seed is None else np.random.default_rng(seed).normal(size=21)[:, None]
    potential = thermal * 3 * (mesh_x**2 - 1) ** 2 + height * rough
    edge = 1e-9
    grid = exact_committor(potential, thermal, mesh_x <= -1 + edge, mesh_x >= 1 - edge, x, y)
    fine = np.linspace(-1, 1, 20_001)
    integral = integrate.cumulative_simpson(np.exp(3 * (fine**2 - 1) ** 2), x=fine, initial=0)
    return grid, np.interp(x, fine, integral / integral[-1])


def test_the_committor_of_one_dimension_is_the_closed_form():
    grid, expected = strip(101)
    assert np.abs(grid.values - expected).max() < 2e-4


@given(height=st.floats(0, 3), thermal=st.floats(0.1, 10), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_what_does_not_depend_on_x_does_not_matter(height, thermal, seed):
    grid, expected = strip(101, height=height * thermal, thermal=thermal, seed=seed)
    assert np.abs(grid.values - expected).max() < 2e-4


def test_the_error_falls_with_the_square_of_the_spacing():
    errors = [np.abs(grid.values - expected).max() for grid, expected in (strip(n) for n in (21, 41, 81, 161))]
    ratios = np.array(errors[:-1]) / errors[1:]
    assert (ratios > 3).all()


def test_the_closed_form_of_another_barrier_is_told_apart():
    grid, _ = strip(101)
    fine = grid.x
    integral = np.cumsum(np.where(np.abs(fine) <= 1, np.exp(2 * (fine**2 - 1) ** 2), 0))
    assert np.abs(grid.values - integral / integral[-1]).max() > 0.02


def test_discs_converge_with_the_grid_and_are_symmetric():
    maps = []
    for n in (51, 101, 201):
        x, y = np.linspace(-2, 2, n), np.linspace(-2.2, 2.2, n)
        maps.append(landscape_committor(HUMMER_SZABO, 1.0, VARIABLES, DISCS, x, y))
    for grid in maps:
        assert np.abs(grid.values + grid.values[::-1, ::-1] - 1).max() < 1e-9
    points = np.random.default_rng(0).uniform(-0.8, 0.8, (200, 2))
    coarse, middle, fine = (grid.at(points) for grid in maps)
    assert np.abs(middle - fine).max() < 0.005
    assert np.abs(middle - fine).max() < np.abs(coarse - fine).max()


@given(seed=st.integers(0, 2**32 - 1), roughness=st.floats(0, 4))
@settings(max_examples=20)
def test_committors_to_several_states_are_those_to_one_against_all_others(seed, roughness):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(-1, 1, 15)), np.sort(rng.uniform(-1, 1, 12))
    potential = rng.normal(0, roughness, (12, 15))
    states = {name: np.zeros((12, 15), bool) for name in "ABC"}
    states["A"][:2, :3] = states["B"][-3:, :2] = states["C"][4:7, -2:] = True
    maps = exact_committors(potential, 1.0, states, x, y)
    assert np.abs(sum(grid.values for grid in maps) - 1).max() < 1e-8
    for name, grid in zip("ABC", maps, strict=True):
        others = np.any([mask for other, mask in states.items() if other != name], axis=0)
        alone = exact_committor(potential, 1.0, others, states[name], x, y)
        np.testing.assert_allclose(grid.values, alone.values, atol=1e-9)
    pair = exact_committors(potential, 1.0, {"A": states["A"], "B": states["B"]}, x, y)
    np.testing.assert_array_equal(
        pair[1].values, exact_committor(potential, 1.0, states["A"], states["B"], x, y).values
    )
    with pytest.raises(ConfigError, match="share 6 cells"):
        exact_committors(potential, 1.0, states | {"D": states["A"]}, x, y)


@given(ends=hnp.arrays(np.int8, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(-1, 3)))
def test_every_transition_is_of_one_pair(ends):
    accepted = np.arange(len(ends)) % 2 == 0
    pairs = transitions_by_pair(ends, accepted, 4)
    connected = (ends[:, 0] != ends[:, 1]) & (ends >= 0).all(axis=1)
    assert [pair.states for pair in pairs] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert sum(pair.transitions for pair in pairs) == connected.sum()
    assert sum(pair.accepted for pair in pairs) == (connected & accepted).sum()
    for pair in pairs:
        found = sum({int(a), int(b)} == set(pair.states) for a, b in ends)
        assert pair.transitions == found
        assert np.isnan(pair.share.value) if not len(ends) else pair.share.value == pytest.approx(found / len(ends))


@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-50, 50), roughness=st.floats(0, 4))
@settings(max_examples=30)
def test_any_landscape_obeys_the_principles(seed, shift, roughness):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(-1, 1, 14)), np.sort(rng.uniform(-1, 1, 11))
    potential = rng.normal(0, roughness, (11, 14))
    in_a, in_b = np.zeros((11, 14), bool), np.zeros((11, 14), bool)
    in_a[:2, :3] = True
    in_b[-2:, -4:] = True
    grid = exact_committor(potential, 1.0, in_a, in_b, x, y)
    inside = grid.values[~(in_a | in_b)]
    assert (grid.values[in_a] == 0).all()
    assert (grid.values[in_b] == 1).all()
    assert ((inside > 0) & (inside < 1)).all()
    swapped = exact_committor(potential, 1.0, in_b, in_a, x, y)
    np.testing.assert_allclose(swapped.values, 1 - grid.values, atol=1e-9)
    scaled = exact_committor(3 * (potential + shift), 3.0, in_a, in_b, x, y)
    np.testing.assert_allclose(scaled.values, grid.values, atol=1e-9)
    turned = exact_committor(potential.T, 1.0, in_a.T, in_b.T, y, x)
    np.testing.assert_allclose(turned.values.T, grid.values, atol=1e-9)


def test_walls_and_holes_in_the_potential_do_no_harm():
    x = np.linspace(-3, 3, 61)
    mesh_x, mesh_y = np.meshgrid(x, x)
    potential = 1e6 * (mesh_x**2 - 1) ** 4 + 1e3 * mesh_y**2
    potential[0, 0], potential[5, 5] = np.inf, np.nan
    grid = exact_committor(potential, 1.0, mesh_x < -0.85, mesh_x > 0.85, x, x)
    assert np.isfinite(grid.values).all()
    assert np.abs(grid.at([[0.0, 0.0]]) - 0.5).max() < 1e-6


def test_two_hundred_by_two_hundred_cells_take_less_than_half_a_second():
    x, y = np.linspace(-2, 2, 200), np.linspace(-2.2, 2.2, 200)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        landscape_committor(HUMMER_SZABO, 1.0, VARIABLES, DISCS, x, y)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


def test_energies_lie_with_y_along_the_rows():
    energy = landscape_energy("x + 10*y + 100*z", [0.0, 1.0, 2.0], [0.0, 1.0], z=1.0)
    assert energy.tolist() == [[100, 101, 102], [110, 111, 112]]


@pytest.mark.parametrize(
    ("expression", "states", "words"),
    [
        (HUMMER_SZABO, {"A": DISCS["A"]}, "two states"),
        (HUMMER_SZABO, {**DISCS, "B": "r < 1"}, "uses r"),
        (HUMMER_SZABO, {**DISCS, "B": "x > 10"}, "'B' has no cell"),
        (HUMMER_SZABO, {**DISCS, "A": "x < -9"}, "'A' has no cell"),
        (HUMMER_SZABO, {**DISCS, "B": "x > -1"}, "share"),
        ("4*(x^2 - 1)^2 + (y - z)^2", DISCS, "z couples"),
    ],
)
def test_a_map_that_cannot_be_is_refused(expression, states, words):
    axis = np.linspace(-2, 2, 41)
    with pytest.raises(ConfigError, match=words) as raised:
        landscape_committor(expression, 1.0, VARIABLES, states, axis, axis)
    assert "\n" not in str(raised.value)


def test_arrays_of_the_wrong_shape_are_refused():
    axis = np.linspace(0, 1, 4)
    with pytest.raises(ConfigError, match=r"in_B of shape .* got \(3, 4\)"):
        exact_committor(np.zeros((4, 4)), 1.0, np.zeros((4, 4)), np.zeros((3, 4)), axis, axis)


@given(a=st.floats(-2, 2), b=st.floats(-2, 2), c=st.floats(-2, 2), seed=st.integers(0, 99))
def test_interpolation_is_exact_for_bilinear_functions(a, b, c, seed):
    rng = np.random.default_rng(seed)
    x, y = np.linspace(-1, 1, 6), np.array([0.0, 0.1, 0.5, 2.0])
    mesh_x, mesh_y = np.meshgrid(x, y)
    grid = Grid(x=x, y=y, values=a * mesh_x + b * mesh_y + c * mesh_x * mesh_y)
    px, py = rng.uniform(-1, 1, 30), rng.uniform(0, 2, 30)
    np.testing.assert_allclose(grid.at(np.stack([px, py], axis=1)), a * px + b * py + c * px * py, atol=1e-12)
    assert np.isnan(grid.at([[1.1, 0.0], [0.0, -0.1]])).all()
    assert grid.at([[1.0, 2.0]])[0] == pytest.approx(a + 2 * b + 2 * c)


# Intervals and calibration.


@given(n=st.integers(1, 200), fraction=st.floats(0, 1), level=st.sampled_from([0.68, 0.95, 0.99]))
def test_intervals_are_those_of_an_independent_code(n, fraction, level):
    k = round(n * fraction)
    expected = stats.binomtest(k, n).proportion_ci(level, method="exact")
    low, high = clopper_pearson(k, n, level)
    assert float(low) == pytest.approx(expected.low, abs=1e-9)
    assert float(high) == pytest.approx(expected.high, abs=1e-9)


def test_without_trials_everything_is_possible():
    low, high = clopper_pearson([0, 1], [0, 1])
    assert (low[0], high[0], high[1]) == (0, 1, 1)


def shots(slope, intercept=0.0, n=4000, seed=0):
    """Return logits predicted by a model and counts of halves drawn from ``intercept + slope q``."""
    rng = np.random.default_rng(seed)
    q = rng.normal(0, 2, n)
    n_b = rng.binomial(2, special.expit(intercept + slope * q))
    return q, 2 - n_b, n_b


@pytest.mark.statistics
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.3), (1.8, -0.4)])
def test_a_known_slope_is_found_again(slope, intercept):
    result = calibration(*shots(slope, intercept))
    assert abs(result.slope.value - slope) < 3 * result.slope.error < 0.2 * slope
    assert abs(result.intercept.value - intercept) < 3 * result.intercept.error < 0.3


@pytest.mark.statistics
def test_an_over_confident_model_is_found_out():
    honest, boastful = calibration(*shots(1.0)), calibration(*shots(0.5))
    assert abs(honest.slope.value - 1) < 3 * honest.slope.error
    assert boastful.slope.value + 5 * boastful.slope.error < 1
    assert ((honest.lower <= honest.predicted) & (honest.predicted <= honest.upper)).sum() >= 8
    assert ((boastful.lower <= boastful.predicted) & (boastful.predicted <= boastful.upper)).sum() <= 4


@pytest.mark.statistics
def test_standard_errors_of_the_slope_are_as_large_as_its_scatter():
    results = [calibration(*shots(0.8, 0.2, n=300, seed=seed)) for seed in range(300)]
    deviations = [(r.slope.value - 0.8) / r.slope.error for r in results]
    assert np.std(deviations) == pytest.approx(1, abs=0.15)
    deviations = [(r.intercept.value - 0.2) / r.intercept.error for r in results]
    assert np.std(deviations) == pytest.approx(1, abs=0.15)


def test_the_slope_is_that_of_a_general_minimiser():
    q, n_a, n_b = shots(0.7, 0.2, n=200)
    result = calibration(q, n_a, n_b)

    def gradient(intercept, slope):
        residual = n_b - (n_a + n_b) * special.expit(intercept + slope * q)
        return residual.sum(), (residual * q).sum()

    assert np.abs(gradient(result.intercept.value, result.slope.value)).max() < 1e-6


@given(
    q=hnp.arrays(float, 30, elements=st.one_of(st.floats(-900, 900), st.just(np.nan))),
    seed=st.integers(0, 99),
    bins=st.integers(1, 20),
)
def test_every_shot_with_a_prediction_is_counted_once(q, seed, bins):
    n_b = np.random.default_rng(seed).integers(0, 3, 30)
    result = calibration(q, 2 - n_b, n_b, bins)
    known = np.isfinite(q)
    assert result.n_shots == known.sum()
    assert result.n_ends.sum(axis=0).tolist() == [(2 - n_b)[known].sum(), n_b[known].sum()]
    filled = result.n_ends.sum(axis=1) > 0
    assert np.isfinite(result.predicted[filled]).all()
    tolerance = 1e-12
    assert (result.predicted[filled] >= result.edges[:-1][filled] - tolerance).all()
    assert (result.predicted[filled] <= result.edges[1:][filled] + tolerance).all()
    assert (result.lower[filled] <= result.observed[filled]).all()
    assert (result.observed[filled] <= result.upper[filled]).all()
    assert np.isnan(result.observed[~filled]).all()


@pytest.mark.parametrize(
    ("q", "n_a", "n_b"),
    [
        ([], [], []),
        ([0.3], [1], [1]),
        ([0.3, 0.3], [1, 1], [1, 1]),  # one logit says nothing of a slope
        ([-1.0, 1.0], [2, 0], [0, 2]),  # separated
        ([-1.0, 1.0], [2, 2], [0, 0]),  # one end only
        ([np.nan, np.nan], [1, 1], [1, 1]),
    ],
)
def test_shots_that_determine_no_slope_give_none(q, n_a, n_b):
    result = calibration(q, n_a, n_b)
    assert np.isnan(result.slope.value)
    assert np.isnan(result.intercept.error)
    assert result.n_ends.shape == (10, 2)


# Yields and series.


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.422), (0.5, 0.453), (2.0, 0.387), (1e-3, 0.5), (1e3, 1 / 3)])
def test_the_yield_of_a_perfect_committor(scale, expected):
    assert perfect_yield(scale) == pytest.approx(expected, abs=5e-4)


def autoregressive(memory, n, seed):
    noise = np.random.default_rng(seed).normal(size=n)
    series = np.empty(n)
    series[0] = noise[0] / np.sqrt(1 - memory**2)
    for i in range(1, n):
        series[i] = memory * series[i - 1] + noise[i]
    return series


@pytest.mark.statistics
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_errors_know_of_the_correlation(memory):
    n, n_series = 4096, 60
    series = [autoregressive(memory, n, seed) for seed in range(n_series)]
    expected = (1 + memory) / (1 - memory)
    assert np.median([statistical_inefficiency(s) for s in series]) == pytest.approx(expected, rel=0.25)
    deviations = [mean_with_error(s).value / mean_with_error(s).error for s in series]
    assert 0.7 < np.std(deviations) < 1.35
    naive = [s.mean() / (s.std() / np.sqrt(n)) for s in series]
    assert memory < 0.4 or np.std(naive) > 1.35  # control: errors that ignore it are too small


@given(values=short_series)
def test_the_running_mean_is_the_mean_of_every_beginning(values):
    series = running_mean(values)
    np.testing.assert_allclose(series.value, [values[: i + 1].mean() for i in range(len(values))], atol=1e-9)
    factor = statistical_inefficiency(values)
    errors = [np.sqrt(values[: i + 1].var(ddof=1) / (i + 1) * factor) for i in range(1, len(values))]
    np.testing.assert_allclose(series.error[1:], errors, atol=1e-5)
    assert np.isnan(series.error[0])
    last = mean_with_error(values)
    assert series.value[-1] == pytest.approx(last.value, abs=1e-9)
    assert series.error[-1] == pytest.approx(last.error, abs=1e-5)


@given(values=short_series, shift=st.floats(-100, 100), scale=st.floats(0.1, 10))
def test_inefficiency_is_free_of_units(values, shift, scale):
    factor = statistical_inefficiency(values)
    assert factor > 0 or np.ptp(values) > 0
    if np.ptp(values) > 1:
        assert statistical_inefficiency(shift + scale * values) == pytest.approx(factor, rel=1e-3, abs=1e-6)


@given(outcomes=st.lists(st.booleans(), min_size=1, max_size=50))
def test_the_yield_is_never_certain(outcomes):
    estimate = transition_yield(outcomes)
    assert estimate.value == pytest.approx(np.mean(outcomes))
    assert estimate.error > 0


@pytest.mark.statistics
def test_the_yield_of_independent_shots_has_the_binomial_error():
    data = np.random.default_rng(0).random((200, 500)) < 0.4
    estimates = [transition_yield(row) for row in data]
    deviations = [(e.value - 0.4) / e.error for e in estimates]
    assert np.std(deviations) == pytest.approx(1, abs=0.2)


@given(p=hnp.arrays(float, st.integers(0, 40), elements=st.one_of(st.floats(0, 0.5), st.just(np.nan))))
def test_expected_transitions_grow_and_skip_shots_without_prediction(p):
    series = expected_transitions(p)
    known = np.nan_to_num(p)
    np.testing.assert_allclose(series.value, np.cumsum(known), atol=1e-12)
    assert (np.diff(series.value, prepend=0) >= 0).all()
    np.testing.assert_allclose(series.error**2, np.cumsum(known * (1 - known)), atol=1e-12)


@given(trials=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_a_rejection_counts_the_old_path_once_more(trials):
    chain = [c for c, _ in trials]
    accepted = [a for _, a in trials]
    expected, current = [0] * len(trials), {}
    for row, (name, taken) in enumerate(trials):
        if taken:
            current[name] = row
        if name in current:
            expected[current[name]] += 1
    assert path_multiplicities(chain, accepted).tolist() == expected


@given(trials=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(2, 400)), max_size=40))
def test_transition_times_are_weighted_means_of_accepted_paths(trials):
    chain, accepted, n_frames = ([t[i] for t in trials] for i in range(3))
    result = transition_times(chain, accepted, n_frames, frame_time=0.02)
    weights = path_multiplicities(chain, accepted)
    assert len(result.times) == sum(accepted)
    if not any(accepted):
        assert np.isnan(result.mean.value)
        assert result.density.size == 0
        return
    expected = np.average((np.array(n_frames) - 1) * 0.02, weights=weights)
    assert result.mean.value == pytest.approx(expected)
    assert (result.density * np.diff(result.edges)).sum() == pytest.approx(1)


def test_an_empty_run_has_estimates_too():
    assert np.isnan(transition_yield([]).value)
    assert np.isnan(mean_with_error([]).value)
    assert running_mean([]).value.shape == (0,)
    assert expected_transitions([]).value.shape == (0,)
    assert transition_times([], [], [], frame_time=1.0).times.shape == (0,)
