"""The events of a run, ``RUN/log.jsonl``: a line of JSON each, with its checksum; appended and never changed."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

from separatrix.errors import StoreError
from separatrix.store.arrays import disk_errors, plain
from separatrix.store.checksums import Json, opened, sealed

LOG = "log.jsonl"


def write_event(run: Path, event: str, data: Json, n_committed: int) -> None:
    """Append an event with the unix time.

    Parameters
    ----------
    run : folder of the run
    event : what happened
    data : plain values
    n_committed : shots that the run holds, to be named should the disk be full

    Raises
    ------
    StoreError
        The disk is full or cannot be written.
    """
    with disk_errors(run, n_committed):
        _append(run / LOG, sealed(plain({"time": time.time(), "event": event, **data})) + "\n")


def read_events(run: Path) -> list[dict[str, Any]]:
    """Return the events of a run, oldest first; in place of a line that a crash cut or a disk changed, that.

    Raises
    ------
    StoreError
        The file cannot be read.
    """
    file = run / LOG
    try:
        lines = file.read_bytes().split(b"\n")[:-1]  # what has no end yet is being written
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror}") from error
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(opened(dict(json.loads(line)), file))
        except (ValueError, TypeError, StoreError):  # the rest is still worth reading
            when = events[-1]["time"] if events else 0.0
            events.append({"time": when, "event": "damaged line", "file": str(file), "line": number})
    return events


def _append(path: Path, line: str) -> None:
    """Append a line of text, whole or not at all, and on its own though the machine died in the middle of the last."""
    octets = line.encode()
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            octets = octets if file.read(1) == b"\n" else b"\n" + octets
        if file.write(octets) < len(octets):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
