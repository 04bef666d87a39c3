"""What steering brings: guided against uniform selection on landscapes from easy to hard, per shot and per MD step.

Prints a table; asserts nothing about it. Every figure is a mean over seeds with its standard error. `make bench` runs
it, in some ten minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from separatrix.estimates import transition_region_error
from separatrix.session import Session
from separatrix.units import BOLTZMANN

pytestmark = pytest.mark.benchmark

SEEDS = (1, 2, 3, 4, 5)
SHOTS = 1_000
SELECTORS = {"guided": "lorentzian", "uniform": "uniform"}

MESH = (np.linspace(-3.0, 3.0, 241), np.linspace(-1.6, 1.6, 129))
"""nm; all that these landscapes let a particle reach."""

MUELLER_BROWN_MESH = (np.linspace(-1.8, 1.3, 201), np.linspace(-0.6, 2.2, 181))

WALLS = "40*max(abs(x) - {0}, 0)^2 + 4*y^2 + 2*z^2"


def landscape(expression: str, a: float, b: float) -> dict[str, Any]:
    """Return the configuration of a landscape with kT = 1 kJ/mol and overdamped motion; its states part the x axis."""
    return {
        "system": {
            "kind": "potential",
            "expression": expression,
            "start": {"A": [a - 0.1, 0.0, 0.0], "B": [b + 0.1, 0.0, 0.0]},
            "temperature": 1.0 / BOLTZMANN,
            "integrator": "brownian",
            "friction": 10.0,
            "timestep": 10.0,
        },
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": {"A": f"x < {a}", "B": f"x > {b}"},
        "descriptors": {"columns": ["x", "y"]},
        "sampling": {"stride": 10, "max_frames": 20_000},
    }


LANDSCAPES: dict[str, tuple[dict[str, Any], Sequence[np.ndarray]]] = {
    "double well, 4 kT (hummer-szabo)": ({"system": {"kind": "hummer-szabo"}}, MESH),
    "two saddles and a well between, 5 kT (mueller-brown)": ({"system": {"kind": "mueller-brown"}}, MUELLER_BROWN_MESH),
    "asymmetric: steep 6 kT on one side, a long slope on the other": (
        landscape(f"6*exp(-16*max(-0.8 - x, 0)^2 - 0.5*max(x + 0.8, 0)^2) + {WALLS.format(1.8)}", -1.5, 1.5),
        MESH,
    ),
    "diffusive channel: a flat top of 5 kT, 3 nm long": (
        landscape(f"5*exp(-(x/1.6)^12) + {WALLS.format(2.3)}", -2.1, 2.1),
        MESH,
    ),
    "intermediate basin: two barriers of 5 kT, 4 kT above the well between": (
        landscape(f"5*exp(-((x - 0.8)/0.3)^2) + 5*exp(-((x + 0.8)/0.3)^2) + {WALLS.format(1.9)}", -1.6, 1.6),
        MESH,
    ),
}
"""From easy to hard, and a mesh for the exact committor of each."""


@pytest.mark.parametrize("name", LANDSCAPES)
def test_guided_against_uniform_selection(name: str, tmp_path: Path) -> None:
    """The same landscape, chains, number of shots and seeds for both; every run learns, guided or not."""
    config, mesh = LANDSCAPES[name]
    print(f"\n{name}; {SHOTS:,} shots, {len(SEEDS)} seeds")
    print("| selection | transitions per shot | per 10^6 MD steps | accepted per 10^6 MD steps | RMSE of p_B |")
    print("|---|---|---|---|---|")
    for label, selector in SELECTORS.items():
        runs = np.array([sample(config, selector, seed, mesh, tmp_path / f"{label}-{seed}") for seed in SEEDS])
        mean, error = runs.mean(axis=0), runs.std(axis=0, ddof=1) / np.sqrt(len(SEEDS))
        cells = [
            f"{one:.{digits}f} ± {off:.{digits}f}" for one, off, digits in zip(mean, error, (3, 1, 1, 3), strict=True)
        ]
        print(f"| {label} | {' | '.join(cells)} |")


def sample(
    config: dict[str, Any], selector: str, seed: int, mesh: Sequence[np.ndarray], folder: Path
) -> tuple[float, float, float, float]:
    """Return transitions per shot and per million MD steps, accepted ones per million, and the error of p_B.

    The error is that of the last model on the frames which the run visited.
    """
    sampling = config.get("sampling", {}) | {"selector": selector, "seed": seed}
    session = Session.create(folder, config | {"sampling": sampling})
    status = session.run(SHOTS, workers=0, platform="Reference", progress=False)
    reader = session.reader
    _, frames = reader.shots_with_frames()
    exact = reader.exact_committor(*mesh).at(frames["cvs"])
    off = transition_region_error(reader.model().p_B(frames["features"]), exact).rmse
    millions = status.md_steps / 1e6
    return status.transitions / status.steps, status.transitions / millions, status.accepted / millions, off
