"""Work in the very process that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from separatrix.errors import DeviceLostError
from separatrix.executors.base import LOSSES, WorkerExecutor, all_lost


class SerialExecutor(WorkerExecutor):
    """Runs every task at once in the calling thread: slow, simple and reproducible shot by shot."""

    def __init__(self, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()) -> None:
        self._losses = 0
        if initializer is not None:
            initializer(*initargs)

    @property
    def workers(self) -> int:
        """None: this thread works."""
        return 0

    @property
    def busy(self) -> int:
        """None: when anybody can ask, the work is done."""
        return 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a task and return its finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
            self._losses = 0
        except DeviceLostError as error:
            self._losses += 1
            future.set_exception(error if self._losses < LOSSES else all_lost(str(error)))
        except Exception as error:  # noqa: BLE001 - a future carries whatever its task raised
            future.set_exception(error)
        return future
