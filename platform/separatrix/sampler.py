"""Transition path sampling as ask and tell: no input or output, no clock, no threads.

``ask(chain)`` gives a trial to make, ``tell`` its outcome; in between other chains may be asked and told. Random
numbers of a trial come from a generator seeded with (run seed, chain, step): a sampler restored from its chains
goes on exactly as it would have, and there is no generator to store.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from separatrix.chain import Choice, advance, choose_frame, failure_step, judge
from separatrix.config import SamplingConfig
from separatrix.logits import effective_q, p_transition
from separatrix.records import ChainState, ChainStep, Density, FloatArray, Path, ShotOutcome, ShotTask
from separatrix.selector import density_correction, selector_named


class Model(Protocol):
    """What the sampler asks of a committor model."""

    @property
    def version(self) -> int:
        """Counts up with every training; 0 is the untrained model."""
        ...

    def logits(self, features: FloatArray) -> FloatArray:
        """Return logits of descriptors (n, d): (n,) for two states, (n, n_states) for more."""
        ...


@dataclass(frozen=True, slots=True)
class _Pending:
    task: ShotTask
    choice: Choice
    model: Model
    density: Density
    rng: np.random.Generator


class Sampler:
    """Monte Carlo chains in path space that share one committor model.

    Parameters
    ----------
    config : selection and seed
    chains : where each chain stands
    model : committor model that selects from now on
    density : density of the accepted frames between the states under this model
    dropped : (step, model, density) by chain of trials that were asked so and never told; they are asked so again
    """

    def __init__(
        self,
        config: SamplingConfig,
        chains: Iterable[ChainState],
        model: Model,
        density: Density,
        dropped: Mapping[int, tuple[int, Model, Density]] | None = None,
    ) -> None:
        self._config = config
        self._dropped = dict(dropped or {})
        self._select = selector_named(config.selector)
        self._chains = {state.chain: state for state in chains}
        self._pending: dict[int, _Pending] = {}
        self._idle = [(state.step, chain) for chain, state in self._chains.items()]  # a heap; also holds what was
        heapq.heapify(self._idle)
        self._weights: dict[int, tuple[FloatArray, FloatArray]] = {}
        self.adopt(model, density)

    @property
    def model(self) -> Model:
        """The model that selects now."""
        return self._model

    @property
    def chains(self) -> tuple[ChainState, ...]:
        """Where the chains stand."""
        return tuple(self._chains.values())

    def state_of(self, chain: int) -> ChainState:
        """Return where one chain stands."""
        return self._chains[chain]

    @property
    def in_flight(self) -> int:
        """Number of trials asked and not yet told."""
        return len(self._pending)

    @property
    def untold(self) -> list[tuple[int, int, int]]:
        """(chain, step, model version) of each trial without an outcome, with those that an earlier session dropped.

        What is dropped when a run ends has to come again as it was: long trials are dropped more often than short ones,
        and drawn anew, paths would come out too short.
        """
        asked = [(chain, pending.task.step, pending.model.version) for chain, pending in self._pending.items()]
        return asked + [(chain, step, model.version) for chain, (step, model, _) in self._dropped.items()]

    def adopt(self, model: Model, density: Density) -> None:
        """Select with a new model from the next ``ask`` on; trials in flight keep the one they were asked with."""
        self._model, self._density = model, density
        self._weights.clear()

    def idle_chain(self) -> int | None:
        """Return the chain without a trial in flight that has made the fewest steps, or None."""
        while self._idle:
            step, chain = self._idle[0]
            if chain not in self._pending and self._chains[chain].step == step:
                return chain
            heapq.heappop(self._idle)
        return None

    def ask(self, chain: int) -> ShotTask:
        """Choose a shooting point on the chain's path and return the trial to make.

        A trial that was dropped is chosen by what chose it then.

        Raises
        ------
        ValueError
            If this chain has a trial in flight.
        """
        if chain in self._pending:
            raise ValueError(f"chain {chain} has a trial in flight; tell its outcome first")
        state = self._chains[chain]
        rng = np.random.default_rng((self._config.seed, chain, state.step))
        seed = int(rng.integers(2**63))
        model, density = self._selecting(state)
        logits, weights = self._weighed(state, model, density)
        frame = choose_frame(weights, rng)
        chosen = logits[frame - 1 : frame]
        choice = Choice(
            frame=frame,
            weight_sum=float(weights.sum()),
            q=float(effective_q(chosen)[0]),
            p_transition=float(p_transition(chosen)[0]),
        )
        task = ShotTask(
            chain=chain,
            step=state.step,
            snapshot=state.path.snapshot(frame),
            seed=seed,
            model=model.version,
            frame=frame,
        )
        self._pending[chain] = _Pending(task, choice, model, density, rng)
        return task

    def tell(self, outcome: ShotOutcome, shot: int) -> ChainStep:
        """Accept or reject a trial and move its chain on.

        Both sums of the acceptance use the model version and density that selected the shooting point.

        Parameters
        ----------
        shot : the row under which the trial is stored

        Raises
        ------
        ValueError
            If this trial was not asked for.
        """
        pending = self._take(outcome.chain, outcome.step)
        state = self._chains[outcome.chain]
        fresh: tuple[FloatArray, FloatArray] | None = None
        new_sum = 0.0
        if outcome.is_transition:
            logits = np.asarray(pending.model.logits(outcome.features[1:-1]), dtype=float)
            fresh = logits, self._weigh(logits, pending.density)
            new_sum = float(fresh[1].sum())
        step = judge(state, pending.choice, outcome, new_sum, pending.rng)
        self._move(advance(state, step, pending.choice.frame, outcome, shot))
        if step.accepted:
            self._weights.pop(outcome.chain, None)
            if fresh is not None and pending.model is self._model:
                self._weights[outcome.chain] = fresh
        return step

    def tell_failure(self, chain: int, step: int) -> ChainStep:
        """Record that no machine could finish a trial: the chain counts its old path once more."""
        pending = self._take(chain, step)
        state = self._chains[chain]
        verdict = failure_step(state, pending.choice)
        self._move(advance(state, verdict, pending.choice.frame, None, -1))
        return verdict

    def _move(self, state: ChainState) -> None:
        self._chains[state.chain] = state
        heapq.heappush(self._idle, (state.step, state.chain))

    def _take(self, chain: int, step: int) -> _Pending:
        pending = self._pending.get(chain)
        if pending is None or pending.task.step != step:
            raise ValueError(f"trial ({chain}, {step}) was not asked for, or was told before")
        return self._pending.pop(chain)

    def _selecting(self, state: ChainState) -> tuple[Model, Density]:
        step, model, density = self._dropped.pop(state.chain, (state.step, self._model, self._density))
        return (model, density) if step == state.step else (self._model, self._density)

    def _weighed(self, state: ChainState, model: Model, density: Density) -> tuple[FloatArray, FloatArray]:
        """Return the logits and the weights of the inner frames of a chain's path; those of now are kept."""
        known = self._weights.get(state.chain) if model is self._model else None
        if known is None:
            logits = self._interior_logits(state.path, model)
            known = logits, self._weigh(logits, density)
            if model is self._model:
                self._weights[state.chain] = known
        return known

    def _interior_logits(self, path: Path, model: Model) -> FloatArray:
        return np.asarray(model.logits(path.features[1:-1]), dtype=float)

    def _weigh(self, logits: FloatArray, density: Density) -> FloatArray:
        weights = self._select(effective_q(logits), self._config.scale)
        if self._config.density_correction and self._config.selector != "uniform":
            weights = weights * density_correction(logits, density)
        return weights
