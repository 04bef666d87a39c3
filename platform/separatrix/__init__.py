"""AI-guided transition path sampling: how molecules change, learned while it is simulated.

>>> from separatrix import Session, read  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix.config import RunConfig
    from separatrix.reader import Reader, read
    from separatrix.session import Session
    from separatrix.table_run import evaluate, learn

__all__ = ["Reader", "RunConfig", "Session", "evaluate", "learn", "read"]

_HOMES = {
    "Reader": "reader",
    "RunConfig": "config",
    "Session": "session",
    "evaluate": "table_run",
    "learn": "table_run",
    "read": "reader",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: worker processes import parts of this package and must not pay for torch.
    if name in _HOMES:
        return getattr(import_module(f"separatrix.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'separatrix' has no attribute {name!r}")
