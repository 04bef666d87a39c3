"""Numbers of runs with any number of states: transitions by pair of states, and calibration by state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from separatrix.estimates.shots import Calibration, Estimate, calibration, transition_yield
from separatrix.logits import one_vs_rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Transitions between two states, in either direction.

    Attributes
    ----------
    states : their indices, the lower first
    transitions, accepted : shots that connected them, and those of them that a chain moved on to
    share : of all shots that connected them, with its standard error
    """

    states: tuple[int, int]
    transitions: int
    accepted: int
    share: Estimate


def transitions_by_pair(ends: ArrayLike, accepted: ArrayLike, n_states: int) -> tuple[Pair, ...]:
    """Return the transitions between every pair of states, in the order (0, 1), (0, 2), ..., (1, 2), ...

    Parameters
    ----------
    ends : (n_shots, 2) states at both ends of every shot, in any order, -1 for none
    accepted : (n_shots,) bool

    >>> [pair.transitions for pair in transitions_by_pair([[0, 2], [2, 0], [1, 1], [1, -1]], [True] * 4, 3)]
    [0, 2, 0]
    """
    both, taken = np.sort(np.asarray(ends).reshape(-1, 2), axis=1), np.asarray(accepted, dtype=bool)
    pairs = []
    for states in combinations(range(n_states), 2):
        found = (both == states).all(axis=1)
        pairs.append(
            Pair(
                states=states,
                transitions=int(found.sum()),
                accepted=int((found & taken).sum()),
                share=transition_yield(found),
            )
        )
    return tuple(pairs)


def loss_bounds(counts: ArrayLike) -> tuple[float, float]:
    """Return the log-loss per trajectory of the best constant, and of the frequencies in every row themselves.

    Parameters
    ----------
    counts : (n, n_states) trajectories that ended in each state

    >>> [round(loss, 3) for loss in loss_bounds([[2, 0, 0], [0, 1, 1]])]
    [1.04, 0.347]
    """
    ends = np.asarray(counts, dtype=float)
    total = ends.sum()
    shares = ends.sum(axis=0) / total
    rows = ends / np.maximum(ends.sum(axis=1, keepdims=True), 1.0)
    return float(special.entr(shares).sum()), float((special.entr(rows).sum(axis=1) * ends.sum(axis=1)).sum() / total)


def calibration_by_state(logits: ArrayLike, counts: ArrayLike) -> tuple[Calibration, ...]:
    """Return for every state how well its predicted probability agrees with what the shots did, it against the rest.

    Parameters
    ----------
    logits : (n, n_states) predicted for the shooting points
    counts : (n, n_states) half-trajectories that ended in each state
    """
    ends: NDArray[np.int64] = np.asarray(counts, dtype=np.int64)
    total = ends.sum(axis=1)
    q = one_vs_rest(np.asarray(logits, dtype=float))
    return tuple(calibration(q[:, i], total - ends[:, i], ends[:, i]) for i in range(ends.shape[1]))


def calibration_dict(logits: ArrayLike, counts: ArrayLike, state_names: Sequence[str]) -> dict[str, Any]:
    """Return the calibration of a model as it is stored and shown: plain data for JSON.

    Parameters
    ----------
    logits : (n,) for two states, (n, n_states) for more
    counts : (n, n_states)

    Returns
    -------
    dict
        For two states that of p_B (`Calibration.as_dict`); for more ``states``, name -> the same of its probability.
    """
    ends = np.asarray(counts)
    if len(state_names) == 2:
        return calibration(logits, ends[:, 0], ends[:, 1]).as_dict()
    fits = calibration_by_state(logits, ends)
    return {"states": {name: fit.as_dict() for name, fit in zip(state_names, fits, strict=True)}}
