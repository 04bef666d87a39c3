"""Laws of the path ensemble's numbers, each against another way to compute them, or with a control that must fail."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from separatrix.estimates import (
    path_density,
    path_multiplicities,
    path_tree,
    running_transition_time,
    standing_paths,
    transition_times,
)

trials = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(3, 200)), max_size=60)


def columns(rows):
    """Return chain, accepted and n_frames of trials."""
    chain, accepted, n_frames = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(chain, int), np.array(accepted, bool), np.array(n_frames, int)


# Where chains stand.


@given(rows=trials)
def test_each_path_is_stood_on_as_often_as_it_counts(rows):
    chain, accepted, _ = columns(rows)
    standing = standing_paths(chain, accepted)
    counts = np.bincount(standing[standing >= 0], minlength=len(rows))
    assert counts.tolist() == path_multiplicities(chain, accepted).tolist()


@given(rows=trials)
def test_a_chain_stands_on_its_own_newest_accepted_path(rows):
    chain, accepted, _ = columns(rows)
    current = {}
    for trial, standing in enumerate(standing_paths(chain, accepted)):
        if accepted[trial]:
            current[chain[trial]] = trial
        assert standing == current.get(chain[trial], -1)


# The mean along the run.


@given(rows=trials)
def test_the_running_mean_ends_at_the_mean_of_the_transition_times(rows):
    chain, accepted, n_frames = columns(rows)
    series = running_transition_time(chain, accepted, n_frames, frame_time=0.02)
    mean = transition_times(chain, accepted, n_frames, frame_time=0.02).mean
    assert len(series.value) == len(series.error) == len(rows)
    if len(rows):
        np.testing.assert_allclose(series.value[-1], mean.value, rtol=1e-9)
        np.testing.assert_allclose(series.error[-1], mean.error, rtol=1e-6, atol=1e-9)


@given(rows=trials, cut=st.integers(0, 60))
def test_the_running_mean_is_that_of_the_trials_so_far(rows, cut):
    chain, accepted, n_frames = columns(rows)
    series = running_transition_time(chain, accepted, n_frames, frame_time=0.5)
    path = standing_paths(chain, accepted)[: cut + 1]
    if len(rows) <= cut:
        return
    path = path[path >= 0]
    expected = (n_frames[path] - 1).mean() * 0.5 if len(path) else np.nan
    np.testing.assert_allclose(series.value[cut], expected, rtol=1e-9)


@pytest.mark.statistics
def test_the_error_of_the_running_mean_covers_its_spread_over_runs():
    ends, errors, naive = [], [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        chain = np.arange(2000) % 2
        accepted = rng.random(2000) < 0.15  # every path is stood on for seven steps
        accepted[:2] = True
        n_frames = 2 + rng.poisson(40, 2000)
        series = running_transition_time(chain, accepted, n_frames, frame_time=1.0)
        ends.append(series.value[-1])
        errors.append(series.error[-1])
        durations = n_frames[standing_paths(chain, accepted)]
        naive.append(durations.std() / np.sqrt(len(durations)))
    spread = np.std(ends)
    assert 0.75 < np.mean(errors) / spread < 1.3
    assert np.mean(naive) / spread < 0.5  # steps taken for independent


def test_the_running_mean_of_a_long_run_is_fast():
    rng = np.random.default_rng(0)
    chain, accepted = rng.integers(0, 8, 200_000), rng.random(200_000) < 0.3
    start = time.perf_counter()
    running_transition_time(chain, accepted, rng.integers(3, 900, 200_000), frame_time=0.1)
    assert time.perf_counter() - start < 1.0


# The density.


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 300),
    bins=st.tuples(st.integers(1, 9), st.integers(1, 7)),
    shift=st.floats(-1e3, 1e3),
)
def test_the_density_of_two_variables_is_numpys_histogram(seed, n, bins, shift):
    rng = np.random.default_rng(seed)
    values = shift + rng.normal(size=(n, 2))
    weights = rng.integers(0, 4, n)
    edges = [np.linspace(shift - 1.5, shift + 2.0, bins[0] + 1), np.linspace(shift - 1.0, shift + 1.25, bins[1] + 1)]
    density = path_density(values, weights, edges)
    counts, *_ = np.histogram2d(*values.T, bins=edges, weights=weights)
    volume = np.diff(edges[0])[:, None] * np.diff(edges[1])
    np.testing.assert_allclose(density.values, (counts / max(counts.sum(), 1) / volume).T, rtol=1e-6, atol=1e-12)
    assert density.values.shape == (bins[1], bins[0])
    total = (density.values.T * volume).sum()
    assert total == pytest.approx(1.0) if counts.any() else total == 0


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200))
def test_a_weight_is_a_repetition(seed, n):
    rng = np.random.default_rng(seed)
    values, weights = rng.uniform(-1, 1, (n, 1)), rng.integers(0, 5, n)
    edges = [np.linspace(-1, 1, 7)]
    weighted = path_density(values, weights, edges)
    repeated = path_density(np.repeat(values, weights, axis=0), np.ones(weights.sum(), int), edges)
    np.testing.assert_allclose(weighted.values, repeated.values, rtol=1e-12)
    assert weighted.n_frames == (weights > 0).sum()


def test_a_weight_makes_a_difference():
    even, uneven = (path_density([[0.2], [0.7]], weights, [[0.0, 0.5, 1.0]]).values for weights in ([1, 1], [3, 1]))
    np.testing.assert_allclose(even, [1.0, 1.0])
    np.testing.assert_allclose(uneven, [1.5, 0.5])


def test_borders_belong_to_the_density_and_numbers_that_are_none_do_not():
    values = [[-180.0], [180.0], [np.nan], [181.0], [np.inf]]
    density = path_density(values, [1, 1, 1, 1, 1], [np.linspace(-180, 180, 3)])
    np.testing.assert_allclose(density.values, [1 / 360, 1 / 360])
    assert density.n_frames == 2


def test_a_million_frames_take_a_moment():
    values = np.random.default_rng(0).uniform(-180, 180, (1_000_000, 2)).astype(np.float32)
    edges = [np.linspace(-180, 180, 73)] * 2
    start = time.perf_counter()
    path_density(values, np.ones(len(values), int), edges)
    assert time.perf_counter() - start < 1.0


# The tree.


@st.composite
def chains_of_paths(draw):
    """Return the trials of interleaved chains whose shooting points lie inside the paths they were shot from."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length, rows = {}, []
    for _ in range(draw(st.integers(0, 50))):
        chain = int(rng.integers(3))
        taken = bool(rng.random() < 0.5)
        n_frames = int(rng.integers(3, 40))
        rows.append((chain, taken, rng.integers(1, length.get(chain, 30) - 1), rng.integers(1, n_frames - 1), n_frames))
        if taken:
            length[chain] = n_frames
    return tuple(np.array(column) for column in zip(*rows, strict=True)) if rows else (np.empty(0, int),) * 5


@given(shots=chains_of_paths())
def test_every_shooting_point_lies_on_the_frame_it_was_taken_from(shots):
    chain, accepted, frame, shooting_frame, n_frames = shots
    tree = path_tree(*shots)
    standing = standing_paths(chain, accepted)
    for trial in range(len(chain)):
        before = standing[:trial][chain[:trial] == chain[trial]]
        parent = before[-1] if len(before) else -1
        assert tree.parent[trial] == parent
        begin = tree.begin[parent] if parent >= 0 else 0
        assert tree.shared[trial] == begin + frame[trial] == tree.begin[trial] + shooting_frame[trial]
        assert tree.end[trial] - tree.begin[trial] + 1 == n_frames[trial]
        if parent >= 0:
            assert tree.begin[parent] < tree.shared[trial] < tree.end[parent]


@given(shots=chains_of_paths(), shift=st.integers(1, 5))
def test_a_path_laid_elsewhere_moves_its_descendants_alone(shots, shift):
    chain, accepted, frame, shooting_frame, n_frames = shots
    if not len(chain) or not accepted.any():
        return
    first = int(np.flatnonzero(accepted)[0])
    moved = np.array(frame)
    moved[first] += shift
    before, after = path_tree(*shots), path_tree(chain, accepted, moved, shooting_frame, n_frames)
    later = (np.arange(len(chain)) >= first) & (chain == chain[first])
    assert (after.begin - before.begin).tolist() == np.where(later, shift, 0).tolist()
