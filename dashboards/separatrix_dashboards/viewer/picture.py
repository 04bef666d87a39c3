"""What is drawn of a system, and how: told from the names and elements in its PDB topology."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from separatrix.errors import SeparatrixError
from separatrix.solvent import are_solvent

CARTOON, STICKS, ATOM, PARTICLE = "c", "s", "a", "p"
"""How an atom is drawn: part of a polymer, of a small molecule, an atom by itself, a particle of a landscape."""

POLYMER_RESIDUES = 10
"""From so many residues on a chain is drawn as a cartoon."""

_BACKBONES = ({"N", "CA", "C"}, {"C3'", "O3'"})
_CAPS = frozenset({"ACE", "NME", "NMA", "NH2", "NHE"})
_COMMON_ELEMENTS = frozenset("HCNOSPFKI")
_NO_ELEMENT = "EP"  # what OpenMM writes for virtual sites and for particles of landscapes


class ViewerError(SeparatrixError, ValueError):
    """The molecule viewer was given something it cannot show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is drawn of a system.

    Attributes
    ----------
    n_atoms : atoms of the whole system
    solute : (n,) indices of the atoms that are always drawn
    kinds : how each of those is drawn, one letter each
    topology : their PDB text
    heavy : (m,) indices, within the solute, of the atoms that paths are superposed on; none for landscapes
    solvent : (k,) indices of the atoms of waters and salt, drawn on demand
    solvent_topology : their PDB text
    """

    n_atoms: int
    solute: NDArray[np.intp]
    kinds: str
    topology: str
    heavy: NDArray[np.intp]
    solvent: NDArray[np.intp]
    solvent_topology: str


@dataclass(frozen=True, slots=True)
class _Atom:
    index: int
    line: str
    name: str
    residue: str
    place: str
    element: str

    @property
    def chain(self) -> str:
        return self.place[0]


def read_picture(pdb: str) -> Picture:
    """Return what is drawn of the system of a PDB topology.

    Waters and salt are solvent, unless nothing else is there; virtual sites are never drawn.

    Parameters
    ----------
    pdb : text of a PDB file; of several models the first one counts

    Raises
    ------
    ViewerError
        If it holds no atoms.
    """
    residues = _residues(pdb)
    if not residues:
        raise ViewerError(
            "expected a PDB topology with ATOM or HETATM lines, found none; pass the text, not a file name"
        )
    solvent = _solvent(residues)
    polymers = _polymers(residues)
    solute = [
        (atom, kind)
        for residue in residues
        if residue not in solvent
        for kind in (_kind(residue, polymers),)
        for atom in residue
        if atom.element or kind == PARTICLE
    ]
    around = [atom for residue in residues if residue in solvent for atom in residue if atom.element]
    return Picture(
        n_atoms=sum(map(len, residues)),
        solute=_indices(atom.index for atom, _ in solute),
        kinds="".join(kind for _, kind in solute),
        topology=_text([atom for atom, _ in solute], _others(pdb)),
        heavy=_heavy([atom.element for atom, _ in solute]),
        solvent=_indices(atom.index for atom in around),
        solvent_topology=_text(around, ()),
    )


def solute_alone(pdb: str) -> tuple[str, int]:
    """Return PDB text without the atoms of waters and salt, and how many these are."""
    residues = _residues(pdb)
    solvent = _solvent(residues)
    kept = [atom for residue in residues if residue not in solvent for atom in residue]
    n_hidden = sum(map(len, solvent))
    return (_text(kept, _others(pdb)) if n_hidden else pdb), n_hidden


def _residues(pdb: str) -> list[tuple[_Atom, ...]]:
    return [tuple(group) for _, group in groupby(_atoms(pdb), key=lambda atom: (atom.place, atom.residue))]


def _solvent(residues: Sequence[tuple[_Atom, ...]]) -> set[tuple[_Atom, ...]]:
    hidden = are_solvent([(residue[0].residue, [atom.element for atom in residue]) for residue in residues])
    return {residue for residue, is_hidden in zip(residues, hidden, strict=True) if is_hidden}


def _atoms(pdb: str) -> Iterator[_Atom]:
    index = 0
    for line in pdb.splitlines():
        if line.startswith("ENDMDL"):
            return
        if line.startswith(("ATOM", "HETATM")):
            name = line[12:16].strip()
            place = line[21:27].ljust(6)
            element = line[76:78].strip() or _guessed_element(name)
            yield _Atom(index, line, name, line[17:21].strip(), place, "" if element == _NO_ELEMENT else element)
            index += 1


def _guessed_element(name: str) -> str:
    """Return the element of an atom whose PDB line names none; "" when its name begins with no common one."""
    letter = name.lstrip("0123456789")[:1]
    return letter if letter in _COMMON_ELEMENTS else ""


def _polymers(residues: Sequence[tuple[_Atom, ...]]) -> frozenset[str]:
    """Return the chains that are drawn as cartoons."""
    lengths = Counter(residue[0].chain for residue in residues if _has_backbone(residue))
    return frozenset(chain for chain, length in lengths.items() if length >= POLYMER_RESIDUES)


def _has_backbone(residue: Sequence[_Atom]) -> bool:
    names = {atom.name for atom in residue}
    return any(backbone <= names for backbone in _BACKBONES)


def _kind(residue: Sequence[_Atom], polymers: frozenset[str]) -> str:
    first = residue[0]
    if first.chain in polymers and (_has_backbone(residue) or first.residue in _CAPS):
        return CARTOON
    if len(residue) > 1:
        return STICKS
    return ATOM if first.element else PARTICLE


def _heavy(elements: Sequence[str]) -> NDArray[np.intp]:
    """Return which atoms to superpose paths on: all but hydrogens; with fewer than three of those, all."""
    heavy = [i for i, element in enumerate(elements) if element and element != "H"]
    return _indices(heavy if len(heavy) > 2 else (i for i, element in enumerate(elements) if element))


def _others(pdb: str) -> Iterator[str]:
    """Yield what a PDB text says of secondary structure and bonds."""
    return (line for line in pdb.splitlines() if line.startswith(("HELIX", "SHEET", "CONECT")))


def _text(atoms: Sequence[_Atom], others: Iterator[str] | tuple[()]) -> str:
    return "\n".join([*(atom.line for atom in atoms), *others]) if atoms else ""


def _indices(indices: Iterator[int] | Sequence[int]) -> NDArray[np.intp]:
    return np.fromiter(indices, dtype=np.intp)
