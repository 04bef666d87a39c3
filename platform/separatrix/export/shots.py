"""The shots of a run as a table that `separatrix learn` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from separatrix.errors import ExportError
from separatrix.export.files import check_ending, whole
from separatrix.reader import Reader, count_names
from separatrix.tables import ENDINGS, write_table
from separatrix.training_data import end_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a table of shots holds: the names of its columns of counts and of groups, and how many rows."""

    counts: tuple[str, ...]
    groups: str | None
    n_rows: int
    n_left_out: int


def write_shots(reader: Reader, file: Path | str, *, force: bool = False) -> Written:
    """Write a row for every shot that ended in a state: the descriptors of its shooting point, and the counts.

    The counts are ``n_A`` and ``n_B``, of more than two states ``n_`` and the name of each; in a run made from a table
    they keep their names, and its groups, numbered, have their column. Columns have the names and units of
    ``run.frames["features"]``.

    Parameters
    ----------
    reader : of the run
    file : ``.csv``, ``.parquet`` (which needs pyarrow) or ``.npz``
    force : whether a file that is there may be replaced

    Raises
    ------
    ExportError
        If the run has no shots, or there is a file already.
    """
    file = Path(file)
    check_ending(file, ENDINGS)
    points, shots = reader.shooting_points(), reader.columns("shots")
    rows = points.shot
    if not len(rows):
        raise ExportError(f"{reader.folder}: expected shots that ended in a state, found none; sample more")
    table = reader.config.table
    counts = count_names(reader)
    groups = None if table is None else table.groups
    names = [*reader.observables.descriptors.names, *counts, *([] if groups is None else [groups])]
    if len(set(names)) < len(names):
        raise ExportError(
            f"{reader.folder}: a descriptor is called {' or '.join(map(repr, counts))}, as the counts are; rename it"
        )
    columns = dict(zip(names, points.features.T, strict=False))
    columns |= dict(zip(counts, end_counts(shots)[rows].T, strict=True))
    if groups is not None:
        columns[groups] = shots["chain"][rows]
    with whole(file, force=force) as folder:
        write_table(folder / file.name, columns)
    return Written(counts=counts, groups=groups, n_rows=len(rows), n_left_out=len(shots["chain"]) - len(rows))
