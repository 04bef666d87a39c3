"""Shooting against raw integration: the same steps on the same system, in turns, shot by shot.

Prints a table; asserts nothing about time. `make bench` runs it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from separatrix.engine import Engine, atoms_of, serialize
from separatrix.observables import Observables
from separatrix.records import ShotTask, Snapshot
from separatrix.seeding import find_first_paths
from separatrix.shooting import Shooter
from separatrix.systems import build_system, resolve

pytestmark = pytest.mark.benchmark

N_SHOTS = 1_000
BLOCKS = 10

SYSTEMS = {
    "alanine-dipeptide, vacuum": {"system": {"kind": "alanine-dipeptide"}},
    "alanine-dipeptide, obc2": {"system": {"kind": "alanine-dipeptide", "solvent": "obc2"}},
    "hummer-szabo": {"system": {"kind": "hummer-szabo"}},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_shooting_against_raw_steps(name: str) -> None:
    """Uniform shooting from the current path: time of whole shots, descriptors included, over that of bare steps."""
    shooter, raw, start = make(SYSTEMS[name])
    rng = np.random.default_rng(1)
    path, shots, bare, frames = start, [], [], 0
    n_shots = N_SHOTS if "obc2" not in name else N_SHOTS // 5
    first = Snapshot(positions=path[len(path) // 2])
    shooter.shoot(ShotTask(chain=0, step=0, snapshot=first, seed=1, model=0, frame=1))  # loads machine code, once
    for step in range(n_shots):
        frame = int(rng.integers(1, len(path) - 1))
        snapshot = Snapshot(positions=path[frame])
        task = ShotTask(chain=0, step=step, snapshot=snapshot, seed=int(rng.integers(2**62)), model=0, frame=frame)
        begin = time.perf_counter()
        outcome = shooter.shoot(task)
        middle = time.perf_counter()
        raw.step(outcome.md_steps)
        end = time.perf_counter()
        shots.append(middle - begin)
        bare.append(end - middle)
        frames += outcome.n_frames - 1
        if outcome.positions is not None:
            path = outcome.positions
    ratios = [sum(bare[block::BLOCKS]) / sum(shots[block::BLOCKS]) for block in range(BLOCKS)]
    error = np.std(ratios, ddof=1) / np.sqrt(BLOCKS)
    print(
        f"\n{name}: shooting at {sum(bare) / sum(shots):.3f} +- {error:.3f} of raw; {frames / n_shots:.1f} frames and "
        f"{sum(shots) / n_shots * 1e3:.2f} ms per shot, {sum(bare) / frames * 1e6:.0f} us of raw MD per frame"
    )


def make(data: dict[str, Any]) -> tuple[Shooter, Engine, np.ndarray]:
    """Return a shooter, a second engine for bare steps, and a first path."""
    config = resolve(data)
    system = build_system(config)
    start = next(iter(system.starts.values()))
    xml, _ = serialize(system.openmm_system, system.topology, start)
    observables = Observables(config, atoms_of(system.topology))
    paths = find_first_paths(xml, config, observables, system.starts, platform="Reference", properties={}, n_paths=1)
    engine, raw = Engine(xml, config, "Reference"), Engine(xml, config, "Reference")
    raw.place(start)
    return Shooter(engine, observables, config.sampling.max_frames, None), raw, paths[0].positions
