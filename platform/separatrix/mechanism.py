"""The mechanism of a run: which inputs its committor depends on, and the formulas they make. Stored in the run."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.committor import Committor
from separatrix.errors import AnalysisError
from separatrix.executors import until_interrupted
from separatrix.reader import Reader
from separatrix.records import FloatArray, IntArray
from separatrix.relevance import (
    Group,
    HeldOutShots,
    Relevance,
    grouped,
    integrated_gradients,
    permutation_relevance,
)
from separatrix.resources import usable_cores
from separatrix.store import write_result
from separatrix.symbolic import Formula, Progress, Shots, find_formulas
from separatrix.symbolic.formula import loss_of, parameters_of
from separatrix.trainer import held_out_by

INPUTS: Final = 5
"""Columns that formulas are made of, at most, where nobody says how many."""

GENERATIONS: Final = 5000
ISLANDS: Final = 8

PATHS: Final = 200
"""Transition paths along which gradients are taken, evenly spread over those that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelevanceRow:
    """Relevance of one input, or of a group of inputs that are permuted together.

    Attributes
    ----------
    name : of the column or of the group
    group : of the column; of a group, its own name
    columns : names of the columns
    mean, std : rise of the held-out loss per shot when the columns are shuffled, over permutations
    gradient : share of the change of q along transition paths, mean over paths; all columns together give 1 on average.
        None without paths, and for more than two states
    gradient_std : its standard deviation over paths
    significant : whether the rise is above the noise line
    """

    name: str
    group: str
    columns: tuple[str, ...]
    mean: float
    std: float
    gradient: float | None
    gradient_std: float | None
    significant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """What a trained committor tells of the mechanism.

    Attributes
    ----------
    relevance : single columns, the most relevant first
    groups : the same for groups, a column on its own being one
    noise_line : rise of the loss that columns which tell nothing stay below
    inputs : columns that formulas could be made of
    formulas : by rising complexity and falling loss on the shots that judged them; none for more than two states
    recommended : expression of the formula whose constants are worth their cost, by the Bayesian information criterion
    network_loss : of the network per shot, on the shots that judged formulas; it was not trained on them either
    model_version, n_shots : what was explained, and by how many shots
    seed : of the permutations and of the search
    complete : whether the search went to its end
    """

    relevance: tuple[RelevanceRow, ...]
    groups: tuple[RelevanceRow, ...]
    noise_line: float
    inputs: tuple[str, ...]
    formulas: tuple[Formula, ...]
    recommended: str | None
    network_loss: float
    model_version: int
    n_shots: int
    seed: int
    complete: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as it is stored and printed."""
        names = ("noise_line", "recommended", "network_loss", "model_version", "n_shots", "seed", "complete")
        return {
            "relevance": [asdict(row) for row in self.relevance],
            "groups": [asdict(row) for row in self.groups],
            "inputs": list(self.inputs),
            "expressions": [asdict(formula) | {"latex": formula.latex} for formula in self.formulas],
            **{name: getattr(self, name) for name in names},
        }


def explain(
    run: Path | str,
    *,
    inputs: int | None = None,
    seed: int = 0,
    generations: int = GENERATIONS,
    workers: int | None = None,
    report: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Mechanism:
    """Rank the inputs of a run's newest committor, fit formulas of the best ones to its shots, and store both in it.

    Formulas are for the logit of p_B: a run with more than two states gets the relevance of its inputs alone.

    The run may go on meanwhile: what was committed when this began is explained. Ctrl-C during the search ends it early
    and keeps what was found; a second one gives up.

    Parameters
    ----------
    run : folder
    inputs : how many columns formulas may be made of; by default those above the noise line, five at most
    seed : the same seed, shots and settings give the same result, whatever ``workers`` is
    generations : how long to search for formulas at most; a search in which nothing gains any more ends before
    workers : threads of the search; one per core by default
    report : called about once a second during the search
    stop : set it to end the search early

    Raises
    ------
    AnalysisError
        If the run has no trained committor or too few shots, or a number is out of range.
    """
    reader = Reader(run)
    _check(reader, seed, {"inputs": inputs, "generations": generations, "workers": workers})
    stop = stop or threading.Event()
    evidence = Evidence.of(reader)
    search_seed, relevance_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    ranking = Ranking.of(evidence, np.random.default_rng(relevance_seed))
    if len(evidence.model.states) > 2:
        mechanism = _without_formulas(evidence, ranking, seed)
        write_result(reader.folder, "mechanism", mechanism.as_dict())
        return mechanism
    shots = evidence.for_formulas(ranking.inputs(inputs))
    workers = min(usable_cores(), ISLANDS) if workers is None else workers
    share = 0.0

    def follow(progress: Progress) -> None:
        nonlocal share
        share = progress.share
        if report is not None:
            report(progress)

    search = partial(
        find_formulas,
        shots,
        seed=search_seed,
        islands=ISLANDS,
        generations=generations,
        workers=workers,
        report=follow,
        stop=stop,
    )
    formulas = until_interrupted(search, stop)
    mechanism = Mechanism(
        relevance=ranking.of_columns(),
        groups=ranking.of_groups(),
        noise_line=ranking.line,
        inputs=shots.columns,
        formulas=tuple(formulas),
        recommended=recommended(formulas, shots).expression,
        network_loss=network_loss(evidence, shots),
        model_version=evidence.model.version,
        n_shots=len(evidence.features),
        seed=seed,
        complete=share >= 1.0,
    )
    write_result(reader.folder, "mechanism", mechanism.as_dict())
    return mechanism


def _without_formulas(evidence: Evidence, ranking: Ranking, seed: int) -> Mechanism:
    """Return what is known of more than two states: relevance."""
    return Mechanism(
        relevance=ranking.of_columns(),
        groups=ranking.of_groups(),
        noise_line=ranking.line,
        inputs=(),
        formulas=(),
        recommended=None,
        network_loss=ranking.relevance.loss,
        model_version=evidence.model.version,
        n_shots=len(evidence.features),
        seed=seed,
        complete=True,
    )


def _check(reader: Reader, seed: int, numbers: Mapping[str, int | None]) -> None:
    """Refuse numbers out of range, and runs that cannot be explained."""
    if seed < 0:
        raise AnalysisError(f"seed: expected 0 or more, got {seed}")
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise AnalysisError(f"{name}: expected 1 or more, got {number}")
    n_columns, wanted = len(reader.observables.descriptors.names), numbers["inputs"]
    if wanted is not None and wanted > n_columns:
        raise AnalysisError(f"inputs: expected {n_columns} at most, the descriptors of {reader.folder}; got {wanted}")
    reader.trained_model()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What a run holds: its newest model, its shots, and its transition paths.

    ``features`` (n, d) and ``counts`` (n, n_states) are of the shooting points, ``unit`` (n,) is what is held out as a
    whole; ``paths`` are features (n_frames, d) of transition paths from A to B; ``quantities`` (d,) are the quantities
    columns belong to.
    """

    model: Committor
    names: tuple[str, ...]
    quantities: tuple[str, ...]
    features: FloatArray
    counts: FloatArray
    unit: IntArray
    held_out_share: float
    paths: tuple[FloatArray, ...]

    @classmethod
    def of(cls, reader: Reader) -> Evidence:
        """Return what a run holds now.

        Raises
        ------
        AnalysisError
            If there are too few shots.
        """
        model, data, share = reader.trained_model(), reader.shooting_points(), reader.config.committor.held_out
        judging = held_out_by(data.held_together, 1, share)[0]
        if judging.sum() < 2 or judging.all():
            raise AnalysisError(
                f"{reader.folder}: expected shots that are held out to judge by, and others, found {judging.sum()} of "
                f"{len(judging)} held out; {reader.more_shots()}"
            )
        return cls(
            model=model,
            names=reader.observables.descriptors.names,
            quantities=reader.observables.descriptors.groups,
            features=data.features,
            counts=data.targets,
            unit=data.held_together,
            held_out_share=share,
            paths=_transition_paths(*reader.shots_with_frames()),
        )

    def thinned(self, most: int) -> Evidence:
        """Return the same with as many of the shots at most, evenly spread."""
        if len(self.unit) <= most:
            return self
        rows = np.linspace(0, len(self.unit) - 1, most).round().astype(int)
        return replace(self, features=self.features[rows], counts=self.counts[rows], unit=self.unit[rows])

    def for_formulas(self, columns: Sequence[int]) -> Shots:
        """Return the shots with some of their columns; those that judge formulas are held out by the first member."""
        return Shots(
            features=self.features[:, columns].astype(np.float64),
            columns=tuple(self.names[column] for column in columns),
            to_b=self.counts[:, 1].astype(np.float64),
            trials=self.counts.sum(axis=1).astype(np.float64),
            held_out=held_out_by(self.unit, 1, self.held_out_share)[0],
        )


def network_loss(evidence: Evidence, shots: Shots) -> float:
    """Return the loss per shot of the network that holds out the very shots that judge formulas: the first member."""
    judging = shots.held_out
    q = evidence.model.member(0).logits(evidence.features[judging])
    return loss_of(q, shots.to_b[judging], shots.trials[judging])


def _transition_paths(shots: Mapping[str, NDArray[Any]], frames: Mapping[str, NDArray[Any]]) -> tuple[FloatArray, ...]:
    """Return the features of transition paths, each from A to B as they are stored."""
    found = np.flatnonzero((shots["ends"][:, 0] == 0) & (shots["ends"][:, 1] == 1))
    if len(found) > PATHS:
        found = found[np.linspace(0, len(found) - 1, PATHS).round().astype(int)]
    starts, stops = (np.searchsorted(frames["shot"], found, side) for side in ("left", "right"))
    paths = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        order = np.argsort(frames["offset"][start:stop], kind="stable")
        paths.append(frames["features"][start:stop][order])
    return tuple(paths)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Relevance of all columns, and after them of all groups with more than one."""

    evidence: Evidence
    groups: tuple[Group, ...]
    sets: tuple[tuple[int, ...], ...]
    relevance: Relevance
    line: float
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, evidence: Evidence, rng: np.random.Generator) -> Ranking:
        """Rank the columns of a run; ``rng`` permutes them."""
        groups = grouped(evidence.features, evidence.quantities)
        singles = tuple((column,) for column in range(len(evidence.names)))
        sets = singles + tuple(group.columns for group in groups if len(group.columns) > 1)
        held_out = held_out_by(evidence.unit, evidence.model.members, evidence.held_out_share)
        shots = HeldOutShots(features=evidence.features, counts=evidence.counts, held_out=held_out)
        relevance = permutation_relevance(evidence.model, shots, sets, rng)
        # Of several logits there is no single one to follow along a path.
        paths = evidence.paths if evidence.model.n_outputs == 1 else ()
        gradients = integrated_gradients(evidence.model, paths)
        # Shares of the mean change of q: that of a single path may be near zero, while the model is young.
        change = float(gradients.sum(axis=1).mean()) if len(gradients) else 0.0
        shares = gradients / change if change else gradients[:0]
        line = relevance.noise_line()
        return cls(evidence=evidence, groups=groups, sets=sets, relevance=relevance, line=line, shares=shares)

    def of_columns(self) -> tuple[RelevanceRow, ...]:
        """Return the columns, the most relevant first."""
        names = self.evidence.names
        rows = [self._row(names[column], group.name, (column,)) for group in self.groups for column in group.columns]
        return tuple(sorted(rows, key=lambda row: (-row.mean, names.index(row.name))))

    def of_groups(self) -> tuple[RelevanceRow, ...]:
        """Return the groups, the most relevant first."""
        return tuple(self._row(group.name, group.name, group.columns) for group in self._ranked())

    def inputs(self, wanted: int | None) -> list[int]:
        """Return the columns for formulas, ascending.

        They come from the most relevant groups; of strongly correlated quantities only the most relevant one counts.
        Without a number, groups below the noise line are left out, if there are any above.
        """
        groups = self._ranked()
        above = [group for group in groups if self._mean(group.columns) > self.line]
        chosen: list[int] = []
        for group in above if wanted is None and above else groups:
            best = max(group.columns, key=lambda column: self._mean((column,)))
            quantity = self.evidence.quantities[best]
            columns = [column for column in group.columns if self.evidence.quantities[column] == quantity]
            varying = [column for column in columns if np.ptp(self.evidence.features[:, column]) > 0]
            chosen += sorted(varying, key=lambda column: -self._mean((column,)))
        return sorted(chosen[: wanted or INPUTS])

    def _ranked(self) -> Sequence[Group]:
        return sorted(self.groups, key=lambda group: (-self._mean(group.columns), group.columns))

    def _mean(self, columns: tuple[int, ...]) -> float:
        return float(self.relevance.mean[self.sets.index(columns)])

    def _row(self, name: str, group: str, columns: tuple[int, ...]) -> RelevanceRow:
        place = self.sets.index(columns)
        shares = self.shares[:, list(columns)].sum(axis=1)
        mean = self._mean(columns)
        return RelevanceRow(
            name=name,
            group=group,
            columns=tuple(self.evidence.names[column] for column in columns),
            mean=mean,
            std=float(self.relevance.std[place]),
            gradient=float(shares.mean()) if len(shares) else None,
            gradient_std=float(shares.std()) if len(shares) else None,
            significant=mean > self.line,
        )


def recommended(formulas: Sequence[Formula], shots: Shots) -> Formula:
    """Return the formula with the least Bayesian information criterion (Schwarz 1978), over all shots.

    ``-log L + k/2 log n`` for k constants and n shots. The shots that judge are too few to tell long formulas apart:
    the best one on them is often the best of many by chance.
    """

    def criterion(formula: Formula) -> float:
        q = formula.q(shots.features, shots.columns)
        n_constants = len(parameters_of(formula.sympy)[2])
        surprise = loss_of(q, shots.to_b, shots.trials) * float(shots.trials.sum())
        return surprise + n_constants / 2 * math.log(len(q))

    return min(formulas, key=criterion)
