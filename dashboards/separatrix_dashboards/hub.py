"""Who wants to know what of which run: one thread follows the runs and publishes to all documents."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from separatrix.errors import SeparatrixError
from separatrix.gpus import Monitor
from separatrix.records import RunState
from separatrix_dashboards.feeds import Feed, RunSnapshot, modified
from separatrix_dashboards.turns import Turns

if TYPE_CHECKING:
    from separatrix_dashboards.sessions import SessionPool

_LOG = logging.getLogger(__name__)

INTERVAL = 0.4
"""Seconds between looks at the runs that are watched; a commit takes at most a second to come."""

SECONDS_PER_WATCHER = 0.085
"""An update costs a document some 10 to 15 ms of this process: twenty documents are told every 1.7 s, which takes
a fifth of a core."""

REST = 24.0
"""What takes long is not computed again for so many times the processor time it took: a twenty-fifth of a core for
each, however long it had to wait for others on a busy machine."""

_HURRY = 1.5
"""Seconds after a click for which runs are looked at often; only what they are doing is published then."""

_HURRIED = 0.05
_SCAN_SECONDS = 2.0
_DEPTH = 3
"""Levels of folders below the server's own in which runs are looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """Something to compute of a run for whoever watches it: once for all documents, in no document's thread.

    Attributes
    ----------
    key : equal keys share one result
    compute : takes the feed and a snapshot; pure but for ``feed.cached``, ``feed.model`` and ``feed.positions``
    depends : what of a snapshot the result depends on; computed anew only when it changes
    slow : whether it takes longer than some 30 ms; then nothing waits for it, not even the first paint
    stage : of a snapshot; a slow result of a new one is computed without the rest that those of the old one earned
    """

    key: Hashable
    compute: Callable[[Feed, RunSnapshot], Any]
    depends: Callable[[RunSnapshot], Hashable] = field(default=lambda snapshot: snapshot.revision)
    slow: bool = False
    stage: Callable[[RunSnapshot], Hashable] = field(default=lambda snapshot: None)

    def mark(self, snapshot: RunSnapshot) -> Hashable:
        """Return what tells whether a result is that of a snapshot."""
        return snapshot.history, self.depends(snapshot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What stands in for a result that could not be computed."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Result:
    """What a query gave.

    Attributes
    ----------
    mark : of the query and the snapshot
    revision : of the snapshot; documents and the hub compute at the same time, and the later look counts
    """

    mark: Hashable
    value: Any
    revision: int


class Watcher:
    """What the hub asks of whoever watches a feed; `separatrix_dashboards.views.base.Watch` is the one there is.

    Attributes
    ----------
    asked : when its user last pressed a control, by the monotonic clock; the latest is told first
    """

    feed: Feed
    asked: float = 0.0

    def queries(self) -> tuple[Query, ...]:
        """Return what is wanted now."""
        raise NotImplementedError

    def wants(self, key: Hashable) -> bool:
        """Return whether a result is wanted, now or later."""
        return any(query.key == key for query in self.queries())

    def deliver(self, results: Mapping[Hashable, Any]) -> None:
        """Take fresh results, in the hub's thread; an empty mapping tells that only the snapshot changed."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRun:
    """A folder that holds a run which cannot be read, and why."""

    path: Path
    name: str
    error: str
    modified: float


class Hub:
    """All runs below a folder, watched by one thread.

    Parameters
    ----------
    folder : where runs are looked for; None in a notebook, where feeds are asked for by path
    pool : the server's sessions
    interval : seconds between looks
    rest : for how many times the processor time it took a slow query is not computed again

    Attributes
    ----------
    turns : in which documents are updated
    gpus : looks at the GPUs of this machine
    for_visitors : whether those who look have no command line on this machine
    """

    for_visitors = False

    def __init__(
        self,
        folder: Path | None = None,
        pool: SessionPool | None = None,
        interval: float = INTERVAL,
        rest: float = REST,
    ) -> None:
        self.folder = None if folder is None else Path(folder).absolute()
        self.pool = pool
        self.turns = Turns()
        self.gpus = Monitor()
        self._interval, self._rest = interval, rest
        self._lock = threading.RLock()
        self._feeds: dict[Path, Feed] = {}
        self._unreadable: dict[Path, UnreadableRun] = {}
        self._watches: dict[Feed, list[Watcher]] = {}
        self._galleries: list[Callable[[], None]] = []
        self._results: dict[tuple[Feed, Hashable], _Result] = {}
        self._running: set[tuple[Feed, Hashable]] = set()
        self._rested: dict[tuple[Feed, Hashable], tuple[Hashable, float]] = {}
        self._later: dict[tuple[Feed, Hashable], Query] = {}
        self._fresh: dict[Feed, dict[Hashable, Any]] = {}
        self._slow = ThreadPoolExecutor(2, thread_name_prefix="slow queries")
        self._told: dict[Feed, RunState] = {}
        self._untold: set[Feed] = set()
        self._hurry_until = 0.0
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
            known = self._feeds.get(folder)
            if known is None or known.is_replaced:
                self._feeds.pop(folder, None)
                known = self._feeds[folder] = Feed(folder, self._name(folder), self.pool)
                self._unreadable.pop(folder, None)
                self._untold.add(known)
            return known

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
        try:
            leaves = not folder.resolve().is_relative_to(self.folder.resolve())
        except ValueError:  # a zero byte, which no path has
            leaves = True
        if leaves or not folder.is_relative_to(self.folder):
            raise SeparatrixError(f"expected a run below {self.folder}, got {str(path)!r}")
        return folder

    def words(self, error: Exception) -> str:
        """Return what an error says, without the server's own folder: whoever looks at a page knows names alone."""
        text = str(error)
        for folder in () if self.folder is None else (self.folder, self.folder.resolve()):
            text = text.replace(f"{folder}{os.sep}", "").replace(f"{folder}", "the folder of this server")
        return text

    def runs(self) -> tuple[RunSnapshot | UnreadableRun, ...]:
        """Return every run below the folder as last seen, the readable ones first in the order of their names."""
        if time.monotonic() - self._scanned > _SCAN_SECONDS:
            self._scan()
        with self._lock:
            known = sorted((feed.snapshot for feed in self._feeds.values()), key=lambda run: run.name)
            return (*known, *sorted(self._unreadable.values(), key=lambda run: run.name))

    def refresh(self, asking: Watcher | None = None) -> None:
        """Have the hub look again right now and for a moment: something was just started, paused or stopped.

        Parameters
        ----------
        asking : who did that, and is told first
        """
        now = time.monotonic()
        if asking is not None:
            asking.asked = now
        self._hurry_until = now + _HURRY
        self._wake.set()

    def look(self, feed: Feed) -> None:
        """Look at one run in this thread: a page is being opened. Who watches the run already is told in time.

        Raises
        ------
        SeparatrixError
            If it cannot be read any more; asked for anew, it may be another run.
        """
        try:
            changed = feed.refresh()
        except (SeparatrixError, OSError) as error:
            self._forget(feed, self.words(error))
            raise
        if changed:
            with self._lock:
                self._untold.add(feed)

    def leave(self, path: Path) -> None:
        """Let go of a run that is being removed; its open pages keep what they show."""
        with self._lock:
            self._feeds.pop(self.absolute(path), None)

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
                self._fresh.pop(watcher.feed, None)
            # Each page has looked at some path of its own: where others go on watching, all of these would be kept.
            keys = {
                key
                for places in (self._results, self._rested, self._later)
                for feed, key in places
                if feed is watcher.feed
            }
            for key in keys:
                self.forget(watcher.feed, key)

    def forget(self, feed: Feed, key: Hashable) -> None:
        """Let go of a result that no part of any page wants any more; positions of paths are large."""
        with self._lock:
            if not any(watcher.wants(key) for watcher in self._watches.get(feed, ())):
                for places in (self._results, self._rested, self._later):
                    places.pop((feed, key), None)

    @property
    def n_watchers(self) -> int:
        """Number of documents that are being published to."""
        with self._lock:
            return sum(map(len, self._watches.values()))

    def result(self, feed: Feed, query: Query) -> tuple[bool, Any]:
        """Return (whether it is there, the result) of a query; a slow one is begun, its older result told meanwhile."""
        snapshot = feed.snapshot
        mark = query.mark(snapshot)
        known = self._newest(feed, query.key)
        if known is not None and known.mark == mark:
            return True, known.value
        if not query.slow:
            value = self._compute(feed, query, snapshot, mark)
            with self._lock:  # what is known already is not published: who else watches is told by this
                self._fresh.setdefault(feed, {})[query.key] = value
            return True, value
        self._begin(feed, query, snapshot, mark)
        return (False, None) if known is None else (True, known.value)

    def newest(self, feed: Feed, key: Hashable, default: Any) -> Any:
        """Return the newest result of a query: it may have come while an older one was on its way to a document."""
        known = self._newest(feed, key)
        return default if known is None else known.value

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=10)
        self._slow.shutdown(wait=False, cancel_futures=True)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        due = 0.0
        while not self._closed:
            begun = time.monotonic()
            whole = begun >= due
            try:
                self._round(whole=whole)
            except Exception:  # noqa: BLE001 - the next round may go well again
                _LOG.exception("looking at the runs failed; it is tried again")
            now = time.monotonic()
            if whole:
                # With many watchers the rounds leave half of the time to others, and their documents most of it.
                due = now + max(self._interval, now - begun, SECONDS_PER_WATCHER * self.n_watchers)
            self._wake.wait(_HURRIED if now < self._hurry_until else max(0.0, due - now))
            self._wake.clear()

    def _round(self, *, whole: bool = True) -> None:
        """Look at every run and publish what is new; if not the whole of it, only what runs are doing now."""
        with self._lock:
            galleries = list(self._galleries)
            feeds = list(self._feeds.values()) if galleries else list(self._watches)
        if whole and galleries and time.monotonic() - self._scanned > _SCAN_SECONDS:
            self._scan()
        news = self._look_at(feeds)
        changed: list[Feed] = []
        if whole:
            self._begin_late()
            with self._lock:
                changed = list(self._untold | set(self._fresh))
                self._untold.clear()
        for feed in changed:
            self._publish(feed)
        with self._lock:
            for feed in set(self._told) - set(feeds):
                del self._told[feed]
            found = frozenset(self._feeds), frozenset(self._unreadable.values())
        if galleries and (news or changed or found != self._shown):
            self._shown = found
            for gallery in galleries:
                gallery()

    def _look_at(self, feeds: Iterable[Feed]) -> bool:
        """Look at runs; after a click tell at once what they are doing, figures follow. Return whether that is news."""
        fresh = {feed for feed in feeds if self._refreshed(feed)}
        with self._lock:
            self._untold |= fresh
        news = [feed for feed in fresh if self._told.get(feed) is not feed.snapshot.status.state]
        if not news or time.monotonic() > self._hurry_until:
            return False
        for feed in news:
            self._told[feed] = feed.snapshot.status.state
            for watcher in self._watchers(feed):
                watcher.deliver({})
        return True

    def _watchers(self, feed: Feed) -> list[Watcher]:
        """Return who watches a run, whoever clicked last first."""
        with self._lock:
            return sorted(self._watches.get(feed, ()), key=lambda watcher: -watcher.asked)

    def _refreshed(self, feed: Feed) -> bool:
        try:
            return feed.refresh()
        except (SeparatrixError, OSError) as error:
            return self._forget(feed, self.words(error))

    def _forget(self, feed: Feed, error: str) -> bool:
        """Take a run that was removed, replaced or damaged out of the gallery; its open pages keep what they show.

        Return whether it was there.
        """
        with self._lock:
            if self._feeds.get(feed.path) is not feed:  # a page still shows what was there before
                return False
            del self._feeds[feed.path]
            if feed.path.exists():
                self._unreadable[feed.path] = _unreadable(feed.path, feed.name, error)
            return True

    def _publish(self, feed: Feed) -> None:
        watchers = self._watchers(feed)
        with self._lock:
            fresh = self._fresh.pop(feed, {})
        queries = {query.key: query for watcher in watchers for query in watcher.queries()}
        snapshot = feed.snapshot
        self._told[feed] = snapshot.status.state
        for key, query in queries.items():
            mark = query.mark(snapshot)
            if self._known(feed, key, mark):
                continue
            if query.slow:
                self._begin(feed, query, snapshot, mark)
                continue
            if time.monotonic() < self._hurry_until:
                self._look_at([feed])  # somebody waits to see what a click did
            fresh[key] = self._compute(feed, query, snapshot, mark)
        for watcher in watchers:
            watcher.deliver(fresh)

    def _begin(self, feed: Feed, query: Query, snapshot: RunSnapshot, mark: Hashable) -> None:
        """Compute a slow query in a thread of its own; later, if it is being computed or was a moment ago."""
        place, stage = (feed, query.key), query.stage(snapshot)
        with self._lock:
            if self._closed:
                return
            rested_stage, until = self._rested.get(place, (None, 0.0))
            if place in self._running or (rested_stage == stage and time.monotonic() < until):
                self._later[place] = query
                return
            self._running.add(place)
            self._later.pop(place, None)

        def work() -> None:
            begun, first = time.thread_time(), place not in self._results
            try:
                value = self._compute(feed, query, snapshot, mark)
            finally:
                with self._lock:
                    self._running.discard(place)
                    # What it takes the first time, to solve and to draw, it does not take again.
                    took = 0.0 if first or rested_stage != stage else time.thread_time() - begun
                    self._rested[place] = stage, time.monotonic() + self._rest * took
            with self._lock:
                watchers = list(self._watches.get(feed, ()))
                if not first and watchers:  # it goes with what else is new, in one message
                    self._fresh.setdefault(feed, {})[query.key] = value
            if first:
                for watcher in watchers:
                    watcher.deliver({query.key: value})
            self.forget(feed, query.key)  # something else may have been chosen meanwhile

        self._slow.submit(work)

    def _begin_late(self) -> None:
        """Begin slow queries that had to wait."""
        with self._lock:
            later = list(self._later.items())
        for (feed, _), query in later:
            mark = query.mark(feed.snapshot)
            if self._known(feed, query.key, mark):
                with self._lock:
                    self._later.pop((feed, query.key), None)
            else:
                self._begin(feed, query, feed.snapshot, mark)

    def _known(self, feed: Feed, key: Hashable, mark: Hashable) -> bool:
        known = self._newest(feed, key)
        return known is not None and known.mark == mark

    def _newest(self, feed: Feed, key: Hashable) -> _Result | None:
        with self._lock:
            return self._results.get((feed, key))

    def _compute(self, feed: Feed, query: Query, snapshot: RunSnapshot, mark: Hashable) -> Any:
        try:
            value = query.compute(feed, snapshot)
        except Exception as error:  # noqa: BLE001 - shown in the place of the result
            if not isinstance(error, SeparatrixError):
                _LOG.exception("%s of %s", query.key, feed.name)
            value = Failure(message=self.words(error) or type(error).__name__)
        with self._lock:
            known = self._results.get((feed, query.key))
            if known is not None and known.revision > snapshot.revision:
                return known.value
            self._results[feed, query.key] = _Result(mark=mark, value=value, revision=snapshot.revision)
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
                self._unreadable[path] = _unreadable(path, self._name(path), self.words(error))

    def _name(self, path: Path) -> str:
        if self.folder is not None and path.is_relative_to(self.folder):
            return path.relative_to(self.folder).as_posix()
        return path.name


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
    return UnreadableRun(path=path, name=name, error=error, modified=modified(path))
