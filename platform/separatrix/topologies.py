"""Topologies as a run stores them: in the PDB format, which knows fewer names and bonds than OpenMM does."""

from __future__ import annotations

import io
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
        If two atoms of a residue have the same name, so that one of them would be lost.
    """
    _check_names(topology)
    stream = io.StringIO()
    app.PDBFile.writeFile(topology, positions.astype(float) * unit.nanometer, stream, keepIds=True)
    text = stream.getvalue()
    missing = _bonds(topology) - _bonds(app.PDBFile(io.StringIO(text)).topology)
    if not missing:
        return text
    lines = text.splitlines()
    serials = [line[6:11] for line in lines if line.startswith(("ATOM", "HETATM"))]
    conect = [f"CONECT{serials[first]}{serials[second]}" for first, second in sorted(missing)]
    return "\n".join([*lines[:-1], *conect, lines[-1], ""])


def as_stored(topology: app.Topology) -> app.Topology:
    """Return a topology with the names and numbers that it has when it is read again from a run."""
    positions = np.zeros((topology.getNumAtoms(), 3), dtype=np.float32)
    # Apart, or OpenMM would see disulfide bonds wherever two sulfurs lie.
    positions[:, 0] = np.arange(len(positions)) % 900
    stored = app.PDBFile(io.StringIO(pdb_text(topology, positions))).topology
    stored.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    return stored


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
