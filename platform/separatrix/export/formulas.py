"""A formula of a run as PLUMED input, OpenMM force, Python source or LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import sympy

from separatrix.errors import ExportError
from separatrix.export.files import check_ending, whole
from separatrix.export.force import openmm_xml
from separatrix.export.plumed import plumed_input
from separatrix.export.terms import free_name, renamed
from separatrix.observables import Observables
from separatrix.reader import Reader
from separatrix.symbolic import Formula

_OWN_NAMES: Final = ("q", "p_B", "numpy")
"""What Python source has names for itself; no argument may hide them."""

_FORMS: Final = {"sin": "(1 + sin)/2 of ", "cos": "(1 + cos)/2 of ", "": ""}


def chosen_formula(reader: Reader, complexity: int | None = None) -> Formula:
    """Return a formula of a run's mechanism.

    Parameters
    ----------
    reader : of the run
    complexity : of the formula; of several, the one with the least held-out loss. By default the recommended one

    Raises
    ------
    ExportError
        If the run was not explained yet, or has no formula of this complexity.
    AnalysisError
        If the run has more than two states.
    """
    reader.check_two_states("formulas")
    mechanism = reader.result("mechanism")
    if mechanism is None:
        raise ExportError(f"{reader.folder}: expected formulas, found none; separatrix explain {reader.folder} first")
    formulas = [Formula.from_data(row) for row in mechanism["expressions"]]
    if complexity is None:
        return next(formula for formula in formulas if formula.expression == mechanism["recommended"])
    wanted = [formula for formula in formulas if formula.complexity == complexity]
    if wanted:
        return min(wanted, key=lambda formula: formula.validation_loss)
    known = ", ".join(str(number) for number in sorted({formula.complexity for formula in formulas}))
    raise ExportError(f"{reader.folder}: there is no formula of complexity {complexity}; known: {known}")


def write_formula(reader: Reader, file: Path | str, *, complexity: int | None = None, force: bool = False) -> Formula:
    """Write a formula for the logit q in the form that the ending of the file names.

    Parameters
    ----------
    reader : of the run
    file : ``.dat`` for PLUMED, ``.xml`` for an OpenMM force, ``.py`` for Python with numpy alone, ``.tex`` for LaTeX
    complexity : as for `chosen_formula`
    force : whether a file that is there may be replaced

    Returns
    -------
    Formula
        The one that was written.

    Raises
    ------
    ExportError
        If the form is unknown or does not fit the run, or there is a file already.
    """
    file = Path(file)
    ending = check_ending(file, FORMULA_ENDINGS)
    formula = chosen_formula(reader, complexity)
    text = _WRITERS[ending](reader, formula)
    with whole(file, force=force) as folder:
        (folder / file.name).write_text(text, encoding="utf-8")
    return formula


def python_source(reader: Reader, formula: Formula) -> str:
    """Return a module with functions ``q`` and ``p_B`` of the columns, which needs nothing but numpy."""
    taken = set(formula.symbols)
    formula = renamed(formula, {name: free_name(name, taken) for name in _OWN_NAMES if name in formula.symbols})
    arguments = ", ".join(formula.symbols)
    first, second = map(_literal, reader.state_names)
    lines = [
        f'"""The committor from {first} to {second} as a formula, found by Separatrix.',
        "",
        *(_literal(f"{name}: {meaning}") for name, meaning in _meanings(reader, formula).items()),
        '"""',
        "",
        "import numpy",
        "",
        f"COLUMNS = {tuple(formula.symbols.values())!r}",
        '"""The columns that the arguments stand for, in order."""',
        "",
        "",
        f"def q({arguments}):",
        '    """Return the logit ln(p_B / (1 - p_B)); arguments are numbers or arrays of one shape."""',
        f"    return {formula.numpy}",
        "",
        "",
        f"def p_B({arguments}):",
        f'    """Return the probability that a trajectory from here comes to {second} before {first}."""',
        f"    return 1.0 / (1.0 + numpy.exp(-q({arguments})))",
        "",
    ]
    return "\n".join(lines)


def latex_source(reader: Reader, formula: Formula) -> str:
    """Return the equations for q and p_B, with the names of the columns as words."""
    names = {sympy.Symbol(name): rf"\text{{{_tex(column)}}}" for name, column in formula.symbols.items()}
    right = sympy.latex(formula.sympy, symbol_names=names)
    meanings = [
        " ".join(f"% {column}: {meaning}".split())
        for column, meaning in _meanings(reader, formula, by_column=True).items()
    ]
    equations = [
        r"\begin{align}",
        rf"q &= {right} \\",
        r"p_\mathrm{B} &= \frac{1}{1 + \mathrm{e}^{-q}}",
        r"\end{align}",
    ]
    return "\n".join([r"% \usepackage{amsmath}", *meanings, *equations, ""])


def _meanings(reader: Reader, formula: Formula, *, by_column: bool = False) -> Mapping[str, str]:
    """Return what every symbol of a formula stands for, in words."""
    observables = reader.observables
    meanings = {}
    for symbol, column in formula.symbols.items():
        if isinstance(observables, Observables):
            descriptors = observables.descriptors
            place = descriptors.names.index(column)
            form, definition = descriptors.forms[place], descriptors.definitions[place]
            unit = descriptors.units[place]
            words = f"{_FORMS[form]}{definition}, {f'{unit}, ' if unit else ''}atoms counted from 0"
        else:
            words = "a column of the table"
        meanings[column if by_column else symbol] = words if by_column or symbol == column else f"{column!r}, {words}"
    return meanings


def _literal(words: str) -> str:
    """Return words that end no literal of Python and no line."""
    return " ".join(words.replace("\\", "/").replace('"', "'").split())


def _tex(name: str) -> str:
    special = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"} | {mark: f"\\{mark}" for mark in "_&%$#{}"}
    return "".join(special.get(letter, letter) for letter in " ".join(name.split()))


_WRITERS: Final[Mapping[str, Callable[[Reader, Formula], str]]] = {
    ".dat": plumed_input,
    ".xml": openmm_xml,
    ".py": python_source,
    ".tex": latex_source,
}

FORMULA_ENDINGS: Final = tuple(_WRITERS)
"""PLUMED, OpenMM, Python, LaTeX."""
