"""What runs in the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from distributed import Worker, WorkerPlugin, get_worker

from separatrix.errors import ClusterError
from separatrix.executors.base import Bench

_PATIENCE: Final = 10.0
"""Seconds to wait for a session that has ended to leave the worker."""

_PACKAGES: Final = ("separatrix", "distributed", "openmm", "numpy")


def finder_of_versions() -> Callable[[], dict[str, str]]:
    """Return a function that returns the versions which session and workers must share, and the host.

    It can be sent to workers without Separatrix, which a function of a module cannot: being local, it travels as code.
    """
    packages = _PACKAGES

    def find() -> dict[str, str]:
        import platform  # noqa: PLC0415
        import socket  # noqa: PLC0415
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415
        from importlib.util import find_spec  # noqa: PLC0415

        found = {"host": socket.gethostname(), "python": platform.python_version().rpartition(".")[0]}
        for name in packages:
            try:
                found[name] = version(name) if find_spec(name) is not None else "none"
            except (PackageNotFoundError, ValueError):
                found[name] = "none"
        return found

    return find


def versions() -> dict[str, str]:
    """Return the versions of this process that session and workers must share, and its host."""
    return finder_of_versions()()


class ShootingPlugin(WorkerPlugin):
    """Builds what a worker works with, once, and has it make one task at a time in a thread of its own.

    It lives as long as the session that placed it: the task that placed it has a result, which the scheduler lets go
    when that session ends, however it ends. A task that is cancelled while it runs is abandoned.

    Parameters
    ----------
    name : of the plugin and of its executor in the worker; keys of the session's tasks begin with it
    key : of the task that placed this plugin
    owner : what to tell others the worker works for
    """

    def __init__(self, name: str, key: str, owner: str) -> None:
        self.name, self.owner = name, owner
        self._key = key
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._bench: Bench | None = None
        self._current: str | None = None
        self._abandoned: set[str] = set()

    def setup(self, worker: Worker) -> None:
        """Take up the work."""
        self._worker = worker
        worker.executors[self.name] = self._pool

    def teardown(self, worker: Worker) -> None:
        """Give it up, the task at work included."""
        worker.executors.pop(self.name, None)
        if self._bench is not None:
            self._bench.abandon()
        self._pool.shutdown(wait=False)  # what waits in it was abandoned, too, and ends by itself

    def transition(self, key: str, start: str, finish: str, **_: Any) -> None:
        """Look at what becomes of tasks: called by Dask for each step of each."""
        if key == self._key and start == "memory":
            self._worker.loop.add_callback(self._worker.plugin_remove, name=self.name)
        elif start == "executing" and finish == "released" and str(key).startswith(self.name):
            self._abandoned.add(key)
            if key == self._current and self._bench is not None:
                self._bench.abandon()

    async def build(self, call: bytes) -> Any:
        """Build the bench in the thread that will use it, and return its report."""

        def work() -> Bench:
            initializer, arguments = pickle.loads(call)  # noqa: S301 - from the session, which sent all else so too
            bench: Bench = initializer(self._worker.state.nthreads, *arguments)
            return bench

        self._bench = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        return self._bench.report

    def run(self, key: str, call: bytes) -> Any:
        """Make a task, in the plugin's thread."""
        self._current = key
        try:
            if key in self._abandoned:
                raise ClusterError(f"task {key} was cancelled before it began")
            fn, arguments = pickle.loads(call)  # noqa: S301 - from the session, which sent all else so too
            return fn(*arguments)
        finally:
            self._current = None
            self._abandoned.discard(key)


async def join(name: str, key: str, owner: str, call: bytes) -> Any:
    """Place a session's plugin in this worker and build what it works with; its report is returned.

    Raises
    ------
    ClusterError
        The worker works for another session.
    """
    worker, host = get_worker(), socket.gethostname()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while others := [plugin for plugin in worker.plugins.values() if isinstance(plugin, ShootingPlugin)]:
        if loop.time() > deadline:
            raise ClusterError(f"on {host} the worker already works for {others[0].owner}")
        await asyncio.sleep(0.1)
    plugin = ShootingPlugin(name, key, owner)
    await worker.plugin_add(plugin, name=name, catch_errors=False)
    try:
        return await plugin.build(call)
    except BaseException:
        await worker.plugin_remove(name=name)
        raise


def run(name: str, key: str, call: bytes) -> Any:
    """Make a task of a session whose plugin is in this worker."""
    plugin: ShootingPlugin = get_worker().plugins[name]
    return plugin.run(key, call)
