"""Symbolic regression beside gplearn and pyoperon: formulas fitted per second, and the loss reached in equal time.

All three see the same table and the same operations as far as they have them, on one thread, and take turns.
What differs: gplearn's SymbolicClassifier minimises the same loss, each shot a row of its own, and draws its constants
without fitting them. pyoperon fits constants too, ten iterations each as here, but knows no logistic loss: it minimises
the squared error of the empirical logit log((to_b + 1/2) / (trials - to_b + 1/2)), and what it finds is then scaled and
shifted to the outcomes. Held-out losses are of logits, above that of the law that made the outcomes.

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

N_ROWS, N_INPUTS, SEEDS, SECONDS = 3_000, 5, 3, 6
LAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sine and linear": lambda x: 2.0 * np.sin(2.0 * x[:, 0]) + x[:, 4],
    "rational": lambda x: (2.0 * x[:, 0] + x[:, 1]) / (1.0 + x[:, 2] ** 2),
}
Found = tuple[int, float, np.ndarray]
"""How many formulas were fitted, in how many seconds, and logits of the rows held out."""


def made(law: Callable[[np.ndarray], np.ndarray], seed: int) -> tuple[Shots, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N_ROWS, N_INPUTS))
    q = law(features)
    held_out = np.zeros(N_ROWS, dtype=bool)
    held_out[rng.permutation(N_ROWS)[: N_ROWS // 5]] = True
    to_b, trials = rng.binomial(2, 1 / (1 + np.exp(-q))).astype(float), np.full(N_ROWS, 2.0)
    columns = tuple(f"x{i}" for i in range(N_INPUTS))
    return Shots(features=features, columns=columns, to_b=to_b, trials=trials, held_out=held_out), q


def ours(shots: Shots, seed: int) -> Found:
    """Search until the time is over, one thread."""
    seen: list[Progress] = []
    stop = threading.Event()
    timer = threading.Timer(SECONDS, stop.set)
    start = time.perf_counter()
    timer.start()
    front = find_formulas(shots, seed=seed, islands=4, generations=10**6, workers=1, report=seen.append, stop=stop)
    seconds = time.perf_counter() - start
    timer.cancel()
    best = min(front, key=lambda formula: formula.validation_loss)
    return seen[-1].n_fitted, seconds, best.q(shots.features[shots.held_out], shots.columns)


def of_gplearn(shots: Shots, seed: int) -> Found:
    """Grow generations until the time is over; the best program by its own criterion."""
    fitting = ~shots.held_out
    x = np.repeat(shots.features[fitting], 2, axis=0)
    y = (np.arange(2) < shots.to_b[fitting][:, None]).astype(int).ravel()
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
    p = np.clip(model.predict_proba(shots.features[shots.held_out])[:, 1], 1e-12, 1 - 1e-12)
    return 1000 * n, seconds, np.log(p / (1 - p))


def of_operon(shots: Shots, seed: int) -> Found:
    """Evolve for the same time; the model of least description length, scaled and shifted to the outcomes."""
    fitting = ~shots.held_out
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
    model.fit(shots.features[fitting], logit[fitting])
    seconds = time.perf_counter() - start
    raw = model.predict(shots.features)
    a, b = calibrated(raw[fitting], shots.to_b[fitting], shots.trials[fitting])
    return int(model.stats_["evaluation_count"]), seconds, a * raw[shots.held_out] + b


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
    find_formulas(made(LAWS[name], 0)[0], seed=0, islands=1, generations=1)  # loads machine code, once
    rates: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    losses: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for seed in range(SEEDS):
        shots, law = made(LAWS[name], seed)
        judging = shots.held_out
        best = loss_of(law[judging], shots.to_b[judging], shots.trials[judging])
        for tool, search in TOOLS.items():
            n, seconds, q = search(shots, seed)
            rates[tool].append(n / seconds)
            losses[tool].append(loss_of(q, shots.to_b[judging], shots.trials[judging]) - best)
    print(f"\n{name}: {N_ROWS} rows, {N_INPUTS} inputs, {SECONDS} s each, {SEEDS} seeds in turns")
    for tool in TOOLS:
        ratios = np.array(rates["separatrix"]) / rates[tool]
        speed = f"{np.mean(rates[tool]):7.0f} formulas/s (ours {ratios.mean():.2f} +- {ratios.std():.2f} times)"
        print(f"{tool:>10}: {speed}, loss above the law's {np.round(losses[tool], 4).tolist()}")
