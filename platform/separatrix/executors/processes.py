"""Work in worker processes of this machine."""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import Pipe, resource_tracker, spawn
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.reduction import ForkingPickler
from queue import Empty, SimpleQueue
from typing import Any, Final

from separatrix.errors import DeviceLostError, SeparatrixError
from separatrix.executors.base import LOSSES, WorkerExecutor, all_lost

_LOOK_SECONDS: Final = 1.0
"""Between looks at how long a task has taken."""

_NOTED_SECONDS: Final = 1.0
"""For another thread to note how a process ended."""

_REST_SECONDS: Final = 1.0
"""Before a process is started again that the system had no room for."""

_Task = tuple[Future[Any], tuple[Any, ...]]


class ProcessExecutor(WorkerExecutor):
    """Worker processes that fail one by one.

    Each worker has a pipe and a thread here that hands it one task after the other, so that a process that dies (out
    of memory, killed) takes only its own task with it: that future raises ``BrokenExecutor`` and the worker is
    replaced. So is one whose task raised ``DeviceLostError``, since a driver that failed may be of no use to the whole
    process, and one whose task takes longer than there is time: it is killed. A worker that is lost, or cannot start,
    time and again is given up, and the others go on.

    Workers are spawned at once, never forked, and end by themselves within a second when this process dies, however
    it dies. They do not run the main script: tasks and initializers are functions of modules that can be imported.
    Interrupts and polite requests to terminate are blocked in them: terminals, ``timeout`` and batch systems send those
    to a whole group of processes, and this process alone decides what becomes of its workers.

    Parameters
    ----------
    workers : number of processes
    initializer : called once in each new worker; one where it fails takes no task
    initargs : one tuple of arguments for each worker
    time_limit : returns the seconds a task may take, asked again and again while it does
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., None] | None = None,
        initargs: Callable[[int], tuple[Any, ...]] = lambda worker: (),
        time_limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._lost: dict[int, str] = {}
        self._n_workers = workers
        self._workers = [
            _Worker(self._tasks, initializer, initargs(worker), partial(self._give_up, worker), time_limit)
            for worker in range(workers)
        ]
        atexit.register(self._abandon)

    @property
    def ready(self) -> bool:
        """Whether every worker has loaded what it needs; a task would wait until then."""
        return all(worker.ready for worker in self._workers)

    @property
    def workers(self) -> int:
        """Number of processes; one that died is replaced at once, until it is given up."""
        return self._n_workers - len(self._lost)

    @property
    def lost(self) -> Mapping[int, str]:
        """Workers that were given up, and why."""
        return self._lost

    @property
    def busy(self) -> int:
        """Number of workers at work now."""
        return sum(worker.busy for worker in self._workers)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Process numbers of the workers that live now."""
        return tuple(pid for worker in self._workers if (pid := worker.process_id) is not None)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a task; an idle worker takes it at once."""
        if kwargs:
            raise TypeError("pass positional arguments only")
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot submit after shutdown")
            self._tasks.put((future, (fn, *args)))
        self._fail_if_all_are_lost()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop the workers; with ``wait=False`` their tasks are abandoned and the processes killed."""
        with self._lock:
            if not self._closed:
                atexit.unregister(self._abandon)
            self._closed = True
        if cancel_futures or not wait:
            with suppress(Empty):
                while (task := self._tasks.get_nowait()) is not None:
                    task[0].cancel()
        for worker in self._workers:
            self._tasks.put(None)
            if not wait:
                worker.kill()
        for worker in self._workers:
            worker.join()

    def _abandon(self) -> None:
        self.shutdown(wait=False)

    def _give_up(self, worker: int, reason: str) -> None:
        self._lost[worker] = reason
        self._fail_if_all_are_lost()

    def _fail_if_all_are_lost(self) -> None:
        if self.workers:
            return
        with suppress(Empty):
            while (task := self._tasks.get_nowait()) is not None:
                future, _ = task
                if future.set_running_or_notify_cancel():
                    future.set_exception(all_lost([*self._lost.values()][-1]))


class _Worker:
    """One process, and the thread that hands it tasks.

    The pipe's other end is closed here, so that the death of the process is noticed whatever it was doing, be it
    in the middle of a result.
    """

    def __init__(
        self,
        tasks: SimpleQueue[_Task | None],
        initializer: Callable[..., None] | None,
        arguments: tuple[Any, ...],
        give_up: Callable[[str], None],
        time_limit: Callable[[], float],
    ) -> None:
        self.ready = False  # its first process can work, or was given up
        self.busy = False
        self._tasks = tasks
        # Pickled here, so that the modules it needs, seconds of work, are loaded by the thread of tasks there.
        self._initializer = pickle.dumps((initializer, arguments))
        self._lock = threading.Lock()
        self._closed = False
        self._give_up, self._time_limit = give_up, time_limit
        self._losses, self._problem = 0, ""  # in a row, and why the last one
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._thread = threading.Thread(target=self._serve, name="worker process", daemon=True)
        self._thread.start()

    @property
    def process_id(self) -> int | None:
        """Number of the process, None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def kill(self) -> None:
        """End the process at once, and let there be no other."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def join(self) -> None:
        """Wait for the thread, which waits for the process."""
        if self._thread is not threading.current_thread():  # a task's callback may shut down
            self._thread.join()

    def _serve(self) -> None:
        while (pipe := self._prepare()) is not None and (task := self._tasks.get()) is not None:
            future, call = task
            if future.set_running_or_notify_cancel():
                self.busy = True
                error, result = self._ask(pipe, call)
                self.busy = False
                self._count(error)
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
                del error, result
            del task, future, call  # they may be large, and the next may be long in coming
        self._end()

    def _prepare(self) -> Connection | None:
        """Return the pipe to a process that can work; None when this worker is given up or closed."""
        while self._pipe is None and self._losses < LOSSES and not self._closed:
            self._start()
        self.ready = True
        if self._pipe is None and not self._closed:
            self._give_up(self._problem)
        return self._pipe

    def _start(self) -> None:
        """Start a process and wait until it is ready; if it cannot work, there is no pipe afterwards."""
        try:
            self._pipe = self._launch()
        except OSError as refused:  # no more processes, memory or files for now
            self._note_failed_start(refused)
            time.sleep(_REST_SECONDS)
            return
        error, _ = self._receive(self._pipe)
        if error is not None:
            self._end()
            self._note_failed_start(error)

    def _launch(self) -> Connection:
        """Start a process, unless this worker is closed, and return the pipe to it."""
        ours, theirs = Pipe()
        with theirs:
            try:
                process = _WorkerContext().Process(target=_work, args=(theirs, self._initializer))
                with self._lock:
                    if not self._closed:
                        process.start()
                        self._process = process
            except BaseException:
                ours.close()
                raise
        return ours

    def _note_failed_start(self, error: BaseException) -> None:
        self._losses += 1
        told = str(error) if isinstance(error, SeparatrixError) else f"{type(error).__name__}: {error}"
        self._problem = f"could not start: {told}"

    def _count(self, error: BaseException | None) -> None:
        """Count losses in a row; a process whose device is lost is ended, however deeply its driver hangs."""
        if not isinstance(error, BrokenExecutor | DeviceLostError):
            self._losses = 0
            return
        self._losses, self._problem = self._losses + 1, str(error)
        if self._process is not None:
            self._process.kill()
        self._end()

    def _ask(self, pipe: Connection, call: tuple[Any, ...]) -> tuple[BaseException | None, Any]:
        """Have the process work; return the error or the result."""
        try:
            request = ForkingPickler.dumps(call)
        except Exception as error:  # noqa: BLE001 - whatever the task's arguments raise
            return error, None
        with suppress(OSError):  # if it is gone, reading will tell
            pipe.send_bytes(request)
        began = time.monotonic()
        with suppress(OSError):
            while not pipe.poll(_LOOK_SECONDS):
                if (seconds := time.monotonic() - began) > self._time_limit():
                    return BrokenExecutor(
                        f"the task was ended after {seconds:.0f} s: it took longer than any should"
                    ), None
        return self._receive(pipe)

    def _receive(self, pipe: Connection) -> tuple[BaseException | None, Any]:
        try:
            answer = pipe.recv_bytes()
        except (EOFError, OSError):
            return BrokenExecutor(f"the worker process ended {_how(self._end())} before its task did"), None
        try:
            error, result = pickle.loads(answer)  # noqa: S301 - from our own process
        except Exception as problem:  # noqa: BLE001 - whatever the result raises
            return problem, None
        return error, result

    def _end(self) -> int | None:
        """Close the pipe, which ends a process that lives; return its exit code, None if there was none."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        process.join()
        # Another thread that starts a process may have waited for this one, too, and notes its code in a moment.
        end = time.monotonic() + _NOTED_SECONDS
        while (code := process.exitcode) is None and time.monotonic() < end:
            time.sleep(0.001)
        with suppress(ValueError):
            process.close()
        return code


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


YIELDING: Final = 15
"""Niceness of processes that find something out while others sample: those go first."""


def yield_to_workers() -> None:
    """Have this process leave the processor to those that sample, where the system knows how."""
    with suppress(OSError, AttributeError):
        os.nice(YIELDING)


class _WorkerProcess(SpawnProcess):
    """A spawned process that does not run the main script.

    Any other would, up to ``if __name__ == "__main__"``: a script without that line would start its session over
    again in every worker, and the command line would load torch there.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_main_script(), _without_interrupts():
            return SpawnProcess._Popen(process_obj)  # noqa: SLF001 - the one place where a process is launched


class _WorkerContext(SpawnContext):
    Process = _WorkerProcess


_launching = threading.Lock()


@contextmanager
def _without_main_script() -> Iterator[None]:
    """Leave the main script out of what processes started in this thread are told."""
    with _launching:
        prepare, thread = spawn.get_preparation_data, threading.get_ident()

        def without_main(name: str) -> dict[str, Any]:
            data = prepare(name)
            if threading.get_ident() == thread:
                data.pop("init_main_from_path", None)
                data.pop("init_main_from_name", None)
            return data

        spawn.get_preparation_data = without_main
        try:
            yield
        finally:
            spawn.get_preparation_data = prepare


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block signals in this thread, and so for good in the processes it starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # Python's own helper process; starting it would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, initializer: bytes) -> None:
    """Prepare this worker process and do what comes through the pipe until it is closed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if not _answer(pipe, initializer, _initialize):
        return
    with suppress(EOFError, OSError):
        while True:
            _answer(pipe, pipe.recv_bytes(), _call)


def _answer(pipe: Connection, request: bytes, work: Callable[[bytes], Any]) -> bool:
    """Send back the error or the result of some work; return whether it went well."""
    try:
        answer, well = ForkingPickler.dumps((None, work(request))), True
    except BaseException as error:  # noqa: BLE001 - sent to whoever asked
        error.add_note("".join(traceback.format_exception(error)))
        answer, well = _dumped(error), False
    pipe.send_bytes(answer)
    return well


def _dumped(error: BaseException) -> Any:
    try:
        answer = ForkingPickler.dumps((error, None))
        pickle.loads(answer)  # noqa: S301 - many exceptions can be pickled but not read back
    except Exception:  # noqa: BLE001
        return ForkingPickler.dumps((RuntimeError(f"{type(error).__name__}: {error}"), None))
    return answer


def _initialize(pickled: bytes) -> None:
    initialize, arguments = pickle.loads(pickled)  # noqa: S301 - from the parent process, which sent all else so too
    if initialize is not None:
        initialize(*arguments)


def _call(pickled: bytes) -> Any:
    fn, *arguments = pickle.loads(pickled)  # noqa: S301 - from the parent process
    return fn(*arguments)


def _end_with(sentinel: int) -> None:
    """Leave when the parent process is gone: a killed session must leave no orphans that go on computing."""
    wait([sentinel])
    os._exit(1)
