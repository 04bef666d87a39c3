"""Alanine dipeptide, ACE-ALA-NME, 22 atoms, Amber99SB-ILDN, in vacuum or in an implicit solvent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from separatrix.config import CatalogueSystem, DynamicSystem
from separatrix.errors import SystemBuildError
from separatrix.records import Snapshot
from separatrix.systems.base import System, SystemEntry
from separatrix.systems.implicit import use_native_obc2

_DATA = Path(__file__).parent / "data"
_NM_PER_ANGSTROM = 0.1

_STATES = {
    "vacuum": {
        "C7eq": "between(phi, -130, -40) and between(psi, 20, 130)",
        "C7ax": "between(phi, 40, 100) and between(psi, -120, -10)",
    },
    "obc2": {
        "C7eq": "between(phi, -180, 0) and between(psi, 120, 200)",
        "alpha_R": "between(phi, -180, 0) and between(psi, -50, 30)",
    },
}
_FORCE_FIELDS = {
    "vacuum": ("amber99sbildn.xml",),
    "obc2": ("amber99sbildn.xml", "implicit/obc2.xml"),
}
# Longest halves: 100 ps in vacuum; in solvent 200 ps, for paths of 400 ps.
_MAX_FRAMES = {"vacuum": 5000, "obc2": 10_000}
_SOLVENTS = tuple(_STATES)


def read_starts(solvent: str) -> dict[str, Snapshot]:
    """Return for each state a minimum of the potential energy inside it, bonds to hydrogen at their constraints."""
    starts = {}
    lines = (_DATA / "alanine-dipeptide-starts.xyz").read_text(encoding="utf-8").splitlines()
    while lines:
        n_atoms = int(lines[0])
        label, rows, lines = lines[1], lines[2 : 2 + n_atoms], lines[2 + n_atoms :]
        owner, state = label.partition(":")[0].split()
        if owner == solvent:
            angstrom = np.array([row.split()[1:] for row in rows], dtype=np.float64)
            starts[state] = Snapshot(positions=(angstrom * _NM_PER_ANGSTROM).astype(np.float32))
    return starts


def _defaults(system: Mapping[str, Any]) -> dict[str, Any]:
    solvent = system.get("solvent", _SOLVENTS[0])
    return {
        "system": {
            "kind": ALANINE_DIPEPTIDE.name,
            "solvent": solvent,
            "temperature": 300.0,
            "integrator": "langevin",
            "friction": 1.0,
            "timestep": 2.0,
        },
        "collective_variables": {"phi": "dihedral(4, 6, 8, 14)", "psi": "dihedral(6, 8, 14, 16)"},
        "states": dict(_STATES[solvent]),
        "descriptors": {"internal_coordinates": "rotatable"},
        "sampling": {"stride": 10, "max_frames": _MAX_FRAMES[solvent], "chains": 4},
    }


def _build(config: DynamicSystem) -> System:
    if not isinstance(config, CatalogueSystem):
        raise SystemBuildError(
            f"{ALANINE_DIPEPTIDE.name}: expected a system of the catalogue, got kind {config.kind!r}"
        )
    solvent = config.solvent or _SOLVENTS[0]
    topology = app.PDBFile(str(_DATA / "alanine-dipeptide.pdb")).topology
    # Without removal of centre-of-mass motion: it would take three degrees of freedom from the drawn velocities.
    system = app.ForceField(*_FORCE_FIELDS[solvent]).createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, removeCMMotion=False
    )
    if solvent == "obc2":
        use_native_obc2(system)
    return System(
        name=ALANINE_DIPEPTIDE.name,
        description=f"Alanine dipeptide, Amber99SB-ILDN, {solvent}",
        openmm_system=system,
        topology=topology,
        starts=read_starts(solvent),
    )


ALANINE_DIPEPTIDE = SystemEntry(
    name="alanine-dipeptide",
    title="Alanine dipeptide",
    description=(
        "The smallest peptide with two conformations: C7eq and C7ax in vacuum, C7eq and alpha_R in implicit water "
        "(obc2). Amber99SB-ILDN, 300 K."
    ),
    defaults=_defaults,
    build=_build,
    solvents=_SOLVENTS,
)
