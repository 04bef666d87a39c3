"""Three basins around a hill in two dimensions: every two of them have a saddle of their own.

In polar coordinates V = b (3 r^4 - 2 r^3 cos 3 theta - 3 r^2) + 0.5 x + 0.25 y with b = 2.4 kT, overdamped, with
kT = 1 kJ/mol. Without the slope, which makes the three pairs differ, the minima lie at r = 1, 1.6875 b below the
saddles at r = 1/2 and 2 b below the hill in the middle, where all three states compete.
"""

from __future__ import annotations

from separatrix.config import PotentialSystem
from separatrix.systems.potential import catalogue_landscape
from separatrix.units import BOLTZMANN

THREE_BASINS = catalogue_landscape(
    PotentialSystem(
        expression=("2.4*(3*(x^2 + y^2)^2 - 2*(x^3 - 3*x*y^2) - 3*(x^2 + y^2)) + 0.5*x + 0.25*y + 2*z^2"),
        start={"A": (1.0, 0.0, 0.0), "B": (-0.5, 0.866, 0.0), "C": (-0.5, -0.866, 0.0)},
        temperature=1.0 / BOLTZMANN,
        integrator="brownian",
        friction=10.0,
        timestep=5.0,
    ),
    name="three-basins",
    title="Three basins",
    description=(
        "Three states in two dimensions around a hill, every two of them with a saddle of about 4 kT between them. "
        "Brownian dynamics with kT = 1 kJ/mol."
    ),
    tables={
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": {
            "A": "(x - 1)^2 + y^2 < 0.04",
            "B": "(x + 0.5)^2 + (y - 0.866)^2 < 0.04",
            "C": "(x + 0.5)^2 + (y + 0.866)^2 < 0.04",
        },
        "descriptors": {"columns": ["x", "y"]},
        "sampling": {"stride": 10, "max_frames": 2000, "chains": 3},
    },
)
