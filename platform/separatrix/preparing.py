"""What a run needs before its first shot: the fastest platform, and a first path for every chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import combinations
from math import comb
from pathlib import Path

from separatrix.cluster import ClusterFile
from separatrix.config import RunConfig
from separatrix.engine import PlatformSpeed, devices_of, measure_platforms, platform_names, platform_properties
from separatrix.errors import ConfigError, EngineError, SeedingError, StoreError
from separatrix.expressions import suggestion
from separatrix.observables import Observables
from separatrix.records import Snapshot
from separatrix.resources import GPU_PLATFORMS, PLATFORMS, Resources
from separatrix.seeding import SeedingProgress, SeedPath, find_first_paths, paths_from_trajectory
from separatrix.store import Store
from separatrix.systems import build_system
from separatrix.systems.base import System
from separatrix.trajectory import read_trajectory

MAX_SEED_PATHS = 4
"""Different first paths looked for, or one for every pair of states where these are more; chains share them."""

_MEASURE_SECONDS = 1.0


def check_resources(resources: Resources) -> None:
    """Refuse what this machine does not have.

    Raises
    ------
    ConfigError
        Naming what is there.
    """
    known = ("auto", *(PLATFORMS if resources.on_cluster else platform_names()))
    if resources.platform not in known:
        raise ConfigError(
            f"platform: there is no {resources.platform!r}{'' if resources.on_cluster else ' on this machine'}"
            f"{suggestion(resources.platform, known)}"
        )
    if resources.on_cluster:
        _check_cluster(resources)
    else:
        _check_devices(resources)
    options = ("learner-device",) if resources.on_cluster else ("learner-device", "descriptor-device")
    for option in options:
        device: str = getattr(resources, option.replace("-", "_"))
        if device not in ("auto", "cpu"):
            from separatrix.trainer import check_device  # noqa: PLC0415 - torch takes seconds to load

            check_device(option, device)


def _check_cluster(resources: Resources) -> None:
    needed = ["distributed"] if resources.cluster is None else ["distributed", "dask_jobqueue"]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(
            f"executor = dask: expected {' and '.join(missing)}, not installed here; "
            'pip install "separatrix[cluster]", here and where the workers are'
        )
    if resources.cluster is not None:
        ClusterFile.read(Path(resources.cluster))


def _check_devices(resources: Resources) -> None:
    known = platform_names()
    if resources.needs_gpu and not GPU_PLATFORMS & set(known):
        raise ConfigError(
            "devices, workers-per-device, precision: expected a GPU platform (CUDA, OpenCL or HIP) on this machine, "
            f"found {', '.join(platform_names())}; leave them out, or see what separatrix doctor says of its GPUs"
        )
    if not _platforms(resources):
        there = ", ".join(f"{len(devices_of(name))} of {name}" for name in known if name in GPU_PLATFORMS)
        wanted = ",".join(map(str, resources.devices or ()))
        raise ConfigError(f"devices: expected numbers of devices that are there ({there}; from 0 on), got {wanted}")


def _platforms(resources: Resources) -> tuple[str, ...]:
    """Return the platforms of this machine that have what is wanted."""
    last = max(resources.devices or (-1,))
    return tuple(
        name
        for name in platform_names()
        if resources.platform in ("auto", name)
        and (name in GPU_PLATFORMS or not resources.needs_gpu)
        and (last < 0 or last < len(devices_of(name)))
    )


def choose_platform(store: Store, config: RunConfig, resources: Resources, threads: int) -> PlatformSpeed:
    """Time the platforms on this very system and return the fastest.

    Parameters
    ----------
    threads : threads of the CPU platform

    Raises
    ------
    EngineError
        If none can run the system.
    """
    device = None if resources.devices is None else resources.devices[0]
    precision = resources.precision or "mixed"
    platforms = {
        name: platform_properties(name, threads=threads, device=device, precision=precision)
        for name in _platforms(resources)
    }
    speeds = measure_platforms(
        store.system_xml, config, any_snapshot(store, config), platforms, seconds=_MEASURE_SECONDS
    )
    best = speeds[0]
    if best.error:
        problems = "; ".join(f"{speed.platform}: {speed.error}" for speed in speeds)
        raise EngineError(f"no platform can run this system: {problems}")
    store.log("platform", chosen=best.platform, steps_per_second={s.platform: s.steps_per_second for s in speeds})
    return best


def own_seed_paths(config: RunConfig, system: System, observables: Observables) -> tuple[SeedPath, ...]:
    """Return the transition in the trajectory that the configuration names, of more than two states one for each pair.

    There is none if it names no trajectory.

    Raises
    ------
    SeedingError
        If the file cannot be read, belongs to another system or holds no transition.
    """
    if config.seeding.trajectory is None:
        return ()
    file, where = Path(config.seeding.trajectory), "seeding.trajectory"
    positions, box = read_trajectory(file, system.topology, where=where)
    if system.periodic and box is None:
        raise SeedingError(f"{where}: {file}: expected a periodic box in every frame, found none")
    return paths_from_trajectory(positions, box if system.periodic else None, observables, file=str(file))


def ensure_seed_paths(
    store: Store,
    config: RunConfig,
    observables: Observables,
    platform: str,
    properties: Mapping[str, str],
    report: Callable[[SeedingProgress], None],
) -> None:
    """Find and store a first path for every chain that has none.

    Parameters
    ----------
    platform, properties : OpenMM platform, and its properties

    Raises
    ------
    SeedingError
        If none was found.
    StoreError
        If one that was there is gone.
    """
    n_chains = config.sampling.chains
    missing = sorted(set(range(n_chains)) - set(store.seed_chains()))
    if not missing:
        return
    if lost := set(missing).intersection(store.shots()["chain"].tolist()):
        raise StoreError(
            f"the run is damaged: there is no first path of chain {min(lost)} in {store.path / 'run.zarr' / 'seeds'}, "
            "though it was shot from; restore it from a copy"
        )
    own = own_seed_paths(config, build_system(config), observables) if config.seeding.trajectory else ()
    if own:
        write_seed_paths(store, missing, own)
        return
    paths = find_first_paths(
        store.system_xml,
        config,
        observables,
        observables.starts_in_states(_starts(store, config)),
        platform=platform,
        properties=properties,
        n_paths=min(n_chains, max(MAX_SEED_PATHS, comb(len(config.states), 2))),
        report=report,
    )
    write_seed_paths(store, missing, paths)


def write_seed_paths(store: Store, chains: Iterable[int], paths: Sequence[SeedPath]) -> None:
    """Store a first path for each chain; chains share them in turn. The log tells which pairs of states have one."""
    names = store.state_names
    for chain in chains:
        path = paths[chain % len(paths)]
        store.write_seed_path(chain, path.positions, path.box)
        between = [names[state] for state in path.ends]
        store.log("seed path", chain=chain, states=between, method=path.method, n_frames=len(path.positions))
    if len(names) > 2:
        found = {path.ends for path in paths}
        pairs = {ends: [names[state] for state in ends] for ends in combinations(range(len(names)), 2)}
        store.log(
            "pairs of states",
            found=[pair for ends, pair in pairs.items() if ends in found],
            not_found=[pair for ends, pair in pairs.items() if ends not in found],
        )


def any_snapshot(store: Store, config: RunConfig) -> Snapshot:
    """Return a configuration of the system, whichever."""
    if chains := store.seed_chains():
        positions, box = store.seed_path(chains[0])
        return Snapshot(positions=positions[0], box=None if box is None else box[0])
    return next(iter(_starts(store, config).values()))


def _starts(store: Store, config: RunConfig) -> dict[str, Snapshot]:
    """Return the starts that were stored with the run, or those of its system if it was made before they were."""
    return store.starts() or dict(build_system(config).starts)
