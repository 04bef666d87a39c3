"""Committor shooting: trajectories with fresh velocities from frames of a run's paths, stored as they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.config import RunConfig
from separatrix.errors import AnalysisError
from separatrix.estimates import evenly_spread
from separatrix.loop import COMMIT_INTERVAL, DRAIN_SECONDS, MAX_RETRIES
from separatrix.preparing import choose_platform
from separatrix.reader import Reader
from separatrix.records import (
    NO_STATE,
    Configurations,
    IntArray,
    RunState,
    ShootingProgress,
    ShotFailure,
    TrajectoryOutcome,
    TrajectoryTask,
)
from separatrix.resources import Resources
from separatrix.rows import are_transitions
from separatrix.shooting import follow, result_of
from separatrix.store import Store, StoredValidation
from separatrix.workers import TimeLimit, start_shooters, threads_each, worker_specs

_PUBLISH_INTERVAL: Final = 2.0
"""Seconds between results while trajectories are made: pages show them grow."""
_POLL_SECONDS: Final = 0.2
_Columns = Mapping[str, NDArray[Any]]
_LIVE: Final = (RunState.RUNNING, RunState.SEEDING, RunState.PAUSED)


def draw(reader: Reader, configurations: int, seed: int) -> Configurations:
    """Return frames of a run's transition paths, spread evenly over the p_B that its newest network predicts.

    Parameters
    ----------
    configurations : how many
    seed : the same seed, run and model give the same frames

    Raises
    ------
    AnalysisError
        If there is no trained committor, or there are fewer frames.
    """
    shots, frames = reader.shots_with_frames()
    stored, reduced = are_transitions(shots["ends"]), False
    if reader.config.sampling.stored_paths == "solute":
        whole = [bool(is_path) and reader.has_whole_path(shot) for shot, is_path in enumerate(stored)]
        stored, reduced = np.array(whole, dtype=bool), sum(whole) < stored.sum()
    rows = _candidates(frames, shots, stored, configurations)
    if len(rows) < configurations:
        where = "the paths that its chains stand on (of others it keeps the solute)" if reduced else "transition paths"
        raise AnalysisError(
            f"{reader.folder}: expected {configurations} frames on {where} to shoot from, found {len(rows)}; "
            f"ask for fewer with --configurations, or sample more with separatrix run {reader.folder}"
        )
    model = reader.trained_model()
    rng = np.random.default_rng(np.random.SeedSequence(reader.config.sampling.seed, spawn_key=(seed,)))
    rows = rows[evenly_spread(model.p_B(frames["features"][rows]), configurations, rng)]
    shot = frames["shot"][rows].astype(np.int64)
    frame = frames["offset"][rows] + shots["shooting_frame"][shot].astype(np.int64)
    positions, box = _frames_of(reader, shot, frame)
    return Configurations(
        positions=positions,
        box=box,
        features=frames["features"][rows],
        cvs=frames["cvs"][rows],
        q=model.q(frames["features"][rows]),
        shot=shot,
        frame=frame,
        model=model.version,
    )


def _frames_of(reader: Reader, shot: IntArray, frame: IntArray) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return (n, n_atoms, 3) and (n, 3, 3) of single frames, one path in memory at a time: water is large."""
    chosen: dict[int, tuple[NDArray[Any], NDArray[Any] | None]] = {}
    for each in np.unique(shot).tolist():
        path, box = reader.path_positions(each)
        for row in np.flatnonzero(shot == each).tolist():
            at = frame[row]
            chosen[row] = path[at].copy(), None if box is None else box[at].copy()
    positions, boxes = zip(*(chosen[row] for row in range(len(shot))), strict=True)
    return np.stack(positions), None if boxes[0] is None else np.stack(boxes)


def _candidates(frames: _Columns, shots: _Columns, stored: NDArray[np.bool_], wanted: int) -> IntArray:
    """Return rows of frames that lie on stored paths between the states, none of them twice.

    The shooting point of a path is left out: it is a frame of the path before. So are paths that still descend from a
    seed path, as long as there are enough others.
    """
    shot, offset = frames["shot"], frames["offset"]
    place = offset + shots["shooting_frame"][shot]
    between = (place > 0) & (place < shots["n_frames"][shot] - 1) & (offset != 0)
    settled = np.flatnonzero(between & (stored & ~shots["burn_in"])[shot])
    return settled if len(settled) >= wanted else np.flatnonzero(between & stored[shot])


def missing(stored: StoredValidation, shots: int) -> NDArray[np.bool_]:
    """Return which trajectories are not there yet, (shots, n_configurations)."""
    outcomes = stored.outcomes()
    result = np.ones((shots, int(stored.settings["configurations"])), dtype=bool)
    there = outcomes["trajectory"] < shots
    result[outcomes["trajectory"][there], outcomes["configuration"][there]] = False
    return result


def _tasks(stored: StoredValidation, shots: int, config: RunConfig) -> Iterator[TrajectoryTask]:
    """Yield what is to be done: one trajectory from each configuration, then the next, so that all grow alike.

    The seed of a trajectory follows from its place, so that it is the same one whenever it is made.
    """
    starts, seed = stored.configurations(), int(stored.settings["seed"])
    snapshots = [starts.snapshot(configuration) for configuration in range(len(starts.positions))]
    for trajectory, configuration in np.argwhere(missing(stored, shots)).tolist():
        sequence = np.random.SeedSequence(config.sampling.seed, spawn_key=(seed, configuration, trajectory))
        yield TrajectoryTask(
            configuration=configuration,
            trajectory=trajectory,
            snapshot=snapshots[configuration],
            seed=int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)),
        )


class CommittorShooting:
    """Makes the trajectories that a validation lacks, and commits them about once a second.

    Parameters
    ----------
    store, stored : the run, open for writing, and its validation
    config : of the run
    shots : trajectories wanted from each configuration
    """

    _limit: TimeLimit  # once it is known how fast the platform is

    def __init__(self, store: Store, stored: StoredValidation, config: RunConfig, shots: int) -> None:
        self._store, self._stored, self._config, self._shots = store, stored, config, shots
        self._tasks = _tasks(stored, shots, config)
        self._flights: dict[Future[Any], tuple[TrajectoryTask, int]] = {}
        self._made = 0

    def run(
        self,
        resources: Resources,
        *,
        report: Callable[[ShootingProgress], None],
        publish: Callable[[], object],
        stop: threading.Event,
    ) -> None:
        """Make trajectories until none is left or ``stop`` is set; those in flight then get some seconds to end.

        Parameters
        ----------
        resources : what it may use
        report : called some times a second
        publish : called now and then with more of them committed

        Raises
        ------
        EngineError
            If no platform can run the system.
        """
        store, stored = self._store, self._stored
        if store.notes.get("state") in _LIVE:  # killed without a word; under this lock it would seem to be running
            store.commit({**store.notes, "state": RunState.INTERRUPTED.value})
        most = int(missing(stored, self._shots).sum())
        speed = choose_platform(store, self._config, resources, threads_each(resources, most))
        n_atoms = stored.configurations().positions.shape[1]
        specs = worker_specs(store.path, speed.platform, resources, n_atoms=n_atoms, most=most)
        workers = 0 if resources.workers == 0 else len(specs)
        store.log("validation started", **self._about(), **stored.settings, shots=self._shots, workers=workers)
        longest = self._config.sampling.max_frames * self._config.sampling.stride
        self._limit = TimeLimit(longest, speed.steps_per_second, resources.shot_time_limit)
        executor = start_shooters(specs, resources, self._limit)
        try:
            self._shoot(executor, max(1, 2 * workers), report, publish, stop)
        finally:
            executor.shutdown(wait=False)
            stored.trim()
        ended = "stopped" if missing(stored, self._shots).any() else "finished"
        store.log(f"validation {ended}", **self._about())

    def _about(self) -> dict[str, int]:
        return {"validation": self._stored.number, "trajectories": self._stored.n_outcomes}

    def _shoot(
        self,
        executor: Executor,
        capacity: int,
        report: Callable[[ShootingProgress], None],
        publish: Callable[[], object],
        stop: threading.Event,
    ) -> None:
        wanted = missing(self._stored, self._shots)
        there = int((~wanted).sum())
        started = committed = published = told = time.monotonic()

        def tell() -> None:
            seconds = time.monotonic() - started
            report(ShootingProgress(done=there + self._made, total=wanted.size, made=self._made, seconds=seconds))

        tell()
        while not stop.is_set():
            self._fill(executor, capacity)
            if not self._flights:
                break
            self._harvest(executor, _POLL_SECONDS)
            if time.monotonic() - told >= _POLL_SECONDS:
                tell()
                told = time.monotonic()
            if time.monotonic() - committed >= COMMIT_INTERVAL:
                self._stored.commit()
                committed = time.monotonic()
                if committed - published >= _PUBLISH_INTERVAL:
                    publish()
                    published = time.monotonic()
        self._stored.commit()
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._flights and time.monotonic() < deadline:
            self._harvest(executor, max(0.0, deadline - time.monotonic()), retry=False)
        self._stored.commit()
        tell()

    def _fill(self, executor: Executor, capacity: int) -> None:
        while len(self._flights) < capacity:
            task = next(self._tasks, None)
            if task is None:
                return
            self._flights[executor.submit(follow, task)] = task, 0

    def _harvest(self, executor: Executor, timeout: float, *, retry: bool = True) -> None:
        """Wait for whatever ends first, take in all that has ended, and try again what a machine failed."""
        done, _ = wait([*self._flights], timeout=timeout, return_when=FIRST_COMPLETED)
        for future in [future for future in self._flights if future in done]:
            task, retries = self._flights.pop(future)
            result: TrajectoryOutcome | ShotFailure = result_of(future, task)
            if isinstance(result, TrajectoryOutcome):
                self._limit.note(result.md_steps, result.seconds)
                self._tell(task, retries, result)
                continue
            self._log_failure(task, retries, result)
            if retries == MAX_RETRIES:
                self._tell(task, retries, None)
            elif retry:
                self._flights[executor.submit(follow, task)] = task, retries + 1

    def _tell(self, task: TrajectoryTask, retries: int, outcome: TrajectoryOutcome | None) -> None:
        self._stored.append(
            {
                "configuration": task.configuration,
                "trajectory": task.trajectory,
                "state": NO_STATE if outcome is None else outcome.state,
                "failed": outcome is None,
                "n_frames": 0 if outcome is None else outcome.n_frames,
                "md_steps": 0 if outcome is None else outcome.md_steps,
                "seconds": 0.0 if outcome is None else outcome.seconds,
                "seed": task.seed,
                "retries": retries,
                "time": time.time(),
            }
        )
        self._made += 1

    def _log_failure(self, task: TrajectoryTask, retries: int, failure: ShotFailure) -> None:
        self._store.log(
            "failure",
            validation=self._stored.number,
            configuration=task.configuration,
            trajectory=task.trajectory,
            seed=task.seed,
            attempt=retries + 1,
            error=failure.error,
            traceback=failure.traceback,
        )
