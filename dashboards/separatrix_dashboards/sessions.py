"""The sessions of one server: they share a budget of workers, wait in line for it, and end together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from separatrix.equilibration import EquilibrationProgress
from separatrix.errors import ConfigError, RunLockedError, RunNotFoundError, SeparatrixError
from separatrix.session import Session
from separatrix.store import is_locked, lock_holder
from separatrix_dashboards.access import Role, permit
from separatrix_dashboards.analyses import Analyses


@dataclass(slots=True, eq=False)
class _Start:
    """A start that was asked for and has not happened yet."""

    path: Path
    steps: int | None
    workers: int | None
    platform: str
    pace: float | None = None
    paused: bool = False
    stopped: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A session and its processes that shoot, 0 for none."""

    session: Session
    workers: int

    @property
    def taken(self) -> int:
        """What it takes of the budget."""
        return max(1, self.workers)


class SessionPool:
    """Starts, pauses, resumes and stops runs in this process; any thread may ask, and nothing but `create` waits.

    Every run takes as many workers as it has processes that shoot, and one if it shoots in this process, which one run
    at a time can; the process that learns beside them is not counted. A run that does not fit into what is left waits
    in line, first come first served, and starts by itself. A paused run keeps its workers, which stay alive. A run that
    ended gives them back.

    Parameters
    ----------
    max_workers : the budget

    Attributes
    ----------
    analyses : of the runs, in processes of their own that are not counted: they yield

    Raises
    ------
    ConfigError
        If the budget is less than one worker.
    """

    def __init__(self, max_workers: int) -> None:
        if max_workers < 1:
            raise ConfigError(f"max-workers: expected 1 or more, got {max_workers}")
        self.max_workers = max_workers
        self.analyses = Analyses()
        self._changed = threading.Condition()
        self._queue: deque[_Start] = deque()
        self._starting: _Start | None = None  # at the head of the queue, in the hands of the thread
        self._running: dict[Path, _Running] = {}
        self._problems: dict[Path, str] = {}
        self._closed = False
        self._going_down = threading.Event()
        self._thread = threading.Thread(target=self._work, name="session pool", daemon=True)
        self._thread.start()

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def busy_workers(self) -> int:
        """Workers taken by runs that run or are paused."""
        with self._changed:
            return sum(running.taken for running in self._running.values())

    @property
    def closed(self) -> bool:
        """Whether the server is going down: everything is being stopped, nothing starts any more."""
        return self._closed

    def session(self, path: Path | str) -> Session | None:
        """Return the session that runs a run now; None when it is not run by this server, or not yet or no longer."""
        with self._changed:
            running = self._running.get(_key(path))
            return None if running is None else running.session

    def sessions(self) -> Mapping[Path, Session]:
        """Return the sessions of all runs that run or are paused."""
        with self._changed:
            return {path: running.session for path, running in self._running.items()}

    def place(self, path: Path | str) -> int | None:
        """Return a run's place in the queue, 1 for the next or the one that is starting; None when it does not wait."""
        path = _key(path)
        with self._changed:
            waiting = [start.path for start in self._queue if not start.stopped]
            return waiting.index(path) + 1 if path in waiting else None

    def problem(self, path: Path | str) -> str | None:
        """Return what ended a run, or kept it from starting, since it was last asked to start."""
        with self._changed:
            return self._problems.get(_key(path))

    # -- control ---------------------------------------------------------------------------------------------------

    def create(
        self,
        path: Path | str,
        data: Mapping[str, Any],
        *,
        role: Role,
        report: Callable[[EquilibrationProgress], None] = lambda progress: None,
    ) -> None:
        """Make a run. It takes a second, and a minute where water is to be equilibrated: call it in a thread.

        Parameters
        ----------
        data : the configuration
        report : called some times a second while water is equilibrated

        Raises
        ------
        PermissionDeniedError
            For a viewer.
        SeparatrixError
            Whatever `Session.create` finds wrong; nothing is left behind then.
        """
        permit(role, "make runs")
        Session.create(_key(path), data, report=report, stop=self._going_down)

    def start(
        self,
        path: Path | str,
        *,
        steps: int | None = None,
        workers: int | None = None,
        platform: str = "auto",
        pace: float | None = None,
        role: Role,
    ) -> None:
        """Sample a run as soon as there are workers for it; returns at once, `problem` tells what went wrong later.

        Parameters
        ----------
        steps : trials the run should hold in total; ``sampling.steps`` by default
        workers : worker processes, 0 for none; by default the whole budget, but no more than chains
        platform : OpenMM platform, or "auto"
        pace : shots per second at most, for those who watch

        Raises
        ------
        PermissionDeniedError
            For a viewer.
        RunNotFoundError
            If there is no run.
        RunLockedError
            If it runs already, here or in another process.
        ConfigError
            If a number is impossible, or more workers are wanted than there will ever be.
        """
        permit(role, "start runs")
        path = _key(path)
        if steps is not None and steps < 0:
            raise ConfigError(f"steps: expected 0 or more, got {steps}")
        if workers is not None and not 0 <= workers <= self.max_workers:
            raise ConfigError(
                f"workers: expected 0 to {self.max_workers}, got {workers}; all runs of this server share "
                f"{self.max_workers} (separatrix serve --max-workers)"
            )
        if not (path / "run.zarr").exists():
            raise RunNotFoundError(f"expected a run at {path}, found none")
        with self._changed:
            if self._closed:
                raise SeparatrixError(f"this server is going down; {path.name} starts when it is up again")
            if path in self._running:
                raise RunLockedError(f"{path.name} is running already; pause or stop it first")
            if any(start.path == path for start in self._queue):
                raise RunLockedError(f"{path.name} is waiting for workers already")
            if is_locked(path):
                raise RunLockedError(_elsewhere(path))
            self._problems.pop(path, None)
            self._queue.append(_Start(path, steps, workers, platform, pace))
            self._changed.notify_all()

    def pause(self, path: Path | str, *, role: Role) -> None:
        """Finish the shots in flight, commit, and keep the workers.

        Raises
        ------
        PermissionDeniedError
            For a viewer.
        SeparatrixError
            If this server does not run it.
        """
        permit(role, "pause runs")
        self._tell(path, paused=True)

    def resume(self, path: Path | str, *, role: Role) -> None:
        """Go on after `pause`; errors are the same."""
        permit(role, "resume runs")
        self._tell(path, paused=False)

    def stop(self, path: Path | str, *, role: Role) -> None:
        """Commit and end a run, or take it out of the queue; returns at once, the shots in flight get a few seconds.

        Raises
        ------
        PermissionDeniedError
            For a viewer.
        SeparatrixError
            If this server does not run it.
        """
        permit(role, "stop runs")
        path = _key(path)
        with self._changed:
            for start in self._queue:
                if start.path == path:
                    self._take_out(start)
                    return
            running = self._running.get(path)
        if running is None:
            raise SeparatrixError(_not_here(path))
        _in_background(running.session.stop, path)

    def close(self, patience: float | None = None) -> tuple[Path, ...]:
        """Stop every session with all committed, all at once, and empty the queue; nothing starts afterwards.

        Parameters
        ----------
        patience : seconds to wait, None for as long as it takes

        Returns
        -------
        tuple
            Runs that were still in the midst of something after that; what they had committed is stored.
        """
        deadline = None if patience is None else time.monotonic() + patience
        self.analyses.close()
        with self._changed:
            self._closed = True
            self._going_down.set()
            self._changed.notify_all()
            for start in list(self._queue):
                self._take_out(start)
            for path, running in self._running.items():
                _in_background(running.session.stop, path)
        self._thread.join(patience)
        with self._changed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: not self._running, left)
            starting = () if self._starting is None else (self._starting.path,)
            return (*self._running, *starting)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _tell(self, path: Path | str, *, paused: bool) -> None:
        path = _key(path)
        with self._changed:
            running = self._running.get(path)
            starting = self._starting
            if running is None and starting is not None and starting.path == path and not starting.stopped:
                starting.paused = paused
                return
        if running is None:
            raise SeparatrixError(_not_here(path))
        if paused:
            running.session.pause()
        else:
            running.session.resume()

    def _take_out(self, start: _Start) -> None:
        start.stopped = True
        if start is not self._starting:
            self._queue.remove(start)
        self._changed.notify_all()

    def _work(self) -> None:
        """Start what waits, one after the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                start = self._starting = self._queue[0]
            try:
                running = self._start(start)
            except Exception as error:  # noqa: BLE001 - nobody waits for it; it is told by `problem`
                running = None
                self._note(start.path, error)
            with self._changed:
                self._queue.remove(start)
                self._starting = None
                if running is not None:
                    self._running[start.path] = running
                self._changed.notify_all()
            if running is not None:
                self._follow(start, running)

    def _start(self, start: _Start) -> _Running | None:
        session = Session.open(start.path)
        workers = start.workers
        if workers is None:
            workers = min(self.max_workers, session.config.sampling.chains)
        running = _Running(session, workers)
        with self._changed:
            self._changed.wait_for(lambda: start.stopped or self._fits(running))
            if start.stopped:
                return None
        session.start(start.steps, workers=workers, platform=start.platform, shots_per_second=start.pace)
        return running

    def _fits(self, running: _Running) -> bool:
        # OpenMM's Reference platform has one random generator for the whole process: two runs would race for it.
        alone = running.workers > 0 or all(other.workers > 0 for other in self._running.values())
        return alone and self.busy_workers + running.taken <= self.max_workers

    def _follow(self, start: _Start, running: _Running) -> None:
        """Do what was asked for while the run was starting, and wait in a thread for its end."""
        if start.paused:
            running.session.pause()
        if start.stopped:
            _in_background(running.session.stop, start.path)
        _in_background(lambda: self._wait(start.path, running), start.path)

    def _wait(self, path: Path, running: _Running) -> None:
        error: BaseException | None = None
        try:
            running.session.wait()
        except BaseException as ended:  # noqa: BLE001 - whatever ended it, the workers are free
            error = ended
        with self._changed:
            del self._running[path]
            if error is not None:
                self._note(path, error)
            self._changed.notify_all()

    def _note(self, path: Path, error: BaseException) -> None:
        text = str(error) if isinstance(error, SeparatrixError) else f"{type(error).__name__}: {error}"
        with self._changed:
            self._problems[path] = text


def _key(path: Path | str) -> Path:
    return Path(path).absolute()


def _in_background(work: Callable[[], Any], path: Path) -> None:
    threading.Thread(target=work, name=f"session pool: {path.name}", daemon=True).start()


def _not_here(path: Path) -> str:
    return _elsewhere(path) if is_locked(path) else f"{path.name} is not running; start it first"


def _elsewhere(path: Path) -> str:
    """Say who holds a run, as its lock tells."""
    holder = lock_holder(path)
    return f"{path.name} is being written by {holder or 'another process'}; pause or stop it where it was started"
