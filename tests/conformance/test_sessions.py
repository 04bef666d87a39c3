"""The pool of sessions: a shared budget, a queue without overtaking, controls that never wait, and a clean end."""

from __future__ import annotations

import shutil
import threading
import time

import numpy as np
import pytest

from separatrix import preparing
from separatrix.errors import ConfigError, RunExistsError, RunLockedError, RunNotFoundError, SeparatrixError
from separatrix.reader import Reader
from separatrix.records import RunState
from separatrix.session import Session
from separatrix.store import Store, is_locked
from separatrix_dashboards.access import PermissionDeniedError, Role
from separatrix_dashboards.sessions import SessionPool

SYSTEM = {"system": {"kind": "hummer-szabo"}, "sampling": {"chains": 2}, "committor": {"members": 1}}
ENDLESS = 10**6
PATIENCE = 60.0
OPERATOR = Role.OPERATOR


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Time platforms briefly."""
    monkeypatch.setattr(preparing, "_MEASURE_SECONDS", 0.02)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a new run, to be copied."""
    path = tmp_path_factory.mktemp("made") / "run"
    Session.create(path, SYSTEM)
    return path


@pytest.fixture
def runs(made, tmp_path):
    """Return three new runs."""
    return [shutil.copytree(made, tmp_path / name) for name in ("first", "second", "third")]


@pytest.fixture
def make_pool():
    """Return what makes pools; they are closed with the test."""
    pools = []

    def make(max_workers):
        pools.append(SessionPool(max_workers))
        return pools[-1]

    yield make
    for pool in pools:
        assert pool.close(PATIENCE) == ()


def wait_for(condition, seconds=PATIENCE):
    """Wait until a condition holds, and assert that it does in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def start(pool, path, steps=ENDLESS, workers=0, **options):
    """Start a run; in this process, by default, which counts as one worker."""
    pool.start(path, steps=steps, workers=workers, platform="Reference", role=OPERATOR, **options)


def state(path):
    return Reader(path).status().state


def steps(path):
    return Store.open(path).committed.shots


def runs_now(pool, path):
    return pool.session(path) is not None


# -- one run -----------------------------------------------------------------------------------------------------------


def test_a_run_is_made_started_and_ends_by_itself(make_pool, tmp_path):
    pool, path = make_pool(2), tmp_path / "run"
    pool.create(path, SYSTEM, role=OPERATOR)
    with pytest.raises(RunExistsError):
        pool.create(path, SYSTEM, role=OPERATOR)
    with pytest.raises(ConfigError):
        pool.create(tmp_path / "another", {"system": {"kind": "nothing"}}, role=OPERATOR)
    assert not (tmp_path / "another").exists()
    start(pool, path, steps=12)
    wait_for(lambda: steps(path) == 12 and not runs_now(pool, path))
    assert (state(path), pool.busy_workers, pool.place(path), pool.problem(path)) == (RunState.FINISHED, 0, None, None)
    start(pool, str(path), steps=20)
    wait_for(lambda: steps(path) == 20 and not runs_now(pool, path))


def test_a_run_for_people_to_watch_keeps_its_pace(make_pool, runs):
    pool, path = make_pool(2), runs[0]
    start(pool, path, steps=200, workers=1, pace=60.0)
    wait_for(lambda: not (runs_now(pool, path) or pool.place(path)))
    assert Reader(path).status().seconds > 200 / 60.0 - 1.5


def test_worker_processes_are_counted_and_a_paused_run_keeps_them(make_pool, runs):
    pool, path = make_pool(2), runs[0]
    pool.start(path, steps=ENDLESS, platform="Reference", role=OPERATOR)  # by default one for each chain
    wait_for(lambda: runs_now(pool, path) and pool.session(path).status.steps > 5)
    assert (pool.busy_workers, pool.session(path).status.workers, list(pool.sessions())) == (2, 2, [path])
    pool.pause(path, role=OPERATOR)
    wait_for(lambda: state(path) is RunState.PAUSED)
    assert pool.busy_workers == 2
    start(pool, runs[1])
    wait_for(lambda: pool.place(runs[1]) == 1)
    held = steps(path)
    time.sleep(0.3)
    assert (steps(path), pool.place(runs[1])) == (held, 1)
    pool.resume(path, role=OPERATOR)
    wait_for(lambda: steps(path) > held)
    pool.stop(path, role=OPERATOR)
    wait_for(lambda: runs_now(pool, runs[1]))
    assert (state(path), pool.busy_workers) == (RunState.STOPPED, 1)


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_waits_and_starts_by_itself(make_pool, runs):
    pool = make_pool(1)
    for path in runs:
        start(pool, path)
    first, second, third = runs
    wait_for(lambda: runs_now(pool, first))
    assert [pool.place(path) for path in runs] == [None, 1, 2]
    assert pool.busy_workers == 1
    with pytest.raises(RunLockedError, match="first is running already"):
        start(pool, first)
    with pytest.raises(RunLockedError, match="third is waiting for workers already"):
        start(pool, third)
    with pytest.raises(SeparatrixError, match="third is not running"):
        pool.pause(third, role=OPERATOR)
    pool.stop(third, role=OPERATOR)
    assert [pool.place(path) for path in runs] == [None, 1, None]
    pool.stop(first, role=OPERATOR)
    wait_for(lambda: runs_now(pool, second))
    assert [runs_now(pool, path) for path in runs] == [False, True, False]
    assert (state(first), state(third)) == (RunState.STOPPED, RunState.NEW)
    pool.stop(second, role=OPERATOR)
    wait_for(lambda: pool.busy_workers == 0)


def test_nobody_is_overtaken(make_pool, runs):
    pool, (small, large, late) = make_pool(2), runs
    start(pool, small)
    wait_for(lambda: runs_now(pool, small))
    start(pool, large, workers=2)
    start(pool, late, workers=1)  # would fit
    time.sleep(0.3)
    assert [pool.place(path) for path in runs] == [None, 1, 2]
    pool.stop(small, role=OPERATOR)
    wait_for(lambda: runs_now(pool, large))
    assert (pool.busy_workers, pool.place(late)) == (2, 1)
    pool.stop(large, role=OPERATOR)
    wait_for(lambda: runs_now(pool, late))


def test_two_runs_never_shoot_in_this_process_at_once(make_pool, runs):
    """A process keeps one shooter: each would shoot in the system of the other."""
    pool, (first, second, _) = make_pool(3), runs
    start(pool, first)
    start(pool, second)
    wait_for(lambda: runs_now(pool, first) and steps(first) > 0)
    assert (pool.place(second), pool.busy_workers) == (1, 1)
    pool.stop(first, role=OPERATOR)
    wait_for(lambda: runs_now(pool, second) and steps(second) > 0)


def test_one_that_cannot_start_keeps_nobody_waiting(make_pool, runs):
    pool, (broken, strange, good) = make_pool(1), runs
    (broken / "config.toml").write_text("nothing = true")
    start(pool, broken)
    pool.start(strange, steps=ENDLESS, workers=0, platform="Commodore", role=OPERATOR)
    start(pool, good)
    wait_for(lambda: runs_now(pool, good))
    assert "the run is damaged" in pool.problem(broken)
    assert "there is no 'Commodore' on this machine" in pool.problem(strange)
    assert pool.problem(good) is None
    pool.stop(good, role=OPERATOR)
    start(pool, strange)
    assert pool.problem(strange) is None
    wait_for(lambda: runs_now(pool, strange))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_run_that_fails_gives_its_workers_back_and_tells_why(make_pool, runs):
    pool, path = make_pool(1), runs[0]
    (path / "system" / "system.xml").write_text("no system")
    (path / "SHA256SUMS").unlink()
    start(pool, path)
    wait_for(lambda: pool.problem(path))
    assert (pool.session(path), pool.busy_workers, state(path)) == (None, 0, RunState.FAILED)
    start(pool, runs[1], steps=3)
    wait_for(lambda: steps(runs[1]) == 3)


def test_a_run_of_another_process_is_left_to_it(make_pool, runs):
    pool, path = make_pool(1), runs[0]
    with Store.open(path, writable=True):
        for control in (pool.start, pool.pause, pool.resume, pool.stop):
            with pytest.raises(SeparatrixError, match=r"first is being written by process \d+ on .*it was started"):
                control(path, role=OPERATOR)
        assert pool.place(path) is None
    start(pool, path, steps=2)
    wait_for(lambda: steps(path) == 2)


def test_impossible_wishes_are_refused_at_once(make_pool, runs, tmp_path):
    pool, path = make_pool(2), runs[0]
    for wish, says in (
        ({"steps": -1}, "steps: expected 0 or more, got -1"),
        ({"workers": -1}, "workers: expected 0 to 2, got -1"),
        ({"workers": 3}, "workers: expected 0 to 2, got 3; all runs of this server share 2"),
    ):
        with pytest.raises(ConfigError, match=says):
            pool.start(path, **wish, role=OPERATOR)
    with pytest.raises(RunNotFoundError, match="nowhere, found none"):
        pool.start(tmp_path / "nowhere", role=OPERATOR)
    for control in (pool.pause, pool.resume, pool.stop):
        with pytest.raises(SeparatrixError, match="first is not running; start it first"):
            control(path, role=OPERATOR)
    with pytest.raises(ConfigError, match="expected 1 or more, got 0"):
        SessionPool(0)


# -- who may, and how long it takes ------------------------------------------------------------------------------------


def test_only_an_operator_controls(make_pool, runs, tmp_path):
    pool, path = make_pool(1), runs[0]
    start(pool, path)
    start(pool, runs[1])
    wait_for(lambda: runs_now(pool, path))
    for role in (Role.VIEWER, None, "admin"):
        for control in (pool.start, pool.pause, pool.resume, pool.stop):
            for run in runs:
                with pytest.raises(PermissionDeniedError, match="only operators may"):
                    control(run, role=role)
        with pytest.raises(PermissionDeniedError):
            pool.create(tmp_path / "new", SYSTEM, role=role)
    assert not (tmp_path / "new").exists()
    assert [pool.place(run) for run in runs] == [None, 1, None]
    held = steps(path)
    wait_for(lambda: steps(path) > held)


def test_no_control_waits_and_what_is_starting_obeys(make_pool, runs, monkeypatch):
    """A run takes seconds to open on a slow disk: the pages must not stand still meanwhile."""
    gate, real = threading.Event(), Session.open
    monkeypatch.setattr(Session, "open", lambda path: gate.wait(PATIENCE) and real(path))
    pool, (stopped, other, _) = make_pool(1), runs
    begun = time.monotonic()
    start(pool, stopped)
    start(pool, other)
    wait_for(lambda: pool._starting is not None)
    assert [pool.place(path) for path in runs] == [1, 2, None]
    pool.pause(stopped, role=OPERATOR)
    pool.resume(stopped, role=OPERATOR)
    pool.stop(stopped, role=OPERATOR)
    assert [pool.place(path) for path in runs] == [None, 1, None]
    assert time.monotonic() - begun < PATIENCE / 2
    gate.set()
    wait_for(lambda: runs_now(pool, other))
    assert (runs_now(pool, stopped), state(stopped)) == (False, RunState.NEW)


def test_a_pause_while_starting_is_kept(make_pool, runs, monkeypatch):
    gate, real, path = threading.Event(), Session.open, runs[0]
    monkeypatch.setattr(Session, "open", lambda path: gate.wait(PATIENCE) and real(path))
    pool = make_pool(1)
    start(pool, path)
    wait_for(lambda: pool._starting is not None)
    pool.pause(path, role=OPERATOR)
    gate.set()
    wait_for(lambda: state(path) is RunState.PAUSED)
    assert pool.busy_workers == 1


def test_controls_from_everywhere_at_once_keep_the_budget(make_pool, runs):
    pool, most, done = make_pool(2), [0], threading.Event()

    def watch():
        while not done.is_set():
            most[0] = max(most[0], pool.busy_workers)

    def press(seed):
        rng = np.random.default_rng(seed)
        for _ in range(25):
            path = runs[rng.integers(len(runs))]
            try:
                match rng.integers(4):
                    case 0:
                        pool.stop(path, role=OPERATOR)
                    case 1:
                        pool.pause(path, role=OPERATOR)
                    case 2:
                        pool.resume(path, role=OPERATOR)
                    case _:
                        start(pool, path, workers=int(rng.integers(2)))
            except SeparatrixError:
                continue
            time.sleep(0.03)

    watcher = threading.Thread(target=watch)
    watcher.start()
    pressing = [threading.Thread(target=press, args=(seed,)) for seed in range(6)]
    for thread in pressing:
        thread.start()
    for thread in pressing:
        thread.join()
    done.set()
    watcher.join()
    assert 1 <= most[0] <= 2
    assert pool.close(PATIENCE) == ()
    assert pool.busy_workers == 0
    assert not any(map(is_locked, runs))
    assert all(state(path) in (RunState.NEW, RunState.STOPPED) for path in runs)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_closing_stops_everything_with_all_committed(make_pool, runs):
    pool = make_pool(2)
    for path, workers in zip(runs, (0, 1, 1), strict=True):
        start(pool, path, workers=workers)
    wait_for(lambda: sum(steps(path) > 0 for path in runs) == 2)
    sessions = dict(pool.sessions())
    assert set(sessions) == set(runs[:2])
    pool.pause(runs[1], role=OPERATOR)
    assert pool.close(PATIENCE) == ()
    assert pool.closed
    for path, session in sessions.items():
        assert state(path) is RunState.STOPPED
        assert steps(path) == session.status.steps > 0
    assert (state(runs[2]), pool.place(runs[2]), pool.sessions()) == (RunState.NEW, None, {})
    with pytest.raises(SeparatrixError, match="going down"):
        start(pool, runs[2])
    held = steps(runs[0])
    assert Session.open(runs[0]).run(held + 3, workers=0, platform="Reference", progress=False).steps == held + 3


def test_closing_does_not_wait_for_ever(make_pool, runs):
    pool = make_pool(1)
    start(pool, runs[0])
    wait_for(lambda: runs_now(pool, runs[0]))
    session = pool.session(runs[0])
    stop, session.stop = session.stop, lambda: None
    begun = time.monotonic()
    assert pool.close(0.2) == (runs[0],)
    assert time.monotonic() - begun < PATIENCE / 2
    stop()
