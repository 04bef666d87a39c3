"""Workers for shots: how many, on which devices, and the executor that has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from separatrix.engine import devices_of
from separatrix.executors import ProcessExecutor, SerialExecutor, WorkerExecutor
from separatrix.resources import GPU_PLATFORMS, Resources, usable_cores
from separatrix.shooting import WorkerSpec, start_worker

_FEW_ATOMS, _MANY_ATOMS = 10_000, 50_000


def workers_for(n_atoms: int) -> int:
    """Return how many workers share a GPU well: a small system alone leaves most of it idle, a large one fills it.

    >>> [workers_for(n_atoms) for n_atoms in (22, 1_651, 23_558, 92_224)]
    [4, 4, 2, 1]
    """
    return 4 if n_atoms < _FEW_ATOMS else 2 if n_atoms < _MANY_ATOMS else 1


def threads_each(resources: Resources, most: int) -> int:
    """Return how many threads of the CPU platform each worker may use.

    Parameters
    ----------
    most : workers that have something to do
    """
    return max(1, usable_cores() // max(1, _cpu_workers(resources, most)))


def worker_specs(run: Path, platform: str, resources: Resources, *, n_atoms: int, most: int) -> tuple[WorkerSpec, ...]:
    """Return what each worker needs to build its engine; one spec for a session that works in its own process.

    Workers take devices in turn. A worker for a GPU keeps one core busy at most, so that by default there are no more
    of them than cores.

    Parameters
    ----------
    platform : OpenMM platform, chosen already
    most : workers that have something to do
    """
    threads = threads_each(resources, most)
    if platform not in GPU_PLATFORMS:
        spec = WorkerSpec(run=run, platform=platform, threads=threads, descriptor_device=resources.descriptor_device)
        return (spec,) * max(1, _cpu_workers(resources, most))
    devices = resources.devices or tuple(range(len(devices_of(platform))))
    if resources.workers is not None:
        n_workers = max(1, resources.workers)
    elif resources.workers_per_device is not None:
        n_workers = len(devices) * resources.workers_per_device
    else:
        n_workers = max(1, min(len(devices) * workers_for(n_atoms), most, usable_cores()))
    numbers = [devices[worker % len(devices)] if devices else None for worker in range(n_workers)]
    # PyTorch counts devices as the CUDA platform does.
    own = resources.descriptor_device == "cuda" and platform == "CUDA"
    return tuple(
        WorkerSpec(
            run=run,
            platform=platform,
            device=number,
            precision=resources.precision or "mixed",
            descriptor_device=f"cuda:{number or 0}" if own else resources.descriptor_device,
        )
        for number in numbers
    )


def start_shooters(specs: Sequence[WorkerSpec], resources: Resources) -> WorkerExecutor:
    """Return an executor of ``shooting.shoot`` and ``shooting.follow`` with a worker for each spec."""
    if resources.workers == 0:
        return SerialExecutor(start_worker, (specs[0],))
    return ProcessExecutor(len(specs), start_worker, lambda worker: (specs[worker],))


def _cpu_workers(resources: Resources, most: int) -> int:
    return min(usable_cores(), most) if resources.workers is None else resources.workers
