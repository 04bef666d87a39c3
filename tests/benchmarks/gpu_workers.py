"""What worker processes do in the benchmark of GPUs."""

from __future__ import annotations

import time

from separatrix.records import ShotTask, Snapshot
from separatrix.shooting import _here


def shoot_for(seconds: float, snapshot: Snapshot, seed: int) -> tuple[int, int, float, float]:
    """Shoot for a while; return MD steps, shots, and when that began and ended (seconds)."""
    steps = shots = 0
    start = time.monotonic()  # of the machine: the same in all processes
    while (now := time.monotonic()) - start < seconds:
        task = ShotTask(chain=0, step=shots, snapshot=snapshot, seed=seed + shots, model=0, frame=0)
        steps += _here.shooter.shoot(task).md_steps
        shots += 1
    return steps, shots, start, now


def step_for(seconds: float, snapshot: Snapshot) -> tuple[int, int, float, float]:
    """Integrate without looking, as long; velocities are asked for in the end, since devices work on their own."""
    engine = _here.shooter.engine
    engine.place(snapshot)
    steps = 0
    start = time.monotonic()  # of the machine: the same in all processes
    while (now := time.monotonic()) - start < seconds:
        engine.step(500)
        steps += 500
        engine.velocities()
    return steps, 0, start, now
