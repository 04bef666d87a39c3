"""Checksums of everything a run holds: what a disk or a copy changed is told from what was written, and never used.

A chunk of an array written once ends with its CRC-32C, zarr's codec ``crc32c``. Rows of tables come one after the
other into the same files, so each row has a CRC-32 of all its columns in the column ``checksum``. Metadata and results
hold that of themselves, as the last of their attributes, lines of the log that of the line, and ``RUN/SHA256SUMS``
(the format of ``sha256sum``) that of the files a run was made from. Runs of before have none of these and open as ever.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from separatrix.errors import StoreError

Json = dict[str, Any]

RESTORE: Final = "restore it from a copy"
"""What to do about a damaged run."""

REPAIR: Final = f"{RESTORE}, or see what of it is whole: separatrix repair RUN"
"""The same where `separatrix.store.damage` may find something."""

CHECKSUM: Final = "checksum"
"""The column, and the attribute."""

CRC_BYTES: Final = 4

_SUMS: Final = "SHA256SUMS"
_ROWS_AT_ONCE: Final = 4096


def dumped(metadata: Mapping[str, Any]) -> str:
    """Return strict JSON without blanks."""
    return json.dumps(metadata, allow_nan=False, separators=(",", ":"))


def sealed(metadata: Mapping[str, Any]) -> str:
    """Return JSON with a checksum of itself: among the attributes where there are some.

    >>> sealed({"attributes": {"n": 1}}), sealed({})
    ('{"attributes":{"n":1,"checksum":181255946}}', '{"checksum":2745614147}')
    """
    checksum = {CHECKSUM: zlib.crc32(dumped(metadata).encode())}
    if isinstance(metadata.get("attributes"), Mapping):
        return dumped({**metadata, "attributes": {**metadata["attributes"], **checksum}})
    return dumped({**metadata, **checksum})


def opened(metadata: Json, path: Path) -> Json:
    """Return what `sealed` was given; what was written without a checksum as it is.

    Raises
    ------
    StoreError
        It is not what was written.
    """
    attributes = metadata.get("attributes")
    holder = attributes if isinstance(attributes, dict) else metadata
    checksum = holder.pop(CHECKSUM, None)
    if checksum is not None and checksum != zlib.crc32(dumped(metadata).encode()):
        raise StoreError(f"the run is damaged: {path} is not what was written, by its checksum; {REPAIR}")
    return metadata


def crc_of(octets: bytes) -> bytes:
    """Return the CRC-32C of a chunk as zarr's codec ``crc32c`` appends it."""
    return int(google_crc32c.value(octets)).to_bytes(CRC_BYTES, "little")


def row_checksums(columns: Mapping[str, NDArray[Any]], n_rows: int) -> NDArray[np.uint32]:
    """Return a CRC-32 of each row of a table, (n_rows,): of its columns in the order of their names."""
    names = sorted(columns)
    row = np.dtype([(name, columns[name].dtype, columns[name].shape[1:]) for name in names])
    checksums = np.empty(n_rows, "<u4")
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        part = slice(start, min(start + _ROWS_AT_ONCE, n_rows))
        rows = np.empty(part.stop - start, row)
        for name in names:
            rows[name] = columns[name][part]
        octets: list[bytes] = rows.view(f"V{row.itemsize}").tolist()
        checksums[part] = [zlib.crc32(one) for one in octets]
    return checksums


CONFIG: Final = "config.toml"
SYSTEM: Final = "system/system.xml"
TOPOLOGY: Final = "system/topology.pdb"
"""Files that a run is made from."""


def write_sums(run: Path, files: Iterable[str]) -> None:
    """Write the checksums of files of a run, named relative to it."""
    lines = [f"{_digest(run / file)}  {file}\n" for file in files]
    (run / _SUMS).write_text("".join(lines), encoding="utf-8")


def check_files(run: Path, *files: str) -> None:
    """Refuse a run whose configuration or system is not what it was made with.

    Parameters
    ----------
    files : those that are going to be used, relative to the run; all of them by default

    Raises
    ------
    StoreError
        Naming the file.
    """
    sums = run / _SUMS
    if not sums.exists():
        return  # made by a version of before
    with _named(sums):
        lines = [line.partition("  ") for line in sums.read_text(encoding="utf-8").splitlines()]
    digests = {name: digest for digest, _, name in lines}
    for file in files or digests:
        with _named(run / file):
            found = _digest(run / file)
        if digests.get(file) != found:
            raise StoreError(
                f"the run is damaged or was changed: {run / file} is not what the run was made with, by its checksum "
                f"in {sums}; undo the change, or {RESTORE}"
            )


@contextmanager
def _named(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise StoreError(f"the run is damaged: cannot read {file}: {reason or error}; {RESTORE}") from error


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
