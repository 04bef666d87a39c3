"""Two-way shooting and committor shooting: what workers do. A worker builds its engine once, from the run's files."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from separatrix.config import RunConfig
from separatrix.engine import (
    Engine,
    Half,
    PlatformSpeed,
    limit_mesh_threads,
    measure_platforms,
    platform_names,
    platform_properties,
    read_atoms,
)
from separatrix.errors import ClusterError, DeviceLostError, EngineError
from separatrix.observables import Observables
from separatrix.records import (
    Float32Array,
    ShotFailure,
    ShotOutcome,
    ShotTask,
    Snapshot,
    TrajectoryOutcome,
    TrajectoryTask,
    connects,
)
from separatrix.store import CONFIG, SYSTEM, TOPOLOGY, check_files, write_trajectory
from separatrix.symmetry_functions import is_usable

_Outcome = TypeVar("_Outcome", ShotOutcome, TrajectoryOutcome)

THINNED_FRAMES: Final = 50
"""Frames kept of each half of a trial that is no transition."""


def kept_frames(n_frames: int, shooting_frame: int, ends: tuple[int, int]) -> NDArray[np.int32]:
    """Return the indices of the frames a run keeps: all of a transition, else at most 50 of each half.

    The shooting point and the ends are always kept; descriptors of every frame would be dear in water.

    >>> kept_frames(5, 1, (0, 0))
    array([0, 1, 2, 3, 4], dtype=int32)
    >>> len(kept_frames(1000, 300, (0, 1))), len(kept_frames(1000, 300, (0, 0)))
    (1000, 101)
    """
    middle, last = shooting_frame, n_frames - 1
    if connects(ends):
        return np.arange(last + 1, dtype=np.int32)
    before = np.unique(np.linspace(0, middle - 1, min(middle, THINNED_FRAMES)).round().astype(np.int32))
    after = np.unique(np.linspace(middle + 1, last, min(last - middle, THINNED_FRAMES)).round().astype(np.int32))
    return np.concatenate([before, [middle], after]).astype(np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All a worker needs to build its engine.

    Attributes
    ----------
    run : folder of the run, on a file system the worker sees
    platform : OpenMM platform
    threads : threads of the CPU platform
    device : number of the GPU, or None
    precision : of GPU platforms
    descriptor_device : where symmetry functions are computed: cpu, cuda for the GPU that the worker simulates on, or
        "auto" for that GPU where it simulates on CUDA and torch can use it, else the processor
    """

    run: Path
    platform: str
    threads: int = 1
    device: int | None = None
    precision: str = "mixed"
    descriptor_device: str = "auto"

    @property
    def properties(self) -> dict[str, str]:
        """OpenMM properties of the context."""
        return platform_properties(self.platform, threads=self.threads, device=self.device, precision=self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """All a worker on another machine needs to build its engine.

    Attributes
    ----------
    run : folder of the run, on a file system the worker sees
    beacon : a file in it, which tells a worker that it sees the folder that the session sees
    platform : OpenMM platform, or "auto" for the fastest that the worker's machine has
    precision : of GPU platforms
    descriptor_device : where symmetry functions are computed: cpu, or cuda or auto where the worker simulates on CUDA
    start : a configuration to time platforms with
    """

    run: Path
    beacon: Path
    platform: str
    precision: str
    descriptor_device: str
    start: Snapshot


def descriptor_device(spec: WorkerSpec, config: RunConfig) -> str:
    """Return the device of torch on which a worker computes the symmetry functions of a run."""
    on_cuda = spec.platform == "CUDA"
    own = f"cuda:{spec.device or 0}" if on_cuda else "cuda"  # torch counts devices as the CUDA platform does
    if spec.descriptor_device != "auto":
        return own if spec.descriptor_device == "cuda" else spec.descriptor_device
    if not on_cuda or not config.descriptors.symmetry_functions:
        return "cpu"
    return own if is_usable(own) else "cpu"


class Shooter:
    """Makes shots for one run.

    Parameters
    ----------
    engine, observables : of the run
    max_frames : longest half-trajectory, frames
    run : folder where trajectories of transitions are written, or None to write none
    """

    def __init__(self, engine: Engine, observables: Observables, max_frames: int, run: Path | None) -> None:
        self.engine = engine
        self.observables = observables
        self.max_frames = max_frames
        self.run = run
        self._rng = np.random.Generator(np.random.Philox())

    @classmethod
    def build(cls, spec: WorkerSpec) -> Shooter:
        """Build from the files of a run."""
        check_files(spec.run)
        config = RunConfig.read(spec.run / CONFIG)
        system_xml = (spec.run / SYSTEM).read_text()
        engine = Engine(system_xml, config, spec.platform, spec.properties)
        atoms = read_atoms(spec.run / TOPOLOGY)
        observables = Observables(config, atoms, descriptor_device(spec, config))
        nothing = np.zeros((0, observables.n_atoms, 3), dtype=np.float32)
        observables.features(nothing, None)  # loads what descriptors need, so that no shot has to wait for it
        return cls(engine, observables, config.sampling.max_frames, spec.run)

    def shoot(self, task: ShotTask) -> ShotOutcome:
        """Integrate one half from (x, v), one from (x, -v), and join them at x.

        Raises
        ------
        EngineError
            If the integration blows up.
        """
        start = time.perf_counter()
        engine, measure = self.engine, self.observables.measure
        engine.abandoned = False
        engine.reseed(task.seed)
        forward_v, backward_v = engine.draw_velocities(task.snapshot, self._seeded(task.seed))
        forward = engine.half(task.snapshot, forward_v, measure, self.max_frames)
        backward = engine.half(task.snapshot, backward_v, measure, self.max_frames)
        positions, box, shooting_frame, ends = _join(task, backward, forward)
        transition = connects(ends)
        trajectory = None
        if transition and self.run is not None and not engine.abandoned:
            trajectory = write_trajectory(self.run, f"{task.chain}-{task.step}", positions, box)
        kept = kept_frames(len(positions), shooting_frame, ends)
        seen = positions if transition else positions[kept]
        seen_box = box if box is None or transition else box[kept]
        return ShotOutcome(
            chain=task.chain,
            step=task.step,
            positions=positions if transition and trajectory is None else None,
            box=box if transition else None,
            n_frames=len(positions),
            kept=kept,
            features=self.observables.features(seen, seen_box),
            cvs=self.observables.cvs(seen, seen_box),
            shooting_frame=shooting_frame,
            ends=ends,
            md_steps=(len(positions) - 1) * engine.stride,
            seconds=time.perf_counter() - start,
            trajectory=trajectory,
        )

    def follow(self, task: TrajectoryTask) -> TrajectoryOutcome:
        """Integrate from x with fresh Maxwell-Boltzmann velocities until a state, or for ``max_frames`` frames.

        One way only: the halves of a shot start with opposite velocities and are no independent trials of p_B(x).

        Raises
        ------
        EngineError
            If the integration blows up.
        """
        start = time.perf_counter()
        engine = self.engine
        engine.abandoned = False
        engine.reseed(task.seed)
        velocities, _ = engine.draw_velocities(task.snapshot, self._seeded(task.seed))
        half = engine.half(task.snapshot, velocities, self.observables.measure, self.max_frames)
        n_frames = len(half.positions)
        return TrajectoryOutcome(
            configuration=task.configuration,
            trajectory=task.trajectory,
            state=half.state,
            n_frames=n_frames,
            md_steps=n_frames * engine.stride,
            seconds=time.perf_counter() - start,
        )

    def _seeded(self, seed: int) -> np.random.Generator:
        """Return the generator of one shot: Philox keyed by its seed, ten times as fast to set as a new generator."""
        self._rng.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": np.zeros(4, np.uint64), "key": np.array([seed, 0], np.uint64)},
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,  # nothing is left of numbers drawn before
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._rng


def _join(
    task: ShotTask, backward: Half, forward: Half
) -> tuple[Float32Array, Float32Array | None, int, tuple[int, int]]:
    """Return reversed backward half + shooting point + forward half, oriented from the lower to the higher state."""
    positions = np.concatenate([backward.positions[::-1], task.snapshot.positions[None], forward.positions])
    box = None
    if backward.box is not None and forward.box is not None and task.snapshot.box is not None:
        box = np.concatenate([backward.box[::-1], task.snapshot.box[None], forward.box])
    shooting_frame = len(backward.positions)
    ends = (backward.state, forward.state)
    if ends[0] > ends[1] >= 0:
        positions = np.ascontiguousarray(positions[::-1])
        box = None if box is None else np.ascontiguousarray(box[::-1])
        shooting_frame = len(positions) - 1 - shooting_frame
        ends = (ends[1], ends[0])
    return positions, box, shooting_frame, ends


_here = threading.local()  # a worker process has one thread; serial sessions of one process have one each


def start_worker(spec: WorkerSpec) -> None:
    """Build the shooter of this thread; the initializer of worker processes."""
    limit_mesh_threads(spec.threads)
    _here.spec = spec
    _here.shooter = Shooter.build(spec)


def _shooter() -> Shooter:
    """Return the shooter of this thread; a new one where the device of the last one was lost."""
    spec: WorkerSpec | None = getattr(_here, "spec", None)
    if spec is None:
        raise RuntimeError("start_worker was not called in this thread")
    if _here.shooter is None:
        try:
            start_worker(spec)
        except EngineError as error:
            raise DeviceLostError(str(error)) from error
    return _here.shooter  # type: ignore[no-any-return]


class ClusterShooter:
    """The shooter of a worker on another machine, as its executor sees it.

    Attributes
    ----------
    report : its platform, and how fast that is
    """

    def __init__(self, report: PlatformSpeed) -> None:
        self.report = report
        self._here = vars(_here)  # of this thread, where another shooter may come to stand when a device is lost

    def abandon(self) -> None:
        """End the shot at work soon; called from another thread."""
        shooter: Shooter | None = self._here.get("shooter")
        if shooter is not None:
            shooter.engine.abandoned = True


def join_cluster(threads: int, spec: ClusterSpec) -> ClusterShooter:
    """Build the shooter of this thread in a worker on another machine.

    Raises
    ------
    ClusterError
        The worker does not see the run, or may not write there.
    EngineError
        No platform of its machine can run the system.
    """
    host = socket.gethostname()
    if not spec.beacon.exists():
        raise ClusterError(
            f"on {host} there is no {spec.run}: expected the run on a file system that the session and all "
            "workers see under the same path; make it there"
        )
    if not os.access(spec.beacon.parent, os.W_OK):
        raise ClusterError(f"on {host} the worker may not write to {spec.beacon.parent}, where trajectories go")
    limit_mesh_threads(threads)
    config = RunConfig.read(spec.run / CONFIG)
    names = platform_names() if spec.platform == "auto" else (spec.platform,)
    platforms = {name: platform_properties(name, threads=threads, precision=spec.precision) for name in names}
    xml = (spec.run / SYSTEM).read_text()
    best = measure_platforms(xml, config, spec.start, platforms)[0]
    if best.error:
        raise EngineError(f"on {host} no platform can run this system: {best.platform}: {best.error}")
    worker = WorkerSpec(
        run=spec.run,
        platform=best.platform,
        threads=threads,
        precision=spec.precision,
        descriptor_device=spec.descriptor_device if best.platform == "CUDA" else "cpu",
    )
    start_worker(worker)
    return ClusterShooter(best)


def shoot(task: ShotTask) -> ShotOutcome | ShotFailure:
    """Make one shot in a worker process; whatever goes wrong with it comes back as a value.

    Raises
    ------
    DeviceLostError
        If the worker is of no use any more; whoever has it replaces it.
    """
    return _attempted(task, lambda shooter: shooter.shoot(task))


def follow(task: TrajectoryTask) -> TrajectoryOutcome | ShotFailure:
    """Make one trajectory of committor shooting in a worker process; what goes wrong is told as by `shoot`."""
    return _attempted(task, lambda shooter: shooter.follow(task))


def _attempted(task: ShotTask | TrajectoryTask, work: Callable[[Shooter], _Outcome]) -> _Outcome | ShotFailure:
    try:
        return work(_shooter())
    except DeviceLostError:
        _here.shooter = None
        raise
    except MemoryError as error:  # this process keeps what it holds; another one begins with little
        _here.shooter = None
        raise DeviceLostError(f"out of memory: {str(error) or 'no more is to be had'}") from error
    except Exception as error:  # noqa: BLE001 - one bad shot must not end a run
        return ShotFailure(task=task, error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


def result_of(future: Future[Any], task: ShotTask | TrajectoryTask) -> Any:
    """Return what a worker made of a task; a worker that died or lost its device made a failure of it.

    Raises
    ------
    WorkersLostError
        If there is no worker left.
    """
    try:
        return future.result()
    except DeviceLostError as error:
        text = "".join(traceback.format_exception(error))
        return ShotFailure(task=task, error=f"{type(error).__name__}: {error}", traceback=text)
    except (BrokenExecutor, CancelledError) as error:
        return ShotFailure(task=task, error=str(error) or "the task was cancelled", traceback="")
