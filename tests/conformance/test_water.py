"""Runs in explicit water: made once, stored whole or reduced, read, exported and validated."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time

import mdtraj
import numpy as np
import pytest

from separatrix import Session
from separatrix.config import RunConfig
from separatrix.errors import AnalysisError, ConfigError, EquilibrationStoppedError
from separatrix.export.paths import write_paths
from separatrix.reader import Reader
from separatrix.records import Reason
from separatrix.store import Store, write_trajectory
from separatrix.stored_paths import StoredPaths
from separatrix.systems import resolve
from separatrix.validation import validate
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.viewer import MoleculeViewer
from separatrix_dashboards.viewer.picture import solute_alone

N_ATOMS = 1112
LITHIUM_CHLORIDE = {
    "system": {"kind": "lithium-chloride", "equilibration": 0.2},
    # Wider states than those of the catalogue, so that a shot takes a second.
    "states": {"bound": "r < 0.57", "unbound": "r > 0.63"},
    "descriptors": {"columns": ["r"], "symmetry_functions": []},
    "sampling": {"chains": 1, "max_frames": 40},
    "committor": {"members": 1},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a run of lithium chloride with a first path, to be copied."""
    path = tmp_path_factory.mktemp("water") / "run"
    Session.create(path, LITHIUM_CHLORIDE)
    with Store.open(path, writable=True) as store:
        start = store.starts()["unbound"]
        frames = np.tile(start.positions, (7, 1, 1))
        for frame, r in zip(frames, (0.55, 0.58, 0.59, 0.6, 0.61, 0.62, 0.65), strict=True):
            way = start.positions[1] - start.positions[0]
            frame[1] = start.positions[0] + way * (r / np.linalg.norm(way))
        store.write_seed_path(0, frames, np.tile(start.box, (7, 1, 1)))
    return path


@pytest.fixture
def run(prepared, tmp_path):
    """Return a copy of it."""
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


def keep_the_solute(run):
    """Have a run keep the solute of paths left behind."""
    file = run / "config.toml"
    file.write_text(file.read_text().replace('stored_paths = "whole"', 'stored_paths = "solute"'))
    (run / "SHA256SUMS").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def sampled(prepared, tmp_path_factory):
    """Return a run that keeps the solute alone, after a handful of shots."""
    path = tmp_path_factory.mktemp("sampled") / "run"
    shutil.copytree(prepared, path)
    keep_the_solute(path)
    Session.open(path).run(8, workers=0, platform="CPU", progress=False)
    return path


def add_path(run, shot_of, n_frames=5, **values):
    """Write the row and the trajectory of one accepted shot of chain 0; nothing is committed."""
    store = shot_of
    shot = store.n_shots
    positions = np.random.default_rng(shot).normal(size=(n_frames, N_ATOMS, 3)).astype(np.float32)
    box = np.tile(np.eye(3, dtype=np.float32) * 2.235, (n_frames, 1, 1))
    store.adopt_trajectory(write_trajectory(run, f"0-{shot}", positions, box), shot)
    row = dict.fromkeys(store.shots(), 0) | {"ends": (0, 1), "accepted": True, "n_frames": n_frames, "step": shot}
    row |= {"reason": int(Reason.ACCEPTED), "shooting_frame": 2, "parent": shot - 1} | values
    nothing = np.zeros((0, 1), np.float32)
    store.append(row, nothing, nothing, np.zeros(0, np.int32))
    return positions


def test_a_run_keeps_its_equilibrated_starts_and_its_box(prepared):
    starts = Store.open(prepared).starts()
    assert set(starts) == {"bound", "unbound"}
    assert all(start.positions.shape == (N_ATOMS, 3) for start in starts.values())
    assert mdtraj.load(str(prepared / "system" / "topology.pdb")).unitcell_lengths[0] == pytest.approx([2.235] * 3)
    reader = Reader(prepared)
    assert reader.solute.tolist() == [0, 1]


def test_shots_in_water_are_made_stored_and_reduced(sampled):
    reader = Reader(sampled)
    shots = reader.columns("shots")
    status = reader.status()
    assert status.steps == 8
    assert status.failures == 0
    stored = Store.open(sampled).trajectory_shots()
    assert stored  # from between the states nearly half of the shots connect them
    standing = int(np.flatnonzero(shots["accepted"])[-1])
    for shot in stored:
        n_atoms = N_ATOMS if shot == standing else 2
        assert reader.path_positions(shot)[0].shape == (shots["n_frames"][shot], n_atoms, 3)
        assert reader.has_whole_path(shot) == (shot == standing)
        path = reader.path(shot)
        assert path.n_atoms == n_atoms
        r = mdtraj.compute_distances(path, [[0, 1]])[:, 0]
        frames = reader.columns("frames")
        assert r == pytest.approx(frames["cvs"][frames["shot"] == shot][:, 0], abs=1e-4)


def test_a_page_gets_the_solute_alone(sampled):
    feed = Feed(sampled)
    stored = Store.open(sampled).trajectory_shots()
    topology, n_hidden = solute_alone((sampled / "system" / "topology.pdb").read_text())
    assert n_hidden == N_ATOMS - 2
    for shot in stored:
        positions = feed.solute_positions(shot)
        assert positions.shape == (feed.snapshot.shots["n_frames"][shot], 2, 3)
        viewer = MoleculeViewer()
        viewer.show(positions, topology, 0.02)
        assert len(viewer.coordinates) == positions.size * 4
        assert not viewer.has_solvent


def test_a_path_shows_the_solute_in_the_middle_and_whole_molecules_around_it(sampled):
    reader = Reader(sampled)
    shot = int(np.flatnonzero(reader.columns("shots")["accepted"])[-1])
    raw, box = reader.path_positions(shot)
    path = reader.path(shot)
    edge = path.unitcell_lengths[0, 0]
    middle = path.xyz[:, :2].mean(axis=1)
    assert middle == pytest.approx(np.full_like(middle, edge / 2), abs=1e-3)
    centres = path.xyz[:, 2:].reshape(len(raw), -1, 3, 3).mean(axis=2)
    assert centres.min() > -1e-3
    assert centres.max() < edge + 1e-3
    oxygens, hydrogens = path.xyz[:, 2::3], path.xyz[:, 3::3]
    assert np.linalg.norm(oxygens - hydrogens, axis=2) == pytest.approx(0.09572, abs=1e-4)
    assert np.allclose(
        reader.observables.cvs(path.xyz, box), reader.observables.cvs(raw, box), atol=1e-5
    )  # images are the same to what is measured


def test_a_reduced_run_goes_on_from_whole_paths(sampled, tmp_path):
    shutil.copytree(sampled, tmp_path / "run")
    before = Reader(tmp_path / "run").columns("shots")
    status = Session.open(tmp_path / "run").run(9, workers=0, platform="CPU", progress=False)
    assert status.steps == 9
    after = Reader(tmp_path / "run").columns("shots")
    assert np.array_equal(after["seed"][:8], before["seed"])


def test_export_writes_the_solute_where_only_that_is_left(sampled, tmp_path):
    shutil.copytree(sampled, tmp_path / "run")
    reader = Reader(tmp_path / "run")
    accepted = np.flatnonzero(reader.columns("shots")["accepted"])
    with Store.open(tmp_path / "run", writable=True) as store:
        for shot in accepted.tolist():
            if store.is_whole(shot):
                store.reduce_trajectory(shot, reader.solute)
    file = tmp_path / "paths.xtc"
    topology, _, n_paths = write_paths(reader, file)
    assert n_paths >= 1
    trajectory = mdtraj.load(str(file), top=str(topology))
    assert [atom.name for atom in trajectory.topology.atoms] == ["LI", "CL"]
    r = mdtraj.compute_distances(trajectory, [[0, 1]])[:, 0]
    assert r.min() < 0.57
    assert r.max() > 0.63
    assert trajectory.unitcell_lengths[0] == pytest.approx([2.235] * 3, abs=2e-3)


def test_reduction_waits_for_the_commit_and_leaves_the_path_in_use(run):
    keep_the_solute(run)
    config, observables = Reader(run).config, Reader(run).observables
    with Store.open(run, writable=True) as store:
        kept = StoredPaths(store, config, observables, [-1])
        first = add_path(run, store, parent=-1)
        add_path(run, store)
        kept.leave(0)
        with pytest.raises(ValueError, match="committed"):
            kept.reduce()
        assert store.is_whole(0)
        store.commit()
        kept.reduce()
        positions, box = store.trajectory(0)
        assert np.array_equal(positions, first[:, :2])
        assert box.shape == (5, 3, 3)
        assert store.is_whole(1)


def test_what_a_killed_process_did_not_reduce_is_reduced_by_the_next(run):
    keep_the_solute(run)
    reader = Reader(run)
    with Store.open(run, writable=True) as store:
        first = add_path(run, store, parent=-1)
        second = add_path(run, store)
        store.commit()
    # Killed between the two steps of a reduction: the solute is there, and so is the whole path.
    folder = run / "run.zarr" / "trajectories" / "0"
    shutil.copytree(folder / "positions", folder / "solute")
    assert np.array_equal(Store.open(run).trajectory(0)[0], first)
    with Store.open(run, writable=True) as store:
        StoredPaths(store, reader.config, reader.observables, [1]).reduce()
        assert np.array_equal(store.trajectory(0)[0], first[:, :2])
        assert np.array_equal(store.trajectory(1)[0], second)


def test_by_default_paths_stay_whole(run):
    reader = Reader(run)
    with Store.open(run, writable=True) as store:
        add_path(run, store)
        store.commit()
        kept = StoredPaths(store, reader.config, reader.observables, [])
        kept.leave(0)
        kept.reduce()
        assert store.is_whole(0)


def test_validation_says_that_the_solute_alone_is_no_configuration(run):
    keep_the_solute(run)
    reader = Reader(run)
    with Store.open(run, writable=True) as store:
        add_path(run, store)
        store.commit()
        store.reduce_trajectory(0, reader.solute)
        model = reader.model(0)
        store.write_model(1, model.to_bytes(), {"density": [0] * 10, "n_shots": 1, "validation_loss": 0.69})
        store.commit()
    with pytest.raises(AnalysisError, match="of others it keeps the solute") as raised:
        validate(run, configurations=5, shots=2, workers=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ({"kind": "hummer-szabo", "pressure": 1.0}, ["system.pressure", "no box of water"]),
        ({"kind": "alanine-dipeptide", "equilibration": 5.0}, ["system.equilibration", "vacuum", "tip3p"]),
        ({"kind": "lithium-chloride", "equilibration": 0.0}, ["system.equilibration", "greater than 0"]),
        ({"kind": "lithium-chloride", "solvent": "vacuum"}, ["system.solvent", "vacuum"]),
    ],
)
def test_what_needs_a_box_of_water_is_refused_without_one(system, words):
    with pytest.raises(ConfigError) as raised:
        resolve({"system": system})
    assert "\n" not in str(raised.value)
    assert all(word in str(raised.value) for word in words)


def test_a_session_that_is_told_to_stop_leaves_nothing(tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(EquilibrationStoppedError):
        Session.create(tmp_path / "run", LITHIUM_CHLORIDE, report=lambda progress: None, stop=stop)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_water_is_equilibrated_leaves_nothing(tmp_path):
    program = "from separatrix.cli import main; main()"
    command = [sys.executable, "-c", program, "new", str(tmp_path / "run"), "--system", "lithium-chloride"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()  # the first report: equilibration has begun
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, line + rest
    assert "was not made" in rest
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())


def test_a_configuration_in_water_reads_back_as_it_was_written():
    config = resolve(LITHIUM_CHLORIDE | {"system": {"kind": "lithium-chloride", "pressure": 1.0}})
    assert RunConfig.from_data(config.model_dump(mode="json", exclude_none=True)) == config
