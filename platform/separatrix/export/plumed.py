"""A formula as PLUMED input: its quantities as actions, the formula as CUSTOM. nm, radians, atoms counted from 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from separatrix.collective_variables import Definition
from separatrix.export.terms import Column, terms_of
from separatrix.reader import Reader
from separatrix.symbolic import Formula


def plumed_input(reader: Reader, formula: Formula) -> str:
    """Return PLUMED input that computes q and p_B, and prints them.

    Parameters
    ----------
    reader : of the run
    formula : for q, such as `chosen_formula` returns

    Raises
    ------
    ExportError
        If the run was made from a table, or the formula is a constant.
    """
    terms = terms_of(reader, formula)
    first, second = (" ".join(name.split()) for name in reader.state_names)
    lines = [
        f"# The committor from {first} to {second} as a formula, found by Separatrix:",
        f"# q = {formula.expression}, the logit ln(p_B / (1 - p_B)).",
        "# PLUMED's own units, nm and radians; atoms in the order of the run's system/topology.pdb, counted from 1.",
        *(_action(name, definition) for name, definition in terms.quantities.items()),
        *(_column(column) for column in terms.columns if column.form),
        _custom(
            "q",
            [_label(column.name, terms.quantities) for column in terms.columns],
            [c.name for c in terms.columns],
            terms.formula.lepton,
        ),
        _custom("p_B", ["q"], ["q"], "1/(1+exp(-q))"),
        "PRINT ARG=q,p_B FILE=committor.colvar STRIDE=100",
        "",
    ]
    return "\n".join(lines)


def _label(name: str, quantities: Mapping[str, Definition]) -> str:
    """Return how PLUMED calls a value: a position has three, as components."""
    kind = quantities[name].name if name in quantities else ""
    return f"{name}.{kind}" if kind in ("x", "y", "z") else name


def _column(column: Column) -> str:
    return _custom(column.name, [column.quantity], ["a"], f"(1+{column.form}(a))/2")


def _custom(label: str, arguments: Sequence[str], variables: Sequence[str], function: str) -> str:
    names, values = ",".join(variables), ",".join(arguments)
    return f"{label}: CUSTOM ARG={values} VAR={names} FUNC={''.join(function.split())} PERIODIC=NO"


def _action(name: str, definition: Definition) -> str:
    return f"{name}: {_ACTIONS[definition.name](definition)}"


def _atoms(atoms: Sequence[int]) -> str:
    return ",".join(str(atom + 1) for atom in atoms)


def _coordination(definition: Definition) -> str:
    r0, n, m = definition.parameters
    first, second = (list(dict.fromkeys(term[side] for term in definition.terms)) for side in (0, 1))
    return f"COORDINATION GROUPA={_atoms(first)} GROUPB={_atoms(second)} R_0={r0} NN={int(n)} MM={int(m)}"


def _position(definition: Definition) -> str:
    # As it is: whole molecules would be moved next to the origin otherwise.
    return f"POSITION ATOM={_atoms(definition.terms[0])} NOPBC"


_ACTIONS: Final[Mapping[str, Callable[[Definition], str]]] = {
    "x": _position,
    "y": _position,
    "z": _position,
    "distance": lambda definition: f"DISTANCE ATOMS={_atoms(definition.terms[0])}",
    "angle": lambda definition: f"ANGLE ATOMS={_atoms(definition.terms[0])}",
    "dihedral": lambda definition: f"TORSION ATOMS={_atoms(definition.terms[0])}",
    "coordination": _coordination,
}
"""By kind of collective variable; a further kind needs its action here."""
