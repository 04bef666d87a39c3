"""Laws of symmetry functions: they are their formulas, and know nothing of rotation, origin, image or which water."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openmm import app

from separatrix.config import RunConfig, SymmetryFunctionsConfig
from separatrix.engine import atoms_of
from separatrix.errors import ConfigError
from separatrix.observables import Observables
from separatrix.records import Snapshot
from separatrix.symmetry_functions import SymmetryFunctions
from separatrix.systems import build_system, resolve

BOX = np.array([[2.2, 0.0, 0.0], [0.7, 2.1, 0.0], [-0.6, 0.8, 2.05]])
DENSITY = {"O": 33.3, "H": 66.6}
COARSE = 5e-5
"""Of values of order one in single precision; powers of 64 take up 64 roundings."""


def ions_in_water(n_waters, ions=("LI", "CL")):
    topology = app.Topology()
    chain = topology.addChain()
    for name in ions:
        topology.addAtom(name, app.Element.getBySymbol(name.capitalize()), topology.addResidue(name, chain))
    for _ in range(n_waters):
        water = topology.addResidue("HOH", chain)
        oxygen, *hydrogens = [topology.addAtom(name, app.Element.getBySymbol(name[0]), water) for name in WATER]
        for hydrogen in hydrogens:
            topology.addBond(oxygen, hydrogen)
    return atoms_of(topology)


WATER = ("O", "H1", "H2")
N_WATERS = 60
ATOMS = ions_in_water(N_WATERS)


def made(atoms=ATOMS, **settings):
    return SymmetryFunctions([SymmetryFunctionsConfig(centers="symbol Li Cl", **settings)], atoms)


FUNCTIONS = made()


def scattered(seed, n_frames=2, n_waters=N_WATERS, spread=1.0):
    """Return molecules thrown at random about the ions, some of them very near: a hard case, and no liquid."""
    rng = np.random.default_rng(seed)
    ions = rng.normal(scale=0.15, size=(n_frames, 2, 3))
    oxygens = rng.normal(scale=0.35 * spread, size=(n_frames, n_waters, 1, 3))
    waters = np.concatenate([oxygens, oxygens + rng.normal(scale=0.06, size=(n_frames, n_waters, 2, 3))], axis=2)
    return np.concatenate([ions, waters.reshape(n_frames, -1, 3)], axis=1)


def nearest(vector, box):
    """Return the shortest of 343 images."""
    if box is None:
        return vector
    return min((vector + np.array(s) @ box for s in itertools.product(range(-3, 4), repeat=3)), key=np.linalg.norm)


def bulk(r_s, r_c, eta, density):
    """Return what a sum over neighbours is in a gas without structure, by the midpoint rule."""
    r = (np.arange(20_000) + 0.5) * r_c / 20_000
    weights = np.exp(-eta * (r - r_s) ** 2) / (1 + np.exp(150 * (r - r_c + 1 / np.sqrt(150))))
    return density * (4 * np.pi * r**2 * weights).sum() * r_c / 20_000


def around(frame, box, center, neighbors, r_c):
    """Return distance and displacement of every neighbour within the cut-off."""
    arrows = [nearest(frame[j] - frame[center], box) for j in neighbors]
    return [(np.linalg.norm(v), v) for v in arrows if np.linalg.norm(v) < r_c]


def slow(neighbors, *, r_s, r_c, density, zeta=None, sign=None):
    """Return one function by its formula, in double precision, from what `around` gives."""

    def weight(r, eta):
        return np.exp(-eta * (r - r_s) ** 2) / (1 + np.exp(150 * (r - r_c + 1 / np.sqrt(150))))

    if zeta is None:
        return sum(weight(r, 200) for r, _ in neighbors) / bulk(r_s, r_c, 200, density)
    total = 0.0
    for (r, v), (s, w) in itertools.combinations(neighbors, 2):
        total += (1 + sign * (v @ w) / (r * s)) ** zeta * weight(r, 120) * weight(s, 120)
    return total / (0.5 * bulk(r_s, r_c, 120, density) ** 2 * 2**zeta / (zeta + 1))


def parsed(name):
    """Return what a column's name says."""
    center, element, *parameters = name[3:-1].split(", ")
    numbers = {key: float(value) for key, _, value in (part.partition("=") for part in parameters)}
    return name[:2], center, element, numbers


@pytest.mark.parametrize("settings", [{}, {"r_s": [0.1, 0.25, 0.4], "r_cutoff": 0.6}], ids=["published", "reduced"])
@pytest.mark.parametrize("box", [None, BOX], ids=["droplet", "box"])
def test_every_column_is_the_formula_that_its_name_says(settings, box):
    frame, functions = scattered(1, n_frames=1, n_waters=12)[0], made(ions_in_water(12), **settings)
    boxes = None if box is None else box[None]
    found = functions.array(frame[None], boxes)
    assert found.dtype == np.float32
    assert found.shape == (1, len(functions.names))
    r_c = settings.get("r_cutoff", 1.0)
    atoms = {"O": range(2, 38, 3), "H": [atom for atom in range(2, 38) if atom % 3 != 2]}
    neighbors = {
        (name, element): around(frame, box, center, atoms[element], r_c)
        for center, name in enumerate(("Li", "Cl"))
        for element in atoms
    }
    for name, value in zip(functions.names, found[0], strict=True):
        kind, center, element, numbers = parsed(name)
        more = {} if kind == "G2" else {"zeta": int(numbers["zeta"]), "sign": numbers["lambda"]}
        expected = slow(neighbors[center, element], r_s=numbers["r_s"], r_c=r_c, density=DENSITY[element], **more)
        assert value == pytest.approx(expected, rel=COARSE, abs=1e-6), name


@pytest.mark.parametrize(
    ("settings", "n_columns"), [({}, 220), ({"r_s": [0.1, 0.25, 0.4], "r_cutoff": 0.6}, 132)], ids=["full", "reduced"]
)
def test_columns_of_lithium_chloride(settings, n_columns):
    functions = made(**settings)
    assert len(functions.names) == len(set(functions.names)) == len(functions.definitions) == n_columns
    assert "G5(Li, O, r_s=0.25, zeta=4, lambda=+1)" in functions.names
    assert "G5(Cl, H, r_s=0.4, zeta=64, lambda=-1)" in functions.names
    assert "G2(Cl, O, r_s=0.25)" in functions.names


@pytest.mark.parametrize(
    ("system", "n_columns", "n_others"),
    [({"kind": "lithium-chloride"}, 221, 1), ({"kind": "alanine-dipeptide", "solvent": "tip3p"}, 1507, 55)],
    ids=["lithium-chloride", "alanine-dipeptide"],
)
def test_solvated_systems_have_the_published_sets_by_default(system, n_columns, n_others):
    config = resolve({"system": system})
    built = build_system(config)
    observables = Observables(config, atoms_of(built.topology))
    observables.check_starts(built.starts)
    assert len(observables.descriptors.names) == n_columns
    assert len(observables.descriptors.symmetry_functions.names) == n_columns - n_others
    assert not resolve({"system": {"kind": "alanine-dipeptide"}}).descriptors.symmetry_functions


def test_two_neighbours_by_hand():
    """At a right angle and 0.25 nm from the centre every weight is 1, (1 + lambda cos)^zeta too."""
    atoms = ions_in_water(2, ions=("LI",))
    frame = np.full((1, 7, 3), 50.0)
    frame[0, [0, 1, 4]] = [[3, 3, 3], [3.25, 3, 3], [3, 3.25, 3]]
    functions = SymmetryFunctions([SymmetryFunctionsConfig(centers=[0], neighbors="element O", r_s=[0.25])], atoms)
    values = dict(zip(functions.names, functions.array(frame, None)[0].tolist(), strict=True))
    assert values["G2(Li, O, r_s=0.25)"] == pytest.approx(2 / bulk(0.25, 1.0, 200, 33.3), rel=1e-5)
    for zeta, sign in itertools.product((1, 2, 4, 16, 64), (1, -1)):
        name = f"G5(Li, O, r_s=0.25, zeta={zeta}, lambda={sign:+d})"
        assert values[name] == pytest.approx(2 * (zeta + 1) / 2**zeta / bulk(0.25, 1.0, 120, 33.3) ** 2, rel=1e-5)


def test_opposite_and_parallel_neighbours():
    """(1 + lambda cos)^64 is 2^64 for one sign of lambda and 0 for the other."""
    atoms = ions_in_water(2, ions=("LI",))
    frame = np.full((2, 7, 3), 50.0)
    frame[:, [0, 1]] = [[0, 0, 0], [0.25, 0, 0]]
    frame[0, 4], frame[1, 4] = [-0.25, 0, 0], [0.25, 0, 0]
    functions = SymmetryFunctions([SymmetryFunctionsConfig(centers=[0], neighbors="element O", r_s=[0.25])], atoms)
    opposite, parallel = functions.array(frame, None)
    columns = [functions.names.index(f"G5(Li, O, r_s=0.25, zeta=64, lambda={sign})") for sign in ("+1", "-1")]
    most = 2 * 65 / bulk(0.25, 1.0, 120, 33.3) ** 2
    np.testing.assert_allclose(opposite[columns], [0, most], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(parallel[columns], [most, 0], rtol=1e-5, atol=1e-9)


def test_nothing_is_seen_beyond_the_cut_off_and_no_neighbour_is_no_trouble():
    frame = np.full((1, len(ATOMS.names), 3), 50.0)
    frame[0, :2] = [[0, 0, 0], [0, 0, 0.3]]
    assert not FUNCTIONS.array(frame, None).any()
    frame[0, 2] = [1.0, 0, 0]
    assert not FUNCTIONS.array(frame, None).any()
    frame[0, 2] = [0.95, 0, 0]
    assert FUNCTIONS.array(frame, None).any()


def test_a_gas_without_structure_gives_one():
    """The scale of every column: the mean over evenly and independently spread atoms is 1, of any zeta and lambda."""
    rng = np.random.default_rng(3)
    edge, n_frames = 2.2, 300
    n_waters = round(33.3 * edge**3)
    atoms = ions_in_water(n_waters, ions=("LI",))
    frames = rng.uniform(0, edge, size=(n_frames, 1 + 3 * n_waters, 3))
    table = SymmetryFunctionsConfig(centers=[0], neighbors="water", r_s=[0.25, 0.55])
    values = SymmetryFunctions([table], atoms).array(frames, np.repeat(edge * np.eye(3)[None], n_frames, axis=0))
    error = values.std(axis=0) / np.sqrt(n_frames)
    assert (error < 0.35).all()
    assert (np.abs(values.mean(axis=0) - 1) < 5 * error).all()
    assert (np.abs(values.mean(axis=0) - 1.5) > error).all()  # another density would show


@given(st.integers(0, 2**32))
def test_rotation_origin_images_and_exchanged_waters_change_nothing(seed):
    rng = np.random.default_rng(seed)
    frames = scattered(seed)
    before = FUNCTIONS.array(frames, None)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    waters = frames[:, 2:].reshape(2, N_WATERS, 3, 3)[:, rng.permutation(N_WATERS)]
    waters[:, ::2, 1:] = waters[:, ::2, :0:-1]  # and the hydrogens of every other one
    exchanged = np.concatenate([frames[:, :2], waters.reshape(2, -1, 3)], axis=1)
    scale = {"rtol": COARSE, "atol": COARSE}
    np.testing.assert_allclose(FUNCTIONS.array(frames @ turn, None), before, **scale)
    np.testing.assert_allclose(FUNCTIONS.array(frames + rng.normal(size=3), None), before, **scale)
    np.testing.assert_allclose(FUNCTIONS.array(exchanged, None), before, **scale)
    boxes = np.repeat(BOX[None], 2, axis=0)
    shifts = rng.integers(-2, 3, size=(2, len(ATOMS.names), 3)) @ BOX
    inside = FUNCTIONS.array(frames, boxes)
    np.testing.assert_allclose(FUNCTIONS.array(frames + shifts, boxes), inside, **scale)


def test_the_laws_can_fail():
    """A water that is pulled away, or a hydrogen exchanged for an oxygen, does change them."""
    frames = scattered(5)
    before = FUNCTIONS.array(frames, None)
    nudged, swapped = frames.copy(), frames.copy()
    nudged[:, np.argmin(np.linalg.norm(frames[0] - frames[0, 0], axis=1)[2:]) + 2] += 0.02
    swapped[:, [2, 3]] = frames[:, [3, 2]]
    for changed in (nudged, swapped):
        assert np.abs(FUNCTIONS.array(changed, None) - before).max() > 100 * COARSE


def test_frames_are_independent_of_those_beside_them():
    frames = scattered(7, n_frames=90)
    together = FUNCTIONS.array(frames, None)
    apart = np.concatenate([FUNCTIONS.array(frame[None], None) for frame in frames[::10]])
    np.testing.assert_allclose(together[::10], apart, rtol=COARSE, atol=1e-6)
    assert FUNCTIONS.array(frames[:0], None).shape == (0, 220)


def test_single_precision_far_from_the_origin():
    """Positions of an unwrapped trajectory: the displacement, not the position, sets the precision."""
    frames = scattered(9).astype(np.float32).astype(float)
    boxes = np.repeat(BOX[None], 2, axis=0)
    far = frames + np.array([64.0, -64.0, 64.0])  # exact in single precision to 4e-6 nm
    np.testing.assert_allclose(
        FUNCTIONS.array(far.astype(np.float32), boxes), FUNCTIONS.array(frames, boxes), rtol=1e-2, atol=1e-2
    )
    np.testing.assert_allclose(FUNCTIONS.array(far, boxes), FUNCTIONS.array(frames, boxes), rtol=COARSE, atol=COARSE)


def test_centres_of_one_element_go_by_their_names():
    atoms = ions_in_water(2, ions=("LI", "CL", "CL"))
    functions = SymmetryFunctions([SymmetryFunctionsConfig(centers=[2, 0, 1], r_s=[0.25])], atoms)
    centers = list(dict.fromkeys(name.split(",")[0] for name in functions.names if name.startswith("G2")))
    assert centers == ["G2(Li", "G2(CL2-CL", "G2(CL3-CL"]
    assert functions.definitions[0] == "G2(0, O of atoms 3-8, r_c=1, r_s=0.25)"


def test_neighbours_that_differ_between_tables_are_told_apart():
    mixture = replace(ATOMS, residue_names=(*ATOMS.residue_names[:-3], "MOH", "MOH", "MOH"))
    tables = [SymmetryFunctionsConfig(centers=[0], neighbors=text, r_s=[0.25]) for text in ("water", "resname MOH")]
    names = SymmetryFunctions(tables, mixture).names
    assert [name for name in names if name.startswith("G2")] == [
        f"G2(Li, {label}, r_s=0.25)" for label in ("HOH-O", "HOH-H", "MOH-O", "MOH-H")
    ]
    tables[1] = SymmetryFunctionsConfig(centers=[0], neighbors=[5, 6, 7], r_s=[0.25])
    with pytest.raises(ConfigError, match=r"two columns would both be called 'G2\(Li, HOH-O, r_s=0.25\)'"):
        SymmetryFunctions(tables, mixture)


def test_a_centre_is_no_neighbour_of_itself():
    table = SymmetryFunctionsConfig(centers=[2], neighbors="element O", r_s=[0.25])
    others = SymmetryFunctionsConfig(centers=[2], neighbors=[*range(5, 182, 3)], r_s=[0.25])
    frames = scattered(11)
    np.testing.assert_array_equal(
        SymmetryFunctions([table], ATOMS).array(frames, None), SymmetryFunctions([others], ATOMS).array(frames, None)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"centers": "element Na"}, "symmetry_functions.0.centers: selection 'element Na': selects no atom"),
        ({"centers": "Li"}, "symmetry_functions.0.centers: selection 'Li'"),
        ({"neighbors": "protein"}, "symmetry_functions.0.neighbors: selection 'protein': selects no atom"),
        ({"centers": []}, "centers: expected atoms, got an empty list"),
        ({"centers": [182]}, "there is no atom 182: the system has 182 atoms, counted from 0"),
        ({"centers": [-1]}, "there is no atom -1"),
        ({"centers": [0, 0]}, "atom 0 occurs 2 times"),
        ({"r_s": [0.25, 1.0]}, "r_s: expected distances below r_cutoff, 1 nm, got 1 nm"),
        ({"r_s": [0.25, 0.25]}, "two columns would both be called 'G2(Li, O, r_s=0.25)'"),
    ],
)
def test_messages(settings, message):
    with pytest.raises(ConfigError) as caught:
        SymmetryFunctions([SymmetryFunctionsConfig(**{"centers": "element Li", **settings})], ATOMS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "descriptors.symmetry_functions.0.centers: missing"),
        ({"centers": 3}, "descriptors.symmetry_functions.0.centers: input should be a valid string"),
        ({"centers": [0.5]}, "descriptors.symmetry_functions.0.centers"),
        ({"centers": "all", "center": 1}, "center: unknown key; did you mean 'centers'?"),
        ({"centers": "all", "r_s": []}, "r_s: list should have at least 1 item"),
        ({"centers": "all", "r_s": [-0.1]}, "r_s.0: input should be greater than or equal to 0"),
        ({"centers": "all", "r_cutoff": 0}, "r_cutoff: input should be greater than or equal to 0.2"),
    ],
)
def test_messages_of_the_configuration(table, message):
    data = {"system": {"kind": "alanine-dipeptide"}, "descriptors": {"symmetry_functions": [table]}}
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_data(data)
    assert message in str(caught.value)


def test_a_cut_off_too_long_for_the_box_is_refused():
    positions = np.zeros((len(ATOMS.names), 3), np.float32)
    FUNCTIONS.check_boxes([Snapshot(positions=positions), Snapshot(positions=positions, box=BOX.astype(np.float32))])
    small = Snapshot(positions=positions, box=(0.9 * BOX).astype(np.float32))
    with pytest.raises(ConfigError, match=r"half the shortest width of the box, 0\.9225 nm, got 1 nm"):
        FUNCTIONS.check_boxes([small])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"expected positions of shape \(n_frames, 182, 3\) nm, got \(182, 3\)"):
        FUNCTIONS.array(np.zeros((182, 3)), None)
    with pytest.raises(ValueError, match="reduced box vectors"):
        FUNCTIONS.array(np.zeros((1, 182, 3)), BOX[None].transpose(0, 2, 1))


def of_run(**descriptors):
    return RunConfig.from_data(
        {
            "system": {"kind": "lithium-chloride"},
            "collective_variables": {"r": "distance(0, 1)"},
            "states": {"A": "r < 0.3", "B": "r > 0.5"},
            "descriptors": descriptors,
        }
    )


def test_they_are_the_last_descriptors_of_a_run():
    config = of_run(columns=["r"], symmetry_functions=[{"centers": "symbol Li Cl"}])
    descriptors = Observables(config, ATOMS).descriptors
    assert len(descriptors.names) == 221
    assert descriptors.names[0] == "r"
    assert descriptors.names[1:] == descriptors.groups[1:] == FUNCTIONS.names
    assert descriptors.definitions[1:] == FUNCTIONS.definitions
    assert set(descriptors.forms) == {""}
    assert descriptors.units == ("nm", *[""] * 220)
    frames = scattered(13)
    features = descriptors.array(frames, None)
    np.testing.assert_array_equal(features[:, 1:], FUNCTIONS.array(frames, None))
    np.testing.assert_allclose(features[:, 0], np.linalg.norm(frames[:, 0] - frames[:, 1], axis=1), rtol=1e-6)


@pytest.mark.parametrize("functions", [True, False])
def test_torch_is_loaded_only_for_symmetry_functions(functions):
    code = """
import sys, numpy as np
from separatrix import shooting
from separatrix.config import RunConfig
from separatrix.observables import Observables
from separatrix.records import Atoms
kinds = dict(names=("a", "b"), atom_names=("a", "b"), elements=("Li", "O"), bonds=(), residues=(0, 1))
atoms = Atoms(**kinds, residue_names=("LI", "HOH"), residue_numbers=(1, 2), chains=(0, 0))
tables = [{"centers": [0], "neighbors": [1]}] if FUNCTIONS else []
config = RunConfig.from_data({"system": {"kind": "lithium-chloride"}, "collective_variables": {"r": "distance(0, 1)"},
    "states": {"A": "r < 1", "B": "r > 2"}, "descriptors": {"columns": ["r"], "symmetry_functions": tables}})
Observables(config, atoms).features(np.zeros((1, 2, 3)), None)
sys.exit(10 + ("torch" in sys.modules))
"""
    code = code.replace("FUNCTIONS", str(functions))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 10 + functions


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
@pytest.mark.parametrize("box", [None, BOX], ids=["droplet", "box"])
def test_a_gpu_gives_what_the_processor_gives(box):
    frames = scattered(15, n_frames=40)
    boxes = None if box is None else np.repeat(box[None], 40, axis=0)
    on_gpu = SymmetryFunctions([SymmetryFunctionsConfig(centers="symbol Li Cl")], ATOMS, "cuda")
    np.testing.assert_allclose(on_gpu.array(frames, boxes), FUNCTIONS.array(frames, boxes), rtol=COARSE, atol=COARSE)
