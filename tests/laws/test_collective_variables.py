"""Laws of collective variables: they agree with MDTraj, moving the whole changes nothing, and a frame is a frame."""

from __future__ import annotations

import itertools
from importlib.resources import files

import mdtraj
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from separatrix.collective_variables import KINDS, Columns, parse_definition
from separatrix.errors import ExpressionError
from separatrix.kernels import Measure, cells_of, state_of
from separatrix.states import States

N_ATOMS = 8
EVERY_KIND = {
    "x": "x(3)",
    "y": "y(3)",
    "z": "z(0)",
    "r": "distance(0, 5)",
    "theta": "angle(1, 2, 3)",
    "phi": "dihedral(4, 2, 1, 0)",
    "psi": "dihedral(2, 1, 0, 7)",
    "contacts": "coordination([0, 1], [5, 6, 7], r0=0.6)",
    "steep": "coordination([3], [4], r0=0.8, n=8, m=12)",
}
INTERNAL = {name: text for name, text in EVERY_KIND.items() if name not in "xyz"}
COLUMNS = Columns(EVERY_KIND, N_ATOMS)
RECTANGULAR = np.diag([2.0, 1.5, 1.8])
TRICLINIC = np.array([[2.0, 0, 0], [-0.9, 1.7, 0], [0.8, -0.7, 1.5]])
OCTAHEDRON = 2.0 * np.array([[1, 0, 0], [1 / 3, 2 * np.sqrt(2) / 3, 0], [-1 / 3, np.sqrt(2) / 3, np.sqrt(6) / 3]])
BOXES = [None, RECTANGULAR, TRICLINIC, OCTAHEDRON]
SEEDS = st.integers(0, 2**32 - 1)


def frames(seed: int, n_frames: int = 4, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=(n_frames, N_ATOMS, 3))


def boxes(box: np.ndarray | None, n_frames: int) -> np.ndarray | None:
    return None if box is None else np.repeat(box[None], n_frames, axis=0)


def carbons() -> mdtraj.Topology:
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for index in range(N_ATOMS):
        topology.add_atom(f"C{index}", mdtraj.element.carbon, residue)
    return topology


TOPOLOGY = carbons()


def turned(difference: np.ndarray) -> np.ndarray:
    """Fold a difference of angles in degrees to its smallest size."""
    return (difference + 180.0) % 360.0 - 180.0


def rotation(seed: int) -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.linalg.det(matrix)


@pytest.mark.parametrize("box", BOXES)
@given(seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 5.0]), dtype=st.sampled_from([np.float32, np.float64]))
def test_one_frame_and_many_give_the_same(box, seed, scale, dtype):
    positions = frames(seed, scale=scale).astype(dtype)
    together = COLUMNS.array(positions, boxes(box, 4))
    assert together.dtype == np.float32
    assert together.shape == (4, len(EVERY_KIND))
    for positions_of_one, row in zip(positions, together, strict=True):
        alone = COLUMNS.scalar(positions_of_one, box)
        assert all(type(value) is float for value in alone)
        # Both are rounded to single precision: at most the last bit may differ.
        np.testing.assert_allclose(alone, row, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_layout_of_positions_in_memory_does_not_matter(dtype):
    positions = frames(1, n_frames=5).astype(dtype)
    box = boxes(TRICLINIC, 5)
    expected = COLUMNS.array(positions, box)
    frozen = positions.copy()
    frozen.flags.writeable = False
    for same in (np.asfortranarray(positions), positions[::-1].copy()[::-1], frozen, positions.tolist()):
        np.testing.assert_array_equal(COLUMNS.array(same, box), expected)


@given(seed=SEEDS)
def test_a_frame_is_in_the_same_state_alone_stored_and_in_an_array(seed):
    positions = frames(seed, n_frames=3)
    alone = COLUMNS.scalar(positions[0], None)
    # A border right at the value: the test must not depend on which form measured it.
    border = COLUMNS.array(positions, None)[0].tolist()[3]
    states = States({"near": f"r < {border!r}", "far": f"r >= {border!r}"}, COLUMNS.names)
    assert states.scalar(alone) == states.array(COLUMNS.array(positions, None))[0] == 1
    # Between integration steps.
    measure = Measure(table=COLUMNS.table, states=states.program)
    assert state_of(measure, positions[0], cells_of(None, 1)[0]) == 1


@pytest.mark.parametrize("box", BOXES)
@given(seed=SEEDS, scale=st.sampled_from([0.3, 2.0]))
def test_agreement_with_mdtraj(box, seed, scale):
    positions = frames(seed, scale=scale).astype(np.float32)
    trajectory = mdtraj.Trajectory(positions, TOPOLOGY)
    if box is not None:
        trajectory.unitcell_vectors = boxes(box, 4).astype(np.float32)
    columns = Columns({f"q{i}": text for i, text in enumerate(INTERNAL.values())}, N_ATOMS)
    found = columns.array(positions, None if box is None else trajectory.unitcell_vectors)
    np.testing.assert_allclose(found[:, 0], mdtraj.compute_distances(trajectory, [[0, 5]])[:, 0], rtol=1e-4, atol=1e-5)
    theta = np.degrees(mdtraj.compute_angles(trajectory, [[1, 2, 3]])[:, 0])
    # MDTraj takes the arc cosine, which loses half of the digits near 0 and 180 degrees.
    np.testing.assert_allclose(np.cos(np.radians(found[:, 1])), np.cos(np.radians(theta)), atol=1e-4)
    expected = np.degrees(mdtraj.compute_dihedrals(trajectory, [[4, 2, 1, 0], [2, 1, 0, 7]]))
    straight = Columns({"a": "angle(4, 2, 1)", "b": "angle(2, 1, 0)", "c": "angle(1, 0, 7)"}, N_ATOMS)
    bends = np.sin(np.radians(straight.array(positions, trajectory.unitcell_vectors))).min()
    assume(bends > 0.02)
    np.testing.assert_allclose(turned(found[:, 2:4] - expected), 0.0, atol=0.05)


@given(seed=SEEDS)
def test_moving_and_turning_the_whole_changes_nothing(seed):
    columns = Columns(INTERNAL, N_ATOMS)
    positions = frames(seed)
    moved = positions @ rotation(seed + 1).T + np.random.default_rng(seed).normal(size=3)
    difference = columns.array(moved, None) - columns.array(positions, None)
    difference[:, 2:4] = turned(difference[:, 2:4])
    np.testing.assert_allclose(difference, 0.0, atol=1e-4)


@given(seed=SEEDS)
def test_a_mirror_turns_dihedrals_around_and_nothing_else(seed):
    columns = Columns(INTERNAL, N_ATOMS)
    positions = frames(seed)
    values, mirrored = columns.array(positions, None), columns.array(positions * [1, 1, -1], None)
    values[:, 2:4] *= -1
    np.testing.assert_allclose(mirrored, values, atol=1e-4)


@pytest.mark.parametrize("box", [RECTANGULAR, TRICLINIC, OCTAHEDRON])
@given(seed=SEEDS)
def test_periodic_images_are_the_same_configuration(box, seed):
    columns = Columns(INTERNAL, N_ATOMS)
    positions = frames(seed)
    shifts = np.random.default_rng(seed).integers(-3, 4, size=(4, N_ATOMS, 3)) @ box
    difference = columns.array(positions + shifts, boxes(box, 4)) - columns.array(positions, boxes(box, 4))
    # Where two images are equally near, the angle is free and the distance is not.
    np.testing.assert_allclose(difference[:, 0], 0.0, atol=1e-5)


@pytest.mark.parametrize("box", [RECTANGULAR, TRICLINIC, OCTAHEDRON])
@given(seed=SEEDS)
def test_distances_are_those_of_the_nearest_image(box, seed):
    positions = frames(seed)
    images = np.array(list(itertools.product(range(-7, 8), repeat=3))) @ box
    displacements = positions[:, 5] - positions[:, 0]
    nearest = np.linalg.norm(displacements[:, None] + images, axis=2).min(axis=1)
    found = Columns({"r": "distance(0, 5)"}, N_ATOMS).array(positions, boxes(box, 4))[:, 0]
    np.testing.assert_allclose(found, nearest, rtol=1e-5)


def test_positions_are_not_folded():
    positions = np.full((1, 1, 3), [7.0, -8.0, 9.0])
    columns = Columns({"a": "x(0)", "b": "y(0)", "c": "z(0)"}, 1)
    assert columns.array(positions, RECTANGULAR[None]).tolist() == [[7.0, -8.0, 9.0]]
    assert columns.scalar(positions[0], RECTANGULAR) == [7.0, -8.0, 9.0]


@given(st.floats(0, 50), st.floats(0.05, 5), st.integers(1, 12), st.integers(1, 12))
def test_coordination_follows_its_formula(r, r0, n, extra):
    columns = Columns({"c": f"coordination([0], [1], r0={r0!r}, n={n}, m={n + extra})"}, 2)
    (found,) = columns.scalar(np.array([[0.0, 0, 0], [r, 0, 0]]), None)
    ratio = r / r0
    expected = n / (n + extra) if abs(ratio - 1) < 1e-6 else (1 - ratio**n) / (1 - ratio ** (n + extra))
    assert found == pytest.approx(expected, rel=1e-5)


def test_coordination_at_r0_is_the_limit():
    columns = Columns({"c": "coordination([0], [1], r0=0.5)", "d": "coordination([0], [1], r0=0.5, n=3, m=9)"}, 2)
    assert columns.scalar(np.array([[0.0, 0, 0], [0.5, 0, 0]]), None) == pytest.approx([0.5, 1 / 3])


def test_the_steepest_coordination_can_be_computed():
    columns = Columns({"c": "coordination([0, 1, 2], [3, 4, 5, 6, 7], r0=0.5, n=99, m=100)"}, 8)
    positions = frames(2, n_frames=3)
    np.testing.assert_allclose(
        [columns.scalar(one, None) for one in positions], columns.array(positions, None), rtol=1e-6
    )


def test_coordination_sums_over_all_pairs_however_many():
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 1, size=(3, 40, 3))
    many = Columns({"c": f"coordination({list(range(10))}, {list(range(10, 40))}, r0=0.3)", "x": "x(0)"}, 40)
    r = np.linalg.norm(positions[:, :10, None] - positions[:, None, 10:], axis=3)
    expected = (1 / (1 + (r / 0.3) ** 6)).sum(axis=(1, 2))
    np.testing.assert_allclose(many.array(positions, None)[:, 0], expected, rtol=1e-6)
    assert many.scalar(positions[1], None) == many.array(positions, None)[1].tolist()


@pytest.mark.parametrize("box", BOXES)
def test_coordinates_that_are_no_numbers_give_nan_quietly(box):
    positions = frames(0, n_frames=1)
    positions[:] = np.nan
    assert np.isnan(COLUMNS.scalar(positions[0], box)).all()
    assert np.isnan(COLUMNS.array(positions, boxes(box, 1))).all()


def test_values_beyond_single_precision_are_infinite():
    columns = Columns({"x": "x(0)"}, 1)
    positions = np.array([[[1e39, 0, 0]]])
    assert columns.scalar(positions[0], None) == columns.array(positions, None)[0].tolist() == [np.inf]


def test_no_frames_give_no_rows():
    assert COLUMNS.array(np.empty((0, N_ATOMS, 3)), None).shape == (0, len(EVERY_KIND))


def test_names_units_and_periods():
    assert COLUMNS.names == tuple(EVERY_KIND)
    assert COLUMNS.units == ("nm", "nm", "nm", "nm", "degrees", "degrees", "degrees", "", "")
    assert COLUMNS.periodic == (False, False, False, False, False, True, True, False, False)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_written_as_its_usage_says(name):
    usage = KINDS[name].usage.replace(", ...", "")
    for index, letter in enumerate("ijkl"):
        usage = (
            usage.replace(f"({letter}", f"({index}")
            .replace(f" {letter}", f" {index}")
            .replace(f"[{letter}", f"[{index}")
        )
    assert parse_definition(usage, 4).kind is KINDS[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dihedral(4, 6, 8, 22)", "there is no atom 22: the system has 22 atoms, counted from 0"),
        ("distance(-1, 2)", "there is no atom -1: the system has 22 atoms, counted from 0"),
        ("dihedral(4, 6, 8)", "expected dihedral(i, j, k, l), got 3 argument(s)"),
        ("distance([1], [2])", "expected distance(i, j)"),
        ("distance(1, 1)", "atom 1 occurs twice"),
        ("distanse(1, 2)", "unknown kind 'distanse'; did you mean 'distance'?"),
        ("distance(1, 2, r0=3)", "unknown parameter 'r0'; expected distance(i, j)"),
        ("distance(1.5, 2)", "expected an atom number such as 4"),
        ("coordination(1, 2)", "expected coordination([i, ...], [j, ...], r0=0.35, n=6, m=12)"),
        ("coordination([1], [])", "expected coordination([i, ...], [j, ...], r0=0.35, n=6, m=12)"),
        ("coordination([1, 2], [2, 3])", "atom 2 occurs twice"),
        ("coordination([1], [2], r0=0)", "expected r0 > 0 nm, got 0"),
        ("coordination([1], [2], n=12, m=6)", "expected whole exponents 1 <= n < m <= 100, got n=12, m=6"),
        ("coordination([1], [2], n=2.5)", "expected whole exponents"),
        ("__import__('os')", "unknown kind '__import__'"),
    ],
)
def test_messages_name_the_column_and_the_mistake(text, message):
    with pytest.raises(ExpressionError) as caught:
        Columns({"good": "x(0)", "phi": text}, 22)
    assert str(caught.value).startswith("collective variable 'phi': ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "1x", "between", "and", ""])
def test_names_must_be_usable_in_states(name):
    with pytest.raises(ExpressionError, match="expected a name of letters, digits and underscores"):
        Columns({name: "x(0)"}, 1)


def test_arrays_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected positions of shape \(8, 3\) nm, got \(3, 8\)"):
        COLUMNS.scalar(np.zeros((3, 8)), None)
    with pytest.raises(ValueError, match=r"expected positions of shape \(n_frames, 8, 3\) nm, got \(8, 3\)"):
        COLUMNS.array(np.zeros((8, 3)), None)
    with pytest.raises(ValueError, match=r"expected a box of shape \(2, 3, 3\) nm, got \(3, 3\)"):
        COLUMNS.array(np.zeros((2, 8, 3)), np.eye(3))
    with pytest.raises(ValueError, match="expected reduced box vectors"):
        COLUMNS.array(np.zeros((1, 8, 3)), np.ones((1, 3, 3)))


def test_the_dihedrals_of_alanine_dipeptide():
    trajectory = mdtraj.load(str(files("separatrix.systems") / "data" / "alanine-dipeptide.pdb"))
    columns = Columns({"phi": "dihedral(4, 6, 8, 14)", "psi": "dihedral(6, 8, 14, 16)"}, trajectory.n_atoms)
    phi, psi = mdtraj.compute_phi(trajectory)[1], mdtraj.compute_psi(trajectory)[1]
    found = columns.array(trajectory.xyz, None)
    np.testing.assert_allclose(found, np.degrees(np.hstack([phi, psi])), atol=0.01)
