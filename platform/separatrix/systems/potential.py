"""Landscapes: independent particles in external potentials. Serves ``kind = "potential"`` and the catalogue's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from separatrix.config import DynamicSystem, ExtraParticles, Point, PotentialSystem
from separatrix.errors import ConfigError, SystemBuildError
from separatrix.records import Snapshot
from separatrix.systems.base import System, SystemEntry


def build_landscape(settings: PotentialSystem, *, name: str, description: str) -> System:
    """Build the system of a landscape.

    Particles come in the order ``settings.particles`` first, then each of ``settings.extra``; they do not interact.

    Raises
    ------
    SystemBuildError
        If OpenMM cannot parse an expression, a start has the wrong number of points, or the energy there is not finite.
    """
    groups = [ExtraParticles(expression=settings.expression, particles=settings.particles, mass=settings.mass)]
    groups += settings.extra
    system = openmm.System()
    for group in groups:
        _check_expression(name, group.expression)
        force = openmm.CustomExternalForce(group.expression)
        for _ in range(group.particles):
            force.addParticle(system.addParticle(group.mass), [])
        system.addForce(force)
    n_particles = system.getNumParticles()
    starts = {state: _snapshot(name, state, points, n_particles) for state, points in settings.start.items()}
    for state, snapshot in starts.items():
        _check_energy(name, state, system, snapshot)
    return System(
        name=name,
        description=description,
        openmm_system=system,
        topology=pseudo_atoms(n_particles),
        starts=starts,
        landscape=settings.expression,
    )


def pseudo_atoms(n_particles: int) -> app.Topology:
    """Return a topology of unbonded particles, each a residue of its own; it survives the PDB format."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(n_particles):
        topology.addAtom("X", None, topology.addResidue("PAR", chain))
    return topology


def _check_expression(name: str, expression: str) -> None:
    """Refuse what OpenMM cannot parse; it parses when a context is made, so one is made for one particle."""
    system = openmm.System()
    system.addParticle(1.0)
    force = openmm.CustomExternalForce(expression)
    force.addParticle(0, [])
    system.addForce(force)
    try:
        _context(system)
    except openmm.OpenMMException as error:
        reason = str(error).splitlines()[0]
        raise SystemBuildError(
            f"{name}: OpenMM cannot use the expression {expression!r}: {reason}; "
            "expected the potential energy of one particle in x, y and z, such as 10*(x^2-1)^2 + 5*z^2"
        ) from None


def _snapshot(name: str, state: str, points: Point | Sequence[Point], n_particles: int) -> Snapshot:
    given = np.asarray(points, dtype=np.float32).reshape(-1, 3)
    if len(given) not in (1, n_particles):
        others = f" (the other particles at the origin) or {n_particles}" if n_particles > 1 else ""
        raise SystemBuildError(f"{name}: system.start.{state}: expected 1 point{others}, got {len(given)}")
    positions = np.zeros((n_particles, 3), dtype=np.float32)
    positions[: len(given)] = given
    return Snapshot(positions=positions)


def _check_energy(name: str, state: str, system: openmm.System, snapshot: Snapshot) -> None:
    context = _context(system)
    context.setPositions(snapshot.positions.astype(np.float64))
    energy = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    if not math.isfinite(energy):
        raise SystemBuildError(
            f"{name}: system.start.{state}: expected a finite potential energy, got {energy} kJ/mol; move the start"
        )


def _context(system: openmm.System) -> openmm.Context:
    return openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))


def catalogue_landscape(
    settings: PotentialSystem, *, name: str, title: str, description: str, tables: Mapping[str, Any]
) -> SystemEntry:
    """Return the catalogue entry of a fixed landscape.

    Parameters
    ----------
    settings : the landscape and its dynamics; a user may change the dynamics
    tables : the other tables of its default configuration
    """
    dynamics = settings.model_dump(include={"temperature", "integrator", "friction", "timestep"})
    return SystemEntry(
        name=name,
        title=title,
        description=description,
        defaults=lambda system: {"system": {"kind": name, **dynamics}, **tables},
        build=lambda config: build_landscape(settings, name=name, description=description),
    )


def _defaults(system: Mapping[str, Any]) -> dict[str, Any]:
    """Return no defaults, a landscape having none of its own; refuse points that are not in three dimensions."""
    start = system.get("start")
    for state, points in start.items() if isinstance(start, Mapping) else ():
        if not _is_point(points) and not (isinstance(points, list) and points and all(map(_is_point, points))):
            raise ConfigError(
                f"system.start.{state}: expected [x, y, z] in nm, or one such point for every particle, got {points!r}"
            )
    return {}


def _is_point(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(v, int | float) for v in value)


def _build(config: DynamicSystem) -> System:
    if not isinstance(config, PotentialSystem):
        raise SystemBuildError(f"potential: expected the settings of a landscape, got kind {config.kind!r}")
    return build_landscape(config, name=POTENTIAL.name, description=POTENTIAL.description)


POTENTIAL = SystemEntry(
    name="potential",
    title="Custom landscape",
    description="Particles moving independently in a potential of your own, given by its expression.",
    defaults=_defaults,
    build=_build,
)
