"""Shooting against raw integration: the same steps on the same system, in turns, shot by shot.

Prints a table; asserts nothing about time. `make bench` runs it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from separatrix.engine import Engine, atoms_of, platform_properties, serialize
from separatrix.equilibration import equilibrate
from separatrix.observables import Observables
from separatrix.records import ShotTask, Snapshot
from separatrix.seeding import find_first_paths
from separatrix.shooting import Shooter
from separatrix.systems import build_system, resolve

pytestmark = pytest.mark.benchmark

BLOCKS = 10

SYSTEMS = {
    "alanine-dipeptide, vacuum": ({"system": {"kind": "alanine-dipeptide"}}, 1_000),
    "alanine-dipeptide, obc2": ({"system": {"kind": "alanine-dipeptide", "solvent": "obc2"}}, 200),
    "hummer-szabo": ({"system": {"kind": "hummer-szabo"}}, 1_000),
    "lithium-chloride, tip3p": ({"system": {"kind": "lithium-chloride", "equilibration": 2.0}}, 20),
    "alanine-dipeptide, tip3p": (
        {"system": {"kind": "alanine-dipeptide", "solvent": "tip3p", "equilibration": 2.0}},
        20,
    ),
}
"""Configurations, and how many shots each of them is measured with."""


@pytest.mark.parametrize("name", SYSTEMS)
def test_shooting_against_raw_steps(name: str) -> None:
    """Uniform shooting from the current path: time of whole shots, descriptors included, over that of bare steps."""
    data, n_shots = SYSTEMS[name]
    shooter, raw, path = make(data)
    rng = np.random.default_rng(1)
    shots, bare, frames = [], [], 0
    first = path[len(path) // 2]
    shooter.shoot(ShotTask(chain=0, step=0, snapshot=first, seed=1, model=0, frame=1))  # loads machine code, once
    for step in range(n_shots):
        frame = int(rng.integers(1, len(path) - 1))
        task = ShotTask(chain=0, step=step, snapshot=path[frame], seed=int(rng.integers(2**62)), model=0, frame=frame)
        begin = time.perf_counter()
        outcome = shooter.shoot(task)
        middle = time.perf_counter()
        raw.step(outcome.md_steps)
        end = time.perf_counter()
        shots.append(middle - begin)
        bare.append(end - middle)
        frames += outcome.n_frames - 1
        if outcome.positions is not None:
            path = snapshots(outcome.positions, outcome.box)
    ratios = [sum(bare[block::BLOCKS]) / sum(shots[block::BLOCKS]) for block in range(BLOCKS)]
    error = np.std(ratios, ddof=1) / np.sqrt(BLOCKS)
    print(
        f"\n{name}: shooting at {sum(bare) / sum(shots):.3f} +- {error:.3f} of raw; {frames / n_shots:.1f} frames and "
        f"{sum(shots) / n_shots * 1e3:.2f} ms per shot, {sum(bare) / frames * 1e6:.0f} us of raw MD per frame"
    )


def make(data: dict[str, Any]) -> tuple[Shooter, Engine, list[Snapshot]]:
    """Return a shooter, a second engine for bare steps, and a first path."""
    config = resolve(data)
    system = equilibrate(build_system(config), config)
    platform = "CPU" if system.periodic else "Reference"
    properties = platform_properties(platform, threads=1)
    start = next(iter(system.starts.values()))
    xml, _ = serialize(system.openmm_system, system.topology, start)
    observables = Observables(config, atoms_of(system.topology))
    found = find_first_paths(
        xml, config, observables, system.starts, platform=platform, properties=properties, n_paths=1
    )
    engine, raw = Engine(xml, config, platform, properties), Engine(xml, config, platform, properties)
    raw.place(start)
    shooter = Shooter(engine, observables, config.sampling.max_frames, None)
    return shooter, raw, snapshots(found[0].positions, found[0].box)


def snapshots(positions: Any, box: Any) -> list[Snapshot]:
    """Return the frames of a path."""
    boxes = [None] * len(positions) if box is None else box
    return [Snapshot(positions=frame, box=cell) for frame, cell in zip(positions, boxes, strict=True)]
