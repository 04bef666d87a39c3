"""What a run predicts of p_B, by its network and by its formulas; and two runs that predict each other's shots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.errors import AnalysisError, ColumnMismatchError, StoreError
from separatrix.estimates import Bounds, Scores, bounds, scores
from separatrix.reader import Reader
from separatrix.records import FloatArray
from separatrix.symbolic import Formula

NETWORK: Final = "network"
BLOCKS: Final = 50
"""Blocks of consecutive shots of which the jackknife leaves out one at a time: neighbours in a chain are alike."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Predicted logits of one of a run's predictors.

    Attributes
    ----------
    expression : of a formula, in the original columns; None for the network
    complexity : operations in the formula, None for the network
    recommended : whether ``separatrix explain`` recommends this formula
    q : (n,) logits of p_B, not finite where a formula has no value
    """

    expression: str | None
    complexity: int | None
    recommended: bool
    q: NDArray[np.float64]

    @property
    def name(self) -> str:
        """``network``, or the formula."""
        return self.expression or NETWORK

    def as_dict(self) -> dict[str, Any]:
        """Return what it is as plain data, without what it predicts."""
        return {
            "name": self.name,
            "expression": self.expression,
            "complexity": self.complexity,
            "recommended": self.recommended,
        }


def predictions(reader: Reader, features: FloatArray) -> tuple[Prediction, ...]:
    """Return what the newest network of a run predicts, and after it every formula that the run holds.

    Parameters
    ----------
    features : (n, d), descriptors in the order of the run's

    Raises
    ------
    AnalysisError
        If there is no trained committor, or more than two states.
    StoreError
        If the stored formulas are damaged.
    """
    reader.check_two_states("predictions of p_B")
    network = Prediction(
        expression=None,
        complexity=None,
        recommended=False,
        q=np.asarray(reader.trained_model().q(features), dtype=np.float64),
    )
    mechanism = reader.result("mechanism") or {}
    rows, recommended = mechanism.get("expressions", []), mechanism.get("recommended")
    names = reader.observables.descriptors.names
    try:
        formulas = [_formula(row, recommended, features, names) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{reader.folder / 'results' / 'mechanism.json'}: expected formulas as separatrix explain stores them, "
            f"found {type(error).__name__}: {error}; explain the run again"
        ) from error
    return (network, *formulas)


def _formula(
    row: Mapping[str, Any], recommended: str | None, features: FloatArray, columns: Sequence[str]
) -> Prediction:
    """Return what a stored formula predicts. Runs come from others, too: nothing in it is executed."""
    formula = Formula.from_data(row)
    return Prediction(
        expression=formula.expression,
        complexity=formula.complexity,
        recommended=formula.expression == recommended,
        q=formula.q(features, columns),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CrossPrediction:
    """How well one run predicts the shots of another, which it never saw.

    Attributes
    ----------
    predicting, predicted : folders of the runs
    model_version : of the network
    same_system : whether the runs have one and the same system, temperature and dynamics included
    bounds : what any predictor can reach on these shots; a shot has two trajectories at most, so the saturated model is
        far below any committor, and `Scores.entropy` says what the loss of a right one would be
    scores : every predictor with its scores, the network first
    """

    predicting: Path
    predicted: Path
    model_version: int
    same_system: bool
    bounds: Bounds
    scores: tuple[tuple[Prediction, Scores], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as it is printed."""
        return {
            "predicting": str(self.predicting),
            "predicted": str(self.predicted),
            "model_version": self.model_version,
            "same_system": self.same_system,
            **self.bounds.as_dict(),
            "predictors": [prediction.as_dict() | score.as_dict() for prediction, score in self.scores],
        }


def cross_predict(run: Path | str, other: Path | str) -> tuple[CrossPrediction, CrossPrediction]:
    """Let two independent runs of one system predict each other's shots; nothing is simulated and nothing stored.

    Returns
    -------
    tuple
        The first run on the shots of the other, and the other way round.

    Raises
    ------
    AnalysisError
        If a run has no trained committor, no shots or more than two states, or both are one.
    ColumnMismatchError
        If the runs differ in their descriptors or their states.
    """
    first, second = Reader(run), Reader(other)
    if first.folder.resolve() == second.folder.resolve():
        raise AnalysisError(f"{first.folder}: expected another run of the same system, got the run itself")
    _check_alike(first, second)
    return _cross(first, second), _cross(second, first)


def _check_alike(first: Reader, second: Reader) -> None:
    for what, a, b in (
        ("descriptors", first.observables.descriptors.names, second.observables.descriptors.names),
        ("states", *_states(first, second)),
    ):
        if tuple(a) != tuple(b):
            missing, more = [name for name in a if name not in b], [name for name in b if name not in a]
            found = "the same in another order"
            if missing or more:
                found = "; ".join(
                    f"{words} {_listed(names)}" for words, names in (("without", missing), ("with", more)) if names
                )
            raise ColumnMismatchError(
                f"{second.folder}: expected the {what} of {first.folder}, found {found}; only runs that describe "
                "configurations alike can predict each other"
            )


def _states(first: Reader, second: Reader) -> tuple[list[str], list[str]]:
    """Return the states of two runs with their definitions; a table knows only what they are called."""
    if first.config.table is not None or second.config.table is not None:
        return list(first.state_names), list(second.state_names)
    a, b = ([f"{name} = {text}" for name, text in run.config.states.items()] for run in (first, second))
    return a, b


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _cross(predicting: Reader, predicted: Reader) -> CrossPrediction:
    features, counts, blocks = _outcomes(predicted)
    made = predictions(predicting, features)
    a, b = counts.T
    return CrossPrediction(
        predicting=predicting.folder,
        predicted=predicted.folder,
        model_version=predicting.trained_model().version,
        same_system=predicting.config.system == predicted.config.system,
        bounds=bounds(a, b, blocks),
        scores=tuple((each, scores(each.q, a, b, blocks)) for each in made),
    )


def _outcomes(reader: Reader) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Return features (n, d) and counts (n, 2) of the shooting points of a run, and their blocks (n,)."""
    data, shots = reader.shooting_points(), reader.columns("shots")
    if not len(data.shot):
        raise AnalysisError(f"{reader.folder}: expected shots to predict, found none; {reader.more_shots()}")
    order = np.argsort(shots["chain"][data.shot], kind="stable")
    blocks = np.empty(len(order), dtype=np.int64)
    blocks[order] = np.arange(len(order)) // max(1, math.ceil(len(order) / BLOCKS))
    return data.features, data.targets, blocks
