"""Validation of a run: trajectories from configurations spread over predicted p_B, and how well it foretold them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.committor_shooting import CommittorShooting, draw, missing
from separatrix.errors import AnalysisError
from separatrix.estimates import Bounds, Scores, bounds, clopper_pearson, scores
from separatrix.executors import until_interrupted
from separatrix.prediction import Prediction, predictions
from separatrix.preparing import check_resources
from separatrix.reader import Reader
from separatrix.records import IntArray, ShootingProgress
from separatrix.resources import Resources
from separatrix.rows import outcome_counts
from separatrix.store import Store, StoredValidation, write_result

CONFIGURATIONS: Final = 40
SHOTS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """How well a run predicts where trajectories from its configurations end.

    Attributes
    ----------
    number : of the validation in the run
    seed : of the configurations and of the trajectories
    wanted : trajectories wanted from each configuration
    complete : whether they are all there
    drawn_with, model_version : the model that configurations were spread evenly with, and the one that is validated
    shot, frame : (n,) which frame of which shot's path each configuration is
    n_ends : (n, 2) trajectories that ended in A and in B
    n_neither : (n,) that reached none within ``max_frames``; they count for nothing else
    n_failed : (n,) that a machine could not finish in any attempt
    md_steps, seconds : integration steps, and wall time of the workers, of all trajectories
    bounds : what any predictor can reach on these counts
    scores : every predictor with its scores, the network first, then the formulas of ``separatrix explain``
    """

    number: int
    seed: int
    wanted: int
    complete: bool
    drawn_with: int
    model_version: int
    shot: IntArray
    frame: IntArray
    n_ends: IntArray
    n_neither: IntArray
    n_failed: IntArray
    md_steps: int
    seconds: float
    bounds: Bounds
    scores: tuple[tuple[Prediction, Scores], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as it is stored and printed; README tells what they mean."""
        n_A, n_B = self.n_ends.T
        n = n_A + n_B
        observed = np.divide(n_B, n, out=np.full(len(n), np.nan), where=n > 0)
        lower, upper = clopper_pearson(n_B, n)
        counts = {
            "shot": self.shot,
            "frame": self.frame,
            "n_A": n_A,
            "n_B": n_B,
            "n_neither": self.n_neither,
            "n_failed": self.n_failed,
        }
        return {
            "number": self.number,
            "configurations": len(n),
            "shots": self.wanted,
            "seed": self.seed,
            "complete": self.complete,
            "drawn_with": self.drawn_with,
            "model_version": self.model_version,
            "trajectories": int(sum(count.sum() for count in (n, self.n_neither, self.n_failed))),
            "neither": int(self.n_neither.sum()),
            "failed": int(self.n_failed.sum()),
            "md_steps": self.md_steps,
            "seconds": self.seconds,
            **self.bounds.as_dict(),
            "points": {name: count.tolist() for name, count in counts.items()}
            | {"observed": _plain(observed), "lower": lower.tolist(), "upper": upper.tolist()},
            "predictors": [
                prediction.as_dict() | score.as_dict() | {"q": _plain(prediction.q)}
                for prediction, score in self.scores
            ],
        }


def validate(
    run: Path | str,
    *,
    configurations: int = CONFIGURATIONS,
    shots: int = SHOTS,
    seed: int = 0,
    report: Callable[[ShootingProgress], None] | None = None,
    stop: threading.Event | None = None,
    **resources: Any,
) -> Validation:
    """Shoot trajectories from configurations of a run, and hold its predictions against them; all is stored in the run.

    Configurations are frames of the run's transition paths, spread evenly over the p_B that its newest network predicts
    when they are drawn. ``configurations`` and ``seed`` tell a validation from others: the same two go on with the one
    that is there, until it holds ``shots`` trajectories from each configuration in total; others begin one beside it.
    What is there already is never made again, and scored anew by the newest network and formulas.

    Parameters
    ----------
    run : folder
    configurations, shots : how many, and how many trajectories from each of them
    seed : of the configurations and the trajectories
    report : called in another thread some times a second
    stop : set it to end early; Ctrl-C does, too
    resources : what it may use: workers, platform and more, see `separatrix.resources.Resources`

    Returns
    -------
    Validation
        Not ``complete`` when it was ended early.

    Raises
    ------
    AnalysisError
        If the run has no trained committor, more than two states or too few frames, or a number is out of range.
    RunLockedError
        If another process is writing the run.
    """
    reader = Reader(run)
    for name, number, least in (
        ("configurations", configurations, 1),
        ("shots", shots, 1),
        ("seed", seed, 0),
    ):
        if number < least:
            raise AnalysisError(f"{name}: expected {least} or more, got {number}")
    allowed = Resources(**resources)
    check_resources(allowed)
    if reader.config.table is not None:
        raise AnalysisError(
            f"{reader.folder} was made from a table, and nothing can be simulated in it; hold it against another "
            "table with separatrix learn TABLE RUN --test TABLE2, or against another run with --against"
        )
    reader.check_two_states("validation")
    reader.trained_model()
    stop = stop or threading.Event()
    settings = {"configurations": configurations, "seed": seed}
    work = partial(
        _work,
        reader,
        settings,
        shots,
        allowed,
        report or (lambda progress: None),
        stop,
    )
    return until_interrupted(work, stop)


def _work(
    reader: Reader,
    settings: dict[str, int],
    shots: int,
    resources: Resources,
    report: Callable[[ShootingProgress], None],
    stop: threading.Event,
) -> Validation:
    stored = reader.stored_validations.find(settings)
    if stored is None or missing(stored, shots).any():
        with Store.open(reader.folder, writable=True) as store:
            stored = store.validations.find(settings) or store.validations.create(draw(reader, **settings), settings)
            judge = _Judge(reader, stored, shots)
            shooting = CommittorShooting(store, stored, reader.config, shots)
            shooting.run(resources, report=report, publish=judge.publish, stop=stop)
    return _Judge(reader, stored, shots).publish()


class _Judge:
    """Holds what a run predicts against the outcomes that a validation holds; predictions are made once."""

    def __init__(self, reader: Reader, stored: StoredValidation, shots: int) -> None:
        self._reader, self._stored, self._shots = reader, stored, shots
        self._starts = stored.configurations()
        self._model_version = reader.trained_model().version
        self._predictions = predictions(reader, self._starts.features)

    def publish(self) -> Validation:
        """Score all that is committed, store the result in the run, and return it."""
        validation = self._validation()
        write_result(self._reader.folder, "validation", validation.as_dict())
        return validation

    def _validation(self) -> Validation:
        outcomes = self._stored.outcomes()
        n_A, n_B, n_neither, n_failed = outcome_counts(outcomes, len(self._starts.positions))
        return Validation(
            number=self._stored.number,
            seed=int(self._stored.settings["seed"]),
            wanted=self._shots,
            complete=not missing(self._stored, self._shots).any(),
            drawn_with=self._starts.model,
            model_version=self._model_version,
            shot=self._starts.shot,
            frame=self._starts.frame,
            n_ends=np.stack([n_A, n_B], axis=1),
            n_neither=n_neither,
            n_failed=n_failed,
            md_steps=int(outcomes["md_steps"].sum()),
            seconds=float(outcomes["seconds"].sum()),
            bounds=bounds(n_A, n_B),
            scores=tuple((each, scores(each.q, n_A, n_B)) for each in self._predictions),
        )


def _plain(values: NDArray[np.floating]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
