"""Trajectories in files, in any format that MDTraj reads."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import mdtraj
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from separatrix.errors import ExportError, SeedingError
from separatrix.records import Atoms, Float32Array, FloatArray, IntArray


def read_trajectory(file: Path, topology: Any, *, where: str) -> tuple[Float32Array, Float32Array | None]:
    """Read positions and boxes from a file; MDTraj converts the units of its format.

    Parameters
    ----------
    file : trajectory, recognised by its ending
    topology : the system's own, as OpenMM holds it; the atoms in the file must be the same ones in the same order
    where : what to call the file's setting in error messages

    Returns
    -------
    positions : (n_frames, n_atoms, 3) float32, nm
    box : (n_frames, 3, 3) float32, nm, in reduced form, or None when a frame has none

    Raises
    ------
    SeedingError
        If the file is missing, cannot be read, has other atoms or coordinates that are not finite.
    """
    if not file.is_file():
        raise SeedingError(f"{where}: expected a trajectory at {file}, found no file there")
    try:
        trajectory = mdtraj.load(str(file), top=mdtraj.Topology.from_openmm(topology))
    except Exception as error:  # MDTraj's readers raise whatever their parsing runs into
        raise SeedingError(f"{where}: {file}: {_reason(error, topology.getNumAtoms())}") from error
    if trajectory.n_atoms != topology.getNumAtoms():  # formats with a topology of their own
        raise SeedingError(f"{where}: {file}: {_other_atoms(topology.getNumAtoms(), str(trajectory.n_atoms))}")
    if not np.isfinite(trajectory.xyz).all():
        frame = int(np.flatnonzero(~np.isfinite(trajectory.xyz).all(axis=(1, 2)))[0])
        raise SeedingError(f"{where}: {file}: expected finite coordinates, found others in frame {frame}")
    box = None if trajectory.unitcell_vectors is None else reduced_boxes(trajectory.unitcell_vectors)
    if box is not None and trajectory.topology.n_bonds:  # in files molecules may be cut at the border of the box
        trajectory.make_molecules_whole(inplace=True)
    return trajectory.xyz, box


def reduced_boxes(vectors: FloatArray) -> Float32Array | None:
    """Return boxes in the reduced form that OpenMM asks for, to the last digit; None where one has no size.

    Read from lengths and angles, the vectors of a hexagonal box, say, are just beyond it.

    Parameters
    ----------
    vectors : (n_frames, 3, 3), nm
    """
    boxes = vectors.astype(np.float32).astype(np.float64)
    if not (np.abs(np.diagonal(boxes, axis1=1, axis2=2)) > 0).all():
        return None
    a, b, c = boxes[:, 0], boxes[:, 1], boxes[:, 2]
    c -= b * np.round(c[:, 1:2] / b[:, 1:2])
    c -= a * np.round(c[:, :1] / a[:, :1])
    b -= a * np.round(b[:, :1] / a[:, :1])
    return boxes.astype(np.float32)


def _reason(error: Exception, n_atoms: int) -> str:
    """Return in one line why MDTraj could not load a file."""
    shape = re.search(r"supplied\s*\(\d+, (\d+), 3\)", str(error.__cause__))
    if shape is not None or "might not contain the same atoms" in str(error):
        return _other_atoms(n_atoms, shape.group(1) if shape else "another number")
    if "no loader" in str(error):
        endings = ", ".join(sorted(mdtraj.FormatRegistry.loaders))
        return f"expected a trajectory with an ending that MDTraj knows ({endings})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip("# \033[0123456789m")]
    return f"MDTraj cannot read it: {lines[0] if lines else type(error).__name__}"


def _other_atoms(expected: int, found: str) -> str:
    return (
        f"expected as many atoms as the system has, {expected}, found {found}; "
        "write the trajectory with the same atoms in the same order"
    )


_FRAMES_AT_ONCE: Final = 256


def molecules_of(atoms: Atoms) -> IntArray:
    """Return for each atom the number of its molecule, (n_atoms,)."""
    n_atoms = len(atoms.names)
    first, second = np.array(atoms.bonds, dtype=np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n_atoms, n_atoms))
    numbers: IntArray = connected_components(graph, directed=False)[1]
    return numbers


def imaged(positions: FloatArray, box: FloatArray | None, molecules: IntArray, solute: IntArray) -> FloatArray:
    """Return positions with the solute in the middle of the box, its molecules together, the others around it.

    Whole molecules are shifted by whole box vectors, and then all by one vector, frame by frame.

    Parameters
    ----------
    positions : (n_frames, n_atoms, 3), nm; molecules are whole, as they are simulated
    box : (n_frames, 3, 3), nm, reduced box vectors; None without periodic boundaries, where nothing is changed
    molecules : (n_atoms,) number of the molecule of each atom
    solute : indices of its atoms
    """
    if box is None:
        return positions
    result = np.array(positions, dtype=np.float32)
    _, molecules = np.unique(molecules, return_inverse=True)
    counts = np.bincount(molecules)[:, None]
    order = np.argsort(molecules, kind="stable")
    starts = np.searchsorted(molecules[order], np.arange(len(counts)))
    inside = np.unique(molecules[solute])
    for begin in range(0, len(result), _FRAMES_AT_ONCE):
        frames, vectors = result[begin : begin + _FRAMES_AT_ONCE], box[begin : begin + _FRAMES_AT_ONCE].astype(float)
        centres = np.add.reduceat(frames[:, order].astype(float), starts, axis=1) / counts
        moved = centres.copy()
        moved[:, inside] = centres[:, inside[:1]] + _nearest(centres[:, inside] - centres[:, inside[:1]], vectors)
        middle = moved[:, inside].mean(axis=1, keepdims=True)
        others = np.setdiff1d(np.arange(len(counts)), inside)
        moved[:, others] = middle + _nearest(centres[:, others] - middle, vectors)
        moved += 0.5 * vectors.sum(axis=1, keepdims=True) - middle
        frames += (moved - centres)[:, molecules].astype(np.float32)
    return result


def _nearest(displacements: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return displacements (n_frames, n, 3) folded along c, b and a in turn; vectors are (n_frames, 3, 3)."""
    for axis in (2, 1, 0):
        vector = vectors[:, None, axis]
        displacements = (
            displacements - np.round(displacements[..., axis : axis + 1] / vector[..., axis : axis + 1]) * vector
        )
    return displacements


PATH_ENDINGS: Final = (".xtc", ".dcd", ".h5")
"""Formats that are written."""

_ANGSTROM: Final = 10.0
"""Per nm; DCD counts in it."""


def write_topology(file: Path, topology_pdb: Path, atoms: IntArray | None) -> None:
    """Write the topology of a run, or of some of its atoms, as PDB."""
    if atoms is None:
        file.write_bytes(topology_pdb.read_bytes())
    else:
        mdtraj.load(str(topology_pdb)).atom_slice(atoms).save_pdb(str(file))


def write_frames(
    file: Path,
    topology_pdb: Path,
    paths: Iterable[tuple[FloatArray, FloatArray | None]],
    *,
    spacing: float,
) -> list[int]:
    """Write frames of several paths one after another, one path in memory at a time; return how many each has.

    Parameters
    ----------
    file : ending in one of ``PATH_ENDINGS``
    topology_pdb : of all of them; HDF5 holds it, too
    paths : positions (n_frames, n_atoms, 3) nm, and box (n_frames, 3, 3) nm or None, of each
    spacing : time between frames, ps; time goes on from path to path

    Raises
    ------
    ExportError
        If HDF5 is asked for and PyTables is missing.
    """
    ending = file.suffix.lower()
    if ending == ".h5" and importlib.util.find_spec("tables") is None:
        raise ExportError(f'{file.name}: HDF5 needs PyTables: pip install "separatrix[hdf5]", or write .xtc or .dcd')
    lengths: list[int] = []
    with mdtraj.open(str(file), "w") as stream:
        if ending == ".h5":
            stream.topology = mdtraj.load_topology(str(topology_pdb))
        for positions, box in paths:
            n, begun = len(positions), sum(lengths)
            time = ((begun + np.arange(n)) * spacing).astype(np.float32)
            cell = _cell(box)
            if ending == ".xtc":
                stream.write(positions, time=time, step=np.arange(begun, begun + n, dtype=np.int32), box=box)
            elif ending == ".dcd":
                scaled = {name: size * _ANGSTROM if name == "cell_lengths" else size for name, size in cell.items()}
                stream.write(positions * np.float32(_ANGSTROM), **scaled)
            else:
                stream.write(positions, time=time, **cell)
            lengths.append(n)
    return lengths


def _cell(box: FloatArray | None) -> dict[str, Any]:
    """Return lengths (n_frames, 3) nm and angles (n_frames, 3) degrees of a box; nothing without one."""
    if box is None:
        return {}
    sides = mdtraj.utils.box_vectors_to_lengths_and_angles(*(box[:, side] for side in range(3)))
    lengths, angles = (np.stack(part, axis=1).astype(np.float32) for part in (sides[:3], sides[3:]))
    return {"cell_lengths": lengths, "cell_angles": angles}
