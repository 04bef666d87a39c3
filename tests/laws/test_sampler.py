"""Laws of the sampler: identical replays, sums by the model that selected, detailed balance on walks of a line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from separatrix.config import SamplingConfig
from separatrix.records import ChainState, Density, Path, Reason, ShotOutcome, ShotTask
from separatrix.sampler import Sampler

N_SITES = 12


@dataclass(frozen=True)
class Linear:
    """A model whose logit is a multiple of the one descriptor."""

    version: int = 1
    slope: float = 0.5

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return slope * (x - middle)."""
        return self.slope * (features[:, 0] - N_SITES / 2)


def seed_state(chain: int) -> ChainState:
    """Return a chain on a straight path of a random walk between sites 0 and N_SITES."""
    sites = np.arange(N_SITES + 1, dtype=np.float32)
    positions = np.repeat(sites[:, None, None], 3, axis=2)
    return ChainState(chain=chain, step=0, path=Path(shot=-1, positions=positions, box=None, features=sites[:, None]))


def walk(task: ShotTask, p_right: float = 0.5) -> ShotOutcome:
    """Shoot two halves of a random walk on sites that ends at 0 (state A) or N_SITES (state B)."""
    rng = np.random.default_rng(task.seed)
    start = round(float(task.snapshot.positions[0, 0]))
    halves = []
    for _ in range(2):
        sites = [start]
        while 0 < sites[-1] < N_SITES:
            sites.append(sites[-1] + (1 if rng.random() < p_right else -1))
        halves.append(sites)
    backward, forward = halves
    sites = np.array(backward[::-1] + forward[1:], dtype=np.float32)
    middle = len(backward) - 1
    ends = (int(backward[-1] == N_SITES), int(forward[-1] == N_SITES))
    if ends == (1, 0):
        sites, middle, ends = sites[::-1].copy(), len(sites) - 1 - middle, (0, 1)
    positions = np.repeat(sites[:, None, None], 3, axis=2) if ends == (0, 1) else None
    return ShotOutcome(
        chain=task.chain,
        step=task.step,
        positions=positions,
        box=None,
        n_frames=len(sites),
        kept=np.arange(len(sites)),
        features=sites[:, None],
        cvs=sites[:, None],
        shooting_frame=middle,
        ends=ends,
        md_steps=len(sites),
        seconds=0.0,
    )


def make(selector: str, seed: int = 5, chains: int = 2, density: Density | None = None) -> Sampler:
    """Return a sampler of random walks."""
    config = SamplingConfig(selector=selector, seed=seed, chains=chains)
    return Sampler(config, [seed_state(chain) for chain in range(chains)], Linear(), density or Density())


def drive(sampler: Sampler, steps: int, first_shot: int = 0) -> list[tuple[int, int, bool, float]]:
    """Make trials one after the other; return (chain, frame, accepted, p_acc) of each."""
    record = []
    for shot in range(first_shot, first_shot + steps):
        chain = sampler.idle_chain()
        assert chain is not None
        task = sampler.ask(chain)
        verdict = sampler.tell(walk(task), shot)
        record.append((chain, task.frame, verdict.accepted, verdict.p_acc))
    return record


def test_a_replay_gives_identical_chains() -> None:
    assert drive(make("lorentzian"), 200) == drive(make("lorentzian"), 200)
    assert drive(make("lorentzian"), 200) != drive(make("lorentzian", seed=6), 200)


def test_a_sampler_restored_from_its_chains_goes_on_identically() -> None:
    whole = drive(make("lorentzian"), 120)
    first = make("lorentzian")
    drive(first, 50)
    config = SamplingConfig(selector="lorentzian", seed=5, chains=2)
    second = Sampler(config, first.chains, Linear(), Density())
    assert drive(second, 70, first_shot=50) == whole[50:]


def test_a_dropped_trial_comes_again_as_it_was_though_another_model_selects_by_now() -> None:
    """Drawn anew, long trials, which are dropped more often than short ones, would be too few."""
    config = SamplingConfig(selector="lorentzian", seed=5, chains=3)
    models = [(Linear(version=version, slope=version - 2.5), Density()) for version in range(6)]
    again, anew = [], []
    for version, (old, new) in enumerate(pairwise(models)):
        first = Sampler(config, [seed_state(chain) for chain in range(3)], *old)
        drive(first, 30 * version)
        tasks = {chain: first.ask(chain) for chain in (0, 2)}
        assert sorted(first.untold) == [(chain, tasks[chain].step, version) for chain in (0, 2)]
        dropped = {chain: (step, *models[by]) for chain, step, by in first.untold}
        second = Sampler(config, first.chains, *new, dropped)
        assert sorted(second.untold) == sorted(first.untold), "a session that ends before it asks forgets nothing"
        for chain, task in tasks.items():
            repeated = second.ask(chain)
            again.append((repeated.frame, repeated.seed, repeated.model) == (task.frame, task.seed, task.model))
            anew.append(Sampler(config, first.chains, *new).ask(chain).frame == task.frame)
            assert second.tell(walk(repeated), 500) == first.tell(walk(task), 500)
        assert second.ask(1).model == new[0].version
        assert second.ask(0).model == new[0].version, "only that trial"
    assert all(again)
    assert not all(anew), "the control"


def test_a_dropped_trial_of_another_step_is_forgotten() -> None:
    config = SamplingConfig(selector="lorentzian", seed=5, chains=1)
    sampler = Sampler(config, [seed_state(0)], Linear(version=2), Density(), {0: (7, Linear(version=1), Density())})
    assert sampler.ask(0).model == 2


def test_told_out_of_order_chains_are_the_same() -> None:
    in_order, crossed = make("lorentzian", chains=2), make("lorentzian", chains=2)
    for shot in range(40):
        drive(in_order, 2, first_shot=2 * shot)
        tasks = [crossed.ask(0), crossed.ask(1)]
        crossed.tell(walk(tasks[1]), 2 * shot + 1)
        crossed.tell(walk(tasks[0]), 2 * shot)
    for a, b in zip(in_order.chains, crossed.chains, strict=True):
        np.testing.assert_array_equal(a.path.features, b.path.features)


def test_both_sums_use_the_model_that_selected() -> None:
    sampler = make("lorentzian", chains=1)
    drive(sampler, 20)
    path = sampler.state_of(0).path
    for seed in range(100):
        task = sampler.ask(0)
        outcome = walk(task)
        sampler.adopt(Linear(version=2 + seed, slope=3.0 - sampler.model.slope), Density())
        verdict = sampler.tell(outcome, 100 + seed)
        if verdict.reason in (Reason.ACCEPTED, Reason.METROPOLIS):
            slope = 3.0 - sampler.model.slope
            old, new = (
                (1 / (1 + Linear(slope=slope).logits(features[1:-1]) ** 2)).sum()
                for features in (path.features, outcome.features)
            )
            assert verdict.p_acc == pytest.approx(min(1.0, old / new))
        path = sampler.state_of(0).path


def test_one_trial_in_flight_per_chain_and_none_told_twice() -> None:
    sampler = make("uniform", chains=1)
    task = sampler.ask(0)
    with pytest.raises(ValueError, match="in flight"):
        sampler.ask(0)
    outcome = walk(task)
    sampler.tell(outcome, 0)
    with pytest.raises(ValueError, match="not asked for"):
        sampler.tell(outcome, 1)


def test_a_failure_counts_the_old_path_once_more() -> None:
    sampler = make("uniform", chains=1)
    drive(sampler, 30)
    before = sampler.state_of(0)
    task = sampler.ask(0)
    verdict = sampler.tell_failure(0, task.step)
    assert verdict.reason is Reason.FAILURE
    after = sampler.state_of(0)
    assert after.path is before.path
    assert after.step == before.step + 1


@pytest.mark.parametrize("selector", ["uniform", "lorentzian", "gaussian"])
def test_path_lengths_are_those_of_the_equilibrium_path_ensemble(selector: str) -> None:
    """For walks on a line the mean length of a transition path is known exactly."""
    sampler = make(selector, chains=4, density=Density(counts=(40, 20, 10, 5, 3, 3, 5, 10, 20, 40)))
    lengths = []
    for shot in range(24_000):
        chain = sampler.idle_chain()
        assert chain is not None
        sampler.tell(walk(sampler.ask(chain)), shot)
        if shot > 400:
            lengths.append(sampler.state_of(chain).path.n_frames - 1)
    blocks = np.array([block.mean() for block in np.array_split(np.array(lengths, float), 24)])
    error = blocks.std(ddof=1) / math.sqrt(len(blocks))
    assert error < 1.5
    assert abs(blocks.mean() - exact_mean_length()) < 4 * error


def exact_mean_length() -> float:
    """Return the mean number of steps of a walk that leaves 0 and reaches N_SITES before returning.

    Conditioned on success, from site i the walk steps to i +- 1 with probabilities (i +- 1) / (2 i): the mean time h
    to N_SITES solves a tridiagonal system.
    """
    n = N_SITES
    matrix, right = np.zeros((n - 1, n - 1)), np.ones(n - 1)
    for i in range(1, n):
        matrix[i - 1, i - 1] = 1
        if i + 1 < n:
            matrix[i - 1, i] = -(i + 1) / (2 * i)
        if i > 1:
            matrix[i - 1, i - 2] = -(i - 1) / (2 * i)
    return 1 + float(np.linalg.solve(matrix, right)[0])
