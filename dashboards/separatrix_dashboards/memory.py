"""Memory of pages that are gone: found quickly, and given back."""

from __future__ import annotations

import ctypes
import gc
from typing import Any, Final

_MMAP_THRESHOLD: Final = -3
"""Name of an option of glibc's ``mallopt``."""

_LARGE: Final = 2**18
"""Bytes of an array that is mapped by itself."""


def settle() -> None:
    """Set aside all objects there are now, and give back free memory after every full collection from now on.

    A full collection looks at every object that was not set aside: with those of the libraries 0.25 s in which nobody
    is answered, whenever pages were closed. And what pages leave free between the blocks that stay, the allocator of
    glibc keeps; other allocators give it back by themselves. So that large arrays are never such blocks, it maps each
    of them by itself, as it does until the first one is freed: then it takes their size for usual, up to 32 MiB.
    """
    gc.collect()
    gc.freeze()
    trim, option = (getattr(ctypes.CDLL(None), name, None) for name in ("malloc_trim", "mallopt"))
    if option is not None:
        option(_MMAP_THRESHOLD, _LARGE)
    if trim is not None:
        gc.callbacks.append(lambda phase, info: _trim_after(trim, phase, info))


def _trim_after(trim: Any, phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:  # the oldest
        trim(0)
