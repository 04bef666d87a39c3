"""How many workers one session can keep at work: only the shooting is simulated. Prints; asserts no times."""

from __future__ import annotations

import heapq
import itertools
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.benchmarks.test_session_speed import TimedLoop

from separatrix.engine import read_atoms
from separatrix.executors import WorkerExecutor
from separatrix.loop import Control
from separatrix.observables import Observables
from separatrix.preparing import ensure_seed_paths
from separatrix.records import ShotOutcome, ShotTask, Snapshot
from separatrix.resources import Resources
from separatrix.rows import restore_chains
from separatrix.session import Session
from separatrix.shooting import Shooter, WorkerSpec
from separatrix.store import Store

pytestmark = pytest.mark.benchmark

SHOT_SECONDS, SPREAD = 10.0, 0.5
"""Mean length of a shot, and the standard deviation of its logarithm: as of shots of alanine dipeptide."""

MEASURED_SECONDS = 40.0
OUTCOMES = 200


@dataclass(frozen=True, slots=True)
class Bank:
    """Outcomes of real shots, pickled as they would come from workers, and the trajectories that belong to them."""

    outcomes: list[bytes]
    trajectories: list[Path | None]


class SimulatedCluster(WorkerExecutor):
    """Workers that sleep as long as a shot takes and return the outcome of another, real one.

    All of them are one thread with a heap of the times at which they end.
    """

    def __init__(self, n_workers: int, run: Path, bank: Bank) -> None:
        self._n_workers, self._run, self._bank = n_workers, run, bank
        self._rng = np.random.default_rng(1)
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], bytes]] = deque()
        self._at_work: list[tuple[float, int, Future[Any], bytes]] = []
        self._closed = False
        self._since = self._begun = time.monotonic()
        self._busy_seconds = 0.0
        self.pickling_seconds = 0.0
        self.task_bytes = self.outcome_bytes = 0
        self.ended = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def workers(self) -> int:
        """Number of simulated workers."""
        return self._n_workers

    @property
    def busy(self) -> int:
        """Number of them at work."""
        return len(self._at_work)

    def begin(self) -> None:
        """Measure from now on."""
        with self._changed:
            self._account()
            self._begun, self._busy_seconds, self.ended, self.pickling_seconds = self._since, 0.0, 0, 0.0

    def busy_fraction(self) -> float:
        """Return the share of their time that workers were at work since `begin`."""
        with self._changed:
            self._account()
            return self._busy_seconds / (self._since - self._begun) / self._n_workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        """Pickle a task as a cluster would, and queue it."""
        future: Future[Any] = Future()
        before = time.perf_counter()
        call = pickle.dumps((fn, args), pickle.HIGHEST_PROTOCOL)
        self.pickling_seconds += time.perf_counter() - before
        self.task_bytes = len(call)
        with self._changed:
            self._waiting.append((future, call))
            self._begin_tasks()
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread."""
        del wait, cancel_futures
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _account(self) -> None:
        now = time.monotonic()
        self._busy_seconds += len(self._at_work) * (now - self._since)
        self._since = now

    def _begin_tasks(self) -> None:
        self._account()
        while self._waiting and len(self._at_work) < self._n_workers:
            future, call = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():  # the session has ended, and begins nothing any more
                continue
            seconds = SHOT_SECONDS * self._rng.lognormal(-0.5 * SPREAD**2, SPREAD)
            heapq.heappush(self._at_work, (time.monotonic() + seconds, next(self._numbers), future, call))

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                if not self._at_work or self._at_work[0][0] > now:
                    self._changed.wait(min(0.5, self._at_work[0][0] - now) if self._at_work else 0.5)
                    continue
                self._account()
                _, number, future, call = heapq.heappop(self._at_work)
                self.ended += 1
                self._begin_tasks()
            future.set_result(self._outcome(number, call))

    def _outcome(self, number: int, call: bytes) -> ShotOutcome:
        task: ShotTask = pickle.loads(call)[1][0]  # noqa: S301 - our own
        choice = number % len(self._bank.outcomes)
        trajectory = None
        if (folder := self._bank.trajectories[choice]) is not None:
            trajectory = f"pending/{number}"
            link_path(folder, self._run / trajectory)
        before = time.perf_counter()
        self.outcome_bytes = len(self._bank.outcomes[choice])
        outcome: ShotOutcome = pickle.loads(self._bank.outcomes[choice])  # noqa: S301 - our own
        self.pickling_seconds += time.perf_counter() - before
        return replace(outcome, chain=task.chain, step=task.step, trajectory=trajectory)


def link_path(folder: Path, copy: Path) -> None:
    """Make a stored path once more, as a worker elsewhere would; links, since others' work must cost little here."""
    for inner, _, files in os.walk(folder):
        there = copy / Path(inner).relative_to(folder)
        there.mkdir()
        for file in files:
            os.link(Path(inner) / file, there / file)


def make_bank(run: Path, folder: Path) -> Bank:
    """Make real shots, from frames of the seed path of a run."""
    shooter = Shooter.build(WorkerSpec(run=run, platform="Reference"))
    store = Store.open(run)
    (state,) = restore_chains(store, shooter.observables, 1)
    rng = np.random.default_rng(1)
    outcomes, trajectories = [], []
    for shot in range(OUTCOMES):
        frame = int(rng.integers(1, state.path.n_frames - 1))
        task = ShotTask(chain=0, step=shot, snapshot=state.path.snapshot(frame), seed=shot, model=0, frame=frame)
        outcome = shooter.shoot(task)
        kept = None
        if outcome.trajectory is not None:
            kept = folder / str(shot)
            (run / outcome.trajectory).rename(kept)
        trajectories.append(kept)
        outcomes.append(pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL))
    return Bank(outcomes, trajectories)


class SimulatedLoop(TimedLoop):
    """A session's real loop on simulated workers."""

    cluster: SimulatedCluster
    n_workers: int
    bank: Bank

    def _start_executors(self, _: Any) -> None:
        self.cluster = SimulatedCluster(self.n_workers, self._store.path, self.bank)
        self._shooters = self.cluster
        self._executors = [self.cluster]
        self._start_teacher()


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Return outcomes of real shots of vacuum alanine dipeptide."""
    folder = tmp_path_factory.mktemp("bank")
    session = Session.create(folder / "run", {"system": {"kind": "alanine-dipeptide"}, "sampling": {"chains": 1}})
    with Store.open(session.path, writable=True) as store:
        observables = Observables(session.config, read_atoms(session.path / "system" / "topology.pdb"))
        ensure_seed_paths(store, session.config, observables, "Reference", {}, lambda progress: None)
    made = make_bank(session.path, folder)
    shares = sum(trajectory is not None for trajectory in made.trajectories) / OUTCOMES
    print(f"\n{OUTCOMES} real shots, {shares:.0%} transitions")
    return made


@pytest.mark.parametrize(("n_workers", "chains_each"), [(64, 2), (256, 2), (1_000, 1), (1_000, 2)])
def test_a_session_feeds_simulated_workers(tmp_path: Path, bank: Bank, n_workers: int, chains_each: int) -> None:
    """Shots of 10 s on average: how busy workers are, and what the session spends on each shot."""
    chains = n_workers * chains_each
    config = {"system": {"kind": "alanine-dipeptide"}, "sampling": {"chains": chains}}
    session = Session.create(tmp_path / "run", config)
    control = Control()
    store = Store.open(session.path, writable=True)
    loop = SimulatedLoop(store, session.config, 10**7, Resources(workers=1, platform="Reference"), control)
    loop.spent, loop.n_workers, loop.bank = {}, n_workers, bank
    thread = threading.Thread(target=loop.run)
    thread.start()
    while not hasattr(loop, "cluster") or loop.cluster.ended < n_workers:  # the start, all at once, is over
        assert thread.is_alive()
        time.sleep(0.5)
    loop.cluster.begin()
    process, before, begun = psutil.Process(), dict(loop.spent), time.monotonic()
    cpu = sum(process.cpu_times()[:2])
    time.sleep(MEASURED_SECONDS)
    seconds = time.monotonic() - begun
    busy, ended, pickling = loop.cluster.busy_fraction(), loop.cluster.ended, loop.cluster.pickling_seconds
    cpu = (sum(process.cpu_times()[:2]) - cpu) / seconds
    spent = {name: value - before.get(name, 0.0) for name, value in loop.spent.items()} | {"pickling": pickling}
    control.stop()
    thread.join()
    commits = spent.pop("commits")
    parts = ", ".join(f"{name} {1e3 * value / ended:.2f} ms" for name, value in spent.items())
    print(
        f"\n{n_workers} workers, {chains} chains: {busy:.1%} busy, {ended / seconds:.1f} shots/s, session at {cpu:.0%} "
        f"of a core; per shot {parts}, in all {1e3 * sum(spent.values()) / ended:.2f} ms; {commits:.0f} commits; "
        f"a task has {loop.cluster.task_bytes:,} bytes, an outcome {loop.cluster.outcome_bytes:,}"
    )


def test_what_dask_adds_to_a_task() -> None:
    """Tasks that take no time, on two worker processes: how many a session can feed, and what they weigh."""
    from distributed import LocalCluster  # noqa: PLC0415 - optional

    from separatrix.executors.dask import DaskExecutor  # noqa: PLC0415

    task = ShotTask(
        chain=0,
        step=0,
        snapshot=Snapshot(positions=np.zeros((1_651, 3), np.float32), box=np.eye(3, dtype=np.float32)),
        seed=1,
        model=0,
        frame=1,
    )
    outcome = np.zeros(1_500, np.float32)  # as many bytes as the outcome of a shot of alanine dipeptide
    n_tasks = 2_000
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        executor = DaskExecutor(cluster.scheduler_address, idle_bench, (), "a benchmark")
        try:
            executor.submit(answer, task, outcome).result(60)
            while executor.workers < 2:
                time.sleep(0.1)
            cpu, begun = time.process_time(), time.perf_counter()
            futures = [executor.submit(answer, task, outcome) for _ in range(n_tasks)]
            for future in futures:
                future.result(60)
            seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        finally:
            executor.shutdown(wait=False)
    size = len(pickle.dumps((answer, (task,)), pickle.HIGHEST_PROTOCOL))
    print(
        f"\nDask: {n_tasks / seconds:.0f} tasks/s through two workers; session and scheduler, here one process, take "
        f"{1e3 * cpu / n_tasks:.2f} ms of processor each; a task of 1,651 atoms has {size:,} bytes"
    )


class IdleBench:
    """A worker's bench without anything on it."""

    report = "idle"

    def abandon(self) -> None:
        """Do nothing: tasks end at once."""


def idle_bench(_: int) -> IdleBench:
    """Build nothing."""
    return IdleBench()


def answer(_: ShotTask, outcome: Any) -> Any:
    """Return what was given."""
    return outcome
