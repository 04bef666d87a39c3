"""The search: islands of formulas that evolve, and an archive of the best of every length."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import sympy
from numpy.typing import NDArray

from separatrix.symbolic import kernels
from separatrix.symbolic.formula import Formula, evaluate, loss_of, rounded, symbols_for, text_of, to_sympy
from separatrix.symbolic.kernels import N_SOURCES, SUM, Genome, Table, active_nodes, fit

OPERATIONS: Final[Mapping[str, int]] = {
    "sum": kernels.SUM,
    "diff": kernels.DIFF,
    "mul": kernels.MUL,
    "div": kernels.DIV,
    "log": kernels.LOG,
    "exp": kernels.EXP,
    "sin": kernels.SIN,
    "cos": kernels.COS,
    "sigmoid": kernels.SIGMOID,
    "square": kernels.SQUARE,
}
"""What formulas may be made of, by name."""

N_NODES: Final = 15
OFFSPRING: Final = 4
SMALL: Final = 600
"""Rows that every candidate is fitted to; only the promising ones see the whole table."""

PROMISING: Final = 0.03
"""Loss per shot by which a candidate may be worse than its parent on the small table and still see the whole one."""

CARRIED: Final = 0.5
"""Share of offspring that start from their parent's weights; the others draw all of them anew."""

PENALTIES: Final = (1e-4, 2.5e-4, 5e-4, 1e-3)
"""Loss per node that islands charge in turn: some look for short formulas, some for good ones."""

FAR: Final = 5.0
"""Columns whose mean lies so many standard deviations from zero are centred before they are fitted."""

PER_SIZE: Final = 3
"""Candidates of each size, from different islands, that are written out and judged."""

AGREEMENT: Final = 1e-6
"""Largest difference between the loss of a program and that of the expression made from it."""

WORTH: Final = 1e-4
"""Drop of the held-out loss that a longer formula must bring."""

REFINEMENTS: Final = 30
"""Iterations of the last fit."""

STALE: Final = 400
"""Generations without a better score after which an island starts again from a random formula."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A fitted formula.

    Attributes
    ----------
    genome : its nodes
    size : active nodes, the result's own ``w0 node + w1`` not counted
    loss : per shot, on the training table
    """

    genome: Genome
    size: int
    loss: float


@dataclass(slots=True)
class Island:
    """One line of descent: (1 + 4) selection, each offspring a copy of the parent with one active gene drawn anew.

    Parameters
    ----------
    rng : draws genes and weights
    table : training shots
    small : some of them
    allowed : operations to choose from
    penalty : loss charged per active node
    """

    rng: np.random.Generator
    table: Table
    small: Table
    allowed: NDArray[np.int64]
    penalty: float
    n_fitted: int = 0
    _parent: Candidate | None = field(default=None, init=False)
    _stale: int = field(default=0, init=False)

    def generation(self) -> list[Candidate]:
        """Make one generation; returns the offspring that were fitted to the whole table."""
        if self._parent is None or self._stale > STALE:
            self._parent, self._stale = Candidate(genome=self._random(), size=0, loss=np.inf), 0
        parent = self._parent
        fitted = [child for _ in range(OFFSPRING) if (child := self._offspring(parent)) is not None]
        self._stale += 1
        if fitted:
            best = min(fitted, key=self._score)
            if self._score(best) <= self._score(parent):
                if self._score(best) < self._score(parent) - 1e-6:
                    self._stale = 0
                self._parent = best
        return fitted

    def _score(self, candidate: Candidate) -> float:
        return candidate.loss + self.penalty * candidate.size

    def _offspring(self, parent: Candidate) -> Candidate | None:
        genome = _copied(parent.genome)
        self._mutate(genome)
        if self.rng.random() >= CARRIED:
            genome.weights[:] = self.rng.standard_normal(genome.weights.shape)
        size = len(active_nodes(genome, len(self.table.columns))) - 1
        self.n_fitted += 1
        loss = fit(genome, self.small, 8)
        if not loss + self.penalty * size < self._score(parent) + PROMISING:
            return None
        loss = fit(genome, self.table, 5)
        return Candidate(genome=genome, size=size, loss=loss) if loss < np.inf else None

    def _random(self) -> Genome:
        n_fixed, n = len(self.table.columns), N_NODES + 1
        operations = self.rng.choice(self.allowed, n)
        sources = self.rng.integers(0, n_fixed + np.arange(n)[:, None], (n, 2))
        operations[-1], sources[-1, 1] = SUM, n_fixed - 1
        return Genome(operations, sources, self.rng.standard_normal((n, 2)))

    def _mutate(self, genome: Genome) -> None:
        """Draw genes anew, wherever they lie, until one of them is active."""
        n_fixed, n = len(self.table.columns), len(genome.operations)
        active = np.zeros(n, dtype=bool)
        active[active_nodes(genome, n_fixed)] = True
        while True:
            node, gene = int(self.rng.integers(n)), int(self.rng.integers(3))
            if node == n - 1:
                gene = 1  # the result chooses its node, nothing else
            if gene == 0:
                genome.operations[node] = self.rng.choice(self.allowed)
            else:
                genome.sources[node, gene - 1] = self.rng.integers(n_fixed + node)
            if active[node] and gene <= N_SOURCES[genome.operations[node]]:
                return


def _copied(genome: Genome) -> Genome:
    return Genome(genome.operations.copy(), genome.sources.copy(), genome.weights.copy())


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search is.

    Attributes
    ----------
    share : of the search that is done, 0 to 1
    n_fitted : formulas fitted so far
    seconds : since it began
    best_loss : lowest training loss per shot so far; inf before the first
    """

    share: float
    n_fitted: int
    seconds: float
    best_loss: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shots:
    """Shots to explain.

    Attributes
    ----------
    features : (n, d) original units
    columns : names of the d columns
    to_b : (n,) how many trajectories from this row ended in B
    trials : (n,) how many ended at all
    held_out : (n,) bool, rows that judge formulas and do not fit them
    """

    features: NDArray[np.float64]
    columns: tuple[str, ...]
    to_b: NDArray[np.float64]
    trials: NDArray[np.float64]
    held_out: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse arrays that do not line up, values that are no numbers, and impossible counts."""
        n, d = self.features.shape
        lengths = {len(self.to_b), len(self.trials), len(self.held_out)}
        if lengths != {n} or len(self.columns) != d:
            raise ValueError(f"expected {n} counts and {d} names for features of shape {(n, d)}, got {sorted(lengths)}")
        if not np.isfinite(self.features).all():
            row, column = np.argwhere(~np.isfinite(self.features))[0]
            raise ValueError(
                f"expected numbers, found {self.features[row, column]} in {self.columns[column]!r}, row {row}"
            )
        if not ((self.to_b >= 0) & (self.to_b <= self.trials) & (self.trials > 0)).all():
            raise ValueError("expected 0 <= to_b <= trials and at least one trial in every row")
        if self.held_out.all() or not self.held_out.any():
            raise ValueError("expected some rows held out and some not")


def find_formulas(
    shots: Shots,
    *,
    seed: int,
    operations: Iterable[str] = tuple(OPERATIONS),
    islands: int = 8,
    generations: int = 1000,
    workers: int = 2,
    report: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> list[Formula]:
    """Find short formulas for the logit of the committor, fitted to the outcomes of shots.

    Islands of Cartesian programs evolve independently; of every length the best few are written in the original columns
    with rounded constants, and those are returned that no shorter formula matches on the held-out shots.

    Parameters
    ----------
    seed : the same seed, shots and settings give the same formulas, whatever ``workers`` is
    operations : names from ``OPERATIONS``
    islands, generations : how long to search; time goes with their product
    workers : threads; what they run is compiled and holds no lock of Python
    report : called about once a second from this thread
    stop : set it to end the search; what was found by then is returned

    Returns
    -------
    Formulas by rising complexity and falling held-out loss; the first one is a constant.

    Raises
    ------
    ValueError
        If an operation is unknown.
    """
    allowed = _allowed(operations)
    usable = np.flatnonzero(np.ptp(shots.features, axis=0) > 0)
    centre, scale = _scaling(shots.features[:, usable])
    scaled = ((shots.features[:, usable] - centre) / scale).T
    table = _table(scaled, shots, np.flatnonzero(~shots.held_out))
    rng = np.random.default_rng(seed)
    some = rng.permutation(np.flatnonzero(~shots.held_out))[:SMALL]
    small = _table(scaled, shots, some)
    lines = [
        Island(rng=child, table=table, small=small, allowed=allowed, penalty=PENALTIES[i % len(PENALTIES)])
        for i, child in enumerate(rng.spawn(islands))
    ]
    archive = _evolved(lines, generations, workers, report, stop or threading.Event())
    return _front(archive, table, shots, usable, centre, scale)


def _allowed(operations: Iterable[str]) -> NDArray[np.int64]:
    names = list(dict.fromkeys(operations))
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown or not names:
        raise ValueError(f"expected operations out of {', '.join(OPERATIONS)}, got {', '.join(unknown) or 'none'}")
    return np.array([OPERATIONS[name] for name in names], dtype=np.int64)


def _scaling(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what to subtract and to divide by; zero stays zero unless it is far, so that products stay products."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    far = np.abs(mean) > FAR * spread
    return np.where(far, mean, 0.0), np.where(far, spread, np.sqrt(np.square(features).mean(axis=0)))


def _table(scaled: NDArray[np.float64], shots: Shots, rows: NDArray[np.intp]) -> Table:
    return Table(
        columns=np.ascontiguousarray(np.vstack([scaled[:, rows], np.ones(len(rows))])),
        to_b=shots.to_b[rows].astype(np.float64),
        trials=shots.trials[rows].astype(np.float64),
    )


def _evolved(
    lines: Sequence[Island],
    generations: int,
    workers: int,
    report: Callable[[Progress], None] | None,
    stop: threading.Event,
) -> list[Candidate]:
    """Let islands evolve; returns the best few candidates of every size, over all islands."""
    bests: list[dict[int, Candidate]] = [{} for _ in lines]
    done = [0] * len(lines)

    def evolve(i: int) -> None:
        for _ in range(generations):
            if stop.is_set():
                return
            for candidate in lines[i].generation():
                if candidate.loss < bests[i].get(candidate.size, candidate).loss or candidate.size not in bests[i]:
                    bests[i][candidate.size] = candidate
            done[i] += 1

    start = time.monotonic()
    with ThreadPoolExecutor(workers) as executor:
        pending = {executor.submit(evolve, i) for i in range(len(lines))}
        try:
            while pending:
                finished, pending = wait(pending, timeout=1.0)
                for future in finished:
                    future.result()
                if report is not None:
                    losses = [item.loss for best in bests for item in list(best.values())]
                    report(
                        Progress(
                            share=sum(done) / (generations * len(lines)),
                            n_fitted=sum(line.n_fitted for line in lines),
                            seconds=time.monotonic() - start,
                            best_loss=min(losses, default=math.inf),
                        )
                    )
        except BaseException:
            stop.set()
            raise
    sizes = sorted({size for best in bests for size in best})
    return [
        candidate
        for size in sizes
        for candidate in sorted((best[size] for best in bests if size in best), key=lambda item: item.loss)[:PER_SIZE]
    ]


def _front(
    archive: Sequence[Candidate],
    table: Table,
    shots: Shots,
    usable: NDArray[np.intp],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> list[Formula]:
    """Write candidates in the original columns, and return those that no shorter one matches on held-out shots."""
    symbols = symbols_for([shots.columns[i] for i in usable])
    columns = dict(zip(symbols, shots.features[:, usable].T, strict=True))
    fitting = ~shots.held_out
    share = shots.to_b[fitting].sum() / shots.trials[fitting].sum()
    constant = sympy.Float(math.log(share / (1.0 - share)) if 0.0 < share < 1.0 else math.copysign(10.0, share - 0.5))
    chance = loss_of(np.full(fitting.sum(), float(constant)), shots.to_b[fitting], shots.trials[fitting])
    formulas = [found for found in [_judged(constant, symbols, columns, shots, chance)] if found is not None]
    for candidate in archive:
        genome = _copied(candidate.genome)
        fitted_loss = fit(genome, table, REFINEMENTS)
        expression = to_sympy(genome, list(symbols), centre, scale)
        if expression.has(sympy.nan, sympy.zoo, sympy.oo, sympy.I):
            continue
        formula = _judged(expression, symbols, columns, shots, fitted_loss)
        if formula is not None:
            formulas.append(formula)
    front: list[Formula] = []
    for formula in sorted(formulas, key=lambda item: (item.complexity, item.validation_loss, item.expression)):
        if not front or formula.validation_loss < front[-1].validation_loss - WORTH:
            front.append(formula)
    return front


def _judged(
    expression: sympy.Expr,
    symbols: Mapping[str, str],
    columns: Mapping[str, NDArray[np.float64]],
    shots: Shots,
    fitted_loss: float,
) -> Formula | None:
    """Return a formula with its losses as sympy evaluates it, or None if that is not what was fitted."""
    fitting, judging = ~shots.held_out, shots.held_out
    train = {name: column[fitting] for name, column in columns.items()}
    if abs(loss_of(evaluate(expression, train), shots.to_b[fitting], shots.trials[fitting]) - fitted_loss) > AGREEMENT:
        return None
    short = rounded(expression, train, shots.to_b[fitting], shots.trials[fitting])
    used = {name: symbols[name] for name in sorted(str(symbol) for symbol in short.free_symbols)}
    formula = Formula(
        expression=text_of(short),
        symbols=used,
        complexity=int(sympy.count_ops(short)),
        training_loss=math.nan,
        validation_loss=math.nan,
    )
    q = evaluate(formula.sympy, columns)  # of the text: what is handed out is what is judged
    return replace(
        formula,
        training_loss=loss_of(q[fitting], shots.to_b[fitting], shots.trials[fitting]),
        validation_loss=loss_of(q[judging], shots.to_b[judging], shots.trials[judging]),
    )
