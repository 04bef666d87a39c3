"""Laws of the store: what was committed comes back, by every road; what was not does not exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from separatrix.errors import RunExistsError, RunLockedError, RunNotFoundError, StoreError
from separatrix.records import Configurations, Reason, Snapshot
from separatrix.store import (
    OUTCOME_COLUMNS,
    SHOT_COLUMNS,
    Committed,
    GrowingTable,
    Store,
    arrays,
    is_locked,
    layout,
    read_result,
    write_result,
    write_trajectory,
)

FEATURES, CVS, STATES = ("sin phi", "cos phi", "distance"), ("phi", "psi"), ("A", "B")
TEXTS = {"config_toml": "seed = 1\n", "system_xml": "<System/>", "topology_pdb": "END\n"}
NAMES = {"feature_names": FEATURES, "cv_names": CVS, "state_names": STATES}


def row(**values):
    """Return a shot with ``values`` set."""
    return dict.fromkeys(SHOT_COLUMNS, 0) | {"ends": (0, 1)} | values


def frames(n, seed=0, n_features=3):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, n_features)).astype("f4")
    return features, rng.normal(size=(n, 2)).astype("f4"), np.arange(n, dtype="i4") - n // 2


def positions(n_frames=5, n_atoms=4):
    return np.random.default_rng(n_frames).normal(size=(n_frames, n_atoms, 3)).astype("f4")


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "run", **TEXTS, **NAMES) as store:
        yield store


def fill(store, n_shots, n_frames=4):
    """Append and commit shots that carry their number in ``step``."""
    for shot in range(store.n_shots, store.n_shots + n_shots):
        store.append(row(step=shot), *frames(n_frames, shot))
    store.commit()


class Laws(RuleBasedStateMachine):
    """Compare a store of tiny chunks with lists, while it is written, read, closed and opened again."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        with mock.patch.multiple(layout, _SHOTS_PER_CHUNK=3, _FRAMES_PER_CHUNK=5):
            self.store = Store.create(self.folder / "run", **TEXTS, **NAMES)
        self.reader = Store.open(self.folder / "run")
        self.written, self.kept, self.models, self.kept_models = [], 0, [], 0

    @rule(n=st.integers(0, 13))
    def append(self, n):
        shot = len(self.written)
        assert self.store.append(row(step=shot, q=0.25 * shot, ends=(-1, shot % 3)), *frames(n, shot)) == shot
        self.written.append(n)

    @rule(skipped=st.integers(0, 2))
    def write_model(self, skipped):
        version = (self.models[-1] + 1 if self.models else 0) + skipped
        self.store.write_model(version, bytes([version]), {"version": version})
        self.models.append(version)

    @rule(with_box=st.booleans())
    @precondition(lambda self: len(self.written) > self.kept)
    def adopt(self, with_box):
        shot = len(self.written) - 1
        if not (self.folder / f"run/run.zarr/trajectories/{shot}").exists():
            box = np.ones((shot + 1, 3, 3), "f4") if with_box else None
            pending = write_trajectory(self.store.path, "path", positions(shot + 1), box)
            self.store.adopt_trajectory(pending, shot)
            np.testing.assert_array_equal(self.store.trajectory(shot)[0], positions(shot + 1))
            assert (self.store.trajectory(shot)[1] is None) is not with_box

    @rule()
    def commit(self):
        self.store.commit()
        self.kept, self.kept_models = len(self.written), len(self.models)

    @rule()
    def reopen(self):
        self.store.close()
        assert zarr.open_array(self.folder / "run/run.zarr/shots/step", mode="r").shape == (self.kept,)
        self.store = Store.open(self.folder / "run", writable=True)
        del self.written[self.kept :], self.models[self.kept_models :]

    @invariant()
    def what_is_committed_is_read(self):
        n_frames, models = sum(self.written[: self.kept]), self.models[: self.kept_models]
        committed = Committed(shots=self.kept, frames=n_frames, models=models[-1] + 1 if models else 0)
        assert self.reader.refresh() == self.store.committed == committed
        assert self.reader.model_versions() == models
        assert all(self.reader.model(version) == bytes([version]) for version in models[-1:])
        shots, found = self.reader.shots(), self.reader.frames()
        np.testing.assert_array_equal(shots["step"], np.arange(self.kept))
        np.testing.assert_array_equal(shots["q"], np.arange(self.kept) * 0.25)
        np.testing.assert_array_equal(shots["ends"][:, 1], np.arange(self.kept) % 3)
        np.testing.assert_array_equal(found["shot"], np.repeat(np.arange(self.kept), self.written[: self.kept]))
        for name, index in (("features", 0), ("cvs", 1), ("offset", 2)):
            expected = [frames(n, shot)[index] for shot, n in enumerate(self.written[: self.kept])]
            np.testing.assert_array_equal(found[name], np.concatenate([found[name][:0], *expected]))
        for table, rows in ((self.reader.shots, shots), (self.reader.frames, found)):
            start = len(next(iter(rows.values()))) // 2
            assert all(np.array_equal(column, rows[name][start:]) for name, column in table(start).items())

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.folder)


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)


def test_columns_keep_their_types_and_extreme_values(store):
    extremes = {}
    for name, (kind, _, _) in SHOT_COLUMNS.items():
        dtype = np.dtype(kind)
        extremes[name] = np.iinfo(dtype).min if dtype.kind == "i" else dtype.type(1 / 3)
    store.append(row(**extremes | {"ends": (-1, 1), "p_acc": np.nan}), *frames(0))
    store.commit()
    for name, column in store.shots().items():
        assert column.dtype == np.dtype(SHOT_COLUMNS[name][0])
        assert column.shape == ((1, 2) if name == "ends" else (1,))
        expected = {"ends": (-1, 1), "p_acc": np.nan}.get(name, extremes[name])
        np.testing.assert_array_equal(column[0], expected)


def test_names_and_texts_come_back(store):
    reader = Store.open(store.path)
    assert (reader.feature_names, reader.cv_names, reader.state_names) == (FEATURES, CVS, STATES)
    assert (store.path / "config.toml").read_text() == TEXTS["config_toml"]
    assert reader.system_xml == TEXTS["system_xml"]
    assert (store.path / "system/topology.pdb").read_text() == TEXTS["topology_pdb"]


@pytest.mark.parametrize(
    ("shot", "arrays", "match"),
    [
        ({"chain": 0}, frames(2), "missing or unknown: .*time"),
        (row(temperature=300), frames(2), "missing or unknown: temperature"),
        (row(), (*frames(2)[:2], np.arange(3)), "got"),
        (row(), frames(2, n_features=2), r"\(2, 3\).*got \(\(2, 2\)"),
        (row(n_A=2**31), frames(2), "out of bounds"),
        (row(ends=(0, 1, 2)), frames(2), "shape"),
    ],
)
def test_a_wrong_shot_is_refused_and_leaves_nothing(store, shot, arrays, match):
    with pytest.raises((ValueError, OverflowError), match=match):
        store.append(shot, *arrays)
    fill(store, 1)
    assert store.committed == Committed(shots=1, frames=4)


def test_rows_are_copied_when_they_are_appended(store):
    features, cvs, offsets = frames(3)
    store.append(row(), features, cvs, offsets)
    features[:] = np.nan
    store.commit()
    np.testing.assert_array_equal(store.frames()["features"], frames(3)[0])


def test_a_run_may_have_no_collective_variables(tmp_path):
    with Store.create(tmp_path / "run", **TEXTS, **NAMES | {"cv_names": ()}) as store:
        store.append(row(), frames(2)[0], np.empty((2, 0)), np.arange(2))
        store.commit()
        assert store.frames()["cvs"].shape == (2, 0)
    assert zarr.open_array(tmp_path / "run/run.zarr/frames/cvs", mode="r")[:].shape == (2, 0)


def test_everything_is_read_by_plain_zarr_and_xarray(store):
    fill(store, 6)
    store.append(row(step=6, reason=Reason.METROPOLIS, time=86400.0), *frames(4, 6))
    store.adopt_trajectory(write_trajectory(store.path, "path", positions(), np.ones((5, 3, 3), "f4")), 6)
    store.write_model(1, b"weights", {"loss": 0.5})
    store.commit()
    root = zarr.open_group(store.path / "run.zarr", mode="r")
    assert root.attrs["committed"] == {"shots": 7, "frames": 28, "models": 2}
    np.testing.assert_array_equal(root["shots/step"][:7], np.arange(7))
    store.close()
    root = zarr.open_group(store.path / "run.zarr", mode="r")
    assert {array.shape[0] for _, array in root["shots"].arrays()} == {7}
    assert {array.shape[0] for _, array in root["frames"].arrays()} == {28}
    assert {name for name, _ in root.groups()} == {"shots", "frames", "trajectories", "seeds", "models"}
    np.testing.assert_array_equal(root["models/1/weights"][:], np.frombuffer(b"weights", "u1"))
    for name, column in store.shots().items():
        np.testing.assert_array_equal(root[f"shots/{name}"][:], column)
    shots = xarray.open_zarr(store.path / "run.zarr", group="shots", consolidated=False, chunks=None)
    assert dict(shots.sizes) == {"shot": 7, "end": 2}
    assert shots["time"].values[-1] == np.datetime64("1970-01-02")
    meanings = shots["reason"].attrs["flag_meanings"].split()
    assert meanings[shots["reason"].attrs["flag_values"].index(shots["reason"].values[-1])] == "metropolis"
    packed = xarray.open_zarr(store.path / "run.zarr", group="frames", consolidated=False, chunks=None)
    np.testing.assert_array_equal(packed["features"].values, store.frames()["features"])
    assert tuple(packed.attrs["features"]) == FEATURES
    path = xarray.open_zarr(store.path / "run.zarr", group="trajectories/6", consolidated=False, chunks=None)
    assert path["positions"].dims == ("frame", "atom", "axis")
    assert path["positions"].attrs["units"] == "nm"
    np.testing.assert_array_equal(path["positions"].values, positions())


def test_a_reader_reads_only_the_rows_it_asks_for(tmp_path):
    with mock.patch.multiple(layout, _SHOTS_PER_CHUNK=4, _FRAMES_PER_CHUNK=8):
        store = Store.create(tmp_path / "run", **TEXTS, **NAMES)
    with store:
        fill(store, 12)
        (tmp_path / "run/run.zarr/shots/step/c.0").unlink()
        (tmp_path / "run/run.zarr/frames/features/c.0.0").unlink()
        reader = Store.open(tmp_path / "run")
        assert reader.shots(4)["step"].tolist() == list(range(4, 12))
        assert len(reader.frames(8)["features"]) == 40
        with pytest.raises(StoreError, match="damaged"):
            reader.shots(3)
        assert len(reader.shots(12)["step"]) == len(reader.frames(48)["shot"]) == 0
        assert len(reader.shots(13)["step"]) == len(reader.frames(50)["shot"]) == 0, "as of a run that was cut back"


def test_a_look_of_one_thread_never_takes_the_place_of_a_newer_one(store):
    fill(store, 3)
    reader, reading = Store.open(store.path), threading.Event()

    def read_slowly(path):
        root = layout.read_root(path)
        if not reading.is_set():
            reading.set()
            time.sleep(0.3)
        return root

    with mock.patch("separatrix.store.run.read_root", read_slowly), ThreadPoolExecutor(1) as pool:
        slow = pool.submit(reader.refresh)
        reading.wait()
        fill(store, 2)
        assert reader.refresh().shots == 5
        slow.result()
    assert reader.committed.shots == 5
    assert reader.history == 0


def test_paths_exist_with_their_shots(store):
    fill(store, 1)
    pending = write_trajectory(store.path, "chain 0 step 1", positions(), None)
    assert pending.startswith("pending/chain 0 step 1-")
    shot = store.append(row(), *frames(1))
    store.adopt_trajectory(pending, shot)
    reader = Store.open(store.path)
    for missing in (0, shot, 7, -1):
        with pytest.raises(StoreError, match=f"no trajectory of shot {missing}"):
            reader.trajectory(missing)
    store.commit()
    reader.refresh()
    found, box = reader.trajectory(shot)
    np.testing.assert_array_equal(found, positions())
    assert found.dtype == np.float32
    assert box is None
    with pytest.raises(ValueError, match="not committed yet"):
        store.adopt_trajectory(write_trajectory(store.path, "late", positions(), None), 0)


def test_long_paths_are_cut_into_chunks(store, monkeypatch):
    monkeypatch.setattr(arrays, "_ARRAY_CHUNK_BYTES", 100)
    store.write_seed_path(3, positions(11), np.ones((11, 3, 3), "f4"))
    found, box = Store.open(store.path).seed_path(3)
    np.testing.assert_array_equal(found, positions(11))
    np.testing.assert_array_equal(box, np.ones((11, 3, 3)))
    assert len(list((store.path / "run.zarr/seeds/3/positions").glob("c.*"))) == 6
    assert store.seed_chains() == [3]
    with pytest.raises(StoreError, match=r"no seed path of chain 0 .*\[3\]"):
        store.seed_path(0)
    with pytest.raises(StoreError, match="cannot write"):
        store.write_seed_path(3, positions(), None)


@pytest.mark.parametrize("box", [None, np.eye(3, dtype="f4")])
def test_starts_come_back_by_name_in_their_order(tmp_path, box):
    starts = {
        name: Snapshot(positions=positions(1)[0] + i, box=box) for i, name in enumerate(("z", "A", "unfolded.pdb"))
    }
    with Store.create(tmp_path / "run", **TEXTS, **NAMES, starts=starts) as store:
        found = store.starts()
    assert list(found) == list(starts)
    for name, start in starts.items():
        np.testing.assert_array_equal(found[name].positions, start.positions)
        assert (found[name].box is None) == (box is None)
    with Store.create(tmp_path / "older", **TEXTS, **NAMES) as store:
        assert store.starts() == {}


def test_workers_write_side_by_side(store):
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda n: write_trajectory(store.path, "same", positions(n), None), range(1, 41)))
    assert len(set(written)) == 40
    for n, pending in enumerate(written, start=1):
        store.adopt_trajectory(pending, store.append(row(), *frames(0)))
        np.testing.assert_array_equal(store.trajectory(n - 1)[0], positions(n))


def test_a_report_comes_back_as_it_was_given(store):
    report = {
        "loss": float("nan"),
        "worst": -np.inf,
        "rounds": np.int64(3),
        "nested": {"pair": (1, 2.5), "none": None, "yes": True, "text": "ok"},
        "held_out": np.array([0.5, np.nan, -np.inf]),
        "grid": np.arange(6).reshape(2, 3),
        "empty": np.empty(0, "f4"),
    }
    store.write_model(1, b"\x00\xff", report)
    store.commit()
    found = Store.open(store.path).model_report(1)
    assert found.keys() == report.keys()
    np.testing.assert_equal(found, report | {"nested": report["nested"] | {"pair": [1, 2.5]}})
    assert {name: found[name].dtype for name in ("held_out", "grid", "empty")} == {
        "held_out": np.float64,
        "grid": np.int64,
        "empty": np.float32,
    }
    strict = (store.path / "run.zarr/models/1/zarr.json").read_text()
    json.loads(strict, parse_constant=pytest.fail)


def test_models_exist_from_their_commit_on_and_are_never_replaced(store):
    store.write_model(0, b"zero", {})
    reader = Store.open(store.path)
    with pytest.raises(StoreError, match=r"no model 0 .*\[\]"):
        reader.model(0)
    store.commit()
    assert reader.refresh().models == 1
    assert reader.model(0) == b"zero"
    with pytest.raises(ValueError, match="from 1 on, got 0"):
        store.write_model(0, b"again", {})
    with pytest.raises(ValueError, match="numeric"):
        store.write_model(1, b"one", {"words": np.array(["a"])})
    store.write_model(1, b"lost", {})
    assert store.model_versions() == [0, 1]
    store.close()
    assert store.model_versions() == [0]


def test_only_one_process_writes(store):
    with pytest.raises(RunLockedError, match=rf"is being written by process {os.getpid()} on "):
        Store.open(store.path, writable=True)
    with pytest.raises(RunLockedError, match=rf"process {os.getpid()}"):
        Store.open(store.path, writable=True)
    store.close()
    with pytest.raises(StoreError, match="not open for writing"):
        store.append(row(), *frames(1))
    reader = Store.open(store.path)
    for write in (reader.commit, lambda: reader.log("event"), lambda: reader.write_model(0, b"", {})):
        with pytest.raises(StoreError, match="not open for writing"):
            write()
    Store.open(store.path, writable=True).close()


def test_it_is_known_whether_a_run_is_being_written(store, tmp_path):
    assert is_locked(store.path)
    assert Path(store.path / "lock").read_text().startswith(f"process {os.getpid()} on ")
    store.close()
    assert not is_locked(store.path)
    assert not is_locked(tmp_path)
    assert not (tmp_path / "lock").exists()
    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(lambda: [is_locked(store.path) for _ in range(300)]) for _ in range(4)]
        for _ in range(20):
            Store.open(store.path, writable=True).close()
        assert {type(look) for future in looks for look in future.result()} == {bool}


def test_notes_come_with_their_commit(store):
    reader = Store.open(store.path)
    assert reader.notes == {}
    notes = {"state": "running", "seconds": np.float64(1.5), "rate": float("nan"), "workers": None}
    store.commit(notes)
    assert reader.notes == {}
    reader.refresh()
    np.testing.assert_equal(reader.notes, notes)
    fill(store, 1)
    np.testing.assert_equal(store.notes, notes)
    store.commit({"state": "stopped"})
    reader.refresh()
    assert reader.notes == Store.open(store.path).notes == {"state": "stopped"}
    assert reader.committed == Committed(shots=1, frames=4)


def test_a_lock_may_be_given_back_by_another_thread(store):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.close).result()
    Store.open(store.path, writable=True).close()


def test_creating_a_run_harms_nothing_that_is_there(store, tmp_path):
    with pytest.raises(RunExistsError, match="not empty"):
        Store.create(store.path, **TEXTS, **NAMES)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunExistsError):
        Store.create(tmp_path / "file", **TEXTS, **NAMES)
    with pytest.raises(StoreError, match="cannot write"):
        Store.create(tmp_path / "file" / "run", **TEXTS, **NAMES)
    (tmp_path / "empty").mkdir()
    Store.create(tmp_path / "empty", **TEXTS, **NAMES).close()
    Store.create(tmp_path / "new/folders", **TEXTS, **NAMES).close()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "file", "empty", "new"}


def test_what_is_no_run_is_named(store, tmp_path):
    for writable in (False, True):
        with pytest.raises(RunNotFoundError, match="no run at"):
            Store.open(tmp_path, writable=writable)
    root = store.path / "run.zarr/zarr.json"
    good = root.read_text()
    root.write_text(good.replace('"separatrix_format":2', '"separatrix_format":7'))
    with pytest.raises(StoreError, match=r"expected format 2 .* found 7"):
        Store.open(store.path)
    root.write_text(good[:-9])
    with pytest.raises(StoreError, match=r"damaged: cannot read .*zarr\.json"):
        Store.open(store.path)
    root.write_text(good)
    column = store.path / "run.zarr/shots/step/zarr.json"
    strange = column.read_text().replace('"codecs":[', '"codecs":[{"name":"transpose"},')
    column.write_text(strange)
    with pytest.raises(StoreError, match=rf"damaged: {column} is not what was written, by its checksum"):
        Store.open(store.path)
    column.write_text(re.sub(r',"checksum":\d+', "", strange))
    with pytest.raises(StoreError, match="uncompressed"):
        Store.open(store.path)
    column.unlink()
    (store.path / "run.zarr/frames/zarr.json").unlink()
    with pytest.raises(StoreError, match="damaged"):
        Store.open(store.path)


def test_the_log_is_one_strict_json_object_per_line(store):
    store.log("trained", version=np.int32(2), loss=float("nan"))
    store.log("paused")
    lines = [
        json.loads(line, parse_constant=pytest.fail) for line in (store.path / "log.jsonl").read_text().splitlines()
    ]
    assert [line["event"] for line in lines] == ["trained", "paused"]
    assert lines[0]["version"] == 2
    assert lines[0]["loss"] == "NaN"
    assert abs(lines[0]["time"] - time.time()) < 60


def test_a_commit_that_the_system_refuses_can_be_made_again(tmp_path):
    resource = pytest.importorskip("resource")
    with mock.patch.multiple(layout, _SHOTS_PER_CHUNK=4, _FRAMES_PER_CHUNK=64):
        store = Store.create(tmp_path / "run", **TEXTS, **NAMES)
    with store:
        fill(store, 3)
        for shot in range(3, 20):
            store.append(row(step=shot), *frames(4, shot))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"cannot write .*everything up to shot 2 is safe"):
                store.commit()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert Store.open(tmp_path / "run").committed == Committed(shots=3, frames=12)
        store.commit()
        reader = Store.open(tmp_path / "run")
        assert reader.shots()["step"].tolist() == list(range(20))
        np.testing.assert_array_equal(reader.frames()["features"][-4:], frames(4, 19)[0])


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by the administrator only")
    yield disk
    subprocess.run([shutil.which("umount"), "-l", str(disk)], check=True)


def test_a_full_disk_costs_nothing_that_was_committed(small_disk):
    with Store.create(small_disk / "run", **TEXTS, **NAMES) as store:
        fill(store, 10)
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
        full = rf"no space left on device at {store.path}: free some and run again"
        for write in (
            lambda: write_trajectory(store.path, "path", positions(2000), None),
            lambda: fill(store, 5000),
            lambda: store.write_model(1, bytes(100_000), {}),
            lambda: [store.log("event", text="x" * 5000) for _ in range(10)],
            lambda: Store.create(small_disk / "other", **TEXTS, **NAMES),
        ):
            with pytest.raises(StoreError, match=full if write.__code__.co_names[0] != "Store" else "no space left"):
                write()
        with pytest.raises(StoreError, match=f"{full}; everything up to shot 9 is safe"):
            store.commit()
        assert Store.open(store.path).shots()["step"].tolist() == list(range(10))
        ballast.unlink()
        store.commit()
        assert Store.open(store.path).shots()["step"].tolist() == list(range(5010))
        assert not list(small_disk.glob(".other*"))


@pytest.mark.benchmark
def test_the_store_costs_a_run_little(tmp_path):
    names = NAMES | {"feature_names": [str(i) for i in range(55)]}
    commits, paths = [], []
    with Store.create(tmp_path / "run", **TEXTS, **names) as store:
        for _ in range(60):
            for _ in range(40):
                store.append(row(), *frames(50, n_features=55))
            start = time.perf_counter()
            store.commit()
            middle = time.perf_counter()
            write_trajectory(store.path, "path", positions(60, 22), None)
            paths.append(time.perf_counter() - middle)
            commits.append(middle - start)
    print(f"commit {np.mean(commits) * 1e3:.2f} ms, path {np.mean(paths) * 1e3:.2f} ms")  # noqa: T201
    assert np.median(commits) < 0.010
    assert np.median(paths) < 0.003


def test_a_growing_table_fetches_new_rows_alone_and_leaves_what_it_gave_as_it_was():
    rows, asked = [], []

    def read(start):
        asked.append(start)
        table = np.array(rows[start:], dtype=float).reshape(-1, 2)
        return {"pair": table, "sum": table.sum(axis=1)}

    table, given = GrowingTable(read), []
    for n in (0, 1, 1, 3, 40):
        rows.extend([len(rows), 2 * len(rows)] for _ in range(n))
        given.append(table.columns())
    assert asked == [0, 0, 1, 2, 5]
    for columns, n in zip(given, (0, 1, 2, 5, 45), strict=True):
        assert columns["pair"].tolist() == rows[:n]
        assert columns["sum"].tolist() == [3.0 * i for i in range(n)]
        with pytest.raises(ValueError, match="read-only"):
            columns["sum"][:] = 0.0


def test_configurations_are_kept_with_their_boxes_and_outcomes_exist_from_their_commit_on(store):
    rng = np.random.default_rng(0)
    arrays = {
        "positions": rng.normal(size=(3, 4, 3)).astype("f4"),
        "box": rng.normal(size=(3, 3, 3)).astype("f4"),
        "features": rng.normal(size=(3, 2)).astype("f4"),
        "cvs": rng.normal(size=(3, 1)).astype("f4"),
        "q": rng.normal(size=3),
        "shot": np.arange(3),
        "frame": np.arange(3)[::-1].copy(),
    }
    drawn = {"configurations": 3, "seed": 0}
    assert store.validations.numbers() == []
    stored = store.validations.create(Configurations(**arrays, model=5), drawn)
    seen = Store.open(store.path).validations
    assert (seen.numbers(), seen.find(drawn).number, seen.find({**drawn, "seed": 1})) == ([0], 0, None)
    found = seen.open(0).configurations()
    assert found.model == 5
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(found, name), array, name)
    np.testing.assert_array_equal(found.snapshot(1).box, arrays["box"][1])
    outcome = dict.fromkeys(OUTCOME_COLUMNS, 1)
    stored.append(outcome)
    assert seen.open(0).n_outcomes == 0
    stored.commit()
    stored.append(outcome)
    stored.trim()  # what was not committed is gone
    stored.commit()
    assert {name: column.tolist() for name, column in seen.open(0).outcomes().items()} == {
        name: [1] for name in outcome
    }
    assert Store.open(store.path).committed == store.committed
    with pytest.raises(StoreError, match=r"no validation 1 in .*: there are \[0\]"):
        seen.open(1)
    for write in (seen.open(0).commit, lambda: seen.create(Configurations(**arrays, model=5), drawn)):
        with pytest.raises(StoreError, match="not open for writing"):
            write()
    assert not list((store.path / "pending").iterdir())


def test_a_result_reaches_the_medium_before_it_takes_the_place_of_another(store, monkeypatch):
    write_result(store.path, "insights", {"entries": [1]})
    seen, force = [], os.fsync

    def look(file):
        force(file)
        seen.append((os.fstat(file).st_size, read_result(store.path, "insights")))

    monkeypatch.setattr(os, "fsync", look)
    write_result(store.path, "insights", {"entries": [1, 2]})
    assert seen == [((store.path / "results" / "insights.json").stat().st_size, {"entries": [1]})]


def test_results_are_replaced_whole_and_others_are_refused(store):
    assert read_result(store.path, "mechanism") is None
    write_result(store.path, "mechanism", {"relevance": [{"name": "x", "mean": np.float32(0.5)}]})
    write_result(store.path, "mechanism", {"relevance": [{"name": "y", "mean": np.float32(0.25)}]})
    assert read_result(store.path, "mechanism") == {"relevance": [{"name": "y", "mean": 0.25}]}
    assert [file.name for file in (store.path / "results").iterdir()] == ["mechanism.json"]
    with pytest.raises(StoreError, match=r"expected one of mechanism, validation, test, insights, got '\.\./x'"):
        write_result(store.path, "../x", {})
    (store.path / "results" / "mechanism.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        read_result(store.path, "mechanism")
