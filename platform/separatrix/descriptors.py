"""Descriptors: the named feature columns the committor network sees, each of order one.

A dihedral enters as the pair (1 + sin)/2 and (1 + cos)/2, an angle as (1 + cos)/2, everything else as it is (distances
in nm). Internal coordinates are laid over the bond graph (Jung, Covino & Hummer, arXiv:1901.04595). Symmetry functions
tell how the solvent is arranged.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from separatrix.collective_variables import KINDS, Columns, parse_definition
from separatrix.errors import ConfigError, ExpressionError, quoted
from separatrix.expressions import parse_call, suggestion
from separatrix.records import Float32Array
from separatrix.symmetry_functions import SymmetryFunctions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    """A collective variable that enters the features: its kind, how it is shown, and its definition."""

    kind: str
    label: str
    definition: str


class Descriptors:
    """Named feature columns of a system.

    Parameters
    ----------
    columns : names of collective variables, or definitions such as ``distance(0, 1)``
    internal_coordinates : ``none``; ``rotatable``, one dihedral for each bond that has neighbours on both sides and the
        angles of a tree over the bonds; or ``all``, every angle, and a proper or improper dihedral for every atom that
        has one
    cvs : name -> definition of the collective variables
    bonds : pairs of atoms; the covalent bonds the internal coordinates follow
    atom_names : one per atom, such as ``ALA2-CA``
    n_atoms : number of atoms
    symmetry_functions : of the solvent, None for none; their columns are the last

    Attributes
    ----------
    names : one per feature column, such as ``sin phi`` or ``distance ACE1-CH3 ACE1-C``
    groups : for each column the quantity it belongs to; both columns of a dihedral share one
    definitions : for each column the definition of that quantity, such as ``dihedral(4, 6, 8, 14)``
    forms : for each column ``sin`` for (1 + sin)/2, ``cos`` for (1 + cos)/2, or nothing for the quantity as it is
    units : for each column its unit, empty without one

    Raises
    ------
    ConfigError
        If there is no column at all, one is given twice, or internal coordinates are asked for without bonds.
    ExpressionError
        If a column is neither a collective variable nor a definition.

    Notes
    -----
    An internal coordinate that is also given as a column appears once, under the name of that column.
    """

    def __init__(
        self,
        columns: Sequence[str],
        internal_coordinates: str,
        cvs: Mapping[str, str],
        bonds: Sequence[tuple[int, int]],
        atom_names: Sequence[str],
        n_atoms: int,
        symmetry_functions: SymmetryFunctions | None = None,
    ) -> None:
        if len(atom_names) != n_atoms:
            raise ValueError(f"expected {n_atoms} atom names, got {len(atom_names)}")
        quantities: dict[tuple[object, ...], _Quantity] = {}
        for column in columns:
            quantity, key = _chosen(column, cvs, n_atoms)
            if key in quantities:
                raise ConfigError(f"descriptors.columns: {column!r} repeats {quantities[key].label!r}; leave one out")
            quantities[key] = quantity
        for kind, title, atoms in _internal_coordinates(internal_coordinates, bonds, n_atoms):
            label = " ".join([title, *_labels(atom_names, atoms)])
            definition = f"{kind}({', '.join(map(str, atoms))})"
            quantities.setdefault(_key(kind, (atoms,)), _Quantity(kind=kind, label=label, definition=definition))
        if not (quantities or symmetry_functions):
            raise ConfigError("descriptors: expected columns, internal_coordinates or symmetry_functions, got none")
        self.symmetry_functions = symmetry_functions
        self._lay_out(list(quantities.values()), n_atoms)

    def array(self, positions: ArrayLike, box: ArrayLike | None) -> Float32Array:
        """Return the features of many frames.

        Parameters
        ----------
        positions : (n_frames, n_atoms, 3), nm
        box : (n_frames, 3, 3), nm, reduced box vectors; None without periodic boundaries

        Returns
        -------
        (n_frames, n_features) float32

        Raises
        ------
        ValueError
            If a shape is another.
        """
        own = self._columns.descriptors(positions, box)
        if self.symmetry_functions is None:
            return own
        return np.concatenate([own, self.symmetry_functions.array(positions, box)], axis=1)

    def _lay_out(self, quantities: Sequence[_Quantity], n_atoms: int) -> None:
        self._columns = Columns({f"q{index}": item.definition for index, item in enumerate(quantities)}, n_atoms)
        features = [(form, quantities[source]) for source, form in self._columns.descriptor_forms]
        solvent = self.symmetry_functions
        names, definitions = ((), ()) if solvent is None else (solvent.names, solvent.definitions)
        plain = ("",) * len(names)
        self.names: tuple[str, ...] = (*(f"{form} {item.label}".lstrip() for form, item in features), *names)
        self.groups: tuple[str, ...] = (*(item.label for _, item in features), *names)
        self.definitions: tuple[str, ...] = (*(item.definition for _, item in features), *definitions)
        self.forms: tuple[str, ...] = (*(form for form, _ in features), *plain)
        self.units: tuple[str, ...] = (*("" if form else KINDS[item.kind].unit for form, item in features), *plain)
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise ConfigError(f"descriptors: two columns would both be called {repeated[0]!r}; rename one")


def _chosen(column: str, cvs: Mapping[str, str], n_atoms: int) -> tuple[_Quantity, tuple[object, ...]]:
    """Return the quantity a column stands for, by name or by definition, and its key."""
    if column not in cvs and "(" not in column:
        known = [*cvs, *(kind.usage for kind in KINDS.values())]
        raise ExpressionError(
            f"descriptors.columns: {quoted(column)} is no collective variable{suggestion(column, known)}"
        )
    text = cvs.get(column, column)
    try:
        definition = parse_definition(text, n_atoms)
    except ExpressionError as error:
        raise ExpressionError(f"descriptors.columns: {error}") from None
    label = column if column in cvs else parse_call(text).text
    quantity = _Quantity(kind=definition.name, label=label, definition=text)
    return quantity, _key(definition.name, definition.terms, definition.parameters)


def _key(kind: str, terms: Sequence[tuple[int, ...]], parameters: tuple[float, ...] = ()) -> tuple[object, ...]:
    """Identify a quantity; distances, angles and dihedrals read the same from either end."""
    return kind, tuple(min(term, term[::-1]) for term in terms), parameters


def _labels(atom_names: Sequence[str], atoms: Iterable[int]) -> list[str]:
    """Return the names of atoms, with the index where another atom has the same name."""
    counts = Counter(atom_names)
    return [atom_names[atom] if counts[atom_names[atom]] == 1 else f"{atom_names[atom]}[{atom}]" for atom in atoms]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """The bond graph and a breadth-first tree over each molecule, rooted at its lowest-numbered terminal atom.

    Attributes
    ----------
    neighbours : of each atom, ascending
    parents : of each atom in its tree, -1 for a root and for an atom without bonds
    order : the atoms with bonds, each after its parent
    n_below : number of atoms in the branch that hangs on each atom, itself included
    """

    neighbours: Sequence[Sequence[int]]
    parents: Sequence[int]
    order: Sequence[int]
    n_below: Sequence[int]

    def ancestors(self, atom: int) -> list[int]:
        """Return the atom, its parent, grandparent and great-grandparent, as far as they exist."""
        line = [atom]
        while len(line) < 4 and self.parents[line[-1]] >= 0:
            line.append(self.parents[line[-1]])
        return line

    def main_neighbour(self, atom: int, excluded: set[int]) -> int | None:
        """Return the neighbour that leads on: the parent, else the one with most atoms behind it."""
        choice = [other for other in self.neighbours[atom] if other not in excluded]
        if self.parents[atom] in choice:
            return self.parents[atom]
        return max(choice, key=lambda other: (self.n_below[other], -other), default=None)


def _graph(bonds: Iterable[tuple[int, int]], n_atoms: int) -> _Graph:
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    for row in neighbours:
        row.sort()
    parents, order, seen = [-1] * n_atoms, list[int](), set[int]()
    for atom in range(n_atoms):
        if atom in seen or not neighbours[atom]:
            continue
        molecule = _reached(atom, neighbours)
        root = min((other for other in molecule if len(neighbours[other]) == 1), default=min(molecule))
        for child, parent in _reached(root, neighbours).items():
            parents[child] = parent
            order.append(child)
            seen.add(child)
    n_below = [1] * n_atoms
    for atom in reversed(order):
        if parents[atom] >= 0:
            n_below[parents[atom]] += n_below[atom]
    return _Graph(neighbours=neighbours, parents=parents, order=order, n_below=n_below)


def _reached(root: int, neighbours: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return every atom reached from a root, breadth first, with the atom it was reached from (-1 for the root)."""
    parents, queue = {root: -1}, [root]
    for atom in queue:
        for other in neighbours[atom]:
            if other not in parents:
                parents[other] = atom
                queue.append(other)
    return parents


def _internal_coordinates(
    choice: str, bonds: Sequence[tuple[int, int]], n_atoms: int
) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return (kind, title, atoms) of every internal coordinate."""
    if choice not in ("none", "rotatable", "all"):
        raise ConfigError(f"descriptors.internal_coordinates: expected none, rotatable or all, got {choice!r}")
    if choice == "none":
        return []
    pairs = sorted({(min(bond), max(bond)) for bond in bonds})
    if not pairs:
        raise ConfigError("descriptors.internal_coordinates: the system has no bonds; name columns instead")
    graph = _graph(pairs, n_atoms)
    if choice == "rotatable":
        angles, dihedrals = _tree_angles(graph), _bond_dihedrals(graph, pairs)
        impropers: list[tuple[int, ...]] = []
    else:
        angles, dihedrals, impropers = _all_angles(graph), _atom_dihedrals(graph), _impropers(graph)
    return [
        *(("distance", "distance", atoms) for atoms in pairs),
        *(("angle", "angle", atoms) for atoms in angles),
        *(("dihedral", "dihedral", atoms) for atoms in dihedrals),
        *(("dihedral", "improper", atoms) for atoms in impropers),
    ]


def _tree_angles(graph: _Graph) -> list[tuple[int, ...]]:
    """Return grandparent, parent and child for every atom that has both."""
    lines = (graph.ancestors(atom)[:3] for atom in graph.order)
    return [tuple(reversed(line)) for line in lines if len(line) == 3]


def _all_angles(graph: _Graph) -> list[tuple[int, ...]]:
    return [
        (first, atom, second)
        for atom in graph.order
        for first, second in itertools.combinations(graph.neighbours[atom], 2)
    ]


def _bond_dihedrals(graph: _Graph, pairs: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return one dihedral for each bond with neighbours on both sides, along the longest branches."""
    dihedrals: list[tuple[int, ...]] = []
    for pair in pairs:
        near, far = reversed(pair) if graph.parents[pair[0]] == pair[1] else pair
        first = graph.main_neighbour(near, {far})
        last = None if first is None else graph.main_neighbour(far, {near, first})
        if first is not None and last is not None:
            dihedrals.append((first, near, far, last))
    return dihedrals


def _atom_dihedrals(graph: _Graph) -> list[tuple[int, ...]]:
    """Return the dihedral from great-grandparent to atom for every atom that has one."""
    lines = (graph.ancestors(atom) for atom in graph.order)
    return [tuple(reversed(line)) for line in lines if len(line) == 4]


def _impropers(graph: _Graph) -> list[tuple[int, ...]]:
    """Return the dihedral of each branching atom and three of its neighbours: how far it lies out of their plane."""
    impropers: list[tuple[int, ...]] = []
    for atom in graph.order:
        others = sorted(graph.neighbours[atom], key=lambda other: (other != graph.parents[atom], other))
        if len(others) >= 3:
            impropers.append((atom, *others[:3]))
    return impropers
