"""Collective variables: named columns computed from positions.

Distances in nm, angles in degrees, atoms counted from 0 or selected by MDTraj's language. Displacements obey the
minimum-image convention; x, y and z are positions as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separatrix import kernels
from separatrix.errors import ExpressionError, quoted
from separatrix.expressions import Call, is_usable_name, parse_call, suggestion
from separatrix.records import Atoms, Float32Array, FloatArray
from separatrix.selection import select


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
    code : of its kernel
    usage : how a definition is written
    unit : of the value; empty without one
    atoms : how many atoms one evaluation of the kernel takes
    forms : its descriptors; an angle has its cosine, a dihedral sine and cosine
    pairwise : whether the definition gives two lists of atoms and the kernel is summed over all pairs
    parameters : default of each named parameter
    check : says what is wrong with the parameters
    """

    code: int
    usage: str
    unit: str
    atoms: int
    forms: tuple[str, ...] = ("",)
    periodic: bool = False
    pairwise: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)
    check: Callable[..., str | None] = lambda: None


KINDS: Final[Mapping[str, Kind]] = {
    "x": Kind(code=kernels.X, usage="x(i)", unit="nm", atoms=1),
    "y": Kind(code=kernels.Y, usage="y(i)", unit="nm", atoms=1),
    "z": Kind(code=kernels.Z, usage="z(i)", unit="nm", atoms=1),
    "distance": Kind(code=kernels.DISTANCE, usage="distance(i, j)", unit="nm", atoms=2),
    "angle": Kind(code=kernels.ANGLE, usage="angle(i, j, k)", unit="degrees", atoms=3, forms=("cos",)),
    "dihedral": Kind(
        code=kernels.DIHEDRAL,
        usage="dihedral(i, j, k, l)",
        unit="degrees",
        atoms=4,
        forms=("sin", "cos"),
        periodic=True,
    ),
    "coordination": Kind(
        code=kernels.COORDINATION,
        usage="coordination([i, ...], [j, ...], r0=0.35, n=6, m=12)",
        unit="",
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


def by_index(text: str, atoms: Atoms) -> str:
    """Return a definition in which atom numbers stand for the selections, such as ``dihedral('name C', 6, 8, 14)``.

    Raises
    ------
    ExpressionError
        If it cannot be read, or a selection gives no atom, or more than one where one is needed.
    """
    call = parse_call(text)
    if not any(isinstance(item, str) for item in call.arguments):
        return text
    kind = _kind(call)
    parts = [str(_selected(call, kind, item, atoms)) for item in call.arguments]
    parts += [f"{name}={value!r}" for name, value in call.keywords.items()]
    return f"{call.name}({', '.join(parts)})"


def _selected(call: Call, kind: Kind, item: int | tuple[int, ...] | str, atoms: Atoms) -> int | list[int]:
    """Return what an argument stands for: a list of atoms where the kind takes lists, else one atom."""
    if not isinstance(item, str):
        return list(item) if isinstance(item, tuple) else item
    try:
        found = select(atoms, item)
    except ExpressionError as error:
        raise _wrong(call, str(error)) from None
    if kind.pairwise:
        return list(found)
    if len(found) > 1:
        names = ", ".join(atoms.names[atom] for atom in found[:3]) + (", ..." if len(found) > 3 else "")
        raise _wrong(call, f"expected one atom, but {quoted(item)} selects {len(found)} ({names}); narrow it")
    return found[0]


def _kind(call: Call) -> Kind:
    if call.name not in KINDS:
        raise _wrong(call, f"unknown kind {quoted(call.name)}{suggestion(call.name, KINDS)}")
    return KINDS[call.name]


def parse_definition(text: str, n_atoms: int) -> Definition:
    """Parse a definition such as ``dihedral(4, 6, 8, 14)``.

    Raises
    ------
    ExpressionError
        For an unknown kind, wrong arguments, or an atom that does not exist.
    """
    call = parse_call(text)
    kind = _kind(call)
    for keyword in call.keywords:
        if keyword not in kind.parameters:
            raise _wrong(call, f"unknown parameter {keyword!r}; expected {kind.usage}")
    parameters = {**kind.parameters, **call.keywords}
    problem = kind.check(**parameters)
    if problem is not None:
        raise _wrong(call, problem)
    selections = [item for item in call.arguments if isinstance(item, str)]
    if selections:
        raise _wrong(call, f"{selections[0]!r} is a selection; expected atom numbers here, where atoms have no names")
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
    return ExpressionError(f"{quoted(call.text, 120)}: {problem}")


class Columns:
    """Named collective variables of a system of ``n_atoms`` atoms.

    Values are rounded to single precision, so that a frame lies in the same state whether it is tested between steps or
    as read back from a store.

    Parameters
    ----------
    definitions : name -> definition, such as ``{"phi": "dihedral(4, 6, 8, 14)"}``
    n_atoms : number of atoms

    Attributes
    ----------
    names, units, periodic : one each per column
    table : the columns as kernels read them
    descriptor_forms : the column, and sin, cos or nothing, of each column of :meth:`descriptors`

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
        self.table = _table(parsed)
        self.descriptor_forms: tuple[tuple[int, str], ...] = tuple(
            (column, form) for column, definition in enumerate(parsed) for form in definition.kind.forms
        )
        self._shape = (n_atoms, 3)

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
        values: list[float] = self.array(positions[None], None if box is None else box[None])[0].tolist()
        return values

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
        frames, boxes = self._checked(positions, box)
        values = np.empty((len(frames), len(self.names)), dtype=np.float32)
        kernels.columns(self.table, frames, boxes, values)
        return values

    def descriptors(self, positions: ArrayLike, box: ArrayLike | None) -> Float32Array:
        """Return the columns with an angle as (1 + cos)/2 and a dihedral as the pair (1 + sin)/2 and (1 + cos)/2.

        Parameters are those of :meth:`array`.

        Returns
        -------
        (n_frames, n) float32
            In the order of ``descriptor_forms``.
        """
        frames, boxes = self._checked(positions, box)
        values = np.empty((len(frames), len(self.descriptor_forms)), dtype=np.float32)
        kernels.descriptors(self.table, frames, boxes, values)
        return values

    def _checked(self, positions: ArrayLike, box: ArrayLike | None) -> tuple[FloatArray, NDArray[np.float64]]:
        """Return positions and cells as kernels read them: contiguous, writeable, in single or double precision."""
        frames = np.asarray(positions)
        if frames.ndim != 3 or frames.shape[1:] != self._shape:
            n_atoms = self._shape[0]
            raise ValueError(f"expected positions of shape (n_frames, {n_atoms}, 3) nm, got {frames.shape}")
        if frames.dtype != np.float32:
            frames = frames.astype(np.float64, copy=False)
        return kernels.readable(frames), kernels.cells_of(box, len(frames))


def _table(definitions: Sequence[Definition]) -> kernels.Table:
    terms = [term for definition in definitions for term in definition.terms]
    return kernels.Table(
        kinds=np.array([definition.kind.code for definition in definitions], dtype=np.int64),
        starts=np.cumsum([0, *(len(definition.terms) for definition in definitions)], dtype=np.int64),
        atoms=np.array([(*term, 0, 0, 0)[:4] for term in terms], dtype=np.int64).reshape(-1, 4),
        parameters=np.array([(*item.parameters, 0, 0, 0)[:3] for item in definitions], dtype=np.float64).reshape(-1, 3),
    )


def _named_definition(name: str, text: str, n_atoms: int) -> Definition:
    if not is_usable_name(name):
        raise ExpressionError(
            f"collective variable {name!r}: expected a name of letters, digits and underscores that is no function"
        )
    try:
        return parse_definition(text, n_atoms)
    except ExpressionError as error:
        raise ExpressionError(f"collective variable {name!r}: {error}") from None
