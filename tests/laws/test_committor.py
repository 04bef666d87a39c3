"""Laws of the committor model: what it predicts untrained, how it travels, what it refuses."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from separatrix import committor
from separatrix.committor import Committor
from separatrix.errors import ColumnMismatchError, StoreError


def random_model(n_columns: int, n_states: int, *, members: int = 3, seed: int = 0) -> Committor:
    """Return a model with random weights everywhere, the output included."""
    generator = torch.Generator().manual_seed(seed)
    plain = Committor.untrained(
        [f"c{i}" for i in range(n_columns)], [f"S{i}" for i in range(n_states)], members=members
    )
    return Committor(
        columns=plain.columns,
        states=plain.states,
        version=3,
        mean=torch.randn(n_columns, generator=generator),
        inverse_scale=torch.rand(n_columns, generator=generator) + 0.5,
        weights=tuple(torch.randn(weight.shape, generator=generator) for weight in plain.weights),
    )


def rows(n: int, n_columns: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, n_columns)).astype(np.float32)


@given(n_columns=st.integers(1, 60), n_states=st.integers(2, 4), n=st.integers(0, 20))
def test_an_untrained_model_knows_nothing(n_columns: int, n_states: int, n: int) -> None:
    model = Committor.untrained([f"c{i}" for i in range(n_columns)], [f"S{i}" for i in range(n_states)])
    features = rows(n, n_columns)
    assert model.version == 0
    assert np.all(model.q(features) == 0.0)
    assert np.allclose(model.probabilities(features), 1 / n_states)
    assert np.all(model.spread(features) == 0.0)


@given(n_columns=st.integers(1, 12), n_states=st.integers(2, 4), members=st.integers(1, 4), seed=st.integers(0, 99))
def test_bytes_give_the_same_model_back(n_columns: int, n_states: int, members: int, seed: int) -> None:
    model = random_model(n_columns, n_states, members=members, seed=seed)
    data = model.to_bytes()
    back = Committor.from_bytes(data)
    assert (back.columns, back.states, back.version) == (model.columns, model.states, model.version)
    assert back.to_bytes() == data
    features = rows(7, n_columns)
    assert np.array_equal(back.member_logits(features), model.member_logits(features))


@given(st.binary(max_size=200))
@example(b"")
@example((10**9).to_bytes(8, "little") + b"{}")
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match="expected a committor model"):
        Committor.from_bytes(data)


@given(st.integers(0, 1500))
def test_a_torn_model_is_refused(length: int) -> None:
    data = random_model(2, 2).to_bytes()
    with pytest.raises(StoreError):
        Committor.from_bytes(data[:length])


@pytest.mark.parametrize("n_states", [2, 3])
def test_shapes_and_means(n_states: int) -> None:
    model = random_model(5, n_states, members=4)
    features = rows(9, 5)
    members = model.member_logits(features)
    assert members.shape == ((4, 9) if n_states == 2 else (4, 9, 3))
    assert np.allclose(model.logits(features), members.mean(axis=0))
    assert model.q(features).shape == model.spread(features).shape == (9,)
    assert np.allclose(model.probabilities(features).sum(axis=1), 1.0)


def test_p_b_is_the_logistic_function_of_q() -> None:
    model, features = random_model(5, 2), rows(50, 5)
    assert np.allclose(model.p_B(features), 1 / (1 + np.exp(-model.q(features))))
    with pytest.raises(ValueError, match="two states, got 3"):
        random_model(5, 3).p_B(features)


def test_spread_of_two_states_and_of_more_agree() -> None:
    two = random_model(4, 2, members=4)
    matrix, bias = two.weights[-2], two.weights[-1]
    off = torch.full_like(bias, 7.0)
    three = Committor(
        columns=two.columns,
        states=("A", "B", "C"),
        version=1,
        mean=two.mean,
        inverse_scale=two.inverse_scale,
        # Logits (-q/2, q/2) and a third that all members agree on: its centred part is constant.
        weights=(
            *two.weights[:-2],
            torch.cat([-matrix / 2, matrix / 2, 0 * matrix], 2),
            torch.cat([-bias / 2, bias / 2, off], 2),
        ),
    )
    features = rows(20, 4)
    assert np.allclose(three.spread(features), two.spread(features), rtol=1e-4)


def test_a_row_is_predicted_alone_and_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    model, features = random_model(6, 3), rows(31, 6)
    whole = model.logits(features)
    assert np.allclose(np.concatenate([model.logits(row[None]) for row in features]), whole, atol=1e-5)
    monkeypatch.setattr(committor, "_ROWS_AT_ONCE", 8)
    assert np.allclose(model.logits(features), whole, atol=1e-5)
    assert model.logits(features[:0]).shape == (0, 3)


@pytest.mark.parametrize("widths", [(24, 12), (5,), (9, 4, 3)])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_gradient_is_that_of_automatic_differentiation(widths: tuple[int, ...], n_outputs: int) -> None:
    rng = torch.Generator().manual_seed(7)
    n_members, n, d = 3, 17, 6
    sizes = [d, *widths, n_outputs]
    shapes = [shape for n_in, n_out in pairwise(sizes) for shape in ((n_in, n_out), (1, n_out))]
    weights = [torch.randn(n_members, *shape, generator=rng, dtype=torch.float64) for shape in shapes]
    inputs = torch.randn(n, d, generator=rng, dtype=torch.float64)
    share = torch.rand(n_members, n, n_outputs, generator=rng, dtype=torch.float64)

    found = committor.backpropagate(weights, inputs, lambda logits: share * torch.cos(logits))

    for weight in weights:
        weight.requires_grad_(True)
    loss = (share * torch.sin(committor.evaluate(weights, inputs))).sum()
    for ours, theirs in zip(found, torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_constant_column_is_ignored() -> None:
    model, features = random_model(3, 2), rows(10, 3)
    model.inverse_scale[1] = 0.0
    before = model.q(features)
    features[:, 1] = 1e6
    assert np.array_equal(model.q(features), before)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["phi", "psi"], "missing r"),
        (["phi", "psi", "r", "z"], "extra z"),
        (["phi", "r", "psi"], "column 1 is r, the model expects psi"),
        (["phi", "psi", "r", "r"], "more than once"),
    ],
)
def test_other_columns_are_refused_by_name(names: list[str], message: str) -> None:
    model = Committor.untrained(["phi", "psi", "r"], ["A", "B"])
    model.check_columns(["phi", "psi", "r"])
    with pytest.raises(ColumnMismatchError, match=message):
        model.check_columns(names)


def test_features_of_another_shape_are_refused() -> None:
    model = Committor.untrained(["phi", "psi"], ["A", "B"])
    for features in (np.zeros((3, 3)), np.zeros(2)):
        with pytest.raises(ColumnMismatchError, match=r"expected features of shape \(n, 2\)"):
            model.q(features)


def test_the_threads_of_torch_are_given_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        random_model(3, 2).q(rows(5, 3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.benchmark
def test_one_path_is_predicted_within_its_budget() -> None:
    model, features = random_model(55, 2, members=4), rows(60, 55)
    times = []
    for _ in range(300):
        start = time.perf_counter()
        model.q(features)
        times.append(time.perf_counter() - start)
    assert np.median(times) <= 0.4e-3


@given(n_columns=st.integers(2, 12), n_states=st.integers(2, 4), seed=st.integers(0, 99))
def test_the_sums_of_the_first_layer_add_up_over_columns(n_columns: int, n_states: int, seed: int) -> None:
    model, features = random_model(n_columns, n_states, members=1, seed=seed), rows(7, n_columns, seed)
    first, rest = range(n_columns // 2), range(n_columns // 2, n_columns)
    sums = model.first_sums(features, first) + model.first_sums(features, rest)
    np.testing.assert_allclose(model.logits_of_sums(sums), model.logits(features), rtol=1e-4, atol=1e-3)
    half = model.logits_of_sums(model.first_sums(features, first))
    assert np.abs(half - model.logits(features)).max() > 1e-3
