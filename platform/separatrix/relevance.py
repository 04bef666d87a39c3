"""Which inputs the committor depends on: permutation relevance on held-out shots, and gradients along paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from separatrix.committor import Committor
from separatrix.records import Float32Array, FloatArray

PERMUTATIONS: Final = 50
"""Times every set of columns is shuffled."""

CORRELATED: Final = 0.95
"""Columns whose correlation is beyond this, in absolute value, tell the same and are permuted together."""

CHANCE: Final = 0.01
"""Chance that any input at all that tells nothing comes out above the noise line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Columns that are permuted together.

    Attributes
    ----------
    name : of the quantity the columns belong to, or of several that are strongly correlated
    columns : their places, ascending
    """

    name: str
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutShots:
    """Shots, and which member of the ensemble may judge which of them.

    Attributes
    ----------
    features : (n, d) float32, of the shooting points
    counts : (n, n_states), how many trajectories from there ended in each state
    held_out : (n_members, n) bool, which member was not trained on which shot
    """

    features: FloatArray
    counts: FloatArray
    held_out: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse arrays that do not line up, and shots of which nothing is known."""
        n = len(self.features)
        lengths = (len(self.counts), self.held_out.shape[-1])
        if lengths != (n, n) or any(array.ndim != 2 for array in (self.features, self.counts, self.held_out)):
            shapes = (self.features.shape, self.counts.shape, self.held_out.shape)
            raise ValueError(f"expected features (n, d), counts (n, n_states) and held_out (m, n), got {shapes}")
        if not (self.counts.sum(axis=1) > 0).all():
            raise ValueError("expected an end in a state of every shot")
        if not self.held_out.any():
            raise ValueError("expected shots that some member holds out, got none")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relevance:
    """Relevance of sets of columns.

    Attributes
    ----------
    mean : (n_sets,) rise of the held-out loss per shot when the set is shuffled, mean over permutations
    std : (n_sets,) its standard deviation over permutations
    error : (n_sets,) standard error of the mean, from the spread over shots
    loss : held-out loss per shot with nothing shuffled, every member alone
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    error: NDArray[np.float64]
    loss: float

    def noise_line(self) -> float:
        """Return the rise of the loss that inputs which tell nothing stay below; see ``noise_line``."""
        return noise_line(self.mean, self.error)


def grouped(features: FloatArray, quantities: Sequence[str], correlation: float = CORRELATED) -> tuple[Group, ...]:
    """Put columns into groups: those of one quantity, and quantities with strongly correlated columns.

    Parameters
    ----------
    features : (n, d)
    quantities : (d,) the quantity each column belongs to, such as the dihedral of a sine and a cosine
    correlation : absolute value beyond which two columns belong together

    Returns
    -------
    Groups in the order of their first columns. The name of a cluster gives three of its quantities at most.

    >>> x = np.random.default_rng(1).normal(size=(100, 3))
    >>> [group.name for group in grouped(np.hstack([x, -x[:, :1]]), ["phi", "phi", "r", "s"])]
    ['phi + s', 'r']
    """
    if features.ndim != 2 or features.shape[1] != len(quantities):
        raise ValueError(f"expected the quantities of features {features.shape}, got {len(quantities)}")
    centred = features - features.mean(axis=0, dtype=np.float64)
    length = np.sqrt(np.square(centred).sum(axis=0))
    unit = centred / np.where(length > 0, length, 1.0)  # a constant column is correlated with nothing
    together = np.abs(unit.T @ unit) > correlation
    together |= np.array([[one == other for other in quantities] for one in quantities], dtype=bool)
    groups: list[Group] = []
    left = np.ones(len(quantities), dtype=bool)
    while left.any():
        reached = np.arange(len(left)) == np.argmax(left)
        while (grown := together[reached].any(axis=0) | reached).sum() > reached.sum():
            reached = grown
        columns = np.flatnonzero(reached).tolist()
        groups.append(Group(name=_name([quantities[column] for column in columns]), columns=tuple(columns)))
        left &= ~reached
    return tuple(groups)


def _name(quantities: Sequence[str]) -> str:
    names = list(dict.fromkeys(quantities))
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return " + ".join(names[:3] + more)


def permutation_relevance(
    model: Committor,
    shots: HeldOutShots,
    sets: Sequence[Sequence[int]],
    rng: np.random.Generator,
    *,
    permutations: int = PERMUTATIONS,
) -> Relevance:
    """Return how much the held-out loss rises when columns lose their connection to the outcomes (Kemp et al. 2007).

    The columns of a set are replaced by those of other shots, drawn by a random permutation of the shots that a member
    holds out; each member predicts nothing but shots it was not trained on. The loss of a shot is
    ``(n_A + n_B) softplus(q) - n_B q``, the same as ``n_A softplus(q) + n_B softplus(-q)``; for more states
    ``sum_i n_i ln sum_j exp(l_j) - sum_i n_i l_i``.

    Parameters
    ----------
    model : of the states that are counted
    sets : columns that are permuted together: single ones, or groups
    permutations : of every set, 20 to 100

    Returns
    -------
    Relevance
        In the order of the sets; exactly zero where the model ignores the columns.

    Raises
    ------
    ValueError
        If there are other states, members or columns than the model's.
    """
    found = (shots.counts.shape[1], len(shots.held_out), shots.features.shape[1])
    wanted = (len(model.states), model.members, len(model.columns))
    if found != wanted or permutations < 2:
        expected = f"{wanted[0]} states, {wanted[1]} members, {wanted[2]} columns, two permutations or more"
        raise ValueError(f"expected {expected}; got {found[0]}, {found[1]}, {found[2]} and {permutations}")
    n = len(shots.features)
    total, by_shot = np.zeros((len(sets), permutations)), np.zeros((len(sets), n))
    reference = np.zeros(n)
    share = 1.0 / np.maximum(shots.held_out.sum(axis=0), 1)  # a shot counts once, however many members judge it
    for index, rows in enumerate(shots.held_out):
        chosen = np.flatnonzero(rows)
        if len(chosen) == 0:
            continue
        member = model.member(index)
        features, counts = shots.features[chosen].astype(np.float32), shots.counts[chosen] * share[chosen, None]
        # All permutations of a set are one batch. The first layer is linear: of the shuffled columns alone its sums
        # change, by what these columns add to them elsewhere.
        tiled = np.tile(member.first_sums(features, range(features.shape[1])), (1, permutations, 1))
        before = _losses(member, tiled, counts)
        reference[chosen] += before[0]
        for place, columns in enumerate(map(list, sets)):
            order = rng.permuted(np.tile(np.arange(len(chosen)), (permutations, 1)), axis=1).ravel()
            added = member.first_sums(features, columns)
            rise = _losses(member, tiled + (added[:, order] - np.tile(added, (1, permutations, 1))), counts) - before
            total[place] += rise.sum(axis=1)
            by_shot[place, chosen] += rise.mean(axis=0)
    known = shots.held_out.any(axis=0)
    n_known, n_trajectories = known.sum(), shots.counts[known].sum()
    spread = by_shot[:, known].std(axis=1, ddof=1) if n_known > 1 else np.full(len(sets), np.inf)
    return Relevance(
        mean=total.mean(axis=1) / n_trajectories,
        std=total.std(axis=1, ddof=1) / n_trajectories,
        error=spread * np.sqrt(n_known) / n_trajectories,
        loss=float(reference.sum() / n_trajectories),
    )


def _losses(member: Committor, sums: Float32Array, counts: FloatArray) -> NDArray[np.float64]:
    """Return the loss of every shot under every permutation, (permutations, n).

    Parameters
    ----------
    sums : (1, permutations * n, width), of the first layer
    """
    logits = member.logits_of_sums(sums)
    if logits.ndim == 1:
        q = logits.reshape(-1, len(counts))
        return np.asarray(counts.sum(axis=1) * np.logaddexp(0.0, q) - counts[:, 1] * q)
    each = logits.reshape(-1, *counts.shape)
    return np.asarray(counts.sum(axis=1) * logsumexp(each, axis=2) - (counts * each).sum(axis=2))


def noise_line(mean: FloatArray, error: FloatArray, chance: float = CHANCE) -> float:
    """Return the level below which rises of the loss are noise.

    An input that tells nothing, but that the model uses by mistake, has a rise that is zero on average and scatters by
    its standard error. The line is ``z max_i error_i`` over the inputs that are not above it, with z such that one of
    them exceeds it with probability ``chance`` (Bonferroni). Inputs above leave, the line is drawn anew from those
    that stay, and so on (step-down, Holm 1979): the noise of strong inputs is no measure for that of weak ones.

    Parameters
    ----------
    mean, error : (n,) rise of the loss and its standard error

    >>> round(noise_line(np.array([0.3, 0.001, -0.002]), np.array([0.01, 0.001, 0.001])), 4)
    0.0026
    """
    left = np.ones(len(mean), dtype=bool)
    line = 0.0
    while left.any():
        line = NormalDist().inv_cdf(1.0 - chance / int(left.sum())) * float(error[left].max())
        above = left & (mean > line)
        if not above.any():
            break
        left &= ~above
    return line


def integrated_gradients(model: Committor, paths: Sequence[FloatArray]) -> NDArray[np.float64]:
    r"""Return how much every column contributes to the change of q along paths.

    ``\int dq/dx_i dx_i`` along each path, by Simpson's rule between frames. The contributions of all columns add up to
    q at the end less q at the start: integrated gradients (Sundararajan, Taly and Yan 2017), along the path that the
    system took instead of a straight line. It asks for no outcomes, and so is independent of the permutations.

    Parameters
    ----------
    model : of two states
    paths : (n_frames, d) each, from A to B

    Returns
    -------
    (n_paths, d), in units of q

    Raises
    ------
    ValueError
        If there are more than two states.
    """
    result = np.zeros((len(paths), len(model.columns)))
    for index, path in enumerate(paths):
        frames = np.asarray(path, dtype=np.float64)
        at_frames, between = model.gradients(frames), model.gradients((frames[1:] + frames[:-1]) / 2.0)
        slope = (at_frames[1:] + 4.0 * between + at_frames[:-1]) / 6.0
        result[index] = (slope * np.diff(frames, axis=0)).sum(axis=0)
    return result
