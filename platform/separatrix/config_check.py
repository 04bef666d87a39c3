"""What a configuration will do, before a run is made of it: does it load, hold and reach its states, and at what cost.

Everything is tried on the system itself, in well under a minute: energies and forces where it starts, the speed of
every platform, a search for a first path, and some shots from it.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import psutil

from separatrix.collective_variables import parse_definition
from separatrix.config import RunConfig, anchored, read_toml
from separatrix.diagnosis import Finding
from separatrix.engine import (
    Engine,
    PlatformSpeed,
    atoms_of,
    measure_platforms,
    platform_names,
    platform_properties,
    serialize,
)
from separatrix.errors import ConfigError, EngineError, SeedingError, SystemBuildError
from separatrix.observables import Observables
from separatrix.preparing import own_seed_paths
from separatrix.records import NO_STATE, Atoms, ShotOutcome, ShotTask, Snapshot
from separatrix.resources import usable_cores
from separatrix.seeding import SeedPath, find_first_paths
from separatrix.shooting import Shooter, kept_frames
from separatrix.systems import build_system, resolve
from separatrix.systems.base import Equilibration, System
from separatrix.timesteps import longest_timestep

SEEDING_SECONDS: Final = 20.0
SHOOTING_SECONDS: Final = 10.0
MAX_SHOTS: Final = 100
_PLATFORM_SECONDS: Final = 1.0
_LARGE_FORCE: Final = 1e4
"""kJ/mol/nm. Thermal motion gives a stiff bond of 3e5 kJ/mol/nm^2 some 1e3."""
_HUGE_FORCE: Final = 1e6
_STARTS_LOOKED_AT: Final = 5
_ITERATIONS: Final = 50
_STARTS_SHOWN: Final = 6
_WORKER_BYTES: Final = 300 * 2**20
_DEAR_DESCRIPTORS, _CHEAP_FRAME = 0.15, 1e-4
"""Share of the time of MD, and seconds a frame below which nobody needs to mind."""
_ROW_BYTES: Final = 150
"""Of a shot in the columns of all shots."""
_FOLDER_BYTES: Final = 4 * 4096
"""Of the folder of a transition: small files take whole blocks."""
_GIB: Final = 2**30

Level = Literal["ok", "note", "problem"]
Report = Callable[[str], None]


def check_config(file: Path, report: Report = lambda activity: None) -> tuple[Finding, ...]:
    """Check a configuration in a file, and return what was found, in the order in which it was looked at.

    What depends on something that failed is left out.

    Parameters
    ----------
    file : TOML
    report : told what is being done

    Raises
    ------
    ConfigError
        If the file cannot be read, is no TOML, or is no configuration of something that moves.
    """
    data = anchored(read_toml(file), file.parent)
    return tuple(_findings(data, str(file), report))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A configuration that loads, and what it makes."""

    config: RunConfig
    system: System
    system_xml: str
    observables: Observables
    atoms: Atoms

    @property
    def start(self) -> Snapshot:
        """A configuration inside a state, or any."""
        return next(iter((self.observables.starts_in_states(self.system.starts) or self.system.starts).values()))


def _findings(data: Mapping[str, Any], where: str, report: Report) -> Iterator[Finding]:
    report("loading the system")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            config = resolve(data, where=where)
            system = build_system(config)
    except SystemBuildError as error:
        yield Finding(level="problem", subject="system", found=str(error), advice="Nothing else can be checked.")
        return
    yield _system(system)
    for warning in told:
        yield Finding(level="note", subject="system", found=" ".join(str(warning.message).split()))
    atoms = atoms_of(system.topology)
    try:
        observables = Observables(config, atoms)
    except ConfigError as error:
        yield Finding(level="problem", subject="columns", found=str(error), advice="Nothing else can be checked.")
        return
    xml, _ = serialize(system.openmm_system, system.topology, next(iter(system.starts.values())))
    case = _Case(config=config, system=system, system_xml=xml, observables=observables, atoms=atoms)
    yield _columns(case)
    starts = list(_starts(case))
    yield from starts
    yield _timestep(case)
    report("forces where it starts")
    forces = list(_forces(case) if system.equilibration is None else _unequilibrated(system.equilibration))
    yield from forces
    if any(finding.level == "problem" for finding in chain(starts, forces)):
        return
    report("the speed of every platform")
    platforms = {name: platform_properties(name, threads=1) for name in platform_names()}
    speeds = measure_platforms(xml, config, _relaxed(case), platforms, seconds=_PLATFORM_SECONDS)
    yield from _platforms(speeds)
    if not speeds[0].error:
        yield _descriptors(case, speeds[0])
        if system.equilibration is None:
            yield from _shots(case, speeds[0], report)
        else:
            yield _guess(case, speeds[0], "The water is not equilibrated yet")
        yield _memory(case)


# -- what it is --------------------------------------------------------------------------------------------------------


def _system(system: System) -> Finding:
    box = next(iter(system.starts.values())).box
    periodic = "no box" if box is None else f"box {' x '.join(f'{edge:.2f}' for edge in np.diag(box))} nm"
    openmm_system = system.openmm_system
    names = Counter(type(force).__name__ for force in openmm_system.getForces())
    found = (
        f"{system.description}: {openmm_system.getNumParticles():,} particles, {openmm_system.getNumConstraints():,} "
        f"constraints, {periodic}; {', '.join(names)}"
    )
    return Finding(level="ok", subject="system", found=found)


def _columns(case: _Case) -> Finding:
    parts = []
    for name, text in case.observables.definitions.items():
        definition = parse_definition(text, case.observables.n_atoms)
        atoms = list(dict.fromkeys(chain(*definition.terms)))
        shown = ", ".join(case.atoms.names[atom] for atom in atoms[:4]) + (", ..." if len(atoms) > 4 else "")
        parts.append(f"{name} = {definition.name} of {shown}")
    return Finding(level="ok", subject="columns", found="; ".join(parts))


def _starts(case: _Case) -> Iterator[Finding]:
    observables, starts = case.observables, case.system.starts
    names = observables.states.names
    states = {name: observables.state_of(start) for name, start in starts.items()}
    lines = [
        f"{name} in {names[states[name]] if states[name] != NO_STATE else 'no state'} ({_values(case, start)})"
        for name, start in list(starts.items())[:_STARTS_SHOWN]
    ]
    if len(starts) > _STARTS_SHOWN:
        counts = Counter(names[state] if state != NO_STATE else "no state" for state in states.values())
        lines.append(f"of {len(starts)} in all: {', '.join(f'{n} in {name}' for name, n in counts.items())}")
    inside = [name for index, name in enumerate(names) if index in states.values()]
    level: Level = "ok"
    advice = ""
    if len(inside) < len(names) and not case.config.seeding.trajectory:
        missing = ", ".join(name for name in names if name not in inside)
        level = "note"
        advice = f"No start lies in {missing}: hot runs alone will look for it; steered ones need to know where it is."
    try:
        observables.check_starts(starts)
    except ConfigError as error:
        level, advice = "problem", str(error)
    yield Finding(level=level, subject="starts", found="; ".join(lines), advice=advice)


def _values(case: _Case, start: Snapshot) -> str:
    columns = case.observables.columns
    values = zip(columns.names, case.observables.cvs_of(start).tolist(), strict=True)
    return ", ".join(f"{name} = {value:.4g}" for name, value in values)


def _timestep(case: _Case) -> Finding:
    dynamics = case.config.dynamics
    limit = longest_timestep(case.system.openmm_system)
    found = f"{dynamics.timestep:g} fs, {dynamics.integrator} dynamics"
    if dynamics.integrator == "brownian" or limit is None:
        return Finding(level="ok", subject="time step", found=found)
    found += f"; up to {limit.femtoseconds:.1f} fs go with {limit.reason}"
    if dynamics.timestep <= limit.femtoseconds:
        return Finding(level="ok", subject="time step", found=found)
    level: Level = "problem" if dynamics.timestep > 1.5 * limit.femtoseconds else "note"
    return Finding(level=level, subject="time step", found=found, advice=limit.advice)


def _forces(case: _Case) -> Iterator[Finding]:
    """Yield the energy and the largest force at the first starts."""
    starts = list((case.observables.starts_in_states(case.system.starts) or case.system.starts).items())
    try:
        name = "CPU" if "CPU" in platform_names() else "Reference"
        engine = Engine(case.system_xml, case.config, name, platform_properties(name, threads=1))
    except EngineError as error:
        yield Finding(level="problem", subject="forces", found=str(error))
        return
    parts, worst, culprit = [], 0.0, ""
    for label, start in starts[:_STARTS_LOOKED_AT]:
        energy, forces = engine.potential_energy(start), engine.forces(start)
        sizes = np.linalg.norm(forces, axis=1)
        largest = float(sizes.max()) if np.isfinite(sizes).all() and np.isfinite(energy) else np.inf
        parts.append(f"{label}: {energy:,.1f} kJ/mol, largest force {largest:,.0f} kJ/mol/nm")
        if largest >= worst:
            atom = int(np.nan_to_num(sizes, nan=np.inf).argmax())
            worst, culprit = largest, case.atoms.names[atom]
    level: Level = "problem" if worst > _HUGE_FORCE else "note" if worst > _LARGE_FORCE else "ok"
    advice = f"Atoms are too close at {culprit}: minimise the energy of the start first." if level != "ok" else ""
    yield Finding(level=level, subject="forces", found="; ".join(parts), advice=advice)


def _unequilibrated(plan: Equilibration) -> Iterator[Finding]:
    found = f"not looked at: the water is equilibrated when a run is made, {plan.picoseconds:g} ps around each start"
    yield Finding(level="note", subject="forces", found=found)


def _relaxed(case: _Case) -> Snapshot:
    """Return a start, downhill of water that is not equilibrated yet."""
    if case.system.equilibration is None:
        return case.start
    return Engine(case.system_xml, case.config, "CPU").minimize(case.start, _ITERATIONS)


# -- what it costs -----------------------------------------------------------------------------------------------------


def _platforms(speeds: tuple[PlatformSpeed, ...]) -> Iterator[Finding]:
    for rank, speed in enumerate(speeds):
        subject = f"platform {speed.platform}"
        if speed.error:
            level: Level = "note" if not speeds[0].error else "problem"
            yield Finding(level=level, subject=subject, found=speed.error)
        else:
            taken = "; what --platform auto takes" if rank == 0 else ""
            found = f"{speed.steps_per_second:,.0f} MD steps/s on this system, one thread{taken}"
            yield Finding(level="ok", subject=subject, found=found)


def _descriptors(case: _Case, speed: PlatformSpeed) -> Finding:
    start, n_frames = case.start, 20
    positions = np.repeat(start.positions[None], n_frames, axis=0)
    box = None if start.box is None else np.repeat(start.box[None], n_frames, axis=0)
    case.observables.features(positions[:1], None if box is None else box[:1])  # compiles, or loads what it needs
    begun = time.perf_counter()
    case.observables.features(positions, box)
    each = (time.perf_counter() - begun) / n_frames
    share = each / (case.config.sampling.stride / speed.steps_per_second)
    found = f"{len(case.observables.descriptors.names):,}, {1e3 * each:.3g} ms a frame, {share:.1%} of the MD before it"
    if share <= _DEAR_DESCRIPTORS or each < _CHEAP_FRAME:
        return Finding(level="ok", subject="descriptors", found=found)
    advice = "They cost much beside the MD: choose fewer, or a longer sampling.stride."
    return Finding(level="note", subject="descriptors", found=found, advice=advice)


def _shots(case: _Case, speed: PlatformSpeed, report: Report) -> Iterator[Finding]:
    """Yield what a first path, shots from it, disk and memory come to."""
    properties = platform_properties(speed.platform, threads=1)
    begun = time.monotonic()
    try:
        path = _first_path(case, speed.platform, properties, report)
    except EngineError as error:
        yield Finding(level="problem", subject="first path", found=str(error), advice="Lower system.timestep.")
        return
    except SeedingError as error:
        own = case.config.seeding.trajectory is not None
        limit = case.config.seeding.time_limit
        advice = "" if own else f"A run looks for {limit:.0f} s; a path of your own helps most: seeding.trajectory."
        yield Finding(level="problem" if own else "note", subject="first path", found=str(error), advice=advice)
        yield _guess(case, speed, "Without a path")
    else:
        picoseconds = (len(path.positions) - 1) * case.config.sampling.stride * case.config.dynamics.timestep / 1e3
        found = (
            f"{path.method}, {len(path.positions)} frames ({picoseconds:.3g} ps), in {time.monotonic() - begun:.0f} s"
        )
        yield Finding(level="ok", subject="first path", found=found)
        report("trial shots")
        yield from _trials(case, path, speed, properties)


def _first_path(case: _Case, platform: str, properties: Mapping[str, str], report: Report) -> SeedPath:
    if own := own_seed_paths(case.config, case.system, case.observables):
        return own[0]
    limit = min(SEEDING_SECONDS, case.config.seeding.time_limit)
    seeding = case.config.seeding.model_copy(update={"time_limit": limit})
    paths = find_first_paths(
        case.system_xml,
        case.config.model_copy(update={"seeding": seeding}),
        case.observables,
        case.observables.starts_in_states(case.system.starts),
        platform=platform,
        properties=properties,
        n_paths=1,
        report=lambda progress: report(f"a first path: {progress.activity}, {progress.seconds:.0f} s"),
    )
    return paths[0]


def _trials(case: _Case, path: SeedPath, speed: PlatformSpeed, properties: Mapping[str, str]) -> Iterator[Finding]:
    """Shoot from frames spread over a path, for some seconds."""
    sampling = case.config.sampling
    longest = max(2, int(SHOOTING_SECONDS / 2 * speed.steps_per_second / sampling.stride))
    engine = Engine(case.system_xml, case.config, speed.platform, properties)
    shooter = Shooter(engine, case.observables, min(sampling.max_frames, longest), None)
    rng = np.random.default_rng(sampling.seed)
    outcomes: list[ShotOutcome] = []
    begun = time.monotonic()
    while len(outcomes) < MAX_SHOTS and time.monotonic() - begun < SHOOTING_SECONDS:
        frame = int(rng.integers(1, len(path.positions) - 1))
        box = None if path.box is None else path.box[frame]
        snapshot = Snapshot(positions=path.positions[frame], box=box)
        task = ShotTask(
            chain=0, step=len(outcomes), snapshot=snapshot, seed=int(rng.integers(2**62)), model=0, frame=frame
        )
        try:
            outcomes.append(shooter.shoot(task))
        except EngineError as error:
            advice = "Lower system.timestep, or minimise the starts."
            yield Finding(level="problem", subject="shots", found=str(error), advice=advice)
            return
    cut = sum(NO_STATE in outcome.ends for outcome in outcomes)
    seconds = float(np.mean([outcome.seconds for outcome in outcomes]))
    transitions = sum(outcome.is_transition for outcome in outcomes)
    frames = float(np.mean([outcome.n_frames for outcome in outcomes]))
    found = (
        f"{seconds:.2g} s per shot on {speed.platform}, one thread ({frames:,.0f} frames), {transitions} of "
        f"{len(outcomes)} trial shots were transitions"
    )
    advice = f"{cut} ended in no state: the true cost is higher, up to sampling.max_frames." if cut else ""
    yield Finding(level="note" if 2 * cut > len(outcomes) else "ok", subject="shots", found=found, advice=advice)
    yield _disk(outcomes, case)


def _guess(case: _Case, speed: PlatformSpeed, reason: str) -> Finding:
    sampling = case.config.sampling
    longest = 2 * sampling.max_frames * sampling.stride / speed.steps_per_second
    found = f"at most {longest:,.0f} s per shot on {speed.platform}, one thread: two halves of sampling.max_frames"
    return Finding(level="note", subject="shots", found=found, advice=f"{reason}: no shot could be tried.")


def _bytes_of(case: _Case, outcome: ShotOutcome) -> float:
    """Return what a shot of this length takes on disk, if every other such shot is a transition.

    A transition has its positions in single precision and the columns of all its frames.
    """
    n_columns = len(case.observables.descriptors.names) + len(case.observables.columns.names) + 2
    each = 12 * case.observables.n_atoms + (36 if case.system.periodic else 0)
    thinned = kept_frames(outcome.n_frames, outcome.shooting_frame, (0, 0))
    kept = (outcome.n_frames + len(thinned)) / 2
    return 4 * n_columns * kept + _ROW_BYTES + (outcome.n_frames * each + _FOLDER_BYTES) / 2


def _disk(outcomes: Sequence[ShotOutcome], case: _Case) -> Finding:
    total = 1_000 * float(np.mean([_bytes_of(case, outcome) for outcome in outcomes]))
    text = f"{total / _GIB:.2f} GiB" if total > 0.1 * _GIB else f"{total / 2**20:,.1f} MiB"
    found = f"about {text} for 1,000 shots as long as the trial shots, if half of them are transitions"
    return Finding(level="ok", subject="disk", found=found)


def _memory(case: _Case) -> Finding:
    longest = 2 * case.config.sampling.max_frames * (12 * case.observables.n_atoms + 36)
    each = _WORKER_BYTES + 2 * longest  # its halves, and the two joined
    free = psutil.virtual_memory().available
    workers = min(usable_cores(), case.config.sampling.chains)
    found = f"up to {each / _GIB:.1f} GiB per worker for the longest shots; {free / _GIB:.1f} GiB free"
    if workers * each < free:
        return Finding(level="ok", subject="memory", found=found)
    advice = f"{workers} workers might need {workers * each / _GIB:.1f} GiB: use fewer, or lower sampling.max_frames."
    return Finding(level="note", subject="memory", found=found, advice=advice)
