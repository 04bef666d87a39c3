"""What of a damaged run is whole: the longest part from its beginning on that sampling can go on from.

A power cut can take the last seconds of some files and not of others. What came before is not lost for that: the rows
of a run stand in the order in which they were committed, so that a run cut back to its first n shots is what it was
when it held n shots.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separatrix.errors import RunFormatError, RunNotFoundError, StoreError
from separatrix.store.arrays import Table, create_group, disk_errors, read_group, read_json, replace_json
from separatrix.store.checksums import REPAIR, RESTORE, SYSTEM, Json, check_files
from separatrix.store.layout import (
    FORMAT,
    FRAME_COLUMNS,
    REPAIRED,
    Committed,
    is_whole,
    numbers,
    read_committed,
    read_path,
    read_root,
    read_states,
    shot_columns,
)
from separatrix.store.lock import acquire
from separatrix.store.results import RESULTS, read_result, result_file
from separatrix.store.run import Store
from separatrix.store.validations import Validations

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What of a run is whole.

    Attributes
    ----------
    before : what the run says that it holds; None where that cannot be read
    after : what is left of it
    damage : what is wrong, a sentence each
    lost_paths : shots that are kept and whose paths are spoiled; sampling does not need them any more
    lost_models : versions of earlier models that are spoiled
    lost_validations : validations that are spoiled
    lost_results : results of analyses that are spoiled
    """

    before: Committed | None
    after: Committed
    damage: tuple[str, ...]
    lost_paths: tuple[int, ...]
    lost_models: tuple[int, ...]
    lost_validations: tuple[int, ...]
    lost_results: tuple[str, ...]

    @property
    def is_needed(self) -> bool:
        """Whether anything has to be given up."""
        return self.before != self.after or any(
            (self.lost_paths, self.lost_models, self.lost_validations, self.lost_results)
        )

    def lost_members(self) -> dict[str, tuple[int, ...]]:
        """Return the numbers of what is spoiled by the group of ``run.zarr`` that holds it."""
        return {
            "trajectories": self.lost_paths,
            "models": self.lost_models,
            "validations": self.lost_validations,
        }


def examine(run: Path, watch: Callable[[int, int], None] = lambda done, total: None) -> Repair:
    """Read everything that a run holds, and return what of it is whole.

    Parameters
    ----------
    run : folder
    watch : called with the number of paths that have been read, and of all

    Raises
    ------
    RunNotFoundError
        There is no run at this path.
    StoreError
        Something is damaged without which there is no run: its configuration, its system, the description of its
        tables, or a chain's first path.
    """
    folder = run / "run.zarr"
    if not (folder / "shots").is_dir():
        raise RunNotFoundError(f"no run at {run}: expected a folder that holds run.zarr")
    check_files(run)
    if not (run / SYSTEM).is_file():
        raise StoreError(f"{run} was made from a table; nothing is repaired in it, make it anew: separatrix learn")
    try:
        return _Examination(run, watch).outcome()
    except StoreError as error:
        raise type(error)(str(error).replace(REPAIR, RESTORE)) from error


def repair(run: Path, watch: Callable[[int, int], None] = lambda done, total: None) -> Repair:
    """Cut a run back to what is whole, and move what is spoiled to ``RUN/damaged``.

    If the run is cut, results of analyses go, too: they follow from what it holds and can be made anew. A kill at any
    moment leaves a run of which as much is whole as before.

    Parameters
    ----------
    run, watch : as of `examine`

    Raises
    ------
    RunLockedError
        Another process is writing the run.
    RunNotFoundError, StoreError
        As `examine`; or the disk is full or cannot be written.
    """
    with disk_errors(run):
        lock = acquire(run)
        try:
            found = examine(run, watch)
            if found.is_needed:
                shutil.rmtree(run / "pending", ignore_errors=True)
                (run / "pending").mkdir()
                for name in found.lost_results:
                    _move_away(run, result_file(run, name))
                for name in RESULTS if found.before != found.after else ():
                    result_file(run, name).unlink(missing_ok=True)
                for kind, lost in found.lost_members().items():
                    for number in lost:
                        _move_away(run, run / "run.zarr" / kind / str(number))
                replace_json(run / "run.zarr" / "zarr.json", _root(run, found.after), run / "pending" / "zarr.json")
        finally:
            lock.release()
    if found.is_needed:
        with Store.open(run, writable=True) as store:  # which drops what is not committed
            before = None if found.before is None else asdict(found.before)
            store.log("repaired", before=before, after=asdict(found.after), damage=list(found.damage))
    return found


def _move_away(run: Path, spoiled: Path) -> None:
    place = run / "damaged" / spoiled.parent.name / f"{spoiled.name}-{uuid.uuid4().hex[:12]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    spoiled.rename(place)


def _root(run: Path, after: Committed) -> Json:
    """Return the metadata of ``run.zarr`` with other counts; where they cannot be read, new ones without notes."""
    counts = {"committed": asdict(after), REPAIRED: uuid.uuid4().hex}
    with suppress(StoreError, RunNotFoundError):
        root = read_root(run)
        return {**root, "attributes": {**root["attributes"], **counts}}
    blank = run / "pending" / "root"
    create_group(blank, {"separatrix_format": FORMAT, **counts, "notes": {}})
    return read_json(blank / "zarr.json")


class _Examination:
    """Reads a run from its tables on: what they tell decides what else must be whole."""

    def __init__(self, run: Path, watch: Callable[[int, int], None]) -> None:
        self._run, self._folder, self._watch = run, run / "run.zarr", watch
        self._damage: list[str] = []
        self._shots = Table(self._folder / "shots", shot_columns(len(read_states(self._folder / "shots"))))
        self._frames = Table(self._folder / "frames", FRAME_COLUMNS)
        self._before: Committed | None = None
        try:
            self._before = read_committed(read_root(run))
        except RunFormatError:
            raise
        except (RunNotFoundError, StoreError) as error:
            if not (self._shots.checked and self._frames.checked):
                raise  # nothing tells which rows were written
            self._note(error)

    def outcome(self) -> Repair:
        """Return what is whole."""
        versions = numbers(self._folder / "models")
        most = self._before or Committed(
            shots=self._shots.length, frames=self._frames.length, models=max(versions, default=-1) + 1
        )
        n_shots, n_frames = self._whole(self._shots, most.shots), self._whole(self._frames, most.frames)
        shots, shot_of_frame = self._shots.read(0, n_shots), self._frames.read(0, n_frames)["shot"]
        if n_frames < most.frames:  # the last shot may have had more
            n_shots = min(n_shots, int(shot_of_frame[-1]) if n_frames else 0)
        lost = self._lost_paths(n_shots)
        if most.models and most.models - 1 not in versions:
            self._damage.append(f"there is no model {most.models - 1} in {self._folder / 'models'}")
        models = self._models([version for version in versions if version < most.models])
        while True:
            newest = max((version for version, needed in models.items() if needed <= n_shots), default=-1)
            cut = self._cut(shots, n_shots, newest, lost)
            if cut == n_shots:
                break
            n_shots = cut
        validations = self._lost_validations()
        results = tuple(name for name in RESULTS if not self._can(partial(read_result, self._run, name)))
        after = Committed(shots=n_shots, frames=int(np.searchsorted(shot_of_frame, n_shots)), models=newest + 1)
        return Repair(
            before=self._before,
            after=after,
            damage=tuple(self._damage),
            lost_paths=tuple(sorted(shot for shot in lost if shot < n_shots)),
            lost_models=tuple(version for version in versions if version < newest and version not in models),
            lost_validations=validations,
            lost_results=results,
        )

    def _note(self, error: Exception) -> None:
        told = str(error).removeprefix("the run is damaged: ").removesuffix(f"; {REPAIR}")
        if told not in self._damage:
            self._damage.append(told)

    def _whole(self, table: Table, n_rows: int) -> int:
        """Return how many rows from the first on are what was written; lengths beyond count for nothing."""
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, n_rows)
            try:
                table.read(start, stop)
            except StoreError as error:
                if self._before is not None:  # else rows that were never written have been asked for
                    self._note(error)
                return start + self._whole_one_by_one(table, start, stop)
        return n_rows

    @staticmethod
    def _whole_one_by_one(table: Table, start: int, stop: int) -> int:
        for row in range(start, stop):
            try:
                table.read(row, row + 1)
            except StoreError:
                return row - start
        return stop - start

    def _lost_paths(self, n_shots: int) -> set[int]:
        """Return the shots whose stored path cannot be read."""
        shots = [shot for shot in numbers(self._folder / "trajectories") if shot < n_shots]
        lost = set()
        for done, shot in enumerate(shots):
            self._watch(done, len(shots))
            try:
                read_path(self._folder / "trajectories" / str(shot))
            except StoreError as error:
                self._note(error)
                lost.add(shot)
        self._watch(len(shots), len(shots))
        return lost

    def _models(self, versions: list[int]) -> dict[int, int]:
        """Return the models that are whole, and on how many shots each was trained."""
        whole = {}
        for version in versions:
            try:
                arrays, report = read_group(self._folder / "models" / str(version))
                if "weights" not in arrays:
                    raise StoreError(f"there are no weights of model {version}")
            except StoreError as error:
                self._note(error)
            else:
                whole[version] = int(report["n_shots"])
        return whole

    def _lost_validations(self) -> tuple[int, ...]:
        validations = Validations(self._run, writable=False)

        def read(number: int) -> None:
            stored = validations.open(number)
            stored.configurations(), stored.outcomes()

        return tuple(number for number in validations.numbers() if not self._can(partial(read, number)))

    def _can(self, read: Callable[[], object]) -> bool:
        """Return whether something can be read, and note why not."""
        try:
            read()
        except StoreError as error:
            self._note(error)
            return False
        return True

    def _cut(self, shots: dict[str, NDArray[Any]], n_shots: int, newest: int, lost: set[int]) -> int:
        """Return the number of shots to keep, so that all came from models that are kept and every chain has a path."""
        unknown = np.flatnonzero(shots["model"][:n_shots] > max(newest, 0))
        if len(unknown):
            return int(unknown[0])
        for chain in numbers(self._folder / "seeds"):
            accepted = np.flatnonzero((shots["chain"][:n_shots] == chain) & shots["accepted"][:n_shots].astype(bool))
            if len(accepted) == 0:
                read_path(self._folder / "seeds" / str(chain))
                continue
            last = int(accepted[-1])
            if last in lost:
                return last
            if not is_whole(self._folder / "trajectories" / str(last)):
                self._damage.append(f"there is no whole path of shot {last}, on which chain {chain} stood")
                return last
        return n_shots
