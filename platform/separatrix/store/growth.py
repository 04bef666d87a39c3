"""Tables of a run that grow under their readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]


class GrowingTable:
    """The committed rows of one table, of which only new ones are fetched.

    Memory is taken in doubling steps, so that following a run costs what its new rows cost. Columns that were handed
    out never change: they are read-only, and rows behind them are written where they do not reach.

    Parameters
    ----------
    read : returns the columns from a row on, such as ``store.shots``
    history : is another number when the rows may be others than before, such as ``store.history``

    Neither may know whoever holds the table: in such a circle all rows stay until Python's collector comes by.
    """

    def __init__(self, read: Callable[[int], Columns], history: Callable[[], int] = lambda: 0) -> None:
        self._read, self._history = read, history
        self._known = history()
        self._n_rows = 0
        self._memory: dict[str, NDArray[Any]] = {}

    def columns(self) -> dict[str, NDArray[Any]]:
        """Fetch what is new and return every column, (n_rows, ...), read-only."""
        if (history := self._history()) != self._known:
            self._n_rows, self._memory, self._known = 0, {}, history
        new = self._read(self._n_rows)
        n_rows = self._n_rows + len(next(iter(new.values())))
        for name, rows in new.items():
            memory = self._memory.get(name)
            if memory is None or len(memory) < n_rows:
                larger = np.empty((max(n_rows, 2 * self._n_rows), *rows.shape[1:]), dtype=rows.dtype)
                if memory is not None:
                    larger[: self._n_rows] = memory[: self._n_rows]
                self._memory[name] = memory = larger
            memory[self._n_rows : n_rows] = rows
        self._n_rows = n_rows
        result = {name: memory[:n_rows] for name, memory in self._memory.items()}
        for column in result.values():
            column.flags.writeable = False
        return result
