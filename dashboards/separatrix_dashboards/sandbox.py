"""Sessions of visitors: whoever comes may sample a landscape on the server, within limits, while anybody looks."""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from separatrix.errors import ConfigError, SeparatrixError
from separatrix.store import is_locked
from separatrix.store.lock import acquire
from separatrix.systems import CATALOGUE
from separatrix_dashboards.access import PermissionDeniedError, Role
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.words import lasting

if TYPE_CHECKING:
    from separatrix_dashboards.feeds import Feed, RunSnapshot
    from separatrix_dashboards.hub import UnreadableRun
    from separatrix_dashboards.sessions import SessionPool

_LOG = logging.getLogger(__name__)

LANDSCAPES: Final = tuple(name for name, entry in CATALOGUE.items() if not entry.solvents)
"""Systems that visitors may sample: those without atoms, in which a shot takes milliseconds."""

SELECTORS: Final[Mapping[str, str]] = {"guided": "lorentzian", "uniform": "uniform"}
"""What visitors call selections, and what configurations do."""

MORE_SHOTS: Final = 500
"""What a session that has made its shots goes on by."""

_PREFIX: Final = "separatrix-demo-"
_TICK_SECONDS: Final = 0.5
_WEIGH_SECONDS: Final = 5.0
_NEWBORN_SECONDS: Final = 60.0
"""A folder without a lock that is younger belongs to a server that is just starting."""


class SandboxFullError(SeparatrixError):
    """There are as many sessions of visitors as the server holds."""


class VisitOverError(SeparatrixError):
    """A session of a visitor that is not there any more, or has used up what it was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a session of a visitor may take.

    Attributes
    ----------
    shots : in all
    pace : shots per second; the landscapes could be sampled faster than anybody could watch, or a committor learn
    seconds : with a worker of its own, sampling or paused
    size : bytes on the disk
    unseen : seconds without anybody who looks at it, after which it is removed
    lifetime : seconds after which it is removed in any case
    sessions : that there are at once, those that wait or have ended included
    """

    shots: int = 2_000
    pace: float = 25.0
    seconds: float = 300.0
    size: int = 200 * 2**20
    unseen: float = 300.0
    lifetime: float = 3_600.0
    sessions: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a visitor wants to sample.

    Attributes
    ----------
    landscape : one of `LANDSCAPES`
    selection : a key of `SELECTORS`
    shots : in all
    """

    landscape: str
    selection: str = "guided"
    shots: int = 1_000


@dataclass(slots=True, eq=False)
class Visit:
    """One session of a visitor; pages look at it, the sandbox alone changes it.

    Attributes
    ----------
    key : its address, which nobody can guess
    visitor : who may control it
    path : folder of its run
    used : seconds in which it had a worker
    over : why it goes on no more; nothing while it may
    leaving : whether it is being removed
    """

    key: str
    visitor: str
    path: Path
    made: float
    seen: float
    used: float = 0.0
    over: str = ""
    leaving: bool = False
    viewers: int = 0
    ready: bool = False
    stopping: bool = False


class _VisitHub(Hub):
    """Publishes sessions of visitors; the runs that they are held against are the prepared ones, never each other."""

    for_visitors = True

    def __init__(self, prepared: Hub, pool: SessionPool, folder: Path) -> None:
        self._prepared, self._visits = prepared, folder
        super().__init__(None, pool)

    def runs(self) -> tuple[RunSnapshot | UnreadableRun, ...]:
        return self._prepared.runs()

    def words(self, error: Exception) -> str:
        return self._prepared.words(error).replace(f"{self._visits}{os.sep}", "")

    def feed(self, path: Path | str) -> Feed:
        return super().feed(path) if Path(path).is_relative_to(self._visits) else self._prepared.feed(path)


class Sandbox:
    """The sessions of the visitors of one server; any thread may ask.

    Each has one worker of the pool's budget, and waits in the pool's line for it. They lie in a temporary folder that
    goes with the server; one that a killed server left behind goes when the next one starts.

    Parameters
    ----------
    prepared : publishes the runs that everybody may look at
    pool : the sessions of the server
    limits : of each session

    Attributes
    ----------
    hub : publishes these sessions to their pages
    """

    def __init__(self, prepared: Hub, pool: SessionPool, limits: Limits | None = None) -> None:
        self.pool, self.limits = pool, limits or Limits()
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).absolute()
        self._file_lock = acquire(self.folder)
        self.hub: Hub = _VisitHub(prepared, pool, self.folder)
        self._visits: dict[str, Visit] = {}
        self._lock = threading.RLock()
        self._making = threading.Lock()
        self._closed = threading.Event()
        self._weighed = self._ticked = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="sandbox", daemon=True)
        self._thread.start()

    # -- looking ---------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Visit | None:
        """Return a session by its address; None when there is none, or no longer."""
        with self._lock:
            visit = self._visits.get(key)
            return None if visit is None or visit.leaving or not visit.ready else visit

    def of(self, visitor: str) -> Visit | None:
        """Return the session of a visitor; None for who has none."""
        with self._lock:
            own = (visit for visit in self._visits.values() if visit.visitor == visitor)
            return next((visit for visit in own if self.find(visit.key) is not None), None)

    def owns(self, visitor: str, key: str) -> bool:
        """Return whether a session is this visitor's to control."""
        visit = self.find(key)
        return visit is not None and bool(visitor) and secrets.compare_digest(visit.visitor, visitor)

    def feed(self, key: str) -> Feed:
        """Return the feed of a session.

        Raises
        ------
        VisitOverError
            If it is not there, or no longer.
        """
        visit = self.find(key)
        if visit is None:
            raise VisitOverError("this session is over, and what it had sampled is gone; start another")
        return self.hub.feed(visit.path)

    def enter(self, key: str) -> Callable[[], None]:
        """Note that somebody looks at a session; return what ends that."""
        visit = self.find(key)
        if visit is None:
            return lambda: None
        with self._lock:
            visit.viewers += 1

        def leave() -> None:
            with self._lock:
                visit.viewers -= 1
                visit.seen = time.monotonic()

        return leave

    def wait(self, visit: Visit | None = None) -> float:
        """Return the seconds that a session waits for a worker at most, 0 for none.

        Parameters
        ----------
        visit : that waits; None for one that would be begun now
        """
        with self._lock:
            used = {each.path: each.used for each in self._visits.values()}
            left = [max(0.0, self.limits.seconds - used.get(path, 0.0)) for path in self.pool.sessions()]
            waiting = sum(self.pool.place(each.path) is not None for each in self._visits.values())
        place = waiting + 1 if visit is None else self.pool.place(visit.path) or 0
        free = max(0, self.pool.max_workers - self.pool.busy_workers)
        if place <= free or not left:
            return 0.0
        heapq.heapify(left)
        ends = 0.0
        for _ in range(place - free):  # who is before it in line takes the first free place, for the whole time
            ends = heapq.heappop(left)
            heapq.heappush(left, ends + self.limits.seconds)
        return ends

    # -- control ---------------------------------------------------------------------------------------------------

    def begin(self, visitor: str, wish: Wish) -> str:
        """Make and start a session in place of the one that the visitor had; it takes a second: call it in a thread.

        Returns
        -------
        str
            Its address.

        Raises
        ------
        ConfigError
            If it wants something else than there is, or more than the limits allow.
        SandboxFullError
            If there are too many sessions, or the disk is full.
        """
        data = self._configuration(wish)
        if not visitor:
            raise PermissionDeniedError("expected a visitor with a cookie, got none; let this page set its cookie")
        visit = self._reserve(visitor, wish)
        try:
            with self._making:
                self.pool.create(visit.path, data, role=Role.OPERATOR)
                self._start(visit, wish.shots)
        except BaseException:
            self._remove(visit)
            raise
        visit.ready = True
        return visit.key

    def go_on(self, visitor: str, key: str) -> None:
        """Sample to the end of the shots that were wanted, or some more after that.

        Raises
        ------
        PermissionDeniedError
            If the session is another visitor's.
        VisitOverError
            If it has used up what it was given.
        SeparatrixError
            If it runs already.
        """
        visit = self._own(visitor, key, "start")
        feed = self.hub.feed(visit.path)
        feed.refresh()
        status = feed.snapshot.status
        if visit.over or status.steps >= self.limits.shots:
            raise VisitOverError(visit.over or self._enough_shots())
        wanted = status.target if status.steps < status.target else status.steps + MORE_SHOTS
        self._start(visit, min(wanted, self.limits.shots))

    def pause(self, visitor: str, key: str) -> None:
        """Finish the shots in flight, and keep the worker; errors are those of `go_on`."""
        self.pool.pause(self._own(visitor, key, "pause").path, role=Role.OPERATOR)

    def resume(self, visitor: str, key: str) -> None:
        """Go on after `pause`; errors are those of `go_on`."""
        self.pool.resume(self._own(visitor, key, "resume").path, role=Role.OPERATOR)

    def stop(self, visitor: str, key: str) -> None:
        """End sampling, or take the session out of the line; errors are those of `go_on`."""
        self.pool.stop(self._own(visitor, key, "stop").path, role=Role.OPERATOR)

    def discard(self, visitor: str, key: str) -> None:
        """Remove a session; errors are those of `go_on`."""
        self._own(visitor, key, "discard").leaving = True

    def close(self) -> None:
        """Remove every session, once; the pool must have been closed."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        self.hub.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._file_lock.release()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _own(self, visitor: str, key: str, action: str) -> Visit:
        visit = self.find(key)
        if visit is None:
            raise VisitOverError("this session is over, and what it had sampled is gone; start another")
        if not self.owns(visitor, key):
            raise PermissionDeniedError(f"only the visitor who began a session may {action} it; begin one of your own")
        return visit

    def _configuration(self, wish: Wish) -> dict[str, Any]:
        if wish.landscape not in LANDSCAPES:
            raise ConfigError(f"landscape: expected one of {', '.join(LANDSCAPES)}, got {wish.landscape!r}")
        if wish.selection not in SELECTORS:
            raise ConfigError(f"selection: expected {' or '.join(SELECTORS)}, got {wish.selection!r}")
        if not isinstance(wish.shots, int) or not 1 <= wish.shots <= self.limits.shots:
            raise ConfigError(f"shots: expected 1 to {self.limits.shots}, got {wish.shots!r}")
        sampling = {"selector": SELECTORS[wish.selection], "steps": wish.shots, "seed": secrets.randbelow(2**31)}
        return {"system": {"kind": wish.landscape}, "sampling": sampling}

    def _reserve(self, visitor: str, wish: Wish) -> Visit:
        """Return the place of a new session; what the visitor had before leaves."""
        now = time.monotonic()
        with self._lock:
            if shutil.disk_usage(self.folder).free < 2 * self.limits.size:
                raise SandboxFullError("the disk of this server is full; come again later")
            for visit in self._visits.values():
                visit.leaving |= visit.visitor == visitor
            if len(self._visits) >= self.limits.sessions:
                self._make_room()
            key = secrets.token_urlsafe(24)
            # The last part is what its page calls it.
            visit = Visit(key, visitor, self.folder / key / CATALOGUE[wish.landscape].title, now, now)
            self._visits[key] = visit
            return visit

    def _make_room(self) -> None:
        """Have the session leave that ended and was not looked at for the longest time; refuse if there is none."""
        idle = [visit for visit in self._visits.values() if visit.ready and not self._busy(visit)]
        for visit in sorted(idle, key=lambda visit: (visit.viewers > 0, visit.seen)):
            self._remove(visit)
            return
        raise SandboxFullError(
            f"all {self.limits.sessions} places for visitors are taken; one is free in "
            f"{lasting(self.wait())} at most: come again then"
        )

    def _start(self, visit: Visit, shots: int) -> None:
        visit.stopping = False
        # One worker: what all share is the budget. No platform is timed for it: the reference one is the fastest here.
        self.pool.start(
            visit.path, steps=shots, workers=1, platform="Reference", pace=self.limits.pace, role=Role.OPERATOR
        )

    def _busy(self, visit: Visit) -> bool:
        """Return whether the pool has anything to do with a session."""
        return self._samples(visit) or self.pool.place(visit.path) is not None or is_locked(visit.path)

    def _samples(self, visit: Visit) -> bool:
        return self.pool.session(visit.path) is not None

    def _enough_shots(self) -> str:
        return f"This session has made its {self.limits.shots:,} shots; begin another to go on."

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            try:
                self._tick()
            except Exception:  # noqa: BLE001 - the limits of the other sessions hold all the same
                _LOG.exception("looking after the sessions of visitors failed; it is tried again")

    def _tick(self) -> None:
        """Hold every session against its limits."""
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        weigh = now - self._weighed > _WEIGH_SECONDS
        if weigh:
            self._weighed = now
        with self._lock:
            visits = [visit for visit in self._visits.values() if visit.ready]
        for visit in visits:
            if self._samples(visit):
                visit.used += passed
                visit.over = visit.over or self._exceeded(visit, weigh=weigh)
            unseen = visit.viewers <= 0 and now - visit.seen > self.limits.unseen
            visit.leaving |= unseen or now - visit.made > self.limits.lifetime
            if visit.leaving and not self._busy(visit):
                self._remove(visit)
            elif (visit.leaving or visit.over) and not visit.stopping:
                visit.stopping = True
                with contextlib.suppress(SeparatrixError):  # it has ended by itself meanwhile
                    self.pool.stop(visit.path, role=Role.OPERATOR)

    def _exceeded(self, visit: Visit, *, weigh: bool) -> str:
        """Return which limit a session has come to, in a sentence; nothing for none."""
        if visit.used >= self.limits.seconds:
            return f"The {lasting(self.limits.seconds)} of this session are over; begin another to go on."
        if weigh and size(visit.path) > self.limits.size:
            return f"This session has filled its {self.limits.size / 2**20:.0f} MiB; begin another to go on."
        return ""

    def _remove(self, visit: Visit) -> None:
        with self._lock:
            self._visits.pop(visit.key, None)
        self.hub.leave(visit.path)
        shutil.rmtree(visit.path.parent, ignore_errors=True)


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def sweep(folder: Path | None = None) -> None:
    """Remove what servers that were killed left behind.

    Parameters
    ----------
    folder : where to look; by default where temporary files lie
    """
    for left in _abandoned(Path(tempfile.gettempdir()) if folder is None else folder):
        shutil.rmtree(left, ignore_errors=True)


def _abandoned(folder: Path) -> Iterator[Path]:
    for found in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = found.lstat()
            own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            newborn = not (found / "lock").exists() and abs(time.time() - status.st_mtime) < _NEWBORN_SECONDS
            if own and found.is_dir() and not found.is_symlink() and not newborn and not is_locked(found):
                yield found
