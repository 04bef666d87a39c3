"""Collective variables: named columns computed from positions, for one frame fast or for many frames at once.

Each kind has one kernel, written on the components of displacement vectors and given the namespace of its functions, so
that the same code runs on plain floats (one frame, called between integration steps) and on arrays (blocks of frames).
Distances in nm, angles in degrees, atoms counted from 0. Displacements obey the minimum-image convention; x, y and z
are positions as they are.
"""

from __future__ import annotations

import itertools
import math
import operator
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separatrix.errors import ExpressionError
from separatrix.expressions import Call, is_usable_name, parse_call, suggestion
from separatrix.records import Float32Array, FloatArray

Number = Any
"""A float or an array of floats: kernels serve both."""

Vector = tuple[Number, Number, Number]
"""Components x, y, z; nm."""

DEGREES: Final = 180.0 / math.pi

FLOATS: Final = SimpleNamespace(
    sqrt=math.sqrt, atan2=math.atan2, any=bool, where=lambda condition, yes, no: yes if condition else no
)
"""What kernels need of numpy, for plain floats."""

_MAX_SCALAR_TERMS: Final = 64
"""Beyond so many terms the array form is faster even for one frame."""

_CHUNK: Final = 2**18
"""Vectors held at once by the array form (about 40 MB)."""


def x_position(_: Any, position: Vector) -> Number:
    """Return x, nm."""
    return position[0]


def y_position(_: Any, position: Vector) -> Number:
    """Return y, nm."""
    return position[1]


def z_position(_: Any, position: Vector) -> Number:
    """Return z, nm."""
    return position[2]


def distance(ns: Any, u: Vector) -> Number:
    """Return the length of the displacement u = i -> j, nm."""
    x, y, z = u
    return ns.sqrt(x * x + y * y + z * z)


def angle(ns: Any, u: Vector, v: Vector) -> Number:
    """Return the angle between u = j -> i and v = j -> k, degrees."""
    return DEGREES * ns.atan2(*angle_legs(ns, u, v))


def angle_legs(ns: Any, u: Vector, v: Vector) -> tuple[Number, Number]:
    """Return |u x v| and u.v, sine and cosine of the angle up to a factor; exact near 0 and 180 degrees too."""
    (ux, uy, uz), (vx, vy, vz) = u, v
    nx = uy * vz - uz * vy
    ny = uz * vx - ux * vz
    nz = ux * vy - uy * vx
    return ns.sqrt(nx * nx + ny * ny + nz * nz), ux * vx + uy * vy + uz * vz


def dihedral(ns: Any, u: Vector, v: Vector, w: Vector) -> Number:
    """Return the dihedral of u = i -> j, v = j -> k, w = k -> l, degrees in -180..180."""
    return DEGREES * ns.atan2(*dihedral_legs(ns, u, v, w))


def dihedral_legs(ns: Any, u: Vector, v: Vector, w: Vector) -> tuple[Number, Number]:
    """Return |v| u.(v x w) and (u x v).(v x w), sine and cosine of the dihedral up to a factor.

    The sign is IUPAC's, as in MDTraj (Blondel & Karplus, J. Comput. Chem. 17, 1132).
    """
    (ux, uy, uz), (vx, vy, vz), (wx, wy, wz) = u, v, w
    mx = uy * vz - uz * vy
    my = uz * vx - ux * vz
    mz = ux * vy - uy * vx
    nx = vy * wz - vz * wy
    ny = vz * wx - vx * wz
    nz = vx * wy - vy * wx
    sine = ns.sqrt(vx * vx + vy * vy + vz * vz) * (ux * nx + uy * ny + uz * nz)
    return sine, mx * nx + my * ny + mz * nz


def coordination(ns: Any, u: Vector, r0: float, n: float, m: float) -> Number:
    """Return one pair's share of a coordination number: (1 - (r/r0)^n) / (1 - (r/r0)^m).

    With y = (r/r0)^gcd(n, m) both are geometric sums, ``sum_{k<n/g} y^k / sum_{k<m/g} y^k``: no singularity at r = r0.
    """
    divisor = math.gcd(int(n), int(m))
    ratio = distance(ns, u) / r0
    base = math.prod([ratio] * divisor)
    numerator = denominator = 1.0
    for _ in range(int(n) // divisor - 1):
        numerator = numerator * base + 1.0
    for _ in range(int(m) // divisor - 1):
        denominator = denominator * base + 1.0
    return numerator / denominator


def minimum_image(ns: Any, u: Vector, cell: Sequence[Number]) -> Vector:
    """Return a displacement folded to its nearest periodic image.

    Parameters
    ----------
    u : displacement, nm
    cell : ax, bx, by, cx, cy, cz of reduced box vectors, nm (OpenMM's form: a along x, b in the xy plane)

    Notes
    -----
    Folding along c, b and a in turn gives the nearest image up to half the shortest of ax, by and cz. Beyond that, in
    a triclinic box, the neighbouring images are compared too, as MDTraj does.
    """
    (x, y, z), (ax, bx, by, cx, cy, cz) = u, cell
    shift = _nearest_integer(z / cz)
    x, y, z = x - shift * cx, y - shift * cy, z - shift * cz
    shift = _nearest_integer(y / by)
    x, y = x - shift * bx, y - shift * by
    x = x - _nearest_integer(x / ax) * ax
    if not (ns.any(bx) or ns.any(cx) or ns.any(cy)):
        return x, y, z
    folded, best = (x, y, z), x * x + y * y + z * z
    if not (ns.any(4.0 * best > ax * ax) or ns.any(4.0 * best > by * by) or ns.any(4.0 * best > cz * cz)):
        return folded
    for k, j in itertools.product((-1, 0, 1), repeat=2):
        near_z = folded[2] + k * cz
        near_y = folded[1] + k * cy + j * by
        rest = near_y * near_y + near_z * near_z
        if not ns.any(rest < best):
            continue
        near_x = folded[0] + k * cx + j * bx
        near_x = near_x - _nearest_integer(near_x / ax) * ax
        squared = rest + near_x * near_x
        closer = squared < best
        x, y, z = ns.where(closer, near_x, x), ns.where(closer, near_y, y), ns.where(closer, near_z, z)
        best = ns.where(closer, squared, best)
    return x, y, z


def _nearest_integer(value: Number) -> Number:
    # Adding 1.5 * 2**52 leaves no bits for the fraction: rounds floats and arrays alike, and lets nan pass.
    return (value + 6755399441055744.0) - 6755399441055744.0


def _check_switching(r0: float, n: float, m: float) -> str | None:
    if r0 <= 0:
        return f"expected r0 > 0 nm, got {r0}"
    if n != int(n) or m != int(m) or not 1 <= n < m <= 100:
        return f"expected whole exponents 1 <= n < m <= 100, got n={n}, m={m}"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of collective variable.

    Attributes
    ----------
    usage : how a definition is written
    unit : of the value; empty without one
    kernel : function of a namespace, of the ``vectors`` and of the parameters
    vectors : displacements from and to the n-th atom of the definition; a single atom stands for its position
    legs : for angles, function of the same that returns sine and cosine up to a factor
    atoms : how many atoms one evaluation of the kernel takes
    pairwise : whether the definition gives two lists of atoms and the kernel is summed over all pairs
    parameters : default of each named parameter
    check : says what is wrong with the parameters
    """

    usage: str
    unit: str
    kernel: Callable[..., Number]
    vectors: tuple[tuple[int, ...], ...]
    atoms: int
    legs: Callable[..., tuple[Number, Number]] | None = None
    periodic: bool = False
    pairwise: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)
    check: Callable[..., str | None] = lambda: None


KINDS: Final[Mapping[str, Kind]] = {
    "x": Kind(usage="x(i)", unit="nm", kernel=x_position, vectors=((0,),), atoms=1),
    "y": Kind(usage="y(i)", unit="nm", kernel=y_position, vectors=((0,),), atoms=1),
    "z": Kind(usage="z(i)", unit="nm", kernel=z_position, vectors=((0,),), atoms=1),
    "distance": Kind(usage="distance(i, j)", unit="nm", kernel=distance, vectors=((0, 1),), atoms=2),
    "angle": Kind(
        usage="angle(i, j, k)", unit="degrees", kernel=angle, legs=angle_legs, vectors=((1, 0), (1, 2)), atoms=3
    ),
    "dihedral": Kind(
        usage="dihedral(i, j, k, l)",
        unit="degrees",
        kernel=dihedral,
        legs=dihedral_legs,
        vectors=((0, 1), (1, 2), (2, 3)),
        atoms=4,
        periodic=True,
    ),
    "coordination": Kind(
        usage="coordination([i, ...], [j, ...], r0=0.35, n=6, m=12)",
        unit="",
        kernel=coordination,
        vectors=((0, 1),),
        atoms=2,
        pairwise=True,
        parameters={"r0": 0.35, "n": 6, "m": 12},
        check=_check_switching,
    ),
}
"""The kinds of collective variables; a further one is a kernel and a line here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A checked definition: its kind, the atoms of each term of the kernel, and the parameters."""

    name: str
    kind: Kind
    terms: tuple[tuple[int, ...], ...]
    parameters: tuple[float, ...] = ()


def parse_definition(text: str, n_atoms: int) -> Definition:
    """Parse a definition such as ``dihedral(4, 6, 8, 14)``.

    Raises
    ------
    ExpressionError
        For an unknown kind, wrong arguments, or an atom that does not exist.
    """
    call = parse_call(text)
    if call.name not in KINDS:
        raise _wrong(call, f"unknown kind {call.name!r}{suggestion(call.name, KINDS)}")
    kind = KINDS[call.name]
    for keyword in call.keywords:
        if keyword not in kind.parameters:
            raise _wrong(call, f"unknown parameter {keyword!r}; expected {kind.usage}")
    parameters = {**kind.parameters, **call.keywords}
    problem = kind.check(**parameters)
    if problem is not None:
        raise _wrong(call, problem)
    groups: list[tuple[int, ...]] = [item for item in call.arguments if isinstance(item, tuple)]
    atoms = [item for item in call.arguments if isinstance(item, int)]
    if kind.pairwise:
        if atoms or len(groups) != kind.atoms or not all(groups):
            raise _wrong(call, f"expected {kind.usage}")
        terms = tuple(itertools.product(*groups))
    else:
        if groups or len(atoms) != kind.atoms:
            raise _wrong(call, f"expected {kind.usage}, got {len(call.arguments)} argument(s)")
        terms = (tuple(atoms),)
    _check_atoms(call, [*atoms, *itertools.chain(*groups)], n_atoms)
    return Definition(name=call.name, kind=kind, terms=terms, parameters=tuple(parameters.values()))


def _check_atoms(call: Call, atoms: Sequence[int], n_atoms: int) -> None:
    seen: set[int] = set()
    for atom in atoms:
        if not 0 <= atom < n_atoms:
            raise _wrong(call, f"there is no atom {atom}: the system has {n_atoms} atoms, counted from 0")
        if atom in seen:
            raise _wrong(call, f"atom {atom} occurs twice")
        seen.add(atom)


def _wrong(call: Call, problem: str) -> ExpressionError:
    return ExpressionError(f"{call.text!r}: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """All columns that share a kernel and its parameters: evaluated together."""

    kernel: Callable[..., Number]
    legs: Callable[..., tuple[Number, Number]] | None
    parameters: tuple[float, ...]
    columns: NDArray[np.intp]
    vectors: NDArray[np.intp]
    """(vectors per term, n_terms) rows of the table of vectors."""
    starts: NDArray[np.intp]
    """(n_columns,) first term of each column."""


class Columns:
    """Named collective variables of a system of ``n_atoms`` atoms.

    Values are rounded to single precision in both forms, so that a frame lies in the same state whether it is tested
    alone, in a block, or as read back from a store.

    Parameters
    ----------
    definitions : name -> definition, such as ``{"phi": "dihedral(4, 6, 8, 14)"}``
    n_atoms : number of atoms

    Raises
    ------
    ExpressionError
        If a name cannot be used in expressions, or a definition is wrong.

    Examples
    --------
    >>> columns = Columns({"r": "distance(0, 1)"}, n_atoms=2)
    >>> columns.scalar(np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]]), None)
    [5.0]
    """

    def __init__(self, definitions: Mapping[str, str], n_atoms: int) -> None:
        parsed = [_named_definition(name, text, n_atoms) for name, text in definitions.items()]
        self.names: tuple[str, ...] = tuple(definitions)
        self.units: tuple[str, ...] = tuple(definition.kind.unit for definition in parsed)
        self.periodic: tuple[bool, ...] = tuple(definition.kind.periodic for definition in parsed)
        self._shape = (n_atoms, 3)
        self._lay_out(parsed)
        self._round = struct.Struct(f"{len(parsed)}f")
        self._dense = sum(len(definition.terms) for definition in parsed) > _MAX_SCALAR_TERMS

    def scalar(self, positions: FloatArray, box: FloatArray | None) -> list[float]:
        """Return the values of one frame, fast.

        Parameters
        ----------
        positions : (n_atoms, 3), nm
        box : (3, 3), nm, reduced box vectors; None without periodic boundaries

        Raises
        ------
        ValueError
            If the positions have another shape.
        """
        if positions.shape != self._shape:
            raise ValueError(f"expected positions of shape {self._shape} nm, got {positions.shape}")
        if self._dense:
            frame: list[float] = self.array(positions[None], None if box is None else box[None])[0].tolist()
            return frame
        # One gather holds the ends of all displacements, their starts, and the single points.
        flat = positions.take(self._gather).tolist()
        n = self._n_components
        vectors: list[Vector] = []
        if n:
            components = map(operator.sub, flat, flat[n : 2 * n])
            vectors = list(zip(components, components, components, strict=True))
        if n and box is not None:
            (ax, _, _), (bx, by, _), (cx, cy, cz) = box.tolist()
            cell = ax, bx, by, cx, cy, cz
            vectors = [minimum_image(FLOATS, vector, cell) for vector in vectors]
        if len(flat) > 2 * n:
            points = iter(flat[2 * n :])
            vectors += zip(points, points, points, strict=True)
        values = [evaluate(vectors) for evaluate in self._evaluators]
        try:
            return list(self._round.unpack(self._round.pack(*values)))
        except OverflowError:
            with np.errstate(over="ignore"):
                return [float(value) for value in np.asarray(values, dtype=np.float32)]

    def array(self, positions: ArrayLike, box: ArrayLike | None) -> Float32Array:
        """Return the values of many frames.

        Parameters
        ----------
        positions : (n_frames, n_atoms, 3), nm
        box : (n_frames, 3, 3), nm, reduced box vectors; None without periodic boundaries

        Returns
        -------
        (n_frames, n_columns) float32

        Raises
        ------
        ValueError
            If a shape is another, or the box vectors are not in reduced form.
        """
        result = np.empty((len(self.names), len(positions)), dtype=np.float32)  # type: ignore[arg-type]
        for part, block, vectors in self._vectors(positions, box):
            result[block.columns, part] = _summed(block, block.kernel(np, *vectors, *block.parameters))
        return np.ascontiguousarray(result.T)

    def circular(self, positions: ArrayLike, box: ArrayLike | None) -> NDArray[np.float64]:
        """Return the columns with angles as points on the unit circle: no angle is formed, so none is dear or jumps.

        Parameters are those of :meth:`array`.

        Returns
        -------
        (3, n_columns, n_frames)
            Values of the columns that are no angles, then sines and cosines of those that are.
        """
        result = np.zeros((3, len(self.names), len(positions)))  # type: ignore[arg-type]
        for part, block, vectors in self._vectors(positions, box):
            if block.legs is None:
                result[0, block.columns, part] = _summed(block, block.kernel(np, *vectors, *block.parameters))
            else:
                sine, cosine = block.legs(np, *vectors)
                radius = np.sqrt(sine * sine + cosine * cosine)
                result[1, block.columns, part] = sine / radius
                result[2, block.columns, part] = cosine / radius
        return result

    def _vectors(
        self, positions: ArrayLike, box: ArrayLike | None
    ) -> Iterator[tuple[slice, _Block, list[NDArray[np.float64]]]]:
        """Yield, for slices of frames and every block, its vectors (3, n_terms, n_frames); silences floating errors."""
        frames = np.asarray(positions)
        if frames.ndim != 3 or frames.shape[1:] != self._shape:
            n_atoms = self._shape[0]
            raise ValueError(f"expected positions of shape (n_frames, {n_atoms}, 3) nm, got {frames.shape}")
        boxes = None if box is None else _checked_box(np.asarray(box, dtype=np.float64), len(frames))
        step = max(1, _CHUNK // max(1, self._ends.size + self._points.size))
        with np.errstate(all="ignore"):
            for first in range(0, len(frames), step):
                part = slice(first, first + step)
                table = self._table(frames[part], None if boxes is None else boxes[part])
                for block in self._blocks:
                    yield part, block, [table[:, rows] for rows in block.vectors]

    def _table(self, frames: FloatArray, boxes: FloatArray | None) -> NDArray[np.float64]:
        """Return every distinct vector once, (3, n_vectors, n_frames): displacements, then positions."""
        atoms = np.array(frames[:, self._atoms].transpose(2, 1, 0), dtype=np.float64, order="C")
        table = atoms[:, self._ends] - atoms[:, self._starts]
        if boxes is not None:
            cell = [boxes[:, i, j] for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))]
            table = np.stack(minimum_image(np, tuple(table), cell))
        return np.concatenate([table, atoms[:, self._points]], axis=1) if self._points.size else table

    def _lay_out(self, definitions: Sequence[Definition]) -> None:
        """Plan both forms of evaluation over one table that holds every distinct vector once."""
        arrows = [
            tuple(term[atom] for atom in vector)
            for definition in definitions
            for term in definition.terms
            for vector in definition.kind.vectors
        ]
        pairs = [arrow for arrow in dict.fromkeys(arrows) if len(arrow) == 2]
        points = [arrow for arrow in dict.fromkeys(arrows) if len(arrow) == 1]
        row = {arrow: index for index, arrow in enumerate([*pairs, *points])}
        starts = np.array([start for start, _ in pairs], dtype=np.intp)
        ends = np.array([end for _, end in pairs], dtype=np.intp)
        single = np.array([point for (point,) in points], dtype=np.intp)
        # The scalar form reads from the flat positions, the array form from the atoms that occur.
        self._gather = (3 * np.concatenate([ends, starts, single])[:, None] + np.arange(3)).ravel()
        self._n_components = 3 * len(pairs)
        self._atoms = np.unique(np.concatenate([ends, starts, single]))
        self._starts, self._ends, self._points = (np.searchsorted(self._atoms, part) for part in (starts, ends, single))
        rows = [
            [
                [row[tuple(term[atom] for atom in vector)] for vector in definition.kind.vectors]
                for term in definition.terms
            ]
            for definition in definitions
        ]
        self._evaluators = [_evaluator(*item) for item in zip(definitions, rows, strict=True)]
        self._blocks = _blocks(definitions, rows)


def _named_definition(name: str, text: str, n_atoms: int) -> Definition:
    if not is_usable_name(name):
        raise ExpressionError(
            f"collective variable {name!r}: expected a name of letters, digits and underscores that is no function"
        )
    try:
        return parse_definition(text, n_atoms)
    except ExpressionError as error:
        raise ExpressionError(f"collective variable {name!r}: {error}") from None


def _checked_box(box: NDArray[np.float64], n_frames: int) -> NDArray[np.float64]:
    if box.shape != (n_frames, 3, 3):
        raise ValueError(f"expected a box of shape ({n_frames}, 3, 3) nm, got {box.shape}")
    if box[:, [0, 0, 1], [1, 2, 2]].any():
        raise ValueError("expected reduced box vectors: a along x and b in the xy plane; rotate the configuration")
    return box


def _evaluator(definition: Definition, rows: list[list[int]]) -> Callable[[list[Vector]], float]:
    """Return the one-frame form of a column: a function of the table of vectors."""
    kernel, parameters = definition.kind.kernel, definition.parameters
    if len(rows) > 1 or parameters:
        return lambda table: math.fsum(kernel(FLOATS, *[table[row] for row in term], *parameters) for term in rows)
    (term,) = rows
    if len(term) == 1:
        (row,) = term
        return lambda table: kernel(FLOATS, table[row])
    vectors = operator.itemgetter(*term)
    return lambda table: kernel(FLOATS, *vectors(table))


def _summed(block: _Block, terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the terms (n_terms, n_frames) summed for each column."""
    return terms if len(terms) == len(block.starts) else np.add.reduceat(terms, block.starts, axis=0)


def _blocks(definitions: Sequence[Definition], rows: Sequence[list[list[int]]]) -> list[_Block]:
    members: dict[tuple[str, tuple[float, ...]], list[int]] = {}
    for column, definition in enumerate(definitions):
        members.setdefault((definition.name, definition.parameters), []).append(column)
    return [
        _Block(
            kernel=KINDS[name].kernel,
            legs=KINDS[name].legs,
            parameters=parameters,
            columns=np.array(columns),
            vectors=np.array([term for column in columns for term in rows[column]], dtype=np.intp).T,
            starts=np.cumsum([0, *[len(rows[column]) for column in columns[:-1]]]),
        )
        for (name, parameters), columns in members.items()
    ]
