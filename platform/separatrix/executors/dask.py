"""Work on the workers of a Dask cluster, which come and go while it goes on."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import pickle
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import dask
from distributed import Client
from distributed import Future as Remote

from separatrix.errors import ClusterError
from separatrix.executors.base import Bench, WorkerExecutor
from separatrix.executors.dask_worker import finder_of_versions, join, run, versions

CONNECT_SECONDS: Final = 10.0
"""Time that a scheduler gets to answer."""

_LOGGERS: Final = ("distributed.client", "distributed.scheduler", "distributed.core", "distributed.batched")

_TASKS_PER_WORKER: Final = 2
"""One at work, one waiting there for it to end."""

_WATCH_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 5.0
_ASK_SECONDS: Final = 10.0
_REJOIN_SECONDS: Final = 10.0
"""Between attempts to win a worker that could not join: its file system or another session may have been why."""


@dataclass(slots=True, eq=False)
class _Task:
    call: bytes
    future: Future[Any]
    remote: Remote | None = None


@dataclass(slots=True, eq=False)
class _Member:
    """A worker of the cluster, as this session knows it.

    Attributes
    ----------
    presence : the task that placed the plugin; the worker works for this session as long as it is held
    tasks : given to the worker and not ended, by key, the one at work first
    since : when that one came to be the first
    """

    address: str
    presence: Remote | None = None
    refusal: str = ""
    tasks: dict[str, _Task] = field(default_factory=dict)
    since: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """Something that happened to a worker: it ``joined``, was ``lost`` or ``refused``, and why."""

    event: str
    worker: str
    reason: str = ""


class OwnWorkers(Protocol):
    """Workers that a batch system starts for one session."""

    @property
    def cluster(self) -> Any:
        """The Dask cluster object."""
        ...

    async def ask(self) -> None:
        """Ask for the workers that are missing; a `ClusterError` says why they are refused."""
        ...

    def close(self) -> None:
        """End them."""
        ...


class DaskExecutor(WorkerExecutor):
    """Gives tasks to the workers of a Dask cluster, one at a time each.

    Every worker builds its bench once, when it joins, and keeps it until this session ends, however it ends (see
    `ShootingPlugin`). Tasks are pinned to workers, so that it is known what goes down with which: the future of the
    task at work raises ``BrokenExecutor``, those that waited behind it are given to others, and Dask, which could
    place a pinned task nowhere else, makes none of them a second time. Nothing is left in the scheduler.

    Parameters
    ----------
    scheduler : address such as ``tcp://host:8786``, or workers that a batch system starts for this session
    initializer : called once in each worker with its number of threads and the arguments
    arguments : of the initializer
    owner : what this session is called in messages
    time_limit : returns the seconds a task may take, asked again and again while it does

    Raises
    ------
    ClusterError
        No scheduler answers, or one of another version.
    """

    def __init__(
        self,
        scheduler: str | OwnWorkers,
        initializer: Callable[..., Bench],
        arguments: tuple[Any, ...],
        owner: str,
        time_limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._name = f"separatrix-{uuid.uuid4().hex[:12]}"
        self._place = pickle.dumps((initializer, arguments))
        self._owner, self._time_limit = owner, time_limit
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._members: dict[str, _Member] = {}
        self._ready: set[str] = set()
        self._at_work: set[str] = set()
        self._free: list[tuple[int, str]] = []  # a heap of tasks at a worker and its address; also holds what was
        self._waiting: deque[_Task] = deque()
        self._arrived: list[tuple[_Member, Remote]] = []
        self._news: deque[News] = deque()
        self._lost: ClusterError | None = None
        self._closed = False
        self.reports: list[Any] = []
        self._own = None if isinstance(scheduler, str) else scheduler
        self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        for name in _LOGGERS:  # what matters is said in one line, by us
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._client = _connect(scheduler if isinstance(scheduler, str) else scheduler.cluster)
        self._address = str(self._client.scheduler.address)
        self._client.subscribe_topic("all", self._hear)
        for address in self._client.nthreads():
            self._invite(address)
        self._client.loop.add_callback(self._watch)
        if self._own is not None:
            self._client.loop.add_callback(self._ask, self._own)

    @property
    def workers(self) -> int:
        """Number of workers that have joined and are there now.

        Raises
        ------
        ClusterError
            The scheduler is gone, or no worker at all can be used.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            return len(self._ready)

    @property
    def busy(self) -> int:
        """Number of workers at work now."""
        return len(self._at_work)

    def news(self) -> list[News]:
        """Return what happened to workers since the last call."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a task; the worker with the least to do takes it."""
        if kwargs:
            raise TypeError("pass positional arguments only")
        future: Future[Any] = Future()
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self._closed:
                raise RuntimeError("cannot submit after shutdown")
            self._waiting.append(_Task(pickle.dumps((fn, args), pickle.HIGHEST_PROTOCOL), future))
            self._dispatch()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; with ``wait=False`` tasks are abandoned, and end where they run within some frames."""
        with self._lock:
            pending = [*self._waiting, *(task for member in self._members.values() for task in member.tasks.values())]
        if wait and not cancel_futures:
            for task in pending:
                with suppress(BaseException):
                    task.future.exception()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.clear()
            members, self._members = list(self._members.values()), {}
        for task in pending:
            task.future.cancel()
        for member in members:
            _release(task.remote for task in member.tasks.values())
            _release([member.presence])
        with suppress(Exception):  # what is gone need not be left
            self._client.unsubscribe_topic("all")
            self._client.close(timeout=_CLOSE_SECONDS)
        if self._own is not None:
            self._own.close()
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    # -- workers come and go ---------------------------------------------------------------------------------------

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take in an event of the scheduler, in the thread of the client."""
        message = event[1]
        if message.get("action") == "add-worker":
            self._invite(message["worker"])
        elif message.get("action") == "remove-worker":
            self._lose(message["worker"])

    def _invite(self, address: str) -> None:
        with self._lock:
            if self._closed or address in self._members:
                return
            self._members[address] = member = _Member(address)
        self._client.loop.add_callback(self._welcome, member)

    async def _welcome(self, member: _Member) -> None:
        """Have a worker of the same versions build its bench."""
        answers = await self._client.run(
            finder_of_versions(), workers=[member.address], asynchronous=True, on_error="return"
        )
        found, here = answers.get(member.address), versions()
        if not isinstance(found, dict):
            return  # it is gone already, which is heard of, or cannot even answer
        here.pop("host")
        different = [f"{name} {found[name]} (here {here[name]})" for name in here if found[name] != here[name]]
        if different:
            self._refuse(member, f"on {found['host']} there is {', '.join(different)}; install the same versions there")
            return
        with self._lock:
            if self._closed or self._members.get(member.address) is not member:
                return
            key = f"{self._name}-join-{next(self._numbers)}"
            member.presence = self._client.submit(
                join, self._name, key, self._owner, self._place, key=key, workers=[member.address], pure=False
            )
        member.presence.add_done_callback(lambda done: self._client.loop.add_callback(self._admit, member, done))

    async def _admit(self, member: _Member, presence: Remote) -> None:
        """Give work to a worker whose bench is built, and say why one could not build its own."""
        if presence.status == "error":
            self._refuse(member, _first_line(_error_of(presence)))
        if presence.status != "finished":
            return
        reports = await self._client.gather([presence], errors="skip", asynchronous=True)
        with self._lock:
            if reports and self._members.get(member.address) is member:
                self._ready.add(member.address)
                self.reports += reports
                self._news.append(News(event="joined", worker=member.address))
                self._offer(member)
                self._dispatch()

    def _refuse(self, member: _Member, reason: str) -> None:
        if not self._closed:
            member.refusal = reason
            self._news.append(News(event="refused", worker=member.address, reason=reason))
            self._client.loop.call_later(_REJOIN_SECONDS, self._retry, member)

    def _retry(self, member: _Member) -> None:
        with self._lock:
            if self._members.get(member.address) is not member:
                return
            del self._members[member.address]
        self._invite(member.address)

    def _lose(self, address: str, reason: str = "") -> None:
        """Fail the task that was at work on a worker that is gone, and give those behind it to others."""
        with self._lock:
            member = self._members.pop(address, None)
            if member is None or self._closed:
                return
            tasks = list(member.tasks.values())
            _release(task.remote for task in tasks)
            _release([member.presence])
            member.tasks.clear()
            self._waiting.extendleft(reversed(tasks[1:]))
            self._at_work.discard(address)
            if address in self._ready:
                self._ready.remove(address)
                self._news.append(News(event="lost", worker=address, reason=reason))
            self._dispatch()
        if tasks:
            tasks[0].future.set_exception(BrokenExecutor(reason or f"the worker {address} is gone"))

    def _end_overdue(self, member: _Member) -> None:
        """End a worker whose task takes longer than any should, and do without it at once.

        A worker that does not even answer any more is not reached; Dask itself then gives it up after some minutes.
        """
        seconds = time.monotonic() - member.since
        if not member.tasks or seconds <= self._time_limit():
            return
        end = partial(self._client.run, os._exit, 1, workers=[member.address], on_error="ignore", asynchronous=True)
        self._client.loop.add_callback(end)
        self._lose(member.address, f"the task was ended after {seconds:.0f} s: it took longer than any should")

    async def _watch(self) -> None:
        """Notice that the scheduler is gone, that no worker can be used, or that a task does not end."""
        if self._closed:
            return
        if self._client.status != "running":
            self._give_up(
                f"the Dask scheduler at {self._address} is gone; start one again, and the same command goes on"
            )
            return
        with self._lock:
            members = list(self._members.values())
        if members and all(member.refusal for member in members) and not self.reports:
            self._give_up(f"none of {len(members)} Dask workers can be used: {members[0].refusal}")
            return
        for member in members:
            self._end_overdue(member)
        self._client.loop.call_later(_WATCH_SECONDS, self._client.loop.add_callback, self._watch)

    async def _ask(self, own: OwnWorkers) -> None:
        if self._closed or self._lost is not None:
            return
        try:
            await own.ask()
        except ClusterError as error:
            if not self.reports:
                self._give_up(str(error))
                return
            self._news.append(News(event="refused", worker="another", reason=str(error)))
        self._client.loop.call_later(_ASK_SECONDS, self._client.loop.add_callback, self._ask, own)

    def _give_up(self, reason: str) -> None:
        with self._lock:
            self._lost = ClusterError(reason)
            members, self._members = self._members.values(), {}
            tasks = [*self._waiting, *(task for member in members for task in member.tasks.values())]
            self._waiting.clear()
            self._ready.clear()
            self._at_work.clear()
        for task in tasks:
            task.future.set_exception(self._lost)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _offer(self, member: _Member) -> None:
        if len(member.tasks) < _TASKS_PER_WORKER:
            heapq.heappush(self._free, (len(member.tasks), member.address))

    def _dispatch(self) -> None:
        """Give waiting tasks to the workers with the least to do; under the lock."""
        while self._waiting and self._free:
            n_tasks, address = heapq.heappop(self._free)
            member = self._members.get(address)
            if member is None or address not in self._ready or len(member.tasks) != n_tasks:
                continue
            task = self._waiting.popleft()
            if not task.future.running() and not task.future.set_running_or_notify_cancel():
                heapq.heappush(self._free, (n_tasks, address))
                continue
            key = f"{self._name}-{next(self._numbers)}"
            with dask.annotate(executor=self._name):
                task.remote = self._client.submit(
                    run, self._name, key, task.call, key=key, workers=[address], pure=False
                )
            if not member.tasks:
                member.since = time.monotonic()
            member.tasks[key] = task
            self._at_work.add(address)
            self._offer(member)
            task.remote.add_done_callback(lambda remote, m=member: self._arrive(m, remote))

    def _arrive(self, member: _Member, remote: Remote) -> None:
        """Have the results fetched that arrived while others were, all in one go."""
        with self._lock:
            self._arrived.append((member, remote))
            first = len(self._arrived) == 1
        if first and not self._closed:
            self._client.loop.add_callback(self._fetch)

    async def _fetch(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        finished = {remote.key: remote for _, remote in arrived if remote.status == "finished"}
        results: dict[str, Any] = {}
        if finished:
            results = await self._client.gather(finished, errors="skip", asynchronous=True)
        for member, remote in arrived:
            self._finish(member, remote, results.get(remote.key))

    def _finish(self, member: _Member, remote: Remote, result: Any) -> None:
        """Free the worker first, then hand over the result."""
        with self._lock:
            task = member.tasks.pop(remote.key, None)
            if task is None:
                return  # the worker was lost, and with it the task
            error = None
            if result is None and remote.status != "finished":
                error = BrokenExecutor(f"the worker {member.address} lost it: {_first_line(_error_of(remote))}")
            _release([remote])
            member.since = time.monotonic()
            if not member.tasks:
                self._at_work.discard(member.address)
            self._offer(member)
            self._dispatch()
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)


def _connect(scheduler: Any) -> Client:
    """Return a client of a scheduler.

    Raises
    ------
    ClusterError
        None answers, or one of another version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared below
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False, name="separatrix")
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answered at {scheduler} within {CONNECT_SECONDS:.0f} s ({_first_line(error)}); "
            "start one with `dask scheduler`, or check the address it prints"
        ) from None
    except (ValueError, ImportError) as error:
        raise ClusterError(
            f"--scheduler: expected an address like tcp://host:8786, got {scheduler}: {_first_line(error)}"
        ) from None
    here = versions()
    found = client.sync(client.scheduler.versions, packages=["separatrix"])
    there = found["packages"] | {"python": ".".join(found["host"]["python"].split(".")[:2])}
    for package in ("python", "distributed", "separatrix"):
        if there.get(package) != here[package]:
            client.close(timeout=_CLOSE_SECONDS)
            raise ClusterError(
                f"the Dask scheduler at {scheduler}: expected {package} {here[package]} as in this session, found "
                f"{there.get(package)}; start scheduler and workers with the same installation of Separatrix"
            )
    return client


def _error_of(remote: Remote) -> BaseException | None:
    # The public way to ask waits, and must not in the thread of the client.
    error: BaseException | None = remote._state.exception  # noqa: SLF001
    return error


def _release(remotes: Iterable[Remote | None]) -> None:
    for remote in remotes:
        if remote is not None:
            remote.release()


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
