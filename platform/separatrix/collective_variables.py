"""Collective variables: named columns computed from positions, for one frame fast or for many frames at once.

Distances in nm, angles in degrees, atoms counted from 0. Displacements obey the minimum-image convention; x, y and z
are positions as they are.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separatrix.errors import ExpressionError
from separatrix.expressions import Call, is_usable_name, parse_call, suggestion
from separatrix.kernels import FLOATS, KINDS, Kind, Number, minimum_image
from separatrix.records import Float32Array, FloatArray
from separatrix.tracing import Symbol, Trace

_MAX_SCALAR_TERMS: Final = 64
"""Beyond so many terms the array form is faster even for one frame."""

_CHUNK: Final = 2**18
"""Vectors held at once by the array form (about 40 MB)."""

_OfOneFrame = Callable[[Sequence[float]], tuple[float, ...]]


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
    circle: Callable[..., tuple[Number, ...]] | None
    parameters: tuple[float, ...]
    columns: NDArray[np.intp]
    vectors: NDArray[np.intp]
    """(vectors per term, n_terms) rows of the table of vectors."""
    starts: NDArray[np.intp]
    """(n_columns,) first term of each column."""
    rows: tuple[slice, ...]
    """Where the circular form of these columns stands, one slice for each component."""


class Columns:
    """Named collective variables of a system of ``n_atoms`` atoms.

    Values are rounded to single precision in both forms, so that a frame lies in the same state whether it is tested
    alone, in a block, or as read back from a store.

    Parameters
    ----------
    definitions : name -> definition, such as ``{"phi": "dihedral(4, 6, 8, 14)"}``
    n_atoms : number of atoms

    Attributes
    ----------
    names, units, periodic : one each per column
    circular_rows : the column, and sin, cos or nothing, of each row of :meth:`circular`

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
        self._round = struct.Struct(f"{len(parsed)}f")
        self._dense = sum(len(definition.terms) for definition in parsed) > _MAX_SCALAR_TERMS
        self._lay_out(parsed)

    def scalar(self, positions: FloatArray, box: FloatArray | None) -> list[float]:
        """Return the values of one frame.

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
        return list(self.of_frame(positions[None], 0, box))

    def of_frame(self, positions: FloatArray, frame: int, box: FloatArray | None) -> tuple[float, ...]:
        """Return the values of one of many frames, in microseconds: made to be called after every frame.

        Parameters
        ----------
        positions : (n_frames, n_atoms, 3), nm; fastest when contiguous
        frame : which of them
        box : (3, 3), nm, reduced box vectors of that frame; None without periodic boundaries
        """
        if self._dense:
            one = slice(frame, frame + 1)
            row: list[float] = self.array(positions[one], None if box is None else box[None])[0].tolist()
            return tuple(row)
        try:
            numbers = self._readers[positions.itemsize].unpack_from(positions.data, frame * positions.strides[0])
        except (ValueError, BufferError):  # not contiguous
            return self.of_frame(np.ascontiguousarray(positions[frame][None]), 0, box)
        if box is None:
            values = self._compute(numbers)
        else:
            (ax, _, _), (bx, by, _), (cx, cy, cz) = box.tolist()
            values = self._compute_periodic((*numbers, ax, bx, by, cx, cy, cz))
        try:
            return self._round.unpack(self._round.pack(*values))
        except OverflowError:
            with np.errstate(over="ignore"):
                return tuple(float(value) for value in np.asarray(values, dtype=np.float32))

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
        (n_rows, n_frames)
            In the order of ``circular_rows``: columns that are no angles, then sines and cosines of those that are.
        """
        result = np.empty((len(self.circular_rows), len(positions)))  # type: ignore[arg-type]
        for part, block, vectors in self._vectors(positions, box):
            if block.circle is None:
                components: tuple[Number, ...] = (_summed(block, block.kernel(np, *vectors, *block.parameters)),)
            else:
                components = block.circle(np, *vectors)
            for rows, component in zip(block.rows, components, strict=True):
                result[rows, part] = component
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
        self._atoms = np.unique(np.concatenate([ends, starts, single]))
        self._starts, self._ends, self._points = (np.searchsorted(self._atoms, part) for part in (starts, ends, single))
        rows = [
            [
                [row[tuple(term[atom] for atom in vector)] for vector in definition.kind.vectors]
                for term in definition.terms
            ]
            for definition in definitions
        ]
        self._blocks = _blocks(definitions, rows)
        self.circular_rows: tuple[tuple[int, str], ...] = tuple(
            (int(column), form)
            for block in self._blocks
            for form in definitions[block.columns[0]].kind.forms
            for column in block.columns
        )
        if not self._dense:
            self._readers = {size: _reader(self._atoms, number, size) for number, size in (("f", 4), ("d", 8))}
            self._compute = _traced(definitions, self._atoms, periodic=False)
            self._compute_periodic = _traced(definitions, self._atoms, periodic=True)


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


def _reader(atoms: NDArray[np.intp], number: str, size: int) -> struct.Struct:
    """Return what reads the coordinates of some atoms, ascending, out of one frame."""
    gaps = np.diff(atoms, prepend=-1) - 1
    return struct.Struct("=" + "".join(f"{3 * size * gap}x3{number}" for gap in gaps))


def _traced(definitions: Sequence[Definition], atoms: NDArray[np.intp], *, periodic: bool) -> _OfOneFrame:
    """Return a function from coordinates of atoms, and box vectors ax bx by cx cy cz, to the value of each column."""
    trace = Trace()
    place = {int(atom): tuple(trace.inputs(3)) for atom in atoms}
    cell = trace.inputs(6) if periodic else []

    def vector(ends: tuple[int, ...]) -> tuple[Symbol, ...]:
        if len(ends) == 1:
            return place[ends[0]]
        x, y, z = (head - tail for head, tail in zip(place[ends[1]], place[ends[0]], strict=True))
        if not periodic:
            return x, y, z
        image = trace.note("fold(({}, {}, {}), ({}, {}, {}, {}, {}, {}))", x, y, z, *cell)
        return tuple(trace.note(f"{{}}[{axis}]", image) for axis in range(3))

    results = []
    for definition in definitions:
        terms = []
        for term in definition.terms:
            vectors = [vector(tuple(term[atom] for atom in ends)) for ends in definition.kind.vectors]
            terms.append(definition.kind.kernel(trace, *vectors, *definition.parameters))
        results.append(terms[0] if len(terms) == 1 else trace.fsum(terms))
    return trace.compile(results, fold=functools.partial(minimum_image, FLOATS))


def _summed(block: _Block, terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the terms (n_terms, n_frames) summed for each column."""
    return terms if len(terms) == len(block.starts) else np.add.reduceat(terms, block.starts, axis=0)


def _blocks(definitions: Sequence[Definition], rows: Sequence[list[list[int]]]) -> list[_Block]:
    members: dict[tuple[str, tuple[float, ...]], list[int]] = {}
    for column, definition in enumerate(definitions):
        members.setdefault((definition.name, definition.parameters), []).append(column)
    blocks, n_rows = [], 0
    for (name, parameters), columns in sorted(members.items(), key=lambda item: KINDS[item[0][0]].circle is not None):
        kind = KINDS[name]
        places = [slice(n_rows + i * len(columns), n_rows + (i + 1) * len(columns)) for i in range(len(kind.forms))]
        n_rows = places[-1].stop
        blocks.append(
            _Block(
                kernel=kind.kernel,
                circle=kind.circle,
                parameters=parameters,
                columns=np.array(columns),
                vectors=np.array([term for column in columns for term in rows[column]], dtype=np.intp).T,
                starts=np.cumsum([0, *[len(rows[column]) for column in columns[:-1]]]),
                rows=tuple(places),
            )
        )
    return blocks
