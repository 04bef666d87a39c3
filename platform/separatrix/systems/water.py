"""Explicit water: a solute in a periodic cube of TIP3P, placed by OpenMM's Modeller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from separatrix.config import CatalogueSystem
from separatrix.records import Snapshot
from separatrix.systems.base import Equilibration, System

CUTOFF = 1.0
"""nm; electrostatics beyond it by particle-mesh Ewald, dispersion by its mean."""

_BAROSTAT_INTERVAL = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Solute:
    """What is put into water.

    Attributes
    ----------
    topology : its atoms
    positions : for each state (n, 3) nm
    force_field : files of OpenMM that know it and the water
    """

    topology: app.Topology
    positions: Mapping[str, NDArray[np.floating]]
    force_field: tuple[str, ...]


def solvated(
    settings: CatalogueSystem,
    *,
    name: str,
    description: str,
    solute: Solute,
    n_waters: int,
    edge: float,
    equilibration: Equilibration,
) -> System:
    """Return a solute in a cube of rigid TIP3P water, with bonds to hydrogen constrained.

    The water is placed around the solute in its first state and is yet to be equilibrated. In the other starts the
    solute alone differs: `separatrix.equilibration` draws it there through the water.

    Parameters
    ----------
    settings : pressure, temperature and time of equilibration
    n_waters : how many
    edge : of the cube, nm
    equilibration : of this system, where the settings do not say how long
    """
    field = app.ForceField(*solute.force_field)
    first, *_ = solute.positions.values()
    modeller = app.Modeller(solute.topology, [openmm.Vec3(*map(float, atom)) for atom in first] * unit.nanometer)
    modeller.addSolvent(field, model="tip3p", numAdded=n_waters, neutralize=False)
    positions = _fitted(modeller, len(first), edge)
    shift = positions[0] - first[0]
    box = np.eye(3) * edge
    modeller.topology.setPeriodicBoxVectors(box * unit.nanometer)
    # Without removal of centre-of-mass motion: it would take three degrees of freedom from the drawn velocities.
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=CUTOFF * unit.nanometer,
        constraints=app.HBonds,
        rigidWater=True,
        removeCMMotion=False,
    )
    if settings.pressure is not None:
        system.addForce(openmm.MonteCarloBarostat(settings.pressure, settings.temperature, _BAROSTAT_INTERVAL))
    starts = {}
    for state, part in solute.positions.items():
        atoms = positions.astype(np.float32)
        atoms[: len(part)] = part + shift
        starts[state] = Snapshot(positions=atoms, box=box.astype(np.float32))
    return System(
        name=name,
        description=description,
        openmm_system=system,
        topology=modeller.topology,
        starts=starts,
        equilibration=replace(equilibration, picoseconds=settings.equilibration or equilibration.picoseconds),
    )


def _fitted(modeller: app.Modeller, n_solute: int, edge: float) -> NDArray[np.float64]:
    """Return positions (n_atoms, 3) nm in a cube of another edge, the solute in its middle, each molecule as it is.

    Modeller picks the given number of waters out of a larger cube, at a lower density.
    """
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    solute = positions[:n_solute]
    middle = 0.5 * (solute.min(axis=0) + solute.max(axis=0))
    positions -= middle
    shrinkage = edge / modeller.topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
    waters = positions[n_solute:].reshape(-1, 3, 3)  # oxygen first
    waters += (shrinkage - 1.0) * waters[:, :1]
    return positions + 0.5 * edge
