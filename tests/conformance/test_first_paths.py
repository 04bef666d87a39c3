"""First paths of one's own, and states of one's own in systems of the catalogue."""

from __future__ import annotations

import shutil
import tomllib

import mdtraj
import numpy as np
import openmm
import pytest
import tomli_w

from separatrix import preparing
from separatrix.cli import main
from separatrix.engine import atoms_of, serialize
from separatrix.errors import ConfigError, SeedingError
from separatrix.observables import Observables
from separatrix.reader import Reader
from separatrix.seeding import find_first_paths
from separatrix.session import Session
from separatrix.store import Store
from separatrix.systems import build_system, resolve
from separatrix.trajectory import read_trajectory

ALANINE = {"system": {"kind": "alanine-dipeptide"}}
LANDSCAPE = {"system": {"kind": "hummer-szabo"}, "sampling": {"chains": 3}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Time platforms briefly."""
    monkeypatch.setattr(preparing, "_MEASURE_SECONDS", 0.05)


def trajectory_of(data, positions):
    """Return positions (n_frames, n_atoms, 3) nm as a trajectory of the system of a configuration."""
    return mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(build_system(resolve(data)).topology))


def walk():
    """Return a walk of one particle (41, 1, 3) nm: about in A, across to B between frames 7 and 33, and back a bit."""
    x = np.concatenate([np.full(5, -1.05), np.linspace(-1.0, 1.0, 31), np.linspace(1.0, 0.8, 5)])
    return np.stack([x, x, 0.1 * np.sin(20 * x)], axis=1)[:, None].astype(np.float32)


def search(config, system, starts, n_paths=1, **options):
    """Look for first paths of a built system from some starts."""
    xml, _ = serialize(system.openmm_system, system.topology, next(iter(starts.values())))
    observables = Observables(config, atoms_of(system.topology))
    return find_first_paths(
        xml, config, observables, starts, platform="Reference", properties={}, n_paths=n_paths, **options
    )


@pytest.fixture(scope="module")
def crossing():
    """Return positions of alanine dipeptide (n_frames, 22, 3) nm that cross from C7eq to C7ax."""
    config = resolve({**ALANINE, "seeding": {"temperature": 1200.0}})
    system = build_system(config)
    return search(config, system, system.starts)[0].positions


def create(path, data, file):
    """Make a run that starts from a trajectory; return the seed paths of its chains."""
    Session.create(path, {**data, "seeding": {"trajectory": str(file)}})
    store = Store.open(path)
    assert store.seed_chains() == list(range(resolve(data).sampling.chains))
    return [store.seed_path(chain) for chain in store.seed_chains()]


def test_a_search_whose_frames_take_long_is_stopped_as_soon():
    config = resolve({"system": {"kind": "hummer-szabo"}, "sampling": {"stride": 50_000}})
    system = build_system(config)
    reports = []

    def stop(progress):
        reports.append(progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, system, {"A": system.starts["A"]}, n_paths=10**6, report=stop)
    (progress,) = reports
    assert 0 < progress.frames < 50


# -- seeding.trajectory ------------------------------------------------------------------------------------------------


def test_the_transition_is_cut_out_for_every_chain(tmp_path):
    positions = walk()
    trajectory_of(LANDSCAPE, positions).save(str(tmp_path / "walk.trr"))
    in_a, in_b = (np.flatnonzero(np.hypot(*(positions[:, 0, :2] - side).T) < 0.25) for side in (-1, 1))
    last_in_a, first_in_b = in_a[-1], in_b[0]
    for path, box in create(tmp_path / "run", LANDSCAPE, tmp_path / "walk.trr"):
        assert box is None
        assert path == pytest.approx(positions[last_in_a : first_in_b + 1], abs=1e-6)
    events = [event for event in Reader(tmp_path / "run").log() if event["event"] == "seed path"]
    assert [event["chain"] for event in events] == [0, 1, 2]
    assert events[0]["method"] == f"cut from {tmp_path / 'walk.trr'}"
    status = Session.open(tmp_path / "run").run(3, workers=0, platform="Reference", progress=False)
    assert status.steps == 3
    assert Reader(tmp_path / "run").shots["frame"].values.max() <= first_in_b - last_in_a


@pytest.mark.parametrize("ending", ["xtc", "dcd", "trr", "pdb", "xyz", "gro"])
def test_any_format_and_direction_will_do(tmp_path, crossing, ending):
    file = tmp_path / f"crossing.{ending}"
    trajectory_of(ALANINE, crossing[::-1]).save(str(file))
    for path, _ in create(tmp_path / "run", ALANINE, file):
        assert path == pytest.approx(crossing, abs=2e-3)  # xtc and gro keep three digits


def test_a_file_is_found_beside_its_configuration(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    trajectory_of(LANDSCAPE, walk()).save(str(folder / "walk.trr"))
    config = folder / "study.toml"
    config.write_text(tomli_w.dumps({**LANDSCAPE, "seeding": {"trajectory": "walk.trr"}}))
    monkeypatch.chdir(elsewhere)
    Session.create("first", config)
    run_cli("new", "second", "--config", "../study/study.toml")
    for name in ("first", "second"):
        kept = tomllib.loads((elsewhere / name / "config.toml").read_text())["seeding"]["trajectory"]
        assert (elsewhere / kept).samefile(folder / "walk.trr")
        assert kept.startswith("/")
        assert Store.open(elsewhere / name).seed_chains() == [0, 1, 2]
    # Without a file, and for what is set by hand, paths begin where one stands.
    monkeypatch.chdir(folder)
    Session.create("third", {**LANDSCAPE, "seeding": {"trajectory": "walk.trr"}})
    run_cli("new", "fourth", "--system", "hummer-szabo", "--set", "seeding.trajectory=walk.trr")
    run_cli("run", "fourth", "--steps", "1", "--workers", "0", "--platform", "Reference")
    # A run goes on without the file, and knows its configuration again.
    (folder / "walk.trr").unlink()
    arguments = ("--config", "study.toml", "--steps", "1", "--workers", "0", "--platform", "Reference")
    run_cli("run", str(elsewhere / "first"), *arguments)
    assert Reader(elsewhere / "first").status().steps == 1


def run_cli(*arguments):
    """Run a command line that must succeed."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def test_a_seed_path_lost_in_a_crash_is_read_again(tmp_path):
    trajectory_of(LANDSCAPE, walk()).save(str(tmp_path / "walk.trr"))
    (path, _), *_ = create(tmp_path / "run", LANDSCAPE, tmp_path / "walk.trr")
    for chain in (0, 2):
        shutil.rmtree(tmp_path / "run" / "run.zarr" / "seeds" / str(chain))
    Session.open(tmp_path / "run").run(1, workers=0, platform="Reference", progress=False)
    store = Store.open(tmp_path / "run")
    assert store.seed_chains() == [0, 1, 2]
    assert np.array_equal(store.seed_path(2)[0], path)


ANGLES = {
    "hexagonal": (90.0, 90.0, 120.0),
    "hexagonal the other way": (90.0, 90.0, 60.0),
    "octahedron": (70.528779, 109.471221, 70.528779),
    "dodecahedron": (60.0, 60.0, 90.0),
}


@pytest.mark.parametrize("ending", ["xtc", "dcd"])
@pytest.mark.parametrize("shape", ANGLES)
def test_openmm_takes_the_box_of_every_frame(tmp_path, shape, ending):
    edges = np.linspace(2.0, 7.0, 301)
    trajectory = trajectory_of(LANDSCAPE, np.repeat(walk()[:1], len(edges), axis=0))
    trajectory.unitcell_lengths = np.repeat(edges[:, None], 3, axis=1)
    trajectory.unitcell_angles = np.repeat([ANGLES[shape]], len(edges), axis=0)
    trajectory.save(str(tmp_path / f"boxes.{ending}"))
    topology = build_system(resolve(LANDSCAPE)).topology
    _, boxes = read_trajectory(tmp_path / f"boxes.{ending}", topology, where="seeding.trajectory")
    system = openmm.System()
    system.addParticle(1.0)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    for box in boxes:
        context.setPeriodicBoxVectors(*box.astype(float))
    assert np.linalg.det(boxes.astype(float)) == pytest.approx(trajectory.unitcell_volumes, rel=1e-3)


def spoiled(positions):
    """Return positions one of which is no number."""
    made = positions.copy()
    made[3, 0, 1] = np.nan
    return made


REFUSED = {
    "nothing there": ("walk.trr", None, "found no file there"),
    "a folder": (".", None, "found no file there"),
    "unknown ending": ("walk.csv", "0,0,0", "an ending that MDTraj knows (.*.xtc"),
    "no trajectory": ("walk.xtc", "garbage", "MDTraj cannot read it: "),
    "other atoms": ("walk.xtc", walk()[:, [0, 0, 0]], "expected as many atoms as the system has, 1, found 3; write"),
    "one state": ("walk.trr", walk()[:12], "found 12 frames that visit A; give"),
    "no state": ("walk.trr", walk()[15:25], "found 10 frames that visit no state; give"),
    "a jump": ("walk.trr", walk()[[0, 1, 36]], "with frames between them, found 3 frames that visit A and B; give"),
    "not a number": ("walk.trr", spoiled(walk()), "expected finite coordinates, found others in frame 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_trajectory_that_gives_no_path_is_refused(tmp_path, capsys, name):
    file, content, says = REFUSED[name]
    folder = tmp_path / "input"
    folder.mkdir()
    if isinstance(content, str):
        (folder / file).write_text(content)
    elif content is not None:
        atoms = mdtraj.Topology()
        residue = atoms.add_residue("PAR", atoms.add_chain())
        for _ in range(content.shape[1]):
            atoms.add_atom("X", mdtraj.element.virtual, residue)
        mdtraj.Trajectory(content, atoms).save(str(folder / file))
    data = {**LANDSCAPE, "seeding": {"trajectory": str(folder / file)}}
    with pytest.raises(SeedingError, match=rf"^seeding\.trajectory: .*{says.replace('(', '[(]')}") as error:
        Session.create(tmp_path / "run", data)
    assert str(folder / file) in str(error.value)
    with pytest.raises(SystemExit) as end:
        main(["run", str(tmp_path / "run"), "--system", "hummer-szabo", "--set", f"seeding.trajectory={folder / file}"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["input"]


# -- states of one's own -----------------------------------------------------------------------------------------------

C7EQ = "between(phi, -130, -40) and between(psi, 20, 130)"
ALPHA_R = "between(phi, -120, -40) and between(psi, -90, -20)"


def placed(data):
    """Return the starts of a configuration by state, after the checks of a new run."""
    config = resolve(data)
    system = build_system(config)
    observables = Observables(config, atoms_of(system.topology))
    observables.check_starts(system.starts)
    return observables.starts_in_states(system.starts), system


def test_the_states_of_the_catalogue_have_their_starts():
    found, system = placed(ALANINE)
    assert list(found) == list(system.starts) == ["C7eq", "C7ax"]
    assert all(found[name] is system.starts[name] for name in found)


def test_states_have_the_starts_that_lie_in_them_whatever_their_names():
    states = {"right": "phi > 0", "left": "phi < -30"}
    found, system = placed({**ALANINE, "states": states})
    assert list(found) == ["right", "left"]
    assert found["right"] is system.starts["C7ax"]
    assert found["left"] is system.starts["C7eq"]
    exchanged = {"A": "(x - 1)^2 + (y - 1)^2 < 0.0625", "B": "(x + 1)^2 + (y + 1)^2 < 0.0625"}
    found, system = placed({**LANDSCAPE, "states": exchanged})
    assert found["A"] is system.starts["B"]


def test_one_start_is_enough_for_a_run(tmp_path):
    """The hot run finds the state that no start lies in."""
    data = {**ALANINE, "states": {"eq": C7EQ, "helix": ALPHA_R}, "seeding": {"temperature": 600.0}}
    found, _ = placed(data)
    assert list(found) == ["eq"]
    session = Session.create(tmp_path / "run", data)
    assert session.run(2, workers=0, platform="Reference", progress=False).steps == 2
    cvs = session.reader.observables.cvs(*Store.open(tmp_path / "run").seed_path(0))
    assert session.reader.observables.states.array(cvs)[[0, -1]].tolist() == [0, 1]


def test_a_run_keeps_its_starts_and_one_made_before_they_were_kept_goes_on(tmp_path, monkeypatch):
    session = Session.create(tmp_path / "run", LANDSCAPE)
    shutil.copytree(tmp_path / "run", tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "run.zarr" / "starts")
    assert Session.open(tmp_path / "older").run(3, workers=0, platform="Reference", progress=False).steps == 3
    monkeypatch.setattr(preparing, "build_system", lambda config: pytest.fail("the system was built anew"))
    assert session.run(3, workers=0, platform="Reference", progress=False).steps == 3


def test_steered_runs_go_where_a_start_is_known():
    config = resolve({**ALANINE, "states": {"helix": ALPHA_R, "ax": "between(phi, 40, 100)", "eq": C7EQ}})
    system = build_system(config)
    observables = Observables(config, atoms_of(system.topology))
    starts = observables.starts_in_states(system.starts)
    assert list(starts) == ["ax", "eq"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("separatrix.seeding.HOT_STAGES", ())
        paths = search(config, system, starts)
    assert paths[0].method.startswith("steered run to eq")


def test_without_a_second_start_the_error_says_so():
    data = {
        **LANDSCAPE,
        "states": {"A": "x < -0.8", "far": "x > 9"},
        "seeding": {"temperature": 130.0, "time_limit": 0.2},
    }
    starts, system = placed(data)
    with pytest.raises(SeedingError, match=r"between A and far .* second start: there is one in A alone.*trajectory"):
        search(resolve(data), system, starts)


def test_states_without_any_start_need_a_path(tmp_path):
    states = {"left": "between(x, -0.75, -0.6)", "right": "between(x, 0.6, 0.75)"}
    data = {**LANDSCAPE, "states": states}
    with pytest.raises(ConfigError, match=r"^states: .*\(left, right\).* x = -1 nm, y = -1 nm; x = 1 nm.*trajectory"):
        Session.create(tmp_path / "run", data)
    assert list(tmp_path.iterdir()) == []
    trajectory_of(data, walk()).save(str(tmp_path / "walk.trr"))
    paths = create(tmp_path / "run", data, tmp_path / "walk.trr")
    assert [path[[0, -1], 0, 0] for path, _ in paths] == [pytest.approx([-0.6, 0.6], abs=0.04)] * 3
    status = Session.open(tmp_path / "run").run(4, workers=0, platform="Reference", progress=False)
    assert status.steps == 4


# -- columns by selection ----------------------------------------------------------------------------------------------


def test_a_run_by_selections_is_the_run_by_numbers(tmp_path):
    at = "resid {} and name {}".format
    phi = f"dihedral('{at(0, 'C')}', '{at(1, 'N')}', '{at(1, 'CA')}', '{at(1, 'C')}')"
    psi = f"dihedral('{at(1, 'N')}', '{at(1, 'CA')}', '{at(1, 'C')}', '{at(2, 'N')}')"
    shots = []
    for name, cvs in (("numbers", {}), ("selections", {"phi": phi, "psi": psi})):
        data = {**ALANINE, "seeding": {"temperature": 1200.0}, "descriptors": {"columns": ["phi", "distance(4, 16)"]}}
        if cvs:
            data |= {"collective_variables": cvs}
            data["descriptors"] = {"columns": ["phi", f"distance('{at(0, 'C')}', '{at(2, 'N')}')"]}
        session = Session.create(tmp_path / name, data)
        session.run(2, workers=0, platform="Reference", progress=False)
        shots.append(Session.open(tmp_path / name).reader.frames)
    assert shots[0].identical(shots[1])


def test_internal_coordinates_are_laid_over_chosen_atoms(tmp_path):
    data = {**ALANINE, "descriptors": {"internal_coordinates": "rotatable", "atoms": "backbone or name O"}}
    session = Session.create(tmp_path / "run", data)
    names = session.reader.observables.descriptors.names
    assert names[0] == "distance ACE1-C ACE1-O"
    assert not any("CB" in name or "-H" in name for name in names)
    assert not any(
        "CB" in name or "-H" in name for name in Session.open(tmp_path / "run").reader.frames["feature"].values
    )


@pytest.mark.parametrize(
    ("descriptors", "says"),
    [
        ({"internal_coordinates": "all", "atoms": "water"}, r"descriptors.atoms: .*selects no atom"),
        ({"internal_coordinates": "all", "atoms": "name"}, r"descriptors.atoms: .*no condition"),
        ({"internal_coordinates": "none", "atoms": "protein", "columns": ["phi"]}, "expected internal_coordinates"),
        ({"internal_coordinates": "all", "atoms": "name CA"}, "no bonds"),
    ],
)
def test_atoms_of_internal_coordinates_that_are_none_are_told(tmp_path, descriptors, says):
    with pytest.raises(ConfigError, match=says):
        Session.create(tmp_path / "run", {**ALANINE, "descriptors": descriptors})
    assert not (tmp_path / "run").exists()
