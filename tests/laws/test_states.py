"""Laws of states: both forms agree, overlap is noticed, and errors name the state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from separatrix.errors import ConfigError, ExpressionError, StateOverlapError
from separatrix.states import States

ALANINE = {
    "C7eq": "between(phi, -180, 0) and between(psi, 120, 200)",
    "alphaR": "between(phi, -180, 0) and between(psi, -50, 30)",
    "C7ax": "between(phi, 50, 100) and between(psi, -100, 0)",
}
DISCS = {"A": "(x+1)^2 + (y+1)^2 < 0.0625", "B": "(x-1)^2 + (y-1)^2 < 0.0625"}


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(2)), elements=st.floats(-180, 180, width=32)))
def test_alone_and_in_an_array(values):
    states = States(ALANINE, ["phi", "psi"])
    found = states.array(values)
    assert found.dtype == np.int8
    assert found.shape == (len(values),)
    assert [states.scalar(row) for row in values.tolist()] == found.tolist()


def test_known_configurations():
    states = States(ALANINE, ["phi", "psi"])
    assert states.names == ("C7eq", "alphaR", "C7ax")
    points = [[-80.0, 150.0], [-80.0, -170.0], [-80.0, -20.0], [75.0, -50.0], [0.0, 75.0], [np.nan, np.nan]]
    assert states.array(points).tolist() == [0, 0, 1, 2, -1, -1]


def test_expressions_and_constants_are_told():
    states = States(DISCS, ["x", "y"])
    assert states.expressions == DISCS
    assert set(states.constants) == {1.0, 2.0, 0.0625}


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 3))
def test_overlap_is_found_where_both_hold(x, y, radius):
    states = States({"A": f"x^2 + y^2 < {radius}", "B": "x > 0.5", "C": "x < -5"}, ["x", "y"])
    candidates = [[10.0, 10.0], [-10.0, 0.0], [x, y]]
    both = x * x + y * y < radius and x > 0.5
    assert states.overlap(candidates) == ((0, 1, 2) if both else None)


def test_overlap_in_frames_names_both_states_and_the_values():
    states = States({"low": "x < 1", "middle": "x > 5", "wide": "x > -1 and x < 3"}, ["x", "y"])
    with pytest.raises(StateOverlapError) as caught:
        states.array([[-3.0, 0.0], [0.25, 7.5]])
    assert str(caught.value) == (
        "states: frame 1 lies in 'low' and in 'wide' (x = 0.25, y = 7.5); make them exclude each other"
    )
    assert states.scalar([0.25, 7.5]) == 0


@pytest.mark.parametrize("expressions", [{}, {"A": "x < 1"}, {f"s{i}": f"x == {i}" for i in range(128)}])
def test_number_of_states(expressions):
    with pytest.raises(ConfigError, match=rf"expected 2 to 127 states, got {len(expressions)} "):
        States(expressions, ["x"])


def test_as_many_states_as_an_int8_holds():
    states = States({f"s{i}": f"x == {i}" for i in range(127)}, ["x"])
    assert states.array([[126.0]]).tolist() == [126]
    assert states.scalar([126.0]) == 126


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x + 1", "state 'B': expected a condition such as x < 1, but 'x + 1' is a number"),
        ("1 < 2", "state 'B': '1 < 2' depends on no collective variable; known: x, y"),
        ("z > 1", "state 'B': expression 'z > 1': unknown name 'z'; known: x, y"),
        ("x >", "state 'B': expression 'x >': cannot be read"),
    ],
)
def test_errors_name_the_state(text, message):
    with pytest.raises(ExpressionError) as caught:
        States({"A": "x < 1", "B": text}, ["x", "y"])
    assert str(caught.value).startswith(message)


def test_columns_of_the_wrong_number_are_refused():
    with pytest.raises(ValueError, match=r"expected values of shape \(n, 2\)"):
        States(DISCS, ["x", "y"]).array(np.zeros((4, 3)))
