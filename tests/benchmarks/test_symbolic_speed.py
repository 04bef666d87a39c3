"""Symbolic regression beside gplearn and pyoperon: formulas fitted per second, and the loss reached in equal time.

All three see the same rows and the same operations as far as they have them, on one thread, and take turns.
What differs: gplearn's SymbolicClassifier minimises the same loss, each shot a row of its own, and draws its constants
without fitting them; whole numbers, as in the first law, it makes of sums. pyoperon fits constants too, ten iterations
each, but knows no logistic loss: it minimises the squared error of the empirical logit log((to_b + 1/2) / (trials -
to_b + 1/2)), and what it finds is then scaled and shifted to the outcomes. Ours fits most formulas to 600 rows only.
Each tool chooses its formula itself, from these rows; losses are per shot on other rows, above that of the law itself.

Prints a table; asserts nothing. `make bench` installs both and runs it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from separatrix.symbolic import Progress, Shots, find_formulas
from separatrix.symbolic.formula import loss_of

genetic = pytest.importorskip("gplearn.genetic", reason="gplearn is not installed; make bench installs it")
operon = pytest.importorskip("pyoperon.sklearn", reason="pyoperon is not installed; make bench installs it")

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

N_ROWS, N_OTHERS, N_INPUTS, SEEDS, SECONDS = 3_000, 50_000, 5, 3, 6
LAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sine and linear": lambda x: 2.0 * np.sin(2.0 * x[:, 0]) + x[:, 4],
    "rational": lambda x: (2.0 * x[:, 0] + x[:, 1]) / (1.0 + x[:, 2] ** 2),
}
Found = tuple[int, float, np.ndarray]
"""How many formulas were fitted, in how many seconds, and logits of other rows."""


def made(law: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator, n: int) -> Shots:
    features = rng.normal(size=(n, N_INPUTS))
    held_out = np.zeros(n, dtype=bool)
    held_out[rng.permutation(n)[: n // 5]] = True
    to_b = rng.binomial(2, 1 / (1 + np.exp(-law(features)))).astype(float)
    columns = tuple(f"x{i}" for i in range(N_INPUTS))
    return Shots(features=features, columns=columns, to_b=to_b, trials=np.full(n, 2.0), held_out=held_out)


def ours(shots: Shots, others: np.ndarray, seed: int) -> Found:
    """Search until the time is over; writing the formulas out, some seconds of sympy, comes on top."""
    seen: list[Progress] = []
    stop = threading.Event()
    timer = threading.Timer(SECONDS, stop.set)
    timer.start()
    front = find_formulas(shots, seed=seed, islands=4, generations=10**6, workers=1, report=seen.append, stop=stop)
    best = min(front, key=lambda formula: formula.validation_loss)
    return seen[-1].n_fitted, seen[-1].seconds, best.q(others, shots.columns)


def of_gplearn(shots: Shots, others: np.ndarray, seed: int) -> Found:
    """Grow generations until the time is over; the best program by its own criterion."""
    x = np.repeat(shots.features, 2, axis=0)
    y = (np.arange(2) < shots.to_b[:, None]).astype(int).ravel()
    model = genetic.SymbolicClassifier(
        population_size=1000,
        generations=1,
        function_set=("add", "sub", "mul", "div", "log", "sin", "cos"),
        parsimony_coefficient=1e-4,
        const_range=(-3.0, 3.0),
        warm_start=True,
        random_state=seed,
    )
    n, start = 0, time.perf_counter()
    while time.perf_counter() < start + SECONDS:
        model.set_params(generations=n + 1)
        model.fit(x, y)
        n += 1
    seconds = time.perf_counter() - start
    p = np.clip(model.predict_proba(others)[:, 1], 1e-12, 1 - 1e-12)
    return 1000 * n, seconds, np.log(p / (1 - p))


def of_operon(shots: Shots, others: np.ndarray, seed: int) -> Found:
    """Evolve for the same time; the model of least description length, scaled and shifted to the outcomes."""
    logit = np.log((shots.to_b + 0.5) / (shots.trials - shots.to_b + 0.5))
    model = operon.SymbolicRegressor(
        allowed_symbols="add,sub,mul,div,log,exp,sin,cos,square,constant,variable",
        optimizer_iterations=10,
        max_length=30,
        max_evaluations=10**9,
        generations=10**6,
        max_time=SECONDS,
        n_threads=1,
        random_state=seed,
    )
    start = time.perf_counter()
    model.fit(shots.features, logit)
    seconds = time.perf_counter() - start
    a, b = calibrated(model.predict(shots.features), shots.to_b, shots.trials)
    return int(model.stats_["evaluation_count"]), seconds, a * model.predict(others) + b


def calibrated(raw: np.ndarray, to_b: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Return slope and offset of the logit, by Newton's method."""
    rows, weights = np.stack([raw, np.ones(len(raw))], axis=1), np.array([1.0, 0.0])
    for _ in range(20):
        p = 1 / (1 + np.exp(-rows @ weights))
        curvature = rows.T @ ((trials * p * (1 - p))[:, None] * rows)
        weights -= np.linalg.solve(curvature, rows.T @ (trials * p - to_b))
    return weights


TOOLS = {"separatrix": ours, "gplearn": of_gplearn, "pyoperon": of_operon}


@pytest.mark.parametrize("name", LAWS)
def test_formulas_per_second_and_loss_in_equal_time(name: str) -> None:
    """Ours over theirs: speed as a ratio; losses above that of the law, per seed."""
    find_formulas(
        made(LAWS[name], np.random.default_rng(0), N_ROWS), seed=0, islands=1, generations=1
    )  # loads machine code, once
    rates: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    losses: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        shots, others = made(LAWS[name], rng, N_ROWS), made(LAWS[name], rng, N_OTHERS)
        best = loss_of(LAWS[name](others.features), others.to_b, others.trials)
        for tool, search in TOOLS.items():
            n, seconds, q = search(shots, others.features, seed)
            rates[tool].append(n / seconds)
            losses[tool].append(loss_of(q, others.to_b, others.trials) - best)
    print(f"\n{name}: {N_ROWS} rows, {N_INPUTS} inputs, {SECONDS} s each, {SEEDS} seeds in turns")
    for tool in TOOLS:
        ratios = np.array(rates["separatrix"]) / rates[tool]
        speed = f"{np.mean(rates[tool]):7.0f} formulas/s (ours {ratios.mean():.2f} +- {ratios.std():.2f} times)"
        print(f"{tool:>10}: {speed}, loss above the law's {np.round(losses[tool], 4).tolist()}")
