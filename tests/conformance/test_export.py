"""What is exported is used: by OpenMM, PyTorch, MDTraj, numpy and `separatrix learn`, and gives what the run gives."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import mdtraj
import numpy as np
import openmm
import pandas as pd
import pytest
import torch
from openmm import unit
from tests.command_line import run_cli

from separatrix import Session, learn, preparing
from separatrix.collective_variables import KINDS
from separatrix.committor import Committor
from separatrix.estimates import path_multiplicities
from separatrix.export import chosen_formula, network_program, openmm_force, plumed, plumed_input
from separatrix.export import force as force_module
from separatrix.export.formulas import latex_source
from separatrix.reader import Reader
from separatrix.store import write_result
from separatrix.symbolic.formula import symbols_for
from separatrix.trajectory import write_frames

COLUMNS = [
    "phi",
    "psi",
    "distance(4, 18)",
    "coordination([5, 15], [17, 7], r0=0.3, n=6, m=12)",
    "coordination([5], [17], r0=0.25, n=4, m=10)",
    "x(3)",
    "z(3)",
]
ALANINE = {
    "system": {"kind": "alanine-dipeptide"},
    "descriptors": {"columns": COLUMNS, "internal_coordinates": "rotatable"},
}
EVERYTHING = (
    "6.5*{sin phi} - 3*{cos psi}**2 + exp(2*{distance(4, 18)}) - log(0.3 + {coordination([5, 15], [17, 7], r0=0.3, "
    "n=6, m=12)}) + 0.7*{coordination([5], [17], r0=0.25, n=4, m=10)}/{distance ACE1-C ACE1-O} "
    "+ 1/(1 + exp(-4*{cos angle ACE1-H1 ACE1-CH3 ACE1-C} + 1)) - {x(3)}*{z(3)} + sin(5*{cos phi})"
)


def export(*arguments):
    """Export something, which must succeed; return what is said."""
    result = run_cli("export", *arguments)
    assert result.code == 0, result.err
    return result.out


def give_formulas(run, *texts):
    """Store formulas in a run, columns in braces; the last one is recommended."""
    names = Reader(run).observables.descriptors.names
    symbols = {column: symbol for symbol, column in symbols_for(names).items()}
    rows = []
    for complexity, text in enumerate(texts):
        used = list(dict.fromkeys(re.findall(r"\{(.*?)\}", text)))
        rows.append(
            {
                "expression": re.sub(r"\{(.*?)\}", lambda found: symbols[found[1]], text),
                "symbols": {symbols[column]: column for column in used},
                "complexity": complexity,
                "training_loss": 0.6,
                "validation_loss": 0.6,
            }
        )
    write_result(run, "mechanism", {"expressions": rows, "recommended": rows[-1]["expression"]})
    return Reader(run)


@pytest.fixture(scope="module")
def landscape(tmp_path_factory):
    """Return a finished run on the Hummer-Szabo landscape with formulas; to be looked at only."""
    path = tmp_path_factory.mktemp("exported") / "landscape"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        Session.create(path, {"system": {"kind": "hummer-szabo"}}).run(
            60, workers=0, platform="Reference", progress=False
        )
    give_formulas(path, "0.25", "3.8*{x} + 1.2*{y} - 0.1", "3.8*{x} + sin({y})**3 - 0.5*{x}**2*{y}")
    return path


@pytest.fixture(scope="module")
def molecule(tmp_path_factory):
    """Return a run on alanine dipeptide without shots, with a formula over columns of every kind."""
    path = tmp_path_factory.mktemp("exported") / "molecule"
    Session.create(path, ALANINE)
    give_formulas(path, "{sin phi}", EVERYTHING)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a run from a table, with groups and awkward names."""
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(1)
    columns = {
        'r "nm" \\ #1': rng.normal(size=90),
        "sin_φ, wrapped": rng.normal(size=90),
        "trial": rng.integers(0, 9, 90),
    }
    n = rng.integers(1, 4, 90)
    n_b = rng.binomial(n, 0.5)
    pd.DataFrame({**columns, "n_in": n - n_b, 'n_"""out': n_b}).to_csv(folder / "shots.csv", index=False)
    run = learn(folder / "shots.csv", folder / "run", counts=["n_in", 'n_"""out'], groups="trial")
    give_formulas(run.folder, "1.5", '2*{r "nm" \\ #1} - exp({sin_φ, wrapped})')
    return run.folder


@pytest.fixture(scope="module")
def namesakes(tmp_path_factory):
    """Return a run from a table whose columns are called as parts of Python source are."""
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(1)
    columns = {name: rng.normal(size=90) for name in ("q", "p_B", "numpy", "cv_q")}
    n_b = rng.integers(0, 2, 90)
    pd.DataFrame({**columns, "n_A": 1 - n_b, "n_B": n_b}).to_csv(folder / "shots.csv", index=False)
    run = learn(folder / "shots.csv", folder / "run", counts=["n_A", "n_B"])
    give_formulas(run.folder, "1.5", "2*{q} - exp({p_B}) + sin({numpy})*{cv_q}")
    return run.folder


def frames_of(run, steps=40, scale=1.0):
    """Run OpenMM for a while with the exported force; return positions (n, n_atoms, 3) nm and its energies (n,)."""
    reader = Reader(run)
    system = openmm.XmlSerializer.deserialize((run / "system" / "system.xml").read_text())
    file = run.parent / f"{run.name}.xml"
    export("formula", run, file, "--force")
    force = openmm.XmlSerializer.deserialize(file.read_text())
    force.setForceGroup(31)
    system.addForce(force)
    config = reader.config.system
    integrator = openmm.LangevinMiddleIntegrator(config.temperature, 1.0, 0.002)
    integrator.setRandomNumberSeed(1)
    integrator.setIntegrationForceGroups(set(range(31)))  # watched, and not felt
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(mdtraj.load(run / "system" / "topology.pdb").xyz[0] * scale)
    context.setVelocitiesToTemperature(config.temperature, 1)
    positions, energies = [], []
    for _ in range(steps):
        integrator.step(10)
        positions.append(context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        energy = context.getState(energy=True, groups={31}).getPotentialEnergy()
        energies.append(energy.value_in_unit(unit.kilojoule_per_mole))
    return np.array(positions), np.array(energies)


def q_of(run, positions, box=None, complexity=None):
    """Return q of positions by the run's own descriptors and formula."""
    reader = Reader(run)
    observables = reader.observables
    features = observables.features(positions, box)
    return chosen_formula(reader, complexity).q(features, observables.descriptors.names)


# -- formulas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["landscape", "molecule"])
@pytest.mark.physics
def test_in_openmm_the_force_gives_our_q_on_every_frame(request, run):
    path = request.getfixturevalue(run)
    positions, energies = frames_of(path)
    assert np.ptp(energies) > 0.1
    assert energies == pytest.approx(q_of(path, positions), abs=1e-5)
    # A formula of one other atom would not do.
    assert np.abs(energies - q_of(path, np.roll(positions, 1, axis=1) if run == "molecule" else -positions)).max() > 0.1


@pytest.mark.physics
def test_the_force_pulls_as_q_rises(landscape):
    reader = Reader(landscape)
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(openmm_force(reader, chosen_formula(reader, 1)))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions([[0.3, -0.2, 0.0]])
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    assert forces[0] == pytest.approx([-3.8, -1.2, 0.0])


@pytest.mark.physics
def test_a_periodic_run_gives_a_force_that_knows_of_the_box(molecule, tmp_path):
    path = shutil.copytree(molecule, tmp_path / "run")
    system = openmm.XmlSerializer.deserialize((path / "system" / "system.xml").read_text())
    box = 2.0 * np.eye(3)
    system.setDefaultPeriodicBoxVectors(*box)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
            force.setCutoffDistance(0.9)
    (path / "system" / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    (path / "SHA256SUMS").unlink()
    give_formulas(path, "6.5*{sin phi} + 2*{distance(4, 18)} + {cos angle ACE1-H1 ACE1-CH3 ACE1-C}")
    reader = Reader(path)
    wrapped = mdtraj.load(path / "system" / "topology.pdb").xyz[0].astype(float)
    wrapped[::2] += [2.0, -2.0, 0.0]  # every other atom in another cell
    watched = openmm.System()
    watched.setDefaultPeriodicBoxVectors(*box)
    for _ in wrapped:
        watched.addParticle(1.0)
    watched.addForce(openmm_force(reader, chosen_formula(reader)))
    context = openmm.Context(watched, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(wrapped)
    energy = context.getState(energy=True).getPotentialEnergy()._value
    assert energy == pytest.approx(float(q_of(path, wrapped[None], box[None])[0]), abs=1e-5)
    assert energy != pytest.approx(float(q_of(path, wrapped[None])[0]), abs=0.1)


def plumed_values(text, trajectory):
    """Return every labelled value of PLUMED input, by MDTraj and numpy; angles in radians, atoms counted from 1."""
    values = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        label, _, action = line.rpartition(": ")
        kind, *words = action.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        if kind == "PRINT":
            values["printed"] = options["ARG"].split(",")
            continue
        atoms = [[int(atom) - 1 for atom in options.get("ATOMS", options.get("ATOM", "0")).split(",")]]
        match kind:
            case "TORSION":
                values[label] = mdtraj.compute_dihedrals(trajectory, atoms)[:, 0]
            case "ANGLE":
                values[label] = mdtraj.compute_angles(trajectory, atoms)[:, 0]
            case "DISTANCE":
                values[label] = mdtraj.compute_distances(trajectory, atoms)[:, 0]
            case "POSITION":
                assert "NOPBC" in words
                for axis, name in enumerate("xyz"):
                    values[f"{label}.{name}"] = trajectory.xyz[:, atoms[0][0], axis]
            case "COORDINATION":
                groups = [[int(atom) - 1 for atom in options[name].split(",")] for name in ("GROUPA", "GROUPB")]
                pairs = [(first, second) for first in groups[0] for second in groups[1]]
                ratio = mdtraj.compute_distances(trajectory, pairs) / float(options["R_0"])
                values[label] = ((1 - ratio ** int(options["NN"])) / (1 - ratio ** int(options["MM"]))).sum(axis=1)
            case "CUSTOM":
                assert options["PERIODIC"] == "NO"
                names, sources = options["VAR"].split(","), options["ARG"].split(",")
                known = {name: values[source].astype(float) for name, source in zip(names, sources, strict=True)}
                functions = {name: getattr(np, name) for name in ("sin", "cos", "exp", "log")}
                values[label] = eval(options["FUNC"].replace("^", "**"), {"__builtins__": {}}, known | functions)  # noqa: S307
            case _:
                pytest.fail(f"what is {kind}?")
    return values


@pytest.mark.parametrize("run", ["landscape", "molecule"])
def test_plumed_input_is_computed_with_other_peoples_coordinates_to_our_q(request, run, tmp_path):
    path = request.getfixturevalue(run)
    export("formula", path, tmp_path / "plumed.dat")
    text = (tmp_path / "plumed.dat").read_text()
    assert text == plumed_input(Reader(path), chosen_formula(Reader(path)))
    assert all(len(label) == len(label.encode()) for label in re.findall(r"^(\w+):", text, re.MULTILINE))
    topology = mdtraj.load_topology(path / "system" / "topology.pdb")
    start = mdtraj.load(path / "system" / "topology.pdb").xyz
    noise = np.random.default_rng(1).normal(0, 0.02 if run == "molecule" else 0.8, (30, *start.shape[1:]))
    trajectory = mdtraj.Trajectory(start + noise, topology)
    values = plumed_values(text, trajectory)
    expected = q_of(path, trajectory.xyz)
    assert values["q"] == pytest.approx(expected, abs=2e-4)  # MDTraj's angles are in single precision
    assert values["p_B"] == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-4)
    assert values["printed"] == ["q", "p_B"]


@pytest.mark.parametrize("run", ["landscape", "molecule", "table", "namesakes"])
def test_python_source_needs_numpy_alone(request, run, tmp_path):
    path = request.getfixturevalue(run)
    export("formula", path, tmp_path / "formula.py")
    reader = Reader(path)
    names = reader.observables.descriptors.names
    features = np.random.default_rng(2).uniform(0.1, 0.9, (20, len(names)))
    np.save(tmp_path / "features.npy", features)
    code = (
        "import sys, json, numpy, formula\n"
        f"names, features = {list(names)!r}, numpy.load('features.npy')\n"
        "columns = [features[:, names.index(name)] for name in formula.COLUMNS]\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'separatrix', 'sympy', 'torch', 'openmm'}, loaded\n"
        "print(json.dumps([formula.q(*columns).tolist(), formula.p_B(*columns).tolist()]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    q, p = json.loads(done.stdout)
    expected = chosen_formula(reader).q(features, names)
    assert q == pytest.approx(expected, rel=1e-12)
    assert p == pytest.approx(1 / (1 + np.exp(-expected)), rel=1e-12)


def test_latex_has_the_columns_as_words(table, molecule):
    reader = Reader(table)
    text = latex_source(reader, chosen_formula(reader))
    assert r'\text{r "nm" \textbackslash{} \#1}' in text
    assert r"\text{sin\_φ, wrapped}" in text
    assert text.count("{") == text.count("}")
    assert r"\text{sin phi}" in latex_source(Reader(molecule), chosen_formula(Reader(molecule)))


def test_a_formula_can_be_chosen(landscape, tmp_path):
    assert "3.8*x + 1.2*y - 0.1" in export("formula", landscape, tmp_path / "a.py", "--formula", 1)
    assert "return 3.8*x + 1.2*y - 0.1" in (tmp_path / "a.py").read_text()
    constant = export("formula", landscape, tmp_path / "b.py", "--formula", 0)
    assert "q = 0.25" in constant


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["landscape", pytest.param("table", marks=pytest.mark.slow)])
def test_the_exported_network_needs_torch_alone_and_gives_ours(request, run, tmp_path):
    path = request.getfixturevalue(run)
    export("network", path, tmp_path / "committor.pt2")
    reader = Reader(path)
    features = (3 * np.random.default_rng(3).normal(size=(50, len(reader.observables.descriptors.names)))).astype("f4")
    np.save(tmp_path / "features.npy", features)
    code = (
        "import sys, json, numpy, torch\n"
        "extra = {'separatrix.json': ''}\n"
        "module = torch.export.load('committor.pt2', extra_files=extra).module()\n"
        "features = torch.from_numpy(numpy.load('features.npy'))\n"
        "found, one = module(features), module(features[:1])\n"
        "assert 'separatrix' not in sys.modules\n"
        "print(json.dumps([found['q'].tolist(), found['p_B'].tolist(), one['q'].tolist(), extra['separatrix.json']]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    q, p, one, text = json.loads(done.stdout)
    model = reader.model()
    assert np.abs(np.array(q) - model.q(features)).max() < 1e-6
    assert np.abs(np.array(p) - reader.predict(features)).max() < 1e-6
    assert one == pytest.approx(q[:1], abs=1e-6)
    about = json.loads(text)
    assert [column["name"] for column in about["columns"]] == list(model.columns)
    assert (about["states"], about["model_version"]) == (list(model.states), model.version)
    if run == "landscape":
        assert about["columns"][0] == {"name": "x", "unit": "nm", "v": "x(0)", "value": "v"}


def test_an_older_model_can_be_exported_and_one_of_three_states(landscape, tmp_path):
    assert "model 1," in export("network", landscape, tmp_path / "first.pt2", "--version", 1)
    loaded = torch.export.load(tmp_path / "first.pt2").module()
    features = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    found = loaded(torch.from_numpy(features))["p_B"].numpy()
    assert np.abs(found - Reader(landscape).model(1).p_B(features)).max() < 1e-6
    model = Committor.untrained(["a", "b"], ["A", "B", "C"])
    found = network_program(model).module()(torch.from_numpy(features))["p"].numpy()
    assert found == pytest.approx(np.full((5, 3), 1 / 3))


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "precision"), [("xtc", 5.1e-4), ("dcd", 1e-6), ("h5", 0.0)])
def test_mdtraj_reads_the_accepted_paths(landscape, tmp_path, ending, precision):
    text = export("paths", landscape, tmp_path / f"paths.{ending}")
    top = {} if ending == "h5" else {"top": tmp_path / "paths.pdb"}
    found = mdtraj.load(tmp_path / f"paths.{ending}", **top)
    reader, index = Reader(landscape), pd.read_csv(tmp_path / "paths.csv")
    shots = reader.shots
    weight = path_multiplicities(shots["chain"].values, shots["accepted"].values)
    assert index["shot"].tolist() == np.flatnonzero(weight).tolist()
    assert index["weight"].tolist() == weight[weight > 0].tolist()
    assert f"{len(index)} paths" in text
    assert found.n_frames == index["n_frames"].sum()
    assert mdtraj.load(tmp_path / "paths.pdb").topology == found.topology
    for row in index.itertuples():
        path = reader.path(row.shot)
        assert path.n_frames == row.n_frames
        assert np.abs(found.xyz[row.first_frame : row.first_frame + row.n_frames] - path.xyz).max() <= precision
    if ending != "dcd":  # it has no time
        spacing = reader.config.sampling.stride * reader.config.system.timestep / 1000
        assert np.diff(found.time) == pytest.approx(np.full(found.n_frames - 1, spacing), rel=1e-3)


@pytest.mark.parametrize("ending", ["xtc", "dcd", "h5"])
def test_boxes_of_solvated_paths_are_written(molecule, tmp_path, ending):
    rng = np.random.default_rng(1)
    topology = molecule / "system" / "topology.pdb"
    n_atoms = mdtraj.load_topology(topology).n_atoms
    paths = []
    for n in (3, 5):
        box = np.tile(np.array([[2.0, 0, 0], [0.3, 2.1, 0], [0.2, 0.4, 2.2]], np.float32), (n, 1, 1))
        box += rng.uniform(0, 0.01, (n, 1, 1)).astype(np.float32) * np.eye(3, dtype=np.float32)
        paths.append((rng.normal(size=(n, n_atoms, 3)).astype(np.float32), box))
    assert write_frames(tmp_path / f"paths.{ending}", topology, iter(paths), spacing=0.5) == [3, 5]
    found = mdtraj.load(tmp_path / f"paths.{ending}", **({} if ending == "h5" else {"top": topology}))
    assert found.unitcell_vectors == pytest.approx(np.concatenate([box for _, box in paths]), abs=1e-3)
    assert found.xyz == pytest.approx(np.concatenate([positions for positions, _ in paths]), abs=1e-3)


# -- shots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "ending"), [("landscape", "csv"), ("landscape", "npz"), ("table", "parquet")])
def test_exported_shots_are_learned_from_again_with_the_same_columns_and_counts(request, tmp_path, run, ending):
    path = request.getfixturevalue(run)
    text = export("shots", path, tmp_path / f"shots.{ending}")
    command = re.search(r"^read it: separatrix (learn .*) NEW_RUN (.*)$", text, re.MULTILINE)
    before = Reader(path)
    counts = re.search(r"--counts (\S+)", command[2])[1].split(",")
    groups = "trial" if run == "table" else None
    assert (f"--groups {groups}" in text) == (run == "table")
    after = learn(tmp_path / f"shots.{ending}", tmp_path / "again", counts=counts, groups=groups)
    assert after.observables.descriptors.names == before.observables.descriptors.names
    told = (before.shots["n_A"] + before.shots["n_B"]).values > 0
    points = before.frames["offset"].values == 0
    assert np.array_equal(after.frames["features"], before.frames["features"].values[points][told])
    for name in ("n_A", "n_B"):
        assert np.array_equal(after.shots[name], before.shots[name].values[told])
    if run == "table":
        assert np.array_equal(after.shots["chain"], before.shots["chain"])
        assert after.state_names == before.state_names


# -- mistakes ----------------------------------------------------------------------------------------------------------


REFUSED = {
    "an unknown form": (["formula", "landscape", "q.lammps"], [".dat, .xml, .py, .tex", "got .lammps"]),
    "no form": (["network", "landscape", "committor"], [".pt2", "got no ending"]),
    "TorchScript": (["network", "landscape", "committor.pt"], [".pt2", "got .pt"]),
    "an unknown formula": (["formula", "landscape", "q.py", "--formula", 7], ["complexity 7", "known: 0, 1, 2"]),
    "a constant for PLUMED": (["formula", "landscape", "q.dat", "--formula", 0], ["is a constant", "--formula"]),
    "a constant for OpenMM": (["formula", "landscape", "q.xml", "--formula", 0], ["is a constant", "--formula"]),
    "an unknown model": (["network", "landscape", "c.pt2", "--version", 999], ["no model 999"]),
    "a version before the first": (["network", "landscape", "c.pt2", "--version", 0], ["--version", "1 or more"]),
    "a run without a model": (["network", "molecule", "c.pt2"], ["trained committor, found none"]),
    "a run without paths": (["paths", "molecule", "p.xtc"], ["accepted paths, found none in 0 shots"]),
    "a run without shots": (["shots", "molecule", "s.csv"], ["shots that ended in a state, found none"]),
    "a table for PLUMED": (["formula", "table", "q.dat"], ["made from a table", ".py or .tex"]),
    "a table for OpenMM": (["formula", "table", "q.xml"], ["made from a table", ".py or .tex"]),
    "paths of a table": (["paths", "table", "p.xtc"], ["made from a table", "holds no paths"]),
    "a folder that is not there": (["shots", "landscape", "none/s.csv"], ["there is no folder"]),
    "no run": (["shots", "nothing", "s.csv"], ["no run at"]),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_cannot_be_exported_is_told_in_one_line_and_nothing_is_written(request, tmp_path, mistake):
    (what, run, file, *options), says = REFUSED[mistake]
    path = tmp_path / "nothing" if run == "nothing" else request.getfixturevalue(run)
    result = run_cli("export", what, path, tmp_path / file, *options)
    assert result.code == 2, result
    assert result.out == ""
    assert len(result.err.splitlines()) == 1, result.err
    for part in says:
        assert part in result.err, f"{part!r} is not in {result.err!r}"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_not_explained_has_no_formula(landscape, tmp_path):
    path = shutil.copytree(landscape, tmp_path / "run")
    shutil.rmtree(path / "results")
    result = run_cli("export", "formula", path, tmp_path / "q.py")
    assert (result.code, "separatrix explain" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("what", "file", "also"),
    [
        ("formula", "q.py", "q.py"),
        ("network", "c.pt2", "c.pt2"),
        ("paths", "p.xtc", "p.xtc"),
        ("paths", "p.xtc", "p.csv"),
        ("paths", "p.xtc", "p.pdb"),
        ("shots", "s.csv", "s.csv"),
    ],
)
def test_nothing_is_overwritten_without_force(landscape, tmp_path, what, file, also):
    (tmp_path / also).write_text("precious")
    result = run_cli("export", what, landscape, tmp_path / file)
    assert result.code == 2
    assert "--force" in result.err
    assert [entry.name for entry in tmp_path.iterdir()] == [also]
    assert (tmp_path / also).read_text() == "precious"
    export(what, landscape, tmp_path / file, "--force")
    assert (tmp_path / also).read_bytes() != b"precious"


def test_what_fails_halfway_leaves_what_was_there(landscape, tmp_path, monkeypatch):
    (tmp_path / "p.xtc").write_text("precious")

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("separatrix.export.paths.write_table", broken)
    result = run_cli("export", "paths", landscape, tmp_path / "p.xtc", "--force")
    assert result.code == 2
    assert "No space left" in result.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.xtc"]
    assert (tmp_path / "p.xtc").read_text() == "precious"


def test_hdf5_without_pytables_says_what_to_install(landscape, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tables" else find(name, *rest)
    )
    result = run_cli("export", "paths", landscape, tmp_path / "p.h5")
    assert (result.code, 'pip install "separatrix[hdf5]"' in result.err) == (2, True)


def test_every_kind_of_collective_variable_can_be_exported():
    assert set(KINDS) == set(plumed._ACTIONS) == set(force_module._VARIABLES)
