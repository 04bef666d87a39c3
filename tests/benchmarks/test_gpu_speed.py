"""How many workers a GPU feeds: shots of 1 to 16 workers on one device against one bare context; and where to train.

Prints tables and JSON; asserts nothing about time. `make bench-gpu` runs it, in some six minutes.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import TimeoutError as TooLong
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from tests.benchmarks.gpu_workers import shoot_for, step_for
from tests.gpu import PLATFORM, needs_gpu

from separatrix.committor import Committor
from separatrix.config import CommittorConfig, read_toml
from separatrix.executors import ProcessExecutor
from separatrix.records import Snapshot
from separatrix.resources import Resources
from separatrix.session import Session
from separatrix.store import Store
from separatrix.trainer import train
from separatrix.training_data import TrainingData
from separatrix.workers import TimeLimit, start_shooters, worker_specs

pytestmark = [pytest.mark.benchmark, *needs_gpu]

WORKERS = (1, 2, 4, 8, 16)
SECONDS = 5.0
PATIENCE = 60.0
"""Seconds for a row; one that takes longer is told, and the next one follows."""

HALF_FRAMES = 50
"""Frames of each half: a shot is 100 frames, a thousand MD steps."""

BRIEF = {"equilibration": 2.0}  # ps: the speed does not depend on it
SYSTEMS = {
    "alanine dipeptide, vacuum": ({"system": {"kind": "alanine-dipeptide"}}, "Reference"),
    "lithium chloride, TIP3P": ({"system": {"kind": "lithium-chloride", **BRIEF}}, "CPU"),
    "alanine dipeptide, TIP3P": ({"system": {"kind": "alanine-dipeptide", "solvent": "tip3p", **BRIEF}}, "CPU"),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_workers_on_one_device(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, processors = SYSTEMS[name]
    path, snapshot = prepare(data, tmp_path)
    n_atoms = len(snapshot.positions)
    rows = list(measure(path, snapshot, Resources(platform=PLATFORM, devices=(0,), workers=max(WORKERS)), WORKERS))
    cores = os.cpu_count() or 1
    rows += measure(path, snapshot, Resources(platform=processors, workers=cores), (cores,))
    raw = next((row["md_steps_per_second"] for row in rows if row["what"] == "bare steps"), None)
    with capsys.disabled():
        print(f"\n\n{name}, {n_atoms:,} atoms, mixed precision, {2 * HALF_FRAMES * 10:,} MD steps per shot\n")
        print("| platform | workers | what | MD steps/s | shots/min | of one bare context |\n|---|---|---|---|---|---|")
        for row in rows:
            if "problem" in row:
                print(f"| {row['platform']} | {row['workers']} | {row['problem']} | | | |")
                continue
            of_raw = f"{row['md_steps_per_second'] / raw:.2f}" if raw else ""
            speed, shots = f"{row['md_steps_per_second']:,.0f}", f"{row['shots_per_minute']:,.0f}"
            print(f"| {row['platform']} | {row['workers']} | {row['what']} | {speed} | {shots} | {of_raw} |")
        print(json.dumps({"system": name, "n_atoms": n_atoms, "rows": rows}))


def prepare(data: dict[str, Any], folder: Path) -> tuple[Path, Snapshot]:
    """Make a run whose states are out of reach, so that all shots are of one length, and return where one starts."""
    path = Session.create(folder / "run", data).path
    config = read_toml(path / "config.toml")
    column = next(iter(config["collective_variables"]))
    config["states"] = {"A": f"{column} > 1e6", "B": f"{column} < -1e6"}
    config["sampling"]["max_frames"] = HALF_FRAMES
    (path / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    (path / "SHA256SUMS").unlink()
    return path, next(iter(Store.open(path).starts().values()))


def measure(path: Path, snapshot: Snapshot, resources: Resources, counts: tuple[int, ...]) -> Any:
    """Yield a row for bare steps, and for each number of workers at work."""
    specs = worker_specs(path, resources.platform, resources, n_atoms=len(snapshot.positions), most=max(counts))
    executor = start_shooters(specs, resources, TimeLimit(1, 0.0, None))
    assert isinstance(executor, ProcessExecutor)
    try:
        deadline = time.monotonic() + 2 * PATIENCE
        while not executor.ready and time.monotonic() < deadline:
            time.sleep(0.1)
        if executor.lost or not executor.ready:
            problem = f"{len(executor.lost)} workers did not start: {[*executor.lost.values()][-1:]}"
            yield {"platform": resources.platform, "workers": len(specs), "problem": problem}
            return
        # Machine code, and what a first shot loads.
        row(executor, resources.platform, max(counts), "warm-up", (shoot_for, 0.5, snapshot))
        if len(counts) > 1:
            yield row(executor, resources.platform, 1, "bare steps", (step_for, SECONDS / 2, snapshot))
        for n_workers in counts:
            yield row(executor, resources.platform, n_workers, "shots", (shoot_for, SECONDS, snapshot))
    finally:
        executor.shutdown(wait=False)


def row(executor: ProcessExecutor, platform: str, n_workers: int, what: str, work: tuple[Any, ...]) -> dict[str, Any]:
    """Have some of the workers work at the same time, and add up what they did."""
    about = {"platform": platform, "workers": n_workers, "what": what}
    seeds = [(1_000_000 * worker,) if what != "bare steps" else () for worker in range(n_workers)]
    futures = [executor.submit(*work, *seed) for seed in seeds]
    try:
        done = [future.result(PATIENCE) for future in futures]
    except TooLong:
        return {**about, "problem": f"no answer in {PATIENCE:.0f} s"}
    except Exception as error:  # noqa: BLE001 - told in the table
        return {**about, "problem": f"{type(error).__name__}: {error}"}
    if max(start for *_, start, _ in done) > min(end for *_, end in done):
        return {**about, "problem": "they did not work at the same time"}
    return {
        **about,
        "md_steps_per_second": sum(steps / (end - start) for steps, _, start, end in done),
        "shots_per_minute": 60 * sum(shots / (end - start) for _, shots, start, end in done),
    }


@pytest.mark.parametrize(("n_columns", "n_shots"), [(55, 500), (55, 4_000), (221, 2_000), (1_507, 2_000)])
def test_where_to_train(n_columns: int, n_shots: int, capsys: pytest.CaptureFixture[str]) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no CUDA device")
    rng = np.random.default_rng(1)
    features = rng.normal(size=(n_shots, n_columns)).astype(np.float32)
    p_b = 1 / (1 + np.exp(-2 * features[:, 0] - np.tanh(features[:, 1])))
    n_b = rng.binomial(2, p_b).astype(np.float32)
    data = TrainingData(
        features=features,
        targets=np.stack([2 - n_b, n_b], axis=1),
        weights=np.ones(n_shots, np.float32),
        shot=np.arange(n_shots),
        is_shooting_point=np.ones(n_shots, bool),
    )
    first = Committor.untrained([f"x{column}" for column in range(n_columns)], ["A", "B"])
    found = {}
    for device in ("cuda", "cpu", "cuda", "cpu"):  # the second of each counts
        model, report = train(data, first, seed=1, efficiency=1.0, version=1, config=CommittorConfig(), device=device)
        found[device] = report
        assert model.weights[0].device.type == "cpu"
    with capsys.disabled():
        seconds = ", ".join(
            f"{device} {report.seconds:.2f} s, {report.epochs} epochs, held-out loss {report.validation_loss:.4f}"
            for device, report in found.items()
        )
        print(f"\nfirst training, {n_columns:,} columns, {n_shots:,} shots: {seconds}")
