"""Mistakes in files of one's own, and files that mean harm: one clear line each, and nothing is left behind."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import openmm
import pytest
import tomli_w
from openmm import app, unit
from tests.command_line import run_cli
from tests.molecule_files import Terms, gro, gromacs_top, inpcrd, prmtop

from separatrix.config import anchored
from separatrix.systems import reading

PDB = Path(str(files("separatrix.systems") / "data" / "alanine-dipeptide.pdb"))
CRITICAL = "owned"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return a folder with alanine dipeptide in every format."""
    path = tmp_path_factory.mktemp("good")
    content = app.PDBFile(str(PDB))
    field = app.ForceField("amber99sbildn.xml")
    system = field.createSystem(content.topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False)
    positions = np.array(content.positions.value_in_unit(unit.nanometer))
    terms = Terms(content.topology, system)
    shutil.copy(PDB, path / "ala.pdb")
    (path / "ala.prmtop").write_text(prmtop(terms))
    (path / "ala.inpcrd").write_text(inpcrd(positions))
    (path / "ala.top").write_text(gromacs_top(terms))
    (path / "ala.gro").write_text(gro(terms, positions))
    (path / "small.gro").write_text(gro(terms, positions, (1.5, 1.5, 1.5)))
    (path / "ala.xml").write_text(openmm.XmlSerializer.serialize(system))
    return path


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    """Return a folder of one's own with the same files, in which one stands."""
    path = shutil.copytree(good, tmp_path / "folder")
    monkeypatch.chdir(path)
    return path


PEPTIDE = {"topology": "ala.pdb", "force_field": ["amber99sbildn.xml"]}
OWN = {"topology": "ala.pdb", "force_field": ["own.xml"]}
SYSTEM = {"topology": "ala.pdb", "system_xml": "own.xml"}
AMBER = {"topology": "ala.prmtop", "starts": ["ala.inpcrd"]}
GROMACS = {"topology": "ala.top", "starts": ["ala.gro"]}


def configured(folder, system, **tables):
    data = {
        "system": {"kind": "files", **system},
        "collective_variables": {"phi": "dihedral(4, 6, 8, 14)"},
        "states": {"left": "phi < -5", "right": "between(phi, 30, 90)"},
        **tables,
    }
    (folder / "run.toml").write_text(tomli_w.dumps(data))
    return folder / "run.toml"


def write(name, text):
    """Return what writes a file into a folder."""
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def change(name, old, new):
    """Return what replaces a text in a file."""

    def act(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return act


def packed(folder):
    (folder / "ala.pdb.gz").write_bytes(gzip.compress((folder / "ala.pdb").read_bytes()))


def zipped(folder):
    with zipfile.ZipFile(folder / "new.pdb", "w") as archive:
        archive.write(folder / "ala.pdb", "ala.pdb")


def without_a_hydrogen(folder):
    lines = (folder / "ala.pdb").read_text().splitlines()
    kept = [line for line in lines if line[12:16].strip() != "HA"]
    (folder / "ala.pdb").write_text("\n".join(kept) + "\n")


def fewer_atoms(folder):
    lines = PDB.read_text().splitlines()
    (folder / "b.pdb").write_text("\n".join(line for line in lines if line[6:11].strip() != "22") + "\n")


def symlink(folder):
    (folder.parent / "secret.itp").write_text("[ secret ]\n")
    (folder / "inside.itp").symlink_to(folder.parent / "secret.itp")
    (folder / "ala.top").write_text('#include "inside.itp"\n')


def circle(folder):
    (folder / "ala.top").write_text('#include "ala.top"\n')


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<ForceField><Residues name="&c;"/></ForceField>"""
EXTERNAL = '<!DOCTYPE x [<!ENTITY x SYSTEM "secret.xml">]><ForceField><a>&x;</a></ForceField>'
SCRIPT = f"<ForceField><Script>open('{CRITICAL}', 'w')</Script></ForceField>"
EARLY = f"<ForceField><InitializationScript>open('{CRITICAL}', 'w')</InitializationScript></ForceField>"
EVALUATED = (
    '<ForceField><NonbondedForce coulomb14scale="0.8" lj14scale="0.5" '
    f"useDispersionCorrection=\"open('{CRITICAL}', 'w')\"/></ForceField>"
)
INCLUDE = '<ForceField><Include file="/etc/passwd"/></ForceField>'
PICKLED = '<System openmmVersion="8" type="System" version="1"><Forces><Force type="PythonForce"/></Forces></System>'
INNER = PICKLED.replace(
    '<Force type="PythonForce"/>',
    '<Force type="CustomCVForce"><CollectiveVariables><CollectiveVariable>'
    '<Force type="PythonForce"/></CollectiveVariable></CollectiveVariables></Force>',
)
HIDDEN = PICKLED.replace("<Force ", "<!-- > --><Force ")
BAROSTAT = PICKLED.replace("PythonForce", "MonteCarloBarostat")

MISTAKES = {
    "no topology": ({}, None, ["system.topology", "missing"]),
    "no file": ({**PEPTIDE, "topology": "al.pdb"}, None, ["system.topology", "there is no file", "al.pdb"]),
    "a folder": ({**PEPTIDE, "topology": "sub.pdb"}, lambda f: (f / "sub.pdb").mkdir(), ["expected a file", "sub.pdb"]),
    "unknown ending": ({"topology": "ala.txt"}, write("ala.txt", "x"), ["ala.txt", "ends in one of .pdb", ".prmtop"]),
    "gzip": ({**PEPTIDE, "topology": "ala.pdb.gz"}, packed, ["ala.pdb.gz", "packed", "unpack it"]),
    "zip by another name": ({**PEPTIDE, "topology": "new.pdb"}, zipped, ["new.pdb", "packed (zip)"]),
    "empty": (PEPTIDE, write("ala.pdb", ""), ["ala.pdb", "is empty"]),
    "binary": (PEPTIDE, write("ala.pdb", b"ATOM\0\1\2"), ["ala.pdb", "found binary data"]),
    "no atoms": (PEPTIDE, write("ala.pdb", "hello\n"), ["ala.pdb", "no atom in it"]),
    "garbage in a column": (PEPTIDE, change("ala.pdb", "1.688", "x.xxx"), ["ala.pdb", "cannot be read as .pdb"]),
    "mmCIF that is none": (
        {**PEPTIDE, "topology": "a.cif"},
        write("a.cif", "hello"),
        ["a.cif", "cannot be read as .cif"],
    ),
    "prmtop that is none": (
        {**AMBER, "topology": "a.prmtop"},
        write("a.prmtop", "hello"),
        ["a.prmtop", "cannot be read"],
    ),
    "cut prmtop": (AMBER, change("ala.prmtop", "%FLAG CHARGE", "%FLAG CHANGE"), ["ala.prmtop", "OpenMM cannot make"]),
    "top that is none": (GROMACS, write("ala.top", "hello\n"), ["ala.top", "cannot be read as .top", "hello"]),
    "gro of other atoms": (GROMACS, change("ala.gro", "   22\n", "   21\n"), ["ala.gro"]),
    "fewer atoms": (
        {**PEPTIDE, "starts": ["ala.gro", "b.pdb"]},
        fewer_atoms,
        ["system.starts", "b.pdb", "the 22 atoms of the topology", "found 21"],
    ),
    "no starts": ({"topology": "ala.top"}, None, ["system.starts", "start.gro", "got none"]),
    "start that is not there": (
        {**GROMACS, "starts": ["no.gro"]},
        None,
        ["system.starts", "there is no file", "no.gro"],
    ),
    "start of an unknown format": (
        {**GROMACS, "starts": ["x.abc"]},
        write("x.abc", "x"),
        ["x.abc", "ending", "MDTraj"],
    ),
    "two starts of one name": (
        {**GROMACS, "starts": ["ala.gro", "b/ala.gro"]},
        lambda f: shutil.copytree(f, f / "b"),
        ["system.starts", "two files are called ala.gro"],
    ),
    "pme without a box": ({**GROMACS, "nonbonded": "pme"}, None, ["system.nonbonded", "periodic box", "found none"]),
    "small box": ({**GROMACS, "starts": ["small.gro"]}, None, ["system.cutoff", "half the width", "1.5"]),
    "unknown force field": (
        {**PEPTIDE, "force_field": ["amber99sbldn.xml"]},
        None,
        ["no force field 'amber99sbldn.xml'", "did you mean 'amber99sbildn.xml'"],
    ),
    "no force field": ({"topology": "ala.pdb"}, None, ["system.force_field", "amber14-all.xml", "got neither"]),
    "two force fields": (
        {**PEPTIDE, "system_xml": "ala.xml"},
        None,
        ["system.force_field", "system.system_xml", "both"],
    ),
    "residue without template": (
        {**PEPTIDE, "force_field": ["tip3p.xml"]},
        None,
        ["no residue like ACE at resid 0", "add a force field that knows it"],
    ),
    "missing hydrogens": (
        PEPTIDE,
        without_a_hydrogen,
        ["no residue like ALA at resid 1", "missing 1 H atom", "PDBFixer"],
    ),
    "force field for Amber": (
        {**AMBER, "force_field": ["amber14-all.xml"]},
        None,
        ["system.force_field", "ala.prmtop"],
    ),
    "implicit solvent for PDB": ({**PEPTIDE, "implicit_solvent": "obc2"}, None, ["system.implicit_solvent", "ala.pdb"]),
    "constraints of a System": (
        {**SYSTEM, "constraints": "h-bonds"},
        write("own.xml", "x"),
        ["system.constraints", "has its own", "remove it"],
    ),
    "pressure without a box": ({**PEPTIDE, "pressure": 1.0}, None, ["system.pressure", "periodic box", "found none"]),
    "cutoff without": ({**PEPTIDE, "nonbonded": "no-cutoff", "cutoff": 1.0}, None, ["system.cutoff", "no-cutoff"]),
    "heavy hydrogens": ({**PEPTIDE, "hydrogen_mass": 9.0}, None, ["system.hydrogen_mass", "less than or equal to 5"]),
    "unknown setting": ({**PEPTIDE, "presure": 1.0}, None, ["system.presure", "did you mean 'pressure'"]),
    "include that is missing": (GROMACS, write("ala.top", '#include "ff/a.itp"\n'), ["ala.top includes a.itp"]),
    "include folder that is missing": ({**GROMACS, "include_folder": "ff"}, None, ["system.include_folder", "ff"]),
    "include that leads out": (GROMACS, write("ala.top", '#include "../../x.itp"\n'), ["'../../x.itp'", "leads out"]),
    "absolute include": (GROMACS, write("ala.top", '#include "/etc/passwd"\n'), ["'/etc/passwd'", "leads out"]),
    "include through a link": (GROMACS, symlink, ["inside.itp", "leads out"]),
    "includes in a circle": (GROMACS, circle, ["includes in a circle"]),
    "XML that is none": (
        OWN,
        write("own.xml", "<ForceField><a></ForceField>"),
        ["system.force_field", "is no XML", "line 1"],
    ),
    "other XML": (OWN, write("own.xml", "<System/>"), ["system.force_field", "expected <ForceField>", "<System>"]),
    "script": (OWN, write("own.xml", SCRIPT), ["<Script> holds Python", "remove it"]),
    "early script": (OWN, write("own.xml", EARLY), ["<InitializationScript> holds Python"]),
    "evaluated attribute": (OWN, write("own.xml", EVALUATED), ["useDispersionCorrection"]),
    "include of a force field": (OWN, write("own.xml", INCLUDE), ["<Include> is not followed"]),
    "billion laughs": (OWN, write("own.xml", BOMB), ["declarations", "not allowed"]),
    "external entity": (OWN, write("own.xml", EXTERNAL), ["declarations", "not allowed"]),
    "deep XML": (OWN, write("own.xml", "<ForceField>" + "<a>" * 40), ["nested deeper than 32"]),
    "pickled force": (SYSTEM, write("own.xml", PICKLED), ["'PythonForce' cannot be used"]),
    "pickled force within another": (SYSTEM, write("own.xml", INNER), ["'PythonForce' cannot be used"]),
    "pickled force behind a comment": (SYSTEM, write("own.xml", HIDDEN), ["'PythonForce' cannot be used"]),
    "barostat": (SYSTEM, write("own.xml", BAROSTAT), ["MonteCarloBarostat", "set system.pressure"]),
    "System of other atoms": (
        SYSTEM,
        write("own.xml", openmm.XmlSerializer.serialize(openmm.System())),
        ["the 22 atoms of", "found 0 particles"],
    ),
    "another thing in XML": (
        SYSTEM,
        write("own.xml", openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.1))),
        ["expected <System>", "<Integrator>"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(folder, mistake):
    system, act, says = MISTAKES[mistake]
    if act is not None:
        act(folder)
    config = configured(folder, system)
    before = sorted(folder.iterdir())
    result = run_cli("new", "run", "--config", config)
    assert result.code == 2, result
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    for part in says:
        assert part in line, f"{part!r} is not in {line!r}"
    assert sorted(folder.iterdir()) == before
    assert not (folder / CRITICAL).exists()


def test_large_files_are_refused(folder, monkeypatch):
    monkeypatch.setattr(reading, "MAX_XML_BYTES", 100)
    write("own.xml", "<ForceField>" + "<a/>" * 100 + "</ForceField>")(folder)
    result = run_cli("new", "run", "--config", configured(folder, OWN))
    assert (result.code, "is too large" in result.err) == (2, True)
    monkeypatch.setattr(reading, "MAX_XML_BYTES", 10_000)
    monkeypatch.setattr(reading, "MAX_XML_ELEMENTS", 50)
    result = run_cli("new", "run", "--config", configured(folder, OWN))
    assert (result.code, "more than 50 elements" in result.err) == (2, True)


def test_what_is_no_state_of_the_start_is_told(folder):
    config = configured(folder, PEPTIDE, states={"A": "phi > 170", "B": "between(phi, 30, 90)"})
    result = run_cli("new", "run", "--config", config)
    assert result.code == 2
    assert "expected a start of the system inside one of them (A, B)" in result.err


@pytest.mark.parametrize("system", [PEPTIDE, AMBER, GROMACS, {"topology": "ala.pdb", "system_xml": "ala.xml"}])
def test_good_files_make_a_run_wherever_one_stands(folder, tmp_path, monkeypatch, system):
    config = configured(folder, system)
    monkeypatch.chdir(tmp_path)
    result = run_cli("new", "run", "--config", config)
    assert (result.code, result.err) == (0, "")
    assert run_cli("show", "run").code == 0


def test_a_force_field_of_ones_own_stands_in_for_one_of_openmm(folder):
    """Includes nothing, runs nothing: OpenMM's own file, under another name, passes every check."""
    source = Path(app.__file__).parent / "data" / "amber99sbildn.xml"
    shutil.copy(source, folder / "own.xml")
    result = run_cli("new", "run", "--config", configured(folder, OWN))
    assert (result.code, result.err) == (0, "")


def test_paths_begin_at_the_folder_of_the_configuration(folder):
    data = {"system": {"kind": "files", **AMBER, "force_field": ["own.xml", "amber14-all.xml"]}}
    (folder / "own.xml").touch()
    found = anchored(data, folder)["system"]
    assert found["topology"] == str(folder / "ala.prmtop")
    assert found["starts"] == [str(folder / "ala.inpcrd")]
    assert found["force_field"] == [str(folder / "own.xml"), "amber14-all.xml"]
