"""Laws of logits: probabilities, the probability of a transition, and the one number that selectors take."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import special

from separatrix.logits import effective_q, one_vs_rest, p_transition, probabilities

finite = st.floats(-700, 700)
several = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(3, 5)), elements=finite)


@given(arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 5)), elements=finite))
def test_probabilities_of_any_logits(logits: NDArray[np.float64]) -> None:
    p = probabilities(logits)
    assert np.all((p >= 0) & (p <= 1))
    assert np.allclose(p.sum(axis=1), 1.0)
    assert np.allclose(probabilities(logits + 3.0), p, atol=1e-9)


@given(arrays(np.float64, st.integers(1, 8), elements=st.floats(-12, 12)))
def test_effective_q_of_two_logits_is_the_size_of_q(q: NDArray[np.float64]) -> None:
    as_two = np.stack([-q / 2, q / 2], axis=1)
    as_three = np.column_stack([as_two, np.full(len(q), -500.0)])
    assert np.array_equal(effective_q(q), q)
    # arccosh loses digits near zero: compare where selectors look, by cosh.
    assert np.allclose(np.cosh(effective_q(as_two)), np.cosh(q), rtol=1e-6)
    assert np.allclose(np.cosh(effective_q(as_three)), np.cosh(q), rtol=1e-6)


@given(arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(3, 5)), elements=finite))
def test_effective_q_is_finite_and_not_negative(logits: NDArray[np.float64]) -> None:
    q = effective_q(logits)
    assert np.all(np.isfinite(q) & (q >= 0))


@given(arrays(np.float64, st.integers(1, 8), elements=finite))
def test_a_transition_between_two_states_is_twice_p_times_one_less_p(q: NDArray[np.float64]) -> None:
    expected = 2.0 * special.expit(q) * special.expit(-q)
    assert np.allclose(p_transition(q), expected, rtol=1e-12, atol=1e-200)
    assert np.allclose(p_transition(np.stack([np.zeros_like(q), q], axis=1)), expected, rtol=1e-9, atol=1e-200)


@given(several)
def test_a_transition_is_what_is_left_of_equal_ends(logits: NDArray[np.float64]) -> None:
    p, found = probabilities(logits), p_transition(logits)
    assert np.allclose(found, 1.0 - np.square(p).sum(axis=1), atol=1e-12)
    assert np.all((found >= 0) & (found <= 1.0 - 1.0 / logits.shape[1] + 1e-12))


def test_a_transition_that_is_all_but_impossible_is_no_zero() -> None:
    """Written as 1 - sum p^2 it would cancel: 2 exp(-60) is far below the precision of 1."""
    assert np.allclose(p_transition(np.array([[60.0, 0.0, -900.0]])), 2 * np.exp(-60.0), rtol=1e-12, atol=0)
    assert np.allclose(effective_q(np.array([[60.0, 0.0, -900.0]])), 60.0)


def test_where_three_states_compete_the_effective_logit_is_zero_and_the_transition_likelier_than_one_half() -> None:
    logits = np.log([[1.0, 1.0, 1.0], [0.5, 0.25, 0.25], [0.8, 0.1, 0.1]])
    assert np.allclose(p_transition(logits), [2 / 3, 0.625, 0.34])
    assert effective_q(logits)[:2].tolist() == [0.0, 0.0]
    assert effective_q(logits)[2] > 1.0


@given(several)
def test_one_against_the_rest_is_the_logit_of_each_probability(logits: NDArray[np.float64]) -> None:
    found = one_vs_rest(logits)
    assert np.all(np.isfinite(found))
    assert np.allclose(special.expit(found), probabilities(logits), atol=1e-12)


def test_one_against_the_rest_of_two_states_is_q_and_its_opposite() -> None:
    q = np.linspace(-9, 9, 7)
    assert np.array_equal(one_vs_rest(q), np.stack([-q, q], axis=1))
    assert np.allclose(one_vs_rest(np.stack([np.zeros_like(q), q], axis=1)), one_vs_rest(q))
