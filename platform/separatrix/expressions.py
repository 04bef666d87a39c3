"""Safe expressions: text becomes a syntax tree, the tree is checked against a whitelist and becomes a postfix program.

Grammar: numbers, names, ``+ - * /``, ``^`` or ``**`` (power), comparisons (chained too), ``and or not``, the functions
``sqrt exp log sin cos tan`` (radians), ``abs``, ``min``, ``max``, and ``between(x, low, high)``, periodic in degrees:
true on the arc that leads upwards from ``low`` to ``high``, ends included. Nothing is ever handed to ``eval``.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separatrix import kernels
from separatrix.errors import ExpressionError, quoted

MAX_LENGTH: Final = 4000
MAX_CALL_LENGTH: Final = 1_000_000
"""Of one call, whose lists may name every water of a box."""
MAX_DEPTH: Final = 100

_Code = tuple[tuple[int, float], ...]
"""Operations in postfix order, each with its argument."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A compiled expression. It follows IEEE arithmetic: 1/0 is inf, sqrt(-1) is nan, nothing raises.

    Attributes
    ----------
    text : what was compiled, on one line
    names : the names whose values are passed, in order
    names_used : those that occur, in the order of ``names``
    is_boolean : whether the value is true or false, not a number
    constants : the numeric literals, with their sign, in order of appearance
    code : operations in postfix order, each with its argument
    """

    text: str
    names: tuple[str, ...]
    names_used: tuple[str, ...]
    is_boolean: bool
    constants: tuple[float, ...]
    code: _Code = field(repr=False)

    def scalar(self, values: Sequence[float]) -> float | bool:
        """Evaluate one row: one number per name."""
        result: float | bool = self.array(np.asarray(values, dtype=np.float64)[None])[0].item()
        return result

    def array(self, values: ArrayLike) -> NDArray[Any]:
        """Evaluate many rows at once, in double precision.

        Parameters
        ----------
        values : (n, n_names)

        Returns
        -------
        (n,) bool for a boolean expression, else float64

        Raises
        ------
        ValueError
            If the shape is another.
        """
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(self.names):
            raise ValueError(f"expected values of shape (n, {len(self.names)}) for {self.text!r}, got {table.shape}")
        result = kernels.outcomes(program([self]), kernels.readable(table))[0]
        return np.asarray(result > 0.0 if self.is_boolean else result)


def program(expressions: Sequence[Expression]) -> kernels.Program:
    """Return expressions over the same names as kernels read them."""
    code = [step for expression in expressions for step in expression.code]
    return kernels.Program(
        operations=np.array([operation for operation, _ in code], dtype=np.int64),
        arguments=np.array([argument for _, argument in code], dtype=np.float64),
        starts=np.cumsum([0, *(len(expression.code) for expression in expressions)], dtype=np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A function call with literal arguments, such as ``coordination([0], [1, 2], r0=0.35)``; texts are selections."""

    text: str
    name: str
    arguments: tuple[int | tuple[int, ...] | str, ...]
    keywords: Mapping[str, float]


def compile_expression(text: str, names: Sequence[str]) -> Expression:
    """Compile an expression over named values.

    Raises
    ------
    ExpressionError
        One line: the text, what is wrong and what is allowed.

    Examples
    --------
    >>> inside = compile_expression("between(phi, 170, -170) and psi^2 < 100", ["phi", "psi"])
    >>> inside.scalar([-175.0, 3.0])
    True
    >>> inside.array([[-175.0, 3.0], [165.0, 3.0]]).tolist()
    [True, False]
    """
    line = _one_line(text)
    compiler = _Compiler(line, names)
    node = compiler.visit(_parse(line), depth=0)
    return Expression(
        text=line,
        names=tuple(names),
        names_used=tuple(name for index, name in enumerate(names) if index in compiler.used),
        is_boolean=node.is_boolean,
        constants=tuple(compiler.constants),
        code=node.code,
    )


def parse_call(text: str) -> Call:
    """Parse one function call whose arguments are integers, lists of integers, quoted texts, or named numbers.

    Raises
    ------
    ExpressionError
        If the text is anything else.

    Examples
    --------
    >>> parse_call("coordination([0], [1, 2], r0=0.3)").arguments
    ((0,), (1, 2))
    """
    line = _one_line(text, MAX_CALL_LENGTH)
    node = _parse(line, line)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        _fail(line, "expected one function call, such as distance(0, 1)")
    keywords: dict[str, float] = {}
    for item in node.keywords:
        if item.arg is None:
            _fail(line, "'**' is not allowed here; name each parameter, such as r0=0.35")
        keywords[item.arg] = _literal_number(line, item.value)
    arguments = tuple(_literal_argument(line, argument) for argument in node.args)
    return Call(text=line, name=node.func.id, arguments=arguments, keywords=keywords)


def is_usable_name(name: str) -> bool:
    """Return whether expressions can refer to ``name``: an identifier that is no keyword and no function."""
    return name.isidentifier() and not keyword.iskeyword(name) and name not in FUNCTIONS


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'phi'? known: phi, psi"``, for the end of an error message."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names) if names else "none"
    return f"; did you mean {close[0]!r}? known: {shown}" if close else f"; known: {shown}"


def _fail(text: str, problem: str) -> NoReturn:
    raise ExpressionError(f"expression {quoted(text, 80)}: {problem}") from None


def _one_line(text: str, max_length: int = MAX_LENGTH) -> str:
    line = " ".join(text.split())
    if len(line) > max_length:
        _fail(line, f"too long: {len(line)} characters, at most {max_length} are allowed")
    if not line:
        _fail(line, f"empty; {_ALLOWED}")
    if "#" in line:
        # A comment would swallow every line that follows it.
        _fail(line, "'#' is not allowed: comments belong outside expressions")
    return line


def _source(line: str) -> str:
    # Python's own ^ binds more loosely than +, so it is replaced before the parser sees it.
    return line.replace("^", "**")


def _shown(line: str, node: ast.AST) -> str:
    """Return the part of the text a node stands for, shortened."""
    return quoted(ast.get_source_segment(_source(line), node) or "")


def _parse(line: str, source: str | None = None) -> ast.expr:
    """Return the syntax tree of a line, or of what stands for it where ^ is no power."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(_source(line) if source is None else source, mode="eval").body
    except (RecursionError, MemoryError):
        _fail(line, f"nested too deeply; at most {MAX_DEPTH} levels are allowed")
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        _fail(line, f"cannot be read ({reason}); {_ALLOWED}")


def _literal_number(line: str, node: ast.expr) -> int | float:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
            sign = -1
        case ast.Constant(value=value):
            sign = 1
        case _:
            sign, value = 1, None
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail(line, f"expected a number, found {_shown(line, node)}")
    if not _is_finite(value):
        _fail(line, "a number is too large for double precision")
    return sign * value


def _literal_argument(line: str, node: ast.expr) -> int | tuple[int, ...] | str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    elements = node.elts if isinstance(node, ast.List) else [node]
    numbers = [_literal_number(line, element) for element in elements]
    whole = tuple(number for number in numbers if isinstance(number, int))
    if len(whole) != len(numbers):
        _fail(line, f"expected an atom number such as 4 or a list such as [4, 6], found {_shown(line, node)}")
    return whole if isinstance(node, ast.List) else whole[0]


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of the grammar; without ``arity`` it takes two arguments or more."""

    arity: int | None
    operation: int
    is_boolean: bool = False


FUNCTIONS: Final[Mapping[str, _Function]] = {
    "sqrt": _Function(1, kernels.SQRT),
    "exp": _Function(1, kernels.EXP),
    "log": _Function(1, kernels.LOG),
    "sin": _Function(1, kernels.SIN),
    "cos": _Function(1, kernels.COS),
    "tan": _Function(1, kernels.TAN),
    "abs": _Function(1, kernels.ABS),
    "min": _Function(None, kernels.MIN),
    "max": _Function(None, kernels.MAX),
    "between": _Function(3, kernels.BETWEEN, is_boolean=True),
}

_ALLOWED: Final = f"allowed: numbers, names, + - * / ^, comparisons, and/or/not, {', '.join(FUNCTIONS)}"

_ARITHMETIC: Final[Mapping[type[ast.operator], int]] = {
    ast.Add: kernels.ADD,
    ast.Sub: kernels.SUBTRACT,
    ast.Mult: kernels.MULTIPLY,
    ast.Div: kernels.DIVIDE,
    ast.Pow: kernels.POWER,
}

_COMPARISONS: Final[Mapping[type[ast.cmpop], int]] = {
    ast.Lt: kernels.LESS,
    ast.LtE: kernels.LESS_EQUAL,
    ast.Gt: kernels.GREATER,
    ast.GtE: kernels.GREATER_EQUAL,
    ast.Eq: kernels.EQUAL,
    ast.NotEq: kernels.NOT_EQUAL,
}

_REFUSED: Final[Mapping[type[ast.AST], str]] = {
    ast.Attribute: "'.' (attribute access) is not allowed",
    ast.Subscript: "'[ ]' (indexing) is not allowed",
    ast.BitAnd: "'&' is not allowed; write 'and'",
    ast.BitOr: "'|' is not allowed; write 'or'",
    ast.Invert: "'~' is not allowed; write 'not'",
    ast.Mod: "'%' is not allowed; between(x, low, high) is periodic in degrees",
}


@dataclass(frozen=True, slots=True)
class _Node:
    """One node of the syntax tree, compiled."""

    code: _Code
    is_boolean: bool = False


class _Compiler:
    """Turn a syntax tree into postfix order; remembers the names and the literals it met."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        # Python normalises identifiers (NFKC) while parsing; so must we, to find them again.
        self._index = {unicodedata.normalize("NFKC", name): index for index, name in enumerate(names)}
        self._names = names
        self._text = text
        self.used: set[int] = set()
        self.constants: list[float] = []

    def visit(self, node: ast.expr, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            _fail(self._text, f"nested too deeply; at most {MAX_DEPTH} levels are allowed")
        match node:
            case ast.Constant():
                compiled = self._number(float(_literal_number(self._text, node)))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as constant):  # -0 has a sign, as -x has
                compiled = self._number(-float(_literal_number(self._text, constant)))
            case ast.Name(id=name):
                compiled = self._name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                compiled = _applied(kernels.NEGATE, [self._numeric(operand, depth)])
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                compiled = self._numeric(operand, depth)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                compiled = _applied(kernels.NOT, [self._logical(operand, depth)], is_boolean=True)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                compiled = self._arithmetic(type(op), self._numeric(left, depth), self._numeric(right, depth))
            case ast.BoolOp(op=op, values=values):
                junction = kernels.AND if isinstance(op, ast.And) else kernels.OR
                compiled = _folded(junction, [self._logical(value, depth) for value in values], is_boolean=True)
            case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _COMPARISONS for op in ops):
                operands = [self._numeric(operand, depth) for operand in (left, *rest)]
                compiled = self._comparison([_COMPARISONS[type(op)] for op in ops], operands)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                compiled = self._call(name, arguments, depth)
            case _:
                self._refuse(node)
        return compiled

    def _refuse(self, node: ast.expr) -> NoReturn:
        culprit = node.op if isinstance(node, ast.BinOp | ast.UnaryOp) else node
        reason = _REFUSED.get(type(culprit), f"{_shown(self._text, node)} is not allowed; {_ALLOWED}")
        _fail(self._text, reason)

    def _numeric(self, node: ast.expr, depth: int) -> _Node:
        compiled = self.visit(node, depth + 1)
        if compiled.is_boolean:
            _fail(self._text, f"expected a number, but {_shown(self._text, node)} is true or false")
        return compiled

    def _logical(self, node: ast.expr, depth: int) -> _Node:
        compiled = self.visit(node, depth + 1)
        if not compiled.is_boolean:
            _fail(self._text, f"and/or/not join comparisons, but {_shown(self._text, node)} is a number")
        return compiled

    def _number(self, value: float) -> _Node:
        self.constants.append(value)
        return _Node(((kernels.NUMBER, value),))

    def _name(self, name: str) -> _Node:
        if name not in self._index:
            if name in FUNCTIONS:
                _fail(self._text, f"{name!r} is a function; write {name}(...)")
            _fail(self._text, f"unknown name {quoted(name)}{suggestion(name, self._names)}")
        index = self._index[name]
        self.used.add(index)
        return _Node(((kernels.VALUE, index),))

    def _arithmetic(self, op: type[ast.operator], left: _Node, right: _Node) -> _Node:
        if op is ast.Pow and right.code == ((kernels.NUMBER, 2.0),):
            return _applied(kernels.SQUARE, [left])  # the commonest power: exact
        return _applied(_ARITHMETIC[op], [left, right])

    def _comparison(self, operations: list[int], operands: list[_Node]) -> _Node:
        pairs = zip(operations, operands, operands[1:], strict=False)
        links = [_applied(operation, [left, right], is_boolean=True) for operation, left, right in pairs]
        return _folded(kernels.AND, links, is_boolean=True)

    def _call(self, name: str, arguments: list[ast.expr], depth: int) -> _Node:
        if name not in FUNCTIONS:
            _fail(self._text, f"unknown function {quoted(name)}{suggestion(name, FUNCTIONS)}")
        function = FUNCTIONS[name]
        expected = "2 arguments or more" if function.arity is None else f"{function.arity} argument(s)"
        if len(arguments) < 2 if function.arity is None else len(arguments) != function.arity:
            _fail(self._text, f"{name} takes {expected}, got {len(arguments)}")
        operands = [self._numeric(argument, depth) for argument in arguments]
        if function.arity is None:
            return _folded(function.operation, operands)
        return _applied(function.operation, operands, is_boolean=function.is_boolean)


def _applied(operation: int, operands: Sequence[_Node], *, is_boolean: bool = False) -> _Node:
    code = tuple(step for operand in operands for step in operand.code)
    return _Node((*code, (operation, 0.0)), is_boolean)


def _folded(operation: int, operands: Sequence[_Node], *, is_boolean: bool = False) -> _Node:
    """Apply an operation of two operands to many, from the left."""
    first, *others = operands
    code = list(first.code)
    for other in others:
        code += [*other.code, (operation, 0.0)]
    return _Node(tuple(code), is_boolean)
