"""The first transition path, found without a human: hot runs, then a steered run, or a trajectory of one's own.

A seed path need not be an equilibrium path: it only gives the first shooting points. What decides when to stop is
counted in MD steps, not in seconds, so that a run is reproducible; the time limit only ends the search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from separatrix.collective_variables import parse_definition
from separatrix.config import RunConfig
from separatrix.engine import Engine, Restraint
from separatrix.errors import SeedingError
from separatrix.observables import Observables
from separatrix.records import NO_STATE, Float32Array, FloatArray, Snapshot

HOT_STAGES = ((1.5, 3_000), (2.0, 3_000), (3.0, 6_000), (4.5, 20_000))
"""Hot runs tried in this order: temperature in units of the run's temperature, and frames at most."""

_OWN_TEMPERATURE_FRAMES = 50_000
_MORE_PATHS_FACTOR = 3
_STEERED_FRAMES = (500, 2_000, 8_000)
_HOT_SHARE = 0.7
_STRENGTHS: Mapping[str, float] = {
    "x": 2_000.0,
    "y": 2_000.0,
    "z": 2_000.0,
    "distance": 20_000.0,
    "angle": 1_000.0,
    "dihedral": 1_000.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPath:
    """A first transition path.

    Attributes
    ----------
    positions : (n_frames, n_atoms, 3) float32, nm; the two ends lie in two different states, no other frame in any
    box : (n_frames, 3, 3) float32, nm, or None
    method : how it was found, in words
    """

    positions: Float32Array
    box: Float32Array | None
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedingProgress:
    """What the search is doing: in words, frames made so far, seconds spent, paths found."""

    activity: str
    frames: int
    seconds: float
    found: int


@dataclass(slots=True, kw_only=True)
class _Search:
    """State of the search: clock, counters and the paths found."""

    wanted: int
    time_limit: float
    report: Callable[[SeedingProgress], None]
    start: float
    frames: int = 0
    found: list[SeedPath]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def tick(self, activity: str) -> None:
        self.frames += 1
        if self.frames % 200 == 0:
            self.report(
                SeedingProgress(activity=activity, frames=self.frames, seconds=self.seconds, found=len(self.found))
            )


def find_first_paths(
    system_xml: str,
    config: RunConfig,
    observables: Observables,
    starts: Mapping[str, Snapshot],
    *,
    platform: str,
    properties: Mapping[str, str],
    n_paths: int,
    report: Callable[[SeedingProgress], None] = lambda progress: None,
) -> tuple[SeedPath, ...]:
    """Find first transition paths, at least one and up to ``n_paths``.

    Parameters
    ----------
    starts : for each state a configuration inside it
    n_paths : paths wanted; more than one lets chains start differently

    Raises
    ------
    SeedingError
        If neither hot nor steered runs gave a transition within ``config.seeding.time_limit``.
    """
    search = _Search(
        wanted=n_paths, time_limit=config.seeding.time_limit, report=report, start=time.monotonic(), found=[]
    )
    rng = np.random.default_rng((config.sampling.seed, 0x5EED))
    hot = config.seeding.temperature
    cold = config.system.temperature
    stages = [(hot, _OWN_TEMPERATURE_FRAMES)] if hot else [(factor * cold, n) for factor, n in HOT_STAGES]
    for temperature, n_frames in stages:
        engine = Engine(system_xml, config, platform, properties, temperature=temperature)
        _run_hot(engine, f"hot run at {temperature:.0f} K", n_frames, observables, starts, config, search, rng)
        if search.found:
            return tuple(search.found)
    for n_frames in _STEERED_FRAMES:
        _run_steered(system_xml, config, platform, properties, observables, starts, n_frames, search, rng)
        if search.found:
            return tuple(search.found)
    raise SeedingError(
        f"no transition between {' and '.join(observables.states.names)} was seen in {search.seconds:.0f} s "
        f"({search.frames} frames): neither in hot runs at {', '.join(f'{t:.0f} K' for t, _ in stages)} nor in "
        "steered runs. Raise seeding.time_limit or seeding.temperature, or give a path of your own with "
        "seeding.trajectory"
    )


def cut_transitions(
    frames: Iterator[tuple[Snapshot, int]], max_frames: int
) -> Iterator[tuple[list[Snapshot], tuple[int, int]]]:
    """Yield the transitions in a stream of (frame, state index): from the last frame in one state to the first in another.

    Pieces longer than ``max_frames`` are passed over. Transitions are oriented from the lower to the higher state.
    """
    origin = NO_STATE
    piece: list[Snapshot] = []
    for frame, state in frames:
        if state == NO_STATE:
            if origin != NO_STATE and len(piece) <= max_frames:
                piece.append(frame)
            continue
        if origin not in (NO_STATE, state) and 1 < len(piece) <= max_frames:
            whole = [*piece, frame]
            yield (whole, (origin, state)) if origin < state else (whole[::-1], (state, origin))
        origin, piece = state, [frame]


def path_from_trajectory(positions: FloatArray, box: FloatArray | None, observables: Observables) -> SeedPath:
    """Cut the first transition out of a trajectory of one's own.

    Parameters
    ----------
    positions : (n_frames, n_atoms, 3), nm
    box : (n_frames, 3, 3), nm, or None

    Raises
    ------
    SeedingError
        If it holds no transition with at least one frame between the states.
    """
    states = observables.states.array(observables.cvs(positions, box))
    frames = (
        (
            Snapshot(positions=positions[i].astype(np.float32), box=None if box is None else box[i].astype(np.float32)),
            int(state),
        )
        for i, state in enumerate(states)
    )
    for piece, _ in cut_transitions(frames, len(positions)):
        return _seed_path(piece, "from a trajectory of one's own")
    visited = {observables.states.names[state] for state in set(states.tolist()) if state >= 0}
    raise SeedingError(
        f"seeding.trajectory: expected a path from one state to another with frames between them, found "
        f"{len(positions)} frames that visit {', '.join(sorted(visited)) or 'no state'}"
    )


def _run_hot(
    engine: Engine,
    activity: str,
    budget: int,
    observables: Observables,
    starts: Mapping[str, Snapshot],
    config: RunConfig,
    search: _Search,
    rng: np.random.Generator,
) -> None:
    deadline = search.seconds + (search.time_limit * _HOT_SHARE - search.seconds) / 2
    engine.reseed(int(rng.integers(2**63)))
    snapshot = next(iter(starts.values()))
    engine.set_velocities(engine.draw_velocities(snapshot, rng)[0])
    engine.place(snapshot)

    def frames() -> Iterator[tuple[Snapshot, int]]:
        made = 0
        while made < budget and search.seconds < deadline:
            frame = engine.advance()
            made += 1
            search.tick(activity)
            yield frame, observables.observe(frame.positions, frame.box)[0]

    begun = search.frames
    for piece, _ in cut_transitions(frames(), 2 * config.sampling.max_frames):
        search.found.append(_seed_path(piece, activity))
        if len(search.found) == 1:
            budget = min(budget, _MORE_PATHS_FACTOR * (search.frames - begun) + 1_000)
        if len(search.found) >= search.wanted:
            return


def _run_steered(
    system_xml: str,
    config: RunConfig,
    platform: str,
    properties: Mapping[str, str],
    observables: Observables,
    starts: Mapping[str, Snapshot],
    n_frames: int,
    search: _Search,
    rng: np.random.Generator,
) -> None:
    """Pull the collective variables from their values in the first state to those in each other one."""
    definitions = [parse_definition(text, observables.n_atoms) for text in config.collective_variables.values()]
    steerable = [i for i, definition in enumerate(definitions) if definition.name in _STRENGTHS]
    if not steerable:
        return
    restraints = tuple(
        Restraint(kind=definition.name, atoms=definition.terms[0], strength=_STRENGTHS[definition.name])
        for definition in (definitions[i] for i in steerable)
    )
    scale = np.array([np.pi / 180 if definitions[i].kind.unit == "degrees" else 1.0 for i in steerable])
    periodic = np.array([definitions[i].kind.periodic for i in steerable])
    names = list(starts)
    first = starts[names[0]]
    begin = observables.cvs(first.positions[None], _batch_box(first))[0, steerable]
    for name in names[1:]:
        other = starts[name]
        end = observables.cvs(other.positions[None], _batch_box(other))[0, steerable]
        shortest = np.where(periodic, (end - begin + 180) % 360 - 180, end - begin)
        for way in _ways_round(shortest, periodic):
            engine = Engine(system_xml, config, platform, properties, restraints=restraints)
            engine.reseed(int(rng.integers(2**63)))
            engine.set_velocities(engine.draw_velocities(first, rng)[0])
            engine.place(first)
            activity = f"steered run to {name} in {n_frames} frames"
            stream = _pull(engine, begin, way, scale, n_frames, observables, search, activity)
            for piece, _ in cut_transitions(stream, 2 * config.sampling.max_frames):
                search.found.append(_seed_path(piece, activity))
                return
            if search.seconds > search.time_limit:
                return


def _ways_round(shortest: FloatArray, periodic: FloatArray) -> Iterator[FloatArray]:
    """Yield the displacement along the shortest way, then with each periodic column the other way round."""
    yield shortest
    for column in np.flatnonzero(periodic):
        other = shortest.copy()
        other[column] -= np.copysign(360.0, shortest[column])
        yield other


def _pull(
    engine: Engine,
    begin: FloatArray,
    way: FloatArray,
    scale: FloatArray,
    n_frames: int,
    observables: Observables,
    search: _Search,
    activity: str,
) -> Iterator[tuple[Snapshot, int]]:
    for i in range(int(1.2 * n_frames)):
        if search.seconds > search.time_limit:
            return
        frame = engine.advance((begin + way * min(1.0, i / n_frames)) * scale)
        search.tick(activity)
        yield frame, observables.observe(frame.positions, frame.box)[0]


def _seed_path(piece: list[Snapshot], method: str) -> SeedPath:
    boxes = [frame.box for frame in piece if frame.box is not None]
    return SeedPath(
        positions=np.stack([frame.positions for frame in piece]),
        box=np.stack(boxes) if boxes else None,
        method=method,
    )


def _batch_box(frame: Snapshot) -> FloatArray | None:
    return None if frame.box is None else frame.box[None]
