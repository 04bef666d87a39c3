"""Compiled inner loops of symbolic regression: logits of formulas, fits of their weights, and new formulas of old ones.

A formula is a row of nodes, each an operation on inputs or earlier nodes, with weights (Cartesian genetic programming).
Derivatives by every weight are exact, node after node from the result back, block by block of rows; weights are refined
by Levenberg and Marquardt's method on the loss of the shots.

All of it is one file, because Numba compiles a function anew only when the file of that very function changes.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from separatrix.kernels import compiled, summing

RESULT, SUM, MUL, DIV, LOG, EXP, SIN, COS, SIGMOID, SQUARE = range(10)
"""Operations on sources a, b with weights w: w0 a + w1, a + w0 b, a b, a / b, log(w0 a + w1), exp(w0 a),
sin(w0 a + w1), cos(w0 a + w1), 1 / (1 + exp(-w0 a - w1)), (a + w0)^2. No weight does what another one does already."""

N_WEIGHTS: Final = np.array([2, 1, 0, 0, 2, 1, 2, 2, 2, 1])
"""Weights of each operation."""

N_SOURCES: Final = np.array([1, 2, 2, 2, 1, 1, 1, 1, 1, 1])
"""Sources of each operation."""

LENGTHS: Final = np.array([0, 2, 1, 1, 3, 2, 3, 3, 5, 2])
"""Operations that each one is written with, the result's own two not counted."""

N_DRAWS: Final = 6
"""Random numbers that ``varied`` takes."""

_BLOCK: Final = 64
"""Rows computed together; values and derivatives of a formula then stay in the fast cache."""

_LARGEST: Final = 40.0
"""Exponents beyond are refused, that nothing may overflow; probabilities of logits beyond are as good as 0 or 1."""

_STEEPEST: Final = 1e4
"""Largest argument of a sine."""

_OF_RESULT: Final = 2
"""Iterations of a fit that refine the weights of the result alone."""

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
    """A row of nodes, all of which the result depends on; the last one is the result and no other is of its kind.

    Attributes
    ----------
    operations : (n_nodes,) int64
    sources : (n_nodes, 2) int64; inputs first, then the ones, then nodes
    weights : (n_nodes, 2) float64
    """

    operations: NDArray[np.int64]
    sources: NDArray[np.int64]
    weights: NDArray[np.float64]


class _Space(NamedTuple):
    """Room for a block of rows: values, slopes and what the result makes of each node, and the slopes of the result."""

    values: NDArray[np.float64]
    slopes: NDArray[np.float64]
    passed: NDArray[np.float64]
    jacobian: NDArray[np.float64]
    error: NDArray[np.float64]
    weight: NDArray[np.float64]


@compiled
def space_for(genome):
    """Return room for ``slopes`` of a formula."""
    n_nodes = len(genome.operations)
    shape = (n_nodes, _BLOCK)
    p = n_weights(genome)
    return _Space(
        np.empty(shape), np.empty(shape), np.empty(shape), np.empty((p, _BLOCK)), np.empty(_BLOCK), np.empty(_BLOCK)
    )


@compiled
def n_weights(genome: Genome) -> int:
    """Return how many weights a formula has."""
    total = 0
    for operation in genome.operations:
        total += N_WEIGHTS[operation]
    return total


@compiled
def _exp(x):
    """Return exp(x) for -40 <= x <= 40, to 14 digits: unlike the library's, several at once."""
    t = x * (1.0 / 64.0)
    s = 1.0 + t * (1.0 / 15.0)
    s = 1.0 + t * (1.0 / 14.0) * s
    s = 1.0 + t * (1.0 / 13.0) * s
    s = 1.0 + t * (1.0 / 12.0) * s
    s = 1.0 + t * (1.0 / 11.0) * s
    s = 1.0 + t * (1.0 / 10.0) * s
    s = 1.0 + t * (1.0 / 9.0) * s
    s = 1.0 + t * (1.0 / 8.0) * s
    s = 1.0 + t * (1.0 / 7.0) * s
    s = 1.0 + t * (1.0 / 6.0) * s
    s = 1.0 + t * (1.0 / 5.0) * s
    s = 1.0 + t * (1.0 / 4.0) * s
    s = 1.0 + t * (1.0 / 3.0) * s
    s = 1.0 + t * (1.0 / 2.0) * s
    s = 1.0 + t * s
    s *= s
    s *= s
    s *= s
    s *= s
    s *= s
    return s * s


@compiled
def _log1p(e):
    """Return log(1 + e) for 0 <= e <= 1, as 2 artanh(e / (2 + e))."""
    s = e / (2.0 + e)
    z = s * s
    total = 1.0 / 31.0
    total = total * z + 1.0 / 29.0
    total = total * z + 1.0 / 27.0
    total = total * z + 1.0 / 25.0
    total = total * z + 1.0 / 23.0
    total = total * z + 1.0 / 21.0
    total = total * z + 1.0 / 19.0
    total = total * z + 1.0 / 17.0
    total = total * z + 1.0 / 15.0
    total = total * z + 1.0 / 13.0
    total = total * z + 1.0 / 11.0
    total = total * z + 1.0 / 9.0
    total = total * z + 1.0 / 7.0
    total = total * z + 1.0 / 5.0
    total = total * z + 1.0 / 3.0
    return 2.0 * s * (total * z + 1.0)


@compiled
def _sin_cos(u):
    """Return sin(u) and cos(u) by series of an eighth of the remainder, and three doublings."""
    turns = (u * (0.5 / math.pi) + 6755399441055744.0) - 6755399441055744.0  # the nearest integer
    t = (u - turns * 6.28125 - turns * 0.0019353071795864769) * 0.125
    z = t * t
    s = 1.0 - z / 156.0
    s = 1.0 - z / 110.0 * s
    s = 1.0 - z / 72.0 * s
    s = 1.0 - z / 42.0 * s
    s = 1.0 - z / 20.0 * s
    s = t * (1.0 - z / 6.0 * s)
    c = 1.0 - z / 182.0
    c = 1.0 - z / 132.0 * c
    c = 1.0 - z / 90.0 * c
    c = 1.0 - z / 56.0 * c
    c = 1.0 - z / 30.0 * c
    c = 1.0 - z / 12.0 * c
    c = 1.0 - z / 2.0 * c
    s, c = 2.0 * s * c, c * c - s * s
    s, c = 2.0 * s * c, c * c - s * s
    return 2.0 * s * c, c * c - s * s


@compiled
def _one_source(operation, w0, w1, a, value, slope, n):
    """Write a node of one source and its derivative by its argument."""
    if operation == LOG:
        for i in range(n):
            u = w0 * a[i] + w1
            value[i], slope[i] = math.log(u), 1.0 / u
    elif operation == EXP:
        for i in range(n):
            u = w0 * a[i]
            value[i] = _exp(u) if abs(u) <= _LARGEST else math.nan
            slope[i] = value[i]
    elif operation in (SIN, COS):
        for i in range(n):
            u = w0 * a[i] + w1
            s, c = _sin_cos(u if abs(u) <= _STEEPEST else math.nan)
            value[i], slope[i] = (s, c) if operation == SIN else (c, -s)
    elif operation == SIGMOID:
        for i in range(n):
            u = w0 * a[i] + w1
            s = 1.0 / (1.0 + _exp(-u)) if abs(u) <= _LARGEST else math.nan
            value[i], slope[i] = s, s * (1.0 - s)
    elif operation == SQUARE:
        for i in range(n):
            u = a[i] + w0
            value[i], slope[i] = u * u, 2.0 * u
    else:
        for i in range(n):
            value[i], slope[i] = w0 * a[i] + w1, 1.0


@compiled
def _two_sources(operation, w0, a, b, value, n):
    if operation == SUM:
        for i in range(n):
            value[i] = a[i] + w0 * b[i]
    elif operation == MUL:
        for i in range(n):
            value[i] = a[i] * b[i]
    else:
        for i in range(n):
            value[i] = a[i] / b[i]


@summing
def _within(value, n):
    """Return whether all values are numbers and none is too large."""
    total = 0.0
    for i in range(n):
        total += abs(value[i])
    return total < 1e12


@compiled
def _source(source, table, values, start, n):
    n_fixed = len(table.columns)
    return table.columns[source, start : start + n] if source < n_fixed else values[source - n_fixed, :n]


@compiled
def _forward(genome, table, values, slopes, start, n):
    """Write values of all nodes of a block, and slopes of those of one source; returns whether all are in bounds."""
    for node in range(len(genome.operations)):
        operation = genome.operations[node]
        w0, w1 = genome.weights[node, 0], genome.weights[node, 1]
        a = _source(genome.sources[node, 0], table, values, start, n)
        if N_SOURCES[operation] == 2:
            _two_sources(operation, w0, a, _source(genome.sources[node, 1], table, values, start, n), values[node], n)
        else:
            _one_source(operation, w0, w1, a, values[node], slopes[node], n)
        if not _within(values[node], n):
            return False
    return True


@compiled
def logits(genome: Genome, table: Table) -> NDArray[np.float64]:
    """Return the logit of every row, (n,); nan where it cannot be computed within bounds."""
    n_rows, n_nodes = table.columns.shape[1], len(genome.operations)
    values, slopes = np.empty((n_nodes, _BLOCK)), np.empty((n_nodes, _BLOCK))
    result = np.full(n_rows, np.nan)
    for start in range(0, n_rows, _BLOCK):
        n = min(_BLOCK, n_rows - start)
        if not _forward(genome, table, values, slopes, start, n):
            return result
        result[start : start + n] = values[n_nodes - 1, :n]
    return result


@compiled
def _add(to, by, factor, n):
    for i in range(n):
        to[i] += by[i] * factor


@compiled
def _add_product(to, by, other, n):
    for i in range(n):
        to[i] += by[i] * other[i]


@compiled
def _multiply(to, by, other, n):
    for i in range(n):
        to[i] = by[i] * other[i]


@compiled
def _back_one(operation, by, a, slope, w0, row, last_row, to, is_node, n):
    """Write derivatives by the weights of a node of one source, and add what it passes on, if that is a node."""
    _multiply(by, by, slope, n)
    if operation == SQUARE:
        w0 = 1.0
    else:
        _multiply(row, by, a, n)
    if operation != EXP:
        last_row[:n] = by[:n]
    if is_node:
        _add(to, by, w0, n)


@compiled
def _back_two(operation, by, a, b, value, w0, row, to_first, to_second, first_is_node, second_is_node, n):
    if operation == SUM:
        _multiply(row, by, b, n)
        if first_is_node:
            _add(to_first, by, 1.0, n)
        if second_is_node:
            _add(to_second, by, w0, n)
    elif operation == MUL:
        if first_is_node:
            _add_product(to_first, by, b, n)
        if second_is_node:
            _add_product(to_second, by, a, n)
    else:
        for i in range(n):
            by[i] /= b[i]
        if first_is_node:
            _add(to_first, by, 1.0, n)
        if second_is_node:
            for i in range(n):
                to_second[i] -= by[i] * value[i]


@compiled
def _backward(genome, table, space, start, n):
    """Write the derivatives of the logits of a block by every weight, from the result back."""
    n_fixed, n_nodes = len(table.columns), len(genome.operations)
    values, passed, jacobian = space.values, space.passed, space.jacobian
    passed[:, :n] = 0.0
    passed[n_nodes - 1, :n] = 1.0
    place = len(jacobian)
    for node in range(n_nodes - 1, -1, -1):
        operation, by, w0 = genome.operations[node], passed[node], genome.weights[node, 0]
        first, second = genome.sources[node, 0], genome.sources[node, 1]
        a = _source(first, table, values, start, n)
        row = jacobian[place - max(N_WEIGHTS[operation], 1)]
        to_first, first_is_node = passed[max(first - n_fixed, 0)], first >= n_fixed
        if N_SOURCES[operation] == 1:
            slope, last_row = space.slopes[node], jacobian[place - 1]
            _back_one(operation, by, a, slope, w0, row, last_row, to_first, first_is_node, n)
        else:
            b, value = _source(second, table, values, start, n), values[node]
            to_second, second_is_node = passed[max(second - n_fixed, 0)], second >= n_fixed
            _back_two(operation, by, a, b, value, w0, row, to_first, to_second, first_is_node, second_is_node, n)
        place -= N_WEIGHTS[operation]


@summing
def _weigh(q, trials, to_b, error, weight):
    """Write the derivatives of the loss of a block by its logits, and return its sum."""
    loss = 0.0
    for i in range(len(q)):
        e = _exp(-min(abs(q[i]), _LARGEST))
        small = e / (1.0 + e)
        p_b = 1.0 - small if q[i] > 0 else small
        error[i] = trials[i] * p_b - to_b[i]
        weight[i] = trials[i] * small * (1.0 - small)
        loss += trials[i] * (max(q[i], 0.0) + _log1p(e)) - to_b[i] * q[i]
    return loss


@summing
def _add_products(jacobian, error, weight, weighted, gradient, curvature, n):
    """Add a block's part of the gradient and of the curvature up to the diagonal."""
    for k in range(len(gradient)):
        row, total = jacobian[k], 0.0
        for i in range(n):
            total += error[i] * row[i]
        gradient[k] += total
        for i in range(n):
            weighted[i] = weight[i] * row[i]
        for m in range(k + 1):
            other, total = jacobian[m], 0.0
            for i in range(n):
                total += weighted[i] * other[i]
            curvature[k, m] += total


@compiled
def slopes(genome, table, space, gradient, curvature):
    """Return the loss; write its gradient (p,) and Gauss-Newton curvature (p, p) by all weights, up to the diagonal.

    The loss per shot is ``sum(trials softplus(q) - to_b q) / sum(trials)``; inf where a row cannot be computed.
    """
    n_rows, last = table.columns.shape[1], len(genome.operations) - 1
    gradient[:] = 0.0
    curvature[:] = 0.0
    loss = 0.0
    for start in range(0, n_rows, _BLOCK):
        n = min(_BLOCK, n_rows - start)
        if not _forward(genome, table, space.values, space.slopes, start, n):
            return math.inf
        part = slice(start, start + n)
        loss += _weigh(space.values[last, :n], table.trials[part], table.to_b[part], space.error, space.weight)
        _backward(genome, table, space, start, n)
        _add_products(space.jacobian, space.error, space.weight, space.passed[0], gradient, curvature, n)
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
def _moved(genome, step):
    """Add a step to the weights; returns whether they stay within bounds."""
    place, within = 0, True
    for node in range(len(genome.operations)):
        for which in range(N_WEIGHTS[genome.operations[node]]):
            genome.weights[node, which] += step[place]
            within = within and abs(genome.weights[node, which]) < _HEAVIEST
            place += 1
    return within


@compiled
def fit(genome: Genome, table: Table, iterations: int) -> float:
    """Refine the weights of a formula in place and return its loss per shot, inf if it cannot be computed.

    Each iteration solves ``(H + damping diag H) step = -g`` with the Gauss-Newton curvature H of the loss; the first
    ones for the weights of the result alone, by which the loss is convex: their signs are right when the others move.
    """
    space = space_for(genome)
    p = n_weights(genome)
    gradient, curvature, step = np.empty(p), np.empty((p, p)), np.empty(p)
    new_gradient, new_curvature = np.empty(p), np.empty((p, p))
    loss: float = slopes(genome, table, space, gradient, curvature)
    if not loss < math.inf:
        return math.inf
    damping, kept = 1e-2, genome.weights.copy()
    for i in range(iterations):
        first = p - 2 if i < _OF_RESULT else 0
        step[:first] = 0.0
        if not _solve(curvature[first:, first:], gradient[first:], damping, step[first:]):
            damping *= 10.0
            continue
        new_loss = slopes(genome, table, space, new_gradient, new_curvature) if _moved(genome, step) else math.inf
        if new_loss < loss:
            gain = loss - new_loss
            loss, damping = new_loss, damping * 0.2
            kept[:] = genome.weights
            gradient, new_gradient = new_gradient, gradient
            curvature, new_curvature = new_curvature, curvature
            if gain < 1e-7 and first == 0:
                break
        else:
            genome.weights[:] = kept  # going back by a step that was far too long would lose digits
            damping *= 10.0
            if damping > 1e8:
                break
    return loss


@compiled
def _empty(n):
    return Genome(np.zeros(n, dtype=np.int64), np.zeros((n, 2), dtype=np.int64), np.zeros((n, 2)))


@compiled
def _put(genome, node, operation, first, second, weights):
    genome.operations[node] = operation
    genome.sources[node, 0], genome.sources[node, 1] = first, second
    genome.weights[node, 0], genome.weights[node, 1] = weights[0], weights[1]


@compiled
def _copy_nodes(genome, begin, end, to, place, n_fixed, shift):
    """Copy nodes into another row from a place on, and shift sources that are nodes from ``begin`` on."""
    for node in range(begin, end):
        first, second = genome.sources[node, 0], genome.sources[node, 1]
        _put(
            to,
            place + node - begin,
            genome.operations[node],
            first + shift if first >= n_fixed + begin else first,
            second + shift if second >= n_fixed + begin else second,
            genome.weights[node],
        )


@compiled
def _pruned(genome, n_fixed):
    """Return the nodes that the result depends on; sources that may change places are put in order."""
    n = len(genome.operations)
    used = np.zeros(n, dtype=np.bool_)
    used[n - 1] = True
    for node in range(n - 1, -1, -1):
        if used[node]:
            for place in range(N_SOURCES[genome.operations[node]]):
                if genome.sources[node, place] >= n_fixed:
                    used[genome.sources[node, place] - n_fixed] = True
    kept = np.flatnonzero(used)
    place_of = np.arange(n_fixed + n)
    for i in range(len(kept)):
        place_of[n_fixed + kept[i]] = n_fixed + i
    result = _empty(len(kept))
    for i in range(len(kept)):
        operation = genome.operations[kept[i]]
        first = place_of[genome.sources[kept[i], 0]]
        second = place_of[genome.sources[kept[i], 1]] if N_SOURCES[operation] == 2 else 0
        if operation == MUL and second < first:
            first, second = second, first
        _put(result, i, operation, first, second, genome.weights[kept[i]])
    return result


@compiled
def is_idle(genome: Genome, n_fixed: int) -> bool:
    """Return whether a node does what a weight or a shorter formula does: a constant, a copy, an offset too many."""
    ones = n_fixed - 1
    for node in range(len(genome.operations)):
        operation = genome.operations[node]
        first, second = genome.sources[node, 0], genome.sources[node, 1]
        if N_SOURCES[operation] == 1:
            # All but the exponential have an offset of their own.
            before = first - n_fixed if operation != EXP else -1
            if first == ones or (before >= 0 and genome.operations[before] == SUM and ones in genome.sources[before]):
                return True
        elif operation == MUL:
            if ones in (first, second):
                return True
        elif first == second or (operation == DIV and second == ones) or (operation == SUM and first == ones):
            return True
    return False


@compiled
def _joined(parent, mate, n_fixed, operation, weights):
    """Return a formula of two: their results give way to a node that joins what they stood for."""
    n, m = len(parent.operations) - 1, len(mate.operations) - 1
    made = _empty(n + m + 2)
    _copy_nodes(parent, 0, n, made, 0, n_fixed, 0)
    _copy_nodes(mate, 0, m, made, n, n_fixed, n)
    second = mate.sources[m, 0]
    _put(made, n + m, operation, parent.sources[n, 0], second + n if second >= n_fixed else second, weights)
    _put(made, n + m + 1, RESULT, n_fixed + n + m, 0, parent.weights[n])
    return made


@compiled
def _inserted(parent, n_fixed, at, place, operation, other, swapped, weights):
    """Return a formula with a new node between a node and one of its sources."""
    n, before = len(parent.operations), parent.sources[at, place]
    made = _empty(n + 1)
    _copy_nodes(parent, 0, at, made, 0, n_fixed, 0)
    _copy_nodes(parent, at, n, made, at + 1, n_fixed, 1)
    if swapped and N_SOURCES[operation] == 2:
        before, other = other, before
    _put(made, at, operation, before, other, weights)
    made.sources[at + 1, place] = n_fixed + at
    return made


@compiled
def copied(genome: Genome) -> Genome:
    """Return a copy."""
    return Genome(genome.operations.copy(), genome.sources.copy(), genome.weights.copy())


@compiled
def _without(parent, n_fixed, at, place):
    """Return a formula in which a source of a node stands for the node."""
    made = copied(parent)
    for node in range(at + 1, len(made.operations)):
        for which in range(2):
            if made.sources[node, which] == n_fixed + at:
                made.sources[node, which] = made.sources[at, place]
    return made


@compiled
def _changed(parent, at, gene, operation, other, weights):
    """Return a formula with another operation, gene 2, or another source, genes 0 and 1."""
    made = copied(parent)
    if gene < 2:
        made.sources[at, gene] = other
    else:
        _put(made, at, operation, made.sources[at, 0], other, weights)
    return made


@compiled
def varied(
    parent: Genome,
    mate: Genome,
    n_fixed: int,
    allowed: NDArray[np.int64],
    draws: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> Genome:
    """Return a formula made from one or two others: joined, a node put in or left out, or a gene drawn anew.

    Parameters
    ----------
    n_fixed : sources that are no nodes
    allowed : operations to choose from
    draws : (N_DRAWS,) random numbers from 0 to 1 that say what happens where
    weights : (2,) first ones of a new node
    """
    n = len(parent.operations)
    operation, at = allowed[int(draws[1] * len(allowed))], int(draws[2] * n)
    sources = N_SOURCES[parent.operations[at]]
    other = int(draws[4] * (n_fixed + at))
    what = int(draws[0] * 4)
    if what == 0 and N_SOURCES[operation] == 2:
        made = _joined(parent, mate, n_fixed, operation, weights)
    elif what <= 1:
        made = _inserted(parent, n_fixed, at, int(draws[3] * sources), operation, other, draws[5] < 0.5, weights)
    elif what == 2 and at < n - 1:
        made = _without(parent, n_fixed, at, int(draws[3] * sources))
    else:
        gene = 0 if at == n - 1 else int(draws[3] * (sources + 1))  # the result chooses its node, nothing else
        made = _changed(parent, at, 2 if gene == sources and at < n - 1 else gene, operation, other, weights)
    result: Genome = _pruned(made, n_fixed)
    return result
