"""The front: what the search found, written in the original columns and judged by the shots it did not see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import sympy
from numpy.typing import NDArray

from separatrix.errors import AnalysisError
from separatrix.symbolic.formula import Formula, evaluate, loss_of, rounded, symbols_for, text_of, to_sympy
from separatrix.symbolic.islands import Archive, Candidate
from separatrix.symbolic.kernels import Table, copied, fit

RIVALS: Final = 3
"""Formulas of one length that are written out, and that stand beside each other if the shots do not tell them apart."""

ALIKE: Final = 0.03
"""Root mean square difference of logits below which two formulas are one."""

AGREEMENT: Final = 1e-6
"""Largest difference between the loss of a program and that of the expression made from it."""

WORTH: Final = 1e-4
"""Drop of the held-out loss that a longer formula must bring."""

REFINEMENTS: Final = 30
"""Iterations of the last fit."""


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


def front_of(
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
    try:
        q = evaluate(formula.sympy, columns)  # of the text: what is handed out is what is judged
    except AnalysisError:  # such as a power that is not read, which sympy made of an exponential of a logarithm
        return None
    return replace(
        formula,
        training_loss=loss_of(q[fitting], shots.to_b[fitting], shots.trials[fitting]),
        validation_loss=loss_of(q[judging], shots.to_b[judging], shots.trials[judging]),
    )
