"""Runs as pages see them: immutable snapshots, followed by cursor and published by one thread for all documents."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from separatrix.config import RunConfig
from separatrix.errors import SeparatrixError
from separatrix.reader import Reader
from separatrix.records import Status
from separatrix.store import RESULTS, is_locked

if TYPE_CHECKING:
    from separatrix.committor import Committor
    from separatrix_dashboards.sessions import SessionPool

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)

INTERVAL = 0.4
"""Seconds between looks at the runs that are watched; a commit takes at most a second to come."""

_SCAN_SECONDS = 2.0
_DEPTH = 3
"""Levels of folders below the server's own in which runs are looked for."""

_CACHED = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSnapshot:
    """A run at one moment. What costs memory or time is fetched when it is asked for.

    Attributes
    ----------
    path : absolute folder of the run
    name : folder relative to the server's, or its last part
    revision : counts up whenever something changed
    shots : columns of ``separatrix.store.SHOT_COLUMNS``, (n_shots, ...), committed rows only
    frames : ``features`` (m, d), ``cvs`` (m, k), ``shot`` (m,), ``offset`` (m,); loaded on first use
    reports : model version -> what its training gave; loaded one by one
    events : lines of the run's log, oldest first
    modified : time of the last commit, seconds since 1970
    queue : place in this server's queue, 1 for the next; None when not queued
    problem : why this server could not start or go on with it
    owned : whether a session of this server runs it now
    """

    path: Path
    name: str
    revision: int
    status: Status
    config: RunConfig
    shots: Mapping[str, NDArray[Any]]
    frames: Mapping[str, NDArray[Any]]
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

    @property
    def n_shots(self) -> int:
        """Number of committed shots."""
        return len(self.shots["chain"])

    @property
    def model_version(self) -> int:
        """Newest stored model, 0 for none."""
        return max(self.reports, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRun:
    """A folder that holds a run which cannot be read, and why."""

    path: Path
    name: str
    error: str
    modified: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """Something to compute of a run for whoever watches it: once for all documents, in no document's thread.

    Attributes
    ----------
    key : equal keys share one result
    compute : takes the feed and a snapshot; pure but for ``feed.cached``, ``feed.model`` and ``feed.positions``
    depends : what of a snapshot the result depends on; computed anew only when it changes
    slow : whether it takes longer than some 30 ms; then nothing waits for it, not even the first paint
    """

    key: Hashable
    compute: Callable[[Feed, RunSnapshot], Any]
    depends: Callable[[RunSnapshot], Hashable] = field(default=lambda snapshot: snapshot.revision)
    slow: bool = False


class Feed:
    """One run, read by cursor; any thread may ask.

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
        self.reader = Reader(path)
        self.path = self.reader.folder
        self.name = name or self.path.name
        self.lock = threading.RLock()
        self._pool = pool
        self._log: tuple[tuple[int, int], tuple[Mapping[str, Any], ...]] = ((-1, -1), ())
        self._reports: OrderedDict[int, Mapping[str, Any]] = OrderedDict()
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()
        self._computing: dict[Hashable, threading.Lock] = {}
        self._mark: Hashable = self._glance()
        self.snapshot = self._look(0)

    def refresh(self) -> bool:
        """Look at the run; return whether a new snapshot was made."""
        with self.lock:
            mark = self._glance()
            if mark == self._mark:
                return False
            self._mark = mark
            self.snapshot = self._look(self.snapshot.revision + 1)
            return True

    def model(self, version: int | None = None) -> Committor:
        """Return a committor model, the newest by default."""
        with self.lock:
            return self.reader.model(version)

    def positions(self, shot: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return positions (n_frames, n_atoms, 3) nm, and box or None, of a transition."""
        with self.lock:
            return self.reader.path_positions(shot)

    def result(self, name: str) -> Mapping[str, Any] | None:
        """Return the result of an analysis, ``mechanism`` or ``validation``; None when the run holds none."""
        return self.reader.result(name)

    def cached(self, key: Hashable, compute: Callable[[], _T]) -> _T:
        """Return what was computed for a key before, or compute it; a second thread waits for the first."""
        with self.lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]  # type: ignore[no-any-return]
            turn = self._computing.setdefault(key, threading.Lock())
        with turn:
            with self.lock:
                if key in self._cache:
                    return self._cache[key]  # type: ignore[no-any-return]
            value = compute()
            with self.lock:
                self._cache[key] = value
                self._computing.pop(key, None)
                while len(self._cache) > _CACHED:
                    self._cache.popitem(last=False)
            return value

    def _live_session(self) -> Any:
        return None if self._pool is None else self._pool.session(self.path)

    def _glance(self) -> Hashable:
        """Return what tells, without reading the run, whether it changed."""
        session = self._live_session()
        live = is_locked(self.path) if session is None else replace(session.status, seconds=0.0)
        pool = None if self._pool is None else (self._pool.place(self.path), self._pool.problem(self.path))
        files = ("run.zarr/zarr.json", "log.jsonl", *(f"results/{name}.json" for name in RESULTS))
        return live, pool, *(_stamp(self.path / file) for file in files)

    def _look(self, revision: int) -> RunSnapshot:
        reader = self.reader
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
            frames=_Frames(self, n_shots),
            reports=_Reports(self, versions),
            events=events,
            modified=_modified(self.path),
            state_names=reader.state_names,
            cv_names=columns.names,
            cv_units=columns.units,
            feature_names=reader.observables.descriptors.names,
            queue=queue,
            problem=problem,
            owned=session is not None,
        )

    def _events(self) -> tuple[Mapping[str, Any], ...]:
        mark = _stamp(self.path / "log.jsonl")
        if mark != self._log[0]:
            self._log = mark, tuple(self.reader.log())
        return self._log[1]

    def _report(self, version: int) -> Mapping[str, Any]:
        with self.lock:
            if version not in self._reports:
                self._reports[version] = self.reader.model_report(version)
            self._reports.move_to_end(version)
            while len(self._reports) > _CACHED:  # each knows all its held-out shots
                self._reports.popitem(last=False)
            return self._reports[version]

    def _frames(self, n_shots: int) -> Mapping[str, NDArray[Any]]:
        with self.lock:
            columns = self.reader.columns("frames")
        n_frames = int(np.searchsorted(columns["shot"], n_shots))  # frames lie in the order of their shots
        return {name: column[:n_frames] for name, column in columns.items()}


class _Frames(Mapping[str, NDArray[Any]]):
    """The frames of the first shots of a run, read when they are looked at."""

    def __init__(self, feed: Feed, n_shots: int) -> None:
        self._feed, self._n_shots = feed, n_shots
        self._columns: Mapping[str, NDArray[Any]] | None = None

    def _loaded(self) -> Mapping[str, NDArray[Any]]:
        if self._columns is None:
            self._columns = self._feed._frames(self._n_shots)  # noqa: SLF001 - both are one thing
        return self._columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())


class _Reports(Mapping[int, Mapping[str, Any]]):
    """Training reports by model version, read when they are looked at."""

    def __init__(self, feed: Feed, versions: tuple[int, ...]) -> None:
        self._feed, self._versions = feed, versions

    def __getitem__(self, version: int) -> Mapping[str, Any]:
        if version not in self._versions:
            raise KeyError(version)
        return self._feed._report(version)  # noqa: SLF001 - both are one thing

    def __iter__(self) -> Iterator[int]:
        return iter(self._versions)

    def __len__(self) -> int:
        return len(self._versions)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _modified(path: Path) -> float:
    try:
        return (path / "run.zarr" / "zarr.json").stat().st_mtime
    except OSError:
        return 0.0


class Hub:
    """All runs below a folder, watched by one thread.

    Parameters
    ----------
    folder : where runs are looked for; None in a notebook, where feeds are asked for by path
    pool : the server's sessions
    interval : seconds between looks
    """

    def __init__(self, folder: Path | None = None, pool: SessionPool | None = None, interval: float = INTERVAL) -> None:
        self.folder = None if folder is None else Path(folder).absolute()
        self.pool = pool
        self._interval = interval
        self._lock = threading.RLock()
        self._feeds: dict[Path, Feed] = {}
        self._unreadable: dict[Path, UnreadableRun] = {}
        self._watches: dict[Feed, list[Watcher]] = {}
        self._galleries: list[Callable[[], None]] = []
        self._results: dict[tuple[Feed, Hashable], tuple[Hashable, Any]] = {}
        self._running: set[tuple[Feed, Hashable]] = set()
        self._slow = ThreadPoolExecutor(2, thread_name_prefix="slow queries")
        self._wake, self._closed = threading.Event(), False
        self._scanned = -_SCAN_SECONDS
        self._shown: Hashable = None
        self._thread = threading.Thread(target=self._work, name="hub", daemon=True)
        self._thread.start()

    # -- runs ------------------------------------------------------------------------------------------------------

    def feed(self, path: Path | str) -> Feed:
        """Return the feed of a run: a folder, or a name below the hub's folder.

        Raises
        ------
        SeparatrixError
            If there is no run, or it cannot be read.
        """
        folder = self.absolute(path)
        with self._lock:
            if folder not in self._feeds:
                self._feeds[folder] = Feed(folder, self._name(folder), self.pool)
            return self._feeds[folder]

    def absolute(self, path: Path | str) -> Path:
        """Return the folder of a run; names that lead out of the hub's folder are refused.

        Raises
        ------
        SeparatrixError
            If the path leaves the hub's folder.
        """
        if self.folder is None:
            return Path(path).absolute()
        folder = Path(os.path.normpath(self.folder / path))
        if not folder.is_relative_to(self.folder) or not folder.resolve().is_relative_to(self.folder.resolve()):
            raise SeparatrixError(f"expected a run below {self.folder}, got {str(path)!r}")
        return folder

    def runs(self) -> tuple[RunSnapshot | UnreadableRun, ...]:
        """Return every run below the folder as last seen, the readable ones first in the order of their names."""
        if time.monotonic() - self._scanned > _SCAN_SECONDS:
            self._scan()
        with self._lock:
            known = sorted((feed.snapshot for feed in self._feeds.values()), key=lambda run: run.name)
            return (*known, *sorted(self._unreadable.values(), key=lambda run: run.name))

    def refresh(self) -> None:
        """Have the hub look again right now: something was just started, paused or stopped."""
        self._wake.set()

    def look(self, feed: Feed) -> None:
        """Look at one run in this thread: a page is being opened, and others may watch the run already."""
        if feed.refresh():
            self._publish(feed)

    def watch_runs(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` in the hub's thread when any run changed; return what ends that."""
        with self._lock:
            self._galleries.append(changed)
        self._wake.set()

        def end() -> None:
            with self._lock:
                if changed in self._galleries:
                    self._galleries.remove(changed)

        return end

    # -- watching --------------------------------------------------------------------------------------------------

    def add(self, watcher: Watcher) -> None:
        """Begin to publish a feed to a watcher."""
        with self._lock:
            self._watches.setdefault(watcher.feed, []).append(watcher)

    def remove(self, watcher: Watcher) -> None:
        """End it."""
        with self._lock:
            watchers = self._watches.get(watcher.feed, [])
            if watcher in watchers:
                watchers.remove(watcher)
            if not watchers:
                self._watches.pop(watcher.feed, None)
                for key in [key for key in self._results if key[0] is watcher.feed]:
                    del self._results[key]

    def forget(self, feed: Feed, key: Hashable) -> None:
        """Let go of a result that no part of any page wants any more; positions of paths are large."""
        with self._lock:
            if not any(watcher.wants(key) for watcher in self._watches.get(feed, ())):
                self._results.pop((feed, key), None)

    @property
    def n_watchers(self) -> int:
        """Number of documents that are being published to."""
        with self._lock:
            return sum(map(len, self._watches.values()))

    def result(self, feed: Feed, query: Query) -> tuple[bool, Any]:
        """Return (whether it is there, the result) of a query; a slow one that is not there is begun."""
        snapshot = feed.snapshot
        mark = query.depends(snapshot)
        place = feed, query.key
        with self._lock:
            if place in self._results and self._results[place][0] == mark:
                return True, self._results[place][1]
        if query.slow:
            self._begin(feed, query, snapshot, mark)
            return False, None
        return True, self._compute(feed, query, snapshot, mark)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=10)
        self._slow.shutdown(wait=False, cancel_futures=True)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed:
            begun = time.monotonic()
            try:
                self._round()
            except Exception:  # noqa: BLE001 - the next round may go well again
                _LOG.exception("looking at the runs failed; it is tried again")
            # With many watchers the rounds leave half of the time to others.
            spent = time.monotonic() - begun
            self._wake.wait(max(self._interval, spent))
            self._wake.clear()

    def _round(self) -> None:
        with self._lock:
            galleries = list(self._galleries)
            feeds = list(self._feeds.values()) if galleries else list(self._watches)
        if galleries and time.monotonic() - self._scanned > _SCAN_SECONDS:
            self._scan()
        changed = [feed for feed in feeds if self._refreshed(feed)]
        for feed in changed:
            self._publish(feed)
        with self._lock:
            found = frozenset(self._feeds), frozenset(self._unreadable.values())
        if galleries and (changed or found != self._shown):
            self._shown = found
            for gallery in galleries:
                gallery()

    def _refreshed(self, feed: Feed) -> bool:
        try:
            return feed.refresh()
        except (SeparatrixError, OSError) as error:
            self._forget(feed, str(error))
            return True

    def _forget(self, feed: Feed, error: str) -> None:
        """Take a run that was removed or damaged out of the gallery; its open pages keep what they show."""
        with self._lock:
            self._feeds.pop(feed.path, None)
            if feed.path.exists():
                self._unreadable[feed.path] = _unreadable(feed.path, feed.name, error)

    def _publish(self, feed: Feed) -> None:
        with self._lock:
            watchers = list(self._watches.get(feed, ()))
        queries = {query.key: query for watcher in watchers for query in watcher.queries()}
        fresh: dict[Hashable, Any] = {}
        snapshot = feed.snapshot
        for key, query in queries.items():
            mark = query.depends(snapshot)
            with self._lock:
                known = self._results.get((feed, key))
            if known is not None and known[0] == mark:
                continue
            if query.slow:
                self._begin(feed, query, snapshot, mark)
            else:
                fresh[key] = self._compute(feed, query, snapshot, mark)
        for watcher in watchers:
            watcher.deliver(fresh)

    def _begin(self, feed: Feed, query: Query, snapshot: RunSnapshot, mark: Hashable) -> None:
        place = feed, query.key
        with self._lock:
            if place in self._running or self._closed:
                return
            self._running.add(place)

        def work() -> None:
            try:
                value = self._compute(feed, query, snapshot, mark)
            finally:
                with self._lock:
                    self._running.discard(place)
                    watchers = list(self._watches.get(feed, ()))
            for watcher in watchers:
                watcher.deliver({query.key: value})
            self.forget(feed, query.key)  # something else may have been chosen meanwhile

        self._slow.submit(work)

    def _compute(self, feed: Feed, query: Query, snapshot: RunSnapshot, mark: Hashable) -> Any:
        try:
            value = query.compute(feed, snapshot)
        except Exception as error:  # noqa: BLE001 - shown in the place of the result
            if not isinstance(error, SeparatrixError):
                _LOG.exception("%s of %s", query.key, feed.name)
            value = Failure(message=str(error) or type(error).__name__)
        with self._lock:
            self._results[feed, query.key] = mark, value
        return value

    def _scan(self) -> None:
        self._scanned = time.monotonic()
        if self.folder is None:
            return
        found = set(_run_folders(self.folder, _DEPTH))
        with self._lock:
            for path in set(self._feeds) - found:
                if not (path / "run.zarr").exists():
                    self._feeds.pop(path)
            for path in set(self._unreadable) - found:
                self._unreadable.pop(path)
            new = [path for path in sorted(found) if path not in self._feeds]
        for path in new:
            try:
                self.feed(path)
            except (SeparatrixError, OSError) as error:
                self._unreadable[path] = _unreadable(path, self._name(path), str(error))
            else:
                self._unreadable.pop(path, None)

    def _name(self, path: Path) -> str:
        if self.folder is not None and path.is_relative_to(self.folder):
            return path.relative_to(self.folder).as_posix()
        return path.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What stands in for a result that could not be computed."""

    message: str


class Watcher:
    """What the hub asks of whoever watches a feed; `separatrix_dashboards.views.base.Watch` is the one there is."""

    feed: Feed

    def queries(self) -> tuple[Query, ...]:
        """Return what is wanted now."""
        raise NotImplementedError

    def wants(self, key: Hashable) -> bool:
        """Return whether a result is wanted, now or later."""
        return any(query.key == key for query in self.queries())

    def deliver(self, results: Mapping[Hashable, Any]) -> None:
        """Take fresh results, in the hub's thread; an empty mapping tells that only the snapshot changed."""
        raise NotImplementedError


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield folders that hold a run; a run is not looked into, hidden folders and links that leave are left out."""
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "._"]
    except OSError:
        return
    for entry in entries:
        if (entry / "run.zarr").is_dir():
            yield entry
        elif depth > 1 and not entry.is_symlink():
            yield from _run_folders(entry, depth - 1)


def _unreadable(path: Path, name: str, error: str) -> UnreadableRun:
    return UnreadableRun(path=path, name=name, error=error, modified=_modified(path))
