"""Memory that is free again: found quickly, and given back to the machine."""

from __future__ import annotations

import ctypes
import gc
from typing import Any, Final

_MMAP_THRESHOLD: Final = -3
"""Name of an option of glibc's ``mallopt``."""

_LARGE: Final = 2**18
"""Bytes of an array that is mapped by itself."""


def give_back() -> None:
    """Give back what is free between the blocks in use: glibc's allocator keeps it, others give it back by themselves.

    A training takes memory in proportion to its data, and between two of them a learner waits.
    """
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def settle() -> None:
    """Set aside all objects there are now, and give back free memory after every full collection from now on.

    A full collection looks at every object that was not set aside: with those of the libraries 0.25 s in which nobody
    is answered, whenever pages were closed. So that large arrays are never among the blocks that keep others from being
    given back, glibc's allocator maps each of them by itself, as it does until the first one is freed: then it takes
    their size for usual, up to 32 MiB.
    """
    gc.collect()
    gc.freeze()
    option = _of_libc("mallopt")
    if option is not None:
        option(_MMAP_THRESHOLD, _LARGE)
    gc.callbacks.append(_after_collection)


def _after_collection(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:  # the oldest
        give_back()


def _of_libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
