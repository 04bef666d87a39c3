"""What the loop asks of whoever makes its shots."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Executor


class WorkerExecutor(Executor):
    """An executor with workers that can be counted; a task lost with its worker raises ``BrokenExecutor``."""

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
