"""Trains the next model from what a run has committed. Runs beside the session, in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separatrix.committor import Committor
from separatrix.config import RunConfig
from separatrix.estimates import calibration_dict, path_multiplicities
from separatrix.memory import give_back
from separatrix.records import Density, Reason
from separatrix.rows import are_transitions
from separatrix.selector import density_of
from separatrix.store import CONFIG, GrowingTable, Store, check_files
from separatrix.trainer import TrainingReport, expected_efficiency, restart_due, train
from separatrix.training_data import build_training_data, end_counts

EAGER_SHOTS = 200
"""A learner process with fewer shots than this competes for the processor; with more it yields."""

NICENESS = 10
DENSITY_PATHS = 200
"""The density along p_B is taken over this many of the newest accepted paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A trained model as it is stored.

    Attributes
    ----------
    data : the model's bytes
    report : what the training gave, plain values and arrays
    density : of the accepted frames between the states under this model
    """

    version: int
    data: bytes
    report: dict[str, Any]
    density: Density


class Learner:
    """Reads committed shots by cursor and trains on them.

    A lesson depends on nothing but the committed rows, the model before and the configuration: repeated after a
    crash, it gives the same model.

    Parameters
    ----------
    run : folder
    device : where to train, for PyTorch: cpu, cuda, cuda:N
    """

    def __init__(self, run: Path, device: str = "cpu") -> None:
        check_files(run, CONFIG)
        self._run, self._device = run, device
        self._config = RunConfig.read(run / CONFIG)
        self._store = Store.open(run)
        self._shots, self._frames = GrowingTable(self._store.shots), GrowingTable(self._store.frames)

    def learn(self, n_shots: int, version: int) -> Lesson:
        """Train model ``version`` on the first ``n_shots`` shots, from model ``version - 1``."""
        self._store.refresh()
        config = self._config.committor
        shots = {name: column[:n_shots] for name, column in self._shots.columns().items()}
        all_frames = self._frames.columns()
        n_frames = int(np.searchsorted(all_frames["shot"], n_shots))  # frames lie in the order of their shots
        frames = {name: column[:n_frames] for name, column in all_frames.items()}
        valid = shots["reason"] != Reason.FAILURE
        transition = are_transitions(shots["ends"])
        efficiency = expected_efficiency(shots["p_transition"][valid], transition[valid], config.window)
        previous = self._model(version - 1)
        n_taught = int(self._store.model_report(version - 1)["n_shots"]) if version > 1 else 0
        data = build_training_data(
            shots=shots,
            frames=frames,
            n_states=len(self._store.state_names),
            config=config,
            by_chain=self._config.holds_out_groups,
        )
        model, report = train(
            data,
            previous,
            seed=self._config.sampling.seed,
            efficiency=efficiency,
            version=version,
            config=config,
            restart=restart_due(n_shots, n_taught),
            device=self._device,
        )
        density = self._density(model, shots, frames)
        stored = self._report(report, density, shots)
        return Lesson(version=version, data=model.to_bytes(), report=stored, density=density)

    def _model(self, version: int) -> Committor:
        if version == 0:
            return Committor.untrained(self._store.feature_names, self._store.state_names)
        return Committor.from_bytes(self._store.model(version))

    def _density(
        self, model: Committor, shots: Mapping[str, NDArray[Any]], frames: Mapping[str, NDArray[Any]]
    ) -> Density:
        multiplicity = path_multiplicities(shots["chain"], shots["accepted"])
        paths = np.flatnonzero(multiplicity)[-DENSITY_PATHS:]
        rows = np.flatnonzero(np.isin(frames["shot"], paths))
        shot = frames["shot"][rows]
        # The first and the last frame of a path lie in states and are never shot from.
        interior = (np.diff(shot, prepend=-1) == 0) & (np.diff(shot, append=-1) == 0)
        rows, shot = rows[interior], shot[interior]
        if len(rows) == 0:
            return Density()
        return density_of(model.logits(frames["features"][rows]), multiplicity[shot])

    def _report(self, report: TrainingReport, density: Density, shots: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Return a training report as it is stored, with the calibration on held-out shooting points."""
        plain = {field.name: getattr(report, field.name) for field in fields(report)}
        q = report.held_out_q
        known = np.isfinite(q).reshape(len(q), -1).all(axis=1)
        counts = end_counts(shots)[report.shot[known]]
        fit = None if not known.any() else calibration_dict(q[known], counts, self._store.state_names)
        # n_shots counts rows of the run, failures included: the next training is due by it.
        return plain | {
            "validation_loss": report.validation_loss if math.isfinite(report.validation_loss) else None,
            "n_shots": len(shots["chain"]),
            "density": list(density.counts),
            "calibration": fit,
        }


_here = threading.local()  # a learner process has one thread; serial sessions of one process have one each


def start_learner(run: Path, device: str = "cpu") -> None:
    """Open a run for the trainings of this thread; the initializer of the learner process."""
    _here.learner = Learner(run, device)


def learn(n_shots: int, version: int) -> Lesson:
    """Train a model in the learner process.

    The first models are worth more than the MD they take the processor from; later ones yield to the shooters.
    """
    learner: Learner | None = getattr(_here, "learner", None)
    if learner is None:
        raise RuntimeError("start_learner was not called in this thread")
    if n_shots >= EAGER_SHOTS and multiprocessing.parent_process() is not None:
        os.nice(max(0, NICENESS - os.nice(0)))  # whoever started all this may have made it nicer yet
    lesson = learner.learn(n_shots, version)
    give_back()
    return lesson
