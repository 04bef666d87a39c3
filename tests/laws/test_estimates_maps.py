"""Laws of maps over collective variables, against direct loops and known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from separatrix.estimates import (
    BinnedMean,
    bin_edges,
    binned_mean,
    enclosing_levels,
    innermost,
    landscape_energy,
    landscape_window,
    near_frames,
    smoothed_density,
    smoothed_mean,
    state_masks,
    transition_region_error,
)
from separatrix.states import States
from separatrix.systems import build_system, resolve
from separatrix.units import thermal_energy

finite = st.floats(-1e3, 1e3, width=32)
values = hnp.arrays(np.float32, st.integers(1, 60), elements=finite)


# Edges and bins.


@given(values=values, n_bins=st.integers(1, 80))
def test_equal_bins_hold_every_value(values, n_bins):
    edges = bin_edges(values, n_bins)
    assert len(edges) == n_bins + 1
    np.testing.assert_allclose(np.diff(edges), (edges[-1] - edges[0]) / n_bins, rtol=1e-6)
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= values.min() + 1e-6
    assert edges[-1] >= values.max() - 1e-6
    if np.ptp(values) > max(1e-3 * np.abs(values).max(), 1e-12):  # less is rounding: they count as one value
        assert edges[-1] - edges[0] <= 1.4 * np.ptp(values)


def test_edges_stay_while_a_run_grows_a_little():
    before = bin_edges([0.12, 0.93, np.nan, np.inf], 40)
    np.testing.assert_array_equal(bin_edges([0.12, 0.93, 0.131, 0.948], 40), before)
    assert bin_edges([0.12, 1.93], 40)[-1] > 1.9


@pytest.mark.parametrize("few", [[], [3.0], [0.0, 0.0], [-1e-30], [0.0, 1e-38], [np.nan]])
def test_few_values_have_edges_too(few):
    edges = bin_edges(few, 10)
    assert (np.diff(edges) > 0).all()
    assert all(edges[0] <= value <= edges[-1] for value in few if np.isfinite(value))


def test_angles_go_round():
    np.testing.assert_array_equal(bin_edges([10.0, 20.0], 4, periodic=True), [-180, -90, 0, 90, 180])


coordinates = st.integers(1, 2).flatmap(
    lambda k: hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 40), st.just(k)),
        elements=st.one_of(st.floats(-0.5, 3.5, width=32), st.sampled_from([0.0, 1.0, 3.0, np.nan])),
    )
)


@given(coordinates=coordinates, seed=st.integers(0, 2**16))
def test_the_mean_of_a_bin_is_that_of_its_frames(coordinates, seed):
    k = coordinates.shape[1]
    edges = [np.linspace(0, 3, 4), np.linspace(0, 3, 7)][:k]
    data = np.random.default_rng(seed).normal(5, 1, len(coordinates))
    data[::7] = np.nan
    found = binned_mean(coordinates, data, edges)
    assert found.mean.shape == tuple(len(border) - 1 for border in reversed(edges))
    for cell in itertools.product(*(range(n) for n in found.mean.shape)):
        inside = np.isfinite(data)
        for column, border, index in zip(coordinates.T, edges, reversed(cell), strict=True):
            last = index == len(border) - 2
            inside &= (column >= border[index]) & ((column < border[index + 1]) | (last & (column == border[-1])))
        assert found.count[cell] == inside.sum()
        if inside.any():
            assert found.mean[cell] == pytest.approx(data[inside].mean())
            assert found.deviation[cell] == pytest.approx(data[inside].std(), abs=1e-9)
        else:
            assert np.isnan(found.mean[cell])
            assert np.isnan(found.deviation[cell])


def test_images_have_the_last_variable_first():
    found = binned_mean([[0.5, 1.5]], [7.0], [[0, 1, 2, 3], [0, 1, 2]])
    assert found.mean.shape == (2, 3)
    assert found.mean[1, 0] == 7.0
    with pytest.raises(ValueError, match=r"\(n, 2\), got \(1, 3\)"):
        binned_mean([[0.5, 1.5, 1.0]], [7.0], [[0, 1], [0, 1]])


# Smoothing and densities.


@given(shift=st.integers(0, 11), seed=st.integers(0, 2**16))
def test_smoothing_goes_round_where_the_variable_does(shift, seed):
    rng = np.random.default_rng(seed)
    angle = rng.integers(-180, 180, (30, 1)) + 0.5
    weights = rng.integers(1, 5, 30)
    edges = [bin_edges([], 12, periodic=True)]
    density = smoothed_density(angle, weights, edges, periodic=[True])
    turned = (angle + 30.0 * shift + 180) % 360 - 180
    assert density.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        smoothed_density(turned, weights, edges, periodic=[True]), np.roll(density, shift), atol=1e-12
    )


def test_a_density_counts_weights_and_has_no_frames_without_any():
    edges = [np.linspace(0, 1, 11), np.linspace(0, 2, 5)]
    once = smoothed_density([[0.5, 1.0], [0.1, 0.1]], [3, 1], edges, periodic=[False, False])
    often = smoothed_density([[0.5, 1.0]] * 3 + [[0.1, 0.1]], [1] * 4, edges, periodic=[False, False])
    np.testing.assert_allclose(once, often)
    assert once.shape == (4, 10)
    nothing = smoothed_density(np.empty((0, 2)), [], edges, periodic=[False, False])
    assert not nothing.any()


def test_smoothed_means_keep_a_constant_and_count_frames():
    count = np.array([[5, 0, 1], [2, 100, 0]])
    constant = np.where(count > 0, 0.3, np.nan)
    same = smoothed_mean(BinnedMean(mean=constant, deviation=constant, count=count), periodic=[False, True])
    np.testing.assert_allclose(same[count > 0], 0.3)
    assert np.isnan(same[count == 0]).all()
    pair = BinnedMean(mean=np.array([0.0, 1.0]), deviation=np.zeros(2), count=np.array([1, 99]))
    assert smoothed_mean(pair, periodic=[False])[0] > 0.9  # many frames outweigh a single one


@given(density=hnp.arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 9)), share=st.floats(0.01, 0.99))
def test_a_level_encloses_its_share_and_no_higher_one_does(density, share):
    levels = enclosing_levels(density, [share])
    if density.sum() == 0:
        assert levels == ()
        return
    inside = density[density >= levels[0]].sum()
    assert inside >= share * density.sum() * (1 - 1e-9)
    assert density[density > levels[0]].sum() < share * density.sum() * (1 + 1e-9)


@given(
    count=hnp.arrays(int, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0, 0, 0, 2])),
    around=st.tuples(st.booleans(), st.booleans()),
)
def test_bins_near_frames_touch_one(count, around):
    found = near_frames(count, periodic=around)
    n_y, n_x = count.shape
    for j, i in np.ndindex(n_y, n_x):
        near = [
            count[v % n_y, u % n_x]
            for v in (j - 1, j, j + 1)
            for u in (i - 1, i, i + 1)
            if (around[1] or 0 <= v < n_y) and (around[0] or 0 <= u < n_x)
        ]
        assert found[j, i] == any(near)


# States.


def test_masks_are_the_states_themselves():
    expressions = {
        "A": "between(phi, 150, -150) and psi < 0",
        "B": "phi^2 + psi^2 < 900",
        "C": "phi > 60 and r < 1 and phi < 70",
    }
    names = ("r", "phi", "psi")
    axes = {"phi": np.linspace(-180, 180, 37), "psi": np.linspace(-180, 180, 19)}
    masks = state_masks(expressions, names, axes)
    assert list(masks) == ["A", "B"]
    states = States({name: expressions[name] for name in "AB"}, names)
    for j, i in np.ndindex(19, 37):
        state = states.scalar([0.0, float(axes["phi"][i]), float(axes["psi"][j])])
        assert [masks["A"][j, i], masks["B"][j, i]] == [state == 0, state == 1]


def test_masks_over_one_variable():
    masks = state_masks({"A": "r < 1", "B": "s > 2"}, ("r", "s"), {"r": [0.5, 1.5]})
    assert {name: mask.tolist() for name, mask in masks.items()} == {"A": [True, False]}


@given(
    x=st.integers(8, 31),
    y=st.integers(8, 31),
    radius=st.floats(1.5, 7.0),
)
def test_the_middle_of_a_disc_is_its_centre(x, y, radius):
    j, i = np.indices((40, 40))
    assert innermost((i - x) ** 2 + (j - y) ** 2 < radius**2, periodic=[False, False]) == (y, x)


@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    around=st.tuples(st.booleans(), st.booleans()),
)
def test_the_middle_of_a_state_lies_in_it(mask, around):
    cell = innermost(mask, periodic=around)
    if cell is None:
        assert not mask.any()
    else:
        assert mask[cell]


def test_the_middle_of_a_state_across_the_end_of_an_angle():
    angle = np.arange(-180, 180, 10)
    mask = (angle >= 120) | (angle <= -160)  # 120 to 200, middle 160
    assert angle[innermost(mask, periodic=[True])[0]] == 160
    assert angle[innermost(mask, periodic=[False])[0]] == 140  # cut in two: the larger part


# Windows of landscapes and errors.


def test_the_window_of_a_double_well_is_where_its_energy_says():
    # The pass of (x^2 - 1)^2 + y^2, in units of 5 kT, is 5 kT high; up to 4 kT above it, 5 (x^2 - 1)^2 < 9.
    (left, right), (low, high) = landscape_window("5*(x^2 - 1)^2 + 5*y^2", 1.0, [[-1.0, 0.0], [1.0, 0.0]])
    assert right == pytest.approx(math.sqrt(1 + math.sqrt(9 / 5)), abs=0.06)
    assert high == pytest.approx(math.sqrt(9 / 5), abs=0.06)
    assert (left, low) == pytest.approx((-right, -high), abs=0.06)


def test_a_deeper_well_that_no_path_passes_does_not_widen_the_window():
    wells = "-8*exp(-4*((x+1)^2 + y^2)) - 8*exp(-4*((x-1)^2 + y^2)) - 20*exp(-9*(x^2 + (y-3.2)^2)) + 0.9*(x^2 + y^2)"
    _, (_, high) = landscape_window(wells, 1.0, [[-1.0, 0.0], [1.0, 0.0]], height=1.0)
    assert high < 2.0


@pytest.mark.parametrize("name", ["hummer-szabo", "mueller-brown", "two-gaussians"])
def test_windows_of_the_catalogue_hold_the_wells_and_no_wastes(name):

    config = resolve({"system": {"kind": name}})
    system = build_system(config)
    starts = np.stack([start.positions[0, :2] for start in system.starts.values()])
    kT = thermal_energy(config.system.temperature)
    window = landscape_window(system.landscape, kT, starts)
    for (low, high), places in zip(window, starts.T, strict=True):
        assert low < places.min()
        assert places.max() < high
    energy = landscape_energy(system.landscape, *(np.linspace(low, high, 60) for low, high in window))
    assert ((energy - energy.min()) / kT < 12).mean() > 0.4


def test_no_error_where_learned_is_exact():
    exact = np.linspace(0, 1, 101)
    found = transition_region_error(exact, exact)
    assert (found.rmse, found.n_frames) == (0.0, 89)
    assert transition_region_error(exact + 0.1, exact).rmse == pytest.approx(0.1)


def test_the_error_counts_the_transition_region_alone():
    exact = np.array([0.01, 0.5, 0.6, 0.99, np.nan, 0.5])
    predicted = np.array([0.9, 0.5, 0.8, 0.1, 0.5, np.nan])
    found = transition_region_error(predicted, exact)
    assert found.n_frames == 2
    assert found.rmse == pytest.approx(np.sqrt(0.2**2 / 2))
    nothing = transition_region_error([0.5], [0.99])
    assert nothing.n_frames == 0
    assert np.isnan(nothing.rmse)
