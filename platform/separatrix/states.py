"""States: indicator functions of a configuration, given as expressions over its collective variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separatrix import kernels
from separatrix.errors import ConfigError, ExpressionError, StateOverlapError
from separatrix.expressions import Expression, compile_expression, program
from separatrix.records import NO_STATE

MAX_STATES: Final = 127


class States:
    """Two or more states that exclude each other; their index is their order.

    Parameters
    ----------
    expressions : name -> condition, such as ``{"A": "x < -1", "B": "x > 1"}``
    cv_names : the collective variables whose values are passed, in order

    Attributes
    ----------
    names : the states, in order of their index
    expressions : name -> condition
    constants : every number that occurs in a condition; borders lie there
    program : the conditions as kernels read them

    Raises
    ------
    ConfigError
        For fewer than two states.
    ExpressionError
        Naming the state whose condition cannot be read, is a number, or depends on nothing.

    Examples
    --------
    >>> states = States({"left": "x < -1", "right": "x > 1"}, ["x"])
    >>> states.scalar([2.0]), states.scalar([0.0])
    (1, -1)
    """

    def __init__(self, expressions: Mapping[str, str], cv_names: Sequence[str]) -> None:
        if not 2 <= len(expressions) <= MAX_STATES:
            found = ", ".join(expressions) or "none"
            raise ConfigError(f"states: expected 2 to {MAX_STATES} states, got {len(expressions)} ({found})")
        compiled = [_condition(name, text, cv_names) for name, text in expressions.items()]
        self.names: tuple[str, ...] = tuple(expressions)
        self.expressions: Mapping[str, str] = dict(zip(expressions, (item.text for item in compiled), strict=True))
        self.constants: tuple[float, ...] = tuple(number for item in compiled for number in item.constants)
        self._cv_names = tuple(cv_names)
        self.program = program(compiled)

    def scalar(self, values: Sequence[float]) -> int:
        """Return the index of the state one frame lies in, or -1: the first hit.

        Parameters
        ----------
        values : one number per collective variable
        """
        inside = self._inside([values])[:, 0]
        return int(inside.argmax()) if inside.any() else NO_STATE

    def array(self, cvs: ArrayLike) -> NDArray[np.int8]:
        """Return the state index of many frames, -1 for none.

        Parameters
        ----------
        cvs : (n_frames, n_collective_variables)

        Returns
        -------
        (n_frames,) int8

        Raises
        ------
        StateOverlapError
            If a frame lies in two states; names both and the values.
        """
        table = np.asarray(cvs)
        inside = self._inside(table)
        shared = _first_shared(inside)
        if shared is not None:
            first, second, row = shared
            values = ", ".join(
                f"{name} = {value:.6g}" for name, value in zip(self._cv_names, table[row].tolist(), strict=True)
            )
            raise StateOverlapError(
                f"states: frame {row} lies in {self.names[first]!r} and in {self.names[second]!r} ({values}); "
                "make them exclude each other"
            )
        return np.where(inside.any(axis=0), inside.argmax(axis=0), NO_STATE).astype(np.int8)

    def overlap(self, candidates: ArrayLike) -> tuple[int, int, int] | None:
        """Return two states that share a candidate, and its row; None if there is no such candidate.

        Parameters
        ----------
        candidates : (n, n_collective_variables)
        """
        return _first_shared(self._inside(candidates))

    def _inside(self, cvs: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each frame lies in each state: (n_states, n_frames)."""
        table = np.asarray(cvs, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(self._cv_names):
            raise ValueError(f"expected values of shape (n, {len(self._cv_names)}), got {table.shape}")
        return kernels.outcomes(self.program, kernels.readable(table)) > 0.0


def _condition(name: str, text: str, cv_names: Sequence[str]) -> Expression:
    try:
        compiled = compile_expression(text, cv_names)
    except ExpressionError as error:
        raise ExpressionError(f"state {name!r}: {error}") from None
    if not compiled.is_boolean:
        raise ExpressionError(
            f"state {name!r}: expected a condition such as {cv_names[0] if cv_names else 'x'} < 1, "
            f"but {compiled.text!r} is a number"
        )
    if not compiled.names_used:
        known = ", ".join(cv_names) or "none"
        raise ExpressionError(f"state {name!r}: {compiled.text!r} depends on no collective variable; known: {known}")
    return compiled


def _first_shared(inside: NDArray[np.bool_]) -> tuple[int, int, int] | None:
    rows = np.flatnonzero(inside.sum(axis=0) > 1)
    if not rows.size:
        return None
    row = int(rows[0])
    first, second, *_ = np.flatnonzero(inside[:, row]).tolist()
    return first, second, row
