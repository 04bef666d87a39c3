"""Symbolic regression against tables whose law is known: recovered in structure, and as good as the law itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sympy

from separatrix.symbolic import Formula, Shots, find_formulas
from separatrix.symbolic.formula import loss_of

pytestmark = pytest.mark.statistics

N_ROWS, N_INPUTS, N_SEEDS = 3_000, 10, 10
LAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: 1.2 * x[:, 0] - 0.8 * x[:, 3] + 0.4,
    "product": lambda x: 1.5 * x[:, 1] * x[:, 2] - 0.5,
    "saturation": lambda x: 3.0 * (1.0 - np.exp(-0.7 * x[:, 4])) - 1.0,
    "sine and linear": lambda x: 2.0 * np.sin(2.0 * x[:, 0]) + x[:, 5],
}
X = sympy.symbols(f"x0:{N_INPUTS}")


def constant(expression: sympy.Expr, rng: np.random.Generator, *, zero: bool = True) -> bool:
    """Return whether an expression has the same value everywhere, and perhaps another one than zero."""
    function = sympy.lambdify(X, expression, "numpy")
    values = np.broadcast_to(np.asarray(function(*rng.uniform(-1, 1, (N_INPUTS, 50))), dtype=float), 50)
    if not np.isfinite(values).all() or np.ptp(values) > 1e-6 * max(1.0, np.abs(values).max()):
        return False
    return zero or bool(np.abs(values).max() > 1e-3)


def has_the_structure(name: str, formula: Formula, rng: np.random.Generator) -> bool:
    """Return whether a formula is of the law's form, up to its constants."""
    q, used = formula.sympy, {str(symbol) for symbol in formula.sympy.free_symbols}
    if name == "linear":
        return used == {"x0", "x3"} and all(constant(q.diff(x), rng) for x in (X[0], X[3]))
    if name == "product":
        alone = all(q.subs({x: 0}).is_number for x in (X[1], X[2]))
        return used == {"x1", "x2"} and constant(q.diff(X[1], X[2]), rng) and alone
    if name == "saturation":
        return used == {"x4"} and constant(q.diff(X[4], 2) / q.diff(X[4]), rng, zero=False)
    oscillates = q.diff(X[0], 3) / q.diff(X[0])
    return used == {"x0", "x5"} and constant(q.diff(X[5]), rng) and constant(oscillates, rng, zero=False)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("linear", "1.2*x0 - 0.8*x3", True),
        ("linear", "1.2*x0 - 0.8*x3 + 0.1*x4", False),
        ("product", "1.5*x1*x2 - 0.5", True),
        ("product", "1.5*x1*x2 + x1", False),
        ("saturation", "2.0 - 3.0*exp(-0.7*x4)", True),
        ("saturation", "2.0 - 3.0*x4", False),
        ("saturation", "2.0 - 3.0/(1 + exp(x4))", False),
        ("sine and linear", "2.0*sin(2.0*x0 + 0.1) + x5", True),
        ("sine and linear", "2.0*x0 + x5", False),
    ],
)
def test_the_structure_of_a_formula_is_told(name: str, text: str, expected: bool) -> None:
    symbols = {str(symbol): str(symbol) for symbol in sympy.sympify(text).free_symbols}
    formula = Formula(expression=text, symbols=symbols, complexity=1, training_loss=0.5, validation_loss=0.5)
    assert has_the_structure(name, formula, np.random.default_rng(0)) is expected


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_known_laws_are_recovered(name: str) -> None:
    recovered, excesses = 0, []
    for seed in range(N_SEEDS):
        rng = np.random.default_rng(100 + seed)
        features = rng.normal(size=(N_ROWS, N_INPUTS))
        law = LAWS[name](features)
        to_b = rng.binomial(2, 1 / (1 + np.exp(-law))).astype(float)
        trials, held_out = np.full(N_ROWS, 2.0), np.zeros(N_ROWS, dtype=bool)
        held_out[rng.permutation(N_ROWS)[: N_ROWS // 5]] = True
        columns = tuple(str(x) for x in X)
        shots = Shots(features=features, columns=columns, to_b=to_b, trials=trials, held_out=held_out)
        front = find_formulas(shots, seed=seed, islands=4, generations=150)
        best = loss_of(law[held_out], to_b[held_out], trials[held_out])
        fits = [formula for formula in front if has_the_structure(name, formula, rng)]
        excess = min((formula.validation_loss - best for formula in fits), default=np.inf)
        excesses.append(excess)
        recovered += excess <= 0.005
        # Knowing nothing would not pass.
        assert front[0].validation_loss > best + 0.005
    print(f"\n{name}: recovered in {recovered} of {N_SEEDS}; excess loss {np.round(excesses, 4)}")
    assert recovered >= 0.9 * N_SEEDS
