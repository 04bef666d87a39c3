"""How trials become rows of a run, and how rows become chains, model and status again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.committor import Committor
from separatrix.observables import Observables
from separatrix.records import (
    NO_STATE,
    ChainState,
    ChainStep,
    Density,
    IntArray,
    Path,
    Reason,
    RunState,
    ShotOutcome,
    ShotTask,
    Status,
)
from separatrix.store import Store

UNTOLD: Final = "in_flight"
"""Note of a run: (chain, step, model version) of trials that had no outcome at the last commit."""


def shot_row(
    task: ShotTask, parent: int, verdict: ChainStep, retries: int, outcome: ShotOutcome | None, n_states: int
) -> dict[str, Any]:
    """Return the stored row of one trial; without an outcome, that of a trial no machine could finish."""
    ends = outcome.ends if outcome is not None else (NO_STATE, NO_STATE)
    return {
        "chain": task.chain,
        "step": task.step,
        "model": task.model,
        "frame": task.frame,
        "parent": parent,
        "q": verdict.q,
        "p_transition": verdict.p_transition,
        **counted([ends.count(state) for state in range(n_states)]),
        "ends": ends,
        "accepted": verdict.accepted,
        "reason": int(verdict.reason),
        "p_acc": verdict.p_acc,
        "burn_in": verdict.burn_in,
        "n_frames": outcome.n_frames if outcome is not None else 0,
        "shooting_frame": outcome.shooting_frame if outcome is not None else NO_STATE,
        "md_steps": outcome.md_steps if outcome is not None else 0,
        "seconds": outcome.seconds if outcome is not None else 0.0,
        "seed": task.seed,
        "retries": retries,
        "time": time.time(),
    }


def counted(n_ends: Sequence[int]) -> dict[str, Any]:
    """Return the columns that count how trajectories of a shot ended, from their number in each state."""
    return dict(zip(("n_A", "n_B"), n_ends, strict=True)) if len(n_ends) == 2 else {"n_ends": tuple(n_ends)}


def are_transitions(ends: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which shots connected two states, (n_shots,), from their ends (n_shots, 2)."""
    return np.asarray((ends[:, 0] != ends[:, 1]) & (ends != NO_STATE).all(axis=1))


def restore_chains(store: Store, observables: Observables, n_chains: int) -> tuple[ChainState, ...]:
    """Return every chain as it stood at the last commit.

    Raises
    ------
    StoreError
        If a path that a chain stands on is missing.
    """
    shots = store.shots()
    return tuple(_restore_chain(store, observables, shots, chain) for chain in range(n_chains))


def _restore_chain(store: Store, observables: Observables, shots: dict[str, np.ndarray], chain: int) -> ChainState:
    rows = np.flatnonzero(shots["chain"] == chain)
    accepted = rows[shots["accepted"][rows]]
    if len(accepted) == 0:
        positions, box = store.seed_path(chain)
        stored = store.seed_frames_of(chain, *positions.shape[:2])
        shot, shared_frame = -1, -1
    else:
        shot = int(accepted[-1])
        shared_frame = int(shots["shooting_frame"][shot])
        positions, box = store.trajectory(shot)
        stored = store.frames_of(shot, *positions.shape[:2])
    parents = shots["parent"][accepted]
    grown = accepted[parents >= 0]
    fresh = shots["frame"][grown] != shots["shooting_frame"][shots["parent"][grown]]
    path = Path(
        shot=shot,
        positions=stored,  # a thousand paths in water would not fit into memory
        box=box,
        features=observables.features(positions, box),
        shared_frame=shared_frame,
    )
    return ChainState(chain=chain, step=len(rows), path=path, equilibrated=bool(fresh.any()))


def restore_model(store: Store) -> tuple[Committor, Density, int]:
    """Return the newest model, the density under it, and the number of shots it was trained on.

    A run without a model gets the untrained one, which sees p = 1/2 everywhere.
    """
    versions = store.model_versions()
    return _restore_version(store, versions[-1] if versions else 0)


def restore_dropped(store: Store) -> dict[int, tuple[int, Committor, Density]]:
    """Return what selected the trials that had no outcome at the last commit.

    What the run does not hold any more, since it was repaired, is left out.

    Returns
    -------
    dict
        (step, model, density under it) by chain.
    """
    untold = store.notes.get(UNTOLD, ())
    wanted = {version for _, _, version in untold} & {0, *store.model_versions()}
    selections = {version: _restore_version(store, version)[:2] for version in wanted}
    return {chain: (step, *selections[version]) for chain, step, version in untold if version in wanted}


def _restore_version(store: Store, version: int) -> tuple[Committor, Density, int]:
    if version == 0:
        return Committor.untrained(store.feature_names, store.state_names), Density(), 0
    report = store.model_report(version)
    model = Committor.from_bytes(store.model(version))
    model.check_columns(store.feature_names)
    return model, Density(counts=tuple(report["density"])), int(report["n_shots"])


def restore_status(store: Store, target: int, shots: Mapping[str, NDArray[Any]] | None = None) -> Status:
    """Return the status of a run as its committed rows and notes give it.

    Parameters
    ----------
    target : steps wanted, where the run does not say
    shots : its rows, when they are at hand
    """
    shots = store.shots() if shots is None else shots
    notes = store.notes
    versions = store.model_versions()
    report = store.model_report(versions[-1]) if versions else {}
    ends = shots["ends"]
    return Status(
        state=RunState(notes.get("state", RunState.NEW)),
        steps=len(ends),
        target=int(notes.get("target", target)),
        transitions=int(are_transitions(ends).sum()),
        expected_transitions=float(shots["p_transition"].sum()),
        accepted=int(shots["accepted"].sum()),
        failures=int(shots["retries"].sum() + (shots["reason"] == Reason.FAILURE).sum()),
        md_steps=int(shots["md_steps"].sum()),
        seconds=float(notes.get("seconds", 0.0)),
        raw_steps_per_second=float(notes.get("raw_steps_per_second", 0.0)),
        devices=int(notes.get("devices", 0)),
        platform=str(notes.get("platform", "")),
        workers=int(notes.get("workers", 0)),
        busy=int(notes.get("busy", 0)),
        model_version=versions[-1] if versions else 0,
        validation_loss=report.get("validation_loss"),
        message=str(notes.get("message", "")),
    )


def outcome_counts(outcomes: Mapping[str, NDArray[Any]], n: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Return how trajectories of committor shooting ended, (n,) each by configuration.

    Returns
    -------
    tuple
        Those in state A, in state B, in neither within ``max_frames``, and those that a machine could not finish.
    """
    state, failed = outcomes["state"], outcomes["failed"]
    kinds = (state == 0, state == 1, (state == NO_STATE) & ~failed, failed)
    a, b, neither, lost = (np.bincount(outcomes["configuration"][kind], minlength=n) for kind in kinds)
    return a, b, neither, lost
