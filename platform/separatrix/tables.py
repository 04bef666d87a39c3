"""Tables in files: CSV, Parquet and npz, read column by column, with the place of whatever is wrong in them."""

from __future__ import annotations

import csv
import hashlib
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from separatrix.errors import TableError
from separatrix.expressions import suggestion
from separatrix.records import FloatArray, IntArray

ENDINGS: Final = (".csv", ".parquet", ".npz")
MAX_COUNT: Final = 2**31 - 1
MAX_UNPACKED: Final = 2 * 2**30
"""Bytes that a packed table may hold: a file of some kilobytes could unfold without end."""

_DELIMITERS: Final = (",", ";", "\t")
_SINGLE_PRECISION: Final = float(np.finfo(np.float32).max)
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShotTable:
    """Configurations, and how often shots from each ended in each state.

    Attributes
    ----------
    columns : names of the d columns that describe a configuration
    features : (n, d) float64, as in the file
    counts : (n, n_states) int64, trajectories that ended in each state; at least one in every row
    groups : (n,) number of the group each row belongs to, counted in the order in which they appear; None without
    notes : what was left out, and what may not be meant, in sentences
    """

    columns: tuple[str, ...]
    features: FloatArray
    counts: IntArray
    groups: IntArray | None = None
    notes: tuple[str, ...] = field(default=())


def read_table(file: Path) -> dict[str, NDArray[Any]]:
    """Read a table: name of a column -> values (n,).

    Parameters
    ----------
    file : recognised by its ending. CSV has a header and commas, semicolons or tabs; npz one 1-D array for every
        column; Parquet needs pyarrow (``pip install "separatrix[parquet]"``)

    Raises
    ------
    TableError
        If it cannot be read, names a column twice, has columns of different lengths, or has no rows.
    """
    if not file.is_file():
        raise TableError(f"{file}: expected a table ({', '.join(ENDINGS)}), found no file there")
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise TableError(f"{file}: expected a file that ends in {', '.join(ENDINGS)}, got {file.suffix or 'no ending'}")
    try:
        columns = reader(file)
    except OSError as error:
        raise TableError(f"{file}: cannot be read: {error.strerror or _brief(error)}") from error
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        (first, n), (other, m) = next(
            pair for pair in zip(lengths.items(), [*lengths.items()][1:], strict=False) if pair[0][1] != pair[1][1]
        )
        raise TableError(f"{file}: expected columns of one length, found {n} in {first!r} and {m} in {other!r}")
    if not columns or not next(iter(lengths.values())):
        raise TableError(f"{file}: expected rows, found none; a table has a row for every configuration")
    return columns


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_csv(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
    except UnicodeDecodeError as error:
        raise TableError(f"{file}: expected text in UTF-8: {error}") from None
    delimiter = next((mark for mark in _DELIMITERS if mark in header), ",")
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error as error:
        raise TableError(f"{file}: expected the names of columns in the first line: {error}") from None
    if not names:
        raise TableError(f"{file}: expected the names of columns in the first line, found none")
    _check_names(file, names)
    try:
        with warnings.catch_warnings():
            # More fields than names in every row: pandas would cut them off.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                file,
                sep=delimiter,
                header=0,
                names=names,
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
                encoding="utf-8-sig",
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).removeprefix("Error tokenizing data. C error:").split())
        raise TableError(f"{file}: expected {len(names)} fields in every row, as in the header: {reason}") from None
    return {name: _plain(frame[name].to_numpy()) for name in names}


def _read_parquet(file: Path) -> dict[str, NDArray[Any]]:
    arrow = _arrow(file)
    try:
        with arrow.ParquetFile(file) as packed:
            _check_unpacked(file, packed.metadata.num_rows * packed.metadata.num_columns * 8)
            table = packed.read()
    except (TableError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - pyarrow raises whatever it runs into
        raise TableError(f"{file}: expected a Parquet file: {_brief(error)}") from None
    names = [name for name in table.column_names if not _PANDAS_INDEX.fullmatch(name)]
    _check_names(file, names)
    return {name: _plain(table.column(name).to_pandas().to_numpy()) for name in names}


def _read_npz(file: Path) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(file) as packed:
            _check_unpacked(file, sum(entry.file_size for entry in packed.infolist()))
        with np.load(file, allow_pickle=False) as arrays:
            names = list(arrays.files)
            for name in names:
                columns[name] = arrays[name]
        shapes = {name: values.shape for name, values in columns.items()}
    except (TableError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - numpy and zipfile raise whatever they run into
        raise TableError(f"{file}: expected an npz file of plain arrays: {_brief(error)}") from None
    for name, shape in shapes.items():
        if len(shape) != 1:
            raise TableError(
                f"{file}: expected a one-dimensional array for every column, found shape {shape} in {name!r}; "
                "give each of its columns a name of its own"
            )
    _check_names(file, names)
    return columns


def _check_unpacked(file: Path, size: int) -> None:
    if size > MAX_UNPACKED:
        raise TableError(
            f"{file}: expected a table of {MAX_UNPACKED // 2**20:,} MiB at most once it is unpacked, found "
            f"{size // 2**20:,} MiB; leave out rows or columns, or give it as CSV"
        )


def _brief(error: Exception) -> str:
    """Return in a line what a library says."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as numbers; strings, and what is missing among them, as objects."""
    return values.astype(np.float64) if values.dtype.kind in "biuf" and values.dtype.itemsize <= 8 else values


def _check_names(file: Path, names: Sequence[str]) -> None:
    for place, name in enumerate(names, start=1):
        if not name:
            raise TableError(f"{file}: expected a name for every column in the first line, column {place} has none")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        places = [str(place) for place, name in enumerate(names, start=1) if name == repeated[0]]
        raise TableError(
            f"{file}: two columns are called {repeated[0]!r} (columns {' and '.join(places)}); rename or remove one"
        )


def _arrow(file: Path) -> ModuleType:
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an extra, which not everybody has
    except ImportError:
        raise TableError(
            f'{file}: Parquet needs pyarrow: pip install "separatrix[parquet]", or give the table as CSV or npz'
        ) from None
    return parquet  # type: ignore[no-any-return]


# -- writing -----------------------------------------------------------------------------------------------------------


def write_table(file: Path, columns: Columns) -> None:
    """Write a table that `read_table` reads back, with all digits.

    Parameters
    ----------
    file : its ending says in which format
    columns : name -> values (n,)

    Raises
    ------
    TableError
        If the ending is unknown, or pyarrow is missing for Parquet.
    """
    ending = file.suffix.lower()
    if ending == ".npz":
        np.savez(file, **dict(columns))  # type: ignore[arg-type]  # a column may have the name of its keyword
    elif ending == ".csv":
        pd.DataFrame(dict(columns)).to_csv(file, index=False)
    elif ending == ".parquet":
        _arrow(file)
        pd.DataFrame(dict(columns)).to_parquet(file, engine="pyarrow", index=False)
    else:
        raise TableError(f"{file}: expected a file that ends in {', '.join(ENDINGS)}, got {ending or 'no ending'}")


# -- shots -------------------------------------------------------------------------------------------------------------


def shots_in(
    file: Path, counts: Sequence[str], *, groups: str | None = None, wanted: Sequence[str] | None = None
) -> ShotTable:
    """Read a table of shots: a row for every configuration.

    Rows without any shot are left out, and so are columns that do not vary or repeat another one; ``notes`` says so.

    Parameters
    ----------
    counts : the columns that count the shots which ended in each state
    groups : column whose values name groups of rows
    wanted : columns that must be there, all others left aside; by default all are taken

    Raises
    ------
    TableError
        Naming what was expected and found, the row (counted from 1, without the header), and the column.
    """
    table = read_table(file)
    for name in (*counts, *([] if groups is None else [groups]), *(wanted or ())):
        if name not in table:
            raise TableError(f"{file}: there is no column {name!r}{suggestion(name, table)}")
    numbers = np.stack([_counts(file, name, table[name]) for name in counts], axis=1)
    names = [name for name in table if name not in counts and name != groups] if wanted is None else list(wanted)
    if not names:
        raise TableError(f"{file}: expected columns that describe a configuration beside {', '.join(counts)}")
    features = np.stack([_finite(file, name, table[name]) for name in names], axis=1)
    numbered = None if groups is None else _groups(file, groups, table[groups])
    told = numbers.sum(axis=1) > 0
    notes: list[str] = []
    if not told.all():
        n, first = int((~told).sum()), int(np.argmin(told)) + 1
        notes.append(f"{n} of {len(told)} rows have no shot and were left out, the first is row {first}")
    features, numbers = features[told], numbers[told]
    numbered = None if numbered is None else np.unique(numbered[told], return_inverse=True)[1]
    if wanted is None and told.any():
        kept, more = _telling(names, features)
        names, features, notes = [names[place] for place in kept], features[:, kept], notes + more
        if not names:
            raise TableError(f"{file}: expected a column that varies, found none: {'; '.join(notes)}")
    return ShotTable(columns=tuple(names), features=features, counts=numbers, groups=numbered, notes=tuple(notes))


def _finite(file: Path, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return a column as numbers."""
    numbers = _numbers(file, name, values)
    missing = np.isnan(numbers)
    if missing.any():
        raise TableError(
            f"{file}: expected a number in every row, found none in row {np.argmax(missing) + 1} of column {name!r} "
            f"({missing.sum()} missing there); fill it in, or remove the row or the column"
        )
    beyond = np.abs(numbers) > _SINGLE_PRECISION
    if beyond.any():
        row = int(np.argmax(beyond))
        raise TableError(
            f"{file}: expected finite numbers of less than 3.4e38, found {numbers[row]:g} in row {row + 1} of column "
            f"{name!r}; remove the row or the column"
        )
    return numbers


def _numbers(file: Path, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    column = pd.Series(values) if values.dtype.kind != "V" else None
    if column is None or column.dtype.kind in "mMc":  # records, times and complex numbers, of which something would go
        numbers, wrong = np.empty(len(values)), np.ones(len(values), dtype=bool)
    else:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        wrong = np.isnan(numbers) & ~pd.isna(column).to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise TableError(
            f"{file}: expected numbers, found {str(values[row])[:40]!r} in row {row + 1} of column {name!r}; "
            "remove the column, or name it with --groups if it names groups of rows"
        )
    return numbers


def _counts(file: Path, name: str, values: NDArray[Any]) -> IntArray:
    numbers = _finite(file, name, values)
    for wrong, expected in (
        (numbers < 0, "0 or more"),
        (numbers != np.floor(numbers), "whole numbers"),
        (numbers > MAX_COUNT, f"{MAX_COUNT} at most"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise TableError(
                f"{file}: expected counts of shots, {expected}, found {numbers[row]:g} in row {row + 1} of column "
                f"{name!r}"
            )
    return np.asarray(numbers, dtype=np.int64)


def _groups(file: Path, name: str, values: NDArray[Any]) -> IntArray:
    try:
        numbers, _ = pd.factorize(pd.Series(values), use_na_sentinel=True)
    except (TypeError, ValueError):
        row = next((row for row, value in enumerate(values) if value is not None), 0)
        raise TableError(
            f"{file}: expected numbers or text that name groups, found {str(values[row])[:40]!r} in row {row + 1} of "
            f"column {name!r}; name another column with --groups"
        ) from None
    if (numbers < 0).any():
        raise TableError(
            f"{file}: expected a group for every row, found none in row {np.argmax(numbers < 0) + 1} of column {name!r}"
        )
    return np.asarray(numbers, dtype=np.int64)


def _telling(names: Sequence[str], features: FloatArray) -> tuple[list[int], list[str]]:
    """Return the columns that vary and repeat no other one, and what is to be said of those left out."""
    kept: list[int] = []
    notes: list[str] = []
    seen: dict[bytes, str] = {}
    for place, name in enumerate(names):
        column = features[:, place]
        repeated = seen.setdefault(column.tobytes(), name)
        if (column == column[0]).all():
            notes.append(f"column {name!r} is constant ({column[0]:g}) and was left out")
        elif repeated != name:
            notes.append(f"column {name!r} repeats {repeated!r} and was left out")
        else:
            kept.append(place)
    return kept, notes


def quoted(names: Iterable[str]) -> str:
    """Return names for a sentence."""
    return ", ".join(repr(name) for name in names)
