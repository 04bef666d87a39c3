"""The search: islands of formulas evolve side by side, share what they keep, and end when nothing gains any more."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from separatrix.symbolic import kernels
from separatrix.symbolic.formula import Formula
from separatrix.symbolic.front import Shots, front_of
from separatrix.symbolic.islands import SAME, Archive, Candidate, Island
from separatrix.symbolic.kernels import N_SOURCES, RESULT, Genome, Table, n_weights

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

SMALL: Final = 600
"""Rows that every candidate is fitted to; only the promising ones see the whole table."""

FIRST_WEIGHTS: Final = ((0.5, 2.0), (-0.5, 2.0), (2.0, 0.0))
"""Weights that single operations start from: both signs, arguments of logarithms above zero, a slow and a fast wave."""

ROUND: Final = 50
"""Generations after which islands share what they keep."""

PATIENCE: Final = 2000
"""Generations without a better formula, by the Bayesian information criterion, after which a search ends."""

FAR: Final = 5.0
"""Columns whose mean lies so many standard deviations from zero are centred before they are fitted."""


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
    return front_of(archive, table, shots, usable, centre, scale)


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
