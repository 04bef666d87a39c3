"""Work in worker processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, spawn
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Final

from separatrix.executors.base import WorkerExecutor


class ProcessExecutor(WorkerExecutor):
    """Worker processes that fail one by one.

    Each worker is a pool of its own, so that a process that dies (out of memory, killed) takes only its own task
    with it: that future raises ``BrokenExecutor`` and the worker is replaced. Workers are spawned, never forked,
    and end by themselves within a second when this process dies, however it dies. They do not run the main script:
    tasks and initializers are functions of modules that can be imported. Interrupts and polite requests to terminate
    are blocked in them: terminals, ``timeout`` and batch systems send those to a whole group of processes, and this
    process alone decides what becomes of its workers.

    Parameters
    ----------
    workers : number of processes
    initializer : called once in each new worker
    initargs : one tuple of arguments for each worker
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., None] | None = None,
        initargs: Callable[[int], tuple[Any, ...]] = lambda worker: (),
    ) -> None:
        self._initializer, self._initargs = initializer, initargs
        self._lock = threading.RLock()
        self._waiting: deque[tuple[Future[Any], tuple[Any, ...]]] = deque()
        self._pools = [self._new_pool(worker) for worker in range(workers)]
        self._idle = list(range(workers))
        self._closed = False

    def warm_up(self) -> Future[Any]:
        """Start the processes now, not with their first tasks; the future returned ends when the last is ready."""
        for pool in self._pools[:-1]:
            pool.submit(int)
        return self._pools[-1].submit(int)

    @property
    def workers(self) -> int:
        """Number of processes; one that died is replaced at once."""
        return len(self._pools)

    @property
    def busy(self) -> int:
        """Number of workers at work now."""
        with self._lock:
            return len(self._pools) - len(self._idle)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Process numbers of the workers started so far."""
        with self._lock:
            return tuple(pid for pool in self._pools for pid in _processes(pool))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a task; an idle worker takes it at once."""
        if kwargs:
            raise TypeError("pass positional arguments only")
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot submit after shutdown")
            self._waiting.append((future, (fn, *args)))
        self._dispatch()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop the workers; with ``wait=False`` their tasks are abandoned and the processes killed."""
        with self._lock:
            self._closed = True
            if cancel_futures or not wait:
                for future, _ in self._waiting:
                    future.cancel()
                self._waiting.clear()
            pools = list(self._pools)
        for pool in pools:
            if not wait:
                _kill(pool)
        for pool in pools:
            # Waiting takes milliseconds when the process is dead, and must be: a pool still closing down when the
            # interpreter exits is woken through pipes that it has closed already.
            pool.shutdown(wait=True, cancel_futures=cancel_futures)

    def _new_pool(self, worker: int) -> ProcessPoolExecutor:
        return _Pool(
            1,
            mp_context=_WorkerContext(),
            initializer=_start_process,
            initargs=(pickle.dumps((self._initializer, self._initargs(worker))),),
        )

    def _dispatch(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or not self._idle:
                    return
                future, call = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                worker = self._idle.pop(0)
                pool = self._pools[worker]
            try:
                inner = pool.submit(*call)
            except RuntimeError as error:  # the worker broke, or was shut down meanwhile
                self._finish(worker, future, None, error)
                continue
            if self._closed:
                _kill(pool)  # `shutdown` may have looked before there was a process
            inner.add_done_callback(lambda done, w=worker, f=future: self._done(w, f, done))  # type: ignore[misc]

    def _done(self, worker: int, future: Future[Any], inner: Future[Any]) -> None:
        error = inner.exception()
        self._finish(worker, future, None if error else inner.result(), error)

    def _finish(self, worker: int, future: Future[Any], result: Any, error: BaseException | None) -> None:
        """Free the worker first, then hand over the result: the next task starts before anyone looks at this one."""
        with self._lock:
            if isinstance(error, BrokenExecutor) and not self._closed:
                self._pools[worker] = self._new_pool(worker)
            self._idle.append(worker)
        self._dispatch()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


YIELDING: Final = 15
"""Niceness of processes that find something out while others sample: those go first."""


def yield_to_workers() -> None:
    """Have this process leave the processor to those that sample, where the system knows how."""
    with suppress(OSError, AttributeError):
        os.nice(YIELDING)


class _Pool(ProcessPoolExecutor):
    """A pool of one process whose death is noticed even while it hands over a result.

    Python keeps the writing end of the pipe of results open in this process too: the rest of a half-written result
    would be waited for for ever.
    """

    def _spawn_process(self) -> None:
        super()._spawn_process()  # type: ignore[misc]
        self._result_queue._writer.close()  # type: ignore[attr-defined]  # noqa: SLF001 - the process has its own


def _processes(pool: ProcessPoolExecutor) -> dict[int, multiprocessing.Process]:
    # Python has no public way to learn the processes of a pool before 3.14, where they can be ended through it.
    return dict(pool._processes or {})  # noqa: SLF001


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in _processes(pool).values():
        process.kill()


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


def _start_process(initializer: bytes) -> None:
    """Prepare a worker process.

    The initializer comes pickled, so that the modules it needs, seconds of work, are loaded under the eyes of the
    thread that ends this process with its parent.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    initialize, arguments = pickle.loads(initializer)  # noqa: S301 - from the parent process, which sent all else so too
    if initialize is not None:
        initialize(*arguments)


def _end_with(sentinel: int) -> None:
    """Leave when the parent process is gone: a killed session must leave no orphans that go on computing."""
    wait([sentinel])
    os._exit(1)
