"""Commands of the command line that are many lines: a file each. What they run is imported when it runs."""

from __future__ import annotations
