"""Workers whose device fails as long as files say so. Imported by worker processes."""

from __future__ import annotations

import os
from pathlib import Path

import openmm

from separatrix import shooting
from separatrix.engine import Engine
from separatrix.errors import EngineError
from separatrix.shooting import WorkerSpec

FAULT = "Error launching CUDA compute kernel: CUDA_ERROR_LAUNCH_FAILED (719) at CudaKernel.cpp:57"
GONE = "platform CUDA cannot run this system: No compatible CUDA device is available"


class FaultyEngine(Engine):
    """An engine whose steps raise what OpenMM raises on a lost device, once for each file in ``faults``."""

    faults: Path
    n_calls = 0

    def _follow(self, *args):
        FaultyEngine.n_calls += 1
        if FaultyEngine.n_calls % 5 == 0 and take_one(self.faults):
            raise openmm.OpenMMException(FAULT)
        return super()._follow(*args)


def take_one(folder: Path) -> bool:
    """Return whether there was a file, and remove it."""
    for file in folder.glob("*"):
        try:
            file.unlink()
        except FileNotFoundError:  # another process was faster
            continue
        return True
    return False


def start_worker(spec: WorkerSpec) -> None:
    """Start a worker with such an engine; one of a device for which there is a file ``gone-N`` does not start."""
    if (spec.run / f"gone-{spec.device}").exists():
        raise EngineError(GONE)
    shooting.start_worker(spec)
    engine = shooting._here.shooter.engine
    engine.__class__ = FaultyEngine
    engine.faults, engine._compiled = spec.run / "faults", False
    with (spec.run / "starts").open("a") as file:
        file.write(f"{os.getpid()} {spec.device}\n")
