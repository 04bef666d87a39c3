"""First transition paths, found without a human: hot runs, then steered runs, or a trajectory of one's own.

Of more than two states every pair may have its path: hot runs start in each state then, hotter ones where a state is
still without any path, and pairs that nothing came across are left for the sampling to find.

A seed path need not be an equilibrium path: it only gives the first shooting points. What decides when to stop is
counted in MD steps, not in seconds, so that a run is reproducible; the time limit only ends the search.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from separatrix.collective_variables import parse_definition
from separatrix.config import RunConfig
from separatrix.engine import Engine, Restraint
from separatrix.errors import EngineError, SeedingError
from separatrix.observables import Observables
from separatrix.records import NO_STATE, Float32Array, FloatArray, Snapshot
from separatrix.units import thermal_energy

HOT_STAGES = ((1.5, 3_000), (2.0, 3_000), (3.0, 6_000), (4.5, 20_000))
"""Hot runs tried in this order: temperature in units of the run's temperature, and frames at most."""

_OWN_TEMPERATURE_FRAMES = 50_000
_MORE_PATHS_FACTOR = 3
_STEERED_FRAMES = (500, 2_000, 8_000)
_HOT_SHARE = 0.7
_REPORT_SECONDS = 0.2
"""From one report to the next, by which a search can be stopped, too: of a large system a frame may take a second."""

_STRENGTHS: Mapping[str, float] = {
    "x": 200.0,
    "y": 200.0,
    "z": 200.0,
    "distance": 2_000.0,
    "angle": 400.0,
    "dihedral": 400.0,
}
"""Restraints of the steered runs, in kT per nm^2 or rad^2: stiff enough to lead, soft enough for the time step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPath:
    """A first transition path.

    Attributes
    ----------
    positions : (n_frames, n_atoms, 3) float32, nm; the two ends lie in two different states, no other frame in any
    box : (n_frames, 3, 3) float32, nm, or None
    ends : indices of the two states, the lower one first
    method : how it was found, in words
    """

    positions: Float32Array
    box: Float32Array | None
    ends: tuple[int, int]
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
    """What the search works with, its clock and counters, and the paths found."""

    system_xml: str
    config: RunConfig
    observables: Observables
    starts: Mapping[str, Snapshot]
    platform: str
    properties: Mapping[str, str]
    wanted: int
    report: Callable[[SeedingProgress], None]
    rng: np.random.Generator
    begun: float = field(default_factory=time.monotonic)
    frames: int = 0
    reported: float = 0.0
    found: list[SeedPath] = field(default_factory=list)
    blown_up: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    @property
    def satisfied(self) -> bool:
        """Whether there are as many paths as wanted, and of more than two states one for every pair."""
        n_states = len(self.observables.states.names)
        every_pair = len({path.ends for path in self.found}) == n_states * (n_states - 1) // 2
        return len(self.found) >= self.wanted and (n_states == 2 or every_pair)

    @property
    def connected(self) -> set[str]:
        """Names of the states that some path leads to or from."""
        names = self.observables.states.names
        return {names[state] for path in self.found for state in path.ends}

    @property
    def enough(self) -> bool:
        """Whether every state has a path, so that sampling may begin."""
        return len(self.connected) == len(self.observables.states.names)

    def keep(self, path: SeedPath) -> None:
        """Take a path, unless there are as many as wanted between its two states."""
        if sum(other.ends == path.ends for other in self.found) < self.wanted:
            self.found.append(path)

    def transitions(self, frames: Iterator[tuple[Snapshot, int]], activity: str) -> Iterator[SeedPath]:
        """Yield the transitions of a forced run; one that blows up ends, and is named if nothing is found."""
        try:
            for piece, ends in cut_transitions(frames, 2 * self.config.sampling.max_frames):
                yield _seed_path(piece, ends, activity)
        except EngineError:
            self.blown_up.append(activity)

    def engine(self, start: Snapshot, **settings: Any) -> Engine:
        """Return an engine that stands at a configuration, with velocities."""
        engine = Engine(self.system_xml, self.config, self.platform, self.properties, **settings)
        engine.reseed(int(self.rng.integers(2**63)))
        velocities, _ = engine.draw_velocities(start, self.rng)
        engine.place(start)
        engine.set_velocities(velocities)
        return engine

    def look(self, frame: Snapshot, activity: str) -> tuple[Snapshot, int]:
        """Count a frame, report now and then, and return the frame with its state."""
        self.frames += 1
        if (seconds := self.seconds) - self.reported > _REPORT_SECONDS:
            self.reported = seconds
            self.report(SeedingProgress(activity=activity, frames=self.frames, seconds=seconds, found=len(self.found)))
        return frame, self.observables.state_of(frame)


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

    Of more than two states it looks for paths between every two of them, and is content when each state has one; within
    the time limit, with fewer. They come in turns: one of each pair of states, then the second ones.

    Parameters
    ----------
    starts : for each state, or for some of them, a configuration inside it; steered runs need two
    n_paths : paths wanted, of more than two states at most so many of each pair; more than one lets chains start
        differently

    Raises
    ------
    SeedingError
        If neither hot nor steered runs gave a transition within ``config.seeding.time_limit``.
    """
    search = _Search(
        system_xml=system_xml,
        config=config,
        observables=observables,
        starts=starts,
        platform=platform,
        properties=properties,
        wanted=n_paths,
        report=report,
        rng=np.random.default_rng((config.sampling.seed, 0x5EED)),
    )
    hot, cold = config.seeding.temperature, config.dynamics.temperature
    stages = [(hot, _OWN_TEMPERATURE_FRAMES)] if hot else [(factor * cold, n) for factor, n in HOT_STAGES]
    for temperature, n_frames in stages:
        _run_hot(search, temperature, n_frames)
        if search.enough:
            return _in_turns(search.found)
    for n_frames in _STEERED_FRAMES:
        _run_steered(search, n_frames)
        if search.enough:
            return _in_turns(search.found)
    if search.found:
        return _in_turns(search.found)
    blown_up = f" ({', '.join(search.blown_up)} blew up)" if search.blown_up else ""
    alone = f" (which need a second start: there is one in {next(iter(starts))} alone)" if len(starts) < 2 else ""
    raise SeedingError(
        f"no transition between {' and '.join(observables.states.names)} was seen in {search.seconds:.0f} s "
        f"({search.frames} frames): neither in hot runs at {', '.join(f'{t:.0f} K' for t, _ in stages)} nor in "
        f"steered runs{alone}{blown_up}. Raise seeding.time_limit or seeding.temperature, or give a path of your own "
        "with seeding.trajectory"
    )


def _in_turns(paths: Sequence[SeedPath]) -> tuple[SeedPath, ...]:
    """Return paths so that one of each pair of states comes first, then the second ones, and so on."""
    seen: Counter[tuple[int, int]] = Counter()
    turns = []
    for path in paths:
        turns.append(seen[path.ends])
        seen[path.ends] += 1
    order = sorted(range(len(paths)), key=lambda place: turns[place])  # stable
    return tuple(paths[place] for place in order)


def cut_transitions(
    frames: Iterator[tuple[Snapshot, int]], max_frames: int
) -> Iterator[tuple[list[Snapshot], tuple[int, int]]]:
    """Yield the transitions in a stream of (frame, state index).

    A transition runs from the last frame in one state to the first in another, with frames between them. Pieces longer
    than ``max_frames`` are passed over. Transitions are oriented from the lower to the higher state.
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


def paths_from_trajectory(
    positions: FloatArray, box: FloatArray | None, observables: Observables, *, file: str
) -> tuple[SeedPath, ...]:
    """Cut the first transition out of a trajectory of one's own; of more than two states, the first of every pair.

    Parameters
    ----------
    positions : (n_frames, n_atoms, 3), nm
    box : (n_frames, 3, 3), nm, or None
    file : where it was read from, for the record and for errors

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
    first: dict[tuple[int, int], SeedPath] = {}
    n_states = len(observables.states.names)
    for piece, ends in cut_transitions(frames, len(positions)):
        if ends not in first:
            first[ends] = _seed_path(piece, ends, f"cut from {file}")
        if len(first) == n_states * (n_states - 1) // 2:
            break
    if first:
        return tuple(first.values())
    visited = {observables.states.names[state] for state in set(states.tolist()) if state >= 0}
    raise SeedingError(
        f"seeding.trajectory: {file}: expected a path from one state to another with frames between them, found "
        f"{len(positions)} frames that visit {' and '.join(sorted(visited)) or 'no state'}; give a file with a "
        "transition in it, or widen the states"
    )


def _run_hot(search: _Search, temperature: float, n_frames: int) -> None:
    """Run hot from the first state, in whatever direction it crosses; of more than two states, from each in turn."""
    several, again = len(search.observables.states.names) > 2, bool(search.found)
    for name in sorted(search.starts, key=lambda name: name in search.connected):  # those without a path come first
        where = f" from {name}" if several else ""
        _run_hot_from(search, search.starts[name], temperature, n_frames, f"hot run at {temperature:.0f} K{where}")
        if search.satisfied or not several or (again and search.enough):
            return


def _run_hot_from(search: _Search, start: Snapshot, temperature: float, n_frames: int, activity: str) -> None:
    time_limit = search.config.seeding.time_limit
    deadline = search.seconds + (time_limit * _HOT_SHARE - search.seconds) / 2
    engine = search.engine(start, temperature=temperature)
    last = search.frames + n_frames

    def frames() -> Iterator[tuple[Snapshot, int]]:
        while search.frames < last and search.seconds < deadline:
            yield search.look(engine.advance(), activity)

    begun, first = search.frames, True
    for path in search.transitions(frames(), activity):
        search.keep(path)
        if first:
            # Others may come as easily as the first, and let the chains start from different paths.
            last, first = min(last, search.frames + _MORE_PATHS_FACTOR * (search.frames - begun) + 1_000), False
        if search.satisfied:
            return


def _run_steered(search: _Search, n_frames: int) -> None:
    """Pull the collective variables from their values in a state to those in each one after it, until one is reached.

    Of more than two states all pairs are tried in which one has no path yet.
    """
    observables = search.observables
    definitions = [parse_definition(text, observables.n_atoms) for text in observables.definitions.values()]
    steerable = [i for i, definition in enumerate(definitions) if definition.name in _STRENGTHS]
    if not steerable:
        return
    chosen = [definitions[i] for i in steerable]
    kt = thermal_energy(search.config.dynamics.temperature)
    restraints = tuple(
        Restraint(kind=one.name, atoms=one.terms[0], strength=_STRENGTHS[one.name] * kt) for one in chosen
    )
    scale = np.array([np.pi / 180 if one.kind.unit == "degrees" else 1.0 for one in chosen])
    periodic = np.array([one.kind.periodic for one in chosen])
    values = {
        name: observables.cvs(start.positions[None], _batch_box(start))[0, steerable]
        for name, start in search.starts.items()
    }
    for origin, name in combinations(search.starts, 2):
        if {origin, name} <= search.connected:
            continue
        begin, end = values[origin], values[name]
        shortest = np.where(periodic, (end - begin + 180) % 360 - 180, end - begin)
        for way in _ways_round(shortest, periodic):
            engine = search.engine(search.starts[origin], restraints=restraints)
            activity = f"steered run to {name} in {n_frames} frames"
            stream = _pull(search, engine, begin * scale, way * scale, n_frames, activity)
            path = next(search.transitions(stream, activity), None)
            if path is not None:
                search.keep(path)
                break
            if search.seconds > search.config.seeding.time_limit:
                return


def _ways_round(shortest: FloatArray, periodic: FloatArray) -> Iterator[FloatArray]:
    """Yield the displacement along the shortest way, then with each periodic column the other way round."""
    yield shortest
    for column in np.flatnonzero(periodic):
        other = shortest.copy()
        other[column] -= np.copysign(360.0, shortest[column])
        yield other


def _pull(
    search: _Search, engine: Engine, begin: FloatArray, way: FloatArray, n_frames: int, activity: str
) -> Iterator[tuple[Snapshot, int]]:
    """Move the restraints from ``begin`` along ``way`` (nm, rad) in ``n_frames`` frames, then hold them a while."""
    for i in range(int(1.2 * n_frames)):
        if search.seconds > search.config.seeding.time_limit:
            return
        yield search.look(engine.advance(begin + way * min(1.0, i / n_frames)), activity)


def _seed_path(piece: list[Snapshot], ends: tuple[int, int], method: str) -> SeedPath:
    boxes = [frame.box for frame in piece if frame.box is not None]
    return SeedPath(
        positions=np.stack([frame.positions for frame in piece]),
        box=np.stack(boxes) if boxes else None,
        ends=ends,
        method=method,
    )


def _batch_box(frame: Snapshot) -> FloatArray | None:
    return None if frame.box is None else frame.box[None]
