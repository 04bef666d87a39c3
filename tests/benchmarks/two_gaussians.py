"""The committor of two-gaussians with inertia, by shooting: what its overdamped equation cannot give.

The twenty harmonic coordinates couple to nothing, so that the plane is enough. Integrator, friction, time step and
frames are those of the catalogue; velocities are drawn anew for each trajectory.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import njit

from separatrix.estimates import Grid

KT, FRICTION, TIMESTEP, STRIDE, MAX_FRAMES = 0.1, 2.5, 0.02, 10, 2_000
RADIUS, X, Y = 0.15, 0.75, 0.5
MESH = (np.linspace(-1.25, 1.25, 51), np.linspace(-0.95, 0.95, 39))


@functools.cache
def sampled_committor(shots: int) -> Grid:
    """Return p_B on a mesh, from so many trajectories at each node.

    Turning the plane by 180 degrees exchanges the states, which makes two trajectories of one.
    """
    x, y = MESH
    values = _shoot(x, y, shots // 2, np.random.default_rng(1))
    return Grid(x=x, y=y, values=(values + 1.0 - values[::-1, ::-1]) / 2)


@njit(cache=True)
def _shoot(x, y, shots, rng):
    values = np.empty((len(y), len(x)))
    for j in range(len(y)):
        for i in range(len(x)):
            reached = 0.0
            for _ in range(shots):
                reached += _follow(x[i], y[j], rng)
            values[j, i] = reached / shots
    return values


@njit(cache=True)
def _follow(x, y, rng):
    """Return 1 for B, 0 for A and, which hardly happens, one half for a trajectory that ends nowhere."""
    kept = math.exp(-FRICTION * TIMESTEP)
    noise = math.sqrt(KT * (1.0 - kept * kept))
    vx, vy = math.sqrt(KT) * rng.standard_normal(), math.sqrt(KT) * rng.standard_normal()
    for _frame in range(MAX_FRAMES):
        if (x + X) ** 2 + (y + Y) ** 2 < RADIUS**2:
            return 0.0
        if (x - X) ** 2 + (y - Y) ** 2 < RADIUS**2:
            return 1.0
        for _ in range(STRIDE):
            a = 16.8 * math.exp(-12.0 * ((x + X) ** 2 + (y + Y) ** 2))
            b = 16.8 * math.exp(-12.0 * ((x - X) ** 2 + (y - Y) ** 2))
            vx -= TIMESTEP * (1.2 * x**5 + a * (x + X) + b * (x - X))
            vy -= TIMESTEP * (6.0 * y**5 + a * (y + Y) + b * (y - Y))
            x += 0.5 * TIMESTEP * vx
            y += 0.5 * TIMESTEP * vy
            vx, vy = kept * vx + noise * rng.standard_normal(), kept * vy + noise * rng.standard_normal()
            x += 0.5 * TIMESTEP * vx
            y += 0.5 * TIMESTEP * vy
    return 0.5
