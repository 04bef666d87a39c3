"""Workers for shots: how many, on which devices, and the executor that has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from separatrix.engine import devices_of
from separatrix.executors import ProcessExecutor, SerialExecutor, WorkerExecutor
from separatrix.resources import GPU_PLATFORMS, Resources, usable_cores
from separatrix.shooting import WorkerSpec, start_worker

LEAST_SECONDS: Final = 300.0
"""Time that any shot gets: its worker may load libraries, and the machine may have other things to do."""

SLACK: Final = 10.0
"""How many times slower than shots before it the longest one may be."""

_FEW_ATOMS, _MANY_ATOMS = 10_000, 50_000


class TimeLimit:
    """How long a shot may take before its worker is taken for hung.

    It follows from the longest shot that there can be and the speed of those made. The length of the others plays no
    part: to end long shots alone would bias the paths.

    Parameters
    ----------
    longest : MD steps of the longest shot
    steps_per_second : of bare integration, until shots are made; 0 when it is not known
    wished : seconds, in place of all that
    """

    def __init__(self, longest: int, steps_per_second: float, wished: float | None) -> None:
        self._longest, self._wished = longest, wished
        self._steps, self._seconds = (steps_per_second, 1.0) if steps_per_second else (0.0, 0.0)

    def note(self, md_steps: int, seconds: float) -> None:
        """Take note of a shot that was made."""
        self._steps, self._seconds = self._steps + md_steps, self._seconds + seconds

    @property
    def seconds(self) -> float:
        """The limit, infinite while nothing is known.

        >>> limit = TimeLimit(1_000_000, 5_000.0, None)
        >>> limit.seconds, TimeLimit(1_000, 5_000.0, None).seconds, TimeLimit(1_000, 0.0, None).seconds
        (2000.0, 300.0, inf)
        >>> limit.note(45_000, 99.0)
        >>> limit.seconds
        20000.0
        """
        if self._wished is not None:
            return self._wished
        if self._steps <= 0:
            return math.inf
        return max(LEAST_SECONDS, SLACK * self._longest * self._seconds / self._steps)


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
    return tuple(
        WorkerSpec(
            run=run,
            platform=platform,
            device=number,
            precision=resources.precision or "mixed",
            descriptor_device=resources.descriptor_device,
        )
        for number in numbers
    )


def start_shooters(specs: Sequence[WorkerSpec], resources: Resources, limit: TimeLimit) -> WorkerExecutor:
    """Return an executor of ``shooting.shoot`` and ``shooting.follow`` with a worker for each spec.

    Parameters
    ----------
    limit : of the time of a shot; in this process nobody could end one
    """
    if resources.workers == 0:
        return SerialExecutor(start_worker, (specs[0],))
    return ProcessExecutor(len(specs), start_worker, lambda worker: (specs[worker],), lambda: limit.seconds)


def _cpu_workers(resources: Resources, most: int) -> int:
    return min(usable_cores(), most) if resources.workers is None else resources.workers
