"""The molecule viewer without a browser: what is drawn of a system, superposition, what is sent, the bundle."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openmm import app
from scipy.spatial.transform import Rotation

import separatrix
import separatrix_dashboards.viewer
from separatrix.systems import build_system, resolve
from separatrix_dashboards.viewer import MoleculeViewer
from separatrix_dashboards.viewer.component import MOST_BYTES
from separatrix_dashboards.viewer.picture import ViewerError, read_picture
from separatrix_dashboards.viewer.superposition import lying_flat, superposed

ALANINE = (Path(separatrix.__file__).parent / "systems" / "data" / "alanine-dipeptide.pdb").read_text(encoding="utf-8")
VIEWER = Path(separatrix_dashboards.viewer.__file__).parent


def atom_line(index: int, name: str, residue: str, number: int, element: str) -> str:
    start = f"ATOM  {index:5d} {name:<4s} {residue:>3s} A{number:4d}"
    return f"{start}       0.000   0.000   0.000  1.00  0.00          {element:>2s}"


def topology(*residues: tuple[str, list[str]]) -> str:
    """Return a PDB text of residues, each a name and atoms written name:element."""
    atoms = [
        (name, residue, number, element)
        for number, (residue, names) in enumerate(residues, start=1)
        for name, _, element in (atom.partition(":") for atom in names)
    ]
    return "\n".join(atom_line(i, *atom) for i, atom in enumerate(atoms, start=1))


WATER = ("HOH", ["O:O", "H1:H", "H2:H", "M:EP"])
SODIUM, CHLORIDE = ("NA", ["NA:Na"]), ("CL", ["CL:Cl"])
ALA = ("ALA", ["N:N", "CA:C", "C:C", "O:O", "CB:C"])
LIGAND = ("LIG", ["C1:C", "C2:C", "O1:O"])


def frames(n_frames: int, n_atoms: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_frames, n_atoms, 3)).astype(np.float32)


def tumbled(positions: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the frames turned and shifted, each on its own."""
    turns = Rotation.random(len(positions), random_state=seed).as_matrix()
    shifts = np.random.default_rng(seed).normal(scale=5.0, size=(len(positions), 1, 3))
    return (np.einsum("fij,faj->fai", turns, positions.astype(float)) + shifts).astype(np.float32)


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)


def sent(viewer: MoleculeViewer) -> np.ndarray:
    """Return what the browser gets, (n_frames, n_atoms, 3) nm."""
    return np.frombuffer(viewer.coordinates, dtype="<f4").reshape(-1, len(viewer.kinds), 3) / 10


# --- superposition


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(3, 12))
def test_superposition_is_that_of_mdtraj(seed: int, n_frames: int, n_fitted: int) -> None:
    positions = tumbled(frames(1, 12, seed) + 0.1 * frames(n_frames, 12, seed + 1), seed)
    atoms = np.random.default_rng(seed).choice(12, n_fitted, replace=False)
    trajectory = mdtraj.Trajectory(positions.copy(), None)
    expected = trajectory.superpose(trajectory, 0, atom_indices=atoms).xyz
    result = superposed(positions, atoms)
    if n_fitted > 5:  # few atoms may lie nearly on a line, and the turn about it is anybody's in single precision
        assert np.allclose(result, expected, atol=5e-3)

    def misfit(fitted: np.ndarray) -> np.ndarray:
        return np.square(fitted[:, atoms].astype(float) - positions[0, atoms]).sum(axis=(1, 2))

    assert np.all(misfit(result) <= misfit(expected) + 1e-4)


@given(st.integers(0, 2**32 - 1))
def test_superposition_takes_out_tumbling_and_nothing_else(seed: int) -> None:
    positions = frames(5, 8, seed)
    moved = tumbled(positions, seed)
    result = superposed(moved, np.arange(8), positions[0])
    assert np.allclose(result, superposed(positions, np.arange(8)), atol=1e-4)
    assert np.allclose(distances(result), distances(positions), atol=1e-4)


def test_superposition_makes_no_mirror_images() -> None:
    # A mirror image fits perfectly with a reflection; a rotation cannot do as well.
    positions = frames(1, 6)
    mirrored = positions * np.array([1, 1, -1], dtype=np.float32)
    result = superposed(mirrored, np.arange(6), positions[0])
    assert np.abs(result - positions).max() > 0.1
    handedness = [np.linalg.det(frame[1:4] - frame[0]) for frame in (mirrored[0], result[0])]
    assert handedness[0] == pytest.approx(handedness[1], rel=1e-3)


@pytest.mark.parametrize("n_atoms", [1, 2])
def test_superposition_of_few_atoms_brings_them_together(n_atoms: int) -> None:
    positions = tumbled(np.repeat(frames(1, n_atoms), 4, axis=0))
    result = superposed(positions, np.arange(n_atoms))
    assert np.allclose(result, result[0], atol=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_a_molecule_lies_flat_and_unmirrored(seed: int) -> None:
    points = frames(1, 9, seed)[0]
    flat = lying_flat(points)
    spread = flat.std(axis=0)
    assert np.allclose(flat.mean(axis=0), 0, atol=1e-6)
    assert spread[0] >= spread[1] >= spread[2]
    assert np.linalg.det(flat[1:4] - flat[0]) == pytest.approx(np.linalg.det(points[1:4] - points[0]), rel=1e-3)


# --- what is drawn


def test_a_small_molecule_is_sticks_superposed_on_its_heavy_atoms() -> None:
    picture = read_picture(ALANINE)
    assert picture.kinds == "s" * 22
    assert len(picture.heavy) == 10
    assert "CONECT" in picture.topology
    assert not picture.solvent_topology


def test_water_and_salt_are_solvent_and_virtual_sites_nothing() -> None:
    picture = read_picture(topology(WATER, LIGAND, SODIUM, CHLORIDE, WATER))
    assert picture.n_atoms == 13
    assert picture.solute.tolist() == [4, 5, 6]
    assert picture.solvent.tolist() == [0, 1, 2, 7, 8, 9, 10, 11]
    assert len(picture.solvent_topology.splitlines()) == 8


@pytest.mark.parametrize(
    ("residues", "kinds"),
    [
        ([SODIUM, CHLORIDE, WATER], "aa"),  # ions are what is studied
        ([WATER, WATER], "ssssss"),
        ([("ZN", ["ZN:Zn"]), LIGAND], "asss"),  # metals belong to the molecule
        ([("AR", ["AR:Ar"])] * 3, "aaa"),
        ([ALA] * 9, "s" * 45),
        ([("ACE", ["CH3:C", "C:C", "O:O"]), *[ALA] * 10, LIGAND], "c" * 53 + "sss"),
    ],
)
def test_what_is_there_tells_how_it_is_drawn(residues: list[tuple[str, list[str]]], kinds: str) -> None:
    assert read_picture(topology(*residues)).kinds == kinds


def test_particles_of_landscapes_are_balls_that_are_never_superposed() -> None:
    system = build_system(resolve({"system": {"kind": "mueller-brown"}}))
    text = io.StringIO()
    app.PDBFile.writeFile(system.topology, next(iter(system.starts.values())).positions * 10, text)
    picture = read_picture(text.getvalue())
    assert picture.kinds == "p"
    assert len(picture.heavy) == 0


def test_of_several_models_the_first_counts() -> None:
    assert read_picture(f"MODEL 1\n{topology(LIGAND)}\nENDMDL\n{topology(LIGAND)}").n_atoms == 3


def test_a_file_name_is_refused() -> None:
    with pytest.raises(ViewerError, match="pass the text, not a file name"):
        read_picture("alanine-dipeptide.pdb")


# --- what is sent


def test_a_path_is_sent_superposed_in_angstroms() -> None:
    positions = np.cumsum(frames(7, 22), axis=0) * 0.01 + frames(1, 22)
    viewer = MoleculeViewer()
    viewer.show(tumbled(positions), ALANINE, 0.02, title="shot 3")
    shown = sent(viewer)
    assert shown.shape == (7, 22, 3)
    assert np.allclose(distances(shown), distances(positions), atol=1e-4)
    heavy = read_picture(ALANINE).heavy
    assert np.allclose(shown, superposed(shown, heavy), atol=1e-4)
    assert (viewer.n_frames, viewer.frame, viewer.playing, viewer.title) == (7, 0, True, "shot 3")


def test_the_next_path_of_a_molecule_keeps_its_attitude() -> None:
    positions = frames(3, 22)
    viewer = MoleculeViewer()
    viewer.show(positions, ALANINE, 0.02)
    before = sent(viewer)
    viewer.show(tumbled(positions), ALANINE, 0.02)
    assert np.allclose(sent(viewer), before, atol=1e-4)
    viewer.show(positions, ALANINE, 0.02, superpose=False)
    assert np.allclose(sent(viewer), positions, atol=1e-5)


def test_a_landscape_is_sent_as_it_is() -> None:
    positions = frames(4, 1)
    viewer = MoleculeViewer()
    viewer.show(positions, topology(("PAR", ["X:EP"])), 0.01)
    assert np.allclose(sent(viewer), positions, atol=1e-6)


def test_water_is_sent_when_somebody_asks_for_it_and_turns_with_the_molecule() -> None:
    positions = tumbled(np.repeat(frames(1, 7), 3, axis=0))
    viewer = MoleculeViewer()
    viewer.show(positions, topology(LIGAND, WATER), 0.02)
    assert viewer.has_solvent
    assert viewer.solvent_coordinates == b""
    viewer.water = True
    water = np.frombuffer(viewer.solvent_coordinates, dtype="<f4").reshape(3, 3, 3) / 10
    together = np.concatenate([sent(viewer), water], axis=1)
    assert np.allclose(distances(together), distances(positions[:, :6]), atol=1e-4)
    assert np.allclose(together, together[0], atol=1e-4)
    viewer.water = False
    assert viewer.solvent_coordinates == b""


def test_long_paths_are_thinned_to_what_a_proxy_lets_pass() -> None:
    n_frames = MOST_BYTES // (12 * 22) + 100
    positions = np.repeat(frames(1, 22), n_frames, axis=0)
    positions[-1] += 3.0
    viewer = MoleculeViewer()
    viewer.show(positions, ALANINE, 0.02, superpose=False)
    assert len(viewer.coordinates) <= MOST_BYTES
    assert viewer.n_frames == n_frames
    assert np.allclose(sent(viewer)[[0, -1]], positions[[0, -1]], atol=1e-5)


def test_clear_forgets_the_path() -> None:
    viewer = MoleculeViewer()
    viewer.show(frames(3, 22), ALANINE, 0.02, title="shot 3")
    viewer.clear()
    assert (viewer.n_frames, viewer.coordinates, viewer.topology, viewer.title) == (0, b"", "", "")
    assert not viewer.playing


def test_a_jump_is_told_even_to_the_frame_python_heard_of_last() -> None:
    viewer = MoleculeViewer()
    viewer.show(frames(5, 22), ALANINE, 0.02)
    jumps = []
    viewer.param.watch(lambda event: jumps.append(viewer.frame), "jumps")
    viewer.jump(3)
    viewer.jump(3)
    assert jumps == [3, 3]


def test_wrong_paths_are_refused_and_the_one_shown_stays() -> None:
    viewer = MoleculeViewer()
    with pytest.raises(ViewerError, match="a path to be shown first"):
        viewer.jump(0)
    viewer.show(frames(3, 22), ALANINE, 0.02)
    before = viewer.coordinates
    wrong = frames(3, 22)
    wrong[1, 4, 0] = np.nan
    for positions, frame_time, message in (
        (frames(3, 21), 0.02, r"expected positions of shape \(n_frames, 22, 3\) nm.*got \(3, 21, 3\)"),
        (frames(3, 22)[0], 0.02, r"got \(22, 3\)"),
        (frames(3, 22)[:0], 0.02, r"got \(0, 22, 3\)"),
        (wrong, 0.02, "found some that are not in frame 1"),
        (frames(3, 22), 0.0, "expected a positive time between frames"),
    ):
        with pytest.raises(ViewerError, match=message):
            viewer.show(positions, ALANINE, frame_time)
    with pytest.raises(ViewerError, match="expected a frame from 0 to 2, got frame 3"):
        viewer.jump(3)
    assert viewer.coordinates == before


# --- the bundle


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("viewer_build", VIEWER / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bundle_belongs_to_its_sources_and_carries_its_licences(build) -> None:
    assert build.is_current(), "install again, or run dashboards/separatrix_dashboards/viewer/hatch_build.py"
    licences = build.LICENSES.read_text(encoding="utf-8")
    packages = json.loads((VIEWER / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    bundled = [
        name.removeprefix("node_modules/") for name, package in packages.items() if name and not package.get("dev")
    ]
    assert "3dmol" in bundled
    assert not [name for name in bundled if f"\n{name} " not in licences]
    assert "University of Pittsburgh" in licences


def test_a_missing_bundle_is_told_in_one_line(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(MoleculeViewer, "_bundle", tmp_path / "molecule_viewer.js")
    with pytest.raises(ViewerError, match=r"none; it is made at installation: run pip install -e \."):
        MoleculeViewer()


def test_a_change_of_any_source_makes_a_new_bundle(build, monkeypatch) -> None:
    before = build.stamp()
    monkeypatch.setattr(build, "sources", lambda: [VIEWER / "package.json"])
    assert build.stamp() != before
    assert not build.is_current()


def test_node_comes_from_pypi_only_where_it_is_missing(build, monkeypatch, tmp_path: Path) -> None:
    hook = build.ViewerBuildHook(str(tmp_path), {}, None, None, "", "wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.system_node() is None
    assert hook.dependencies() == []  # the bundle is there
    monkeypatch.setattr(build, "BUNDLE", tmp_path / "none.js")
    assert hook.dependencies() == [build.NODE_WHEEL]


def test_without_node_the_build_says_what_to_do(build, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "BUNDLE", tmp_path / "none.js")
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(build.BundleError, match="expected node 18 or later with npm on the path, found none; install"):
        build.build()


def test_a_failing_npm_is_told_in_its_own_words(build, monkeypatch, tmp_path: Path) -> None:
    npm, node = tmp_path / "npm", tmp_path / "node"
    npm.write_text("#!/bin/sh\necho 'npm error network request to the registry failed' >&2\nexit 1\n", encoding="utf-8")
    node.write_text("#!/bin/sh\necho v22.0.0\n", encoding="utf-8")
    npm.chmod(0o755)
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "BUNDLE", tmp_path / "none.js")
    with pytest.raises(
        build.BundleError, match=r"npm ci failed \(npm error network request .*; it needs the npm registry"
    ):
        build.build()


def test_the_lock_file_names_no_registry_and_every_digest() -> None:
    packages = json.loads((VIEWER / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    locked = [package for name, package in packages.items() if name]
    assert locked
    assert not [package for package in locked if "resolved" in package or "integrity" not in package]
