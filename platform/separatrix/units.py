"""Units: OpenMM's (nm, ps, amu, kJ/mol, K) everywhere; angles in degrees; time steps in fs in configurations."""

from __future__ import annotations

from typing import Final

BOLTZMANN: Final = 0.00831446261815324
"""Boltzmann constant, kJ/mol/K (exact in the SI of 2019)."""

FS_PER_PS: Final = 1000.0


def thermal_energy(temperature: float) -> float:
    """Return kT in kJ/mol for a temperature in K."""
    return BOLTZMANN * temperature
