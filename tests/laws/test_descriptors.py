"""Laws of descriptors: named columns of order one; internal coordinates follow any bond graph."""

from __future__ import annotations

import itertools
from importlib.resources import files

import mdtraj
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from separatrix.descriptors import Descriptors
from separatrix.errors import ConfigError, ExpressionError

PHI_PSI = {"phi": "dihedral(4, 6, 8, 14)", "psi": "dihedral(6, 8, 14, 16)"}


@pytest.fixture(scope="module")
def alanine():
    return mdtraj.load(str(files("separatrix.systems") / "data" / "alanine-dipeptide.pdb"))


def of_alanine(alanine, columns=(), internal_coordinates="none", cvs=PHI_PSI):
    return Descriptors(
        columns=columns,
        internal_coordinates=internal_coordinates,
        cvs=cvs,
        bonds=[(first.index, second.index) for first, second in alanine.topology.bonds],
        atom_names=[f"{atom.residue}-{atom.name}" for atom in alanine.topology.atoms],
        n_atoms=alanine.n_atoms,
    )


def of_graph(bonds, n_atoms, internal_coordinates):
    return Descriptors([], internal_coordinates, {}, bonds, [f"C{index}" for index in range(n_atoms)], n_atoms)


def counts(descriptors):
    kinds = [group.split()[0] for group in dict.fromkeys(descriptors.groups)]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


@pytest.mark.parametrize(
    ("choice", "n_columns", "quantities"),
    [
        ("rotatable", 55, {"distance": 21, "angle": 20, "dihedral": 7}),
        ("all", 107, {"distance": 21, "angle": 36, "dihedral": 17, "improper": 8}),
    ],
)
def test_internal_coordinates_of_alanine_dipeptide(alanine, choice, n_columns, quantities):
    descriptors = of_alanine(alanine, internal_coordinates=choice)
    assert len(descriptors.names) == len(set(descriptors.names)) == len(descriptors.groups) == n_columns
    assert counts(descriptors) == quantities
    features = descriptors.array(alanine.xyz, None)
    assert features.dtype == np.float32
    assert features.shape == (1, n_columns)
    assert features.min() >= 0
    assert features.max() <= 1
    assert "distance ACE1-CH3 ACE1-C" in descriptors.names
    assert "sin dihedral ACE1-C ALA2-N ALA2-CA ALA2-C" in descriptors.names  # phi
    assert "cos dihedral ALA2-N ALA2-CA ALA2-C NME3-N" in descriptors.names  # psi


def test_every_column_is_what_its_name_says(alanine):
    descriptors = of_alanine(alanine, internal_coordinates="all")
    rng = np.random.default_rng(1)
    moved = mdtraj.Trajectory(alanine.xyz + rng.normal(scale=0.02, size=(5, 22, 3)), alanine.topology)
    features = descriptors.array(moved.xyz, None)
    index = {f"{atom.residue}-{atom.name}": atom.index for atom in alanine.topology.atoms}
    measures = {2: mdtraj.compute_distances, 3: mdtraj.compute_angles, 4: mdtraj.compute_dihedrals}
    for name, column in zip(descriptors.names, features.T, strict=True):
        words = name.split()
        atoms = [index[word] for word in words if word in index]
        value = measures[len(atoms)](moved, [atoms])[:, 0]
        expected = {"sin": (1 + np.sin(value)) / 2, "cos": (1 + np.cos(value)) / 2}.get(words[0], value)
        np.testing.assert_allclose(column, expected, atol=1e-5, err_msg=name)


def test_columns_by_name_and_by_definition(alanine):
    cvs = {**PHI_PSI, "theta": "angle(4, 6, 8)"}
    descriptors = of_alanine(alanine, ["psi", "theta", "distance(0,  4)", "x(3)"], cvs=cvs)
    assert descriptors.names == ("sin psi", "cos psi", "cos theta", "distance(0, 4)", "x(3)")
    assert descriptors.groups == ("psi", "psi", "theta", "distance(0, 4)", "x(3)")


def test_both_columns_of_a_dihedral_share_a_group(alanine):
    descriptors = of_alanine(alanine, internal_coordinates="rotatable")
    for name, group in zip(descriptors.names, descriptors.groups, strict=True):
        assert name in (group, f"sin {group}", f"cos {group}")


def test_an_internal_coordinate_given_by_name_appears_once(alanine):
    cvs = {"phi": "dihedral(14, 8, 6, 4)", "psi": "dihedral(6, 8, 14, 16)"}
    descriptors = of_alanine(alanine, ["phi", "psi"], "rotatable", cvs)
    assert len(descriptors.names) == 55
    assert descriptors.names[:4] == ("sin phi", "cos phi", "sin psi", "cos psi")


def test_minimum_image_reaches_the_features(alanine):
    descriptors = of_alanine(alanine, internal_coordinates="all")
    box = np.array([[[1.5, 0, 0], [0.4, 1.4, 0], [-0.5, 0.3, 1.3]]])
    shifts = np.random.default_rng(2).integers(-1, 2, size=(1, 22, 3)) @ box[0]
    np.testing.assert_allclose(
        descriptors.array(alanine.xyz + shifts, box), descriptors.array(alanine.xyz, None), atol=2e-5
    )


@st.composite
def graphs(draw):
    n_atoms = draw(st.integers(2, 9))
    atoms = st.integers(0, n_atoms - 1)
    bonds = draw(st.lists(st.tuples(atoms, atoms).filter(lambda bond: bond[0] != bond[1]), min_size=1, max_size=14))
    return bonds, n_atoms


@given(graphs(), st.sampled_from(["rotatable", "all"]))
def test_any_bond_graph_gives_distinct_coordinates_over_its_bonds(graph, choice):
    bonds, n_atoms = graph
    descriptors = of_graph(bonds, n_atoms, choice)
    distinct = {tuple(sorted(bond)) for bond in bonds}
    assert counts(descriptors)["distance"] == len(distinct)
    assert len(set(descriptors.names)) == len(descriptors.names)
    positions = np.random.default_rng(0).normal(size=(2, n_atoms, 3))
    assert np.isfinite(descriptors.array(positions, None)).all()
    for group in set(descriptors.groups):
        kind, *names = group.split()
        atoms = [int(name[1:]) for name in names]
        assert len(set(atoms)) == len(atoms)
        if kind in ("angle", "dihedral"):
            assert all(tuple(sorted(pair)) in distinct for pair in itertools.pairwise(atoms))


@given(st.integers(2, 12), st.randoms(use_true_random=False))
def test_a_tree_is_described_completely(n_atoms, random):
    bonds = [(random.randrange(atom), atom) for atom in range(1, n_atoms)]
    degrees = np.bincount(np.ravel(bonds), minlength=n_atoms)
    found = counts(of_graph(bonds, n_atoms, "all"))
    assert found.get("angle", 0) == (degrees * (degrees - 1) // 2).sum()
    assert found.get("improper", 0) == (degrees >= 3).sum()
    found = counts(of_graph(bonds, n_atoms, "rotatable"))
    assert found.get("angle", 0) == n_atoms - 2
    assert found.get("dihedral", 0) == sum(degrees[i] > 1 and degrees[j] > 1 for i, j in bonds)


def test_rings_and_several_molecules():
    ring = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
    assert counts(of_graph(ring, 6, "rotatable"))["dihedral"] == 6
    water = [(7, 6), (7, 8)]
    # The tree over a ring of six has three atoms with a grandparent, the one over water has one; atom 9 is alone.
    assert counts(of_graph([*ring, *water], 10, "rotatable")) == {"distance": 8, "angle": 4, "dihedral": 6}


def test_atoms_of_the_same_name_are_told_apart():
    descriptors = Descriptors([], "rotatable", {}, [(0, 1), (2, 3)], ["NA1-X", "B", "NA1-X", "C"], 4)
    assert descriptors.names == ("distance NA1-X[0] B", "distance NA1-X[2] C")


@pytest.mark.parametrize(
    ("columns", "choice", "error", "message"),
    [
        ([], "none", ConfigError, "expected columns, internal_coordinates or symmetry_functions, got none"),
        (["phi", "phi"], "none", ConfigError, "descriptors.columns: 'phi' repeats 'phi'"),
        (["phi", "dihedral(14, 8, 6, 4)"], "none", ConfigError, "'dihedral(14, 8, 6, 4)' repeats 'phi'"),
        (["ph"], "none", ExpressionError, "'ph' is no collective variable; did you mean 'phi'?"),
        (["dihedral(4, 6, 8)"], "none", ExpressionError, "expected dihedral(i, j, k, l), got 3 argument(s)"),
        (["distance(0, 22)"], "none", ExpressionError, "there is no atom 22"),
        ([], "some", ConfigError, "expected none, rotatable or all, got 'some'"),
    ],
)
def test_messages(alanine, columns, choice, error, message):
    with pytest.raises(error) as caught:
        of_alanine(alanine, columns, choice)
    assert message in str(caught.value)


def test_internal_coordinates_need_bonds():
    with pytest.raises(ConfigError, match="the system has no bonds"):
        of_graph([], 3, "all")


def test_one_name_per_atom():
    with pytest.raises(ValueError, match="expected 3 atom names, got 2"):
        Descriptors(["x(0)"], "none", {}, [], ["a", "b"], 3)
