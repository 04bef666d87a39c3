"""Alanine dipeptide, ACE-ALA-NME, 22 atoms, Amber99SB-ILDN, in vacuum, in an implicit solvent or in TIP3P water."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from separatrix.config import CatalogueSystem, DynamicSystem
from separatrix.errors import SystemBuildError
from separatrix.records import Snapshot
from separatrix.systems.base import Equilibration, System, SystemEntry
from separatrix.systems.implicit import use_native_obc2
from separatrix.systems.water import Solute, solvated

_DATA = Path(__file__).parent / "data"
_NM_PER_ANGSTROM = 0.1

_IN_WATER = {
    "C7eq": "between(phi, -180, 0) and between(psi, 120, 200)",
    "alpha_R": "between(phi, -180, 0) and between(psi, -50, 30)",
}
_STATES = {
    "vacuum": {
        "C7eq": "between(phi, -130, -40) and between(psi, 20, 130)",
        "C7ax": "between(phi, 40, 100) and between(psi, -120, -10)",
    },
    "obc2": _IN_WATER,
    "tip3p": _IN_WATER,
}
_CVS = {"phi": "dihedral(4, 6, 8, 14)", "psi": "dihedral(6, 8, 14, 16)"}
_FORCE_FIELDS = {
    "vacuum": ("amber99sbildn.xml",),
    "obc2": ("amber99sbildn.xml", "implicit/obc2.xml"),
    "tip3p": ("amber99sbildn.xml", "tip3p.xml"),
}
# The reduced set: 66 columns for each of the 22 atoms.
_DESCRIPTORS: dict[str, Any] = {
    "tip3p": {"symmetry_functions": [{"centers": "not water", "r_s": [0.1, 0.25, 0.4], "r_cutoff": 0.6}]}
}
# Longest halves: 100 ps in vacuum; in solvent 200 ps, for paths of 400 ps.
_MAX_FRAMES = {"vacuum": 5000, "obc2": 10_000, "tip3p": 10_000}
_SOLVENTS = tuple(_STATES)
_N_WATERS = 543
_EDGE = 2.558
"""nm; of the cube in which this model has a pressure of 1 bar at 300 K, as 90 ps with a barostat gave."""
_EQUILIBRATION = Equilibration(
    picoseconds=6.0, hold=tuple(_CVS.values()), tolerance=(15.0, 15.0), strength=(400.0, 400.0)
)


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
        "collective_variables": dict(_CVS),
        "states": dict(_STATES[solvent]),
        "descriptors": {"internal_coordinates": "rotatable", **_DESCRIPTORS.get(solvent, {})},
        "sampling": {"stride": 10, "max_frames": _MAX_FRAMES[solvent], "chains": 4},
    }


def _build(config: DynamicSystem) -> System:
    if not isinstance(config, CatalogueSystem):
        raise SystemBuildError(
            f"{ALANINE_DIPEPTIDE.name}: expected a system of the catalogue, got kind {config.kind!r}"
        )
    solvent = config.solvent or _SOLVENTS[0]
    topology = app.PDBFile(str(_DATA / "alanine-dipeptide.pdb")).topology
    if solvent == "tip3p":
        return solvated(
            config,
            name=ALANINE_DIPEPTIDE.name,
            description=f"Alanine dipeptide in {_N_WATERS} TIP3P waters, Amber99SB-ILDN",
            solute=Solute(
                topology=topology,
                # The minima in implicit water lie in the same states.
                positions={state: start.positions for state, start in read_starts("obc2").items()},
                force_field=_FORCE_FIELDS[solvent],
            ),
            n_waters=_N_WATERS,
            edge=_EDGE,
            equilibration=_EQUILIBRATION,
        )
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


def _sketch(config: DynamicSystem) -> System:
    solvent = getattr(config, "solvent", None)
    return _build(config.model_copy(update={"solvent": "obc2"}) if solvent == "tip3p" else config)


ALANINE_DIPEPTIDE = SystemEntry(
    name="alanine-dipeptide",
    title="Alanine dipeptide",
    description=(
        "The smallest peptide with two conformations: C7eq and C7ax in vacuum, C7eq and alpha_R in water, implicit "
        "(obc2) or 543 molecules (tip3p). Amber99SB-ILDN, 300 K."
    ),
    defaults=_defaults,
    build=_build,
    solvents=_SOLVENTS,
    boxed=("tip3p",),
    sketch=_sketch,
)
