"""Committor shooting of a run: where trajectories started, and one row for where each of them ended.

::

    RUN/run.zarr/validations/<number>/{positions,box,features,cvs,q,shot,frame}   written once, whole
    RUN/run.zarr/validations/<number>/outcomes/<column>                           one row per trajectory

As in the run itself, the attribute ``committed`` of ``validations/<number>`` counts the rows of ``outcomes`` and is
replaced last, in one step: a process killed at any moment leaves a validation as its last commit left it. Nothing of
the run's own tables and counts is touched, so that versions that know no validations read the run as ever.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from separatrix.errors import StoreError
from separatrix.records import Configurations
from separatrix.store.arrays import (
    Table,
    create_checksums,
    create_column,
    create_group,
    disk_errors,
    read_group,
    read_json,
    replace_json,
    restored,
    write_array,
)
from separatrix.store.checksums import REPAIR, Json
from separatrix.store.layout import numbers

OUTCOME_COLUMNS: Final[dict[str, tuple[str, str, str]]] = {
    "configuration": ("<i4", "", "configuration that the trajectory started from"),
    "trajectory": ("<i4", "", "number of the trajectory among those of its configuration"),
    "state": ("<i1", "", "state that the trajectory ended in, -1 for none within max_frames"),
    "failed": ("|b1", "", "whether a machine failed on every attempt"),
    "n_frames": ("<i4", "", "saved frames, the first one not counted"),
    "md_steps": ("<i8", "", "integration steps"),
    "seconds": ("<f8", "s", "wall time in the worker"),
    "seed": ("<i8", "", "seed of the trajectory"),
    "retries": ("<i2", "", "attempts that a machine failed before this one"),
    "time": ("<f8", "seconds since 1970-01-01", "when the outcome was told"),
}
"""Columns of ``outcomes``: numpy type, CF units and meaning."""

_ROWS_PER_CHUNK: Final = 4096
_ROW: Final = np.dtype([(name, kind) for name, (kind, _, _) in OUTCOME_COLUMNS.items()])
_ARRAYS: Final[dict[str, tuple[str, ...]]] = {
    "positions": ("configuration", "atom", "axis"),
    "box": ("configuration", "vector", "axis"),
    "features": ("configuration", "feature"),
    "cvs": ("configuration", "cv"),
    "q": ("configuration",),
    "shot": ("configuration",),
    "frame": ("configuration",),
}
_UNITS: Final = {"positions": "nm", "box": "nm"}


class StoredValidation:
    """The configurations of one validation, and the outcomes so far.

    Parameters
    ----------
    folder : ``run.zarr/validations/<number>``
    scratch : where metadata are written before they replace others; None to read only
    """

    def __init__(self, folder: Path, scratch: Path | None) -> None:
        self.number: Final = int(folder.name)
        self._folder, self._scratch = folder, scratch
        self._metadata = read_json(folder / "zarr.json")
        self._table = Table(folder / "outcomes", OUTCOME_COLUMNS)
        self._new: list[bytes] = []
        if not isinstance(self._metadata.get("attributes", {}).get("committed"), int):
            raise StoreError(
                f"the run is damaged: expected the attribute committed in {folder / 'zarr.json'}; {REPAIR}"
            )
        if scratch is not None and not self._table.is_even:
            self._table.trim(self.n_outcomes, scratch)

    @property
    def settings(self) -> Json:
        """What tells this validation from others of the run."""
        settings: Json = restored(self._metadata["attributes"]["settings"])
        return settings

    @property
    def model(self) -> int:
        """Version of the model that the configurations were drawn with."""
        return int(self._metadata["attributes"]["model"])

    @property
    def n_outcomes(self) -> int:
        """Number of committed outcomes."""
        return int(self._metadata["attributes"]["committed"])

    def configurations(self) -> Configurations:
        """Return where trajectories start."""
        arrays, attributes = read_group(self._folder)
        return Configurations(
            **{name: arrays.get(name) for name in _ARRAYS},  # type: ignore[arg-type]
            model=int(attributes["model"]),
        )

    def outcomes(self) -> dict[str, NDArray[Any]]:
        """Return the committed outcomes, by column, in the order in which they were told."""
        return self._table.read(0, self.n_outcomes)

    def append(self, outcome: Mapping[str, Any]) -> None:
        """Add the outcome of a trajectory, in memory until the next `commit`.

        Parameters
        ----------
        outcome : a value for each of `OUTCOME_COLUMNS`
        """
        self._new.append(np.array([tuple(outcome[name] for name in OUTCOME_COLUMNS)], _ROW).tobytes())

    def commit(self) -> None:
        """Make all outcomes appended since the last commit exist, in one step.

        Raises
        ------
        StoreError
            The disk is full or cannot be written. Nothing is lost while the validation stays open: commit again.
        """
        if self._scratch is None:
            raise StoreError(f"the validation at {self._folder} is not open for writing")
        if not self._new:
            return
        rows = np.frombuffer(b"".join(self._new), _ROW)
        with disk_errors(self._folder):
            self._table.write(self.n_outcomes, {name: rows[name] for name in OUTCOME_COLUMNS}, self._scratch)
            attributes = {**self._metadata["attributes"], "committed": self.n_outcomes + len(rows)}
            metadata = {**self._metadata, "attributes": attributes}
            replace_json(self._folder / "zarr.json", metadata, self._scratch)
        self._metadata = metadata
        self._new.clear()

    def trim(self) -> None:
        """Cut the arrays to what is committed; what is not is discarded."""
        self._new.clear()
        if self._scratch is not None:
            with disk_errors(self._folder):
                self._table.trim(self.n_outcomes, self._scratch)


class Validations:
    """All validations of one run.

    Parameters
    ----------
    run : folder of the run
    writable : whether the run's lock is held
    """

    def __init__(self, run: Path, *, writable: bool) -> None:
        self._run, self._writable = run, writable
        self._folder = run / "run.zarr" / "validations"

    def numbers(self) -> list[int]:
        """Return the numbers of those that there are, the oldest first."""
        return numbers(self._folder) if self._folder.is_dir() else []

    def open(self, number: int) -> StoredValidation:
        """Return one of them.

        Raises
        ------
        StoreError
            It does not exist or is damaged.
        """
        if number not in self.numbers():
            raise StoreError(f"no validation {number} in {self._run}: there are {self.numbers()}")
        scratch = self._run / "pending" / "zarr.json" if self._writable else None
        return StoredValidation(self._folder / str(number), scratch)

    def find(self, settings: Json) -> StoredValidation | None:
        """Return the one with these settings, None if there is none."""
        for number in reversed(self.numbers()):
            found = self.open(number)
            if found.settings == settings:
                return found
        return None

    def create(self, configurations: Configurations, settings: Json) -> StoredValidation:
        """Make a new one, whole or not at all.

        Parameters
        ----------
        settings : plain values that tell it from others

        Raises
        ------
        StoreError
            The disk is full or cannot be written.
        """
        if not self._writable:
            raise StoreError(f"the run at {self._run} is not open for writing")
        number = max(self.numbers(), default=-1) + 1
        draft = self._run / "pending" / f"validation-{uuid.uuid4().hex[:12]}"
        try:
            with disk_errors(self._run):
                draft.mkdir()
                if not self._folder.is_dir():
                    create_group(draft / "validations", {})
                    (draft / "validations").rename(self._folder)
                _write(draft / "validation", configurations, settings)
                (draft / "validation").rename(self._folder / str(number))
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return self.open(number)


def _write(folder: Path, configurations: Configurations, settings: Json) -> None:
    arrays = {name: array for name in _ARRAYS if (array := getattr(configurations, name)) is not None}
    create_group(folder, {"settings": settings, "model": configurations.model, "committed": 0}, arrays)
    for name, array in arrays.items():
        write_array(folder / name, array, _ARRAYS[name], {"units": _UNITS[name]} if name in _UNITS else {})
    create_group(folder / "outcomes", {})
    for name, (dtype, units, meaning) in OUTCOME_COLUMNS.items():
        about: Json = {"long_name": meaning} | ({"units": units} if units else {})
        create_column(folder / "outcomes" / name, dtype, (0,), _ROWS_PER_CHUNK, ("outcome",), about)
    create_checksums(folder / "outcomes", _ROWS_PER_CHUNK, "outcome")
