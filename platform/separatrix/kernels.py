"""Kernels: what is computed for every frame, as machine code.

Between two saved frames of a small molecule there are 150 us of dynamics, and on a landscape 4 us; an interpreted look
at a frame costs 10 to 30. Each formula stands here once, for one frame or many, with or without a periodic box: Numba
compiles it at the first call and keeps the result on disk. All of it is one file, because Numba compiles a function
anew only when the file of that very function changes.

Distances in nm, angles in degrees. Displacements obey the minimum-image convention; x, y and z are positions as they
are. Arithmetic is IEEE's: 1/0 is inf, sqrt(-1) is nan, nothing raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from llvmlite.binding import load_library_permanently
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from separatrix.records import NO_STATE

_Number = TypeVar("_Number", bound=np.generic)
_Function = TypeVar("_Function", bound=Callable[..., Any])

_Frames = NDArray[np.float32] | NDArray[np.float64]

DEGREES: Final = 180.0 / math.pi
X, Y, Z, DISTANCE, ANGLE, DIHEDRAL, COORDINATION = range(7)
"""Kinds of columns. The first three are the axes of positions."""

(
    NUMBER,
    VALUE,
    NEGATE,
    NOT,
    ADD,
    SUBTRACT,
    MULTIPLY,
    DIVIDE,
    POWER,
    SQUARE,
    LESS,
    LESS_EQUAL,
    GREATER,
    GREATER_EQUAL,
    EQUAL,
    NOT_EQUAL,
    AND,
    OR,
    SQRT,
    EXP,
    LOG,
    SIN,
    COS,
    TAN,
    ABS,
    MIN,
    MAX,
    BETWEEN,
) = range(28)
"""Operations of expressions; each takes its operands from a stack and leaves its result there."""


class Table(NamedTuple):
    """Columns to compute.

    Attributes
    ----------
    kinds : (n_columns,) int64
    starts : (n_columns + 1,) int64, the first term of each column; only coordination has several
    atoms : (n_terms, 4) int64
    parameters : (n_columns, 3) float64
    """

    kinds: NDArray[np.int64]
    starts: NDArray[np.int64]
    atoms: NDArray[np.int64]
    parameters: NDArray[np.float64]


class Program(NamedTuple):
    """Expressions over columns, in postfix order.

    Attributes
    ----------
    operations : (n,) int64
    arguments : (n,) float64, the number or the index of the value
    starts : (n_expressions + 1,) int64, the first operation of each expression
    """

    operations: NDArray[np.int64]
    arguments: NDArray[np.float64]
    starts: NDArray[np.int64]


class Measure(NamedTuple):
    """What every saved frame is looked at for: the states, as conditions on collective variables."""

    table: Table
    states: Program


class Simulation(NamedTuple):
    """Addresses of a context of OpenMM and of its integrator, and the MD steps between saved frames."""

    context: int
    integrator: int
    stride: int


def load_library(path: Path) -> bool:
    """Make the functions of a shared library known to compiled code; returns whether the library is there."""
    try:
        load_library_permanently(str(path))
    except RuntimeError:
        return False
    return True


def readable(array: NDArray[_Number]) -> NDArray[_Number]:
    """Return an array as kernels read it, contiguous and writeable: each layout would be compiled anew."""
    return array if array.flags.carray else np.require(array, requirements=["C", "W"])


def cells_of(box: ArrayLike | None, n_frames: int) -> NDArray[np.float64]:
    """Return box vectors (n_frames, 3, 3) nm as kernels read them, (n_frames, 6); (n_frames, 0) for None.

    Raises
    ------
    ValueError
        If the shape is another, or the box vectors are not in reduced form.
    """
    if box is None:
        return np.empty((n_frames, 0))
    vectors = np.asarray(box, dtype=np.float64)
    if vectors.shape != (n_frames, 3, 3):
        raise ValueError(f"expected a box of shape ({n_frames}, 3, 3) nm, got {vectors.shape}")
    if vectors[:, [0, 0, 1], [1, 2, 2]].any():
        raise ValueError("expected reduced box vectors: a along x and b in the xy plane; rotate the configuration")
    return np.ascontiguousarray(vectors[:, [0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2]])


def compiled(function: _Function) -> _Function:
    """Compile at the first call, and keep the machine code on disk."""
    compiler: Any = njit(nogil=True, error_model="numpy", cache=True)
    try:
        compiled: _Function = compiler(function)
    except RuntimeError:  # neither the folder of this file nor the user's cache can be written
        compiler = njit(nogil=True, error_model="numpy")
        compiled = compiler(function)
    return compiled


def inlined(function: _Function) -> _Function:
    """Compile into the functions that call it: arrays are dear to pass."""
    compiler: Any = njit(nogil=True, error_model="numpy", forceinline=True)
    inlined: _Function = compiler(function)
    return inlined


def summing(function: _Function) -> _Function:
    """Compile into the functions that call it, with sums in whatever order is fastest: several numbers at once."""
    compiler: Any = njit(nogil=True, error_model="numpy", forceinline=True, fastmath={"reassoc", "contract"})
    summing: _Function = compiler(function)
    return summing


@compiled
def minimum_image(x, y, z, cell):
    """Return a displacement folded to its nearest periodic image.

    Parameters
    ----------
    x, y, z : displacement, nm
    cell : (6,), ax, bx, by, cx, cy, cz of reduced box vectors, nm (OpenMM's form: a along x, b in the xy plane)

    Notes
    -----
    Folding along c, b and a in turn gives the nearest image up to half the shortest of ax, by and cz. Beyond that, in
    a triclinic box, the neighbouring images are compared too, as MDTraj does.
    """
    ax, bx, by, cx, cy, cz = cell[0], cell[1], cell[2], cell[3], cell[4], cell[5]
    shift = _nearest_integer(z / cz)
    x, y, z = x - shift * cx, y - shift * cy, z - shift * cz
    shift = _nearest_integer(y / by)
    x, y = x - shift * bx, y - shift * by
    x = x - _nearest_integer(x / ax) * ax
    best = x * x + y * y + z * z
    if (bx == 0.0 and cx == 0.0 and cy == 0.0) or 4.0 * best <= min(ax * ax, by * by, cz * cz):
        return x, y, z
    folded_x, folded_y, folded_z = x, y, z
    for k in range(-1, 2):
        near_z = folded_z + k * cz
        for j in range(-1, 2):
            near_y = folded_y + k * cy + j * by
            near_x = folded_x + k * cx + j * bx
            near_x = near_x - _nearest_integer(near_x / ax) * ax
            squared = near_x * near_x + near_y * near_y + near_z * near_z
            if squared < best:
                x, y, z, best = near_x, near_y, near_z, squared
    return x, y, z


@compiled
def _nearest_integer(value):
    # Adding 1.5 * 2**52 leaves no bits for the fraction.
    return (value + 6755399441055744.0) - 6755399441055744.0


@inlined
def _arrow(frame, tail, head, cell):
    """Return the displacement from one atom to another."""
    x = np.float64(frame[head, 0]) - np.float64(frame[tail, 0])
    y = np.float64(frame[head, 1]) - np.float64(frame[tail, 1])
    z = np.float64(frame[head, 2]) - np.float64(frame[tail, 2])
    return minimum_image(x, y, z, cell) if cell.size else (x, y, z)


@inlined
def _dot(u, v):
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


@inlined
def _cross(u, v):
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]


@inlined
def _distance(frame, i, j, cell):
    u = _arrow(frame, i, j, cell)
    return math.sqrt(_dot(u, u))


@inlined
def _angle_legs(frame, i, j, k, cell):
    """Return sine and cosine of the angle at the second atom, times the lengths of its legs; exact at 0 and 180."""
    u, v = _arrow(frame, j, i, cell), _arrow(frame, j, k, cell)
    normal = _cross(u, v)
    return math.sqrt(_dot(normal, normal)), _dot(u, v)


@inlined
def _angle_cosine(frame, i, j, k, cell):
    u, v = _arrow(frame, j, i, cell), _arrow(frame, j, k, cell)
    return _dot(u, v) / math.sqrt(_dot(u, u) * _dot(v, v))


@inlined
def _dihedral_legs(frame, i, j, k, h, cell):
    """Return |v| u.(v x w) and (u x v).(v x w), sine and cosine of the dihedral up to a factor.

    The sign is IUPAC's, as in MDTraj (Blondel & Karplus, J. Comput. Chem. 17, 1132).
    """
    u, v, w = _arrow(frame, i, j, cell), _arrow(frame, j, k, cell), _arrow(frame, k, h, cell)
    normal = _cross(v, w)
    return math.sqrt(_dot(v, v)) * _dot(u, normal), _dot(_cross(u, v), normal)


@inlined
def _switch(ratio, n, m):
    """Return one pair's share of a coordination number, (1 - ratio^n) / (1 - ratio^m) with the ratio r/r0.

    With y = ratio^gcd(n, m) both are geometric sums, ``sum_{k<n/g} y^k / sum_{k<m/g} y^k``: no singularity at r = r0.
    """
    divisor, rest = int(n), int(m)
    while rest:
        divisor, rest = rest, divisor % rest
    base = 1.0
    for _ in range(divisor):
        base *= ratio
    numerator = denominator = 1.0
    for _ in range(int(n) // divisor - 1):
        numerator = numerator * base + 1.0
    for _ in range(int(m) // divisor - 1):
        denominator = denominator * base + 1.0
    return numerator / denominator


@compiled
def _coordination(table, column, frame, cell):
    r0, n, m = table.parameters[column, 0], table.parameters[column, 1], table.parameters[column, 2]
    total = 0.0
    for term in range(table.starts[column], table.starts[column + 1]):
        total += _switch(_distance(frame, table.atoms[term, 0], table.atoms[term, 1], cell) / r0, n, m)
    return total


@inlined
def _value(table, column, frame, cell):
    kind, first = table.kinds[column], table.starts[column]
    i, j, k, h = table.atoms[first, 0], table.atoms[first, 1], table.atoms[first, 2], table.atoms[first, 3]
    value: Any
    if kind <= Z:
        value = np.float64(frame[i, kind])
    elif kind == DISTANCE:
        value = _distance(frame, i, j, cell)
    elif kind == ANGLE:
        sine, cosine = _angle_legs(frame, i, j, k, cell)
        value = DEGREES * math.atan2(sine, cosine)
    elif kind == DIHEDRAL:
        sine, cosine = _dihedral_legs(frame, i, j, k, h, cell)
        value = DEGREES * math.atan2(sine, cosine)
    else:
        value = _coordination(table, column, frame, cell)
    return value


@compiled
def columns(table: Table, positions: _Frames, cells: NDArray[np.float64], values: NDArray[np.float32]) -> None:
    """Write the columns of many frames.

    Parameters
    ----------
    positions : (n_frames, n_atoms, 3), nm
    cells : (n_frames, 6) as in `minimum_image`, or (n_frames, 0) without a box
    values : (n_frames, n_columns) float32, written
    """
    for row in range(len(positions)):
        frame, cell = positions[row], cells[row]
        for column in range(len(table.kinds)):
            values[row, column] = _value(table, column, frame, cell)


@compiled
def descriptors(table: Table, positions: _Frames, cells: NDArray[np.float64], values: NDArray[np.float32]) -> None:
    """Write the columns of many frames, an angle as (1 + cos)/2, a dihedral as the pair (1 + sin)/2 and (1 + cos)/2.

    No angle is formed, so none is dear or jumps. Parameters are those of `columns`, but values : (n_frames, n) float32.
    """
    for row in range(len(positions)):
        frame, cell, place = positions[row], cells[row], 0
        for column in range(len(table.kinds)):
            kind, first = table.kinds[column], table.starts[column]
            i, j, k, h = table.atoms[first, 0], table.atoms[first, 1], table.atoms[first, 2], table.atoms[first, 3]
            if kind == DIHEDRAL:
                sine, cosine = _dihedral_legs(frame, i, j, k, h, cell)
                radius = math.sqrt(sine * sine + cosine * cosine)
                values[row, place] = 0.5 + 0.5 * sine / radius
                place += 1
                values[row, place] = 0.5 + 0.5 * cosine / radius
            elif kind == ANGLE:
                values[row, place] = 0.5 + 0.5 * _angle_cosine(frame, i, j, k, cell)
            elif kind == DISTANCE:
                values[row, place] = _distance(frame, i, j, cell)
            elif kind <= Z:
                values[row, place] = frame[i, kind]
            else:
                values[row, place] = _coordination(table, column, frame, cell)
            place += 1


@compiled
def _between(x, low, high):
    """Return whether x lies on the arc from low to high, in degrees; a full circle holds every finite angle."""
    return (x - low) % 360.0 <= (high - low) % 360.0 or (high - low >= 360.0 and abs(x) < math.inf)


@compiled
def _unary(operation, x):
    if operation == NEGATE:
        return -x
    if operation == NOT:
        return 1.0 - x
    if operation == SQUARE:
        return x * x
    if operation == SQRT:
        return math.sqrt(x)
    if operation == EXP:
        return math.exp(x)
    if operation == LOG:
        return math.log(x)
    if operation == SIN:
        return math.sin(x)
    if operation == COS:
        return math.cos(x)
    if operation == TAN:
        return math.tan(x)
    return abs(x)


@compiled
def _binary(operation, x, y):
    if operation == ADD:
        return x + y
    if operation == SUBTRACT:
        return x - y
    if operation in (MULTIPLY, AND):
        return x * y
    if operation == DIVIDE:
        return x / y
    if operation == POWER:
        return x**y
    if operation == MIN:
        return x + y if math.isnan(x) or math.isnan(y) else min(x, y)
    if operation == MAX:
        return x + y if math.isnan(x) or math.isnan(y) else max(x, y)
    return np.float64(_holds(operation, x, y))


@compiled
def _holds(operation, x, y):
    if operation == LESS:
        return x < y
    if operation == LESS_EQUAL:
        return x <= y
    if operation == GREATER:
        return x > y
    if operation == GREATER_EQUAL:
        return x >= y
    if operation == EQUAL:
        return x == y
    if operation == NOT_EQUAL:
        return x != y
    return x > 0.0 or y > 0.0


@compiled
def _outcome(program, expression, values, stack):
    """Return the value of one expression, true as 1 and false as 0."""
    top = -1
    for place in range(program.starts[expression], program.starts[expression + 1]):
        operation = program.operations[place]
        if operation == NUMBER:
            top += 1
            stack[top] = program.arguments[place]
        elif operation == VALUE:
            top += 1
            stack[top] = values[int(program.arguments[place])]
        elif operation == BETWEEN:
            top -= 2
            stack[top] = np.float64(_between(stack[top], stack[top + 1], stack[top + 2]))
        elif operation in (NEGATE, NOT, SQUARE, SQRT, EXP, LOG, SIN, COS, TAN, ABS):
            stack[top] = _unary(operation, stack[top])
        else:
            top -= 1
            stack[top] = _binary(operation, stack[top], stack[top + 1])
    return stack[0]


@compiled
def outcomes(program: Program, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value of every expression of a program for every row of values, true as 1 and false as 0.

    Parameters
    ----------
    rows : (n, n_values) float64

    Returns
    -------
    (n_expressions, n) float64
    """
    n_expressions = len(program.starts) - 1
    result = np.empty((n_expressions, len(rows)))
    stack = np.empty(len(program.operations))
    for expression in range(n_expressions):
        for row in range(len(rows)):
            result[expression, row] = _outcome(program, expression, rows[row], stack)
    return result


@compiled
def state_of(measure: Measure, frame: _Frames, cell: NDArray[np.float64]) -> int:
    """Return the first state that a frame lies in, told from columns rounded to single precision, or ``NO_STATE``.

    Parameters
    ----------
    frame : (n_atoms, 3), nm
    cell : (6,) as in `minimum_image`, or (0,)
    """
    values = np.empty(len(measure.table.kinds))
    for column in range(len(values)):
        values[column] = np.float32(_value(measure.table, column, frame, cell))
    stack = np.empty(len(measure.states.operations))
    for state in range(len(measure.states.starts) - 1):
        if _outcome(measure.states, state, values, stack) > 0.0:
            return state
    return NO_STATE


def _as_pointer(_typing: Any, address: Any) -> Any:
    """Return the type of a pointer made from an address, and the code that makes it."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), code


_pointer: Any = intrinsic(_as_pointer)

# From the C interface of OpenMM, found by name in its library, which `engine` loads.
_step: Any = types.ExternalFunction("OpenMM_Integrator_step", types.void(types.voidptr, types.int32))
_get_state: Any = types.ExternalFunction(
    "OpenMM_Context_getState", types.voidptr(types.voidptr, types.int32, types.int32)
)
_get_positions: Any = types.ExternalFunction("OpenMM_State_getPositions", types.voidptr(types.voidptr))
_vector: Any = types.ExternalFunction("OpenMM_Vec3Array_get", types.voidptr(types.voidptr, types.int32))
_destroy: Any = types.ExternalFunction("OpenMM_State_destroy", types.void(types.voidptr))
_POSITIONS: Final = 1


@compiled
def follow(
    simulation: Simulation, measure: Measure, frames: NDArray[np.float32], last: NDArray[np.float64]
) -> tuple[int, int]:
    """Integrate until a saved frame lies in a state, or there is no room for further frames.

    An exception of OpenMM would end the process here: only for contexts without a box whose steps raise none.

    Parameters
    ----------
    frames : (n_frames, n_atoms, 3) float32, nm, written
    last : (n_atoms, 3) float64, nm, the last frame, written

    Returns
    -------
    How many frames were saved, and the state of the last one.
    """
    context, integrator = _pointer(simulation.context), _pointer(simulation.integrator)
    n_atoms, no_cell = frames.shape[1], np.empty(0)
    for row in range(len(frames)):
        _step(integrator, simulation.stride)
        snapshot = _get_state(context, _POSITIONS, 0)
        positions = carray(_vector(_get_positions(snapshot), 0), (n_atoms, 3), np.float64)
        for atom in range(n_atoms):
            for axis in range(3):
                last[atom, axis] = positions[atom, axis]
                frames[row, atom, axis] = positions[atom, axis]
        _destroy(snapshot)
        state = state_of(measure, frames[row], no_cell)
        if state != NO_STATE:
            return row + 1, state
    return len(frames), NO_STATE
