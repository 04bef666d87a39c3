"""What of a system is solvent: told from the names of residues and the elements in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WATERS: Final = frozenset(
    {"HOH", "WAT", "H2O", "DOD", "SOL", "TIP", "TIP2", "TIP3", "TIP4", "TIP5", "TP3", "T3P", "T4P", "SPC"}
)
SALT: Final = frozenset({"LI", "NA", "K", "RB", "CS", "F", "CL", "BR", "I"})
"""Elements of ions that are there for the solution's sake; metals of higher charge mostly belong to the molecule."""


def are_solvent(residues: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
    """Return for each residue whether it is solvent: waters and salt, as long as anything else is there.

    Parameters
    ----------
    residues : name and elements of the atoms of each; no element for particles of landscapes and virtual sites

    Examples
    --------
    >>> are_solvent([("ALA", ["N", "C"]), ("HOH", ["O", "H", "H"]), ("NA", ["Na"])])
    [False, True, True]
    >>> are_solvent([("LI", ["Li"]), ("CL", ["Cl"]), ("HOH", ["O", "H", "H"])])
    [False, False, True]
    """
    waters = [name in WATERS for name, _ in residues]
    salt = [len(elements) == 1 and elements[0].upper() in SALT for _, elements in residues]
    both = [water or ion for water, ion in zip(waters, salt, strict=True)]
    nothing = [False] * len(residues)
    return next((hidden for hidden in (both, waters) if not all(hidden)), nothing)
