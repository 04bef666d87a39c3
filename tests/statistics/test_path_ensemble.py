"""Selection must not change the ensemble: uniform, AI-guided and brute-force paths are the same, by K-S tests.

Negative control: without the ratio of selection weights in the acceptance, the same test must fail.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from tests.statistics.path_sampling import (
    AnalyticModel,
    Bench,
    brute_force_paths,
    leave_out_the_ratio,
    make_bench,
    sample_paths,
)

from separatrix.config import SamplingConfig

LEVEL = 1e-3
STEPS = 8_000
EVERY = 8
MODEL = AnalyticModel(slope=(1.5, 1.5))


def landscape(integrator: str, selector: str = "lorentzian") -> dict[str, Any]:
    """Return a double well of 3 kT whose reaction coordinate is tilted, with or without inertia."""
    return {
        "system": {
            "kind": "potential",
            "expression": "7.5*((x^2-1)^2 + (x-y)^2) + 5*z^2",
            "start": {"A": [-1, -1, 0], "B": [1, 1, 0]},
            "integrator": integrator,
            "friction": 10.0 if integrator == "brownian" else 2.0,
            "timestep": 10.0 if integrator == "brownian" else 20.0,
        },
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": {"A": "(x+1)^2 + (y+1)^2 < 0.25", "B": "(x-1)^2 + (y-1)^2 < 0.25"},
        "sampling": {"chains": 4, "selector": selector, "stride": 5},
    }


@pytest.fixture(scope="module", params=["brownian", "langevin"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Give a landscape with and without inertia."""
    return make_bench(landscape(request.param))


@pytest.fixture(scope="module")
def brute_force(bench: Bench) -> NDArray[np.floating]:
    """Give transitions of a long unbiased run."""
    paths = brute_force_paths(bench, 400_000)
    assert len(paths) > 250
    return paths


def with_selector(bench: Bench, selector: str) -> Bench:
    """Return the same bench under another selector."""
    sampling = SamplingConfig(**{**bench.config.sampling.model_dump(), "selector": selector})
    config = bench.config.model_copy(update={"sampling": sampling})
    return Bench(config, bench.shooter, bench.start, bench.seed_path)


def p_values(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[float, float]:
    """Return K-S p-values of transition times and of crossing points."""
    return tuple(float(ks_2samp(first[:, column], second[:, column]).pvalue) for column in (0, 1))


@pytest.mark.parametrize("selector", ["uniform", "lorentzian"])
def test_sampled_paths_are_those_of_brute_force(bench: Bench, brute_force: NDArray[np.floating], selector: str) -> None:
    sampled = sample_paths(with_selector(bench, selector), MODEL, STEPS, EVERY, seed=3)
    assert min(p_values(sampled, brute_force)) > LEVEL


@pytest.mark.parametrize("selector", ["uniform", "lorentzian"])
def test_without_the_ratio_the_same_test_fails(
    bench: Bench, brute_force: NDArray[np.floating], selector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_the_ratio(monkeypatch)
    sampled = sample_paths(with_selector(bench, selector), MODEL, STEPS, EVERY, seed=3)
    assert min(p_values(sampled, brute_force)) < LEVEL
