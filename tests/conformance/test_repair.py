"""What of a damaged run is whole is found, kept, and sampled on from, as if the rest had never been."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
from tests.command_line import run_cli

from separatrix.errors import RunLockedError, SeparatrixError, StoreError
from separatrix.reader import Reader
from separatrix.records import RunState
from separatrix.session import Session
from separatrix.store import Store, examine, read_result, repair, write_result

SERIAL = {"workers": 0, "platform": "Reference", "progress": False}
N = 70
CLOCKS = {"time", "seconds"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return a run with several chains, accepted paths and models."""
    path = tmp_path_factory.mktemp("repair") / "run"
    config = {
        "system": {"kind": "hummer-szabo"},
        "committor": {"members": 1},
        "sampling": {"chains": 2, "steps": N},
    }
    Session.create(path, config).run(**SERIAL)
    return path


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def zero_rows(run, column, first, last=None):
    """Have rows of a column lost in a power cut: the file is there in its length, and what was written is not."""
    folder = run / "run.zarr" / column
    metadata = json.loads((folder / "zarr.json").read_text())
    (file,) = folder.glob("c.*")
    row_bytes = file.stat().st_size // metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    content = bytearray(file.read_bytes())
    stop = len(content) if last is None else last * row_bytes
    content[first * row_bytes : stop] = bytes(stop - first * row_bytes)
    file.write_bytes(content)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def last_accepted(run, chain):
    shots = Store.open(run).shots()
    return int(np.flatnonzero((shots["chain"] == chain) & shots["accepted"])[-1])


def check_as_if_never(run, original, kept):
    """Go on with a repaired run, and find it as the one that was never damaged."""
    before, status = Store.open(original), Session.open(run).run(N, **SERIAL)
    assert status.state is RunState.FINISHED
    after = Store.open(run)
    assert after.committed == before.committed
    for table in ("shots", "frames"):
        found, expected = getattr(after, table)(), getattr(before, table)()
        for name in expected.keys() - CLOCKS:
            np.testing.assert_array_equal(found[name], expected[name], name)
    np.testing.assert_array_equal(after.shots()["time"][:kept], before.shots()["time"][:kept])
    for shot in after.trajectory_shots():
        np.testing.assert_array_equal(after.trajectory(shot)[0], before.trajectory(shot)[0])
    assert after.model_versions() == before.model_versions()
    assert [after.model(v) for v in after.model_versions()] == [before.model(v) for v in before.model_versions()]


def test_a_whole_run_is_left_as_it_is(run):
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != "lock"}
    found = repair(run)
    assert not found.is_needed
    assert found.damage == ()
    assert found.after == Store.open(run).committed
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != "lock"} == files


@pytest.mark.parametrize(
    ("column", "first"), [("shots/q", 61), ("shots/checksum", 64), ("shots/accepted", 40), ("shots/ends", 69)]
)
def test_rows_that_a_power_cut_took_are_sampled_again(run, original, column, first):
    # What was lost may have been zero.
    zero_rows(run, column, first)
    with pytest.raises(StoreError, match="restore it from a copy, or see what of it is whole: separatrix repair RUN"):
        Reader(run).columns("shots")
    found = examine(run)
    assert first <= found.after.shots < N
    assert found.after.models == 1 + max(
        v for v in Store.open(run).model_versions() if Store.open(run).model_report(v)["n_shots"] <= found.after.shots
    )
    with pytest.raises(StoreError, match="by its checksum"):  # nothing has been changed so far
        Reader(run).columns("shots")
    assert repair(run) == found
    assert Store.open(run).committed == found.after
    assert Reader(run).summary()["steps"] == found.after.shots
    check_as_if_never(run, original, found.after.shots)


def test_a_shot_whose_frames_are_lost_is_no_shot(run, original):
    frames = Store.open(run).frames()
    shot = 50
    rows = np.flatnonzero(frames["shot"] == shot)
    zero_rows(run, "frames/features", int(rows[len(rows) // 2]))
    found = repair(run)
    assert found.after.shots == shot
    assert found.after.frames == rows[0]
    check_as_if_never(run, original, shot)


def test_a_run_is_cut_back_to_where_every_chain_has_its_path(run, original):
    shot = last_accepted(run, 1)
    flip(run / "run.zarr" / "trajectories" / str(shot) / "positions" / "c.0.0.0")
    found = repair(run)
    assert found.after.shots == shot
    assert any(f"trajectories/{shot}/" in text for text in found.damage)
    check_as_if_never(run, original, shot)


@pytest.mark.parametrize("looks", [True, False])
def test_an_open_reader_forgets_what_a_repair_gave_up(run, looks):
    reader = Reader(run)
    newest = reader.model_versions[-1]
    before = {name: reader.columns("shots")[name] for name in ("time", "seconds")}
    reader.columns("frames")
    first, last = reader.model(1), reader.model(newest)
    zero_rows(run, "shots/q", 20)
    kept = repair(run).after
    assert kept.models <= newest
    if looks:
        assert reader.status().steps == kept.shots
        assert len(reader.shots["chain"]) == kept.shots
        assert len(reader.frames["shot"]) == kept.frames
        assert reader.model_versions == Store.open(run).model_versions()
    Session.open(run).run(N + 5, **SERIAL)
    fresh = Reader(run)
    for table in ("shots", "frames"):
        for name, column in fresh.columns(table).items():
            np.testing.assert_array_equal(reader.columns(table)[name], column, name)
    np.testing.assert_array_equal(reader.columns("shots")["time"][: kept.shots], before["time"][: kept.shots])
    assert not np.array_equal(reader.columns("shots")["time"][kept.shots : N], before["time"][kept.shots :])
    assert reader.model(1) is not first
    assert reader.model(newest) is not last
    known = reader.model(newest)
    Session.open(run).run(N + 10, **SERIAL)  # a run that goes on is read on
    assert reader.model(newest) is known
    assert reader.history == 1


def test_an_open_reader_reads_a_run_restored_from_an_older_copy(run, original):
    Session.open(run).run(N + 5, **SERIAL)
    reader = Reader(run)
    assert len(reader.columns("shots")["chain"]) == N + 5
    shutil.rmtree(run / "run.zarr")
    shutil.copytree(original / "run.zarr", run / "run.zarr")
    np.testing.assert_array_equal(reader.columns("shots")["time"], Store.open(original).shots()["time"])
    assert len(reader.columns("frames")["shot"]) == Store.open(original).committed.frames


@pytest.mark.parametrize("spoil", [lambda folder: flip(folder / "weights" / "c.0"), shutil.rmtree])
def test_without_the_newest_model_the_shots_it_chose_are_made_again(run, original, spoil):
    store = Store.open(run)
    newest = store.model_versions()[-1]
    chosen = np.flatnonzero(store.shots()["model"] == newest)
    spoil(run / "run.zarr" / "models" / str(newest))
    found = repair(run)
    assert found.after.models == newest
    assert found.after.shots == (chosen[0] if len(chosen) else N)
    assert str(newest) in found.damage[0]
    check_as_if_never(run, original, found.after.shots)


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(b""), lambda file: file.unlink(), flip])
def test_counts_that_are_lost_are_told_by_the_tables(run, original, spoil):
    spoil(run / "run.zarr" / "zarr.json")
    with pytest.raises(SeparatrixError):
        Store.open(run)
    found = repair(run)
    assert found.before is None
    assert found.after == Store.open(original).committed
    assert Reader(run).status().steps == N
    check_as_if_never(run, original, N)


def test_earlier_paths_and_models_that_are_spoiled_are_put_aside_and_their_shots_stay(run):
    store = Store.open(run)
    accepted = np.flatnonzero(store.shots()["accepted"])
    needed = {last_accepted(run, chain) for chain in (0, 1)}
    shot = next(int(shot) for shot in accepted if shot not in needed)
    version = store.model_versions()[0]
    shots = store.shots()
    files = [f"trajectories/{shot}/positions/c.0.0.0", f"models/{version}/weights/c.0"]
    for file in files:
        flip(run / "run.zarr" / file)
    Session.open(run).run(N, **SERIAL)  # nobody asks for them
    found = repair(run)
    assert (found.lost_paths, found.lost_models) == ((shot,), (version,))
    assert found.after == found.before
    assert shot not in Store.open(run).trajectory_shots()
    assert version not in Store.open(run).model_versions()
    assert len([*(run / "damaged").glob("*/*")]) == 2
    for name, column in Store.open(run).shots().items():
        np.testing.assert_array_equal(column, shots[name])
    assert Reader(run).log()[-1]["event"] == "repaired"
    assert not repair(run).is_needed
    assert Session.open(run).run(N + 30, **SERIAL).steps == N + 30


def test_spoiled_results_keep_no_run_from_going_on_and_are_put_aside(run):
    write_result(run, "mechanism", {"formulas": []})
    write_result(run, "insights", {"entries": []})
    (run / "results" / "insights.json").write_bytes(b"")
    session = Session.open(run)
    assert session._analyst() is not None
    assert session.run(N, **SERIAL).steps == N
    found = repair(run)
    assert found.lost_results == ("insights",)
    assert "insights.json" in found.damage[0]
    assert found.after == found.before
    assert read_result(run, "insights") is None
    assert read_result(run, "mechanism") == {"formulas": []}  # the run is what it was found out from
    assert len([*(run / "damaged" / "results").iterdir()]) == 1
    assert not repair(run).is_needed


@pytest.mark.parametrize("file", ["zarr.json", "positions/c.0.0.0", "outcomes/state/c.0"])
def test_a_spoiled_validation_is_put_aside_and_others_go_on(run, file):
    def validate(seed):
        return Session.open(run).validate(configurations=3, shots=2, seed=seed, **SERIAL)

    for seed in (1, 2):
        validate(seed)
    whole = Store.open(run).validations.open(1).outcomes()
    (run / "run.zarr" / "validations" / "0" / file).write_bytes(b"")
    found = repair(run)
    assert (found.lost_validations, found.after) == ((0,), found.before)
    assert any(f"validations/0/{file.split('/')[0]}" in text for text in found.damage)
    assert Store.open(run).validations.numbers() == [1]
    for name, column in Store.open(run).validations.open(1).outcomes().items():
        np.testing.assert_array_equal(column, whole[name])
    validate(1)
    assert Store.open(run).validations.numbers() == [1, 2]
    assert not repair(run).is_needed


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("config.toml", "config.toml is not what the run was made with"),
        ("system/system.xml", "system.xml is not what the run was made with"),
        ("run.zarr/shots/q/zarr.json", "shots/q/zarr.json"),
    ],
)
def test_what_there_is_no_run_without_is_told_and_nothing_changes(run, file, says):
    flip(run / file)
    result = run_cli("repair", run, "--apply")
    assert result.code == 2
    assert says in result.err
    assert "restore it from a copy" in result.err
    assert "separatrix repair" not in result.err


def test_a_first_path_that_a_chain_stands_on_cannot_be_done_without(run):
    for chain in (0, 1):
        flip(run / "run.zarr" / "seeds" / str(chain) / "positions" / "c.0.0.0")
    assert not examine(run).is_needed  # both have gone on
    zero_rows(run, "shots/checksum", 0)
    with pytest.raises(StoreError, match=r"seeds/0/positions"):
        repair(run)


def test_a_run_that_is_being_written_is_left_alone(run):
    zero_rows(run, "shots/q", 50)
    with Store.open(run, writable=True), pytest.raises(RunLockedError, match="is being written by process"):
        repair(run)


def test_a_run_of_a_version_to_come_is_left_to_that(run):
    file = run / "run.zarr" / "zarr.json"
    root = json.loads(file.read_text())
    root["attributes"]["separatrix_format"] = 77
    file.write_text(json.dumps(root))
    result = run_cli("repair", run, "--apply")
    assert result.code == 2
    assert "expected format 2 of the run" in result.err
    assert json.loads(file.read_text()) == root


def test_a_table_is_learned_from_anew(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    n_b = rng.binomial(1, 1 / (1 + np.exp(-x)))
    rows = "".join(f"{a},{1 - b},{b}\n" for a, b in zip(x, n_b, strict=True))
    (tmp_path / "shots.csv").write_text("x,n_A,n_B\n" + rows)
    assert run_cli("learn", tmp_path / "shots.csv", tmp_path / "run").code == 0
    result = run_cli("repair", tmp_path / "run")
    assert (result.code, "make it anew: separatrix learn" in result.err) == (2, True)


def test_the_command_says_what_it_would_give_up_and_does_it_when_asked(run):
    result = run_cli("repair", run)
    assert (result.code, result.out) == (0, f"{run}: all of it is whole, {N} shots, {newest(run)} models\n")
    zero_rows(run, "shots/time", 61)
    result = run_cli("repair", run)
    assert result.code == 1
    assert f"whole: the first 61 of {N} shots" in result.out
    assert f"nothing was changed; cut the run back to that: separatrix repair {run} --apply" in result.out
    found = json.loads(run_cli("repair", run, "--json").out)
    assert (found["before"]["shots"], found["after"]["shots"], found["applied"]) == (N, 61, False)
    result = run_cli("repair", run, "--apply")
    assert result.code == 0
    assert f"kept: the first 61 of {N} shots" in result.out
    assert f"go on: separatrix run {run}" in result.out
    assert Reader(run).summary()["steps"] == 61
    assert run_cli("repair", run / "nothing").err.startswith("error: no run at")


def newest(run):
    return Store.open(run).model_versions()[-1]


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))])
def test_whatever_happens_to_some_files_the_run_is_refused_or_goes_on(run, seed):
    rng = random.Random(seed)  # noqa: S311
    files = sorted(file for file in run.rglob("*") if file.is_file() and file.name != "lock")
    if seed % 2:  # what a power cut can reach: not what was written once, long ago
        files = [file for file in files if {"shots", "frames", "models", "trajectories"} & set(file.parts)]
        files = [file for file in files if file.name != "zarr.json"]
    for file in rng.sample(files, 3):
        rng.choice([flip, lambda file: file.write_bytes(b""), lambda file: file.unlink()])(file)
    try:
        found = repair(run)
    except StoreError as error:
        assert "restore it from a copy" in str(error)  # noqa: PT017 - either of the two may be
        assert not seed % 2
        return
    assert Store.open(run).committed == found.after
    assert not repair(run).is_needed
    assert Session.open(run).run(N, **SERIAL).steps == N
