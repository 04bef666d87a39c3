"""How long the time step of a system with inertia may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import openmm

from separatrix.units import FS_PER_PS

_STEPS_PER_PERIOD: Final = 8.0
"""Leapfrog is stable up to pi steps per period; with eight it is off by some 2 % in the frequency squared."""

_LIGHT: Final = 2.5
"""amu; hydrogens of their own mass."""
_WITH_LIGHT, _WITH_HEAVY = 2.5, 4.5
"""fs, bonds to hydrogen constrained: the angles of hydrogens set the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The longest sensible time step: how long, with what, and what would allow a longer one."""

    femtoseconds: float
    reason: str
    advice: str


def longest_timestep(system: openmm.System) -> Limit | None:
    """Return the longest sensible time step for a molecule; None without bonds.

    The fastest bond that is no constraint takes a period ``2 pi sqrt(mu / k)``, mu its reduced mass.
    """
    masses = np.array([system.getParticleMass(atom)._value for atom in range(system.getNumParticles())])
    fixed = {frozenset(system.getConstraintParameters(i)[:2]) for i in range(system.getNumConstraints())}
    shortest, pair = np.inf, (0, 0)
    for force in system.getForces():
        if not isinstance(force, openmm.HarmonicBondForce):
            continue
        for bond in range(force.getNumBonds()):
            first, second, _, strength = force.getBondParameters(bond)
            k = strength._value
            if k <= 0 or frozenset((first, second)) in fixed or not masses[first] * masses[second] > 0:
                continue
            reduced = masses[first] * masses[second] / (masses[first] + masses[second])
            period = 2 * np.pi * np.sqrt(reduced / k) * FS_PER_PS
            if period < shortest:
                shortest, pair = period, (first, second)
    if not np.isfinite(shortest) and not fixed:
        return None
    light = bool((masses[masses > 0] < _LIGHT).any())
    limit = _WITH_LIGHT if light else _WITH_HEAVY
    if shortest / _STEPS_PER_PERIOD < limit:
        free_hydrogen = min(masses[pair[0]], masses[pair[1]]) < _LIGHT
        return Limit(
            femtoseconds=shortest / _STEPS_PER_PERIOD,
            reason=f"its fastest bond, which is no constraint and swings in {shortest:.0f} fs",
            advice="Set system.constraints to "
            + ("h-bonds" if free_hydrogen else "all-bonds")
            + ", or a shorter step.",
        )
    if light:
        return Limit(
            femtoseconds=limit,
            reason="hydrogens of their own mass",
            advice="Set system.hydrogen_mass to 4, or system.timestep to 2.",
        )
    return Limit(femtoseconds=limit, reason="heavy hydrogens", advice="Lower system.timestep.")
