"""What a system is, and what an entry of the catalogue provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import openmm
from openmm import app

from separatrix.config import DynamicSystem
from separatrix.errors import SystemBuildError
from separatrix.records import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Equilibration:
    """How the water of a system is brought to equilibrium around each of its starts.

    Attributes
    ----------
    picoseconds : for each start
    hold : definitions of the collective variables that are held meanwhile at their values in the start
    tolerance : how near to these values it ends, nm or degrees, for each of them
    strength : of the harmonic restraints, kT per nm^2 or rad^2, for each of them
    """

    picoseconds: float
    hold: tuple[str, ...]
    tolerance: tuple[float, ...]
    strength: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Something to simulate.

    Attributes
    ----------
    name : the kind it was built from
    description : one line for people
    openmm_system : masses, forces and constraints; the integrator is not part of it
    topology : atoms, residues and bonds; pseudo-atoms for a landscape
    starts : for each state a configuration inside it
    landscape : potential energy of particle 0 in x, y, z (nm), kJ/mol; None for a molecule
    equilibration : what the starts need before they are used; they are not used as they are then. None for nothing
    """

    name: str
    description: str
    openmm_system: openmm.System
    topology: app.Topology
    starts: Mapping[str, Snapshot]
    landscape: str | None = None
    equilibration: Equilibration | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        n_particles, n_atoms = self.openmm_system.getNumParticles(), self.topology.getNumAtoms()
        if n_particles != n_atoms:
            raise SystemBuildError(f"{self.name}: {n_particles} particles, but {n_atoms} atoms in the topology")
        for state, snapshot in self.starts.items():
            if len(snapshot.positions) != n_atoms:
                raise SystemBuildError(
                    f"{self.name}: expected {n_atoms} positions in the start of state {state!r}, "
                    f"got {len(snapshot.positions)}"
                )

    @property
    def periodic(self) -> bool:
        """Whether it has periodic boundaries."""
        return bool(self.openmm_system.usesPeriodicBoundaryConditions())


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemEntry:
    """A kind of system: one file, one line in the registry.

    Attributes
    ----------
    name : what ``system.kind`` says
    title : heading
    description : a sentence or two for people
    defaults : takes the user's ``[system]`` table (plain data), returns the whole configuration data of the entry
    build : makes the system from its resolved configuration; raises SystemBuildError
    solvents : solvent models on offer, the default first; none when there is no choice
    boxed : those of them that are molecules in a periodic box, with a pressure and to be equilibrated
    sketch : makes what pictures show of the system, at once: less of its solvent; None when that is `build`
    """

    name: str
    title: str
    description: str
    defaults: Callable[[Mapping[str, Any]], dict[str, Any]]
    build: Callable[[DynamicSystem], System]
    solvents: tuple[str, ...] = ()
    boxed: tuple[str, ...] = ()
    sketch: Callable[[DynamicSystem], System] | None = None
