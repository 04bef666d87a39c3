"""Topologies as a run stores them: in the PDB format, which knows fewer names and bonds than OpenMM does."""

from __future__ import annotations

import io
import warnings
from collections import Counter

import numpy as np
from openmm import app, unit

from separatrix.errors import SystemBuildError
from separatrix.records import Float32Array


def pdb_text(topology: app.Topology, positions: Float32Array) -> str:
    """Return a topology as PDB text from which all its atoms and bonds are read again.

    OpenMM leaves out the bonds of standard residues, and knows them again by the names of atoms; what it would not know
    is written too.

    Parameters
    ----------
    positions : (n_atoms, 3) nm

    Raises
    ------
    SystemBuildError
        If atoms would be lost, as when two in a residue have the same name.
    """
    _check_names(topology)
    text = _written(topology, positions, keep_ids=True)
    stored = _read(text)
    if _sizes(stored) != _sizes(topology):  # neighbours of one name and number, which the format cannot tell apart
        text = _written(topology, positions, keep_ids=False)
        stored = _read(text)
    if _sizes(stored) != _sizes(topology):
        expected, found = (
            f"{one.getNumResidues()} residues of {one.getNumAtoms()} atoms" for one in (topology, stored)
        )
        raise SystemBuildError(
            f"system.topology: expected {expected} once they are stored in the PDB format, found {found}; renumber"
        )
    missing = _bonds(topology) - _bonds(stored)
    if not missing:
        return text
    lines = text.splitlines()
    serials = [line[6:11] for line in lines if line.startswith(("ATOM", "HETATM"))]
    conect = [f"CONECT{serials[first]}{serials[second]}" for first, second in sorted(missing)]
    return "\n".join([*lines[:-1], *conect, lines[-1], ""])


def as_stored(topology: app.Topology) -> app.Topology:
    """Return a topology with the names and numbers that it has when it is read again from a run."""
    # A nanometre apart, or OpenMM would see disulfide bonds where two sulfurs lie; PDB has room for 900 on each axis.
    grid = np.unravel_index(np.arange(topology.getNumAtoms()), (900, 900, 900))
    positions = np.stack(grid, axis=1).astype(np.float32)
    stored = _read(pdb_text(topology, positions))
    stored.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    return stored


def _written(topology: app.Topology, positions: Float32Array, *, keep_ids: bool) -> str:
    stream = io.StringIO()
    app.PDBFile.writeFile(topology, positions.astype(float) * unit.nanometer, stream, keepIds=keep_ids)
    return stream.getvalue()


def _read(text: str) -> app.Topology:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of atoms that are one; they are counted
        return app.PDBFile(io.StringIO(text)).topology


def _sizes(topology: app.Topology) -> list[int]:
    """Return the number of atoms of each residue."""
    return [len(list(residue.atoms())) for residue in topology.residues()]


def _bonds(topology: app.Topology) -> set[tuple[int, int]]:
    pairs = ((bond.atom1.index, bond.atom2.index) for bond in topology.bonds())
    return {(min(pair), max(pair)) for pair in pairs}


def _check_names(topology: app.Topology) -> None:
    for residue in topology.residues():
        counts = Counter(atom.name[:4] for atom in residue.atoms())
        name, count = counts.most_common(1)[0] if counts else ("", 0)
        if count > 1:
            raise SystemBuildError(
                f"system.topology: {count} atoms of residue {residue.name}{residue.id} are called {name} (four letters "
                "count); rename them"
            )
