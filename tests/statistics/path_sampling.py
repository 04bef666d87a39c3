"""Path sampling without a store: the sampler and the shooter in one process, for tests of the statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separatrix import sampler as sampler_module
from separatrix.config import RunConfig
from separatrix.engine import Engine, atoms_of, serialize
from separatrix.observables import Observables
from separatrix.records import ChainState, Density, Path, Snapshot
from separatrix.sampler import Sampler
from separatrix.seeding import cut_transitions, find_first_paths
from separatrix.selector import density_of
from separatrix.shooting import Shooter
from separatrix.systems import build_system, resolve


@dataclass(frozen=True)
class AnalyticModel:
    """A committor model given by a formula: logit = slope . features + offset."""

    slope: tuple[float, ...]
    offset: float = 0.0
    version: int = 1

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the logit (n,) of features (n, d)."""
        return np.asarray(features, dtype=float) @ np.array(self.slope) + self.offset


@dataclass(frozen=True)
class Bench:
    """What shots of one system need."""

    config: RunConfig
    shooter: Shooter
    start: Snapshot
    seed_path: Path


def make_bench(data: dict[str, Any]) -> Bench:
    """Build a system on the Reference platform and find a first path."""
    config = resolve(data)
    system = build_system(config)
    start = next(iter(system.starts.values()))
    xml, _ = serialize(system.openmm_system, system.topology, start)
    observables = Observables(config, atoms_of(system.topology))
    seed = find_first_paths(xml, config, observables, system.starts, platform="Reference", properties={}, n_paths=1)[0]
    path = Path(
        shot=-1, positions=seed.positions, box=seed.box, features=observables.features(seed.positions, seed.box)
    )
    shooter = Shooter(Engine(xml, config, "Reference"), observables, config.sampling.max_frames, None)
    return Bench(config, shooter, start, path)


def describe(features: NDArray[np.floating]) -> tuple[float, float]:
    """Return the number of frames of a path and y where it first crosses x = 0 (features are x, y)."""
    crossing = int(np.argmax(features[:, 0] > 0))
    return float(len(features)), float(features[crossing, 1])


Describe = Callable[[NDArray[np.floating]], tuple[float, float]]


def sample_paths(
    bench: Bench, model: AnalyticModel, steps: int, every: int, seed: int, tell: Describe = describe
) -> NDArray[np.floating]:
    """Sample the path ensemble and return (n, 2): what ``tell`` tells of a path.

    One of ``every`` Monte Carlo steps of each chain is kept, after the first tenth.
    """
    settings = bench.config.sampling.model_copy(update={"seed": seed})
    chains = [ChainState(chain=chain, step=0, path=bench.seed_path) for chain in range(settings.chains)]
    sampler = Sampler(settings, chains, model, Density())
    rows = []
    for shot in range(steps):
        chain = sampler.idle_chain()
        assert chain is not None
        sampler.tell(bench.shooter.shoot(sampler.ask(chain)), shot)
        state = sampler.state_of(chain)
        if shot == steps // 20:  # a density as a run would have it, fixed from here on
            features = np.concatenate([other.path.features[1:-1] for other in sampler.chains])
            sampler.adopt(model, density_of(model.logits(features), np.ones(len(features))))
        if shot > steps // 10 and state.step % every == 0:
            rows.append(tell(state.path.features))
    return np.array(rows)


def brute_force_paths(bench: Bench, n_frames: int, tell: Describe = describe) -> NDArray[np.floating]:
    """Cut the transitions out of one long run: the known answer."""
    engine, observables = bench.shooter.engine, bench.shooter.observables
    engine.reseed(2024)
    engine.place(bench.start)
    engine.set_velocities(engine.draw_velocities(bench.start, np.random.default_rng(7))[0])
    engine.place(bench.start)
    frames = (engine.advance() for _ in range(n_frames))
    stream = ((frame, observables.state_of(frame)) for frame in frames)
    rows = []
    for piece, _ in cut_transitions(stream, 2 * bench.config.sampling.max_frames):
        rows.append(tell(observables.features(np.stack([frame.positions for frame in piece]), None)))
    return np.array(rows)


def leave_out_the_ratio(monkeypatch: Any) -> None:
    """Accept every transition: the mistake the statistics must catch."""
    monkeypatch.setattr("separatrix.chain.acceptance_probability", lambda old, new: 1.0)
    assert sampler_module.judge.__globals__["acceptance_probability"](1.0, 2.0) == 1.0
