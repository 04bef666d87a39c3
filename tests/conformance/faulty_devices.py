"""Workers whose device or memory fails as long as files say so. Imported by worker processes."""

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


FAULTS = {
    "": openmm.OpenMMException(FAULT),
    "memory": MemoryError(),
    "allocation": openmm.OpenMMException("std::bad_alloc"),
    "device memory": openmm.OpenMMException("Error creating array posq: CUDA_ERROR_OUT_OF_MEMORY (2)"),
}
"""What is raised for a file with this text."""


class FaultyEngine(Engine):
    """An engine whose steps raise what a machine in trouble raises, once for each file in ``faults``."""

    faults: Path
    n_calls = 0

    def _follow(self, *args):
        FaultyEngine.n_calls += 1
        if FaultyEngine.n_calls % 5 == 0 and (kind := take_one(self.faults)) is not None:
            raise FAULTS[kind]
        return super()._follow(*args)


def take_one(folder: Path) -> str | None:
    """Return the text of a file, and remove it; None if there is none."""
    for file in folder.glob("*"):
        try:
            text = file.read_text()
            file.unlink()
        except FileNotFoundError:  # another process was faster
            continue
        return text
    return None


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
