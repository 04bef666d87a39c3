"""Path sampling of three states: pairs come as often as in an unbiased simulation, and their paths are the same.

Negative control: without the ratio of selection weights in the acceptance, the same tests must fail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from tests.statistics.path_sampling import (
    AnalyticModel,
    Bench,
    brute_force_paths,
    leave_out_the_ratio,
    make_bench,
    sample_paths,
)

from separatrix.config import SamplingConfig
from separatrix.records import ChainState, Density, Path, ShotOutcome, ShotTask
from separatrix.sampler import Sampler
from separatrix.selector import density_of

# -- a walk on a star: known exactly -----------------------------------------------------------------------------------

ARMS = (3, 5, 8)
"""Steps from the hub to the three states."""

STEPS = 7_000
BLOCKS = 24


@dataclass(frozen=True)
class StarModel:
    """Logits of the exact committor of the walk; descriptors are the arm and the distance from the hub."""

    version: int = 1

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return ln p of each state (n, 3)."""
        arm, distance = features[:, 0].astype(int), features[:, 1].astype(float)
        conductance = 1.0 / np.array(ARMS)
        share = distance / np.array(ARMS)[arm]  # on its arm p is linear, from that of the hub to 1
        p = (1.0 - share)[:, None] * (conductance / conductance.sum())
        p[np.arange(len(p)), arm] += share
        return np.log(np.maximum(p, 1e-12))


def walk(task: ShotTask) -> ShotOutcome:
    """Shoot two halves of an unbiased walk on the star, each to the end of an arm."""
    rng = np.random.default_rng(task.seed)
    arm, distance = (round(float(x)) for x in task.snapshot.positions[0, :2])
    halves = []
    for _ in range(2):
        sites = [(arm, distance)]
        while sites[-1][1] < ARMS[sites[-1][0]]:
            on, at = sites[-1]
            draw = rng.random()
            sites.append((int(3 * draw), 1) if at == 0 else (on, at + (1 if draw < 0.5 else -1)))
        halves.append(sites)
    backward, forward = halves
    sites = [*backward[::-1], *forward[1:]]
    middle, ends = len(backward) - 1, (backward[-1][0], forward[-1][0])
    if ends[0] > ends[1]:
        sites, middle, ends = sites[::-1], len(sites) - 1 - middle, ends[::-1]
    features = np.array(sites, dtype=np.float32)
    positions = np.column_stack([features, np.zeros(len(features))]).astype(np.float32)[:, None]
    return ShotOutcome(
        chain=task.chain,
        step=task.step,
        positions=positions if ends[0] != ends[1] else None,
        box=None,
        n_frames=len(sites),
        kept=np.arange(len(sites)),
        features=features,
        cvs=features,
        shooting_frame=middle,
        ends=ends,
        md_steps=len(sites),
        seconds=0.0,
    )


def straight(chain: int) -> ChainState:
    """Return a chain on the straight path from the first state to another."""
    out, back = ([(arm, distance) for distance in range(ARMS[arm] + 1)] for arm in (0, 1 + chain % 2))
    features = np.array([*out[::-1], *back[1:]], dtype=np.float32)
    positions = np.column_stack([features, np.zeros(len(features))]).astype(np.float32)[:, None]
    return ChainState(chain=chain, step=0, path=Path(shot=-1, positions=positions, box=None, features=features))


def pair_frequencies(selector: str) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return how often paths connect (0, 1), (0, 2) and (1, 2), with standard errors over blocks."""
    config, model = SamplingConfig(selector=selector, seed=11, chains=4), StarModel()
    sampler = Sampler(config, [straight(chain) for chain in range(4)], model, Density())
    ends = []
    for shot in range(STEPS):
        chain = sampler.idle_chain()
        assert chain is not None
        sampler.tell(walk(sampler.ask(chain)), shot)
        if shot == 400:
            inside = np.concatenate([state.path.features[1:-1] for state in sampler.chains])
            sampler.adopt(model, density_of(model.logits(inside), np.ones(len(inside))))
        if shot > 400:
            features = sampler.state_of(chain).path.features
            ends.append((int(features[0, 0]), int(features[-1, 0])))
    hits = np.array([[pair == each for each in ((0, 1), (0, 2), (1, 2))] for pair in ends], dtype=float)
    blocks = np.array([block.mean(axis=0) for block in np.array_split(hits, BLOCKS)])
    return blocks.mean(axis=0), blocks.std(axis=0, ddof=1) / math.sqrt(BLOCKS)


def exact_frequencies() -> NDArray[np.floating]:
    """Return the shares of the fluxes between arms of conductance 1/L_i that meet at the hub: c_i c_j / sum c."""
    c = 1.0 / np.array(ARMS)
    flux = np.array([c[0] * c[1], c[0] * c[2], c[1] * c[2]])
    return np.asarray(flux / flux.sum())


@pytest.mark.statistics
@pytest.mark.parametrize("selector", ["uniform", "lorentzian"])
def test_pairs_come_as_often_as_their_fluxes(selector: str) -> None:
    share, error = pair_frequencies(selector)
    assert error.max() < 0.025
    assert np.all(np.abs(share - exact_frequencies()) < 4 * error)


@pytest.mark.statistics
@pytest.mark.parametrize("selector", ["uniform", "lorentzian"])
def test_without_the_ratio_they_do_not(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_the_ratio(monkeypatch)
    share, error = pair_frequencies(selector)
    assert np.any(np.abs(share - exact_frequencies()) > 4 * error)


# -- a landscape: brute force ------------------------------------------------------------------------------------------

LEVEL = 1e-3
CORNERS = np.array([[1.0, 0.0], [-0.5, 0.866], [-0.5, -0.866]])
MODEL = AnalyticModel(slope=tuple(map(tuple, (5.0 * CORNERS.T).tolist())))  # type: ignore[arg-type]
LANDSCAPE: dict[str, Any] = {
    "system": {"kind": "three-basins", "temperature": 180.0, "timestep": 10.0},
    "sampling": {"chains": 4, "stride": 5},
}


def describe(features: NDArray[np.floating]) -> tuple[float, float]:
    """Return the number of frames of a path, and which pair it connects: 1 for A-B, 2 for A-C, 3 for B-C."""
    ends = [int(np.argmax(CORNERS @ features[place])) for place in (0, -1)]
    return float(len(features)), float(sum(ends))


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Give the three basins at a temperature at which a plain run crosses often."""
    return make_bench(LANDSCAPE)


@pytest.fixture(scope="module")
def brute_force(bench: Bench) -> NDArray[np.floating]:
    """Give transitions of a long unbiased run."""
    paths = brute_force_paths(bench, 250_000, describe)
    assert len(paths) > 500
    return paths


def shares(paths: NDArray[np.floating], inefficiency: float) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the share of every pair and its standard error."""
    p = np.array([(paths[:, 1] == pair).mean() for pair in (1, 2, 3)])
    return p, np.sqrt(p * (1 - p) / len(paths) * inefficiency)


@pytest.mark.slow
@pytest.mark.statistics
def test_sampled_paths_of_every_pair_are_those_of_brute_force(bench: Bench, brute_force: NDArray[np.floating]) -> None:
    sampled = sample_paths(bench, MODEL, 12_000, 8, 3, describe)
    (p, error), (known, known_error) = shares(sampled, 6.0), shares(brute_force, 1.5)
    print(f"\nshares of A-B, A-C, B-C: sampled {p.round(3)}, brute force {known.round(3)}")
    assert np.all(np.abs(p - known) < 4 * np.hypot(error, known_error))
    for pair in (1, 2, 3):
        times = (paths[paths[:, 1] == pair, 0] for paths in (sampled, brute_force))
        assert ks_2samp(*times).pvalue > LEVEL


@pytest.mark.slow
@pytest.mark.statistics
def test_without_the_ratio_they_are_not(
    bench: Bench, brute_force: NDArray[np.floating], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_the_ratio(monkeypatch)
    sampled = sample_paths(bench, MODEL, 12_000, 8, 3, describe)
    worst = min(
        float(ks_2samp(*(paths[paths[:, 1] == pair, 0] for paths in (sampled, brute_force))).pvalue)
        for pair in (1, 2, 3)
    )
    assert worst < LEVEL
