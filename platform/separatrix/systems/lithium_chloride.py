"""Lithium chloride in 370 TIP3P waters: an ion pair that parts and comes together.

The ions have the parameters of Joung & Cheatham, J. Phys. Chem. B 112, 9020 (2008), for TIP3P, as OpenMM holds them in
``amber14/tip3p.xml`` (from Amber's ``frcmod.ionsjc_tip3p``). Box and states are those of Jung, Covino & Hummer,
arXiv:1901.04595.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from separatrix.config import CatalogueSystem, DynamicSystem
from separatrix.errors import SystemBuildError
from separatrix.records import Snapshot
from separatrix.systems.base import Equilibration, System, SystemEntry
from separatrix.systems.water import Solute, solvated

_FORCE_FIELD = ("amber14/tip3p.xml",)
_N_WATERS = 370
_EDGE = 2.235
"""nm; with all molecules 0.998 g/cm^3."""
_DISTANCES = {"bound": 0.215, "unbound": 0.6}
"""Of the ions where the states begin, nm."""
_N_DRAWN = 12
_DISTANCE = "distance(0, 1)"
_EQUILIBRATION = Equilibration(picoseconds=8.0, hold=(_DISTANCE,), tolerance=(0.01,), strength=(10_000.0,))


def _defaults() -> dict[str, Any]:
    return {
        "system": {
            "kind": LITHIUM_CHLORIDE.name,
            "solvent": "tip3p",
            "temperature": 300.0,
            "integrator": "langevin",
            "friction": 1.0,
            "timestep": 2.0,
        },
        "collective_variables": {"r": _DISTANCE},
        "states": {"bound": "0.01 < r < 0.23", "unbound": "0.48 < r < 1.0"},
        "descriptors": {"columns": ["r"], "symmetry_functions": [{"centers": "not water"}]},
        "sampling": {"stride": 10, "max_frames": 10_000, "chains": 4},
    }


def _build(config: DynamicSystem) -> System:
    if not isinstance(config, CatalogueSystem):
        raise SystemBuildError(f"{LITHIUM_CHLORIDE.name}: expected a system of the catalogue, got kind {config.kind!r}")
    return solvated(
        config,
        name=LITHIUM_CHLORIDE.name,
        description=f"LiCl in {_N_WATERS} TIP3P waters, ions of Joung and Cheatham",
        solute=Solute(
            topology=_ions(),
            positions={state: _apart(distance) for state, distance in _DISTANCES.items()},
            force_field=_FORCE_FIELD,
        ),
        n_waters=_N_WATERS,
        edge=_EDGE,
        equilibration=_EQUILIBRATION,
    )


def _ions() -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain()
    for name in ("LI", "CL"):
        topology.addAtom(name, app.Element.getBySymbol(name.capitalize()), topology.addResidue(name, chain))
    return topology


def _apart(distance: float) -> NDArray[np.float64]:
    return np.array([[-0.5 * distance, 0.0, 0.0], [0.5 * distance, 0.0, 0.0]])


def _sketch() -> System:
    """Return the ions and the waters nearest to them."""
    field = app.ForceField(*_FORCE_FIELD)
    modeller = app.Modeller(_ions(), [openmm.Vec3(*atom) for atom in _apart(_DISTANCES["bound"])] * unit.nanometer)
    modeller.addSolvent(field, model="tip3p", numAdded=_N_DRAWN, neutralize=False)
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer), dtype=np.float32)
    return System(
        name=LITHIUM_CHLORIDE.name,
        description="Lithium and chloride, and water around them",
        openmm_system=field.createSystem(modeller.topology),
        topology=modeller.topology,
        starts={"bound": Snapshot(positions=positions)},
    )


LITHIUM_CHLORIDE = SystemEntry(
    name="lithium-chloride",
    title="Lithium chloride in water",
    description=(
        "An ion pair that parts and comes together in 370 TIP3P waters: water decides when. Ions of Joung and "
        "Cheatham (2008), 300 K."
    ),
    defaults=lambda system: _defaults(),
    build=_build,
    solvents=("tip3p",),
    boxed=("tip3p",),
    sketch=lambda config: _sketch(),
)
