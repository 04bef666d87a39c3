"""Symmetry functions as columns: which atoms they are about, what they are called. `surroundings` has the formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from separatrix import kernels
from separatrix.config import SymmetryFunctionsConfig
from separatrix.errors import ConfigError, ExpressionError
from separatrix.records import Atoms, Float32Array, Snapshot
from separatrix.selection import select
from separatrix.surroundings import LAMBDAS, WATER_DENSITY, ZETAS, Surroundings, normalisation

_WHERE: Final = "descriptors.symmetry_functions"


def is_usable(device: str) -> bool:
    """Return whether symmetry functions can be computed on a device of torch."""
    from separatrix.pair_sums import is_there  # noqa: PLC0415 - torch takes seconds to load

    return is_there(device)


class SymmetryFunctions:
    """The symmetry functions of a system, as columns.

    Parameters
    ----------
    tables : from the configuration
    atoms : of the system
    device : of torch; a GPU is used only when named

    Attributes
    ----------
    names : one per column, such as ``G5(Li, O, r_s=0.25, zeta=4, lambda=+1)``; a centre goes by its element where it is
        the only one, else by its readable name, such as ``ALA2-CA``
    definitions : one per column, with everything that it takes to compute it but the constants of this module

    Raises
    ------
    ConfigError
        If a selection is wrong, or two columns would have the same name.
    """

    def __init__(self, tables: Sequence[SymmetryFunctionsConfig], atoms: Atoms, device: str = "cpu") -> None:
        chosen = [_chosen(table, atoms, f"{_WHERE}.{place}") for place, table in enumerate(tables)]
        center_labels = _center_labels([item.centers for item in chosen], atoms)
        element_labels = _element_labels([item.elements for item in chosen], atoms)
        self._device = device
        self._shape = (atoms.n_atoms, 3)
        self._surroundings: list[Surroundings] = []
        names: list[str] = []
        definitions: list[str] = []
        for table, choice in zip(tables, chosen, strict=True):
            for element, neighbors in choice.elements.items():
                factors = normalisation(table.r_s, table.r_cutoff, WATER_DENSITY * (2 if element == "H" else 1))
                self._surroundings.append(
                    Surroundings(
                        centers=np.array(choice.centers),
                        neighbors=np.array(neighbors),
                        r_s=tuple(table.r_s),
                        r_cutoff=table.r_cutoff,
                        normalisation=factors,
                    )
                )
                for center in choice.centers:
                    names += _columns(f"{center_labels[center]}, {element_labels[element, neighbors]}", table.r_s)
                    about = f"{center}, {element} of atoms {choice.text}, r_c={table.r_cutoff:g}"
                    definitions += _columns(about, table.r_s)
        self.names, self.definitions = tuple(names), tuple(definitions)
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ConfigError(f"{_WHERE}: two columns would both be called {repeated[0]!r}; leave one of them out")

    def array(self, positions: ArrayLike, box: ArrayLike | None) -> Float32Array:
        """Return the functions of many frames, normalised.

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
        # Torch takes seconds to load: only where there is something to compute.
        from separatrix.pair_sums import symmetry_functions  # noqa: PLC0415

        frames = np.asarray(positions)
        if frames.ndim != 3 or frames.shape[1:] != self._shape:
            expected = ("n_frames", *self._shape)
            raise ValueError(f"expected positions of shape ({', '.join(map(str, expected))}) nm, got {frames.shape}")
        cells = kernels.cells_of(box, len(frames))
        return symmetry_functions(kernels.readable(frames), cells, self._surroundings, self._device)

    def check_boxes(self, snapshots: Iterable[Snapshot]) -> None:
        """Refuse boxes in which a neighbour would be within the cut-off together with its own image.

        Raises
        ------
        ConfigError
            Naming the largest cut-off that the box allows.
        """
        for snapshot in snapshots:
            if snapshot.box is None:
                continue
            half = 0.5 * float(np.diag(snapshot.box).min())
            for item in self._surroundings:
                if item.r_cutoff > half:
                    raise ConfigError(
                        f"{_WHERE}: expected r_cutoff of at most half the shortest width of the box, {half:.4g} nm, "
                        f"got {item.r_cutoff:g} nm; choose a shorter one, or a larger box"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The centres of a table, its neighbours by their element, and all of these in short."""

    centers: tuple[int, ...]
    elements: dict[str, tuple[int, ...]]
    text: str


def _chosen(table: SymmetryFunctionsConfig, atoms: Atoms, where: str) -> _Choice:
    """Return the atoms of a table; those without an element go by their names."""
    if max(table.r_s) >= table.r_cutoff:
        raise ConfigError(
            f"{where}.r_s: expected distances below r_cutoff, {table.r_cutoff:g} nm, got {max(table.r_s):g} nm; leave "
            "it out or raise r_cutoff"
        )
    centers = _atoms(table.centers, atoms, f"{where}.centers")
    neighbors = _atoms(table.neighbors, atoms, f"{where}.neighbors")
    kinds = {atom: atoms.elements[atom] or atoms.atom_names[atom] for atom in neighbors}
    by_kind = groupby(sorted(neighbors, key=lambda atom: (kinds[atom], atom)), key=kinds.__getitem__)
    found = {kind: tuple(members) for kind, members in by_kind}
    elements = dict(sorted(found.items(), key=lambda item: item[1]))
    return _Choice(centers=centers, elements=elements, text=_ranges(neighbors))


def _atoms(choice: str | Sequence[int], atoms: Atoms, where: str) -> tuple[int, ...]:
    """Return chosen atoms, ascending."""
    if isinstance(choice, str):
        try:
            return select(atoms, choice)
        except ExpressionError as error:
            raise ConfigError(f"{where}: {error}") from None
    if not choice:
        raise ConfigError(f"{where}: expected atoms, got an empty list; name some, or a selection such as 'water'")
    for atom, count in Counter(choice).items():
        if not 0 <= atom < atoms.n_atoms:
            raise ConfigError(
                f"{where}: there is no atom {atom}: the system has {atoms.n_atoms} atoms, counted from 0; correct it"
            )
        if count > 1:
            raise ConfigError(f"{where}: atom {atom} occurs {count} times; name it once")
    return tuple(sorted(choice))


def _center_labels(chosen: Sequence[Sequence[int]], atoms: Atoms) -> dict[int, str]:
    """Return what to call each centre: its element where it is the only one, else its readable name."""
    centers = sorted({center for centers in chosen for center in centers})
    same_element = Counter(atoms.elements[center] for center in centers)
    same_name = Counter(atoms.names)
    labels: dict[int, str] = {}
    for center in centers:
        name, element = atoms.names[center], atoms.elements[center]
        readable = name if same_name[name] == 1 else f"{name}[{center}]"
        labels[center] = element if element and same_element[element] == 1 else readable
    return labels


def _element_labels(
    chosen: Sequence[dict[str, tuple[int, ...]]], atoms: Atoms
) -> dict[tuple[str, tuple[int, ...]], str]:
    """Return what to call neighbours: their element, after the names of their residues where tables differ in them."""
    kinds = {(element, neighbors) for elements in chosen for element, neighbors in elements.items()}
    same = Counter(element for element, _ in kinds)
    labels: dict[tuple[str, tuple[int, ...]], str] = {}
    for element, neighbors in kinds:
        residues = sorted({atoms.residue_names[atom] for atom in neighbors})
        labels[element, neighbors] = element if same[element] == 1 else f"{'+'.join(residues)}-{element}"
    return labels


def _columns(about: str, shells: Sequence[float]) -> list[str]:
    """Return the functions around one centre as text, in their order."""
    columns: list[str] = []
    for r_s in shells:
        columns.append(f"G2({about}, r_s={r_s:g})")
        columns += [f"G5({about}, r_s={r_s:g}, zeta={zeta}, lambda={sign:+d})" for zeta in ZETAS for sign in LAMBDAS]
    return columns


def _ranges(atoms: Sequence[int]) -> str:
    """Return ascending atoms in short.

    >>> _ranges([0, 1, 2, 5, 8, 11, 14, 15])
    '0-2, 5-14 by 3, 15'
    """
    parts: list[str] = []
    start = 0
    while start < len(atoms):
        end, step = start, 0
        while end + 1 < len(atoms) and (step in (0, atoms[end + 1] - atoms[end])):
            step, end = atoms[end + 1] - atoms[end], end + 1
        if end < start + 2 and step != 1:
            end = start
        parts.append(str(atoms[start]) if end == start else f"{atoms[start]}-{atoms[end]}")
        parts[-1] += f" by {step}" if end > start and step > 1 else ""
        start = end + 1
    return ", ".join(parts)
