"""The loop: ask, submit, tell, commit, train. The only writer of a run; single-threaded, driven by futures."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from separatrix.analyst import Analyst
from separatrix.committor import Committor
from separatrix.config import RunConfig
from separatrix.engine import platform_properties, read_atoms
from separatrix.errors import SeedingStoppedError, SeparatrixError, StoreError
from separatrix.executors import ProcessExecutor, SerialExecutor, WorkerExecutor
from separatrix.learner import Lesson, learn, start_learner
from separatrix.observables import Observables
from separatrix.preparing import choose_platform, ensure_seed_paths
from separatrix.records import Density, Reason, RunState, ShotFailure, ShotOutcome, ShotTask, Status, connects
from separatrix.recruits import Recruits
from separatrix.resources import GPU_PLATFORMS, Resources, usable_cores
from separatrix.rows import UNTOLD, restore_chains, restore_dropped, restore_model, restore_status, shot_row
from separatrix.sampler import Sampler
from separatrix.seeding import SeedingProgress
from separatrix.shooting import WorkerSpec, result_of, shoot
from separatrix.store import TOPOLOGY, Store
from separatrix.stored_paths import StoredPaths
from separatrix.trainer import training_due
from separatrix.workers import TimeLimit, start_shooters, threads_each, worker_specs

COMMIT_INTERVAL = 1.0
"""Seconds between commits: what a kill -9 can cost."""

MAX_RETRIES = 3
DRAIN_SECONDS = 5.0
"""Time that shots in flight get to finish when a run is stopped; what is dropped is made again just so."""

GPU_DRAIN_SECONDS = 60.0
"""The same where noise never comes again: to draw anew what is dropped, the longest shots, makes paths too short."""

_POLL_SECONDS = 0.2

_UNTAUGHT_SHOTS = 50
"""So many shots are made before the first model: a process that learns takes seconds to load."""

_PATIENCE = 30.0
"""Seconds that sampling waits for a model of half its shots."""

_CATCH_UP_SECONDS = 1.0
"""What a paced run makes up for after it was held up."""


class Control:
    """What other threads tell the loop."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._paused = self._stopped = False

    @property
    def paused(self) -> bool:
        """Whether the loop should hold."""
        return self._paused

    @property
    def stopped(self) -> bool:
        """Whether the loop should end."""
        return self._stopped

    def pause(self) -> None:
        """Ask the loop to hold after the shots in flight."""
        self._set(paused=True)

    def resume(self) -> None:
        """Let the loop go on."""
        self._set(paused=False)

    def stop(self) -> None:
        """Ask the loop to end."""
        self._set(stopped=True)

    def wait_while_paused(self) -> None:
        """Block until resumed or stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._paused)

    def _set(self, *, paused: bool | None = None, stopped: bool | None = None) -> None:
        with self._changed:
            self._paused = self._paused if paused is None else paused
            self._stopped = self._stopped if stopped is None else stopped
            self._changed.notify_all()


@dataclass(slots=True)
class _Flight:
    """A trial in flight and how often a machine failed it."""

    task: ShotTask
    retries: int = 0


class Loop:
    """Runs one session until its target, a stop, or an error.

    Parameters
    ----------
    store : opened for writing; closed when the loop ends
    target : trials the run should hold in the end
    resources : what it may use
    control : pause, resume, stop
    analyst : finds out about the mechanism meanwhile, None for nobody
    """

    _sampler: Sampler  # these exist once the run is prepared
    _shooters: WorkerExecutor
    _teacher: WorkerExecutor
    _specs: Sequence[WorkerSpec]
    _recruits: Recruits | None = None
    _limit: TimeLimit | None = None

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        target: int,
        resources: Resources,
        control: Control,
        analyst: Analyst | None = None,
    ) -> None:
        self._analyst = analyst
        self._store, self._config, self._control = store, config, control
        self._resources = resources
        self._flights: dict[Future[Any], _Flight] = {}
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()  # asking each of a thousand futures would take longer
        self._stored_paths: StoredPaths | None = None
        self._lesson: Future[Lesson] | None = None
        self._last_lesson_shots = 0
        self._executors: list[Executor] = []
        self._n_lost = 0  # workers given up
        self._last_commit = time.monotonic()
        self._next_shot = 0.0  # not before this time, where there is a pace
        self._outran_at: float | None = None  # since when a model is waited for
        self._untaught = ""  # why the newest training failed
        self._untold: Sequence[tuple[int, int, int]] = store.notes.get(UNTOLD, ())
        self._started: float | None = None  # None while nothing is sampled: seeding and pauses do not count
        status = restore_status(store, target)
        self._seconds_before = status.seconds
        self._status = replace(status, target=target, state=RunState.RUNNING, workers=0, message="")

    @property
    def status(self) -> Status:
        """The latest snapshot; safe to read from any thread."""
        return self._status

    def run(self) -> None:
        """Sample until done.

        Raises
        ------
        SeparatrixError
            What made it impossible to go on; everything up to the last commit is stored.
        """
        try:
            model, density, self._last_lesson_shots = restore_model(self._store)
            if self._status.steps < self._status.target or self._last_lesson_shots < self._store.n_shots:
                with self._store.in_its_place():
                    self._prepare(model, density)
                    self._sample()
            done = self._status.steps >= self._status.target
            self._finish(RunState.FINISHED if done else RunState.STOPPED, self._untaught)
        except SeedingStoppedError as stopped:
            self._finish(RunState.STOPPED, str(stopped))
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._shut_down()
            self._store.close()

    # -- before the first shot -------------------------------------------------------------------------------------

    def _prepare(self, model: Committor, density: Density) -> None:
        config, store = self._config, self._store
        store.log("started", target=self._status.target, workers=self._resources.workers, pid=os.getpid())
        observables = Observables(config, read_atoms(store.path / TOPOLOGY))
        if self._resources.on_cluster:
            self._prepare_cluster(observables)
        else:
            self._prepare_workers(observables)
        chains = restore_chains(store, observables, config.sampling.chains)
        self._sampler = Sampler(config.sampling, chains, model, density, restore_dropped(store))
        self._stored_paths = StoredPaths(store, config, observables, (chain.path.shot for chain in chains))
        self._update(message="")
        if self._recruits is not None:
            self._await_recruits(self._recruits)
        self._started = time.monotonic()
        self._update(state=RunState.RUNNING)

    def _prepare_cluster(self, observables: Observables) -> None:
        """Ask for workers elsewhere; a first path is found here, on this machine's fastest platform."""
        config, store = self._config, self._store
        self._commit(message="connecting to the cluster")
        self._limit = self._time_limit(0.0)  # until the first shots tell how fast those workers are
        self._recruits = Recruits(store, config, self._resources, self._limit)
        self._shooters = self._recruits.executor
        self._executors = [self._shooters]
        self._start_teacher()
        self._commit(workers=0, devices=0, state=RunState.SEEDING, message="waiting for workers")
        if len(store.seed_chains()) < config.sampling.chains:
            cores = usable_cores()
            speed = choose_platform(store, config, Resources(), cores)
            properties = platform_properties(speed.platform, threads=cores)
            ensure_seed_paths(store, config, observables, speed.platform, properties, self._report_seeding)

    def _await_recruits(self, recruits: Recruits) -> None:
        while not self._control.stopped:
            self._update(**recruits.look())
            if recruits.enough:
                return
            self._commit_in_time()
            time.sleep(_POLL_SECONDS)

    def _prepare_workers(self, observables: Observables) -> None:
        config, store = self._config, self._store
        most = config.sampling.chains  # a chain has one trial at a time
        self._commit(message="measuring the platforms of this machine")  # readers see that the run goes on
        speed = choose_platform(store, config, self._resources, threads_each(self._resources, most))
        specs = worker_specs(store.path, speed.platform, self._resources, n_atoms=observables.n_atoms, most=most)
        self._commit(
            platform=speed.platform,
            raw_steps_per_second=speed.steps_per_second,
            devices=len({spec.device for spec in specs}) if speed.platform in GPU_PLATFORMS else 0,
            workers=0 if self._resources.workers == 0 else len(specs),
            state=RunState.SEEDING,
            message="starting the workers",
        )
        self._start_executors(specs)
        ensure_seed_paths(store, config, observables, speed.platform, specs[0].properties, self._report_seeding)

    def _report_seeding(self, progress: SeedingProgress) -> None:
        if self._control.stopped:
            raise SeedingStoppedError("stopped while looking for a first transition path")
        self._update(
            message=f"{progress.activity}: {progress.frames:,} frames, "
            f"{progress.seconds:.0f} of {self._config.seeding.time_limit:.0f} s, {progress.found} found"
        )

    def _start_executors(self, specs: Sequence[WorkerSpec]) -> None:
        self._specs = specs
        # Processes load their libraries while a first path is looked for.
        self._limit = self._time_limit(self._status.raw_steps_per_second)
        self._shooters = start_shooters(specs, self._resources, self._limit)
        self._executors = [self._shooters]
        self._start_teacher()

    def _time_limit(self, steps_per_second: float) -> TimeLimit:
        longest = 2 * self._config.sampling.max_frames * self._config.sampling.stride
        return TimeLimit(longest, steps_per_second, self._resources.shot_time_limit)

    def _start_teacher(self) -> None:
        learner = self._store.path, self._resources.learner_device
        if self._resources.workers == 0:
            self._teacher = SerialExecutor(start_learner, learner)
        else:
            self._teacher = ProcessExecutor(1, start_learner, lambda worker: learner)
        self._executors.append(self._teacher)

    # -- the loop --------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        while not self._control.stopped:
            if self._control.paused:
                self._hold()
                continue
            self._learn()
            self._analyse()
            self._note_losses()
            held_back = self._fill()
            if not self._flights and not held_back:
                break
            self._harvest(_POLL_SECONDS)
            if self._recruits is not None:
                self._update(**self._recruits.look())
            self._commit_in_time()
        if self._control.stopped:
            self._drain()
        self._commit()  # a training may take longer than what a kill -9 can cost
        self._learn_the_rest()

    def _fill(self) -> bool:
        """Keep every worker busy, and one trial waiting for each, as far as chains, target and pace allow.

        Returns
        -------
        bool
            Whether a trial is kept back for a while.
        """
        capacity = max(1, 2 * self._shooters.workers)
        while len(self._flights) < capacity and self._status.steps + len(self._flights) < self._status.target:
            chain = self._sampler.idle_chain()
            if chain is None:
                return False
            if self._outruns_the_committor() or not self._in_pace():
                return True
            self._submit(_Flight(self._sampler.ask(chain)))
        return False

    def _outruns_the_committor(self) -> bool:
        """Return whether the run holds twice the shots that the training under way knows, which is to be waited for.

        Where shots take milliseconds, thousands would be made before there is a model to choose them by. A training
        takes seconds and shots have doubled a few times: all in all little is waited.
        """
        loading = not self._teacher.ready and self._teacher.workers > 0
        learning = loading or self._lesson is not None
        enough = max(_UNTAUGHT_SHOTS, 2 * self._last_lesson_shots)
        if self._config.sampling.selector == "uniform" or not learning or self._status.steps < enough:
            self._outran_at = None
            return False
        now = time.monotonic()
        if self._outran_at is None:
            self._outran_at = now
        return now < self._outran_at + _PATIENCE

    def _in_pace(self) -> bool:
        """Return whether a trial may begin now."""
        pace = self._resources.shots_per_second
        if pace is None:
            return True
        now = time.monotonic()
        if now < self._next_shot:
            return False
        self._next_shot = max(self._next_shot, now - _CATCH_UP_SECONDS) + 1.0 / pace
        return True

    def _submit(self, flight: _Flight) -> None:
        future = self._shooters.submit(shoot, flight.task)
        self._flights[future] = flight
        future.add_done_callback(self._ended.put)

    def _harvest(self, timeout: float) -> None:
        """Wait for whatever ends first, and take in all that has ended."""
        for future in self._endings(timeout):
            if future is self._lesson:
                self._adopt(future)
                continue
            flight = self._flights.pop(future)
            if future.cancelled():
                continue
            result = result_of(future, flight.task)
            if isinstance(result, ShotFailure):
                self._fail_shot(flight, result)
            else:
                self._tell(flight, result)

    def _endings(self, timeout: float) -> Iterator[Future[Any]]:
        """Yield what ends first, and all else that had ended by then; what ends meanwhile waits for the next call."""
        try:
            yield self._ended.get(timeout=timeout)
            for _ in range(self._ended.qsize()):
                yield self._ended.get_nowait()
        except Empty:
            return

    def _tell(self, flight: _Flight, outcome: ShotOutcome) -> None:
        if self._limit is not None:
            self._limit.note(outcome.md_steps, outcome.seconds)
        shot = self._store.n_shots
        parent = self._sampler.state_of(outcome.chain).path.shot
        if outcome.trajectory is not None:
            self._store.adopt_trajectory(outcome.trajectory, shot)
            n_atoms = len(flight.task.snapshot.positions)
            outcome = replace(outcome, positions=self._store.frames_of(shot, outcome.n_frames, n_atoms))
        verdict = self._sampler.tell(outcome, shot)
        left = parent if verdict.accepted else shot
        if outcome.trajectory is not None and left >= 0 and self._stored_paths is not None:
            self._stored_paths.leave(left)
        row = shot_row(flight.task, parent, verdict, flight.retries, outcome, len(self._config.states))
        self._store.append(row, outcome.features, outcome.cvs, outcome.kept - outcome.shooting_frame)
        self._count(row)

    def _note_losses(self) -> None:
        """Tell which workers were given up; the others go on."""
        for worker, reason in [*self._shooters.lost.items()][self._n_lost :]:
            self._n_lost += 1
            device = self._specs[worker].device
            self._store.log("worker lost", worker=worker, device=device, error=reason)
            self._update(message=f"worker {worker} was given up: {reason}")

    def _fail_shot(self, flight: _Flight, failure: ShotFailure) -> None:
        task = flight.task
        self._store.log(
            "failure",
            chain=task.chain,
            step=task.step,
            seed=task.seed,
            attempt=flight.retries + 1,
            error=failure.error,
            traceback=failure.traceback,
        )
        if failure.error.startswith(StoreError.__name__):
            raise StoreError(failure.error.partition(": ")[2])
        if flight.retries < MAX_RETRIES:
            self._update(failures=self._status.failures + 1, message=f"retrying a failed shot: {failure.error}")
            self._submit(_Flight(task, flight.retries + 1))
            return
        parent = self._sampler.state_of(task.chain).path.shot
        verdict = self._sampler.tell_failure(task.chain, task.step)
        row = shot_row(task, parent, verdict, flight.retries, None, len(self._config.states))
        nothing = np.zeros(0, dtype=np.int32)
        n_features, n_cvs = len(self._store.feature_names), len(self._store.cv_names)
        self._store.append(row, np.zeros((0, n_features), np.float32), np.zeros((0, n_cvs), np.float32), nothing)
        self._count(row)

    def _count(self, row: Mapping[str, Any]) -> None:
        status = self._status
        self._update(
            steps=status.steps + 1,
            transitions=status.transitions + int(connects(row["ends"])),
            expected_transitions=status.expected_transitions + row["p_transition"],
            accepted=status.accepted + int(row["accepted"]),
            failures=status.failures + int(row["reason"] == Reason.FAILURE),
            md_steps=status.md_steps + row["md_steps"],
            workers=self._shooters.workers,
            busy=self._shooters.busy,
        )

    # -- learning --------------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        # A lesson knows what was committed when it was asked for: of a learner not ready yet, it would know little.
        if self._teacher.ready and self._lesson is None and training_due(self._store.n_shots, self._last_lesson_shots):
            self._start_lesson()

    def _analyse(self) -> None:
        if self._analyst is None or self._status.model_version == 0:
            return
        error = self._analyst.look(self._store.committed.shots)  # it sees no others
        if error is not None:
            self._store.log("analysis failed", n_shots=self._store.n_shots, error=f"{type(error).__name__}: {error}")

    def _learn_the_rest(self) -> None:
        """Finish the training under way and train on the last shots too: the model a run ends with knows them all."""
        while not self._control.stopped:
            if self._lesson is None:
                if self._last_lesson_shots == self._store.n_shots:
                    return
                self._update(message="learning from the last shots")
                self._start_lesson()
            else:
                self._harvest(_POLL_SECONDS)

    def _start_lesson(self) -> None:
        self._commit()
        self._last_lesson_shots = self._store.n_shots
        version = self._sampler.model.version + 1
        lesson = self._teacher.submit(learn, self._last_lesson_shots, version)
        if lesson.done():
            self._adopt(lesson)
        else:
            self._lesson = lesson
            lesson.add_done_callback(self._ended.put)

    def _adopt(self, finished: Future[Lesson]) -> None:
        self._lesson = None
        try:
            lesson = finished.result()
        except Exception as error:  # noqa: BLE001
            # A failed training leaves the old model in charge: sampling stays correct, only less efficient.
            self._store.log(
                "training failed", n_shots=self._last_lesson_shots, error=f"{type(error).__name__}: {error}"
            )
            self._untaught = f"training failed: {error}"
            self._update(message=self._untaught)
            return
        self._untaught = ""
        self._store.write_model(lesson.version, lesson.data, lesson.report)
        self._sampler.adopt(Committor.from_bytes(lesson.data), lesson.density)
        self._update(model_version=lesson.version, validation_loss=lesson.report["validation_loss"])

    # -- holding and ending ----------------------------------------------------------------------------------------

    def _hold(self) -> None:
        while self._flights and self._control.paused and not self._control.stopped:
            self._harvest(_POLL_SECONDS)
            self._commit_in_time()
            if self._recruits is not None and self._shooters.workers == 0:
                break  # what waits for a worker may wait on
        if not self._control.paused:
            return
        self._seconds_before = self._seconds()
        self._started = None
        self._commit(state=RunState.PAUSED)
        self._control.wait_while_paused()
        self._started = time.monotonic()
        self._update(state=RunState.RUNNING)

    def _drain(self) -> None:
        """Let shots finish that have begun; of the others nothing is known, and they may be dropped."""
        for future in self._flights:
            future.cancel()
        on_gpus = self._status.platform in GPU_PLATFORMS
        deadline = time.monotonic() + (GPU_DRAIN_SECONDS if on_gpus else DRAIN_SECONDS)
        while self._flights and (left := deadline - time.monotonic()) > 0.0:
            self._harvest(min(left, _POLL_SECONDS))
            self._commit_in_time()

    def _finish(self, state: RunState, message: str) -> None:
        self._commit(state=state, message=message)
        self._store.log(state.value, steps=self._status.steps)

    def _fail(self, error: BaseException) -> None:
        """Record why the run ended; a disk that is full may refuse even that, and must not hide the first error."""
        message = str(error) if isinstance(error, SeparatrixError) else f"{type(error).__name__}: {error}"
        self._status = replace(self._status, state=RunState.FAILED, message=message)
        with contextlib.suppress(SeparatrixError):
            self._finish(RunState.FAILED, message)

    def _shut_down(self) -> None:
        for executor in self._executors:
            executor.shutdown(wait=False)
        if self._analyst is not None:
            self._analyst.close()

    def _commit_in_time(self) -> None:
        if time.monotonic() - self._last_commit >= COMMIT_INTERVAL:
            self._commit()

    def _commit(self, **changes: Any) -> None:
        self._update(seconds=self._seconds(), **changes)
        status = self._status
        if self._stored_paths is not None:  # the chains stand
            self._untold = self._sampler.untold
        self._store.commit(
            {
                UNTOLD: self._untold,
                "state": status.state.value,
                "target": status.target,
                "seconds": status.seconds,
                "platform": status.platform,
                "raw_steps_per_second": status.raw_steps_per_second,
                "devices": status.devices,
                "workers": status.workers,
                "busy": status.busy,
                "message": status.message,
            }
        )
        if self._stored_paths is not None:
            self._stored_paths.reduce()
        self._last_commit = time.monotonic()

    def _seconds(self) -> float:
        return self._seconds_before + (0.0 if self._started is None else time.monotonic() - self._started)

    def _update(self, **changes: Any) -> None:
        self._status = replace(self._status, **({"seconds": self._seconds()} | changes))
