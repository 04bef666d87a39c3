"""The store of one run.

::

    RUN/config.toml  RUN/system/{system.xml,topology.pdb}  RUN/SHA256SUMS  RUN/lock  RUN/log.jsonl
    RUN/pending/                                 written, but not yet part of the run
    RUN/run.zarr/shots/<column>                  one row per shot, in the order of commits: the row is its number
    RUN/run.zarr/frames/<column>                 packed frames of all shots
    RUN/run.zarr/trajectories/<shot>/{positions,box}  (reduced to the solute, where that is wished: {solute,box})
    RUN/run.zarr/seeds/<chain>/{positions,box}
    RUN/run.zarr/starts/{positions,box}          configurations to look for a first path from, named in the attributes
    RUN/run.zarr/models/<version>/weights        with the report as attributes and further arrays
    RUN/run.zarr/validations/<number>/           committor shooting, see `separatrix.store.validations`

The attribute ``committed`` of ``run.zarr`` counts what exists. It is replaced last, in one step, so a process killed at
any moment leaves the run as its last commit left it. A repair, which alone makes counts smaller, changes the attribute
``repaired``, by which readers know that rows may be others than before. Metadata, trajectories and models are written
under ``pending`` and renamed into place whole; rows of columns are written once, beyond what is committed. So readers
need no lock. Files are handed to the operating system and not forced to the medium, unless they are results: a power
cut can cost more than a kill. What it or anything else spoiled is told by checksums and refused, see
`separatrix.store.checksums`.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from separatrix.errors import RunExistsError, StoreError
from separatrix.records import Float32Array, FloatArray, IntArray, Snapshot
from separatrix.store.arrays import (
    StoredFrames,
    Table,
    create_group,
    disk_errors,
    plain,
    read_group,
    replace_json,
    restored,
    write_array,
)
from separatrix.store.checksums import CONFIG, REPAIR, RESTORE, SYSTEM, TOPOLOGY, Json, check_files, write_sums
from separatrix.store.layout import (
    FRAME_COLUMNS,
    REPAIRED,
    Committed,
    create_arrays,
    is_whole,
    numbers,
    read_committed,
    read_path,
    read_root,
    read_starts,
    read_states,
    reduce_path,
    shot_columns,
    shot_shape,
    write_path,
    write_starts,
)
from separatrix.store.lock import acquire, lock_place
from separatrix.store.log import write_event
from separatrix.store.validations import Validations


def write_trajectory(run: Path, name: str, positions: Float32Array, box: Float32Array | None) -> str:
    """Write one path under ``RUN/pending``, for `Store.adopt_trajectory`; workers call this, many at once.

    Parameters
    ----------
    run : the run's folder
    name : tells people what it is; a unique ending is added, so that a repeated attempt disturbs no other
    positions : (n_frames, n_atoms, 3) float32, nm
    box : (n_frames, 3, 3) float32, nm, or None without periodic boundaries

    Returns
    -------
    str
        The folder written, relative to the run.

    Raises
    ------
    StoreError
        The disk is full or cannot be written.
    """
    relative = f"pending/{name}-{uuid.uuid4().hex[:12]}"
    with disk_errors(run), _whole(run / relative):
        write_path(run / relative, positions, box)
    return relative


def require_nothing_at(path: Path) -> None:
    """Refuse a place where something is already.

    Raises
    ------
    RunExistsError
        There is a file, or a folder that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunExistsError(f"expected nothing at {path} yet, found a file or a folder that is not empty")


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Remove a folder that could not be written: on a full disk its room is needed for a last commit."""
    try:
        yield
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class Store:
    """One run on disk, opened by its only writer (``writable=True``) or by a reader.

    A reader sees what was committed when it was opened or last refreshed. The writer keeps new rows in memory until
    `commit`, and is used by one thread at a time; closing it discards what was not committed.
    """

    def __init__(self, path: Path, lock: FileLock | None) -> None:
        """Take over a run and perhaps its lock; `create` and `open` make stores."""
        self.path: Final = path
        self._zarr: Final = path / "run.zarr"
        self._lock = lock
        self._lock_place: Final = None if lock is None else lock_place(path)
        self._root = read_root(path)
        self._states: Final = read_states(self._zarr / "shots")
        columns = shot_columns(len(self._states))
        self._row: Final = np.dtype(
            [(name, kind, shot_shape(name, len(self._states))) for name, (kind, _, _) in columns.items()]
        )
        self._shots: Final = Table(self._zarr / "shots", columns)
        self._frames: Final = Table(self._zarr / "frames", FRAME_COLUMNS)
        self._new_shots: list[bytes] = []
        self._new_frames: list[tuple[Float32Array, Float32Array, IntArray]] = []
        self._committed = read_committed(self._root)
        self._models = self._committed.models
        self._history = 0
        self._refreshing: Final = threading.Lock()  # else an older look could take the place of a newer one

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        config_toml: str,
        system_xml: str | None = None,
        topology_pdb: str | None = None,
        starts: Mapping[str, Snapshot] | None = None,
        feature_names: Sequence[str],
        cv_names: Sequence[str],
        state_names: Sequence[str],
    ) -> Self:
        """Make an empty run, whole or not at all, and open it for writing.

        Parameters
        ----------
        system_xml, topology_pdb : what moves; None in a run made from a table
        starts : named configurations to look for a first path from

        Raises
        ------
        RunExistsError
            Something is there already.
        StoreError
            The disk is full or cannot be written.
        """
        path = Path(path).absolute()
        require_nothing_at(path)
        draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
        texts = {CONFIG: config_toml, SYSTEM: system_xml, TOPOLOGY: topology_pdb}
        try:
            with disk_errors(path):
                for name, text in texts.items():
                    if text is not None:
                        (draft / name).parent.mkdir(parents=True, exist_ok=True)
                        (draft / name).write_text(text, encoding="utf-8")
                write_sums(draft, [name for name, text in texts.items() if text is not None])
                create_arrays(draft / "run.zarr", list(feature_names), list(cv_names), list(state_names))
                if starts:
                    write_starts(draft / "run.zarr" / "starts", starts)
                draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls.open(path, writable=True)

    @classmethod
    def open(cls, path: Path | str, *, writable: bool = False) -> Self:
        """Open a run; for writing, take its lock and drop what the last writer did not commit.

        Raises
        ------
        RunNotFoundError
            There is no run at this path.
        RunLockedError
            Another process is writing the run.
        StoreError
            The run is damaged, was written by another version, or cannot be written.
        """
        path = Path(path).absolute()
        if not writable:
            return cls(path, None)
        read_root(path)
        with disk_errors(path):
            lock = acquire(path)
            try:
                store = cls(path, lock)
                store._recover()
            except BaseException:
                lock.release()
                raise
        return store

    def close(self) -> None:
        """Discard what was not committed and what nobody adopted, cut the arrays, and give the lock back."""
        lock, self._lock = self._lock, None
        self._new_shots.clear()
        self._new_frames.clear()
        self._models = self._committed.models
        if lock is not None:
            try:
                if lock_place(self.path) == self._lock_place:
                    with disk_errors(self.path, self._committed.shots):
                        self._empty_pending()
                    self._trim()
            finally:
                lock.release()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the store."""
        self.close()

    @property
    def committed(self) -> Committed:
        """What exists, as far as this store has looked."""
        return self._committed

    @property
    def n_shots(self) -> int:
        """Number of shots with the uncommitted ones: the number that the next one gets."""
        return self._committed.shots + len(self._new_shots)

    @property
    def system_xml(self) -> str:
        """The simulated system as OpenMM serialised it."""
        file = self.path / SYSTEM
        check_files(self.path, SYSTEM)
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise StoreError(f"the run is damaged: cannot read {file}: {error}; {RESTORE}") from error

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of ``features``."""
        return tuple(self._frames.attributes["features"])

    @property
    def cv_names(self) -> tuple[str, ...]:
        """Names of the columns of ``cvs``."""
        return tuple(self._frames.attributes["cvs"])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states, in the order of their indices."""
        return self._states

    @property
    def notes(self) -> dict[str, Any]:
        """What the writer said about the run with its last commit, such as its state."""
        return dict(restored(self._root["attributes"]["notes"]))

    def refresh(self) -> Committed:
        """Look again at what is committed; until the next call, everything read is of that moment."""
        if self._lock is None:
            with self._refreshing:
                before, told = self._committed, self._root["attributes"].get(REPAIRED)
                self._root = read_root(self.path)
                self._committed = read_committed(self._root)
                self._models = self._committed.models
                if self._root["attributes"].get(REPAIRED) != told or not self._committed.continues(before):
                    self._history += 1
        return self._committed

    @property
    def history(self) -> int:
        """How often `refresh` found the run cut back, as by a repair: what was read before may be another thing now."""
        return self._history

    def shots(self, start: int = 0) -> dict[str, NDArray[Any]]:
        """Return the committed shots from number ``start`` on, by column; only these rows are read."""
        return self._shots.read(start, self._committed.shots)

    def frames(self, start: int = 0, stop: int | None = None) -> dict[str, NDArray[Any]]:
        """Return the committed frames from row ``start`` to ``stop``, by default the last; only these rows are read.

        Returns
        -------
        dict
            ``features`` (n, d) float32, ``cvs`` (n, k) float32, ``shot`` (n,) int32 and ``offset`` (n,) int32, the
            index of the frame relative to the shooting point.
        """
        n_frames = self._committed.frames
        return self._frames.read(start, n_frames if stop is None else min(stop, n_frames))

    def append(self, shot: Mapping[str, Any], features: FloatArray, cvs: FloatArray, offsets: IntArray) -> int:
        """Add a shot and its frames, in memory until the next `commit`.

        Parameters
        ----------
        shot : a value for each of `shot_columns`
        features : (n, d)
        cvs : (n, k)
        offsets : (n,) index of each frame relative to the shooting point

        Returns
        -------
        int
            The shot's number: its row in ``shots``.

        Raises
        ------
        ValueError
            Columns are missing or unknown, or the arrays do not line up.
        """
        self._require_writable()
        names = self._row.names or ()
        if shot.keys() != set(names):
            wrong = ", ".join(sorted(shot.keys() ^ set(names)))
            raise ValueError(f"expected the {len(names)} columns of a shot; missing or unknown: {wrong}")
        found, n = (np.shape(features), np.shape(cvs), np.shape(offsets)), len(offsets)
        expected = ((n, len(self._frames.attributes["features"])), (n, len(self._frames.attributes["cvs"])), (n,))
        if found != expected:
            raise ValueError(f"expected features, cvs and offsets of shapes {expected}, got {found}")
        row = np.array([tuple(shot[name] for name in names)], self._row).tobytes()
        frames = np.array(features, np.float32), np.array(cvs, np.float32), np.array(offsets, np.int32)
        self._new_shots.append(row)
        self._new_frames.append(frames)
        return self.n_shots - 1

    def commit(self, notes: Mapping[str, Any] | None = None) -> None:
        """Make all shots appended and models written since the last commit exist, in one step.

        Parameters
        ----------
        notes : plain values that replace the run's `notes` in the same step; None leaves them

        Raises
        ------
        StoreError
            The disk is full or cannot be written. Nothing is lost while the store stays open: commit again.
        """
        self._require_writable()
        before, n_frames = self._committed, sum(len(offsets) for _, _, offsets in self._new_frames)
        after_notes = self._root["attributes"]["notes"] if notes is None else plain(notes)
        unchanged = not self._new_shots and self._models == before.models
        if unchanged and after_notes == self._root["attributes"]["notes"]:
            return
        after = Committed(shots=self.n_shots, frames=before.frames + n_frames, models=self._models)
        with disk_errors(self.path, before.shots):
            if self._new_shots:
                shots = np.frombuffer(b"".join(self._new_shots), self._row)
                self._shots.write(before.shots, {name: shots[name] for name in self._row.names or ()}, self._scratch)
                self._frames.write(before.frames, self._packed_frames(), self._scratch)
            counts = {"committed": asdict(after), "notes": after_notes}
            root = {**self._root, "attributes": {**self._root["attributes"], **counts}}
            replace_json(self._zarr / "zarr.json", root, self._scratch)
        self._root, self._committed = root, after
        self._new_shots.clear()
        self._new_frames.clear()

    def adopt_trajectory(self, pending: str, shot: int) -> None:
        """Give what `write_trajectory` wrote to a shot that is not committed yet, with which it comes to exist."""
        self._require_writable()
        if shot < self._committed.shots:
            raise ValueError(f"expected a shot that is not committed yet (from {self._committed.shots} on), got {shot}")
        with disk_errors(self.path, self._committed.shots):
            (self.path / pending).rename(self._zarr / "trajectories" / str(shot))

    def frames_of(self, shot: int, n_frames: int, n_atoms: int) -> StoredFrames:
        """Return the positions of a shot's whole trajectory, read frame by frame when they are asked for."""
        return StoredFrames(self._zarr / "trajectories" / str(shot) / "positions", (n_frames, n_atoms, 3))

    def seed_frames_of(self, chain: int, n_frames: int, n_atoms: int) -> StoredFrames:
        """Return the positions of a chain's seed path, read frame by frame when they are asked for."""
        return StoredFrames(self._zarr / "seeds" / str(chain) / "positions", (n_frames, n_atoms, 3))

    def trajectory(self, shot: int) -> tuple[Float32Array, Float32Array | None]:
        """Return positions (n_frames, n_atoms, 3) nm, and box (n_frames, 3, 3) nm or None, of a shot.

        Of a reduced trajectory the atoms are those that were kept.

        Raises
        ------
        StoreError
            The shot does not exist or has no trajectory.
        """
        folder = self._zarr / "trajectories" / str(shot)
        if not 0 <= shot < self.n_shots or not folder.is_dir():
            raise StoreError(f"no trajectory of shot {shot} in {self.path}: it holds {self.n_shots} shots")
        return read_path(folder)

    def is_whole(self, shot: int) -> bool:
        """Return whether the trajectory of a shot is stored with all atoms."""
        return is_whole(self._zarr / "trajectories" / str(shot))

    def trajectory_shots(self) -> list[int]:
        """Return the committed shots that have a trajectory."""
        return [shot for shot in numbers(self._zarr / "trajectories") if shot < self._committed.shots]

    def reduce_trajectory(self, shot: int, solute: IntArray) -> None:
        """Keep some atoms of the trajectory of a committed shot alone; a kill at any moment leaves it whole or reduced.

        Parameters
        ----------
        solute : indices of the atoms to keep
        """
        self._require_writable()
        if not 0 <= shot < self._committed.shots:
            raise ValueError(f"expected a committed shot (below {self._committed.shots}), got {shot}")
        scratch = self.path / f"pending/reduced-{uuid.uuid4().hex[:12]}"
        with disk_errors(self.path, self._committed.shots), _whole(scratch):
            reduce_path(self._zarr / "trajectories" / str(shot), solute, scratch)

    def write_seed_path(self, chain: int, positions: Float32Array, box: Float32Array | None) -> None:
        """Write, once and at once, the path a chain starts from; arrays as for `write_trajectory`."""
        self._require_writable()
        pending = write_trajectory(self.path, f"seed-{chain}", positions, box)
        with disk_errors(self.path, self._committed.shots):
            (self.path / pending).rename(self._zarr / "seeds" / str(chain))

    def seed_path(self, chain: int) -> tuple[Float32Array, Float32Array | None]:
        """Return positions (n_frames, n_atoms, 3) nm, and box (n_frames, 3, 3) nm or None, a chain started from.

        Raises
        ------
        StoreError
            The chain has no seed path.
        """
        folder = self._zarr / "seeds" / str(chain)
        if not folder.is_dir():
            raise StoreError(f"no seed path of chain {chain} in {self.path}: chains {self.seed_chains()} have one")
        return read_path(folder)

    def starts(self) -> dict[str, Snapshot]:
        """Return the configurations to look for a first path from, by name; none in runs that were made without."""
        folder = self._zarr / "starts"
        return read_starts(folder) if folder.is_dir() else {}

    def seed_chains(self) -> list[int]:
        """Return the chains that have a seed path."""
        return numbers(self._zarr / "seeds")

    def write_model(self, version: int, data: bytes, report: Mapping[str, Any]) -> None:
        """Write a model, which exists from the next `commit` on.

        Parameters
        ----------
        version : above all versions before; models are never replaced
        data : the model itself
        report : plain values, nested if need be, and numeric arrays; `model_report` returns it
        """
        self._require_writable()
        if version < self._models:
            raise ValueError(f"expected a model version from {self._models} on, got {version}")
        arrays = {name: value for name, value in report.items() if isinstance(value, np.ndarray)}
        folder = self.path / f"pending/model-{uuid.uuid4().hex[:12]}"
        with disk_errors(self.path, self._committed.shots), _whole(folder):
            values = {name: value for name, value in report.items() if name not in arrays}
            create_group(folder, values, ["weights", *arrays])
            write_array(folder / "weights", np.frombuffer(data, np.uint8), ("byte",), {})
            for name, array in arrays.items():
                write_array(folder / name, array, tuple(f"{name}_{axis}" for axis in range(array.ndim)), {})
            folder.rename(self._zarr / "models" / str(version))
        self._models = version + 1

    def model_versions(self) -> list[int]:
        """Return the versions of the models that exist, in ascending order.

        Raises
        ------
        StoreError
            The newest is gone.
        """
        versions = [version for version in numbers(self._zarr / "models") if version < self._models]
        if self._models and self._models - 1 not in versions:
            folder = self._zarr / "models"
            raise StoreError(f"the run is damaged: there is no model {self._models - 1} in {folder}; {REPAIR}")
        return versions

    def model(self, version: int) -> bytes:
        """Return the model itself.

        Raises
        ------
        StoreError
            There is no such model.
        """
        arrays = self._read_model(version)[0]
        if "weights" not in arrays:  # a run of before did not say what it holds
            raise StoreError(f"the run is damaged: no weights in {self._zarr / 'models' / str(version)}; {REPAIR}")
        return arrays["weights"].tobytes()

    def model_report(self, version: int) -> dict[str, Any]:
        """Return the report written with a model.

        Raises
        ------
        StoreError
            There is no such model.
        """
        arrays, report = self._read_model(version)
        return report | {name: array for name, array in arrays.items() if name != "weights"}

    @property
    def validations(self) -> Validations:
        """Committor shooting of this run."""
        return Validations(self.path, writable=self._lock is not None)

    def log(self, event: str, **data: Any) -> None:
        """Append a line of JSON to ``RUN/log.jsonl``: the unix time, the event, and its data as plain values."""
        self._require_writable()
        write_event(self.path, event, data, self._committed.shots)

    @property
    def _scratch(self) -> Path:
        """Where metadata are written before they replace others."""
        return self.path / "pending" / "zarr.json"

    @contextmanager
    def in_its_place(self) -> Iterator[None]:
        """Have what fails because the run is no longer there say so, and not that it is damaged."""
        try:
            yield
        except StoreError:
            self._require_writable()
            raise

    def _require_writable(self) -> None:
        if self._lock is None:
            raise StoreError(f"the run at {self.path} is not open for writing")
        if lock_place(self.path) != self._lock_place:
            raise StoreError(
                f"{self.path} was moved, deleted or replaced by another run while it was being written; nothing more "
                "is written there"
            )

    def _packed_frames(self) -> dict[str, NDArray[Any]]:
        features, cvs, offsets = zip(*self._new_frames, strict=True)
        shots = np.arange(self._committed.shots, self.n_shots)
        return {
            "features": np.concatenate(features),
            "cvs": np.concatenate(cvs),
            "shot": np.repeat(shots, [len(part) for part in offsets]),
            "offset": np.concatenate(offsets),
        }

    def _read_model(self, version: int) -> tuple[dict[str, NDArray[Any]], Json]:
        if version not in self.model_versions():
            raise StoreError(f"no model {version} in {self.path}: there are {self.model_versions()}")
        return read_group(self._zarr / "models" / str(version))

    def _trim(self) -> None:
        with disk_errors(self.path, self._committed.shots):
            self._shots.trim(self._committed.shots, self._scratch)
            self._frames.trim(self._committed.frames, self._scratch)

    def _empty_pending(self) -> None:
        shutil.rmtree(self.path / "pending", ignore_errors=True)
        (self.path / "pending").mkdir(exist_ok=True)

    def _recover(self) -> None:
        """Drop what was not committed."""
        self._empty_pending()
        if not (self._shots.is_even and self._frames.is_even):
            self._trim()
        for kind, limit in (("trajectories", self._committed.shots), ("models", self._committed.models)):
            for number in numbers(self._zarr / kind):
                if number >= limit:
                    shutil.rmtree(self._zarr / kind / str(number))
