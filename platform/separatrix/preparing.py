"""What a run needs before its first shot: the fastest platform, and a first path for every chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from separatrix.config import RunConfig
from separatrix.engine import PlatformSpeed, measure_platforms, platform_names, platform_properties
from separatrix.errors import ConfigError, EngineError, SeedingError
from separatrix.expressions import suggestion
from separatrix.observables import Observables
from separatrix.records import Snapshot
from separatrix.seeding import SeedingProgress, SeedPath, find_first_paths, path_from_trajectory
from separatrix.store import Store
from separatrix.systems import build_system
from separatrix.systems.base import System
from separatrix.trajectory import read_trajectory

MAX_SEED_PATHS = 4
"""Different first paths looked for; further chains share them."""

_MEASURE_SECONDS = 1.0


def check_platform(platform: str) -> None:
    """Refuse a platform that this machine does not have.

    Raises
    ------
    ConfigError
        Naming those that are there.
    """
    known = ("auto", *platform_names())
    if platform not in known:
        raise ConfigError(f"platform: there is no {platform!r} on this machine{suggestion(platform, known)}")


def choose_platform(store: Store, config: RunConfig, platform: str, threads: int) -> PlatformSpeed:
    """Time the platforms on this very system and return the fastest.

    Parameters
    ----------
    platform : OpenMM platform, or "auto" for all that are there
    threads : threads of the CPU platform

    Raises
    ------
    EngineError
        If none can run the system.
    """
    speeds = measure_platforms(
        store.system_xml, config, _any_snapshot(store, config), threads=threads, seconds=_MEASURE_SECONDS, only=platform
    )
    best = speeds[0]
    if best.error:
        problems = "; ".join(f"{speed.platform}: {speed.error}" for speed in speeds)
        raise EngineError(f"no platform can run this system: {problems}")
    store.log("platform", chosen=best.platform, steps_per_second={s.platform: s.steps_per_second for s in speeds})
    return best


def own_seed_path(config: RunConfig, system: System, observables: Observables) -> SeedPath | None:
    """Return the transition in the trajectory that the configuration names; None if it names none.

    Raises
    ------
    SeedingError
        If the file cannot be read, belongs to another system or holds no transition.
    """
    if config.seeding.trajectory is None:
        return None
    file, where = Path(config.seeding.trajectory), "seeding.trajectory"
    positions, box = read_trajectory(file, system.topology, where=where)
    if system.periodic and box is None:
        raise SeedingError(f"{where}: {file}: expected a periodic box in every frame, found none")
    return path_from_trajectory(positions, box if system.periodic else None, observables, file=str(file))


def ensure_seed_paths(
    store: Store,
    config: RunConfig,
    observables: Observables,
    platform: str,
    threads: int,
    report: Callable[[SeedingProgress], None],
) -> None:
    """Find and store a first path for every chain that has none.

    Raises
    ------
    SeedingError
        If none was found.
    """
    n_chains = config.sampling.chains
    missing = sorted(set(range(n_chains)) - set(store.seed_chains()))
    if not missing:
        return
    own = own_seed_path(config, build_system(config), observables) if config.seeding.trajectory else None
    if own is not None:
        write_seed_paths(store, missing, [own])
        return
    paths = find_first_paths(
        store.system_xml,
        config,
        observables,
        observables.starts_in_states(_starts(store, config)),
        platform=platform,
        properties=platform_properties(platform, threads),
        n_paths=min(n_chains, MAX_SEED_PATHS),
        report=report,
    )
    write_seed_paths(store, missing, paths)


def write_seed_paths(store: Store, chains: Iterable[int], paths: Sequence[SeedPath]) -> None:
    """Store a first path for each chain; chains share them in turn."""
    for chain in chains:
        path = paths[chain % len(paths)]
        store.write_seed_path(chain, path.positions, path.box)
        store.log("seed path", chain=chain, method=path.method, n_frames=len(path.positions))


def _any_snapshot(store: Store, config: RunConfig) -> Snapshot:
    if chains := store.seed_chains():
        positions, box = store.seed_path(chains[0])
        return Snapshot(positions=positions[0], box=None if box is None else box[0])
    return next(iter(_starts(store, config).values()))


def _starts(store: Store, config: RunConfig) -> dict[str, Snapshot]:
    """Return the starts that were stored with the run, or those of its system if it was made before they were."""
    return store.starts() or dict(build_system(config).starts)
