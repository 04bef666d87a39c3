"""A store survives its writer: killed at any moment, a run opens as its last commit left it and goes on.

Run as a program, this file is the writer: it forks one for every line it reads, so that imports are paid for once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from separatrix.store import SHOT_COLUMNS, Store, layout, write_trajectory

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

N_FEATURES, N_CVS, BATCH, NEVER = 5, 2, 3, 10**9
CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"}


def contents(shot):
    """Return what belongs in a shot: the row, features, cvs, offsets, positions (every other shot only), and box."""
    rng = np.random.default_rng([7, shot])
    n = int(rng.integers(0, 9))
    row = {name: int(rng.integers(0, 2)) for name in SHOT_COLUMNS} | {
        "step": shot,
        "ends": (0, shot % 2),
        "q": 0.5 * shot,
    }
    features, cvs = rng.normal(size=(n, N_FEATURES)).astype("f4"), rng.normal(size=(n, N_CVS)).astype("f4")
    positions, box = rng.normal(size=(n + 1, 4, 3)).astype("f4"), rng.normal(size=(n + 1, 3, 3)).astype("f4")
    return row, features, cvs, np.arange(n) - n // 2, positions if shot % 2 else None, box


def write_batch(store):
    """Commit some shots, and with them a model whose version counts the batches."""
    for shot in range(store.n_shots, store.n_shots + BATCH):
        row, features, cvs, offsets, positions, box = contents(shot)
        pending = None if positions is None else write_trajectory(store.path, f"shot-{shot}", positions, box)
        assert store.append(row, features, cvs, offsets) == shot
        if pending is not None:
            store.adopt_trajectory(pending, shot)
    version = store.committed.models
    store.write_model(version, f"model {version}".encode(), {"n_shots": store.n_shots, "q": np.arange(float(version))})
    store.commit({"shots": store.n_shots})


def check_rows(shots, frames, start=0):
    """Assert that these rows are shots from ``start`` on and all their frames, and nothing else."""
    expected = [contents(shot) for shot in range(start, start + len(shots["step"]))]
    for name, column in shots.items():
        wanted = np.array([row[name] for row, *_ in expected], column.dtype).reshape(column.shape)
        np.testing.assert_array_equal(column, wanted, name)
    for index, name in enumerate(("features", "cvs", "offset"), start=1):
        empty = frames[name][:0]
        np.testing.assert_array_equal(frames[name], np.concatenate([empty, *(shot[index] for shot in expected)]), name)
    numbers = [start + i for i, shot in enumerate(expected) for _ in shot[3]]
    np.testing.assert_array_equal(frames["shot"], np.array(numbers, int))


def check(store):
    """Assert that what is committed is whole; old rows are looked at again only now and then."""
    start = 0 if store.committed.shots % 5 == 0 else max(store.committed.shots - 4 * BATCH, 0)
    first = sum(len(contents(shot)[3]) for shot in range(start))
    check_rows(store.shots(start), store.frames(first), start)
    assert store.committed.shots == BATCH * store.committed.models == store.notes.get("shots", 0)
    assert store.model_versions() == list(range(store.committed.models))
    for version in store.model_versions()[-3:]:
        assert store.model(version) == f"model {version}".encode()
        assert store.model_report(version)["n_shots"] == BATCH * (version + 1)
        assert len(store.model_report(version)["q"]) == version
    for shot in range(store.committed.shots)[-2 * BATCH :]:
        positions, box = contents(shot)[4:]
        if positions is not None:
            found = store.trajectory(shot)
            np.testing.assert_array_equal(found[0], positions)
            np.testing.assert_array_equal(found[1], box)


def check_leftovers(store):
    """Assert that an opened run holds nothing that was not committed."""
    assert not list((store.path / "pending").iterdir())
    for kind, limit in (("trajectories", store.committed.shots), ("models", store.committed.models)):
        assert all(int(p.name) < limit for p in (store.path / "run.zarr" / kind).iterdir() if p.is_dir())
    assert not [path for path in store.path.parent.iterdir() if path != store.path]


class Writers:
    """Starts writers of one run, one after the other."""

    def __init__(self, path):
        command = [sys.executable, __file__, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def start(self, batches, kill_at=NEVER):
        """Start a writer of so many batches that kills itself before its change number ``kill_at``."""
        self.process.stdin.write(f"{batches} {kill_at}\n")
        return int(self.process.stdout.readline().split()[1])

    def wait_for_commit(self):
        """Wait until the writer has committed once."""
        assert self.process.stdout.readline().startswith("committed")

    def end(self):
        """Wait for the writer's end; return the number of shots in the last commit that returned, and its status."""
        acknowledged = 0
        while (line := self.process.stdout.readline().split())[0] == "committed":
            acknowledged = int(line[1])
        assert line[0] == "ended"
        return acknowledged, int(line[1])


@contextmanager
def writers(path):
    started = Writers(path)
    with started.process as process:
        yield started
        process.stdin.close()
    assert process.returncode == 0


@pytest.fixture
def path(tmp_path):
    """Return an empty run whose chunks hold few rows, so that many moments lie between two of them."""
    names = {"feature_names": "abcde", "cv_names": "xy", "state_names": "AB"}
    texts = {"config_toml": "", "system_xml": "", "topology_pdb": ""}
    small = {"_SHOTS_PER_CHUNK": 4, "_FRAMES_PER_CHUNK": 7, "_FRAMES_CHUNK_BYTES": 0}
    with mock.patch.multiple(layout, **small), Store.create(tmp_path / "run", **texts, **names):
        return tmp_path / "run"


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_survives_a_kill_before_each_change_of_the_disk(path, every):
    with writers(path) as started:
        for kill_at in range(0, 1000, every):
            before = Store.open(path).committed.shots
            started.start(2, kill_at)
            acknowledged, status = started.end()
            reader = Store.open(path)
            after = reader.committed.shots
            assert after in {before, before + BATCH, before + 2 * BATCH}
            assert after >= acknowledged
            check(reader)
            if status == 0:
                break
            assert status == -signal.SIGKILL
            if kill_at % 4 == 0:
                with Store.open(path, writable=True) as store:
                    check_leftovers(store)
                    check(store)
        assert 60 < kill_at < 900
        assert after == before + 2 * BATCH


def test_a_run_survives_twenty_kills_at_random_moments(path):
    rng = random.Random(20)  # noqa: S311
    torn = committed = 0
    with writers(path) as started:
        for kill in range(20):
            process = started.start(NEVER)
            if kill % 2:
                started.wait_for_commit()
            time.sleep(rng.uniform(0.0, 0.06))
            os.kill(process, signal.SIGKILL)
            acknowledged, status = started.end()
            assert status == -signal.SIGKILL
            reader = Store.open(path)
            assert max(acknowledged, committed + BATCH * (kill % 2)) <= reader.committed.shots
            assert not acknowledged or reader.committed.shots <= acknowledged + BATCH
            torn += any((path / "pending").glob("*"))
            check(reader)
            with Store.open(path, writable=True) as store:
                check_leftovers(store)
                write_batch(store)
                check(store)
                committed = store.committed.shots
    assert torn, "no kill hit a writer at work: the test tests nothing"
    assert committed >= 30 * BATCH


def test_a_reader_follows_a_writer_in_another_process(path):
    looks = 0
    with writers(path) as started:
        process = started.start(NEVER)
        reader, n_shots, n_frames = Store.open(path), 0, 0
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            committed = reader.refresh()
            shots, frames = reader.shots(n_shots), reader.frames(n_frames)
            check_rows(shots, frames, start=n_shots)
            if committed.shots > n_shots:
                looks += 1
                newest = committed.models - 1
                assert reader.model(newest) == f"model {newest}".encode()
            n_shots, n_frames = committed.shots, committed.frames
        os.kill(process, signal.SIGKILL)
        acknowledged, _ = started.end()
    assert looks > 2
    assert n_shots <= acknowledged + BATCH
    check(Store.open(path))


def die_before_change(number):
    """Kill this process before its ``number``-th change of the file system."""
    left = number

    def hook(event, arguments):
        nonlocal left
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if opens or event in CHANGES:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)


def writer(path, batches, kill_at):
    die_before_change(kill_at)
    with Store.open(path, writable=True) as store:
        for _ in range(batches):
            write_batch(store)
            os.write(1, f"committed {store.committed.shots}\n".encode())


def main():
    for line in sys.stdin:
        batches, kill_at = map(int, line.split())
        process = os.fork()
        if process == 0:
            writer(Path(sys.argv[1]), batches, kill_at)
            os._exit(0)
        os.write(1, f"started {process}\n".encode())
        os.write(1, f"ended {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n".encode())


if __name__ == "__main__":
    main()
