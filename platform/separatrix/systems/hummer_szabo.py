"""The two-dimensional double well of Hummer and Szabo with a reaction coordinate off its axes.

V(x, y) = b ((x^2 - 1)^2 + (x - y)^2), b = 4 kT, overdamped, with kT = 1 kJ/mol.
"""

from __future__ import annotations

from separatrix.config import PotentialSystem
from separatrix.systems.potential import catalogue_landscape
from separatrix.units import BOLTZMANN

HUMMER_SZABO = catalogue_landscape(
    PotentialSystem(
        expression="4*((x^2 - 1)^2 + (x - y)^2) + 2*z^2",
        start={"A": (-1.0, -1.0, 0.0), "B": (1.0, 1.0, 0.0)},
        temperature=1.0 / BOLTZMANN,
        integrator="brownian",
        friction=10.0,
        timestep=10.0,
    ),
    name="hummer-szabo",
    title="Hummer-Szabo double well",
    description="A tilted double well in two dimensions with a barrier of 4 kT. Brownian dynamics with kT = 1 kJ/mol.",
    tables={
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": {"A": "(x + 1)^2 + (y + 1)^2 < 0.0625", "B": "(x - 1)^2 + (y - 1)^2 < 0.0625"},
        "descriptors": {"columns": ["x", "y"]},
        "sampling": {"stride": 10, "max_frames": 2000},
    },
)
