"""Formulas as text: from fitted programs to short expressions in the original columns, and to other programs."""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from sympy.core.parameters import distribute
from sympy.printing.mathml import MathMLPresentationPrinter
from sympy.printing.numpy import NumPyPrinter
from sympy.printing.pycode import pycode
from sympy.printing.str import StrPrinter

from separatrix.errors import AnalysisError
from separatrix.symbolic.kernels import (
    COS,
    DIV,
    EXP,
    LOG,
    MUL,
    RESULT,
    SIGMOID,
    SIN,
    SQUARE,
    SUM,
    Genome,
)

TOLERANCE: Final = 1e-4
"""Loss per shot that rounding of constants may cost."""

INSIGNIFICANT: Final = 1.5
"""Standard errors that a constant must be away from zero to be kept without asking."""

_MOST_DIGITS: Final = 12
_LONGEST_NAME: Final = 14
_THIN_SPACE: Final = '<mspace width="0.17em"></mspace>'
"""Between factors: names have more than one letter."""

_LETTERS: Final = "abcdfghjklmnrstuvwxyz"
_WHOLE: Final = (-1.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A formula for the logit q of the committor.

    Attributes
    ----------
    expression : sympy text in the original, unscaled columns
    symbols : name in the expression -> column; the same where a column's name can stand in a formula
    complexity : operations in the expression
    training_loss, validation_loss : per shot, of the expression as written; chance is ln 2 for two states
    """

    expression: str
    symbols: Mapping[str, str]
    complexity: int
    training_loss: float
    validation_loss: float

    @classmethod
    def from_data(cls, row: Mapping[str, Any]) -> Self:
        """Return a formula as a run stores it; what else stands in the row is left aside."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def sympy(self) -> sympy.Expr:
        """The expression."""
        return parsed(self.expression, self.symbols)

    @property
    def latex(self) -> str:
        """The expression as LaTeX."""
        return str(sympy.latex(self.sympy))

    @property
    def letters(self) -> Mapping[str, str]:
        """Letter -> column, for the columns whose names are too long to be typeset."""
        long = [column for column in self.symbols.values() if len(column) > _LONGEST_NAME]
        return dict(zip(_LETTERS, long, strict=False))

    @property
    def mathml(self) -> str:
        """The expression as MathML, which browsers typeset by themselves; columns by their names or `letters`."""
        letters = {column: letter for letter, column in self.letters.items()}
        names = {symbol: letters.get(column, column) for symbol, column in self.symbols.items()}
        typeset = _MathML(names).doprint(self.sympy).replace("<mo>&InvisibleTimes;</mo>", _THIN_SPACE)
        return f"<math>{typeset}</math>"

    @property
    def numpy(self) -> str:
        """The expression as Python with the functions of ``numpy``."""
        return str(NumPyPrinter({"fully_qualified_modules": True}).doprint(self.sympy))

    @property
    def python(self) -> str:
        """The expression as Python with the functions of ``math``."""
        return str(pycode(self.sympy))

    @property
    def lepton(self) -> str:
        """The expression for PLUMED's CUSTOM and OpenMM's custom forces."""
        return str(_Lepton({"full_prec": False}).doprint(self.sympy))

    def q(self, features: ArrayLike, columns: Sequence[str]) -> NDArray[np.float64]:
        """Evaluate the expression through sympy and numpy.

        Parameters
        ----------
        features : (n, d), original units
        columns : names of the d columns

        Returns
        -------
        (n,) logits
        """
        table = np.asarray(features, dtype=np.float64)
        if not self.symbols:
            return np.full(len(table), float(self.sympy))
        return evaluate(self.sympy, {name: table[:, columns.index(column)] for name, column in self.symbols.items()})


class _Lepton(StrPrinter):  # type: ignore[misc]
    """Powers with ^, which is all that sets Lepton apart here."""

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:  # noqa: ARG002
        base, exponent = expr.as_base_exp()
        if exponent == -1:
            return f"1/({self._print(base)})"
        return f"({self._print(base)})^({self._print(exponent)})"


class _MathML(MathMLPresentationPrinter):  # type: ignore[misc]
    """Symbols as the columns are called, Greek letters as letters."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        super().__init__()
        self._columns = columns

    def _print_Symbol(self, sym: Any, style: str = "plain") -> Any:  # noqa: ARG002
        words = self._columns.get(sym.name, sym.name).split(" ")
        element = self.dom.createElement("mi")
        if len(words) > 1 or len(words[0]) > 1:
            element.setAttribute("mathvariant", "normal")
        element.appendChild(self.dom.createTextNode(" ".join(_GREEK.get(word, word) for word in words)))
        return element


_GREEK: Final = dict(zip(("phi", "psi", "omega", "theta", "chi"), "φψωθχ", strict=True))

_OPERATORS: Final[Mapping[type[ast.AST], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Final = {"exp": sympy.exp, "log": sympy.log, "sin": sympy.sin, "cos": sympy.cos, "sqrt": sympy.sqrt}
# Numbers are worked out at once: a tower of powers would take the rest of the day.
_LARGEST_POWER: Final = 64
_LARGEST_ARGUMENT: Final = 1e3


def parsed(text: str, names: Iterable[str]) -> sympy.Expr:
    """Return sympy text as an expression; nothing in it is executed, whoever wrote it.

    Parameters
    ----------
    text : numbers, names, ``+ - * / **``, and ``exp log sin cos sqrt``
    names : of its symbols

    Raises
    ------
    AnalysisError
        If there is anything else in it.
    """
    known = frozenset(names)

    def built(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int(number)):
                return sympy.Integer(number)
            case ast.Constant(value=float(number)):
                return sympy.Float(number)
            case ast.Name(id=name) if name in known:
                return sympy.Symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -built(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                a, b = built(left), built(right)
                if isinstance(op, ast.Pow) and not (b.is_number and abs(b) <= _LARGEST_POWER):
                    raise ValueError(f"the power {ast.unparse(right)}")
                return _OPERATORS[type(op)](a, b)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                inner = built(argument)
                if inner.is_number and not abs(inner) < _LARGEST_ARGUMENT:
                    raise ValueError(ast.unparse(node))
                return _FUNCTIONS[name](inner)
        raise ValueError(ast.unparse(node))

    try:
        with distribute(False):  # else a factor is multiplied into a sum, and constants get digits they never had
            return built(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise AnalysisError(
            f"expected a formula of {', '.join(sorted(known)) or 'numbers'}, got {text!r}: {error}"
        ) from None


def symbols_for(columns: Sequence[str]) -> dict[str, str]:
    """Return for every column a name that can stand in a formula, its own if it can.

    >>> symbols_for(["phi", "sin psi", "distance A-B"])
    {'phi': 'phi', 'sin_psi': 'sin psi', 'distance_A_B': 'distance A-B'}
    >>> list(symbols_for(["G5(Li, O, lambda=+1)", "G5(Li, O, lambda=-1)"]))
    ['G5_Li_O_lambda_plus_1', 'G5_Li_O_lambda_minus_1']

    Signs are those that Python's parser makes of them (NFKC): the micro sign is the Greek letter, a raised 2 a 2.

    >>> [name.isascii() for name in symbols_for(["area (nm\N{SUPERSCRIPT TWO})", "r (\N{MICRO SIGN}m)"])]
    [True, False]
    """
    names: dict[str, str] = {}
    for column in columns:
        signed = column.replace("=+", "_plus_").replace("=-", "_minus_")
        signs = (sign if f"_{sign}".isidentifier() else " " for sign in unicodedata.normalize("NFKC", signed))
        plain = re.sub(" +", "_", "".join(signs)).strip("_") or "x"
        name = (
            plain if plain[0].isalpha() and not keyword.iskeyword(plain) and not hasattr(sympy, plain) else f"x_{plain}"
        )
        while name in names:
            name += "_"
        names[name] = column
    return names


def evaluate(expression: sympy.Expr, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Evaluate an expression over columns (n,); nan or inf where it has no value."""
    return _called(sympy.lambdify([sympy.Symbol(name) for name in columns], expression, "numpy"), columns)


def _called(
    function: Callable[..., Any], columns: Mapping[str, NDArray[np.float64]], constants: Sequence[float] = ()
) -> NDArray[np.float64]:
    n = len(next(iter(columns.values())))
    with np.errstate(all="ignore"):
        values = np.asarray(function(*columns.values(), *map(np.float64, constants)))
    if np.iscomplexobj(values):  # a constant that rounding or leaving out brought below zero in a logarithm
        values = np.where(values.imag == 0.0, values.real, np.nan)
    return np.broadcast_to(values.astype(np.float64), n)


def to_sympy(
    genome: Genome, names: Sequence[str], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> sympy.Expr:
    """Return a program as an expression of its inputs, their scaling undone.

    Parameters
    ----------
    names : of the inputs, as symbols
    centre, scale : (n_inputs,), the program was fitted to ``(column - centre) / scale``
    """
    inputs = [
        (sympy.Symbol(name) - sympy.Float(c) if c else sympy.Symbol(name)) / sympy.Float(s)
        for name, c, s in zip(names, centre.tolist(), scale.tolist(), strict=True)
    ]
    values: list[sympy.Expr] = [*inputs, sympy.Integer(1)]
    for operation, sources, weights in zip(*(part.tolist() for part in genome), strict=True):
        values.append(_MEANING[operation](*(values[source] for source in sources), *map(sympy.Float, weights)))
    return merged(values[-1])


def merged(expression: sympy.Expr) -> sympy.Expr:
    """Return an expression with fewer constants, of the same value.

    >>> x, y = sympy.symbols("x y")
    >>> merged(2.0 * x * (3.0 * y + 1.0))
    x*(6.0*y + 2.0)
    >>> merged((2.0 * x + 1.0) ** 2)
    4.0*(x + 0.5)**2
    """
    if not expression.args:
        return expression
    expression = expression.func(*map(merged, expression.args))
    if expression.is_Pow and expression.base.is_Add and expression.exp.is_Integer:
        terms = [term.as_coeff_Mul() for term in expression.base.args]
        leading = next((factor for factor, rest in terms if rest != 1), sympy.Integer(1))
        inner = sympy.Add(*(rest if factor == leading else factor / leading * rest for factor, rest in terms))
        return leading**expression.exp * inner**expression.exp
    factor, rest = expression.as_coeff_Mul()
    parts = sympy.Mul.make_args(rest)
    place = next((i for i, part in enumerate(parts) if part.is_Add), None)
    if factor == 1 or place is None:
        return expression
    scaled = sympy.Add(*(factor * term for term in parts[place].args))
    return sympy.Mul(scaled, *parts[:place], *parts[place + 1 :])


_MEANING: Final[Mapping[int, Callable[[Any, Any, Any, Any], Any]]] = {
    RESULT: lambda a, _, w0, w1: w0 * a + w1,
    SUM: lambda a, b, w0, _: a + w0 * b,
    MUL: lambda a, b, _w0, _w1: a * b,
    DIV: lambda a, b, _w0, _w1: a / b,
    LOG: lambda a, _, w0, w1: sympy.log(w0 * a + w1),
    EXP: lambda a, _, w0, _w1: sympy.exp(w0 * a),
    SIN: lambda a, _, w0, w1: sympy.sin(w0 * a + w1),
    COS: lambda a, _, w0, w1: sympy.cos(w0 * a + w1),
    SIGMOID: lambda a, _, w0, w1: 1 / (1 + sympy.exp(-w0 * a - w1)),
    SQUARE: lambda a, _, w0, _w1: (a + w0) ** 2,
}


def loss_of(q: NDArray[np.float64], to_b: NDArray[np.float64], trials: NDArray[np.float64]) -> float:
    """Return the loss per shot, ``sum(trials softplus(q) - to_b q) / sum(trials)``; inf where a logit is no number."""
    if not np.isfinite(q).all():
        return math.inf
    return float((trials * np.logaddexp(0.0, q) - to_b * q).sum() / trials.sum())


def parameters_of(expression: sympy.Expr) -> tuple[sympy.Expr, list[sympy.Symbol], NDArray[np.float64]]:
    """Return an expression with a symbol for each of its constants, the symbols, and their values."""
    symbols: list[sympy.Symbol] = []
    values: list[float] = []

    def replaced(part: Any) -> Any:
        if isinstance(part, sympy.Float):
            symbols.append(sympy.Dummy(f"c{len(symbols)}"))
            values.append(float(part))
            return symbols[-1]
        return part.func(*map(replaced, part.args)) if part.args else part

    return replaced(expression), symbols, np.array(values)


def rounded(
    expression: sympy.Expr,
    columns: Mapping[str, NDArray[np.float64]],
    to_b: NDArray[np.float64],
    trials: NDArray[np.float64],
) -> sympy.Expr:
    """Return an expression with its constants rounded to what the shots support.

    Standard errors come from the curvature of the loss, ``J^T diag(trials p (1 - p)) J``. A constant that its error
    does not tell from zero is left out if the loss allows. Each other one keeps one digit beyond the leading one of
    its error, more where the loss would rise by ``TOLERANCE`` otherwise.
    """
    general, symbols, values = parameters_of(expression)
    if not symbols:
        return expression
    function = sympy.lambdify([*(sympy.Symbol(name) for name in columns), *symbols], general, "numpy")

    def loss(constants: Sequence[float]) -> float:
        return loss_of(_called(function, columns, constants), to_b, trials)

    errors = _standard_errors(general, symbols, values, columns, trials)
    before = loss(values.tolist())
    for place in np.flatnonzero(np.abs(values) < INSIGNIFICANT * errors):
        without = np.where(np.arange(len(values)) == place, 0.0, values)
        if loss(without.tolist()) <= before + TOLERANCE:
            values = without
    for extra in range(_MOST_DIGITS):
        short = [
            _to_digits(value, error, extra) if value else "0"
            for value, error in zip(values.tolist(), errors.tolist(), strict=True)
        ]
        if loss(list(map(float, short))) <= before + TOLERANCE:
            numbers = [
                sympy.Float(text, 15) if float(text) not in _WHOLE else sympy.Integer(float(text)) for text in short
            ]
            return general.subs(dict(zip(symbols, numbers, strict=True)), simultaneous=True)
    return expression


def _to_digits(value: float, error: float, extra: int) -> str:
    leading = math.floor(math.log10(abs(value)))
    last = math.floor(math.log10(error)) - 1 if 0.0 < error < math.inf else leading - 2
    digits = min(max(leading - last, 0), _MOST_DIGITS) + extra
    return f"{value:.{digits}e}"


def _standard_errors(
    general: sympy.Expr,
    symbols: Sequence[sympy.Symbol],
    values: NDArray[np.float64],
    columns: Mapping[str, NDArray[np.float64]],
    trials: NDArray[np.float64],
) -> NDArray[np.float64]:
    inputs = [sympy.Symbol(name) for name in columns]
    function = sympy.lambdify([*inputs, *symbols], [general, *(sympy.diff(general, s) for s in symbols)], "numpy")
    n = len(trials)
    with np.errstate(all="ignore"):
        q, *slopes = (np.broadcast_to(part, n) for part in function(*columns.values(), *values))
        jacobian = np.stack(slopes, axis=1)
        weight = trials / (2.0 + np.exp(q) + np.exp(-q))
        curvature = jacobian.T @ (weight[:, None] * jacobian)
    if not np.isfinite(curvature).all():
        return np.full(len(values), np.nan)
    size = np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    covariance = np.linalg.pinv(curvature / np.outer(size, size), rcond=1e-10, hermitian=True) / np.outer(size, size)
    return np.sqrt(np.maximum(np.diag(covariance), 0.0))


def text_of(expression: sympy.Expr) -> str:
    """Return sympy text with no more digits than there are."""
    return str(sympy.sstr(expression, full_prec=False))
