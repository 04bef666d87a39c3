"""The search: islands of formulas that evolve, and an archive of the best of every length."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import sympy
from numpy.typing import NDArray

from separatrix.symbolic import kernels
from separatrix.symbolic.formula import Formula, evaluate, loss_of, rounded, symbols_for, text_of, to_sympy
from separatrix.symbolic.kernels import (
    LENGTHS,
    N_DRAWS,
    N_SOURCES,
    RESULT,
    Genome,
    Table,
    copied,
    fit,
    is_idle,
    n_weights,
    varied,
)

OPERATIONS: Final[Mapping[str, int]] = {
    "sum": kernels.SUM,
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

PROMISING: Final = 0.003
"""Loss per shot on the small table by which a candidate may be worse than all that are kept and still see the whole."""

CARRIED: Final = 0.5
"""Share of offspring that start from their parent's weights; the others draw all of them anew."""

KEPT: Final = 6
"""Formulas of each length that are kept and varied."""

STARTS: Final = 8
"""How often an island fits one structure, from different weights, before it passes it over."""

FIRST_WEIGHTS: Final = ((0.5, 2.0), (-0.5, 2.0), (2.0, 0.0))
"""Weights that single operations start from: both signs, arguments of logarithms above zero, a slow and a fast wave."""

TOURNAMENT: Final = 4
"""Formulas of which the best is varied."""

PRICES: Final = (1e-4, 3e-2)
"""Loss per operation that a tournament charges, least and most: some look for short formulas, some for good ones."""

ROUND: Final = 50
"""Generations after which islands share what they keep."""

PATIENCE: Final = 2000
"""Generations without a better formula, by the Bayesian information criterion, after which a search ends."""

FAR: Final = 5.0
"""Columns whose mean lies so many standard deviations from zero are centred before they are fitted."""

RIVALS: Final = 3
"""Formulas of one length that are written out, and that stand beside each other if the shots do not tell them apart."""

ALIKE: Final = 0.03
"""Root mean square difference of logits below which two formulas are one."""

AGREEMENT: Final = 1e-6
"""Largest difference between the loss of a program and that of the expression made from it."""

SAME: Final = 1e-6
"""Difference of training losses below which two formulas of one length are one."""

WORTH: Final = 1e-4
"""Drop of the held-out loss that a longer formula must bring."""

REFINEMENTS: Final = 30
"""Iterations of the last fit."""


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
    generations: int = 5000,
    workers: int = 2,
    report: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> list[Formula]:
    """Find short formulas for the logit of the committor, fitted to the outcomes of shots.

    Islands keep the best few Cartesian programs of every length, beginning with every operation on inputs, vary them,
    and share them now and then. The best are written in the original columns with rounded constants, and those are
    returned that no shorter formula matches on the held-out shots; of one length several, if the shots do not tell them
    apart.

    Parameters
    ----------
    seed : the same seed, shots and settings give the same formulas, whatever ``workers`` is
    operations : names from ``OPERATIONS``
    islands, generations : how long to search at most; time goes with their product
    workers : threads; what they run is compiled and holds no lock of Python
    report : called about once a second from this thread
    stop : set it to end the search; what was found by then is returned

    Returns
    -------
    Formulas by rising complexity and, but for rivals, falling held-out loss; the first one is a constant.

    Raises
    ------
    ValueError
        If an operation is unknown, or no column varies.
    """
    allowed = _allowed(operations)
    usable = np.flatnonzero(np.ptp(shots.features, axis=0) > 0)
    if not usable.size:
        raise ValueError(f"expected a column that varies, found none in {', '.join(shots.columns) or 'no columns'}")
    stop = stop or threading.Event()
    centre, scale = _scaling(shots.features[:, usable])
    scaled = ((shots.features[:, usable] - centre) / scale).T
    table = _table(scaled, shots, np.flatnonzero(~shots.held_out))
    rng = np.random.default_rng(seed)
    some = rng.permutation(np.flatnonzero(~shots.held_out))[:SMALL]
    small = _table(scaled, shots, some)
    lines = [Island(rng=child, table=table, small=small, allowed=allowed) for child in rng.spawn(islands)]
    for i, genome in enumerate(_simple(len(table.columns), allowed)):
        if i < len(usable) or not stop.is_set():
            lines[i % islands].judge(genome)
    _share(lines)
    archive = _Search(lines, generations, stop, report).run(workers)
    return _front(archive, table, shots, usable, centre, scale)


def _simple(n_fixed: int, allowed: NDArray[np.int64]) -> Iterator[Genome]:
    """Yield every input, and every operation on inputs with each of the first weights."""
    for a in range(n_fixed - 1):
        yield Genome(np.array([RESULT]), np.array([[a, 0]]), np.zeros((1, 2)))
    for operation in allowed.tolist():
        for a, b in itertools.product(range(n_fixed), range(n_fixed) if N_SOURCES[operation] == 2 else (0,)):
            if a <= b or operation not in (kernels.SUM, kernels.MUL):
                for weights in FIRST_WEIGHTS[: 1 if N_SOURCES[operation] == 2 else None]:
                    sources = np.array([[a, b], [n_fixed, 0]])
                    yield Genome(np.array([operation, RESULT]), sources, np.array([weights, (0.0, 0.0)]))


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


def _share(lines: Sequence[Island]) -> None:
    """Give every island the best of all."""
    common = Archive()
    for line in lines:
        for candidate in line.archive:
            common.add(candidate)
    for line in lines:
        line.archive = Archive(common.shelves)


@dataclass(slots=True)
class _Search:
    """Islands that evolve round by round, until the last generation, or one far behind the last that gained."""

    lines: Sequence[Island]
    generations: int
    stop: threading.Event
    report: Callable[[Progress], None] | None
    _done: list[int] = field(init=False)
    _until: int = field(default=0, init=False)
    _start: float = field(default_factory=time.monotonic, init=False)
    _told: float = field(default_factory=time.monotonic, init=False)

    def run(self, workers: int) -> Archive:
        """Return what the islands keep in the end."""
        self._done = [0] * len(self.lines)
        best, best_at = math.inf, 0
        with ThreadPoolExecutor(workers) as executor:
            while self._until < min(self.generations, best_at + PATIENCE) and not self.stop.is_set():
                self._until = min(self._until + ROUND, self.generations)
                self._wait_for({executor.submit(self._evolve, i) for i in range(len(self.lines))})
                _share(self.lines)
                score = min(map(self._score, self.lines[0].archive))
                if score < best - SAME:
                    best, best_at = score, self._until
        self._tell(sum(self._done) / (self.generations * len(self.lines)) if self.stop.is_set() else 1.0)
        return self.lines[0].archive

    def _evolve(self, i: int) -> None:
        while self._done[i] < self._until and not self.stop.is_set():
            self.lines[i].generation()
            self._done[i] += 1

    def _wait_for(self, pending: set[Future[None]]) -> None:
        try:
            while pending:
                finished, pending = wait(pending, timeout=1.0)
                for future in finished:
                    future.result()
                if time.monotonic() >= self._told + 1.0:
                    self._tell(sum(self._done) / (self.generations * len(self.lines)))
        except BaseException:
            self.stop.set()
            raise

    def _score(self, candidate: Candidate) -> float:
        """Return the Bayesian information criterion per shot, halved."""
        trials = self.lines[0].table.trials
        return candidate.loss + n_weights(candidate.genome) * math.log(len(trials)) / (2.0 * float(trials.sum()))

    def _tell(self, share: float) -> None:
        self._told = time.monotonic()
        if self.report is not None:
            losses = [candidate.loss for line in self.lines for candidate in line.archive]
            n_fitted, seconds = sum(line.n_fitted for line in self.lines), self._told - self._start
            self.report(Progress(share=share, n_fitted=n_fitted, seconds=seconds, best_loss=min(losses)))


def _front(
    archive: Archive,
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
    for candidate in _worth_writing(archive):
        genome = copied(candidate.genome)
        fitted_loss = fit(genome, table, REFINEMENTS)
        expression = to_sympy(genome, list(symbols), centre, scale)
        if expression.has(sympy.nan, sympy.zoo, sympy.oo, sympy.I):
            continue
        formula = _judged(expression, symbols, columns, shots, fitted_loss)
        if formula is not None:
            formulas.append(formula)
    return _pareto(formulas, shots)


def _worth_writing(archive: Archive) -> Iterator[Candidate]:
    """Yield the best few of every length that all shorter ones are worse than."""
    best = math.inf
    for _, shelf in itertools.groupby(archive, key=lambda item: item.length):
        better = [candidate for candidate in shelf if candidate.loss < best - WORTH][:RIVALS]
        yield from better
        best = min([best, *(candidate.loss for candidate in better)])


def _pareto(formulas: Sequence[Formula], shots: Shots) -> list[Formula]:
    """Return formulas that do better on held-out shots than all shorter ones, with their rivals of the same length."""
    front: list[Formula] = []
    best = math.inf
    ordered = sorted(formulas, key=lambda item: (item.complexity, item.validation_loss, item.expression))
    for _, same in itertools.groupby(ordered, key=lambda item: item.complexity):
        better = [formula for formula in same if formula.validation_loss < best - WORTH]
        rivals: list[Formula] = []
        for formula in better:
            if len(rivals) < RIVALS and _is_rival(formula, rivals, shots):
                rivals.append(formula)
        front += rivals
        best = min([best, *(formula.validation_loss for formula in better)])
    return front


def _is_rival(formula: Formula, rivals: Sequence[Formula], shots: Shots) -> bool:
    """Return whether a formula is another than these, and the shots, all of them, do not tell it from the first."""
    q, *others = [item.q(shots.features, shots.columns) for item in (formula, *rivals)]
    if any(np.sqrt(np.square(q - other).mean()) < ALIKE for other in others):
        return False
    if not others:
        return True
    rise = shots.trials * (np.logaddexp(0.0, q) - np.logaddexp(0.0, others[0])) - shots.to_b * (q - others[0])
    return bool(rise.mean() < 2.0 * rise.std() / math.sqrt(len(rise)))


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
