"""A document without a browser or a server: like a real one it is changed by one thread at a time."""

from __future__ import annotations

import threading

DOCUMENT = threading.RLock()
"""Held while a page is made or changed."""


def push(function):
    """Change a page in this thread, once no other does."""
    with DOCUMENT:
        function()
