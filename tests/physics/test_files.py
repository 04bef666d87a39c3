"""Systems from files: one molecule has one energy in every format, and is the same system once it is stored."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from openmm import app, unit
from tests.command_line import run_cli
from tests.molecule_files import Terms, energy, gro, gromacs_top, inpcrd, prmtop

from separatrix import preparing
from separatrix.engine import atoms_of, read_atoms
from separatrix.errors import SystemBuildError
from separatrix.session import Session
from separatrix.store import Store
from separatrix.systems import build_system
from separatrix.topologies import as_stored, pdb_text

pytestmark = pytest.mark.physics

PDB = Path(str(files("separatrix.systems") / "data" / "alanine-dipeptide.pdb"))
HELIX = Path(__file__).parents[1] / "data" / "helix"
REST = {
    "collective_variables": {"phi": "dihedral(4, 6, 8, 14)"},
    "states": {"left": "phi < -5", "right": "between(phi, 30, 90)"},
}


@pytest.fixture(scope="module")
def content():
    return app.PDBFile(str(PDB))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, content):
    """Return a folder with alanine dipeptide in every format."""
    path = tmp_path_factory.mktemp("files")
    system = flexible(content)
    terms, positions = Terms(content.topology, system), nm(content.positions)
    shutil.copy(PDB, path / "ala.pdb")
    with (path / "ala.cif").open("w") as file:
        app.PDBxFile.writeFile(content.topology, content.positions, file, keepIds=True)
    (path / "ala.prmtop").write_text(prmtop(terms))
    (path / "ala.inpcrd").write_text(inpcrd(positions))
    top = gromacs_top(terms).splitlines()
    (path / "types").mkdir()
    cut = top.index("[ moleculetype ]")
    (path / "types" / "atoms.itp").write_text("\n".join(top[:cut]) + "\n")
    hidden = ["#ifdef POSRES", '#include "posre.itp"', "#endif"]
    (path / "ala.top").write_text("\n".join(['#include "types/atoms.itp"', *top[cut:], *hidden]) + "\n")
    (path / "ala.gro").write_text(gro(terms, positions))
    (path / "boxed.gro").write_text(gro(terms, positions, (2.5, 2.6, 2.7)))
    system.addForce(openmm.CMMotionRemover())
    (path / "ala.xml").write_text(openmm.XmlSerializer.serialize(system))
    return path


def flexible(content):
    field = app.ForceField("amber99sbildn.xml")
    return field.createSystem(content.topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False)


def nm(positions):
    return np.array(positions.value_in_unit(unit.nanometer))


def configured(folder, **system):
    names = ("topology", "system_xml")
    system |= {name: str(folder / system[name]) for name in names if name in system}
    if "starts" in system:
        system["starts"] = [str(folder / name) for name in system["starts"]]
    return {"system": {"kind": "files", **system}, **REST}


def built(folder, **system):
    return build_system(Session.resolve(configured(folder, **system)))


FIELD = ["amber99sbildn.xml"]
FORMATS = {
    "pdb": {"topology": "ala.pdb", "force_field": FIELD, "constraints": "none"},
    "cif": {"topology": "ala.cif", "force_field": FIELD, "constraints": "none"},
    "amber": {"topology": "ala.prmtop", "starts": ["ala.inpcrd"], "constraints": "none"},
    "gromacs": {"topology": "ala.top", "starts": ["ala.gro"], "constraints": "none"},
    "gromacs, start of another program": {"topology": "ala.top", "starts": ["ala.pdb"], "constraints": "none"},
    "system": {"topology": "ala.pdb", "system_xml": "ala.xml"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_molecule_has_one_energy_in_every_format(folder, content, name):
    system = built(folder, **FORMATS[name])
    positions = nm(content.positions)
    expected = energy(flexible(content), positions)
    assert energy(system.openmm_system, positions) == pytest.approx(expected, abs=1e-3)
    (start,) = system.starts.values()
    np.testing.assert_allclose(start.positions, positions, atol=1e-6)
    assert energy(system.openmm_system, start.positions) == pytest.approx(expected, abs=0.02)
    assert not any(isinstance(force, openmm.CMMotionRemover) for force in system.openmm_system.getForces())
    assert system.openmm_system.getNumConstraints() == 0
    assert system.topology.getNumBonds() == 21


def test_constraints_hydrogen_mass_and_reach_are_as_asked(folder):
    base = {"topology": "ala.top", "starts": ["boxed.gro"]}
    system = built(folder, **base, hydrogen_mass=3.0).openmm_system
    (force,) = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    assert force.getNonbondedMethod() == openmm.NonbondedForce.PME
    assert force.getCutoffDistance()._value == 1.0
    assert system.getNumConstraints() == 12
    assert min(round(system.getParticleMass(i)._value, 3) for i in range(22)) == 3.0
    np.testing.assert_allclose(
        np.diag([vector._value for vector in system.getDefaultPeriodicBoxVectors()]), [2.5, 2.6, 2.7]
    )
    system = built(folder, **base, nonbonded="cutoff", cutoff=0.9, constraints="all-bonds").openmm_system
    (force,) = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    assert force.getNonbondedMethod() == openmm.NonbondedForce.CutoffPeriodic
    assert force.getCutoffDistance()._value == 0.9
    assert system.getNumConstraints() == 21
    assert not any(hasattr(force, "getDefaultPressure") for force in system.getForces())
    pressed = built(folder, **base, pressure=1.0, temperature=310.0).openmm_system.getForces()
    (barostat,) = [force for force in pressed if isinstance(force, openmm.MonteCarloBarostat)]
    assert (barostat.getDefaultPressure()._value, barostat.getDefaultTemperature()._value) == (1.0, 310.0)
    without = built(folder, **base, nonbonded="no-cutoff")
    assert not without.periodic
    assert next(iter(without.starts.values())).box is None


def test_native_obc2_has_the_energy_of_the_scripted_one():
    field = app.ForceField("amber14/protein.ff14SB.xml", "implicit/obc2.xml")
    helix = app.PDBFile(str(HELIX / "helix.pdb"))
    scripted = field.createSystem(helix.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds)
    native = build_system(Session.resolve(HELIX / "helix.toml")).openmm_system
    assert any(isinstance(force, openmm.GBSAOBCForce) for force in native.getForces())
    positions = nm(helix.positions)
    assert energy(native, positions) == pytest.approx(energy(scripted, positions), rel=1e-5)


def test_implicit_solvent_of_an_amber_topology(folder, content):
    amber = {"topology": "ala.prmtop", "starts": ["ala.inpcrd"]}
    vacuum = built(folder, **amber)
    with pytest.warns(UserWarning, match="GB parameters"):  # radii of no set that Amber knows
        solvated = built(folder, **amber, implicit_solvent="obc2")
    positions = nm(content.positions)
    assert energy(solvated.openmm_system, positions) < energy(vacuum.openmm_system, positions) - 20


def test_every_frame_of_every_file_is_a_start(folder, content):
    frames = np.stack([nm(content.positions) + shift for shift in (0.0, 0.1, 0.2)])
    trajectory = mdtraj.Trajectory(frames, mdtraj.Topology.from_openmm(content.topology))
    trajectory.save(str(folder / "three.xtc"))
    trajectory.save(str(folder / "models.pdb"))
    names = ["three.xtc", "models.pdb", "ala.inpcrd"]
    starts = built(folder, **FORMATS["pdb"], starts=names).starts
    assert list(starts) == [
        *(f"three.xtc[{i}]" for i in range(3)),
        *(f"models.pdb[{i}]" for i in range(3)),
        "ala.inpcrd",
    ]
    np.testing.assert_allclose(starts["three.xtc[2]"].positions, frames[2], atol=1e-3)


def test_every_frame_has_the_box_it_was_written_with(folder, content):
    terms, positions = Terms(content.topology, flexible(content)), nm(content.positions)
    text = "".join(gro(terms, positions, (edge, edge, edge)) for edge in (3.0, 4.0))
    (folder / "growing.gro").write_text(text)
    starts = built(folder, topology="ala.top", starts=["growing.gro"]).starts
    edges = [np.diag(start.box).tolist() for start in starts.values()]
    assert edges == [[3.0] * 3, [4.0] * 3]


# -- topologies as they are stored -------------------------------------------------------------------------------------


def odd_molecule():
    """Return a topology that the PDB format does not know: bonds between names that no template has."""
    topology = app.Topology()
    chain = topology.addChain("long")
    residue = topology.addResidue("ALA", chain, id="7")
    atoms = [topology.addAtom(f"Q{i}", app.element.carbon, residue) for i in range(6)]
    water = topology.addResidue("TIP3", topology.addChain())
    topology.addAtom("OH2", app.element.oxygen, water)
    topology.addAtom("EPW", None, water)
    for first, second in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 2), (0, 3), (0, 4), (0, 5)):
        topology.addBond(atoms[first], atoms[second])
    return topology


def test_a_stored_topology_keeps_its_bonds_and_is_stable(tmp_path):
    stored = as_stored(odd_molecule())
    atoms = atoms_of(stored)
    assert len(set(atoms.bonds)) == len(atoms.bonds) == 9
    assert atoms.elements == ("C",) * 6 + ("O", "")
    assert atoms.residue_names[-1] == "HOH"
    (tmp_path / "topology.pdb").write_text(pdb_text(stored, np.zeros((8, 3), dtype=np.float32)))
    again = read_atoms(tmp_path / "topology.pdb")
    assert set(again.bonds) == set(atoms.bonds)
    assert again.names == atoms.names
    assert again.residues == atoms.residues


@pytest.mark.parametrize("apart", [1, 900, 901, 1800])
def test_sulfurs_are_bonded_in_a_stored_topology_only_where_they_are_in_the_molecule(apart):
    topology = app.Topology()
    chain = topology.addChain()
    for index in range(apart + 7):
        sulfur = index in (5, 5 + apart)
        residue = topology.addResidue("CYS" if sulfur else "AR", chain)
        element = app.element.sulfur if sulfur else app.element.argon
        topology.addAtom("SG" if sulfur else "AR", element, residue)
    assert as_stored(topology).getNumBonds() == 0


def test_neighbours_of_one_name_and_number_stay_apart():
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(3):
        topology.addAtom("AR", app.element.argon, topology.addResidue("AR", chain, id="1"))
    assert atoms_of(as_stored(topology)).residues == (0, 1, 2)


def test_atoms_that_a_stored_topology_would_lose_are_named():
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain(), id="3")
    for name in ("CARB1", "CARB2"):
        topology.addAtom(name, app.element.carbon, residue)
    with pytest.raises(SystemBuildError, match="2 atoms of residue LIG3 are called CARB"):
        as_stored(topology)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helix_run(tmp_path_factory):
    """Return a run of the helix, made from files that are gone, and what its configuration was."""
    folder = tmp_path_factory.mktemp("helix")
    source = shutil.copytree(HELIX, folder / "source")
    text = (source / "helix.toml").read_text()
    hot = "\n[seeding]\ntemperature = 900.0\n"
    (source / "helix.toml").write_text(text.replace("chains = 2", "chains = 1") + hot)
    session = Session.create(folder / "run", source / "helix.toml")
    source.rename(folder / "moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        session.run(3, workers=0, platform="CPU", progress=False)
    return folder


def test_a_peptide_makes_shots_though_its_files_are_gone(helix_run):
    reader = Session.open(helix_run / "run").reader
    shots = reader.shots
    assert shots.sizes["shot"] == 3
    assert (shots["md_steps"] > 0).all()
    path = Store.open(helix_run / "run").seed_path(0)
    assert reader.observables.states.array(reader.observables.cvs(*path))[[0, -1]].tolist() == [0, 1]
    assert len(reader.observables.descriptors.names) > 300
    assert sorted(path.name for path in (helix_run / "run" / "system").iterdir()) == ["system.xml", "topology.pdb"]


def test_other_files_of_the_same_names_are_other_runs(helix_run):
    """The configuration's hash covers what is in the files."""
    run, source = helix_run / "run", helix_run / "source"
    session = Session.open(run)
    shutil.copytree(helix_run / "moved", source)
    same = Session.resolve(source / "helix.toml")
    assert same.content_hash == session.config.content_hash
    pdb = source / "helix.pdb"
    pdb.write_text(pdb.read_text().replace("REMARK   1 CREATED", "REMARK   1 created"))
    assert Session.resolve(source / "helix.toml").content_hash != session.config.content_hash
    refused = run_cli("run", run, "--config", source / "helix.toml")
    assert (refused.code, "expected the configuration this run was made with" in refused.err) == (2, True)
    with pytest.raises(SystemBuildError, match=r"system.sha256: .*helix.pdb"):
        Session.create(helix_run / "other", session.config)
    shutil.rmtree(source)


def test_of_many_frames_a_run_keeps_one_in_each_state(folder, content, tmp_path):
    frames = np.repeat(nm(content.positions)[None], 40, axis=0)
    mdtraj.Trajectory(frames, mdtraj.Topology.from_openmm(content.topology)).save(str(folder / "many.xtc"))
    data = configured(folder, **FORMATS["pdb"], starts=["many.xtc"])
    Session.create(tmp_path / "run", data)
    assert list(Store.open(tmp_path / "run").starts()) == ["left"]
