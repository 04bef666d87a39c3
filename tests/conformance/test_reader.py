"""The Python contract: what a reader shows of a run is what was sampled, and every number can be traced."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import weakref

import mdtraj
import numpy as np
import pytest
import xarray as xr
import zarr

from separatrix import Session, preparing, read
from separatrix.committor import Committor
from separatrix.errors import AnalysisError, ColumnMismatchError, RunNotFoundError, StoreError
from separatrix.reader import Reader
from separatrix.records import Density, Reason, RunState
from separatrix.selector import density_correction, selector_named
from separatrix.store import SHOT_COLUMNS, Store

RUNS = {
    "landscape": ({"system": {"kind": "hummer-szabo"}}, 60),
    "molecule": (
        {"system": {"kind": "alanine-dipeptide"}, "sampling": {"chains": 2}, "seeding": {"temperature": 1200.0}},
        30,
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Time platforms briefly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        yield


def sample(session, steps):
    """Sample in this process until a run holds a number of steps."""
    return session.run(steps, workers=0, platform="Reference", progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return finished runs by name, to be looked at only."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (config, steps) in RUNS.items():
        sample(Session.create(folder / name, config), steps)
    return {name: folder / name for name in RUNS}


@pytest.fixture(params=RUNS)
def run(runs, request):
    """Return a reader of each of the finished runs."""
    return read(runs[request.param])


@pytest.fixture
def molecule(runs):
    """Return a reader of the finished run of alanine dipeptide."""
    return read(runs["molecule"])


def transitions(run):
    """Return the numbers of the shots that are transitions."""
    first, last = run.shots["ends"].values.T
    return np.flatnonzero((first != last) & (first >= 0) & (last >= 0))


def frames_of(run, shot):
    """Return the stored frames of one shot."""
    return run.frames.isel(frame=np.flatnonzero(run.frames["shot"].values == shot))


def test_who_follows_a_run_does_not_keep_all_its_models(runs, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(runs["landscape"], path)
    with Store.open(path, writable=True) as store:
        last = store.model_versions()[-1]
        for version in range(last + 1, last + 30):
            store.write_model(version, store.model(last), store.model_report(last))
            store.commit()
    reader = read(path)
    weights = [weakref.ref(reader.model(version).weights[0]) for version in reader.model_versions]
    gc.collect()
    assert sum(each() is not None for each in weights) < 10
    assert reader.model().weights[0] is weights[-1]()
    assert reader.model(1).version == 1


@pytest.mark.parametrize("name", RUNS)
def test_rows_go_with_their_reader_and_wait_for_no_collector(runs, name):
    gc.collect()
    gc.disable()
    try:
        reader = read(runs[name])
        kept = [weakref.ref(column.base) for table in ("shots", "frames") for column in reader.columns(table).values()]
        assert all(each() is not None for each in kept)
        reader.model()
        del reader
        assert [each() for each in kept] == [None] * len(kept)
    finally:
        gc.enable()


# -- what is there -----------------------------------------------------------------------------------------------------


def test_shots_are_a_dataset_with_a_row_for_every_trial(run):
    shots = run.shots
    assert isinstance(shots, xr.Dataset)
    assert set(shots.data_vars) == set(SHOT_COLUMNS)
    n_shots = RUNS[run.folder.name][1]
    assert shots.sizes == {"shot": n_shots, "end": 2}
    for name, variable in shots.data_vars.items():
        assert variable.dims == (("shot", "end") if name == "ends" else ("shot",))
        assert variable.attrs["long_name"]
    assert shots["seconds"].attrs["units"] == "s"
    assert set(shots["reason"].values.tolist()) <= {reason.label for reason in Reason}
    assert shots.attrs["states"] == run.state_names == tuple(run.config.states)
    for chain in range(run.config.sampling.chains):
        steps = shots["step"].values[shots["chain"].values == chain]
        assert steps.tolist() == list(range(len(steps)))


def test_frames_are_a_dataset_that_points_at_shots(run):
    frames, shots = run.frames, run.shots
    n_frames, n_cvs, n_features = (frames.sizes[name] for name in ("frame", "cv", "feature"))
    assert frames["cvs"].shape == (n_frames, n_cvs)
    assert frames["features"].shape == (n_frames, n_features)
    assert frames["shot"].shape == frames["offset"].shape == (n_frames,)
    assert frames["cv"].values.tolist() == list(run.config.collective_variables)
    assert len(set(frames["feature"].values.tolist())) == n_features
    assert (frames["cvs"].dtype, frames["features"].dtype) == (np.float32, np.float32)
    assert set(frames["shot"].values.tolist()) == set(range(shots.sizes["shot"]))
    assert (frames["offset"] == 0).sum() == shots.sizes["shot"]
    for shot in transitions(run):
        offsets = frames_of(run, shot)["offset"].values
        first = -int(shots["shooting_frame"][shot])
        assert offsets.tolist() == list(range(first, first + int(shots["n_frames"][shot])))


def test_a_path_is_a_trajectory_from_state_to_state(molecule):
    chosen = transitions(molecule)
    assert len(chosen) > 0
    for shot in chosen:
        path, stored = molecule.path(shot), frames_of(molecule, shot)
        assert isinstance(path, mdtraj.Trajectory)
        assert (path.n_frames, path.n_atoms) == (int(molecule.shots["n_frames"][shot]), 22)
        for atoms, name in (((4, 6, 8, 14), "phi"), ((6, 8, 14, 16), "psi")):
            angle = np.degrees(mdtraj.compute_dihedrals(path, [atoms])[:, 0])
            difference = (angle - stored["cvs"].sel(cv=name).values + 180) % 360 - 180
            assert np.abs(difference).max() < 0.01
        states = molecule.observables.states.array(stored["cvs"].values)
        assert (states[0], states[-1]) == (0, 1)
        assert set(states[1:-1].tolist()) == {-1}
        spacing = molecule.config.sampling.stride * molecule.config.system.timestep / 1000
        assert np.diff(path.time) == pytest.approx(spacing, rel=1e-3)
    assert [atom.name for atom in molecule.path(chosen[0]).topology.atoms][4] == "C"


def test_only_transitions_have_a_path(run):
    others = sorted(set(range(run.shots.sizes["shot"])) - set(transitions(run).tolist()))
    for shot in (others[0], run.shots.sizes["shot"], -1):
        with pytest.raises(StoreError, match=f"no trajectory of shot {shot}"):
            run.path(shot)


def test_committor_of_positions_is_the_prediction_from_their_descriptors(run):
    shot = int(transitions(run)[-1])
    positions, stored = run.path(shot).xyz, frames_of(run, shot)
    p = run.committor(positions)
    assert p.shape == (len(positions),)
    assert ((p >= 0) & (p <= 1)).all()
    assert p == pytest.approx(run.predict(stored["features"].values), abs=1e-4)
    assert p == pytest.approx(run.model().p_B(stored["features"].values), abs=1e-4)
    assert p[0] < p[-1]
    assert run.predict(stored["features"].values[:0]).shape == (0,)


@pytest.mark.parametrize(
    "ask",
    [
        lambda run: run.committor(np.zeros((run.observables.n_atoms, 3))),
        lambda run: run.committor(np.zeros((2, run.observables.n_atoms + 1, 3))),
        lambda run: run.predict(np.zeros((2, run.frames.sizes["feature"] + 1))),
        lambda run: run.predict(np.zeros(run.frames.sizes["feature"])),
    ],
)
def test_arrays_of_another_shape_are_refused(run, ask):
    with pytest.raises(ValueError, match=r"expected .* of shape \(n, .*\).*, got \("):
        ask(run)


def test_models_can_be_had_by_version(run):
    versions = run.model_versions
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) > 0
    assert run.model().version == versions[-1]
    for version in (0, *versions):
        assert run.model(version).version == version
        run.model(version).check_columns(run.frames["feature"].values.tolist())
    assert run.model(0).p_B(run.frames["features"].values[:3]).tolist() == [0.5] * 3
    assert run.model_report(versions[-1])["n_shots"] <= run.shots.sizes["shot"]
    with pytest.raises(StoreError, match=f"no model {versions[-1] + 1}"):
        run.model(versions[-1] + 1)


def test_a_model_of_other_columns_is_refused(runs, tmp_path):
    path = shutil.copytree(runs["landscape"], tmp_path / "run")
    run = read(path)
    with pytest.raises(ColumnMismatchError):
        run.model().check_columns(["y", "x"])
    with Store.open(path, writable=True) as store:
        version = store.model_versions()[-1] + 1
        store.write_model(version, Committor.untrained(("x", "w"), run.state_names).to_bytes(), {"n_shots": 0})
        store.commit(store.notes)
    for ask in (run.model, lambda: run.predict([[0.0, 0.0]]), lambda: run.committor([[[0.0, 0.0, 0.0]]])):
        with pytest.raises(ColumnMismatchError, match="w"):
            ask()
    assert run.model(version - 1).columns == ("x", "y")


def test_arrays_are_plain_zarr(run):
    root = zarr.open_group(run.folder / "run.zarr", mode="r")
    n_shots = root.attrs["committed"]["shots"]
    for name in ("chain", "q", "ends"):
        assert np.array_equal(root[f"shots/{name}"][:n_shots], run.shots[name].values)
    shot = int(transitions(run)[0])
    assert np.array_equal(root[f"trajectories/{shot}/positions"][...], run.path(shot).xyz)


def test_what_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunNotFoundError, match="no run at"):
            read(path)
        with pytest.raises(FileNotFoundError):
            Session.open(path)


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'torch', 'openmm', 'zarr', 'mdtraj', 'xarray'}"
    code = f"import sys, separatrix; sys.exit(len({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- before and while --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hummer-szabo", "alanine-dipeptide"])
def test_a_run_without_shots_can_be_read(tmp_path, kind):
    session = Session.create(tmp_path / "run", {"system": {"kind": kind}})
    run = session.reader
    n_atoms, n_features = run.observables.n_atoms, len(run.observables.descriptors.names)
    assert run.shots.sizes == {"shot": 0, "end": 2}
    assert run.frames.sizes == {"frame": 0, "cv": 2, "feature": n_features}
    assert run.model_versions == []
    assert run.model().version == 0
    assert run.predict(np.zeros((2, n_features))).tolist() == [0.5, 0.5]
    assert run.committor(np.random.default_rng(1).random((4, n_atoms, 3))).tolist() == [0.5] * 4
    status = run.status()
    assert (status.state, status.steps, status.target, status.yield_) == (RunState.NEW, 0, 1000, 0.0)
    assert run.summary()["yield_error"] is None
    assert [event["event"] for event in run.log()] == ["created"]
    with pytest.raises(StoreError, match="no trajectory of shot 0"):
        run.path(0)


def test_an_open_reader_follows_the_run(tmp_path):
    session = Session.create(tmp_path / "run", RUNS["landscape"][0])
    run = read(tmp_path / "run")
    assert run.shots.sizes["shot"] == 0
    sample(session, 5)
    before, frames = run.shots, run.frames
    assert before.sizes["shot"] == run.status().steps == 5
    assert run.model().version == 1  # a run ends with a model that knows all its shots
    sample(session, 12)
    assert run.shots.sizes["shot"] == run.status().steps == 12
    assert run.shots.isel(shot=slice(5)).identical(before)
    assert run.frames.isel(frame=slice(frames.sizes["frame"])).identical(frames)
    assert run.model().version == 2
    assert before.sizes["shot"] == 5
    assert run.shots.identical(read(tmp_path / "run").shots)


def test_a_session_runs_pauses_and_stops_in_the_background(tmp_path):
    session = Session.create(tmp_path / "run", RUNS["landscape"][0])
    run = session.reader
    assert session.wait()
    session.start(10**6, workers=0, platform="Reference")
    try:
        while session.status.steps < 3:
            assert not session.wait(0.05)
        session.pause()
        while run.status().state is not RunState.PAUSED:
            assert not session.wait(0.05)
        held = run.shots.sizes["shot"]
        assert held == session.status.steps
        assert not session.wait(0.3)
        assert run.shots.sizes["shot"] == session.status.steps == held
        session.resume()
        while session.status.steps == held:
            assert not session.wait(0.05)
    finally:
        session.stop()
    assert session.wait()
    assert run.status().state is RunState.STOPPED
    assert run.shots.sizes["shot"] == session.status.steps > held


# -- every number can be traced ----------------------------------------------------------------------------------------


def test_the_status_is_the_sum_of_the_shots(run):
    status, shots = run.status(), run.shots
    assert status.state is RunState.FINISHED
    assert status.steps == shots.sizes["shot"] == status.target
    assert status.transitions == len(transitions(run))
    assert status.expected_transitions == pytest.approx(float(shots["p_transition"].sum()), rel=1e-6)
    assert status.accepted == int(shots["accepted"].sum())
    assert status.failures == int(shots["retries"].sum()) == 0
    assert status.md_steps == int(shots["md_steps"].sum())
    assert status.model_version == run.model_versions[-1]
    assert status.validation_loss == run.model_report(status.model_version)["validation_loss"]
    assert status.seconds >= float(shots["seconds"].sum())
    counted = [(shots["ends"].values == state).sum(axis=1) for state in (0, 1)]
    assert np.array_equal(shots["n_A"], counted[0])
    assert np.array_equal(shots["n_B"], counted[1])
    # Every frame but the shooting point costs a stride of integration.
    stride = run.config.sampling.stride
    assert np.array_equal(shots["md_steps"], (shots["n_frames"] - 1) * stride)


def test_q_is_what_the_model_of_that_version_says_at_the_shooting_point(run):
    at_shooting_points = run.frames.isel(frame=np.flatnonzero(run.frames["offset"].values == 0))
    assert at_shooting_points["shot"].values.tolist() == run.shots["shot"].values.tolist()
    versions = run.shots["model"].values
    assert len(set(versions.tolist())) > 1
    for version in set(versions.tolist()):
        rows = np.flatnonzero(versions == version)
        q = run.model(version).q(at_shooting_points["features"].values[rows])
        assert run.shots["q"].values[rows] == pytest.approx(q, abs=1e-3)
    q = run.shots["q"].values.astype(float)
    assert run.shots["p_transition"].values == pytest.approx(1 / (1 + np.cosh(q)), rel=1e-3)


def path_of(run, store, chain, shot):
    """Return positions and descriptors of the path a chain stood on: of a shot, or of its seed for -1."""
    if shot >= 0:
        return run.path(shot).xyz, frames_of(run, shot)["features"].values
    positions, box = store.seed_path(chain)
    return positions, run.observables.features(positions, box)


def test_deciding_again_from_what_is_stored_gives_the_same_chains(run):
    store, config, shots = Store.open(run.folder), run.config.sampling, run.shots
    select = selector_named(config.selector)
    current = dict.fromkeys(range(config.chains), -1)
    for row in range(shots.sizes["shot"]):
        shot = {name: shots[name].values[row] for name in SHOT_COLUMNS}
        chain, model = int(shot["chain"]), run.model(int(shot["model"]))
        density = Density(counts=tuple(run.model_report(model.version)["density"])) if model.version else Density()
        assert shot["parent"] == current[chain]
        positions, features = path_of(run, store, chain, current[chain])

        def weigh(features, model=model, density=density):
            q = np.asarray(model.q(features[1:-1]), dtype=float)
            return select(q, config.scale) * density_correction(q, density)

        rng = np.random.default_rng((config.seed, chain, int(shot["step"])))
        assert shot["seed"] == rng.integers(2**63)
        weights = weigh(features)
        cumulative = np.cumsum(weights) / weights.sum()
        assert shot["frame"] == 1 + np.searchsorted(cumulative, rng.random(), side="right")
        if shot["n_A"] == shot["n_B"] == 1:
            made, new_features = path_of(run, store, chain, row)
            # The path goes through the frame it was shot from.
            assert np.array_equal(made[shot["shooting_frame"]], positions[shot["frame"]])
            p = 1.0 if current[chain] < 0 else min(1.0, weights.sum() / weigh(new_features).sum())
        else:
            p = 0.0
        assert shot["p_acc"] == pytest.approx(p, rel=1e-4)
        assert shot["accepted"] == (rng.random() < p)
        if shot["accepted"]:
            current[chain] = row
    assert max(current.values()) >= 0


def test_reader_and_session_are_one_view(runs):
    session = Session.open(runs["landscape"])
    assert isinstance(session.reader, Reader)
    assert session.status == session.reader.status()
    assert session.config == session.reader.config


def test_a_landscape_has_an_exact_committor_and_a_molecule_none(runs):
    mesh = np.linspace(-2.0, 2.0, 201)
    exact = read(runs["landscape"]).exact_committor(mesh, mesh)
    # The landscape is the same upside down and left for right.
    assert exact.at([[0.0, 0.0], [-1.0, -1.0], [1.0, 1.0]]) == pytest.approx([0.5, 0.0, 1.0], abs=1e-3)
    assert exact.at([0.3, -0.2]) == pytest.approx(1 - exact.at([-0.3, 0.2]), abs=1e-3)
    with pytest.raises(AnalysisError, match="expected a landscape, found alanine-dipeptide"):
        read(runs["molecule"]).exact_committor(mesh, mesh)
