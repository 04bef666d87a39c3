"""Shots on a GPU follow the statistics of those on the Reference platform: K-S tests, with a negative control."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import fisher_exact, ks_2samp
from tests.gpu import PLATFORM, needs_gpu

from separatrix.reader import Reader
from separatrix.session import Session
from separatrix.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.statistics, *needs_gpu]

LEVEL = 1e-3
CHAINS = 16
SECONDS = 70.0
"""Wall time for the path ensemble on each platform, at most."""

STEPS, FEWEST, EVERY = 8_000, 1_500, 8
CONFIGURATIONS, TRAJECTORIES = 3, 1_200
SYSTEM = {"system": {"kind": "alanine-dipeptide"}, "sampling": {"chains": CHAINS, "selector": "uniform"}}
WORKERS = min(CHAINS, os.cpu_count() or 1)


def sample(path: Path, platform: str, **system: float) -> Path:
    """Sample transition paths of alanine dipeptide with uniform selection for some time."""
    session = Session.create(path, {**SYSTEM, "system": {**SYSTEM["system"], **system}})
    session.start(STEPS, workers=WORKERS, platform=platform)
    deadline = time.monotonic() + SECONDS
    while not session.wait(0.2):
        if time.monotonic() > deadline and session.status.steps >= FEWEST:
            session.stop()
    assert session.status.platform == platform
    assert session.status.failures == 0
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give runs on the GPU, on Reference, and, for the control, on Reference at another temperature."""
    folder = tmp_path_factory.mktemp("runs")
    assert PLATFORM is not None
    return {
        "gpu": sample(folder / "gpu", PLATFORM),
        "reference": sample(folder / "reference", "Reference"),
        "hot": sample(folder / "hot", "Reference", temperature=500.0),
    }


def ensemble(path: Path) -> NDArray[np.float64]:
    """Return length, and phi and psi at the middle frame, of every chain's path after every few steps, (n, 3)."""
    shots, frames = Reader(path).shots_with_frames()
    first = np.searchsorted(frames["shot"], np.arange(len(shots["chain"]) + 1))
    rows = []
    for chain in range(CHAINS):
        mine = np.flatnonzero(shots["chain"] == chain)
        current = -1
        for step, shot in enumerate(mine):
            current = shot if shots["accepted"][shot] else current
            if current < 0 or shots["burn_in"][shot] or step < len(mine) // 10 or step % EVERY:
                continue
            middle = frames["cvs"][(first[current] + first[current + 1]) // 2]
            rows.append((shots["n_frames"][current], *middle[:2]))
    return np.array(rows, dtype=float)


def p_values(one: NDArray[np.float64], other: NDArray[np.float64]) -> list[float]:
    return [float(ks_2samp(one[:, column], other[:, column]).pvalue) for column in range(one.shape[1])]


def test_paths_on_the_gpu_are_those_of_the_reference_platform(runs: dict[str, Path]) -> None:
    gpu, reference = ensemble(runs["gpu"]), ensemble(runs["reference"])
    found = p_values(gpu, reference)
    print(
        f"\npaths: {len(gpu)} on {PLATFORM} of mean length {gpu[:, 0].mean():.1f} frames, {len(reference)} on "
        f"Reference of {reference[:, 0].mean():.1f}; p of length, phi, psi: {', '.join(f'{p:.3f}' for p in found)}"
    )
    assert min(len(gpu), len(reference)) >= 100
    assert min(found) > LEVEL


def test_the_same_test_tells_another_temperature(runs: dict[str, Path]) -> None:
    found = p_values(ensemble(runs["gpu"]), ensemble(runs["hot"]))
    print(f"\npaths at 500 K against those on {PLATFORM}: p {', '.join(f'{p:.1e}' for p in found)}")
    assert min(found) < LEVEL


def outcomes(path: Path, platform: str) -> dict[str, NDArray[np.integer]]:
    """Shoot independent trajectories from the same configurations of a run, and return how they ended."""
    validation = Session.open(path).validate(
        configurations=CONFIGURATIONS, shots=TRAJECTORIES, workers=WORKERS, platform=platform, progress=False
    )
    assert validation.complete
    assert validation.n_failed.sum() == 0
    return dict(Store.open(path).validations.find({"configurations": CONFIGURATIONS, "seed": 0}).outcomes())


def test_independent_trajectories_end_alike_and_as_fast(runs: dict[str, Path], tmp_path: Path) -> None:
    """These are independent, so that K-S and Fisher's test hold to the letter; the control is the Reference platform at
    another temperature, from the same configurations.
    """
    copies = {name: shutil.copytree(runs["reference"], tmp_path / name) for name in ("gpu", "reference", "hot")}
    file = copies["hot"] / "config.toml"
    text = file.read_text(encoding="utf-8")
    assert text.count("temperature = 300.0") == 1
    file.write_text(text.replace("temperature = 300.0", "temperature = 500.0"), encoding="utf-8")
    assert PLATFORM is not None
    ended = {name: outcomes(path, PLATFORM if name == "gpu" else "Reference") for name, path in copies.items()}
    found = {name: compare(ended[name], ended["reference"]) for name in ("gpu", "hot")}
    print(
        f"\ntrajectories from {CONFIGURATIONS} configurations, {TRAJECTORIES} each, against Reference: "
        f"p {', '.join(f'{p:.3f}' for p in found['gpu'])} on {PLATFORM}; at 500 K {min(found['hot']):.1e} at least"
    )
    assert min(found["gpu"]) > LEVEL / 2
    assert min(found["hot"]) < LEVEL / 2


def compare(one: dict[str, NDArray[np.integer]], other: dict[str, NDArray[np.integer]]) -> list[float]:
    """Return p-values for each configuration: K-S of lengths, Fisher's of the states they ended in."""
    found = []
    for configuration in range(CONFIGURATIONS):
        mine, theirs = (each["configuration"] == configuration for each in (one, other))
        found.append(float(ks_2samp(one["n_frames"][mine], other["n_frames"][theirs]).pvalue))
        table = [
            [int((each["state"][rows] == state).sum()) for state in (0, 1)]
            for each, rows in ((one, mine), (other, theirs))
        ]
        found.append(float(fisher_exact(table).pvalue))
    return found
