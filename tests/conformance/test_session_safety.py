"""A run is safe: whatever is killed, filled up, locked or interrupted, what was committed stays and the run goes on.

Run as a program, this file starts the command line in processes of its own: it has loaded all there is to load and
forks for each, so that imports are paid for once. Their workers are spawned as ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from separatrix import loop
from separatrix.errors import RunLockedError, StoreError
from separatrix.loop import Control
from separatrix.reader import Reader
from separatrix.records import Reason, RunState
from separatrix.session import Session
from separatrix.shooting import shoot
from separatrix.store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

# Slow diffusion makes a shot take some milliseconds, so that moments lie between shots as well as within them.
SYSTEM = {"system": {"kind": "hummer-szabo", "friction": 250.0}, "sampling": {"chains": 3}}
PLATFORM = ("--platform", "Reference")  # others take seconds to be timed, and sum in another order
ORPHAN_SECONDS = 5.0
PATIENCE = 60.0


class Starter:
    """Starts `separatrix` command lines, each in a session of processes of its own."""

    def __init__(self, folder):
        self.output = folder / "output"
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def start(self, *arguments):
        """Start a command line; return its process number, which its processes have in common as session."""
        self.process.stdin.write(json.dumps([str(self.output), *map(str, arguments)]) + "\n")
        return int(self.process.stdout.readline())

    def wait(self, process):
        """Wait for the end of a process; return its exit code, negative for a signal."""
        self.process.stdin.write(f"{process}\n")
        return int(self.process.stdout.readline())

    def text(self, process):
        """Return all that a process wrote, to standard output or error."""
        return self.output.with_suffix(f".{process}").read_text()

    def run(self, *arguments):
        """Run a command line to its end; return its exit code and what it wrote."""
        process = self.start(*arguments)
        return self.wait(process), self.text(process)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    made = Starter(tmp_path_factory.mktemp("starter"))
    with made.process:
        yield made
        made.process.stdin.close()


@pytest.fixture
def path(tmp_path):
    """Return a new run."""
    Session.create(tmp_path / "run", SYSTEM)
    return tmp_path / "run"


def wait_for(condition, seconds=PATIENCE):
    """Wait until a condition holds, and assert that it does in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def committed(path):
    return Store.open(path).committed.shots


def processes(session):
    """Return the living processes of a session, its leader included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_of(session):
    """Return shooters and the learner of a session, but not Python's watcher over shared resources."""
    found = []
    for process in processes(session):
        with contextlib.suppress(psutil.Error):
            if process.pid != session and "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def tables(path):
    """Return all committed rows of shots and frames."""
    store = Store.open(path)
    return {"shots": store.shots(), "frames": store.frames()}


def assert_prefix(before, after):
    """Assert that rows committed earlier are there, unchanged."""
    for table, columns in before.items():
        for name, column in columns.items():
            np.testing.assert_array_equal(after[table][name][: len(column)], column, f"{table}/{name}")


def check_run(path):
    """Assert that all that is committed belongs together; return its tables."""
    reader, data = Reader(path), tables(path)
    shots, frames = data["shots"], data["frames"]
    n_shots = len(shots["chain"])
    for chain in range(reader.config.sampling.chains):
        rows = np.flatnonzero(shots["chain"] == chain)
        np.testing.assert_array_equal(shots["step"][rows], np.arange(len(rows)), f"steps of chain {chain}")
        check_chain(reader, shots, chain, rows)
    ends = shots["ends"]
    transition = (ends[:, 0] != ends[:, 1]) & (ends >= 0).all(axis=1)
    np.testing.assert_array_equal(shots["n_A"], (ends == 0).sum(axis=1))
    np.testing.assert_array_equal(shots["n_B"], (ends == 1).sum(axis=1))
    assert not shots["accepted"][~transition].any()
    assert np.all(np.diff(frames["shot"]) >= 0)
    for shot in range(n_shots):
        rows = np.flatnonzero(frames["shot"] == shot)
        if shots["reason"][shot] == Reason.FAILURE:
            assert len(rows) == shots["n_frames"][shot] == 0
            continue
        offset, middle, n_frames = frames["offset"][rows], shots["shooting_frame"][shot], shots["n_frames"][shot]
        assert (np.diff(offset) > 0).all()
        assert (offset[0], offset[-1]) == (-middle, n_frames - 1 - middle)
        if transition[shot]:
            positions, box = reader.path_positions(shot)
            assert len(positions) == n_frames == len(rows)
            np.testing.assert_array_equal(reader.observables.features(positions, box), frames["features"][rows])
    folders = {int(entry.name) for entry in (path / "run.zarr/trajectories").iterdir() if entry.is_dir()}
    assert {folder for folder in folders if folder < n_shots} == set(np.flatnonzero(transition))
    versions = reader.model_versions
    assert versions == list(range(1, len(versions) + 1))
    assert set(shots["model"]) <= {0, *versions}
    assert all(reader.model_report(version)["n_shots"] <= n_shots for version in versions)
    return data


def check_chain(reader, shots, chain, rows):
    """Assert that every trial was shot from the frame it names, of the path its chain stood on, with its own seed."""
    store = Store.open(reader.folder)
    parent, path = -1, None
    for step, row in enumerate(rows):
        rng = np.random.default_rng((reader.config.sampling.seed, chain, step))
        assert shots["seed"][row] == rng.integers(2**63)
        assert shots["parent"][row] == parent
        if path is None:
            path = store.seed_path(chain)[0] if parent < 0 else store.trajectory(parent)[0]
        frame = shots["frame"][row]
        assert 0 < frame < len(path) - 1
        if shots["accepted"][row]:
            trial = store.trajectory(row)[0]
            np.testing.assert_array_equal(trial[shots["shooting_frame"][row]], path[frame])
            parent, path = row, trial


# -- killed ------------------------------------------------------------------------------------------------------------


ANYBODY = ("session", "worker", "all")


@pytest.mark.parametrize(
    ("n_kills", "steps", "whom"),
    [
        (8, 800, ANYBODY),
        pytest.param(20, 3000, ANYBODY, marks=pytest.mark.slow),
        pytest.param(20, 3000, ("session",), marks=pytest.mark.slow),
    ],
    ids=["eight", "twenty", "twenty-sessions"],
)
def test_a_run_survives_kills_at_random_moments(starter, path, n_kills, steps, whom):
    rng = np.random.default_rng(n_kills)
    command = ("run", path, "--steps", steps, "--workers", 2, *PLATFORM)
    before = tables(path)
    kinds, hit = [], 0
    for kill in range(n_kills):
        session = starter.start(*command)
        kind = whom[rng.integers(len(whom))]
        wait_for_kill(path, rng, enough=steps * (kill + 1) // (n_kills + 2))
        if kind == "worker" and (workers := workers_of(session)):
            os.kill(workers[rng.integers(len(workers))].pid, signal.SIGKILL)
            time.sleep(rng.uniform(0, 1.5))
        victims = [process.pid for process in processes(session)] if kind == "all" else [session]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        assert starter.wait(session) == -signal.SIGKILL, starter.text(session)
        wait_for(lambda session=session: not processes(session), ORPHAN_SECONDS)
        assert Reader(path).status().state in (RunState.INTERRUPTED, RunState.NEW)
        after = check_run(path)
        assert_prefix(before, after)
        hit += len(after["shots"]["chain"]) > len(before["shots"]["chain"])
        before = after
        kinds.append(kind)
    assert hit >= n_kills // 4, "hardly any kill hit a run at work: the test tests too little"
    assert set(kinds) == set(whom)
    code, text = starter.run(*command)
    assert code == 0, text
    after = check_run(path)
    assert_prefix(before, after)
    assert len(after["shots"]["chain"]) == steps
    assert Reader(path).summary()["state"] == "finished"
    assert not list((path / "pending").iterdir())


def wait_for_kill(path, rng, enough):
    """Wait for a random time, from the start or from the first commit on; no longer than the run has ``enough``."""
    had = committed(path)
    if rng.random() < 0.5:
        wait_for(lambda: committed(path) > min(had, enough))
    end = time.monotonic() + rng.uniform(0, 2)
    while time.monotonic() < end and committed(path) < enough:
        time.sleep(0.02)


def test_a_serial_run_killed_and_resumed_is_the_same_shot_by_shot(starter, tmp_path):
    rng, steps = np.random.default_rng(3), 90
    for name in ("whole", "killed"):
        Session.create(tmp_path / name, SYSTEM)
    arguments = ("--steps", steps, "--workers", 0, *PLATFORM)
    killed = tmp_path / "killed"
    for enough in (0, 15, 50):
        session = starter.start("run", killed, *arguments)
        wait_for(lambda enough=enough: committed(killed) >= enough)
        time.sleep(rng.uniform(0, 0.7))
        os.kill(session, signal.SIGKILL)
        assert starter.wait(session) == -signal.SIGKILL, "it ended before it was killed"
    for name in ("whole", "killed"):
        code, text = starter.run("run", tmp_path / name, *arguments)
        assert code == 0, text
    whole, again = check_run(tmp_path / "whole"), check_run(killed)
    assert len(whole["shots"]["chain"]) == steps
    for table, columns in whole.items():
        for name, column in columns.items():
            if name not in ("time", "seconds"):
                np.testing.assert_array_equal(again[table][name], column, f"{table}/{name}")
    stores = Store.open(tmp_path / "whole"), Store.open(killed)
    versions = stores[0].model_versions()
    assert len(versions) > 2
    assert stores[1].model_versions() == versions
    for version in versions:
        assert stores[0].model(version) == stores[1].model(version)
        reports = [store.model_report(version) for store in stores]
        for report in reports:
            report.pop("seconds")
        np.testing.assert_equal(reports[0], reports[1])


# -- one writer --------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_readers_read(starter, path):
    writer = starter.start("run", path, "--steps", 10**6, "--workers", 0, *PLATFORM)
    wait_for(lambda: committed(path) > 0)
    for _ in range(2):  # whoever looks must not wipe out the holder's name
        code, text = starter.run("run", path, "--steps", 10, *PLATFORM)
        assert code == 2
        assert text.startswith(f"error: {path} is being written by process {writer} on ")
        assert text.count("\n") == 1
        with pytest.raises(RunLockedError, match=f"process {writer} on "):
            Session.open(path).start(10)
        assert Reader(path).status().state is RunState.RUNNING
    code, text = starter.run("show", path, "--json")
    assert code == 0
    assert json.loads(text)["state"] == "running"
    assert json.loads(text)["steps"] > 0

    os.kill(writer, signal.SIGKILL)
    starter.wait(writer)
    assert Reader(path).status().state is RunState.INTERRUPTED
    code, text = starter.run("run", path, "--steps", committed(path) + 5, "--workers", 0, *PLATFORM)
    assert code == 0, text


def test_two_sessions_of_one_process_do_not_write_one_run(path):
    first = Session.open(path)
    first.start(10**6, workers=0, platform="Reference")
    try:
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} on "):
            Session.open(path).start(10)
    finally:
        first.stop()
    assert first.wait()


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Mount a small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', error)}")
    yield folder
    subprocess.run(["/bin/umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_stops_a_run_and_loses_nothing(starter, small_disk, workers):
    path = small_disk / "run"
    Session.create(path, SYSTEM)
    options, serial = ("--workers", workers, *PLATFORM), ("--workers", 0, *PLATFORM)
    code, text = starter.run("run", path, "--steps", 40, *serial)
    assert code == 0, text
    before = check_run(path)
    filler = small_disk / "filler"

    process = starter.start("run", path, "--steps", 10**5, *options)
    wait_for(lambda: committed(path) > 40)
    fill(filler)
    assert starter.wait(process) == 2
    text = starter.text(process)
    assert "Traceback" not in text
    error = text.strip().splitlines()[-1]
    assert error.startswith(f"error: no space left on device at {path}: free some and run again")
    after = check_run(path)
    assert_prefix(before, after)
    assert len(after["shots"]["chain"]) > 40
    assert Reader(path).status().state in (RunState.FAILED, RunState.INTERRUPTED)

    fill(small_disk / "more")
    code, text = starter.run("run", path, "--steps", 10**5, *options)
    assert code == 2
    assert "Traceback" not in text
    assert "no space left on device" in text.strip().splitlines()[-1]
    assert_prefix(after, check_run(path))

    filler.unlink()
    (small_disk / "more").unlink()
    steps = committed(path) + 40
    code, text = starter.run("run", path, "--steps", steps, *serial)
    assert code == 0, text
    assert_prefix(after, check_run(path))
    assert Reader(path).summary()["state"] == "finished"
    assert committed(path) == steps
    assert [event["event"] for event in Reader(path).log()].count("started") >= 3


def fill(file):
    """Fill the disk."""
    usage = os.statvfs(file.parent)
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        opened.write(bytes(usage.f_bavail * usage.f_frsize))


# -- a folder that cannot be written, or is gone -----------------------------------------------------------------------


def remount(disk, how):
    subprocess.run(["/bin/mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_a_run_in_a_folder_that_can_only_be_read_is_read_and_not_written(starter, small_disk):
    path, options = small_disk / "run", ("--workers", 0, *PLATFORM)
    Session.create(path, SYSTEM)
    assert starter.run("run", path, "--steps", 20, *options)[0] == 0
    remount(small_disk, "ro")
    before = check_run(path)
    code, text = starter.run("show", path, "--json")
    assert code == 0, text
    assert json.loads(text)["steps"] == len(before["shots"]["chain"])
    for command in (
        ("run", path, "--steps", 10**6, *options),
        ("new", small_disk / "other", "--system", "hummer-szabo"),
    ):
        code, text = starter.run(*command)
        assert (code, text.count("\n")) == (2, 1), text
        assert text.startswith("error: cannot write ")
        assert "Read-only file system" in text

    remount(small_disk, "rw")
    steps = committed(path) + 20
    code, text = starter.run("run", path, "--steps", steps, *options)
    assert code == 0, text
    assert_prefix(before, check_run(path))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_whose_folder_is_deleted_ends_with_one_line_and_makes_no_new_one(starter, path, workers):
    process = starter.start("run", path, "--steps", 10**6, "--workers", workers, *PLATFORM)
    wait_for(lambda: committed(path) > 20)
    while path.exists():  # files come to be while others go
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
    assert starter.wait(process) == 2
    text = starter.text(process)
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(path) in last
    wait_for(lambda: not processes(process))
    assert not path.exists()


@pytest.mark.parametrize("how", [pytest.param("deleted", marks=pytest.mark.slow), "moved"])
def test_a_run_that_takes_the_place_of_another_is_not_written_by_its_session(path, how):
    session = Session.open(path)
    session.start(10**6, workers=0, platform="Reference")
    wait_for(lambda: session.status.steps > 20)
    moved = path.rename(path.with_name("moved"))
    if how == "deleted":
        shutil.rmtree(moved)
    Session.create(path, SYSTEM)
    before = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    with pytest.raises(StoreError, match=rf"{path} was moved, deleted or replaced by another run while"):
        session.wait(PATIENCE)
    assert {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()} == before
    if how == "moved":  # and what was committed is where it went
        check_run(moved)
        assert Session.open(moved).run(committed(moved) + 5, workers=0, platform="Reference", progress=False)


# -- a clock that jumps ------------------------------------------------------------------------------------------------


class JumpingClock:
    """Stands for the clock on the wall: each look at it is years before or after the last."""

    def __init__(self, rng):
        self.rng, self.looks = rng, 0

    def __call__(self):
        self.looks += 1
        return float(self.rng.uniform(0, 4e9))


def test_a_clock_that_jumps_changes_nothing_but_the_times_told(tmp_path, monkeypatch):
    found, clock = {}, JumpingClock(np.random.default_rng(1))
    for name in ("steady", "jumping"):
        if name == "jumping":
            monkeypatch.setattr(time, "time", clock)
        session = Session.create(tmp_path / name, SYSTEM)
        status = session.run(60, workers=0, platform="Reference", progress=False)
        assert status.state is RunState.FINISHED
        assert 0 < status.seconds < PATIENCE
        assert Reader(tmp_path / name).status().state is RunState.FINISHED
        found[name] = check_run(tmp_path / name)
    assert clock.looks > 60
    for table, columns in found["steady"].items():
        for name, column in columns.items():
            if name not in ("time", "seconds"):
                np.testing.assert_array_equal(found["jumping"][table][name], column, f"{table}/{name}")
    assert (np.abs(np.diff(found["jumping"]["shots"]["time"])) > 1e6).any()


# -- failing shots -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hung", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["killed", "hung"])
def test_a_shot_whose_worker_is_killed_or_hangs_is_made_again(path, hung):
    session = Session.open(path)
    session.start(200, workers=2, platform="Reference", shot_time_limit=8.0 if hung else None)
    try:
        wait_for(lambda: session.status.steps >= 20)
        kill_at_work(session._loop._shooters, hung=hung)
        assert session.wait(PATIENCE)
    finally:
        session.stop()
    assert session.status.state is RunState.FINISHED
    check_failures(path, "the task was ended after " if hung else "worker process ended by SIGKILL")
    assert Reader(path).summary()["failures"] == session.status.failures


@pytest.mark.slow
def test_a_run_survives_twenty_kills_of_its_workers_at_random_moments(path):
    rng, session, killed = np.random.default_rng(20), Session.open(path), set()
    session.start(10**6, workers=2, platform="Reference")
    try:
        for _ in range(20):
            steps = session.status.steps
            wait_for(lambda steps=steps: session.status.steps > steps + 20)  # else a worker would be given up
            time.sleep(rng.uniform(0, 0.5))
            victims = wait_for_workers(session._loop._shooters)
            victim = victims[rng.integers(len(victims))]
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        steps = session.status.steps
        wait_for(lambda: session.status.steps > steps + 100)
    finally:
        session.stop()
    assert session.status.state is RunState.STOPPED
    n_failed = check_failures(path, "worker process ended by SIGKILL")
    assert len(killed) == 20
    assert n_failed > 5, f"{n_failed} of 20 kills hit a worker at work: the test tests too little"


def wait_for_workers(shooters):
    wait_for(lambda: shooters.process_ids)
    return shooters.process_ids


def check_failures(path, says):
    """Assert that every shot that failed was made again from the same seed; return how often that was."""
    failures = [event for event in Reader(path).log() if event["event"] == "failure"]
    assert failures
    shots, attempts = check_run(path)["shots"], {}
    for event in failures:
        assert says in event["error"]
        (row,) = np.flatnonzero((shots["chain"] == event["chain"]) & (shots["step"] == event["step"]))
        assert shots["seed"][row] == event["seed"]
        assert shots["reason"][row] != Reason.FAILURE
        attempts.setdefault(row, []).append(event["attempt"])
    for row, made in attempts.items():
        assert made == [*range(1, shots["retries"][row] + 1)]
    assert shots["retries"].sum() == len(failures)
    return len(failures)


def kill_at_work(shooters, *, hung=False):
    """Kill, or stop for good, a worker that has a shot to make: idle between two shots it would cost none."""
    wait_for(lambda: shooters.ready)  # the other may have made all shots until now
    worker = shooters._workers[0]
    os.kill(worker.process_id, signal.SIGSTOP)
    time.sleep(0.1)  # what it had finished is taken, and it is given another shot
    wait_for(lambda: worker.busy)
    if not hung:
        os.kill(worker.process_id, signal.SIGKILL)


EXPLOSIVE = {
    "system": {
        "kind": "potential",
        "expression": "4*((x^2 - 1)^2 + (x - y)^2) + 2*z^2",
        "start": {"A": [-1.0, -1.0, 0.0], "B": [1.0, 1.0, 0.0]},
        "temperature": 120.0,
        "integrator": "brownian",
        "friction": 10.0,
        "timestep": 10.0,
        # Harmless near the origin, where most shots end before it leaves; further out it blows up.
        "extra": [{"expression": "2*x^2 - step(x - 1)*1e12*(x - 1)^2"}],
    },
    "collective_variables": {"x": "x(0)", "y": "y(0)"},
    "states": {"A": "(x + 1)^2 + (y + 1)^2 < 0.0625", "B": "(x - 1)^2 + (y - 1)^2 < 0.0625"},
    "descriptors": {"columns": ["x", "y"]},
    "sampling": {"chains": 2, "max_frames": 2000},
}


def test_a_shot_that_always_fails_is_a_rejection_and_the_run_goes_on(tmp_path):
    path = tmp_path / "run"
    session = Session.create(path, EXPLOSIVE)
    along = np.linspace(-1, 1, 41, dtype=np.float32)
    seed_path = np.zeros((41, 2, 3), np.float32)
    seed_path[:, 0, :2] = along[:, None]
    with Store.open(path, writable=True) as store:
        for chain in range(2):
            store.write_seed_path(chain, seed_path, None)
    status = session.run(60, workers=0, platform="Reference", progress=False)
    assert status.state is RunState.FINISHED
    shots = check_run(path)["shots"]
    failed = np.flatnonzero(shots["reason"] == Reason.FAILURE)
    assert 0 < len(failed) < 60
    assert (shots["retries"][failed] == 3).all()
    assert (shots["retries"].sum() + len(failed)) == 4 * len(failed) == status.failures
    assert (shots["ends"][failed] == -1).all()
    events = [event for event in Reader(path).log() if event["event"] == "failure"]
    assert len(events) == status.failures == Reader(path).summary()["failures"]
    assert all("blew up" in event["error"] and "Traceback" in event["traceback"] for event in events)
    assert set(Reader(path).shots["reason"].values[failed]) == {"failure"}
    assert (shots["accepted"][failed[0] + 1 :]).any()


# -- paused, stopped, interrupted --------------------------------------------------------------------------------------


def test_a_session_is_paused_resumed_and_stopped_in_the_background(path):
    session = Session.open(path)
    session.start(10**6, workers=2, platform="Reference")
    try:
        wait_for(lambda: session.status.steps >= 10)
        workers = [psutil.Process(pid) for pid in session._loop._shooters.process_ids]
        workers += [psutil.Process(pid) for pid in session._loop._teacher.process_ids]
        assert len(workers) == 3
        session.pause()
        wait_for(lambda: session.status.state is RunState.PAUSED)
        wait_for(lambda: Reader(path).status().state is RunState.PAUSED)
        steps, seconds = session.status.steps, session.status.seconds
        assert committed(path) == steps
        time.sleep(0.5)
        assert (session.status.steps, session.status.seconds) == (steps, seconds)
        assert all(worker.is_running() for worker in workers)
        session.resume()
        wait_for(lambda: session.status.steps > steps)
        assert session.status.state is RunState.RUNNING
        assert not session.wait(0)
    finally:
        session.stop()
    assert session.wait()
    assert session.status.state is Reader(path).status().state is RunState.STOPPED
    wait_for(lambda: not any(worker.is_running() for worker in workers), ORPHAN_SECONDS)
    steps = session.status.steps
    assert len(check_run(path)["shots"]["chain"]) == steps

    session.start(steps + 20, workers=0, platform="Reference")
    session.pause()
    wait_for(lambda: session.status.state is RunState.PAUSED)
    session.stop()
    assert session.status.state is RunState.STOPPED
    assert session.run(steps + 20, workers=0, platform="Reference", progress=False).state is RunState.FINISHED
    assert len(check_run(path)["shots"]["chain"]) == steps + 20


def hang_in_chain_0(task):
    """Make a shot in its time, but never end one of chain 0. Called by worker processes."""
    time.sleep(0.3 if task.chain else 3600.0)
    return shoot(task)


@pytest.mark.parametrize("ask", [Control.pause, Control.stop])
def test_what_ended_before_a_pause_or_a_stop_does_not_wait_for_the_last_shot(path, monkeypatch, ask):
    monkeypatch.setattr(loop, "shoot", hang_in_chain_0)
    monkeypatch.setattr(loop, "DRAIN_SECONDS", 8.0)
    session = Session.open(path)
    session.start(10**6, workers=2, platform="Reference")
    try:
        wait_for(lambda: session.status.steps >= 5)
        ask(session._control)
        wait_for(lambda: len(session._loop._flights) == 1)
        wait_for(lambda: committed(path) == session.status.steps, 3.0)
        assert session.running
        assert session.status.state is RunState.RUNNING  # the shot goes on
    finally:
        monkeypatch.setattr(loop, "DRAIN_SECONDS", 0.0)
        session.stop()


@pytest.mark.parametrize(
    ("number", "to_all", "times"),
    [(signal.SIGINT, True, 1), (signal.SIGINT, True, 2), (signal.SIGTERM, True, 1), (signal.SIGTERM, False, 1)],
    ids=["ctrl-c", "ctrl-c twice", "sigterm to all", "sigterm"],
)
def test_an_interrupted_command_commits_and_exits_130(starter, path, number, to_all, times):
    """Terminals, `timeout` and batch systems signal all processes at once."""
    session = starter.start("run", path, "--steps", 10**6, "--workers", 2, *PLATFORM)
    wait_for(lambda: committed(path) > 0)
    before = tables(path)
    for _ in range(times):
        (os.killpg if to_all else os.kill)(session, number)
        time.sleep(0.05)
    assert starter.wait(session) == 130, starter.text(session)
    wait_for(lambda: not processes(session), ORPHAN_SECONDS)
    lines = starter.text(session).splitlines()
    assert sum(line.startswith("stopped") for line in lines) == 1
    if times == 1:  # a second one may hit Python on its way out
        assert lines[-1].startswith("stopped")
        assert "Traceback" not in starter.text(session)
    assert Reader(path).status().state is RunState.STOPPED
    after = check_run(path)
    assert_prefix(before, after)
    assert not after["shots"]["retries"].any()


def test_ctrl_c_ends_the_search_for_a_first_path(starter, tmp_path):
    path = tmp_path / "run"
    barrier = {**EXPLOSIVE["system"], "expression": "4000*((x^2 - 1)^2 + (x - y)^2)", "extra": [], "timestep": 0.01}
    # Frames far apart, or the search would be over within a second.
    Session.create(path, {**EXPLOSIVE, "system": barrier, "sampling": {"max_frames": 10**6, "stride": 10_000}})
    session = starter.start("run", path, "--workers", 1, *PLATFORM)
    wait_for(lambda: Reader(path).status().state is RunState.SEEDING)
    time.sleep(0.5)
    os.killpg(session, signal.SIGINT)
    assert starter.wait(session) == 130, starter.text(session)
    assert "Traceback" not in starter.text(session)
    wait_for(lambda: not processes(session), ORPHAN_SECONDS)
    assert Reader(path).status().state is RunState.STOPPED


LEARNING = """
import sys
from pathlib import Path
import psutil
from separatrix.executors import ProcessExecutor
from separatrix.learner import learn, start_learner
executor = ProcessExecutor(1, start_learner, lambda worker: (Path(sys.argv[1]),))
executor.submit(learn, 200, 1).result()
print(psutil.Process(*executor.process_ids).nice())
executor.shutdown()
"""


def test_a_learner_takes_back_no_niceness_that_its_run_was_given(path):
    """Nobody but root may do that: of a run under ``nice -n 15`` all later trainings would fail."""
    Session.open(path).run(20, workers=0, platform="Reference", progress=False)
    command = [sys.executable, "-c", f"import os; os.nice(max(0, 15 - os.nice(0)))\n{LEARNING}", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert int(result.stdout or -1) >= 15, result.stderr


def main():
    """Start a command line for each list of arguments read, and wait for a process for each number."""
    from separatrix import cli, preparing  # noqa: PLC0415 - the tests do without the command line

    preparing._MEASURE_SECONDS = 0.1  # every start would wait for it
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(request, 0)[1])
        elif (answer := os.fork()) == 0:
            os.setsid()
            output, *sys.argv[1:] = request
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            file = os.open(f"{output}.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1)
            os.dup2(file, 2)
            cli.main()
            return
        os.write(1, f"{answer}\n".encode())


if __name__ == "__main__":
    main()
