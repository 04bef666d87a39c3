"""Has something about a run found out again and again while it samples, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from separatrix.executors import ProcessExecutor, yield_to_workers


class Analyst:
    """Asks for an analysis whenever a run has grown by so many shots; one at a time, what comes meanwhile is skipped.

    Parameters
    ----------
    every : new shots
    analysis : a function of a module, called in a process that yields to those that sample; returns how many shots it
        has seen, which may be more than there were when it was asked for
    n_shots : the run had when it was last analysed
    """

    def __init__(self, every: int, analysis: Callable[[], int], n_shots: int) -> None:
        self._every, self._analysis, self._seen = every, analysis, n_shots
        self._executor: ProcessExecutor | None = None
        self._pending: Future[int] | None = None

    def look(self, n_shots: int) -> BaseException | None:
        """Begin an analysis if one is due; returns what ended the last one, if that was an error, once."""
        error = None
        if self._pending is not None and self._pending.done():
            error = self._pending.exception()
            if error is None:
                self._seen = max(self._seen, self._pending.result())
            self._pending = None
        if self._pending is None and n_shots - self._seen >= self._every:
            if self._executor is None:
                self._executor = ProcessExecutor(1, yield_to_workers)
            self._seen = n_shots
            self._pending = self._executor.submit(self._analysis)
        return error

    def close(self) -> None:
        """End it, and whatever it is at."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
