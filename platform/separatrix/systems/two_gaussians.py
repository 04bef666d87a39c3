"""Two Gaussian wells in two dimensions, hidden among twenty harmonic ones (arXiv:1901.04595).

In reduced units kT = 0.1, m = 1, friction 2.5 and time step 0.02. With kJ/mol, nm and amu for energy, length and mass
the unit of time is 1 ps, so the numbers stay as they are and only the temperature is converted.
"""

from __future__ import annotations

from separatrix.config import ExtraParticles, PotentialSystem
from separatrix.systems.potential import catalogue_landscape
from separatrix.units import BOLTZMANN

_KT = 0.1
_N_EXTRA = 7
_N_COLUMNS = 22
_COORDINATES = [f"{axis}({particle})" for particle in range(1 + _N_EXTRA) for axis in "xyz"]

TWO_GAUSSIANS = catalogue_landscape(
    PotentialSystem(
        expression=(
            "0.2*x^6 + y^6 - 0.7*exp(-12*((x+0.75)^2 + (y+0.5)^2)) - 0.7*exp(-12*((x-0.75)^2 + (y-0.5)^2)) + 0.5*z^2"
        ),
        extra=[ExtraParticles(expression="0.5*(x^2 + y^2 + z^2)", particles=_N_EXTRA)],
        start={"A": (-0.75, -0.5, 0.0), "B": (0.75, 0.5, 0.0)},
        temperature=_KT / BOLTZMANN,
        friction=2.5,
        timestep=20.0,
    ),
    name="two-gaussians",
    title="Two Gaussians in 22 dimensions",
    description=(
        "Two Gaussian wells, 6.5 kT deep, in the plane of the first particle; 20 harmonic coordinates tell nothing. "
        "Langevin dynamics with kT = 0.1 kJ/mol."
    ),
    tables={
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": {
            "A": "(x + 0.75)^2 + (y + 0.5)^2 < 0.0225",
            "B": "(x - 0.75)^2 + (y - 0.5)^2 < 0.0225",
        },
        # Two of the 24 coordinates are left out: METHOD's toy has 2 + 20 dimensions.
        "descriptors": {"columns": ["x", "y", *_COORDINATES[2:_N_COLUMNS]]},
        "sampling": {"stride": 10, "max_frames": 2000},
    },
)
