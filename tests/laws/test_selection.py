"""Selections: what MDTraj selects, nothing that could run, and one clear line for every mistake."""

from __future__ import annotations

import builtins
from importlib.resources import files

import mdtraj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openmm import app

from separatrix import selection
from separatrix.collective_variables import by_index, parse_definition
from separatrix.engine import atoms_of, read_atoms
from separatrix.errors import ExpressionError
from separatrix.selection import select
from separatrix.systems.potential import pseudo_atoms

PDB = files("separatrix.systems") / "data" / "alanine-dipeptide.pdb"
ALANINE = read_atoms(PDB)
LANDSCAPE = atoms_of(pseudo_atoms(3))


def salt_water():
    topology = app.Topology()
    chain = topology.addChain()
    for number in range(3):
        residue = topology.addResidue("HOH", chain, id=str(number + 1))
        oxygen = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
    for name, element in (("LI", app.element.lithium), ("CL", app.element.chlorine)):
        topology.addAtom(name, element, topology.addResidue(name, topology.addChain(), id="1"))
    ribose = topology.addResidue("A", topology.addChain(), id="7")
    topology.addAtom("O5'", app.element.oxygen, ribose)
    topology.addAtom("1H5'", app.element.hydrogen, ribose)
    topology.addAtom("M", None, ribose)
    return topology


SALT_WATER = atoms_of(salt_water())


@pytest.mark.parametrize(
    "text",
    [
        "all",
        "protein",
        "backbone",
        "sidechain",
        "resid 1 and name C",
        "residue 2 and name CA CB",
        "resname ALA NME",
        "not element H",
        "element H and n_bonds 1",
        "index 3 to 7",
        "mass > 13.5",
        "(resid 0 or resid 2) and !(name =~ 'H.*')",
        'resname "ALA" && name N',
        "name C or name O",
        "chainid 0 and index < 5 || index >= 20",
    ],
)
def test_selects_what_mdtraj_selects(text):
    expected = mdtraj.load(str(PDB)).topology.select(text.replace(">=", "ge"))  # which MDTraj documents, and misreads
    assert select(ALANINE, text) == tuple(expected.tolist())
    assert len(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("water", range(9)),
        ("water and element O", (0, 3, 6)),
        ("not water", range(9, 14)),
        ("resname LI", (9,)),
        ("element Cl", (10,)),
        ("chainid 2", (10,)),
        ("resid 5", (11, 12, 13)),
        ("residue 7", (11, 12, 13)),
        ('name "O5\'"', (11,)),
        ('name "1H5\'"', (12,)),
        ("symbol VS", (13,)),
    ],
)
def test_water_ions_odd_names_and_virtual_sites(text, expected):
    assert select(SALT_WATER, text) == tuple(expected)


def test_pseudo_atoms_of_landscapes_can_be_selected():
    assert LANDSCAPE.elements == ("", "", "")
    assert select(LANDSCAPE, "name X and resid 1 2") == (1, 2)


def test_a_selection_that_selects_nothing_says_how_residues_are_counted():
    with pytest.raises(ExpressionError, match=r"no atom.*22 atoms.*ACE1, ALA2, NME3; resid counts them from 0 to 2"):
        select(ALANINE, "resid 3")


HOSTILE = [
    "__import__('os').system('touch /tmp/x')",
    "name (lambda: 1)()",
    "atom.__class__",
    "resid 1 and atom",
    "name re",
    "name 'a' + 'b'",
    "name 'a''+print()+''b'",
    'name """+print()+"""',
    "name 'a\\'+print()+\\'b'",
    "name f'{print()}'",
    "name [x for x in y]",
    "name {1: 2}",
    "name `id`",
    "name a=b",
    "name a:=1",
    "name a;print()",
    "name a#b",
    "name 1H5",
    "name Na+",
    "name =~ '('",
    "name < 3",
    "CA",
    "5",
    "",
    "  ",
    "name",
    "resid",
    "not mass",
    "resid 1 and",
    "resid 1 to",
    "resid 1.2.3",
    "(" * 11 + "all" + ")" * 11,
    "((all)",
    "all or " * 200 + "all",
    "näme CA",
    "\x00all",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_selection_is_refused_in_one_line_and_never_runs(text, monkeypatch):
    monkeypatch.setattr(builtins, "print", lambda *_: pytest.fail("text was run"))
    with pytest.raises(ExpressionError) as refused:
        select(ALANINE, text)
    assert "selection" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


HOSTILE_WORDS = [
    *["all", "name", "resid", "CA", "1", "to", "and", "or", "not", "(", ")", "()", "==", "=~", "'x'", '"\'"'],
    *["'", '"', "''", ".", "_", "__class__", "atom", "re", "lambda", "print", "\\"],
]


@given(
    st.lists(
        st.sampled_from(HOSTILE_WORDS),
        max_size=8,
    ).map(" ".join)
)
def test_any_text_selects_or_is_refused(text):
    try:
        chosen = select(ALANINE, text)
    except ExpressionError:
        return
    assert set(chosen) <= set(range(22))


def test_what_mdtraj_made_of_it_is_checked_too(monkeypatch):
    """The second wall holds without the first one."""
    monkeypatch.setattr(selection, "_checked_tokens", str.split)
    for text in ("name atom", "resid re"):
        with pytest.raises(ExpressionError, match="not allowed"):
            select(ALANINE, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dihedral(4, 6, 8, 14)", "dihedral(4, 6, 8, 14)"),
        (
            "dihedral('resid 0 and name C', 'resid 1 and name N', 'resid 1 and name CA', 'resid 1 and name C')",
            "dihedral(4, 6, 8, 14)",
        ),
        ("distance(3, 'resid 2 and name N')", "distance(3, 16)"),
        ("coordination('element O', [0, 3], r0=0.5, n=8)", "coordination([5, 15], [0, 3], r0=0.5, n=8)"),
        ("coordination('name =~ \"^C$\"', 'index 1')", "coordination([4, 14, 18], [1])"),
    ],
)
def test_definitions_by_selection_become_definitions_by_number(text, expected):
    assert by_index(text, ALANINE) == expected
    assert parse_definition(expected, 22)


def test_every_water_of_a_large_box_may_be_counted():
    numbers = ", ".join(map(str, range(1, 3000)))
    assert len(parse_definition(f"coordination([0], [{numbers}])", 3000).terms) == 2999


@pytest.mark.parametrize(
    "text", ["distance(0, 'a' + 'b')", "distance(0, f'{print()}')", "distance(0, b'a')", "angle('a')"]
)
def test_only_plain_quoted_text_is_a_selection(text):
    with pytest.raises(ExpressionError):
        by_index(text, ALANINE)


def test_without_names_of_atoms_a_selection_is_refused():
    with pytest.raises(ExpressionError, match="is a selection"):
        parse_definition("distance(0, 'name CA')", 22)
