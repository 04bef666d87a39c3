"""Plain zarr v3 on a file system, fast enough to commit a row of every column once a second.

Columns are uncompressed, so a row lies in a chunk file at a place that follows from the array's metadata, and is
written and read there directly: a commit through zarr's array layer takes 30 times as long. The metadata are zarr's
own. A row is written once: new rows go into the unused rest of a chunk, so readers of earlier rows need no lock.
Whatever is read is compared with its checksum; zarr itself takes a chunk that is missing for zeros.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import ArrayLike, DTypeLike, NDArray

from separatrix.errors import SeparatrixError, StoreError
from separatrix.records import Float32Array
from separatrix.store.checksums import CHECKSUM, CRC_BYTES, REPAIR, Json, crc_of, opened, row_checksums, sealed

_PLAIN: Final = ("bytes",)
_CHECKED: Final = ("bytes", "crc32c")
_ARRAYS: Final = "arrays"
"""Attribute of a group that names its arrays: one that is gone is missed."""

_ARRAY_CHUNK_BYTES: Final = 1 << 22
_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Table:
    """Columns of equal length in one zarr group: rows are appended, and rows below a known number are read.

    The arrays are longer than their rows, in steps of doubling, since replacing the metadata of all of them takes
    longer (2 ms each on ext4) than writing their rows.
    """

    def __init__(self, folder: Path, columns: Iterable[str]) -> None:
        """Open the group at ``folder`` with these columns.

        Raises
        ------
        StoreError
            Metadata or a column are missing or damaged, or a column is compressed.
        """
        metadata = read_json(folder / "zarr.json")
        with _reading(folder / "zarr.json"):
            self.attributes: Final[Json] = metadata["attributes"]
        self._folder: Final = folder
        self.checked: Final = (folder / CHECKSUM).is_dir()  # not in runs of before
        names = [*columns, CHECKSUM] if self.checked else [*columns]
        self._columns: Final = {name: _Column(folder / name) for name in sorted(names)}

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows ``start`` to ``stop`` of every column, reading nothing else; none if ``stop`` comes first.

        Raises
        ------
        StoreError
            A file is missing or too short, or a row is not what was written.
        """
        start = min(start, stop)
        rows = {name: column.read(start, stop) for name, column in self._columns.items()}
        if self.checked:
            wrong = np.flatnonzero(rows.pop(CHECKSUM) != row_checksums(rows, stop - start))
            if len(wrong):
                raise StoreError(
                    f"the run is damaged: row {start + wrong[0]} of the columns in {self._folder} is not what was "
                    f"written, by its checksum ({len(wrong)} such rows of {stop - start}); {REPAIR}"
                )
        return rows

    def write(self, start: int, columns: Mapping[str, NDArray[Any]], scratch: Path) -> None:
        """Write rows from ``start`` on, which no reader may know of yet; ``scratch`` names a file to be moved."""
        rows = {name: self._columns[name].stored(columns[name]) for name in self._columns if name != CHECKSUM}
        if self.checked:
            rows[CHECKSUM] = row_checksums(rows, len(next(iter(rows.values()))))
        for name, column in self._columns.items():
            column.write(start, rows[name], scratch)

    @property
    def length(self) -> int:
        """Rows for which there is room in all arrays."""
        return min(column.length for column in self._columns.values())

    @property
    def is_even(self) -> bool:
        """Whether all arrays have one length; a process killed while it changed them leaves several."""
        return len({column.length for column in self._columns.values()}) == 1

    def trim(self, length: int, scratch: Path) -> None:
        """Cut every array to its rows."""
        for column in self._columns.values():
            column.resize(length, scratch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How an uncompressed array, chunked along its first axis only, lies in its files."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_rows: int
    codecs: tuple[str, ...]

    @classmethod
    def of(cls, metadata: Json, folder: Path, codecs: tuple[tuple[str, ...], ...]) -> _Layout:
        """Return what zarr's metadata say, if the codecs are among those known."""
        with _reading(folder / "zarr.json"):
            layout = cls(
                dtype=np.dtype(metadata["data_type"]).newbyteorder("<"),
                shape=tuple(metadata["shape"]),
                chunk_rows=int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0]),
                codecs=tuple(codec["name"] for codec in metadata["codecs"]),
            )
        if layout.codecs not in codecs:
            raise StoreError(f"expected an uncompressed array at {folder}, found codecs {metadata['codecs']}")
        return layout

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


class _Column:
    """One array that grows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metadata = read_json(folder / "zarr.json")
        layout = _Layout.of(self._metadata, folder, (_PLAIN,))
        self._dtype, self._row_bytes, self._chunk_rows = layout.dtype, layout.row_bytes, layout.chunk_rows
        self.length, self._shape = layout.shape[0], layout.shape[1:]

    def stored(self, rows: ArrayLike) -> NDArray[Any]:
        """Return rows as they are stored."""
        return np.ascontiguousarray(rows, self._dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start`` to ``stop``."""
        rows = np.empty((stop - start, *self._shape), self._dtype)
        octets = rows.reshape(-1).view(np.uint8).data
        for chunk, offset, part in self._parts(start, stop):
            with _reading(self._chunk(chunk)), self._chunk(chunk).open("rb", buffering=0) as file:
                file.seek(offset)
                if file.readinto(octets[part]) != part.stop - part.start:
                    raise StoreError(f"the run is damaged: expected more bytes in {file.name}; {REPAIR}")
        return rows

    def write(self, start: int, rows: NDArray[Any], scratch: Path) -> None:
        """Write rows from ``start`` on; a chunk file comes to exist in its full size."""
        octets = self.stored(rows).reshape(-1).view(np.uint8).data
        for chunk, offset, part in self._parts(start, start + len(rows)):
            file = self._open_chunk(chunk, scratch)
            try:
                _write_all(file, octets[part], offset)
            finally:
                os.close(file)
        while start + len(rows) > self.length:
            self.resize(max(2 * self.length, self._chunk_rows), scratch)

    def resize(self, length: int, scratch: Path) -> None:
        """Record the length of the array."""
        if length != self.length:
            self._metadata["shape"][0] = length
            replace_json(self._folder / "zarr.json", self._metadata, scratch)
            self.length = length

    def _open_chunk(self, chunk: int, scratch: Path) -> int:
        path = self._chunk(chunk)
        try:
            return os.open(path, os.O_WRONLY)
        except FileNotFoundError:
            with scratch.open("wb") as file:
                file.truncate(self._chunk_rows * self._row_bytes)
            scratch.rename(path)
            return os.open(path, os.O_WRONLY)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, slice]]:
        """Yield for each chunk its number, the first byte in it, and which bytes of the rows lie there."""
        if self._row_bytes:
            for chunk in range(start // self._chunk_rows, -(-stop // self._chunk_rows)):
                origin = chunk * self._chunk_rows
                first, last = max(start, origin), min(stop, origin + self._chunk_rows)
                part = slice((first - start) * self._row_bytes, (last - start) * self._row_bytes)
                yield chunk, (first - origin) * self._row_bytes, part

    def _chunk(self, chunk: int) -> Path:
        return self._folder / _chunk_name(chunk, 1 + len(self._shape))


def create_group(folder: Path, attributes: Json, arrays: Iterable[str] | None = None) -> None:
    """Make an empty zarr group; the folder above it is there, or what is written was deleted meanwhile.

    Parameters
    ----------
    arrays : names of those that `read_group` should find there
    """
    folder.mkdir()
    names = {} if arrays is None else {_ARRAYS: [*arrays]}
    metadata = {**json.loads(_group_template()), "attributes": plain({**attributes, **names})}
    (folder / "zarr.json").write_text(sealed(metadata))


def create_column(
    folder: Path,
    dtype: DTypeLike,
    shape: tuple[int, ...],
    chunk_rows: int,
    dimensions: tuple[str, ...],
    attributes: Json,
    codecs: tuple[Json, ...] = (),
) -> None:
    """Make an array without any chunk.

    Parameters
    ----------
    shape : the first axis is the one that grows and is chunked
    attributes : CF attributes such as ``units`` and ``long_name``
    codecs : after the first, which makes bytes of numbers
    """
    folder.mkdir()
    metadata = json.loads(_array_template(np.dtype(dtype).str, dimensions)) | {"shape": shape, "attributes": attributes}
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [max(n, 1) for n in (chunk_rows, *shape[1:])]
    metadata["codecs"] += codecs
    (folder / "zarr.json").write_text(sealed(metadata))


def create_checksums(folder: Path, chunk_rows: int, dimension: str) -> None:
    """Make the column of a table's checksums, by which `Table` knows its rows again."""
    about = {"long_name": "CRC-32 of the row: all other columns in the order of their names"}
    create_column(folder / CHECKSUM, "<u4", (0,), chunk_rows, (dimension,), about)


def write_array(folder: Path, array: ArrayLike, dimensions: tuple[str, ...], attributes: Json) -> None:
    """Write a whole numeric array in chunks of about 4 MiB along its first axis, each with its checksum.

    Raises
    ------
    ValueError
        The array is not numeric or has no axis.
    """
    values = np.ascontiguousarray(array)
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        raise ValueError(f"expected a numeric array with an axis for {folder.name}, got {values.dtype} {values.shape}")
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    row_bytes = max(values[:1].nbytes, 1)
    chunk_rows = _rows_per_chunk(row_bytes, len(values))
    create_column(folder, values.dtype, values.shape, chunk_rows, dimensions, attributes, ({"name": "crc32c"},))
    for chunk, start in enumerate(range(0, len(values) if values.size else 0, chunk_rows)):
        octets = values[start : start + chunk_rows].tobytes().ljust(chunk_rows * row_bytes, b"\0")
        with (folder / _chunk_name(chunk, values.ndim)).open("wb") as file:
            file.write(octets)
            file.write(crc_of(octets))


def _read_array(folder: Path, metadata: Json) -> NDArray[Any]:
    """Return what `write_array` wrote."""
    layout = _Layout.of(metadata, folder, (_PLAIN, _CHECKED))
    n_rows = layout.shape[0] if layout.row_bytes else 0
    size = layout.chunk_rows * layout.row_bytes
    names = [_chunk_name(chunk, len(layout.shape)) for chunk in range(-(-n_rows // layout.chunk_rows))]
    chunks = [_read_chunk(folder / name, size, checked=layout.codecs == _CHECKED) for name in names]
    octets = bytearray().join(chunks)[: n_rows * layout.row_bytes]  # a bytearray, so that it can be written to
    return np.frombuffer(octets, layout.dtype).reshape(layout.shape)


def _read_chunk(path: Path, size: int, *, checked: bool | None = None) -> bytes:
    """Return the bytes of a chunk.

    Parameters
    ----------
    size : of the chunk
    checked : whether it ends with its checksum; None where its length tells
    """
    with _reading(path):
        octets = path.read_bytes()
    whole, found = octets[:size], octets[size:]
    if checked is None:
        checked = bool(found)
    if len(octets) != size + (CRC_BYTES if checked else 0) or (checked and found != crc_of(whole)):
        raise StoreError(f"the run is damaged: {path} is not what was written, by its length or checksum; {REPAIR}")
    return whole


class StoredFrames:
    """The frames of an array that `write_array` wrote, read one at a time: few of them are ever asked for.

    Parameters
    ----------
    folder : of the array
    shape : (n_frames, n_atoms, 3), float32
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self._folder, self._shape = folder, shape
        self._frame_bytes = 4 * shape[1] * shape[2]
        self._chunk_rows = _rows_per_chunk(self._frame_bytes, shape[0])

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._shape[0]

    def __getitem__(self, frame: int) -> Float32Array:
        """Return the positions of one frame, (n_atoms, 3).

        Raises
        ------
        IndexError
            There is no such frame.
        StoreError
            It cannot be read.
        """
        if not 0 <= frame < self._shape[0]:
            raise IndexError(f"expected a frame in 0..{self._shape[0] - 1}, got {frame}")
        chunk, row = divmod(frame, self._chunk_rows)
        octets = _read_chunk(self._folder / _chunk_name(chunk, 3), self._chunk_rows * self._frame_bytes)
        n_numbers = self._shape[1] * self._shape[2]
        return np.frombuffer(octets, "<f4", n_numbers, row * self._frame_bytes).reshape(self._shape[1:]).copy()


def read_group(folder: Path, instead: Mapping[str, str] | None = None) -> tuple[dict[str, NDArray[Any]], Json]:
    """Return the arrays and the attributes of a group whose arrays `write_array` wrote.

    Parameters
    ----------
    instead : names of arrays, and of those that may have taken their place

    Raises
    ------
    StoreError
        It, or one of its arrays, is missing or damaged.
    """
    metadata = read_json(folder / "zarr.json")
    with _reading(folder / "zarr.json"):
        attributes = dict(metadata["attributes"])
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    arrays: dict[str, NDArray[Any]] = {}
    for name in names:
        about = read_json(folder / name / "zarr.json")
        if about.get("node_type") == "array":
            arrays[name] = _read_array(folder / name, about)
    for name in attributes.pop(_ARRAYS, ()):
        if name not in arrays and (instead or {}).get(name) not in arrays:
            raise StoreError(f"the run is damaged: there is no array {folder / name}; {REPAIR}")
    return arrays, restored(attributes)


def read_json(path: Path) -> Json:
    """Return the metadata in a ``zarr.json``, or another JSON object that `replace_json` wrote.

    Raises
    ------
    StoreError
        The file is missing or damaged.
    """
    return opened(read_unchecked(path), path)


def read_unchecked(path: Path) -> Json:
    """Return a JSON object with its checksum, if it has one."""
    with _reading(path):
        metadata = json.loads(path.read_bytes())
    if not isinstance(metadata, dict):
        raise StoreError(f"the run is damaged: expected a JSON object in {path}; {REPAIR}")
    return metadata


def replace_json(path: Path, metadata: Json, scratch: Path, *, forced: bool = False) -> None:
    """Replace a ``zarr.json`` in one step: readers find the old text or the new one, also after a kill.

    Parameters
    ----------
    forced : to the medium, so that this holds after a power cut, too
    """
    with scratch.open("w") as file:
        file.write(sealed(metadata))
        if forced:
            file.flush()
            os.fsync(file.fileno())
    scratch.replace(path)


def plain(value: Any) -> Any:
    """Return a value as strict JSON holds it; numbers that are not finite become words, as in zarr's fill values.

    >>> plain({"loss": np.float32("nan"), "epochs": (1, np.int64(2))})
    {'loss': 'NaN', 'epochs': [1, 2]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def restored(value: Any) -> Any:
    """Return what `plain` was given, tuples as lists.

    >>> restored({"loss": "NaN", "epochs": [1, 2]})
    {'loss': nan, 'epochs': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {key: restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restored(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


@contextmanager
def disk_errors(path: Path, n_safe: int | None = None) -> Iterator[None]:
    """Turn what the operating system refuses into a `StoreError` that says what is safe and what to do.

    Parameters
    ----------
    path : the run being written
    n_safe : number of committed shots, when known
    """
    try:
        yield
    except SeparatrixError:
        raise
    except OSError as error:
        safe = f"; everything up to shot {n_safe - 1} is safe" if n_safe else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left on device at {path}: free some and run again{safe}") from error
        raise StoreError(f"cannot write {error.filename or path}: {error.strerror or error}{safe}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except SeparatrixError:
        raise
    except (KeyError, TypeError) as error:
        raise StoreError(f"the run is damaged: {path} lacks what it should hold ({error}); {REPAIR}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise StoreError(f"the run is damaged: cannot read {path}: {reason or error}; {REPAIR}") from error


def _write_all(file: int, octets: memoryview, offset: int) -> None:
    """Write at an offset; the system may take the bytes in several portions, as when the disk fills up."""
    while octets:
        written = os.pwrite(file, octets, offset)
        octets, offset = octets[written:], offset + written


def _rows_per_chunk(row_bytes: int, n_rows: int) -> int:
    return max(min(_ARRAY_CHUNK_BYTES // row_bytes, n_rows), 1)


def _chunk_name(chunk: int, n_axes: int) -> str:
    return f"c.{chunk}" + ".0" * (n_axes - 1)


@functools.cache
def _group_template() -> str:
    """Return the metadata that zarr gives an empty group."""
    memory: dict[str, Any] = {}
    zarr.create_group(memory)
    return str(memory["zarr.json"].to_bytes(), "utf-8")


@functools.cache
def _array_template(dtype: str, dimensions: tuple[str, ...]) -> str:
    """Return the metadata that zarr gives an empty, uncompressed array; chunk files lie flat in the array's folder."""
    memory: dict[str, Any] = {}
    zarr.create_array(
        memory,
        shape=(0,) * len(dimensions),
        chunks=(1,) * len(dimensions),
        dtype=dtype,
        compressors=None,
        filters=None,
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=dimensions,
    )
    return str(memory["zarr.json"].to_bytes(), "utf-8")
