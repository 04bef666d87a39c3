"""The potential of Mueller and Brown (Theor. Chim. Acta 53, 75 (1979)), overdamped, with kT = 1 kJ/mol.

Its four amplitudes are scaled by 0.05 kJ/mol, so that the highest barrier is 5.3 kT seen from the deeper minimum A
and 3.4 kT seen from B; a third, shallow minimum lies between them.
"""

from __future__ import annotations

from separatrix.config import PotentialSystem
from separatrix.systems.potential import catalogue_landscape
from separatrix.units import BOLTZMANN

MUELLER_BROWN = catalogue_landscape(
    PotentialSystem(
        expression=(
            "-10*exp(-(x-1)^2 - 10*y^2) - 5*exp(-x^2 - 10*(y-0.5)^2)"
            " - 8.5*exp(-6.5*(x+0.5)^2 + 11*(x+0.5)*(y-1.5) - 6.5*(y-1.5)^2)"
            " + 0.75*exp(0.7*(x+1)^2 + 0.6*(x+1)*(y-1) + 0.7*(y-1)^2) + 5*z^2"
        ),
        start={"A": (-0.558, 1.442, 0.0), "B": (0.623, 0.028, 0.0)},
        temperature=1.0 / BOLTZMANN,
        integrator="brownian",
        friction=10.0,
        timestep=5.0,
    ),
    name="mueller-brown",
    title="Mueller-Brown potential",
    description=(
        "The classic curved landscape of two dimensions with an intermediate, its barrier scaled to about 5 kT. "
        "Brownian dynamics with kT = 1 kJ/mol."
    ),
    tables={
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": {
            "A": "(x + 0.558)^2 + (y - 1.442)^2 < 0.04",
            "B": "(x - 0.623)^2 + (y - 0.028)^2 < 0.04",
        },
        "descriptors": {"columns": ["x", "y"]},
        # The walls are ten times stiffer than those of the other landscapes, hence shorter and more steps per frame.
        "sampling": {"stride": 20, "max_frames": 2000},
    },
)
