"""What the loop asks of whoever makes its shots."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, Final, Protocol

from separatrix.errors import WorkersLostError

LOSSES: Final = 5
"""Losses in a row after which a worker is given up. One more than the attempts at a shot: a bad one ends no run."""


def all_lost(reason: str) -> WorkersLostError:
    """Return the error of an executor without workers."""
    return WorkersLostError(
        f"no worker is left: each was lost {LOSSES} times in a row, at last because of this: {reason}"
    )


class WorkerExecutor(Executor):
    """An executor with workers that can be counted.

    A task lost with its worker raises ``BrokenExecutor``; one that raises ``DeviceLostError`` loses its worker, which
    is replaced. With no worker left tasks raise ``WorkersLostError``.
    """

    @property
    @abstractmethod
    def workers(self) -> int:
        """Number of workers there are now; 0 when tasks run in the thread that submits them."""

    @property
    def ready(self) -> bool:
        """Whether the workers have loaded what they need; a task would wait until then."""
        return True

    @property
    @abstractmethod
    def busy(self) -> int:
        """Number of workers at work now."""

    @property
    def lost(self) -> Mapping[int, str]:
        """Workers that were given up, and why."""
        return {}


class Bench(Protocol):
    """What a worker of a cluster has built to work with."""

    @property
    def report(self) -> Any:
        """What the session should know of it; sent once, when the worker joins."""
        ...

    def abandon(self) -> None:
        """End the task at work soon, from another thread: nobody waits for it any more."""
        ...
