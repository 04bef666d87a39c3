"""Laws of relevance: what is ignored is irrelevant, groups stay together, contributions add up, seeds decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from separatrix.committor import Committor
from separatrix.relevance import (
    HeldOutShots,
    grouped,
    integrated_gradients,
    noise_line,
    permutation_relevance,
)
from separatrix.trainer import held_out_by

SEEDS = st.integers(0, 2**32 - 1)


def linear(*slopes: float, members: int = 4) -> Committor:
    """Return members that all predict q = slopes . x, up to the curvature of silu: silu(z) - silu(-z) = z exactly."""
    d = len(slopes)
    first, second, last = torch.zeros(members, d, 2), torch.zeros(members, 2, 2), torch.zeros(members, 2, 1)
    first[:, :, 0], first[:, :, 1] = torch.tensor(slopes), -torch.tensor(slopes)
    last[:, 0], last[:, 1] = 1.0, -1.0
    blank = [torch.zeros(members, 1, 2), torch.zeros(members, 1, 2), torch.zeros(members, 1, 1)]
    return Committor(
        columns=tuple(f"c{i}" for i in range(d)),
        states=("A", "B"),
        version=1,
        mean=torch.zeros(d),
        inverse_scale=torch.ones(d),
        weights=(first, blank[0], second, blank[1], last, blank[2]),
    )


def shots_of(q: np.ndarray, features: np.ndarray, rng: np.random.Generator, members: int = 4) -> HeldOutShots:
    n_b = rng.binomial(2, 1.0 / (1.0 + np.exp(-q)))
    return HeldOutShots(
        features=features.astype(np.float32),
        counts=np.stack([2 - n_b, n_b], axis=1),
        held_out=held_out_by(np.arange(len(q)), members, 1.0 / members),
    )


def singles(d: int) -> list[tuple[int]]:
    return [(column,) for column in range(d)]


@given(SEEDS, st.integers(20, 80))
def test_what_the_model_ignores_has_no_relevance_at_all(seed, n):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4))
    found = permutation_relevance(linear(1.5, 0.0, 0.7, 0.0), shots_of(features[:, 0], features, rng), singles(4), rng)
    assert found.mean[[1, 3]].tolist() == found.std[[1, 3]].tolist() == found.error[[1, 3]].tolist() == [0.0, 0.0]
    assert (found.std[[0, 2]] > 0).all()


def test_the_loss_is_that_of_the_members_that_held_the_shots_out():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 2))
    shots = shots_of(features[:, 0], features, rng)
    # Members differ: the second one predicts the opposite.
    model = linear(1.0, 0.0)
    model.weights[4][1] *= -1.0
    sign = np.where(shots.held_out[1], -1.0, 1.0)
    q = sign * features[:, 0]
    expected = (shots.counts[:, 0] * np.log1p(np.exp(q)) + shots.counts[:, 1] * np.log1p(np.exp(-q))).sum() / 80
    assert permutation_relevance(model, shots, [(0,)], rng).loss == pytest.approx(expected, rel=1e-5)


def test_the_rise_is_what_permutations_by_hand_give():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(400, 2))
    shots = shots_of(2.0 * features[:, 0], features, rng, members=1)
    found = permutation_relevance(linear(2.0, 0.0, members=1), shots, [(0,)], rng, permutations=100)

    def loss(x):
        q = 2.0 * x
        return (shots.counts[:, 0] * np.log1p(np.exp(q)) + shots.counts[:, 1] * np.log1p(np.exp(-q))).sum() / 800

    x = shots.features[:, 0].astype(float)
    rises = np.array([loss(rng.permutation(x)) for _ in range(100)]) - loss(x)
    error = np.hypot(found.std[0], rises.std()) / 10
    assert abs(found.mean[0] - rises.mean()) < 4 * error
    assert found.std[0] == pytest.approx(rises.std(), rel=0.4)


@given(SEEDS)
def test_the_same_generator_gives_the_same_relevance(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(30, 3))
    shots = shots_of(features[:, 0], features, rng)
    first, again, other = (
        permutation_relevance(linear(1.0, 0.5, 0.2), shots, [(0,), (1, 2)], np.random.default_rng(number))
        for number in (seed, seed, seed + 1)
    )
    assert first.mean.tolist() == again.mean.tolist()
    assert first.std.tolist() == again.std.tolist()
    assert first.mean.tolist() != other.mean.tolist()


def test_copies_look_irrelevant_one_by_one_and_not_together():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2_000, 1))
    features = np.hstack([x] * 8)
    shots = shots_of(4.0 * x[:, 0], features, rng)
    model = linear(*[0.5] * 8)  # each copy has an eighth of the say
    groups = grouped(features, [f"r{i}" for i in range(8)])
    assert [group.columns for group in groups] == [tuple(range(8))]
    found = permutation_relevance(model, shots, [(0,), groups[0].columns], rng)
    assert found.mean[1] > 10 * found.mean[0]
    whole = permutation_relevance(linear(4.0), shots_of(4.0 * x[:, 0], x, np.random.default_rng(2)), [(0,)], rng)
    assert found.mean[1] == pytest.approx(whole.mean[0], rel=0.15)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=10))
def test_every_column_is_in_one_group_with_those_of_its_quantity(numbers):
    features = np.random.default_rng(0).normal(size=(50, len(numbers)))
    groups = grouped(features, [f"q{number}" for number in numbers])
    assert sorted(column for group in groups for column in group.columns) == list(range(len(numbers)))
    assert {group.columns for group in groups} == {
        tuple(i for i, other in enumerate(numbers) if other == number) for number in numbers
    }
    assert {group.name for group in groups} == {f"q{number}" for number in numbers}


def test_correlated_columns_bring_their_quantities_together():
    rng = np.random.default_rng(4)
    x, noise = rng.normal(size=(2, 500))
    columns = np.stack([x, noise, -x + 0.1 * noise, np.ones(500), x**2], axis=1)
    groups = grouped(columns, ["sin", "cos", "mirror", "fixed", "square"])
    assert [group.name for group in groups] == ["sin + mirror", "cos", "fixed", "square"]
    groups = grouped(columns, ["pair", "pair", "mirror", "fixed", "square"])
    assert [group.columns for group in groups] == [(0, 1, 2), (3,), (4,)]
    many = grouped(np.stack([x] * 6, axis=1), list("abcdef"))
    assert [group.name for group in many] == ["a + b + c + 3 more"]


def test_the_line_leaves_strong_inputs_out():
    errors = np.array([0.05, 0.001, 0.001])
    line = noise_line(np.array([1.0, 0.0, 0.002]), errors)
    assert 0.002 < line < 0.004
    assert noise_line(np.array([0.1, 0.0, 0.002]), errors) > 0.1  # not beyond doubt: its noise counts
    assert noise_line(np.zeros(3), np.zeros(3)) == 0.0


@given(SEEDS)
def test_contributions_add_up_to_the_change_of_q(seed):
    rng = np.random.default_rng(seed)
    model = Committor.untrained(["a", "b", "c"], ["A", "B"], seed=seed)
    weights = tuple(torch.from_numpy(rng.normal(0, 0.7, w.shape).astype(np.float32)) for w in model.weights)
    model = Committor(
        columns=model.columns,
        states=model.states,
        version=1,
        mean=model.mean + 0.3,
        inverse_scale=model.inverse_scale * 1.7,
        weights=weights,
    )
    paths = [rng.normal(size=(n, 3)).cumsum(axis=0) * 0.02 for n in (100, 7)]  # steps of 0.05 are off by up to 0.0023
    found = integrated_gradients(model, paths)
    change = [model.q(path[-1:])[0] - model.q(path[:1])[0] for path in paths]
    assert found.sum(axis=1) == pytest.approx(change, abs=2e-3)
    assert np.abs(found).max() > 0.004


def test_contributions_of_a_linear_model_are_known():
    path = np.array([[0.0, 1.0, 5.0], [3.0, 1.5, 0.0], [1.0, 2.0, 1.0]])
    assert integrated_gradients(linear(2.0, -1.0, 0.0), [path])[0] == pytest.approx([2.0, -1.0, 0.0], abs=1e-5)
    assert integrated_gradients(linear(2.0, -1.0, 0.0), []).shape == (0, 3)


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(5)
    model = Committor.untrained(["a", "b"], ["A", "B"], seed=5)
    weights = tuple(torch.from_numpy(rng.normal(0, 0.7, w.shape).astype(np.float32)) for w in model.weights)
    model = Committor(
        columns=model.columns,
        states=model.states,
        version=1,
        mean=model.mean,
        inverse_scale=model.inverse_scale * 3.0,
        weights=weights,
    )
    x = rng.normal(size=(20, 2))
    found = model.gradients(x)
    for column in range(2):
        step = np.zeros(2)
        step[column] = 0.01
        assert found[:, column] == pytest.approx((model.q(x + step) - model.q(x - step)) / 0.02, abs=0.02)


def test_relevance_of_two_states_is_the_same_as_one_logit_or_as_two():
    """With the logits -q/2 and q/2, and a third state that is out of reach, nothing changes."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(200, 3))
    two, shots = linear(1.5, 0.5, 0.0), shots_of(1.5 * features[:, 0], features, rng)
    matrix, bias = two.weights[4], two.weights[5]
    three = Committor(
        columns=two.columns,
        states=("A", "B", "C"),
        version=1,
        mean=two.mean,
        inverse_scale=two.inverse_scale,
        weights=(
            *two.weights[:4],
            torch.cat([-matrix / 2, matrix / 2, 0 * matrix], dim=2),
            torch.cat([bias, bias, bias - 80.0], dim=2),
        ),
    )
    more = HeldOutShots(
        features=shots.features, counts=np.column_stack([shots.counts, np.zeros(200)]), held_out=shots.held_out
    )
    one, other = (
        permutation_relevance(model, each, [(0,), (1,), (2,), (0, 1)], np.random.default_rng(1))
        for model, each in ((two, shots), (three, more))
    )
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    np.testing.assert_allclose(other.mean, one.mean, atol=1e-6)
    np.testing.assert_allclose(other.error, one.error, atol=1e-6)
    assert one.mean[0] > 0.1


def test_what_does_not_fit_is_refused():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(10, 2))
    shots = shots_of(features[:, 0], features, rng)
    three = Committor.untrained(["c0", "c1"], ["A", "B", "C"])
    with pytest.raises(ValueError, match="3 states"):
        permutation_relevance(three, shots, singles(2), rng)
    with pytest.raises(ValueError, match="two states"):
        integrated_gradients(three, [features])
    with pytest.raises(ValueError, match="3 columns"):
        permutation_relevance(linear(1.0, 1.0, 1.0), shots, singles(2), rng)
    with pytest.raises(ValueError, match="an end in a state"):
        HeldOutShots(features=features, counts=np.zeros((10, 2)), held_out=shots.held_out)
    with pytest.raises(ValueError, match="some member holds out"):
        HeldOutShots(features=features, counts=shots.counts, held_out=np.zeros((4, 10), bool))
    with pytest.raises(ValueError, match=r"features \(n, d\)"):
        HeldOutShots(features=features, counts=shots.counts[:5], held_out=shots.held_out)
