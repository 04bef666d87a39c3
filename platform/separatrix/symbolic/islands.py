"""Islands: what keeps the best formulas of every length, and what varies them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from separatrix.symbolic.kernels import LENGTHS, N_DRAWS, Genome, Table, fit, is_idle, varied

N_NODES: Final = 15

OFFSPRING: Final = 4

PROMISING: Final = 0.003
"""Loss per shot on the small table by which a candidate may be worse than all that are kept and still see the whole."""

CARRIED: Final = 0.5
"""Share of offspring that start from their parent's weights; the others draw all of them anew."""

KEPT: Final = 6
"""Formulas of each length that are kept and varied."""

STARTS: Final = 8
"""How often an island fits one structure, from different weights, before it passes it over."""

TOURNAMENT: Final = 4
"""Formulas of which the best is varied."""

PRICES: Final = (1e-4, 3e-2)
"""Loss per operation that a tournament charges, least and most: some look for short formulas, some for good ones."""

SAME: Final = 1e-6
"""Difference of training losses below which two formulas of one length are one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A fitted formula.

    Attributes
    ----------
    genome : its nodes
    structure : what it is but for its weights
    length : operations that it is written with
    rough : loss per shot of weights fitted to the small table, on that table
    loss : on the training table
    """

    genome: Genome
    structure: bytes
    length: int
    rough: float
    loss: float


class Archive:
    """The best few formulas of every length, one of each structure and of each loss."""

    def __init__(self, shelves: Mapping[int, Sequence[Candidate]] | None = None) -> None:
        self.shelves = {length: list(shelf) for length, shelf in (shelves or {}).items()}

    def add(self, candidate: Candidate) -> None:
        """Keep a formula if it is among the best of its length."""
        shelf = self.shelves.get(candidate.length, [])
        same = [
            other
            for other in shelf
            if abs(other.loss - candidate.loss) < SAME or other.structure == candidate.structure
        ]
        if all(candidate.loss < other.loss for other in same):
            kept = [*(other for other in shelf if other not in same), candidate]
            self.shelves[candidate.length] = sorted(kept, key=lambda item: item.loss)[:KEPT]

    def promises(self, length: int, rough: float) -> bool:
        """Return whether a loss on the small table lets expect that a formula is among the best of its length."""
        shelf = self.shelves.get(length, [])
        return rough < math.inf and (len(shelf) < KEPT or rough < max(item.rough for item in shelf) + PROMISING)

    def drawn(self, rng: np.random.Generator) -> Candidate:
        """Draw some formulas and the price of an operation, and return the best of them."""
        price, *draws = rng.random(1 + 2 * TOURNAMENT).tolist()
        price = PRICES[0] * (PRICES[1] / PRICES[0]) ** price
        shelves = list(self.shelves.values())
        found = []
        for i in range(TOURNAMENT):
            shelf = shelves[int(len(shelves) * draws[2 * i])]
            found.append(shelf[int(len(shelf) * draws[2 * i + 1])])
        return min(found, key=lambda item: item.loss + price * item.length)

    def __iter__(self) -> Iterator[Candidate]:
        """Iterate over all formulas, the shortest first, those of one length by loss."""
        for length in sorted(self.shelves):
            yield from self.shelves[length]


@dataclass(slots=True)
class Island:
    """An archive, and what varies the formulas in it.

    Parameters
    ----------
    rng : draws what is done to which formula, and weights
    table : training shots
    small : some of them
    allowed : operations to choose from
    """

    rng: np.random.Generator
    table: Table
    small: Table
    allowed: NDArray[np.int64]
    archive: Archive = field(default_factory=Archive)
    n_fitted: int = 0
    _starts: Counter[bytes] = field(default_factory=Counter, init=False)

    def generation(self) -> None:
        """Make one generation."""
        n_fixed = len(self.table.columns)
        for _ in range(OFFSPRING):
            parent, mate = self.archive.drawn(self.rng), self.archive.drawn(self.rng)
            draws, weights = self.rng.random(N_DRAWS), self.rng.standard_normal(2)
            genome = varied(parent.genome, mate.genome, n_fixed, self.allowed, draws, weights)
            if self.rng.random() >= CARRIED:
                genome.weights[:-1] = self.rng.standard_normal((len(genome.weights) - 1, 2))
                genome.weights[-1] = 0.0
            if len(genome.operations) <= N_NODES + 1:
                self.judge(genome)

    def judge(self, genome: Genome) -> None:
        """Fit a formula, unless a shorter one says the same or it was tried often, and keep it if it is good."""
        structure = genome.operations.tobytes() + genome.sources.tobytes()
        if self._starts[structure] >= STARTS or is_idle(genome, len(self.table.columns)):
            return
        self._starts[structure] += 1
        self.n_fitted += 1
        length = int(LENGTHS[genome.operations].sum())
        rough = fit(genome, self.small, 8)
        if self.archive.promises(length, rough) and (loss := fit(genome, self.table, 5)) < math.inf:
            self.archive.add(Candidate(genome=genome, structure=structure, length=length, rough=rough, loss=loss))
