"""What the logits of a committor mean: numbers (n,) for two states, the logit of p_B, and (n, n_states) for more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]


def probabilities(logits: FloatArray) -> Float64Array:
    """Return the probability of each state, (n, n_states), from logits (n,) of two states or (n, n_states) of more.

    >>> probabilities(np.array([0.0, 800.0]))
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def p_transition(logits: FloatArray) -> Float64Array:
    """Return the probability (n,) that two trajectories end in different states, ``p_TP = 1 - sum_i p_i^2``.

    One half at most for two states, ``1 - 1/n_states`` for more. Written so that it neither overflows nor cancels.

    >>> p_transition(np.zeros(1)), p_transition(np.zeros((1, 3))).round(3)
    (array([0.5]), array([0.667]))
    """
    if logits.ndim == 1:
        return np.asarray(1.0 / (1.0 + np.cosh(np.clip(logits, -500, 500))))
    p = np.sort(probabilities(logits), axis=1)
    others = p[:, :-1]
    return np.asarray(p[:, -1] * others.sum(axis=1) + (others * (1.0 - others)).sum(axis=1))


def effective_q(logits: FloatArray) -> Float64Array:
    r"""Return one logit per row that says how far a configuration is from the separatrix.

    For two states it is the logit of p_B itself. For more it solves the two-state relation ``p_TP = 1 / (1 + cosh q)``
    with ``p_TP = 1 - sum_i p_i^2``: ``q = arccosh(max(1/p_TP - 1, 1))``, never negative. Where all states but two are
    out of reach it is the size of their logit, so that a state far away changes nothing; where three or more compete
    and a transition is likelier than one half it is zero.

    Parameters
    ----------
    logits : (n,) for two states, (n, n_states) for more

    Returns
    -------
    (n,) effective logits

    >>> effective_q(np.array([[0.0, 1.5, -50.0], [0.0, 0.0, 0.0]])).round(6)
    array([1.5, 0. ])
    """
    if logits.ndim == 1:
        return np.asarray(logits, dtype=np.float64)
    return np.asarray(np.arccosh(np.maximum(1.0 / np.maximum(p_transition(logits), 1e-300) - 1.0, 1.0)))


def one_vs_rest(logits: FloatArray) -> Float64Array:
    """Return for every state the logit of its probability against all others together, (n, n_states).

    ``q_i = l_i - ln sum_{j != i} exp(l_j)``.

    >>> one_vs_rest(np.array([2.0]))
    array([[-2.,  2.]])
    """
    if logits.ndim == 1:
        return np.stack([-logits, logits], axis=1).astype(float)
    result = np.empty(logits.shape)
    for state in range(logits.shape[1]):
        others = np.delete(logits, state, axis=1)
        top = others.max(axis=1)
        result[:, state] = logits[:, state] - top - np.log(np.exp(others - top[:, None]).sum(axis=1))
    return result
