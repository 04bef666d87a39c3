"""Hours of what a group's server sees: sessions that sample, people who look, and workers that die.

``make soak`` or ``python -m tests.benchmarks.soak --minutes 120``. Starts `separatrix serve` in a temporary folder and
three sessions from its pages: two landscapes and alanine dipeptide, at a shot per second each. Clients look at them
over the protocol of Bokeh's websockets, turn from tab to tab, leave and come back, while a worker that shoots is killed
every minute. Every ten seconds all is measured: memory, files, sockets and threads of every process, what runs take of
the disk, how late commits reach the clients and how soon clicks are answered.

At its end it prints the first and the last tenth of all that beside each other, and exits with 1 and the reasons when
anything grew by more than 5 % (and by more than it goes up and down) beyond what the rows of the runs take, when a
client lost its connection or was shown an error, when a kill was not made good, or when a committed shot was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tests.benchmarks.soak.clients import Commits, People, Record, Visitor
from tests.benchmarks.soak.processes import Family, Reaper, disk_of
from tests.benchmarks.soak.report import METRICS, changes, table
from tests.conformance.test_session_safety import check_run

from separatrix.session import Session
from separatrix.store import Store

INTERVAL = 10.0
"""Seconds between samples."""

DISK_EVERY = 6
"""Samples from one look at the disk to the next: there are ten thousands of files."""

ENDLESS = 10**8
SYSTEMS = ("hummer-szabo", "mueller-brown", "alanine-dipeptide")


class Soak:
    """One soak.

    Parameters
    ----------
    options : of the command line
    folder : where runs and output lie
    """

    def __init__(self, options, folder):
        self._options, self._folder = options, folder
        names = [f"{SYSTEMS[i % len(SYSTEMS)]}-{i}" for i in range(options.sessions)]
        self._runs = [folder / "runs" / name for name in names]
        self._rng = np.random.default_rng(options.seed)
        self._commits, self._record = None, Record()
        self.samples, self.problems = [], []

    # -- the server ------------------------------------------------------------------------------------------------

    def make_runs(self):
        """Make new runs that have no end; each has one chain, and so one worker."""
        for run in self._runs:
            system = run.name.rpartition("-")[0]
            sampling = {"chains": 1, "steps": ENDLESS}
            Session.create(run, {"system": {"kind": system}, "sampling": sampling})
        self._commits = Commits(self._folder / "runs", [run.name for run in self._runs], self._options.patience)

    @contextlib.contextmanager
    def serving(self):
        """Serve the runs; yield process and address."""
        program = "tests.benchmarks.soak.paced_server"
        options = ["--port", "0", "--max-workers", str(len(self._runs))]
        command = [sys.executable, "-m", program, str(self._options.pace), str(self._folder / "runs"), *options]
        threads = {"OMP_NUM_THREADS": "1", "OPENMM_CPU_THREADS": "1"}
        with (
            self._output.open("w") as output,
            subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | threads) as process,
        ):
            try:
                yield process, self._address(process)
            finally:
                process.send_signal(signal.SIGTERM)
                if process.wait(60) != 0:
                    self.problems.append(f"the server ended with {process.returncode}")

    def _address(self, process):
        while not (found := re.search(r"^serving .* at (http://\S+)", self._said(), re.MULTILINE)):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: {self._said()}")
            time.sleep(0.1)
        return found[1]

    @property
    def _output(self):
        return self._folder / "server.txt"

    def _said(self):
        return self._output.read_text()

    async def start_sessions(self, url):
        """Press Start on the page of every run, and wait until it has learned from its first shots."""
        for run in self._runs:
            async with Visitor(url, f"run?name={run.name}", run.name, self._commits, self._record) as page:
                await page.click("Start")
                end = time.monotonic() + 5 * self._options.patience
                while page.steps == 0:
                    await asyncio.sleep(0.5)
                    if time.monotonic() > end:
                        raise SystemExit(f"{run.name}: no shot within {5 * self._options.patience:g} s; {self._said()}")

    # -- the soak --------------------------------------------------------------------------------------------------

    async def run(self, process, url):
        """Let people come, and measure and kill for the time that was asked for."""
        following = asyncio.create_task(self._commits.follow())
        await self.start_sessions(url)
        names = [run.name for run in self._runs]
        people = People(url, names, self._commits, self._record, self._rng)
        await people.enter(self._options.clients)
        family = Family(process.pid)
        reaper = Reaper(family, self._runs, self._rng, 2 * self._options.patience)
        begun = time.monotonic()
        tasks = [asyncio.create_task(work) for work in (people.behave(), self._kill(reaper, begun))]
        # The last process that a session starts is the one that looks for formulas, after its first 250 shots.
        while len(family.children()["analyst"]) < len(self._runs):
            await asyncio.sleep(1.0)
        await asyncio.sleep(60 * self._options.warm_up)
        await self._sample(family, begun, (*tasks, following))
        for task in (*tasks, following):
            task.cancel()
        self.problems += self._record.problems
        print(f"{len(reaper.kills)} kills, made good in {np.median(reaper.kills or [np.nan]):.1f} s in the median")
        for page in list(people.present):
            await people.leave(page)

    async def _kill(self, reaper, begun):
        for number in range(1, 10**6):
            due = begun + number * self._options.kill_every
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if (problem := await reaper.strike()) is not None:
                self.problems.append(problem)

    async def _sample(self, family, begun, tasks):
        self._record.take()
        family.measure()
        last, shots = time.monotonic(), sum(self._commits.shots.values())
        end = last + 60 * self._options.minutes
        while (now := last + INTERVAL) <= end:
            await asyncio.sleep(max(0.0, now - time.monotonic()))
            for task in tasks:  # none of them ends by itself: without people or kills this would be no soak
                if task.done():
                    await task
            taken = await asyncio.to_thread(family.measure)  # clients are answered meanwhile
            sample = taken | {"clients": self._record.take(), "runs": self._rows(), "disk": None}
            if len(self.samples) % DISK_EVERY == 0:
                sample["disk"] = await asyncio.to_thread(disk_of, self._folder / "runs")
            took, last = time.monotonic() - last, time.monotonic()
            before, shots = shots, sum(self._commits.shots.values())
            self.samples.append(sample | {"time": last - begun, "took": took, "new_shots": shots - before})
            self._tell(self.samples[-1])

    def _rows(self):
        """Return shots, frames and models of every run, and how many bytes their rows take in memory."""
        result = {}
        for run in self._runs:
            store = Store.open(run)
            counts = store.committed
            shots, frames = store.shots(counts.shots), store.frames(counts.frames)
            features = counts.frames * _width({"features": frames["features"]})
            rows = counts.shots * _width(shots) + counts.frames * _width(frames)
            result[run.name] = {**asdict(counts), "rows": rows, "features": features}
        return result

    def _tell(self, sample):
        server, seen = sample["server"], sample["clients"]
        late = 1e3 * np.median(seen["update"]) if seen["update"] else np.nan
        print(
            f"{sample['time'] / 60:6.1f} min: server {server['uss'] / 2**20:.1f} MiB, {server['files']} files, "
            f"{server['threads']} threads, {100 * server['seconds'] / sample['took']:.0f} % of a core; "
            f"{sample['new_shots'] / sample['took']:.1f} shots/s; an update takes {late:.0f} ms; "
            f"{len(self.problems) + len(self._record.problems)} problems",
            flush=True,
        )

    # -- the end ---------------------------------------------------------------------------------------------------

    def check_end(self):
        """Look for errors of the server and for committed shots that are not there any more."""
        lines = [line for line in self._said().splitlines() if not line.startswith(("serving ", "stopping "))]
        if lines:
            self.problems.append(f"the server said: {' / '.join(lines[:20])}")
        for run in self._runs:
            try:
                n_shots = len(check_run(run)["shots"]["chain"])
            except AssertionError as error:
                self.problems.append(f"{run.name}: what is stored does not belong together: {error}")
                continue
            if n_shots < self._commits.shots[run.name]:
                self.problems.append(f"{run.name}: {self._commits.shots[run.name]} shots committed, {n_shots} there")
            print(f"{run.name}: {n_shots} shots, all there")

    def report(self):
        """Print what changed; return the exit code."""
        found = changes(self.samples)
        print(f"\n{table(found)}\n")
        missing = {metric.name for metric in METRICS} - {each.metric.name for each in found}
        self.problems += [f"{name}: was never measured" for name in sorted(missing)]
        self.problems += [
            f"{each.metric.name}: grew by {each.grown:.1%} beyond what must be" for each in found if each.failed
        ]
        for problem in self.problems:
            print(f"FAILED: {problem}")
        return 1 if self.problems else 0


def _width(columns):
    return sum(column.dtype.itemsize * int(np.prod(column.shape[1:])) for column in columns.values())


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0, help="how long to measure")
    parser.add_argument(
        "--warm-up", type=float, default=12.0, help="minutes before that: until all who came first have left again"
    )
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--pace", type=float, default=1.0, help="shots per second of each session at most")
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds that a click or an update may take at most"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what people do and who is killed")
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"), help="file for all samples")
    return parser.parse_args()


def main():
    """Soak; return the exit code."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):  # started in the background, it would ignore the first
        signal.signal(number, signal.default_int_handler)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(options, Path(folder))
        soak.make_runs()
        try:
            with soak.serving() as (process, url):
                asyncio.run(soak.run(process, url))
        finally:
            about = {"machine": platform.platform(), "cores": os.cpu_count(), "options": vars(options) | {"json": ""}}
            options.json.write_text(json.dumps(about | {"problems": soak.problems, "samples": soak.samples}))
        soak.check_end()
        return soak.report()


if __name__ == "__main__":
    sys.exit(main())
