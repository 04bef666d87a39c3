"""The lock of a run: held by its one writer, freed by the kernel when the writer dies."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from separatrix.errors import RunLockedError

_PATIENCE: Final = 0.3
"""Seconds to wait for a lock, longer than `is_locked` holds it."""


def acquire(run: Path) -> FileLock:
    """Take the run's lock; the file's text tells people who holds it.

    Raises
    ------
    RunLockedError
        Another process is writing the run.
    """
    file = run / "lock"
    lock = FileLock(file, timeout=_PATIENCE, thread_local=False)
    try:
        lock.acquire(poll_interval=_PATIENCE / 10)
    except Timeout:
        raise RunLockedError(f"{run} is being written by {file.read_text() or 'another process'}") from None
    try:
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except BaseException:
        lock.release()
        raise
    return lock


def lock_place(run: Path) -> tuple[int, int] | None:
    """Return what tells the lock file of a run from all others, None if there is none."""
    try:
        found = (run / "lock").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def lock_holder(run: Path) -> str:
    """Return who wrote a run last, such as ``process 7 on node3``; nothing if nobody did or may tell."""
    try:
        return (run / "lock").read_text(encoding="utf-8")
    except OSError:
        return ""


def is_locked(run: Path) -> bool:
    """Return whether a living process writes the run; also True for who may not try the lock and cannot tell."""
    file = run / "lock"
    if not file.exists():
        return False
    try:
        with FileLock(file, blocking=False, thread_local=False):
            return False
    except (Timeout, OSError):  # such as a file system that can only be read
        return True
