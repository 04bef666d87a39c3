"""Trajectories in files, in any format that MDTraj reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from separatrix.errors import SeedingError
from separatrix.records import Float32Array


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
    box : (n_frames, 3, 3) float32, nm, or None when the file has none

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
    box = trajectory.unitcell_vectors
    return trajectory.xyz, None if box is None else np.asarray(box, dtype=np.float32)


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
