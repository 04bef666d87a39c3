"""What a formula is made of, as other programs must compute it: quantities of atoms, and the columns made from them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

import sympy

from separatrix.collective_variables import Definition, parse_definition
from separatrix.errors import ExportError
from separatrix.observables import Observables
from separatrix.reader import Reader
from separatrix.symbolic import Formula
from separatrix.symbolic.formula import text_of

RESERVED: Final = frozenset({"q", "p_B", "r", "theta", "x", "y", "z", "s", "a", "pi", "e", "numpy"})
"""Names that other programs or our own expressions give a meaning to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a formula.

    Attributes
    ----------
    name : variable in the expression
    quantity : name of the quantity it is made from
    form : ``sin`` for (1 + sin)/2 of it, ``cos`` for (1 + cos)/2, nothing for the quantity itself
    """

    name: str
    quantity: str
    form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A formula with names that any program takes: ASCII letters, digits and underscores.

    Attributes
    ----------
    formula : its expression and symbols in these names
    columns : in the order of its symbols; a column that is its quantity has the same name
    quantities : name -> definition; atoms are counted from 0, lengths in nm, angles are wanted in radians
    """

    formula: Formula
    columns: tuple[Column, ...]
    quantities: dict[str, Definition]


def terms_of(reader: Reader, formula: Formula) -> Terms:
    """Return what a formula is made of.

    Raises
    ------
    ExportError
        If the run was made from a table, whose columns nobody can compute, or the formula is a constant or has a
        symmetry function of the solvent.
    """
    observables = reader.observables
    if not isinstance(observables, Observables):
        raise ExportError(
            f"{reader.folder} was made from a table: how its columns ({', '.join(formula.symbols.values())}) follow "
            "from positions is not known; export the formula as .py or .tex"
        )
    if not formula.symbols:
        raise ExportError(
            f"{reader.folder}: the formula of complexity {formula.complexity} is a constant; name another one with "
            "--formula"
        )
    descriptors = observables.descriptors
    taken: set[str] = set()
    names: dict[str, str] = {}
    quantities: dict[str, Definition] = {}
    columns: list[Column] = []
    by_group: dict[str, str] = {}
    for symbol, column in formula.symbols.items():
        solvent = descriptors.symmetry_functions
        if solvent is not None and column in solvent.names:
            raise ExportError(
                f"{reader.folder}: the formula of complexity {formula.complexity} has the symmetry function {column}, "
                "which PLUMED and OpenMM cannot be given; export it as .py or .tex, or name another one with --formula"
            )
        place = descriptors.names.index(column)
        group, form = descriptors.groups[place], descriptors.forms[place]
        if group not in by_group:
            by_group[group] = free_name(group, taken)
            quantities[by_group[group]] = parse_definition(descriptors.definitions[place], observables.n_atoms)
        names[symbol] = free_name(column, taken) if form else by_group[group]
        columns.append(Column(name=names[symbol], quantity=by_group[group], form=form))
    return Terms(formula=renamed(formula, names), columns=tuple(columns), quantities=quantities)


def renamed(formula: Formula, names: Mapping[str, str]) -> Formula:
    """Return a formula with other names in its expression.

    Parameters
    ----------
    formula : any
    names : old -> new; others stay
    """
    expression = formula.sympy.xreplace({sympy.Symbol(old): sympy.Symbol(new) for old, new in names.items()})
    symbols = {names.get(symbol, symbol): column for symbol, column in formula.symbols.items()}
    return replace(formula, expression=text_of(expression), symbols=symbols)


def free_name(name: str, taken: set[str]) -> str:
    """Return a name like this one that is free, and take it.

    Parameters
    ----------
    name : wanted
    taken : names in use; gets the new one
    """
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    base = plain if plain and plain[0].isalpha() and not _has_meaning(plain, RESERVED) else f"cv_{plain}".rstrip("_")
    free, number = base, 2
    while free in taken:
        free, number = f"{base}_{number}", number + 1
    taken.add(free)
    return free


def _has_meaning(name: str, reserved: Collection[str]) -> bool:
    return name in reserved or hasattr(sympy, name)
