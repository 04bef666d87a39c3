"""Results of analyses: one JSON document each under ``RUN/results``, written whole and replaced whole.

They follow from what the run holds and can be made anew, so they need no commit and no lock, and may be written while
the run goes on. They are forced to the medium: written seldom, they would else be what a power cut empties.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from separatrix.errors import StoreError
from separatrix.store.arrays import disk_errors, plain, read_json, replace_json
from separatrix.store.checksums import Json

RESULTS = ("mechanism", "validation", "test", "insights")
"""What can be held."""


def write_result(run: Path, name: str, result: Json) -> None:
    """Write a result, or replace the one that is there.

    Parameters
    ----------
    run : folder of the run
    name : one of ``RESULTS``
    result : plain data

    Raises
    ------
    StoreError
        The disk is full or cannot be written.
    """
    with disk_errors(run):
        file = result_file(run, name)
        file.parent.mkdir(exist_ok=True)
        replace_json(file, plain(result), file.with_name(f".{name}-{uuid.uuid4().hex[:12]}"), forced=True)


def read_result(run: Path, name: str) -> dict[str, Any] | None:
    """Return a result, None when the run does not hold it.

    Raises
    ------
    StoreError
        The file is damaged.
    """
    file = result_file(run, name)
    return read_json(file) if file.exists() else None


def result_file(run: Path, name: str) -> Path:
    """Return where a result is held, or would be."""
    if name not in RESULTS:
        raise StoreError(f"expected one of {', '.join(RESULTS)}, got {name!r}")
    return run / "results" / f"{name}.json"
