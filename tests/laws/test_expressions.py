"""Laws of expressions: values are numpy's, nothing but arithmetic gets in, and errors say what to write instead."""

from __future__ import annotations

import ast
import contextlib
import functools
import math
import operator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from separatrix.errors import ExpressionError
from separatrix.expressions import MAX_LENGTH, compile_expression, is_usable_name, parse_call

NAMES = ("x", "y", "phi")
FLOATS = st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e300])
ROWS = st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1, max_size=5)
LITERALS = st.integers(0, 400).map(str) | st.floats(0, 1e3, allow_subnormal=False).map(repr)


# Operations that IEEE arithmetic rounds correctly: both forms must give the same bits.
NUMBERS = st.recursive(
    st.sampled_from(NAMES) | LITERALS,
    lambda children: st.one_of(
        st.builds("({} {} {})".format, children, st.sampled_from(["+", "-", "*", "/"]), children),
        st.builds("({} ^ 2)".format, children),
        st.builds("(-{})".format, children),
        st.builds("{}({})".format, st.sampled_from(["sqrt", "abs"]), children),
        st.builds("{}({}, {}, {})".format, st.sampled_from(["min", "max"]), children, children, children),
    ),
    max_leaves=6,
)
COMPARISONS = st.one_of(
    st.builds("{} {} {}".format, NUMBERS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBERS),
    st.builds("{} < {} <= {}".format, NUMBERS, NUMBERS, NUMBERS),
    st.builds("between({}, {}, {})".format, NUMBERS, NUMBERS, NUMBERS),
    st.builds("between(phi, {}, -{})".format, LITERALS, LITERALS),
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda children: (
        st.builds("({} {} {})".format, children, st.sampled_from(["and", "or"]), children)
        | st.builds("(not {})".format, children)
    ),
    max_leaves=4,
)


OPERATIONS = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: lambda x, y: np.square(x) if np.all(y == 2.0) else np.power(x, y),
    ast.USub: np.negative,
    ast.Not: np.logical_not,
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    "min": lambda *x: functools.reduce(np.minimum, x),
    "max": lambda *x: functools.reduce(np.maximum, x),
    "between": lambda x, low, high: (
        ((x - low) % 360.0 <= (high - low) % 360.0) | ((high - low >= 360.0) & (np.abs(x) < np.inf))
    ),
}


def by_numpy(text, rows):
    """Evaluate an expression over columns of numpy, node by node."""
    columns = dict(zip(NAMES, np.array(rows, dtype=float).T, strict=True))

    def value(node):  # noqa: PLR0911
        match node:
            case ast.Constant(value=number):
                return np.float64(number)
            case ast.Name(id=name):
                return columns[name]
            case ast.UnaryOp(op=op, operand=operand):
                return OPERATIONS[type(op)](value(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATIONS[type(op)](value(left), value(right))
            case ast.BoolOp(op=op, values=values):
                return functools.reduce(OPERATIONS[type(op)], map(value, values))
            case ast.Compare(left=left, ops=ops, comparators=others):
                terms = [value(term) for term in (left, *others)]
                links = [OPERATIONS[type(op)](x, y) for op, x, y in zip(ops, terms, terms[1:], strict=False)]
                return functools.reduce(np.logical_and, links)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return (OPERATIONS.get(name) or getattr(np, name))(*map(value, arguments))
        raise AssertionError(ast.dump(node))

    with np.errstate(all="ignore"):
        return np.broadcast_to(value(ast.parse(text.replace("^", "**"), mode="eval").body), len(rows))


@given(NUMBERS, ROWS)
@example("x / -0", [(1.0, 0.0, 0.0)])
def test_a_number_is_what_numpy_makes_of_it(text, rows):
    expression = compile_expression(text, NAMES)
    assert not expression.is_boolean
    together = expression.array(rows)
    assert together.dtype == np.float64
    np.testing.assert_array_equal(together, by_numpy(text, rows))
    np.testing.assert_array_equal([expression.scalar(row) for row in rows], together)


@given(CONDITIONS, ROWS)
def test_a_condition_holds_where_numpy_says_so(text, rows):
    expression = compile_expression(text, NAMES)
    assert expression.is_boolean
    together = expression.array(rows)
    assert together.dtype == bool
    assert together.tolist() == by_numpy(text, rows).tolist()
    assert [expression.scalar(row) for row in rows] == together.tolist()


@pytest.mark.parametrize("text", ["exp(x)", "log(x)", "sin(x)", "cos(x)", "tan(x)", "x ^ y", "2 ^ x", "x ** 3"])
@given(rows=ROWS)
def test_other_functions_agree_closely_with_numpy_and_share_its_limits(text, rows):
    np.testing.assert_allclose(compile_expression(text, NAMES).array(rows), by_numpy(text, rows), rtol=1e-12)


@given(st.floats(0.1, 3), st.floats(-3, 3), st.floats(-170, 170))
def test_functions_agree_closely(x, y, phi):
    text = "sqrt(x) + exp(y) * log(x) - sin(phi) ^ 2 + cos(y) ** 3 + tan(0.1 * y) + abs(y) + min(x, y, 1) + max(x, y)"
    expression = compile_expression(text, NAMES)
    expected = (
        math.sqrt(x) + math.exp(y) * math.log(x) - math.sin(phi) ** 2 + math.cos(y) ** 3 + math.tan(0.1 * y) + abs(y)
    ) + (min(x, y, 1.0) + max(x, y))
    assert expression.scalar([x, y, phi]) == pytest.approx(expected, abs=1e-11)
    assert expression.array([[x, y, phi]])[0] == pytest.approx(expected, abs=1e-11)


@given(st.floats(-1e3, 1e3), st.floats(-720, 720), st.floats(0, 400), st.integers(-3, 3))
def test_between_follows_the_arc_upwards_from_low(x, low, width, turns):
    expression = compile_expression(f"between(x, {low!r}, {low + width!r})", ["x"])
    width = (low + width) - low
    offset = (x - low) % 360.0
    # Within rounding of a border the answer is free.
    if min(offset, abs(offset - width), 360.0 - offset) > 1e-6:
        expected = width >= 360.0 or offset < width
        assert expression.scalar([x]) is expected
        assert expression.scalar([x + 360.0 * turns]) is expected
        assert bool(expression.array([[x]])[0]) is expected


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("between(x, 120, 200)", [120, 160, 200, -160, -161], [119, 201, -159, 0]),
        ("between(x, 170, -170)", [175, -175, 180, -180, 170, -170], [0, 169, -169]),
        ("between(x, 0, 360)", [0, 13, -179], [math.nan]),
        ("between(x, y, y + 10)", [0, 5, 10], [-1, 11]),
    ],
)
def test_between_is_periodic(text, inside, outside):
    test = compile_expression(text, ["x", "y"])
    assert all(test.scalar([value, 0.0]) for value in inside)
    assert not any(test.scalar([value, 0.0]) for value in outside)
    assert test.array([[value, 0.0] for value in [*inside, *outside]]).tolist() == [True] * len(inside) + [False] * len(
        outside
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 2 ^ 2", 14.0),
        ("-2^2", -4.0),
        ("2^-1", 0.5),
        ("2^3^2", 512.0),
        ("2**3^2", 512.0),
        ("1 / 0", math.inf),
        ("sqrt(-1)", math.nan),
        ("log(0)", -math.inf),
        ("exp(1000)", math.inf),
        ("0 ^ -1", math.inf),
        ("(-8) ^ 0.5", math.nan),
        ("9^9^9^9", math.inf),
        ("1 < 2 < 3", True),
        ("1 < 3 < 2", False),
        ("not 1 < 2 or 2 > 1", True),
        ("2 <\n 3", True),
    ],
)
def test_known_values(text, value):
    expression = compile_expression(text, [])
    assert expression.scalar([]) == pytest.approx(value, nan_ok=True)
    assert expression.array(np.empty((2, 0))) == pytest.approx(np.array([value] * 2), nan_ok=True)


def test_what_an_expression_tells_about_itself():
    expression = compile_expression("between(psi, -130, 4e1)  and\n2 * phi < -0.5", ["phi", "psi", "r"])
    assert expression.text == "between(psi, -130, 4e1) and 2 * phi < -0.5"
    assert expression.names == ("phi", "psi", "r")
    assert expression.names_used == ("phi", "psi")
    assert expression.constants == (-130.0, 40.0, 2.0, -0.5)


@pytest.mark.parametrize("row", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_row_of_the_wrong_length_is_refused(row):
    with pytest.raises(ValueError, match=r"expected values of shape \(n, 2\) for 'x < 0 and y < 0'"):
        compile_expression("x < 0 and y < 0", ["x", "y"]).scalar(row)


def test_single_precision_columns_are_compared_in_double():
    column = np.array([[0.1]], dtype=np.float32)
    assert compile_expression("x > 0.1", ["x"]).array(column).tolist() == [True]
    assert compile_expression("x > 0.1", ["x"]).scalar(column[0].tolist()) is True


def test_names_are_found_in_any_unicode_spelling():
    assert compile_expression("ϕ < 1", ["ϕ"]).scalar([0.0]) is True


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__[0]",
        "x.__class__",
        "x[0]",
        "[i for i in (1,)]",
        "(lambda: x)()",
        "(x := 1)",
        "x if x else y",
        "f'{x}'",
        "'x'",
        "b'x'",
        "1j",
        "True",
        "None",
        "...",
        "x is y",
        "x in y",
        "x, y",
        "[x]",
        "{x}",
        "{}",
        "*x",
        "await x",
        "yield x",
        "x; y",
        "import os",
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "sqrt(*x)",
        "sqrt(^x)",
        "sqrt(v=x)",
        "sqrt.real",
        "x << 1",
        "x @ y",
        "x // y",
        "x \\\n + 1 \\",
        "x\x00",
        "",
        "   ",
        "x <",
        "(x",
        "1e999",
        "1" * 400,
    ],
)
def test_everything_else_is_refused_on_one_line(text):
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, ["x", "y"])
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@given(st.text(max_size=60))
def test_any_text_either_compiles_or_is_refused(text):
    with contextlib.suppress(ExpressionError):
        compile_expression(text, NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "-" * 3000 + "x",
        "not " * 900 + "x<1",
        "x" + "+x" * 300,
        "x" + "^x" * 300,
        "x" + ".a" * 1500,
        "[" * 3900,
        "(" * 3000 + "x" + ")" * 900,
        "abs(" * 300 + "x" + ")" * 300,
        "x" * (MAX_LENGTH + 1),
    ],
)
def test_huge_and_deep_text_is_refused(text):
    with pytest.raises(ExpressionError):
        compile_expression(text, ["x"])


def test_long_flat_text_is_welcome():
    assert compile_expression(" and ".join(["x < 1"] * 400), ["x"]).scalar([0.0]) is True
    assert compile_expression(f"max({', '.join(['x'] * 900)})", ["x"]).scalar([2.0]) == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ph < 1", "expression 'ph < 1': unknown name 'ph'; did you mean 'phi'? known: phi, psi"),
        ("q < 1", "expression 'q < 1': unknown name 'q'; known: phi, psi"),
        ("sqr(phi)", "unknown function 'sqr'; did you mean 'sqrt'?"),
        ("cos < 1", "'cos' is a function; write cos(...)"),
        ("phi < 1 & psi < 1", "'&' is not allowed; write 'and'"),
        ("phi % 360", "between(x, low, high) is periodic in degrees"),
        ("phi and psi < 1", "and/or/not join comparisons, but 'phi' is a number"),
        ("(phi < 1) + 1", "expected a number, but 'phi < 1' is true or false"),
        ("between(phi, 1)", "between takes 3 argument(s), got 2"),
        ("min(phi)", "min takes 2 arguments or more, got 1"),
        ("phi < 1  # left\nand psi < 1", "'#' is not allowed"),
        ("phi == ", "cannot be read (invalid syntax); allowed: numbers, names"),
    ],
)
def test_messages_say_what_to_write(text, message):
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, ["phi", "psi"])
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3, 2)])
def test_rows_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected values of shape \(n, 2\)"):
        compile_expression("x < y", ["x", "y"]).array(np.zeros(shape))


def test_calls_are_parsed():
    call = parse_call(" coordination( [0, 1], [2],\n r0 = 0.3, n=6)")
    assert call.name == "coordination"
    assert call.arguments == ((0, 1), (2,))
    assert call.keywords == {"r0": 0.3, "n": 6}
    assert parse_call("distance(-1, 2)").arguments == (-1, 2)


@pytest.mark.parametrize(
    "text",
    [
        "distance",
        "1",
        "a.b(1)",
        "f(1.5)",
        "f(x)",
        "f([x])",
        "f([1, [2]])",
        "f(True)",
        "f(*[1])",
        "f(**{})",
        "f(k=x)",
        "f(1)(2)",
        "f(k='a')",
        "f(" + "-" * 900 + "1)",
    ],
)
def test_other_calls_are_refused(text):
    with pytest.raises(ExpressionError):
        parse_call(text)


@pytest.mark.parametrize(
    ("name", "usable"),
    [("phi", True), ("d_12", True), ("between", False), ("and", False), ("a b", False), ("1x", False), ("", False)],
)
def test_usable_names(name, usable):
    assert is_usable_name(name) is usable
