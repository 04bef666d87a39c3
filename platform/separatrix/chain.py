"""One Monte Carlo chain in path space: choosing a frame, accepting or rejecting a trial. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from separatrix.records import NO_STATE, ChainState, ChainStep, FloatArray, Path, Reason, ShotOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A shooting point and what was known of it when it was chosen.

    Attributes
    ----------
    frame : index in the chain's path
    weight_sum : sum of the weights of the path's interior frames
    q, p_transition : predicted logit and transition probability at the shooting point
    """

    frame: int
    weight_sum: float
    q: float
    p_transition: float


def choose_frame(weights: FloatArray, rng: np.random.Generator) -> int:
    """Return the index of a path frame drawn with probability proportional to its weight.

    Parameters
    ----------
    weights : (n_frames - 2,) weights of the interior frames; the two in-state ends are never shooting points
    """
    cumulative = np.cumsum(weights)
    draw = rng.random() * cumulative[-1]
    return 1 + min(int(np.searchsorted(cumulative, draw, side="right")), len(weights) - 1)


def acceptance_probability(old_weight_sum: float, new_weight_sum: float) -> float:
    """Return min(1, sum_old w / sum_new w) for a trial that is a transition (Metropolis-Hastings, two-way shooting).

    Both sums must come from the same model version and density correction.
    """
    return min(1.0, old_weight_sum / new_weight_sum)


def trial_reason(outcome: ShotOutcome) -> Reason | None:
    """Return why a trial is no transition, or None when it is one."""
    if outcome.is_transition:
        return None
    return Reason.TOO_LONG if NO_STATE in outcome.ends else Reason.SAME_STATE


def judge(
    state: ChainState, choice: Choice, outcome: ShotOutcome, new_weight_sum: float, rng: np.random.Generator
) -> ChainStep:
    """Accept or reject a trial.

    The first transition of a chain that still stands on its seed path is accepted unconditionally: a seed path is no
    sample of the equilibrium ensemble, so there is no ratio to respect.
    """

    def verdict(reason: Reason, p_acc: float) -> ChainStep:
        return ChainStep(
            accepted=reason in (Reason.ACCEPTED, Reason.FIRST_TRANSITION),
            reason=reason,
            p_acc=p_acc,
            q=choice.q,
            p_transition=choice.p_transition,
            burn_in=not state.equilibrated,
        )

    draw = rng.random()
    if (reason := trial_reason(outcome)) is not None:
        return verdict(reason, 0.0)
    if state.path.shot < 0:
        return verdict(Reason.FIRST_TRANSITION, 1.0)
    p_acc = acceptance_probability(choice.weight_sum, new_weight_sum)
    return verdict(Reason.ACCEPTED if draw < p_acc else Reason.METROPOLIS, p_acc)


def failure_step(state: ChainState, choice: Choice) -> ChainStep:
    """Return the verdict on a trial that no machine could finish: a rejection that is no training record."""
    return ChainStep(
        accepted=False,
        reason=Reason.FAILURE,
        p_acc=0.0,
        q=choice.q,
        p_transition=choice.p_transition,
        burn_in=not state.equilibrated,
    )


def advance(state: ChainState, step: ChainStep, frame: int, outcome: ShotOutcome | None, shot: int) -> ChainState:
    """Return the chain after a trial: on the new path if it was accepted, else once more on the old one.

    Burn-in ends when an accepted trial was shot from a frame that the path before it did not share with its own
    parent: from then on no frame descends from the seed path.
    """
    if not step.accepted or outcome is None:
        return ChainState(chain=state.chain, step=state.step + 1, path=state.path, equilibrated=state.equilibrated)
    if outcome.positions is None:
        raise ValueError(f"accepted trial ({state.chain}, {state.step}) carries no positions")
    old = state.path
    fresh_parent = old.shot >= 0 and frame != old.shared_frame
    path = Path(
        shot=shot,
        positions=outcome.positions,
        box=outcome.box,
        features=outcome.features,
        shared_frame=outcome.shooting_frame,
    )
    return ChainState(
        chain=state.chain, step=state.step + 1, path=path, equilibrated=state.equilibrated or fresh_parent
    )
