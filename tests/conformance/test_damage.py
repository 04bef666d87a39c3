"""Whatever a disk, a copy or a person did to a file of a run: it is named, or what the run tells is what was written.

Each test damages one file after the other of a small real run, looks at all that the run tells, and mends the file.
"""

from __future__ import annotations

import base64
import json
import random
import shutil
import zlib
from functools import partial
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from separatrix.errors import SeparatrixError, StoreError
from separatrix.reader import Reader
from separatrix.records import RunState
from separatrix.session import Session
from separatrix.shooting import Shooter, WorkerSpec
from separatrix.store import RESULTS, Store, write_trajectory

DATA = Path(__file__).parents[1] / "data"
SERIAL = {"workers": 0, "platform": "Reference", "progress": False}
UNREAD = {"lock"}
"""Files that nothing is taken from: the lock tells people who wrote last."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that holds every kind of file."""
    path = tmp_path_factory.mktemp("damage") / "run"
    session = Session.create(path, {"system": {"kind": "hummer-szabo"}, "committor": {"members": 1}})
    session.run(24, **SERIAL)
    session.validate(configurations=3, shots=3, **SERIAL)
    session.explain(generations=1, workers=1, progress=False)
    with Store.open(path, writable=True) as store:  # a path in a box, which landscapes have none of
        last = {name: column[-1] for name, column in store.shots().items()}
        shot = store.append(
            last, np.ones((2, len(store.feature_names))), np.ones((2, len(store.cv_names))), np.arange(2)
        )
        box = np.eye(3, dtype=np.float32)[None] * np.float32([[[2.0]], [[2.1]]])
        store.adopt_trajectory(write_trajectory(path, "periodic", np.zeros((2, 1, 3), np.float32), box), shot)
        store.commit()
    return path


def told(path):
    """Return all that a run tells, from every file in it."""
    reader, store = Reader(path), Store.open(path)
    log = reader.log()
    if any(event["event"] == "damaged line" for event in log):
        raise StoreError(str([event["file"] for event in log if event["event"] == "damaged line"]))
    found = {
        "config": reader.config.model_dump(),
        "names": (store.state_names, store.cv_names, store.feature_names),
        "system": store.system_xml,
        "topology": mdtraj.load(path / "system" / "topology.pdb").xyz,
        "status": reader.summary(),
        "notes": store.notes,
        "log": [known(event) for event in log],
        "starts": [(name, start.positions, start.box) for name, start in store.starts().items()],
        "seeds": [store.seed_path(chain) for chain in store.seed_chains()],
        "shots": dict(reader.columns("shots")),
        "frames": dict(reader.columns("frames")),
        "paths": [(shot, *store.trajectory(shot)) for shot in store.trajectory_shots()],
        "frame": [frames_one_by_one(store, shot) for shot in store.trajectory_shots()],
        "models": [store.model(version) for version in reader.model_versions],
        "reports": [known(reader.model_report(version)) for version in reader.model_versions],
        "results": {name: known(reader.result(name) or {}) for name in RESULTS},
    }
    for number in reader.stored_validations.numbers():
        stored = reader.stored_validations.open(number)
        starts = stored.configurations()
        arrays = [getattr(starts, name) for name in starts.__dataclass_fields__]
        found[f"validation {number}"] = (stored.settings, stored.model, stored.outcomes(), arrays)
    return found


def frames_one_by_one(store, shot):
    """Return the frames of a path as chains get them that shoot from it."""
    shape = store.trajectory(shot)[0].shape
    return [np.array(frame) for frame in store.frames_of(shot, *shape[:2])]


def known(values):
    """Return values without what is no name of ours: a changed name of a checksum, beside which nothing changed."""
    return {name: value for name, value in values.items() if not is_checksum(name)}


def is_checksum(name):
    """Return whether a name is one bit away from that of a checksum."""
    own = b"checksum"
    other = name.encode("utf-8", "surrogatepass")
    return len(other) == len(own) and sum((a ^ b).bit_count() for a, b in zip(own, other, strict=True)) == 1


def files_of(path):
    """Return all files of a run that something is taken from, relative to it."""
    found = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return [file for file in found if str(file) not in UNREAD]


def judge(path, file, before):
    """Return whether damage to a file was told, in one line that names it; if not, nothing may be different."""
    try:
        after = told(path)
    except SeparatrixError as error:
        text = str(error)
        assert "\n" not in text
        table = file.parent.parent  # the rows of several columns are known by one checksum
        names = (file, file.parent, table) if table.name in ("shots", "frames", "outcomes") else (file,)
        gone = "no run at" in text and file.name == "zarr.json"  # the file that makes it a run
        assert gone or any(str(path / name) in text for name in names), f"{file} is not named: {text}"
        return True
    if str(file) == "log.jsonl":  # it ends where it was cut; nothing is computed from it
        log = after.pop("log")
        assert log == before["log"][: len(log)]
        before = {name: value for name, value in before.items() if name != "log"}
    if file.parts[0] == "results" and not (path / file).exists():  # can be made anew, and is said not to be there
        assert after["results"].pop(file.stem) == {}
        before = {**before, "results": {k: v for k, v in before["results"].items() if k != file.stem}}
    np.testing.assert_equal(after, before, f"{file} was damaged, and other data were given for it")
    return False


def each_damaged(path, damages):
    """Damage each file in every way, one after the other; return the damages that were told and that changed nothing.

    Parameters
    ----------
    damages : returns what may become of the bytes of a file
    """
    before, n_told, harmless = told(path), 0, []
    for file in files_of(path):
        content = (path / file).read_bytes()
        for damaged in damages(file, content):
            if damaged is None:
                (path / file).unlink()
            else:
                (path / file).write_bytes(damaged)
            try:
                is_told = judge(path, file, before)
            finally:
                (path / file).write_bytes(content)
            if is_told:
                n_told += 1
            else:
                harmless.append(str(file))
    np.testing.assert_equal(told(path), before)
    return n_told, harmless


def flips(n, rng):
    """Return what flips ``n`` bits of a file, one at a time."""

    def flipped(_, content):
        for place in rng.sample(range(8 * len(content)), min(n, 8 * len(content))):
            changed = bytearray(content)
            changed[place // 8] ^= 1 << place % 8
            yield bytes(changed)

    return flipped


def cuts(_, content):
    yield content[: len(content) // 2]
    yield content[:-1]
    yield None


# Rows are stored in blocks of thousands, of which a small run uses some: what changes in the rest is no change.
@pytest.mark.parametrize("n", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_bit_that_flips_in_any_file_is_told_or_changes_nothing(run, n):
    n_told, harmless = each_damaged(run, flips(n, random.Random(n)))  # noqa: S311
    print(f"{n_told} flipped bits were told, {len(harmless)} changed nothing")
    assert n_told > 2 * len([file for file in harmless if not file.endswith(("/c.0", "/c.0.0"))])
    unread = {"trajectories/zarr.json", "seeds/zarr.json", "models/zarr.json", "validations/zarr.json"}
    for file in harmless:
        in_table = file.split("/")[-3:-1][:1] in (["shots"], ["frames"], ["outcomes"])
        assert in_table or file.removeprefix("run.zarr/") in unread or file.endswith(("json", "jsonl")), file


@pytest.mark.slow
def test_a_file_that_is_cut_or_gone_is_told_or_changes_nothing(run):
    n_told, harmless = each_damaged(run, cuts)
    print(f"{n_told} damages were told, {len(harmless)} changed nothing")
    assert n_told > len(harmless)


def test_every_bit_of_the_committed_rows_counts(run):
    """Flip bits where rows lie, not in the unused rest of their files."""
    before, rng, n_told = told(run), random.Random(7), 0  # noqa: S311
    for table, n_rows in (("shots", len(before["shots"]["q"])), ("frames", len(before["frames"]["shot"]))):
        for folder in sorted(file.parent for file in (run / "run.zarr" / table).glob("*/zarr.json")):
            metadata = json.loads((folder / "zarr.json").read_text())
            (file,) = folder.glob("c.*")
            size = file.stat().st_size // metadata["chunk_grid"]["configuration"]["chunk_shape"][0] * n_rows
            content = file.read_bytes()
            for place in rng.sample(range(8 * size), 2):
                changed = bytearray(content)
                changed[place // 8] ^= 1 << place % 8
                file.write_bytes(changed)
                with pytest.raises(StoreError, match=rf"damaged: row \d+ of the columns in {folder.parent} is not"):
                    Store.open(run).shots() if table == "shots" else Store.open(run).frames()
                n_told += 1
            file.write_bytes(content)
    assert n_told > 50
    np.testing.assert_equal(told(run), before)


@pytest.mark.parametrize("file", ["config.toml", "system/system.xml", "system/topology.pdb"])
def test_a_changed_system_or_configuration_is_refused_by_all_who_read_it(run, file):
    content = (run / file).read_bytes()
    at = content.index(b"max_frames = ") + 13 if file == "config.toml" else content.index(b"1")
    (run / file).write_bytes(content[:at] + b"9" + content[at + 1 :])
    spec = WorkerSpec(run=run, platform="Reference")
    try:
        for look in (lambda: (Session.open(run), Store.open(run).system_xml), lambda: Shooter.build(spec)):
            with pytest.raises(StoreError, match=rf"{run / file} is not what the run was made with, by its checksum"):
                look()
    finally:
        (run / file).write_bytes(content)
    Shooter.build(spec)


def test_a_run_with_damage_is_not_gone_on_with_and_goes_on_when_it_is_mended(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    file = path / "run.zarr" / "shots" / "accepted" / "c.0"
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"damaged: row 0 of the columns in .*/shots is not what was written"):
            Session.open(path).run(60, **SERIAL)
    file.write_bytes(content)
    with Store.open(path, writable=True) as store:
        assert store.committed.shots == 25


@pytest.mark.parametrize(
    ("folder", "says"),
    [("models/{newest}", "there is no model"), ("seeds/0", "there is no first path of chain 0")],
)
def test_a_folder_that_is_gone_is_missed(run, tmp_path, folder, says):
    path = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(path / "run.zarr" / folder.format(newest=Store.open(path).model_versions()[-1]))
    with pytest.raises(StoreError, match=says):
        Session.open(path).run(60, **SERIAL)


# -- runs of before ----------------------------------------------------------------------------------------------------


@pytest.fixture
def old_run(tmp_path):
    """Return a run that an earlier version made in format 1, and what it told of it: sums of columns and paths."""
    stored = json.loads((DATA / "run-of-format-1.json").read_text())
    for name, text in stored["files"].items():
        file = tmp_path / "old" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(zlib.decompress(base64.b64decode(text)))
    for folder in ("trajectories", "seeds", "models"):
        (tmp_path / "old" / "run.zarr" / folder).mkdir(exist_ok=True)
    return tmp_path / "old", stored["told"]


def test_a_run_of_the_format_before_is_read_and_gone_on_with(old_run):
    (path, expected), close = old_run, partial(pytest.approx, rel=1e-5)
    found = told(path)
    assert {name: float(np.sum(column)) for name, column in found["shots"].items()} == close(expected["shots"])
    assert {name: float(np.sum(column, dtype=float)) for name, column in found["frames"].items()} == close(
        expected["frames"]
    )
    assert [float(positions.sum(dtype=float)) for _, positions, _ in found["paths"]] == close(expected["paths"])
    assert [report["n_shots"] for report in found["reports"]] == expected["reports"]
    session = Session.open(path)
    assert session.run(24, **SERIAL).state is RunState.FINISHED
    after = told(path)
    assert len(after["shots"]["q"]) == 24
    for name, column in found["shots"].items():
        np.testing.assert_array_equal(after["shots"][name][: len(column)], column)
    assert json.loads((path / "run.zarr" / "zarr.json").read_text())["attributes"]["separatrix_format"] == 1


def test_a_chunk_that_is_gone_from_an_old_run_is_no_longer_taken_for_zeros(old_run):
    path, _ = old_run
    file = min(path.glob("run.zarr/trajectories/*/positions/c.0.0.0"))
    file.unlink()
    with pytest.raises(StoreError, match=rf"cannot read {file}: No such file"):
        Store.open(path).trajectory(int(file.parts[-3]))
