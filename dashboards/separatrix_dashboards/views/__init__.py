"""The views of a run: one file each, and one line in `registry`."""

from __future__ import annotations
