"""Laws of one Monte Carlo chain in path space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from separatrix.chain import Choice, acceptance_probability, advance, choose_frame, judge
from separatrix.records import ChainState, Path, Reason, ShotOutcome


def outcome(ends: tuple[int, int], n_frames: int = 5, shooting_frame: int = 2) -> ShotOutcome:
    """Return a trial of one atom with the given ends."""
    transition = ends[0] != ends[1] and min(ends) >= 0
    positions = np.zeros((n_frames, 1, 3), np.float32)
    return ShotOutcome(
        chain=0,
        step=0,
        positions=positions if transition else None,
        box=None,
        n_frames=n_frames,
        kept=np.arange(n_frames),
        features=np.zeros((n_frames, 1), np.float32),
        cvs=np.zeros((n_frames, 1), np.float32),
        shooting_frame=shooting_frame,
        ends=ends,
        md_steps=10 * (n_frames - 1),
        seconds=0.0,
    )


def state(shot: int = 0, shared_frame: int = 1) -> ChainState:
    """Return a chain standing on a path of four frames."""
    path = Path(
        shot=shot,
        positions=np.zeros((4, 1, 3), np.float32),
        box=None,
        features=np.zeros((4, 1), np.float32),
        shared_frame=shared_frame,
    )
    return ChainState(chain=0, step=0, path=path)


CHOICE = Choice(frame=2, weight_sum=1.0, q=0.0, p_transition=0.5)


@given(weights=hnp.arrays(float, st.integers(1, 50), elements=st.floats(1e-6, 1e6)), seed=st.integers(0, 2**32))
def test_only_interior_frames_are_chosen(weights: np.ndarray, seed: int) -> None:
    frame = choose_frame(weights, np.random.default_rng(seed))
    assert 1 <= frame <= len(weights)


def test_frames_are_chosen_in_proportion_to_their_weights() -> None:
    rng = np.random.default_rng(2)
    weights = np.array([1.0, 2.0, 5.0, 2.0])
    counts = np.bincount([choose_frame(weights, rng) for _ in range(20_000)], minlength=5)[1:]
    expected = 20_000 * weights / weights.sum()
    assert (((counts - expected) ** 2 / expected).sum()) < 16.3  # chi-square with 3 degrees of freedom, p = 0.001


@given(old=st.floats(1e-6, 1e6), new=st.floats(1e-6, 1e6))
def test_acceptance_satisfies_detailed_balance(old: float, new: float) -> None:
    there, back = acceptance_probability(old, new), acceptance_probability(new, old)
    assert 0 < there <= 1
    assert there / old == pytest.approx(back / new)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [((0, 0), Reason.SAME_STATE), ((1, 1), Reason.SAME_STATE), ((0, -1), Reason.TOO_LONG), ((-1, -1), Reason.TOO_LONG)],
)
def test_a_trial_that_is_no_transition_is_rejected_for_its_own_reason(ends: tuple[int, int], reason: Reason) -> None:
    for chain in (state(), state(shot=-1)):
        step = judge(chain, CHOICE, outcome(ends), 0.0, np.random.default_rng(0))
        assert (step.accepted, step.reason, step.p_acc) == (False, reason, 0.0)


def test_the_first_transition_replaces_the_seed_path_unconditionally() -> None:
    for seed in range(50):
        step = judge(state(shot=-1), CHOICE, outcome((0, 1)), 1e9, np.random.default_rng(seed))
        assert step.reason is Reason.FIRST_TRANSITION
        assert step.burn_in


def test_later_transitions_are_accepted_with_the_ratio_of_the_sums() -> None:
    rng = np.random.default_rng(3)
    steps = [judge(state(), CHOICE, outcome((0, 1)), 4.0, rng) for _ in range(4_000)]
    assert {step.p_acc for step in steps} == {0.25}
    assert np.mean([step.accepted for step in steps]) == pytest.approx(0.25, abs=0.03)


def test_a_rejection_keeps_the_path_and_counts_the_step() -> None:
    before = state()
    step = judge(before, CHOICE, outcome((0, 0)), 0.0, np.random.default_rng(0))
    after = advance(before, step, 2, outcome((0, 0)), 7)
    assert after.path is before.path
    assert after.step == before.step + 1


def test_burn_in_ends_when_no_frame_descends_from_the_seed_path() -> None:
    rng = np.random.default_rng(0)
    chain = state(shot=-1)
    trial = outcome((0, 1), shooting_frame=2)
    chain = advance(chain, judge(chain, CHOICE, trial, 1.0, rng), 1, trial, 10)
    assert not chain.equilibrated  # frame 2 is still one of the seed path
    same_frame = advance(chain, judge(chain, CHOICE, trial, 1.0, rng), 2, trial, 11)
    assert not same_frame.equilibrated
    other_frame = advance(chain, judge(chain, CHOICE, trial, 1.0, rng), 3, trial, 11)
    assert other_frame.equilibrated
