"""Runs as pages see them: immutable snapshots, followed by cursor."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from separatrix.config import RunConfig
from separatrix.errors import StoreError
from separatrix.logits import effective_q, p_transition
from separatrix.reader import Reader
from separatrix.records import Status
from separatrix.store import CONFIG, LOG, RESULTS, is_locked
from separatrix.training_data import end_counts
from separatrix_dashboards.analyses import Analysis
from separatrix_dashboards.frames import FrameTable

if TYPE_CHECKING:
    from separatrix.committor import Committor
    from separatrix_dashboards.sessions import SessionPool

_T = TypeVar("_T")
_CACHED = 32
_REPORTS_KEPT = 4
"""Each knows all its held-out shots; pages ask for the newest, and those that people chose."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSnapshot:
    """A run at one moment. What costs memory or time is fetched when it is asked for.

    Attributes
    ----------
    path : absolute folder of the run
    name : folder relative to the server's, or its last part
    revision : counts up whenever something changed
    history : counts up when the run was cut back, as by a repair, and what is known of it may be of other shots
    shots : columns of ``separatrix.store.shot_columns``, (n_shots, ...), committed rows only
    frames : ``cvs`` (m, k), ``shot`` (m,), ``offset`` (m,), loaded on first use; and ``features`` (m, d), `Features`
    reports : model version -> what its training gave; loaded one by one
    events : lines of the run's log, oldest first
    modified : time of the last commit, seconds since 1970
    queue : place in this server's queue, 1 for the next; None when not queued
    problem : why this server could not start or go on with it
    owned : whether a session of this server runs it now
    analyses : how analyses stand that this server made of it, by kind
    """

    path: Path
    name: str
    revision: int
    status: Status
    config: RunConfig
    shots: Mapping[str, NDArray[Any]]
    frames: Mapping[str, Any]
    reports: Mapping[int, Mapping[str, Any]]
    events: tuple[Mapping[str, Any], ...]
    modified: float
    state_names: tuple[str, ...]
    cv_names: tuple[str, ...]
    cv_units: tuple[str, ...]
    feature_names: tuple[str, ...]
    queue: int | None = None
    problem: str | None = None
    owned: bool = False
    analyses: Mapping[str, Analysis] = field(default_factory=dict)
    history: int = 0

    @property
    def n_shots(self) -> int:
        """Number of committed shots."""
        return len(self.shots["chain"])

    def result_file(self, name: str) -> Path:
        """Return where the result of an analysis is, once there is one."""
        return self.path / "results" / f"{name}.json"

    @property
    def foretold_q(self) -> NDArray[Any]:
        """Logit of every shot that was predicted without knowing it (n_shots,); nan where there is none.

        A run that samples predicts before each shot; of a table, the networks that hold a row out do. For more than two
        states it is the effective logit.
        """
        return self.shots["q"] if self.config.table is None else effective_q(self._held_out_logits())

    @property
    def foretold_p_transition(self) -> NDArray[Any]:
        """Probability of a transition that was predicted of every shot without knowing it, as `foretold_q`."""
        return self.shots["p_transition"] if self.config.table is None else p_transition(self._held_out_logits())

    def _held_out_logits(self) -> NDArray[Any]:
        n_states = len(self.state_names)
        logits = np.full((self.n_shots, n_states) if n_states > 2 else self.n_shots, np.nan)
        if self.model_version:
            report = self.reports[self.model_version]
            logits[report["shot"]] = report["held_out_q"]
        return logits

    @property
    def n_ends(self) -> NDArray[Any]:
        """How many trajectories of every shot ended in each state, (n_shots, n_states)."""
        return end_counts(self.shots)

    @property
    def model_version(self) -> int:
        """Newest stored model, 0 for none."""
        return max(self.reports, default=0)


class Recent(OrderedDict[Any, Any]):
    """What was asked for last.

    Parameters
    ----------
    most : that are kept
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, key: Hashable, value: _T) -> _T:
        """Note that a value was asked for, and return it."""
        self[key] = value
        self.move_to_end(key)
        while len(self) > self._most:
            self.popitem(last=False)
        return value


class Feed:
    """One run, read by cursor; any thread may ask.

    Frames, paths and reports are read without its lock, for which the server's loop and the hub would wait.

    Parameters
    ----------
    path : folder of the run
    name : what pages call it
    pool : the server's sessions, if there are any

    Raises
    ------
    SeparatrixError
        If there is no run, or it cannot be read.
    """

    def __init__(self, path: Path | str, name: str | None = None, pool: SessionPool | None = None) -> None:
        self._made_of = stamp(Path(path) / CONFIG)
        self.reader = Reader(path)
        self.path = self.reader.folder
        self.name = name or self.path.name
        self.lock = threading.RLock()
        self._pool = pool
        self._frames = FrameTable(self.reader)
        self._log: tuple[tuple[int, int, int], tuple[Mapping[str, Any], ...]] = ((-1, -1, -1), ())
        self._reports = _ReportsKept(self.reader)
        self._cache = Recent(_CACHED)
        self._computing: dict[Hashable, threading.Lock] = {}
        self._shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self._recent = Recent(_CACHED)
        self._mark: Hashable = self._glance()
        self.snapshot = self._look(0)

    @property
    def is_replaced(self) -> bool:
        """Whether the run is gone from its folder, where another may lie now: a configuration is written once."""
        return stamp(self.path / CONFIG) != self._made_of

    def refresh(self) -> bool:
        """Look at the run; return whether a new snapshot was made.

        Raises
        ------
        SeparatrixError
            If it cannot be read, or is another run now.
        """
        with self.lock:
            if self.is_replaced:
                raise StoreError(f"{self.path}: this run was removed, or another took its place: open it anew")
            mark, before = self._glance(), self.snapshot
            if mark == self._mark:
                return False
            self.snapshot, self._mark = self._look(before.revision + 1), mark
            if self.snapshot.history != before.history:
                self._reports.clear()
                self._cache.clear()
            return True

    def model(self, version: int | None = None) -> Committor:
        """Return a committor model, the newest by default."""
        with self.lock:
            return self.reader.model(version)

    def positions(self, shot: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return positions (n_frames, n_atoms, 3) nm, and box or None, of a transition."""
        return self.reader.path_positions(shot)

    def solute_positions(self, shot: int) -> NDArray[Any]:
        """Return positions (n_frames, n_solute, 3) nm of the solute of a transition; waters are too many for a page."""
        return self.reader.path_frames(shot, solute=True)[0]

    def result(self, name: str) -> Mapping[str, Any] | None:
        """Return the result of an analysis, such as ``mechanism``; None when the run holds none."""
        return self.reader.result(name)

    def cached(self, key: Hashable, compute: Callable[[], _T]) -> _T:
        """Return what was computed for a key before, or compute it; a second thread waits for the first.

        The keys that were asked for last are kept. What is another thing after every commit belongs into a `Latest`: a
        key of its own for each would drive out all else, and keep what nobody asks for again.
        """
        with self.lock:
            if key in self._cache:
                return self._cache.keep(key, self._cache[key])  # type: ignore[no-any-return]
            turn = self._computing.setdefault(key, threading.Lock())
        with turn:
            with self.lock:
                if key in self._cache:
                    return self._cache[key]  # type: ignore[no-any-return]
                history = self.snapshot.history
            value = compute()
            with self.lock:
                self._computing.pop(key, None)
                return self._cache.keep(key, value) if history == self.snapshot.history else value

    def shared(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Return the one thing of a key that all share, made when nobody has it; those asked for last are kept, too.

        Unlike with `cached`, nobody is given a second one while somebody has the first, however many others there are.
        """
        with self.lock:
            value: _T | None = self._shared.get(key)
            if value is None:
                self._shared[key] = value = make()
            return self._recent.keep(key, value)

    def _live_session(self) -> Any:
        return None if self._pool is None else self._pool.session(self.path)

    def _glance(self) -> Hashable:
        """Return what tells, without reading the run, whether it changed."""
        session = self._live_session()
        live = is_locked(self.path) if session is None else replace(session.status, seconds=0.0)
        pool = None
        if self._pool is not None:
            analyses = tuple(self._pool.analyses.of(self.path).items())
            pool = self._pool.place(self.path), self._pool.problem(self.path), analyses
        files = ("run.zarr/zarr.json", LOG, *(f"results/{name}.json" for name in RESULTS))
        return live, pool, *(stamp(self.path / file) for file in files)

    def _look(self, revision: int) -> RunSnapshot:
        reader = self.reader
        history = reader.history  # first: what is read after a repair that comes now is looked at once more
        session = self._live_session()
        status: Status = reader.status() if session is None else session.status
        shots = reader.columns("shots")
        versions = tuple(reader.model_versions)
        events = self._events()
        queue = None if self._pool is None else self._pool.place(self.path)
        problem = None if self._pool is None else self._pool.problem(self.path)
        n_shots = len(shots["chain"])
        columns = reader.observables.columns
        return RunSnapshot(
            path=self.path,
            name=self.name,
            revision=revision,
            status=status,
            config=reader.config,
            shots=shots,
            frames=_Frames(self._frames, n_shots),
            reports=_Reports(self._reports, versions),
            events=events,
            modified=modified(self.path),
            state_names=reader.state_names,
            cv_names=columns.names,
            cv_units=columns.units,
            feature_names=reader.observables.descriptors.names,
            queue=queue,
            problem=problem,
            owned=session is not None,
            analyses={} if self._pool is None else self._pool.analyses.of(self.path),
            history=history,
        )

    def _events(self) -> tuple[Mapping[str, Any], ...]:
        mark = stamp(self.path / LOG)
        if mark != self._log[0]:
            self._log = mark, tuple(self.reader.log())
        return self._log[1]


class Latest:
    """The newest value of something that several documents ask for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mark: Hashable = None
        self._value: Any = None

    def get(self, mark: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the value for a mark, computed when it is another than before."""
        with self._lock:
            if self._mark != mark:
                self._value, self._mark = compute(), mark
            return self._value


class _Frames(Mapping[str, Any]):
    """The frames of the first shots of a run, read when they are looked at."""

    def __init__(self, table: FrameTable, n_shots: int) -> None:
        self._table, self._n_shots = table, n_shots
        self._columns: Mapping[str, Any] | None = None

    def _loaded(self) -> Mapping[str, Any]:
        if self._columns is None:
            self._columns = self._table.of_first(self._n_shots)
        return self._columns

    def __getitem__(self, name: str) -> Any:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())


class _ReportsKept:
    """The training reports of a run that were asked for last; any thread may ask."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget them, those that are being read now, too: versions are of other models after a repair."""
        with self._lock:
            self._kept = Recent(_REPORTS_KEPT)

    def of(self, version: int) -> Mapping[str, Any]:
        """Return the report of a model version."""
        with self._lock:
            kept = self._kept
            report: Mapping[str, Any] | None = kept.get(version)
        if report is None:
            report = self._reader.model_report(version)
        with self._lock:
            return kept.keep(version, report)


class _Reports(Mapping[int, Mapping[str, Any]]):
    """Training reports by model version, read when they are looked at."""

    def __init__(self, kept: _ReportsKept, versions: tuple[int, ...]) -> None:
        self._kept, self._versions = kept, versions

    def __getitem__(self, version: int) -> Mapping[str, Any]:
        if version not in self._versions:
            raise KeyError(version)
        return self._kept.of(version)

    def __iter__(self) -> Iterator[int]:
        return iter(self._versions)

    def __len__(self) -> int:
        return len(self._versions)


def stamp(file: Path) -> tuple[int, int, int]:
    """Return what changes whenever a file does."""
    try:
        stat = file.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def modified(path: Path) -> float:
    """Return the time of the last commit of a run, seconds since 1970; 0 when there is none."""
    try:
        return (path / "run.zarr" / "zarr.json").stat().st_mtime
    except OSError:
        return 0.0
