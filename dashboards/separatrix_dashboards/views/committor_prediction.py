"""What models say of sampled frames, computed once for each frame."""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.committor import Committor
from separatrix.logits import probabilities
from separatrix_dashboards.feeds import Feed, Recent, RunSnapshot
from separatrix_dashboards.frames import BLOCK, Features

Array = NDArray[Any]

_MODELS_KEPT: Final = 3
"""Of each there are numbers for every frame of a run."""


class FramePredictions:
    """What one model says of the frames of a run, in their order; frames that came since are added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end = 0
        self._p = self._spread = np.empty(0, np.float32)

    def newest(self, model: Committor, features: Array | Features, state: int, most: int) -> tuple[Array, Array]:
        """Return p of a state and its spread on the newest of all frames, (n,) each.

        Parameters
        ----------
        features : (m, d) of all frames of the run
        most : frames that are looked at, always the same
        """
        with self._lock:
            oldest = max(0, len(features) - most)
            if len(features) < self._end:  # an older snapshot
                return _predicted_from(oldest, model, features, state)
            p, spread = _predicted_from(max(self._end, oldest), model, features, state)
            self._p = np.concatenate([self._p, p])[-most:]
            self._spread = np.concatenate([self._spread, spread])[-most:]
            self._end = len(features)
            return self._p, self._spread


class RecentPredictions:
    """What the few models say that were asked for last: the newest, and those that people chose."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known = Recent(_MODELS_KEPT)

    def of(self, version: int) -> FramePredictions:
        """Return what is known from a model."""
        with self._lock:
            known: FramePredictions = self._known.get(version) or FramePredictions()
            return self._known.keep(version, known)


def predictions_on_frames(
    feed: Feed, snapshot: RunSnapshot, version: int, state: int, most: int
) -> tuple[Array, Array]:
    """Return p of a state and its spread on the newest frames, (n,) each."""
    recent: RecentPredictions = feed.cached(("committor of frames", state), RecentPredictions)
    return recent.of(version).newest(feed.model(version), snapshot.frames["features"], state, most)


def _predicted_from(first: int, model: Committor, features: Array | Features, state: int) -> tuple[Array, Array]:
    """Return p of a state and its spread on all frames from the first on, a part of them at a time."""
    starts = range(first, len(features), BLOCK) or (first,)
    parts = [predicted(model, features[start : start + BLOCK], state) for start in starts]
    p, spread = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return p, spread


def predicted(model: Committor, features: Array, state: int) -> tuple[Array, Array]:
    """Return p of a state from the mean logits, and the standard deviation of p over the members, (n,) each."""
    logits = model.member_logits(features)
    p = probabilities(logits.mean(axis=0))[:, state]
    members = np.stack([probabilities(member)[:, state] for member in logits])
    return p.astype(np.float32), members.std(axis=0).astype(np.float32)
