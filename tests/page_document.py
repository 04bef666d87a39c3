"""A document without a browser or a server: like a real one it is changed by one thread at a time."""

from __future__ import annotations

import threading
import time

DOCUMENT = threading.RLock()
"""Held while a page is made or changed."""


def push(function):
    """Change a page in this thread, once no other does."""
    with DOCUMENT:
        function()


def wait_until(true, seconds):
    """Wait until something is true of a page, as it is between two changes."""
    end = time.monotonic() + seconds
    while True:
        with DOCUMENT:
            if true():
                return
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
