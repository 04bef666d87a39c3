"""Shots on a GPU follow the statistics of those on the Reference platform: K-S tests, with negative controls."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import fisher_exact, ks_2samp
from tests.gpu import PLATFORM, needs_gpu
from tests.statistics.test_path_ensemble import landscape

from separatrix.reader import Reader
from separatrix.session import Session
from separatrix.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.statistics, *needs_gpu]

LEVEL = 1e-3
CHAINS = 16
SECONDS = 60.0
"""Wall time for the path ensemble on each platform, at most, unless there are too few steps by then."""

STEPS, FEWEST, EVERY = 8_000, 3_000, 8
CONFIGURATIONS, TRAJECTORIES = 3, 1_000
WORKERS = min(CHAINS, os.cpu_count() or 1)


def sample(path: Path, data: dict[str, Any], platform: str, steps: int) -> Path:
    """Sample transition paths with uniform selection for some time."""
    settings = {"chains": CHAINS, "selector": "uniform"}
    data = {**data, "sampling": {**data.get("sampling", {}), **settings}, "analysis": {"every": 0}}
    session = Session.create(path, data)
    session.start(steps, workers=WORKERS, platform=platform)
    deadline = time.monotonic() + SECONDS
    while not session.wait(0.2):
        if time.monotonic() > deadline and session.status.steps >= FEWEST:
            session.stop()
    assert session.status.platform == platform
    assert session.status.failures == 0
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give runs on a landscape: on the GPU, on Reference, and, for the control, on Reference at another temperature."""
    folder, data = tmp_path_factory.mktemp("runs"), landscape("langevin", "uniform")
    assert PLATFORM is not None
    hot = {**data, "system": {**data["system"], "temperature": 900.0}}
    return {
        "gpu": sample(folder / "gpu", data, PLATFORM, STEPS),
        "reference": sample(folder / "reference", data, "Reference", STEPS),
        "hot": sample(folder / "hot", hot, "Reference", STEPS),
    }


def ensemble(path: Path) -> NDArray[np.float64]:
    """Return length, and y where x first changes sign, of every chain's path after every few steps, (n, 2)."""
    shots, frames = Reader(path).shots_with_frames()
    first = np.searchsorted(frames["shot"], np.arange(len(shots["chain"]) + 1))
    rows = []
    for chain in range(CHAINS):
        mine = np.flatnonzero(shots["chain"] == chain)
        current = -1
        for step, shot in enumerate(mine):
            current = shot if shots["accepted"][shot] else current
            if current < 0 or step < len(mine) // 10 or step % EVERY:
                continue
            x, y = frames["cvs"][first[current] : first[current + 1]].T
            rows.append((len(x), y[np.argmax(x > 0)]))
    return np.array(rows, dtype=float)


def p_values(one: NDArray[np.float64], other: NDArray[np.float64]) -> list[float]:
    return [float(ks_2samp(one[:, column], other[:, column]).pvalue) for column in range(one.shape[1])]


def test_paths_on_the_gpu_are_those_of_the_reference_platform(runs: dict[str, Path]) -> None:
    gpu, reference = ensemble(runs["gpu"]), ensemble(runs["reference"])
    found = p_values(gpu, reference)
    lengths = f"{gpu[:, 0].mean():.1f} frames on {PLATFORM}, {reference[:, 0].mean():.1f} on Reference"
    print(f"\n{len(gpu)} and {len(reference)} paths: {lengths}; p of length and crossing {found}")
    assert min(len(gpu), len(reference)) >= 200
    assert min(found) > LEVEL


def test_the_same_test_tells_another_temperature(runs: dict[str, Path]) -> None:
    found = p_values(ensemble(runs["gpu"]), ensemble(runs["hot"]))
    print(f"\npaths at 900 K against those on {PLATFORM}: p {found}")
    assert min(found) < LEVEL


def outcomes(path: Path, platform: str) -> dict[str, NDArray[Any]]:
    """Shoot independent trajectories from the same configurations of a run, and return how they ended."""
    validation = Session.open(path).validate(
        configurations=CONFIGURATIONS, shots=TRAJECTORIES, workers=WORKERS, platform=platform, progress=False
    )
    assert validation.complete
    assert validation.n_failed.sum() == 0
    return dict(Store.open(path).validations.find({"configurations": CONFIGURATIONS, "seed": 0}).outcomes())


def test_independent_trajectories_of_a_molecule_end_alike_and_as_fast(tmp_path: Path) -> None:
    # Alanine dipeptide, with constraints. These trajectories are independent, so that the tests hold to the letter.
    run = sample(tmp_path / "run", {"system": {"kind": "alanine-dipeptide"}}, "Reference", 600)
    copies = {name: shutil.copytree(run, tmp_path / name) for name in ("gpu", "reference", "hot")}
    file = copies["hot"] / "config.toml"
    text = file.read_text(encoding="utf-8")
    assert text.count("temperature = 300.0") == 1
    file.write_text(text.replace("temperature = 300.0", "temperature = 1200.0"), encoding="utf-8")
    (copies["hot"] / "SHA256SUMS").unlink()
    assert PLATFORM is not None
    ended = {name: outcomes(path, PLATFORM if name == "gpu" else "Reference") for name, path in copies.items()}
    found = {name: compare(ended[name], ended["reference"]) for name in ("gpu", "hot")}
    means = {name: round(float(each["n_frames"].mean()), 1) for name, each in ended.items()}
    print(f"\ntrajectories of {means} frames against Reference: p {found}")
    assert min(found["gpu"]) > LEVEL / len(found["gpu"])
    assert min(found["hot"]) < LEVEL / len(found["hot"])


def compare(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> list[float]:
    """Return p-values for each configuration: K-S of lengths, Fisher's of the states they ended in."""
    found = []
    for configuration in range(CONFIGURATIONS):
        rows = [each["configuration"] == configuration for each in (one, other)]
        found.append(float(ks_2samp(one["n_frames"][rows[0]], other["n_frames"][rows[1]]).pvalue))
        states = [each["state"][mine] for each, mine in zip((one, other), rows, strict=True)]
        table = [[int((each == state).sum()) for state in (0, 1)] for each in states]
        found.append(float(fisher_exact(table).pvalue))
    return found
