"""Tracing: a kernel is run once on symbols, and what it did becomes one straight-line Python function.

Between two saved frames of a small molecule a worker has microseconds to tell the state. A function without calls,
loops and look-ups takes a third of the time that the same arithmetic takes through closures, most of all right after
integration steps, when the processor's caches hold other things. The text that is compiled consists of names made here
and of floats: no text of a user enters it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

_LONGEST: Final = 200
"""Characters of an expression that is written where it is used; Python's parser nests 200 brackets."""


class Symbol:
    """A number that is not known yet; arithmetic on it is written down. Equal expressions are one symbol."""

    __slots__ = ("_trace", "arguments", "form")

    def __init__(self, trace: Trace, form: str, arguments: tuple[Symbol | float, ...]) -> None:
        self._trace = trace
        self.form = form
        self.arguments = arguments

    def __add__(self, other: Symbol | float) -> Symbol:
        return self._trace.note("({} + {})", self, other)

    def __radd__(self, other: float) -> Symbol:
        return self._trace.note("({} + {})", other, self)

    def __sub__(self, other: Symbol | float) -> Symbol:
        return self._trace.note("({} - {})", self, other)

    def __rsub__(self, other: float) -> Symbol:
        return self._trace.note("({} - {})", other, self)

    def __mul__(self, other: Symbol | float) -> Symbol:
        return self._trace.note("({} * {})", self, other)

    def __rmul__(self, other: float) -> Symbol:
        return self._trace.note("({} * {})", other, self)

    def __truediv__(self, other: Symbol | float) -> Symbol:
        return self._trace.note("({} / {})", self, other)

    def __rtruediv__(self, other: float) -> Symbol:
        return self._trace.note("({} / {})", other, self)

    def __neg__(self) -> Symbol:
        return self._trace.note("(-{})", self)


class Trace:
    """Records arithmetic on symbols and compiles it.

    Examples
    --------
    >>> trace = Trace()
    >>> x, y = trace.inputs(2)
    >>> length = trace.compile([trace.sqrt(x * x + y * y)])
    >>> length([3.0, 4.0])
    (5.0,)
    """

    def __init__(self) -> None:
        self._symbols: dict[tuple[object, ...], Symbol] = {}
        self._n_inputs = 0

    def inputs(self, n: int) -> list[Symbol]:
        """Return ``n`` further numbers that the compiled function will be given."""
        first, self._n_inputs = self._n_inputs, self._n_inputs + n
        return [self.note(f"x{index}") for index in range(first, first + n)]

    def note(self, form: str, *arguments: Symbol | float) -> Symbol:
        """Return the symbol of an operation, written as a form with a place for each argument."""
        arguments = tuple(item if isinstance(item, Symbol) else float(item) for item in arguments)
        key = (form, *(id(item) if isinstance(item, Symbol) else item for item in arguments))
        return self._symbols.setdefault(key, Symbol(self, form, arguments))

    def sqrt(self, x: Symbol) -> Symbol:
        """Stand in for math.sqrt."""
        return self.note("sqrt({})", x)

    def atan2(self, y: Symbol, x: Symbol) -> Symbol:
        """Stand in for math.atan2."""
        return self.note("atan2({}, {})", y, x)

    def fsum(self, terms: Sequence[Symbol]) -> Symbol:
        """Stand in for math.fsum."""
        return self.note(f"fsum(({'{}, ' * len(terms)}))", *terms)

    def compile(
        self, results: Sequence[Symbol], **functions: Callable[..., Any]
    ) -> Callable[[Sequence[float]], tuple[float, ...]]:
        """Return a function from the inputs to the values of the results; raises what Python's arithmetic raises.

        Parameters
        ----------
        functions : what forms may call besides sqrt, atan2 and fsum
        """
        uses = Counter(id(item) for symbol in self._symbols.values() for item in symbol.arguments)
        uses.update(id(symbol) for symbol in results)
        written: dict[int, str] = {}
        lines = [f"({''.join(f'x{index}, ' for index in range(self._n_inputs))}) = numbers"]
        for symbol in self._symbols.values():  # in the order they were made: each after its arguments
            arguments = (written[id(item)] if isinstance(item, Symbol) else repr(item) for item in symbol.arguments)
            text = symbol.form.format(*arguments)
            if symbol.arguments and (uses[id(symbol)] > 1 or len(text) > _LONGEST):
                name = f"t{len(lines)}"
                lines.append(f"{name} = {text}")
                text = name
            written[id(symbol)] = text
        lines.append(f"return ({''.join(f'{written[id(symbol)]}, ' for symbol in results)})")
        namespace = {"__builtins__": {}, "sqrt": math.sqrt, "atan2": math.atan2, "fsum": math.fsum, **functions}
        exec("\n    ".join(["def traced(numbers):", *lines]), namespace)  # noqa: S102 - of names and floats made here
        traced: Callable[[Sequence[float]], tuple[float, ...]] = namespace["traced"]  # type: ignore[assignment]
        return traced
