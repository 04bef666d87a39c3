"""Compiled inner loops of symbolic regression: logits of formulas and fits of their weights.

A formula is a row of nodes, each an operation on inputs or earlier nodes, with weights (Cartesian genetic programming).
Only the nodes that the result depends on are computed, with exact derivatives by every weight, block by block of rows;
weights are refined by Levenberg and Marquardt's method on the loss of the shots. One candidate at a time by second
order was thirty times as fast as gradients of whole populations.

All of it is one file, because Numba compiles a function anew only when the file of that very function changes.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from separatrix.kernels import compiled

SUM, DIFF, MUL, DIV, LOG, EXP, SIN, COS, SIGMOID, SQUARE = range(10)
"""Operations on sources a, b with weights w: w0 a + w1 b, w0 a - w1 b, w0 a b, w0 a / b, log(w0 a + w1), exp(w0 a),
sin(w0 a + w1), cos(w0 a + w1), 1 / (1 + exp(-w0 a - w1)), (w0 a + w1)^2."""

N_WEIGHTS: Final = np.array([2, 2, 1, 1, 2, 1, 2, 2, 2, 2])
"""Weights of each operation."""

N_SOURCES: Final = np.array([2, 2, 2, 2, 1, 1, 1, 1, 1, 1])
"""Sources of each operation."""

_BLOCK: Final = 64
"""Rows computed together; values and derivatives of a formula then stay in the fast cache."""

_LARGEST: Final = 40.0
"""Exponents and logits beyond are refused: no shot tells them from infinity, and nothing may overflow."""

_HEAVIEST: Final = 1e8
"""Largest weight."""


class Table(NamedTuple):
    """Shots to fit.

    Attributes
    ----------
    columns : (n_inputs + 1, n) float64, each input and a last row of ones
    to_b : (n,) float64, how many trajectories from this row ended in B
    trials : (n,) float64, how many ended at all
    """

    columns: NDArray[np.float64]
    to_b: NDArray[np.float64]
    trials: NDArray[np.float64]


class Genome(NamedTuple):
    """A row of nodes. The last one is the result, ``w0 node + w1``: its operation and second source never change.

    Attributes
    ----------
    operations : (n_nodes,) int64
    sources : (n_nodes, 2) int64; inputs first, then the ones, then nodes
    weights : (n_nodes, 2) float64
    """

    operations: NDArray[np.int64]
    sources: NDArray[np.int64]
    weights: NDArray[np.float64]


@compiled
def active_nodes(genome: Genome, n_fixed: int) -> NDArray[np.int64]:
    """Return the nodes that the result depends on, in order; ``n_fixed`` sources are no nodes."""
    n_nodes = len(genome.operations)
    used = np.zeros(n_nodes, dtype=np.bool_)
    used[n_nodes - 1] = True
    for node in range(n_nodes - 1, -1, -1):
        if used[node]:
            for place in range(N_SOURCES[genome.operations[node]]):
                source = genome.sources[node, place]
                if source >= n_fixed:
                    used[source - n_fixed] = True
    return np.flatnonzero(used)


@compiled
def _two_sources(operation, w0, w1, a, b, value, by_a, by_b, by_w0, by_w1, n):
    if operation in (SUM, DIFF):
        sign = 1.0 if operation == SUM else -1.0
        for i in range(n):
            value[i] = w0 * a[i] + sign * w1 * b[i]
            by_a[i], by_b[i], by_w0[i], by_w1[i] = w0, sign * w1, a[i], sign * b[i]
    elif operation == MUL:
        for i in range(n):
            value[i], by_a[i], by_b[i], by_w0[i] = w0 * a[i] * b[i], w0 * b[i], w0 * a[i], a[i] * b[i]
    else:
        for i in range(n):
            ratio = a[i] / b[i]
            value[i], by_a[i], by_b[i], by_w0[i] = w0 * ratio, w0 / b[i], -w0 * ratio / b[i], ratio


@compiled
def _one_source(operation, w0, w1, a, value, by_a, by_w0, by_w1, n):
    for i in range(n):
        u = w0 * a[i] + w1 if operation != EXP else w0 * a[i]
        if operation == LOG:
            value[i], slope = math.log(u), 1.0 / u
        elif operation == SIN:
            value[i], slope = math.sin(u), math.cos(u)
        elif operation == COS:
            value[i], slope = math.cos(u), -math.sin(u)
        elif operation == SQUARE:
            value[i], slope = u * u, 2.0 * u
        elif abs(u) > _LARGEST:
            value[i], slope = math.nan, math.nan
        elif operation == EXP:
            slope = math.exp(u)
            value[i] = slope
        else:
            s = 1.0 / (1.0 + math.exp(-u))
            value[i], slope = s, s * (1.0 - s)
        by_a[i], by_w0[i], by_w1[i] = w0 * slope, a[i] * slope, slope


@compiled
def _compute(operation, w0, w1, a, b, value, by_a, by_b, by_w0, by_w1, n):
    """Write values of one node and its derivatives by sources and weights; returns whether all are within bounds."""
    if N_SOURCES[operation] == 2:
        _two_sources(operation, w0, w1, a, b, value, by_a, by_b, by_w0, by_w1, n)
    else:
        _one_source(operation, w0, w1, a, value, by_a, by_w0, by_w1, n)
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(value[i])) if value[i] == value[i] else math.inf
    return largest < 1e12


@compiled
def logits(genome: Genome, table: Table) -> NDArray[np.float64]:
    """Return the logit of every row, (n,); nan where it cannot be computed within bounds."""
    n_rows, n_fixed = table.columns.shape[1], len(table.columns)
    nodes = active_nodes(genome, n_fixed)
    values = np.empty((len(genome.operations), _BLOCK))
    scratch = np.empty((4, _BLOCK))
    result = np.full(n_rows, np.nan)
    for start in range(0, n_rows, _BLOCK):
        n = min(_BLOCK, n_rows - start)
        for node in nodes:
            first, second = genome.sources[node, 0], genome.sources[node, 1]
            a = table.columns[first, start : start + n] if first < n_fixed else values[first - n_fixed, :n]
            b = table.columns[second, start : start + n] if second < n_fixed else values[second - n_fixed, :n]
            w0, w1 = genome.weights[node, 0], genome.weights[node, 1]
            if not _compute(
                genome.operations[node], w0, w1, a, b, values[node], scratch[0], scratch[1], scratch[2], scratch[3], n
            ):
                return result
        result[start : start + n] = values[nodes[-1], :n]
    return result


@compiled
def _chain(of_node, by_source, of_source, n_weights, n):
    """Add what a source passes on of its derivatives by the weights before it."""
    for k in range(n_weights):
        for i in range(n):
            of_node[k, i] += by_source[i] * of_source[k, i]


@compiled
def _weigh(q, trials, to_b, error, weight):
    """Write the derivatives of the loss of a block by its logits, and return its sum; inf beyond bounds."""
    loss = 0.0
    for i in range(len(q)):
        if abs(q[i]) > _LARGEST:
            return math.inf
        e = math.exp(-abs(q[i]))
        p_b = 1.0 / (1.0 + e) if q[i] > 0 else e / (1.0 + e)
        error[i], weight[i] = trials[i] * p_b - to_b[i], trials[i] * p_b * (1.0 - p_b)
        loss += trials[i] * (max(q[i], 0.0) + math.log1p(e)) - to_b[i] * q[i]
    return loss


@compiled
def _add_products(of_result, error, weight, weighted, gradient, curvature, k, n):
    """Add a block's part of one entry of the gradient and of one row, up to the diagonal, of the curvature."""
    total = 0.0
    for i in range(n):
        total += error[i] * of_result[k, i]
        weighted[i] = weight[i] * of_result[k, i]
    gradient[k] += total
    for m in range(k + 1):
        total = 0.0
        for i in range(n):
            total += weighted[i] * of_result[m, i]
        curvature[k, m] += total


@compiled
def _slopes(genome, nodes, table, gradient, curvature):
    """Return the loss, and write its gradient (p,) and Gauss-Newton curvature (p, p) by the weights of active nodes.

    The loss per shot is ``sum(trials softplus(q) - to_b q) / sum(trials)``; inf where a row cannot be computed.
    """
    n_rows, n_fixed, p = table.columns.shape[1], len(table.columns), len(gradient)
    n_nodes = len(genome.operations)
    values, slopes = np.empty((n_nodes, _BLOCK)), np.zeros((n_nodes, p, _BLOCK))
    by_a, by_b = np.empty(_BLOCK), np.empty(_BLOCK)
    by_w0, by_w1 = np.empty(_BLOCK), np.empty(_BLOCK)
    gradient[:] = 0.0
    curvature[:] = 0.0
    loss = 0.0
    for start in range(0, n_rows, _BLOCK):
        n, place = min(_BLOCK, n_rows - start), 0
        for node in nodes:
            operation = genome.operations[node]
            first, second = genome.sources[node, 0], genome.sources[node, 1]
            a = table.columns[first, start : start + n] if first < n_fixed else values[first - n_fixed, :n]
            b = table.columns[second, start : start + n] if second < n_fixed else values[second - n_fixed, :n]
            w0, w1 = genome.weights[node, 0], genome.weights[node, 1]
            if not _compute(operation, w0, w1, a, b, values[node], by_a, by_b, by_w0, by_w1, n):
                return math.inf
            of_node = slopes[node]
            of_node[:, :n] = 0.0
            if first >= n_fixed:
                _chain(of_node, by_a, slopes[first - n_fixed], place, n)
            if second >= n_fixed and N_SOURCES[operation] == 2:
                _chain(of_node, by_b, slopes[second - n_fixed], place, n)
            of_node[place, :n] = by_w0[:n]
            if N_WEIGHTS[operation] == 2:
                of_node[place + 1, :n] = by_w1[:n]
            place += N_WEIGHTS[operation]
        last = nodes[-1]
        part = slice(start, start + n)
        loss += _weigh(values[last, :n], table.trials[part], table.to_b[part], by_a, by_b)
        if not loss < math.inf:
            return math.inf
        for k in range(p):
            _add_products(slopes[last], by_a, by_b, by_w0, gradient, curvature, k, n)
    n_trials = table.trials.sum()
    gradient /= n_trials
    curvature /= n_trials
    return loss / n_trials


@compiled
def _solve(curvature, gradient, damping, step):
    """Write the step that solves (H + damping diag H) step = -g, by Cholesky's method; returns whether there is one."""
    p = len(gradient)
    lower = np.zeros((p, p))
    for k in range(p):
        for m in range(k + 1):
            total = curvature[k, m]
            if k == m:
                total = total * (1.0 + damping) + 1e-10
            for j in range(m):
                total -= lower[k, j] * lower[m, j]
            if k == m:
                if not total > 0.0:
                    return False
                lower[k, k] = math.sqrt(total)
            else:
                lower[k, m] = total / lower[m, m]
    for k in range(p):
        total = -gradient[k]
        for j in range(k):
            total -= lower[k, j] * step[j]
        step[k] = total / lower[k, k]
    for k in range(p - 1, -1, -1):
        total = step[k]
        for j in range(k + 1, p):
            total -= lower[j, k] * step[j]
        step[k] = total / lower[k, k]
    return True


@compiled
def _moved(genome, nodes, step, sign):
    """Add a step to the weights of the active nodes; returns whether they stay within bounds."""
    place, within = 0, True
    for node in nodes:
        for which in range(N_WEIGHTS[genome.operations[node]]):
            genome.weights[node, which] += sign * step[place]
            within = within and abs(genome.weights[node, which]) < _HEAVIEST
            place += 1
    return within


@compiled
def fit(genome: Genome, table: Table, iterations: int) -> float:
    """Refine the weights of a formula in place and return its loss per shot, inf if it cannot be computed.

    Each iteration solves ``(H + damping diag H) step = -g`` with the Gauss-Newton curvature H of the loss.
    """
    nodes = active_nodes(genome, len(table.columns))
    p = 0
    for node in nodes:
        p += N_WEIGHTS[genome.operations[node]]
    gradient, curvature, step = np.empty(p), np.empty((p, p)), np.empty(p)
    new_gradient, new_curvature = np.empty(p), np.empty((p, p))
    loss: float = _slopes(genome, nodes, table, gradient, curvature)
    if not loss < math.inf:
        return math.inf
    damping = 1e-2
    for _ in range(iterations):
        if not _solve(curvature, gradient, damping, step):
            damping *= 10.0
            continue
        new_loss = (
            _slopes(genome, nodes, table, new_gradient, new_curvature) if _moved(genome, nodes, step, 1.0) else math.inf
        )
        if new_loss < loss:
            gain = loss - new_loss
            loss, damping = new_loss, damping * 0.2
            gradient, new_gradient = new_gradient, gradient
            curvature, new_curvature = new_curvature, curvature
            if gain < 1e-7:
                break
        else:
            _moved(genome, nodes, step, -1.0)
            damping *= 10.0
            if damping > 1e8:
                break
    return loss


@compiled
def curvature_of(genome: Genome, table: Table) -> NDArray[np.float64]:
    """Return the Gauss-Newton curvature (p, p) of the loss per shot by the weights of the active nodes, in order."""
    nodes = active_nodes(genome, len(table.columns))
    p = 0
    for node in nodes:
        p += N_WEIGHTS[genome.operations[node]]
    gradient, curvature = np.empty(p), np.empty((p, p))
    _slopes(genome, nodes, table, gradient, curvature)
    return curvature + curvature.T - np.diag(np.diag(curvature))
