"""Runs made from shots that exist already, and what their models say of shots in another table."""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.config import RunConfig
from separatrix.errors import ConfigError, RunExistsError, TableError
from separatrix.estimates import calibration, calibration_dict, loss_bounds
from separatrix.learner import Learner
from separatrix.logits import probabilities
from separatrix.prediction import NETWORK, predictions
from separatrix.reader import Reader, count_names
from separatrix.records import NO_STATE, IntArray, Reason, RunState
from separatrix.rows import counted
from separatrix.states import MAX_STATES
from separatrix.store import Store, write_result
from separatrix.symbolic.formula import loss_of
from separatrix.tables import ShotTable, sha256_of, shots_in
from separatrix.trainer import varying

MINIMUM_ROWS: Final = 20
"""Configurations that a first committor needs: a quarter of them is held out by each network."""

ENSEMBLE_GROUPS: Final = 5
"""Groups from which on each of four networks has some to hold out; with fewer, two networks hold half of them out."""

MOST_TRAININGS: Final = 10
WORTHWHILE: Final = 1e-4
"""Drop of the held-out loss per shot for which training goes on."""


def learn(
    table: Path | str,
    run: Path | str,
    *,
    counts: Sequence[str],
    groups: str | None = None,
    seed: int = 1,
    tell: Callable[[str], None] | None = None,
) -> Reader:
    """Make a run from shots that exist already, of any simulation code, and train its committor.

    Everything that follows sampling works on it: relevance and formulas (`Session.explain`), the pages, the reader.

    Parameters
    ----------
    table : CSV, Parquet or npz with a row for every configuration; all columns but those of counts and groups describe
        it, in any units
    run : folder that does not exist yet, or is empty
    counts : two columns or more, how many shots from each configuration ended in each state. The states are called
        after them, less a leading ``n_``
    groups : column whose values name groups of rows, such as a chain or a trajectory, which are held out together
    seed : of the networks; the same seed and table give the same run
    tell : called with sentences about what was left out and what may not be meant

    Returns
    -------
    Reader
        Of the new run.

    Raises
    ------
    TableError
        If the table cannot be used: the message names row and column. No run is made then.
    RunExistsError
        If there is something at this path.

    Examples
    --------
    >>> run = learn("shots.csv", "runs/ala", counts=["n_A", "n_B"])  # doctest: +SKIP
    """
    file, folder = Path(table), Path(run).absolute()
    _check_counts(counts)
    if seed < 0:
        raise ConfigError(f"seed: expected 0 or more, got {seed}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunExistsError(f"{run}: expected a new or an empty folder, found something there; choose another name")
    shots = _usable(file, shots_in(file, counts, groups=groups), counts)
    for note in shots.notes:
        (tell or _silent)(f"{file}: {note}")
    draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}")
    try:
        _write(draft, file, shots, _config(file, shots, counts, groups, seed))
        _train(draft)
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Reader(folder)


def is_made_from(run: Path | str, table: Path | str, *, counts: Sequence[str], groups: str | None, seed: int) -> bool:
    """Return whether ``learn`` with these arguments made this very run; False where there is none."""
    if not (Path(run) / "run.zarr").exists() or not Path(table).is_file():
        return False
    config = Reader(run).config
    if config.table is None:
        return False
    made = config.table.sha256, tuple(config.states.values()), config.table.groups, config.sampling.seed
    return made == (sha256_of(Path(table)), tuple(counts), groups, seed)


def _check_counts(counts: Sequence[str]) -> None:
    if not 2 <= len(counts) <= MAX_STATES or len(set(counts)) < len(counts) or not all(counts):
        raise TableError(
            "counts: expected two columns or more, each once, of shots that ended in A, in B and so on, such as "
            f"n_A,n_B; got {','.join(counts)}"
        )


def _silent(_: str) -> None:
    """Say nothing."""


def _usable(file: Path, shots: ShotTable, counts: Sequence[str]) -> ShotTable:
    """Return a table without columns that vary too little for single precision; refuse one to learn nothing from."""
    n, ends = len(shots.counts), shots.counts.sum(axis=0)
    if n < MINIMUM_ROWS:
        left_out = f" ({'; '.join(shots.notes)})" if shots.notes else ""
        raise TableError(
            f"{file}: expected {MINIMUM_ROWS} rows with shots or more, found {n}{left_out}; shoot from more"
        )
    if not ends.all() and len(counts) > 2:
        raise TableError(
            f"{file}: expected shots that ended in every state, found none in column {counts[int(np.argmin(ends))]!r}; "
            "leave it out of the counts"
        )
    if not ends.all():
        state = "first" if ends[0] else "second"
        raise TableError(
            f"{file}: expected shots that ended in either state, found all {ends.sum():,} of them in the {state}; "
            "there is nothing to tell the states apart by"
        )
    if shots.groups is not None and shots.groups.max() < 1:
        raise TableError(f"{file}: expected two groups of rows or more, found one; leave --groups out")
    varies = varying(shots.features.astype(np.float32))
    notes = [
        f"column {name!r} varies by less than a ten-thousandth of its mean and was left out; subtract a constant from "
        "it to keep it"
        for name, there in zip(shots.columns, varies, strict=True)
        if not there
    ]
    if not varies.any():
        raise TableError(f"{file}: expected a column that varies, found none: {'; '.join([*shots.notes, *notes])}")
    features = shots.features[:, varies]
    repeated = n - len(np.unique(features.astype(np.float32), axis=0))
    if repeated and shots.groups is None:
        notes.append(
            f"{repeated} of {n} rows repeat the configuration of another one: held-out losses are then too good; add "
            "up their counts, or name a column with --groups that holds them together"
        )
    columns = tuple(name for name, there in zip(shots.columns, varies, strict=True) if there)
    return ShotTable(
        columns=columns, features=features, counts=shots.counts, groups=shots.groups, notes=(*shots.notes, *notes)
    )


def _config(file: Path, shots: ShotTable, counts: Sequence[str], groups: str | None, seed: int) -> RunConfig:
    n_groups = len(shots.counts) if shots.groups is None else int(shots.groups.max()) + 1
    committor: dict[str, Any] = {"frames": False}
    if n_groups < ENSEMBLE_GROUPS:
        committor |= {"members": 2, "held_out": 0.5}
    states = dict(zip((name.removeprefix("n_") or name for name in counts), counts, strict=True))
    system = {"kind": "table", "file": file.name, "sha256": sha256_of(file)}
    return RunConfig.from_data(
        {
            "system": system | ({} if groups is None else {"groups": groups}),
            "states": states if len(states) == len(counts) else dict(zip(counts, counts, strict=True)),
            "descriptors": {"columns": list(shots.columns)},
            "sampling": {
                "seed": seed,
                "steps": len(shots.counts),
                "chains": n_groups if shots.groups is not None else 1,
                "selector": "uniform",
            },
            "committor": committor,
        }
    )


def _write(draft: Path, file: Path, shots: ShotTable, config: RunConfig) -> None:
    """Write the rows of a table as shots: each has one frame, its configuration."""
    now, n = time.time(), len(shots.counts)
    chains = np.zeros(n, dtype=np.int64) if shots.groups is None else shots.groups
    nothing = np.zeros(1, dtype=np.int32)
    store = Store.create(
        draft,
        config_toml=config.to_toml(),
        feature_names=shots.columns,
        cv_names=shots.columns,
        state_names=list(config.states),
    )
    with store:
        notes = {"notes": "; ".join(shots.notes)} if shots.notes else {}
        store.log("created", config=config.content_hash, table=file.name, rows=n, **notes)
        steps: dict[int, int] = {}
        for row, (chain, n_ends) in enumerate(zip(chains.tolist(), shots.counts.tolist(), strict=True)):
            step = steps[chain] = steps.get(chain, -1) + 1
            features = shots.features[row : row + 1]
            store.append(_shot_row(chain, step, n_ends, now), features, features, nothing)
        store.commit({"state": RunState.FINISHED.value, "target": n, "message": ""})


def _shot_row(chain: int, step: int, n_ends: Sequence[int], now: float) -> dict[str, Any]:
    return {
        "chain": chain,
        "step": step,
        "model": 0,
        "frame": 0,
        "parent": -1,
        "q": math.nan,
        "p_transition": 0.0,
        **counted(n_ends),
        "ends": (NO_STATE, NO_STATE),
        "accepted": False,
        "reason": int(Reason.GIVEN),
        "p_acc": 0.0,
        "burn_in": False,
        "n_frames": 1,
        "shooting_frame": 0,
        "md_steps": 0,
        "seconds": 0.0,
        "seed": 0,
        "retries": 0,
        "time": now,
    }


def _train(draft: Path) -> None:
    """Train model after model, each from the one before, until the held-out loss stops falling."""
    with Store.open(draft, writable=True) as store:
        learner, best = Learner(draft), math.inf
        for version in range(1, MOST_TRAININGS + 1):
            lesson = learner.learn(store.n_shots, version)
            loss = lesson.report["validation_loss"]
            if version > 1 and (loss is None or loss > best - WORTHWHILE):
                break
            best = math.inf if loss is None else loss
            store.write_model(lesson.version, lesson.data, lesson.report)
            store.commit()
        store.log("finished", models=store.committed.models - 1)


# -- an independent table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What independent shots say of the network or of a formula.

    Attributes
    ----------
    name : ``network``, or the expression of the formula
    loss : per shot, ``n_A softplus(q) + n_B softplus(-q)``, of more states the multinomial one; None where the formula
        has no value in some row
    without_value : rows in which it has none
    calibration : of its logits, as `estimates.calibration_dict` gives it; rows without a value are left out
    """

    name: str
    loss: float | None
    without_value: int
    calibration: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a run's network and formulas do on an independent table.

    Attributes
    ----------
    table : name of the file
    n_rows, n_shots : configurations with shots, and all their shots
    null_loss : per shot, of the best constant: ``-sum_i p_i ln p_i`` for the shares p_i of shots that ended in state i
    saturated_loss : per shot, of the best value for every row; no model does better
    model_version : of the network
    network : of the ensemble
    formulas : in the order of the run's mechanism; empty before it is explained
    notes : what was left out
    """

    table: str
    n_rows: int
    n_shots: int
    null_loss: float
    saturated_loss: float
    model_version: int
    network: Verdict
    formulas: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as it is stored and printed."""
        return asdict(self)


def evaluate(run: Path | str, table: Path | str, *, counts: Sequence[str] | None = None) -> Evaluation:
    """Hold the newest network of a run, and every formula of its mechanism, against shots of an independent table.

    The result is stored in the run; ask again after `Session.explain`, and the formulas are judged, too.

    Parameters
    ----------
    run : folder of a run, sampled or made from a table
    table : CSV, Parquet or npz with the run's descriptor columns; further columns are left aside
    counts : the columns that count shots which ended in each state; by default those of the run's own table, else
        those that `export.write_shots` writes

    Raises
    ------
    TableError
        If the table cannot be used: the message names row and column.
    AnalysisError
        If the run has no trained committor.
    """
    reader, file = Reader(run), Path(table)
    model, state_names = reader.trained_model(), reader.state_names
    names = reader.observables.descriptors.names
    if counts is None:
        counts = count_names(reader)
    _check_counts(counts)
    if len(counts) != len(state_names):
        raise TableError(
            f"counts: expected a column for each of {', '.join(state_names)}, the states of {reader.folder}; got "
            f"{','.join(counts)}"
        )
    shots = shots_in(file, counts, wanted=names)
    if not len(shots.counts):
        raise TableError(f"{file}: expected rows with shots, found none")
    features = shots.features.astype(np.float32)
    if len(state_names) == 2:
        network, *formulas = (_verdict(each.name, each.q, *shots.counts.T) for each in predictions(reader, features))
    else:
        network, formulas = _verdict_on_states(model.logits(features), shots.counts, state_names), []
    null_loss, saturated_loss = loss_bounds(shots.counts)
    result = Evaluation(
        table=file.name,
        n_rows=len(shots.counts),
        n_shots=int(shots.counts.sum()),
        null_loss=null_loss,
        saturated_loss=saturated_loss,
        model_version=model.version,
        network=network,
        formulas=tuple(formulas),
        notes=shots.notes,
    )
    write_result(reader.folder, "test", result.as_dict())
    return result


def _verdict(name: str, q: NDArray[np.float64], n_a: IntArray, n_b: IntArray) -> Verdict:
    loss = loss_of(q, n_b.astype(np.float64), (n_a + n_b).astype(np.float64))
    return Verdict(
        name=name,
        loss=loss if math.isfinite(loss) else None,
        without_value=int((~np.isfinite(q)).sum()),
        calibration=calibration(q, n_a, n_b).as_dict(),
    )


def _verdict_on_states(logits: NDArray[np.float64], counts: IntArray, state_names: Sequence[str]) -> Verdict:
    """Return what shots say of the network of more than two states."""
    log_p = np.log(np.maximum(probabilities(logits), 1e-300))
    return Verdict(
        name=NETWORK,
        loss=float(-(counts * log_p).sum() / counts.sum()),
        without_value=0,
        calibration=calibration_dict(logits, counts, state_names),
    )
