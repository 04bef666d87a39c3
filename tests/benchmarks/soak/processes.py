"""What the server and its processes take of the machine, and the death of one of them now and then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import psutil

from separatrix.records import Reason
from separatrix.store import Store

MIB = 2**20
KINDS = ("shooter", "learner", "analyst", "other")


def kind_of(process):
    """Return what a process of the server does, by the libraries it has loaded; None while it is still loading."""
    command = process.cmdline()
    if "spawn_main" not in " ".join(command):
        return "other"  # Python's watcher over shared resources
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        simulates, learns = "libOpenMM." in maps, "libtorch_cpu" in maps
        return {(True, False): "shooter", (False, True): "learner", (True, True): "analyst"}.get((simulates, learns))
    return None


def sockets_of(number):
    """Return how many sockets a process holds."""
    count = 0
    for entry in os.scandir(f"/proc/{number}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(entry.path).startswith("socket:")  # noqa: PTH115 - of thousands
    return count


class Family:
    """The server and all that it started.

    Parameters
    ----------
    root : process number of the server
    """

    def __init__(self, root):
        self.server = psutil.Process(root)
        self._kinds = {}
        self._cpu = {}

    def children(self):
        """Return the processes of the server now, by what they do; those that are loading are left out."""
        found = {kind: [] for kind in KINDS}
        for process in self.server.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                kind = self._kinds.get(process) or kind_of(process)
                if kind is not None:
                    if kind != "learner":  # an analyst loads PyTorch first
                        self._kinds[process] = kind
                    found[kind].append(process)
        return found

    def measure(self):
        """Return what each of them takes."""
        kinds = self.children()
        taken = {f"{kind}s": [self._taken(process) for process in kinds[kind]] for kind in KINDS}
        return {"server": self._taken(self.server), **taken, "children": sum(map(len, kinds.values()))}

    def _taken(self, process):
        with contextlib.suppress(psutil.Error, OSError), process.oneshot():
            memory, cpu = process.memory_full_info(), sum(process.cpu_times()[:2])
            before, self._cpu[process] = self._cpu.get(process, cpu), cpu
            return {
                "pid": process.pid,
                "rss": memory.rss,
                "uss": memory.uss,
                "files": process.num_fds(),
                "threads": process.num_threads(),
                "sockets": sockets_of(process.pid),
                "seconds": cpu - before,
            }
        return None


def disk_of(folder):
    """Return (bytes, files) that a folder takes on the disk; what vanishes meanwhile is left out."""
    size = number = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size, number = size + os.lstat(os.path.join(place, name)).st_blocks * 512, number + 1  # noqa: PTH118
    return size, number


def events_of(run, kind):
    """Return the events of a run that are of one kind."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


class Reaper:
    """Kills a worker that shoots, and sees to it that another takes its place and makes its shot again.

    Parameters
    ----------
    family : of the server
    runs : folders
    rng : draws who dies
    patience : seconds in which a killed worker must be replaced and its shot made again
    """

    def __init__(self, family, runs, rng, patience):
        self._family, self._runs, self._rng, self._patience = family, runs, rng, patience
        self.kills = []

    async def strike(self):
        """Kill one of all workers, and return what was not made good in time, None if everything was."""
        shooters = await self._all_shooters()
        if shooters is None:
            return f"{time.strftime('%H:%M:%S')} expected a worker for each run, found fewer"
        seen = {run: len(events_of(run, "failure")) for run in self._runs}
        victim = shooters[self._rng.integers(len(shooters))]
        os.kill(victim.pid, signal.SIGKILL)
        begun = time.monotonic()
        while time.monotonic() - begun < self._patience:
            await asyncio.sleep(0.25)
            new = [(run, event) for run in self._runs for event in events_of(run, "failure")[seen[run] :]]
            if new and all(self._made_again(*each) for each in new) and self._replaced(victim):
                self.kills.append(time.monotonic() - begun)
                return None
        late = f"after {self._patience:g} s it was not replaced, or its shot not made again"
        return f"{time.strftime('%H:%M:%S')} killed worker {victim.pid}: {late}"

    async def _all_shooters(self):
        begun = time.monotonic()
        while len(shooters := self._family.children()["shooter"]) < len(self._runs):
            if time.monotonic() - begun > self._patience:
                return None
            await asyncio.sleep(0.5)
        return shooters

    def _replaced(self, victim):
        shooters = self._family.children()["shooter"]
        return len(shooters) == len(self._runs) and victim not in shooters

    def _made_again(self, run, event):
        shots = Store.open(run).shots()
        mine = (shots["chain"] == event["chain"]) & (shots["step"] == event["step"])
        return bool((mine & (shots["retries"] > 0) & (shots["reason"] != Reason.FAILURE)).any())
