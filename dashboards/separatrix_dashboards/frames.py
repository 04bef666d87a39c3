"""Frames of a run as pages see them: what is small in memory, descriptors on the disk, read when they are looked at."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.reader import Reader
from separatrix.store import GrowingTable

Rows = slice | NDArray[Any]

BLOCK: Final = 2**14
"""Frames that are read at once."""


class Features:
    """Descriptors of the first frames of a run, (n, d) float32, read from the disk whenever they are looked at.

    Of a long run they outgrow the memory; pages look at few of them, and a million numbers take 10 ms to read.

    Parameters
    ----------
    reader : of the run
    n_frames : n
    """

    def __init__(self, reader: Reader, n_frames: int) -> None:
        self._reader = reader
        self.shape = n_frames, len(reader.observables.descriptors.names)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all of them."""
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """Return rows in a line, or those of a mask or of numbers that ascend, (m, d)."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                raise IndexError(f"expected frames in a line, got a step of {step}")
            return self._between(start, stop)
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        starts = range(0, len(self), BLOCK)
        parts = np.split(chosen, np.searchsorted(chosen, starts[1:]))
        read = [
            self._between(start, min(start + BLOCK, len(self)))[part - start]
            for start, part in zip(starts, parts, strict=False)
            if len(part)
        ]
        return np.concatenate(read) if read else self._between(0, 0)

    def _between(self, start: int, stop: int) -> NDArray[Any]:
        return self._reader.frame_rows(start, max(start, stop))["features"]


class FrameTable:
    """The frames of a run that is followed; any thread may ask.

    Parameters
    ----------
    reader : of the run
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()  # its own: of many frames, and from a cold disk, reading takes seconds
        self._rest = GrowingTable(partial(_read, reader), lambda: reader.history)

    def of_first(self, n_shots: int) -> Mapping[str, Any]:
        """Return the frames of the first shots: ``cvs`` (m, k), ``shot`` (m,), ``offset`` (m,), and `Features`."""
        with self._lock:
            columns = self._rest.columns()
        n_frames = int(np.searchsorted(columns["shot"], n_shots))  # frames lie in the order of their shots
        rest = {name: column[:n_frames] for name, column in columns.items()}
        return {**rest, "features": Features(self._reader, n_frames)}


def _read(reader: Reader, start: int) -> dict[str, NDArray[Any]]:
    """Return the columns of all frames from a row on, but for their descriptors."""
    stop = reader.n_frames
    blocks = [
        _without_features(reader, first, min(first + BLOCK, stop)) for first in range(start, stop, BLOCK) or (stop,)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _without_features(reader: Reader, start: int, stop: int) -> dict[str, NDArray[Any]]:
    rows = reader.frame_rows(start, stop)
    del rows["features"]
    return rows
