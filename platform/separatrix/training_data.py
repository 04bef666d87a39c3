"""Training records: what shots and the frames of their half-trajectories tell of the committor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.config import CommittorConfig
from separatrix.records import NO_STATE, Float32Array, IntArray, Reason

FRAMES_PER_SHOT: Final = 5
"""Labelled frames kept per shot, on average. Neighbours tell the same story: 8 or 24 gave no better model."""

HALF_WEIGHT: Final = 2.0
"""Weight of the frames of one half-trajectory together; the shooting point has one per half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Training records: shooting points with their counts, and frames labelled by the end of their half.

    Attributes
    ----------
    features : (n, d) float32
    targets : (n, n_states) float32, how many trajectories from this row ended in each state
    weights : (n,) float32
    shot : (n,) integers, the shot a row belongs to; rows of a shot are held out together
    is_shooting_point : (n,) bool
    group : (n,) integers, rows of a group are held out together; None for every shot on its own
    onward : (n, 2) integers, the row that comes next on the half-trajectory that a frame lies on, in the first place,
        and on both halves of a shooting point; -1 for none. None where no row has any
    """

    features: Float32Array
    targets: Float32Array
    weights: Float32Array
    shot: IntArray
    is_shooting_point: NDArray[np.bool_]
    group: IntArray | None = None
    onward: IntArray | None = None

    @property
    def held_together(self) -> IntArray:
        """What is held out as a whole, (n,) integers: the group of a row, or its shot."""
        return self.shot if self.group is None else self.group

    def __post_init__(self) -> None:
        """Refuse arrays that do not line up and features that are no numbers."""
        n = len(self.features)
        lengths = [
            len(column)
            for column in (self.targets, self.weights, self.held_together, self.shot, self.is_shooting_point)
        ]
        if self.features.ndim != 2 or self.targets.ndim != 2 or any(length != n for length in lengths):
            raise ValueError(f"expected {n} rows in every array of the training data, got {lengths}")
        finite = np.isfinite(self.features).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            column = int(np.argmin(np.isfinite(self.features[row])))
            found = f"{self.features[row, column]} in column {column} of shot {self.shot[row]}"
            raise ValueError(f"expected finite features, got {found}")


def expected_targets(data: TrainingData, predicted: NDArray[np.float64], trace: float) -> NDArray[np.float64]:
    """Return what is expected of every row by what comes after it: less subject to chance than what came in the end.

    Where a half-trajectory goes on to another record, its end counts by the share ``trace`` of what is expected there,
    and what a model predicts for that record by the rest: the lambda-return of temporal differences (Sutton 1988),
    which has the committor as its fixed point because the dynamics is Markovian.

    Parameters
    ----------
    predicted : (n_members, n, n_states) probabilities of every row, by each member of a model
    trace : 1 for the ends alone, 0 for predictions of the next record alone

    Returns
    -------
    (n_members, n, n_states), each row with the sum of its targets
    """
    result = np.repeat(data.targets[None].astype(np.float64), len(predicted), axis=0)
    if data.onward is None:
        return result
    share = 1.0 - trace
    onward = data.onward
    while (goes_on := onward >= 0).any():  # every half by one more record at a time
        for side in (0, 1):
            rows = np.flatnonzero(goes_on[:, side])
            there = onward[rows, side]
            result[:, rows] += share * (predicted[:, there] - data.targets[there])
        share *= trace
        onward = np.where(goes_on, data.onward[onward, 0], -1)
    return result


def end_counts(shots: Mapping[str, NDArray[Any]]) -> IntArray:
    """Return how many trajectories of every shot ended in each state, (n_shots, n_states), from the stored columns."""
    if "n_ends" in shots:
        return shots["n_ends"]
    return np.stack([shots["n_A"], shots["n_B"]], axis=1)


def build_training_data(
    *,
    shots: Mapping[str, NDArray[Any]],
    frames: Mapping[str, NDArray[Any]],
    n_states: int,
    config: CommittorConfig,
    by_chain: bool = False,
) -> TrainingData:
    """Make training records from shots and the frames of their half-trajectories.

    With ``config.frames`` every frame carries the end state of its half: by the Markov property that is a fair draw of
    the committor from that frame on. It is so for overdamped dynamics; with inertia a frame on its way to B carries the
    velocity that takes it there, and p_B comes out too steep (vacuum alanine dipeptide, 1,500 shots: calibration slope
    0.68 with frames, 1.08 without; loss on new shots 0.652 and 0.589). Two things keep it fair and honest:

    - Frames are thinned evenly in *time*, with one spacing for all shots, and each stands for the time since the stored
      frame before it. One weight per half (dividing by its length) would be biased: how long a half takes depends on
      where it ends, and a weight must not know the future of its frame.
    - Frames of a half share one outcome, so all of them together weigh ``HALF_WEIGHT``, on average over the halves.

    Failures and halves that reached no state are no records.

    Parameters
    ----------
    shots : columns of the shots, row = shot: ``ends`` (n_shots, 2), the state at the end of the half with negative
        offsets and of that with positive ones, and ``reason`` (n_shots,); of shots that a table gives, their counts
    frames : ``features`` (m, d), ``shot`` (m,) and ``offset`` (m,), the place relative to the shooting point in saved
        frames; the frame with offset 0 is the shooting point
    n_states : number of states
    config : says whether to train on frames too
    by_chain : whether whole chains are held out together, by their number in ``shots["chain"]``

    Returns
    -------
    TrainingData
        The shooting points in the order of their shots, then the frames.

    Raises
    ------
    ValueError
        If a shot has no frame with offset 0.
    """
    ends = np.where((shots["reason"] == Reason.FAILURE)[:, None], NO_STATE, shots["ends"])
    features, shot, offset = frames["features"], frames["shot"].astype(np.int64), frames["offset"].astype(np.int64)
    states = np.arange(n_states)
    counts = (ends[:, :, None] == states).sum(axis=1).astype(np.float32)
    given = shots["reason"] == Reason.GIVEN
    if given.any():
        counts[given] = end_counts(shots)[given]
    recorded = np.flatnonzero(counts.any(axis=1))
    at_zero = np.flatnonzero(offset == 0)
    at_zero = at_zero[np.argsort(shot[at_zero], kind="stable")]
    at_zero = at_zero[np.isin(shot[at_zero], recorded)]
    if not np.array_equal(shot[at_zero], recorded):
        missing = np.setdiff1d(recorded, shot[at_zero])
        raise ValueError(f"expected one frame with offset 0 for every shot, got none or several, shots {missing[:5]}")
    labels = ends[shot, (offset > 0).astype(np.int64)]
    chosen, weights = _thinned(shot, offset, labels if config.frames else np.full_like(labels, NO_STATE), len(recorded))
    rows = np.concatenate([at_zero, chosen])
    return TrainingData(
        features=features[rows].astype(np.float32, copy=False),
        targets=np.concatenate([counts[recorded], (labels[chosen, None] == states).astype(np.float32)]),
        weights=np.concatenate([np.ones(len(recorded), np.float32), weights]),
        shot=shot[rows],
        is_shooting_point=np.arange(len(rows)) < len(recorded),
        group=shots["chain"][shot[rows]] if by_chain else None,
        onward=_onward(shot[rows], offset[rows], len(recorded)) if len(chosen) else None,
    )


def _onward(shot: IntArray, offset: IntArray, n_points: int) -> IntArray:
    """Return the rows that come next, of shooting points followed by frames in the order of halves and of time."""
    half = 2 * shot[n_points:] + (offset[n_points:] > 0)
    onward = np.full((len(shot), 2), -1, np.int64)
    onward[n_points:-1, 0] = np.where(half[1:] == half[:-1], np.arange(n_points + 1, len(shot)), -1)
    for side in (0, 1):
        wanted = 2 * shot[:n_points] + side
        first = np.minimum(np.searchsorted(half, wanted), len(half) - 1)
        onward[:n_points, side] = np.where(half[first] == wanted, n_points + first, -1)
    return onward


def _thinned(shot: IntArray, offset: IntArray, labels: IntArray, n_shots: int) -> tuple[IntArray, Float32Array]:
    """Return rows of labelled frames evenly spaced in time, over all halves laid end to end, and their weights."""
    half = 2 * shot + (offset > 0)
    order = np.lexsort((np.abs(offset), half))
    order = order[(offset[order] != 0) & (labels[order] != NO_STATE)]
    if len(order) == 0:
        return order, np.zeros(0, np.float32)
    distance, half = np.abs(offset[order]), half[order]
    first = np.diff(half, prepend=-1) != 0
    # Stored frames may be thinned, each half in its own way: each stands for the frames since the one before.
    elapsed = np.cumsum(np.where(first, distance, np.diff(distance, prepend=0)))
    spacing = max(1.0, float(elapsed[-1]) / (FRAMES_PER_SHOT * max(n_shots, 1)))
    ticks = np.diff(np.floor(elapsed / spacing), prepend=0.0)
    chosen = np.flatnonzero(ticks > 0)
    weights = ticks[chosen] * (HALF_WEIGHT * first.sum() / ticks.sum())
    return order[chosen], weights.astype(np.float32)
