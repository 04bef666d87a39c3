"""The pages under load: processor time of updates for 1 to 50 clients, delay from commit to client, clicks, and what
closed pages leave.

Clients run in this process, the server in one of its own, and so does who samples where that matters. Prints; asserts
no times.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from tests.page_client import Page

from separatrix import Session
from separatrix.reader import Reader

pytestmark = pytest.mark.benchmark

COMMAND = [sys.executable, "-c", "from separatrix.cli import main; main()"]
CLIENTS = 20
CROWDS = (1, 5, 10, 20, 50)
SECONDS = 20.0
PAGES = 200
WARM = 20
CLICKS = 30


class Server:
    """`separatrix serve` in a process of its own."""

    def __init__(self, folder, *options):
        command = [*COMMAND, "serve", str(folder), "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = iter(self.process.stdout.readline, "")
        self.url = next(found[0] for line in lines if (found := re.search(r"http://[^\s]+:\d+", line)))
        self._measured = psutil.Process(self.process.pid)

    @property
    def memory(self):
        """Resident memory in MiB."""
        return self._measured.memory_info().rss / 2**20

    @property
    def seconds(self):
        """Processor time of the server itself, without that of its workers."""
        return sum(self._measured.cpu_times()[:2])

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)


@contextmanager
def serving(folder, *options):
    server = Server(folder, *options)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def sampling(folder):
    """Sample alanine dipeptide in another process."""
    options = ["--system", "alanine-dipeptide", "--steps", "1000000", "--workers", "1"]
    process = subprocess.Popen([*COMMAND, "run", str(folder), *options], stderr=subprocess.DEVNULL)
    try:
        wait_for_steps(folder, 200)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def wait_for_steps(folder, steps):
    while not (folder / "run.zarr").exists() or Session.open(folder).status.steps < steps:
        time.sleep(0.5)


async def share_of_core(server, seconds=SECONDS):
    before = server.seconds
    await asyncio.sleep(seconds)
    return (server.seconds - before) / seconds


def spread(seconds):
    return f"{np.median(seconds) * 1e3:.0f} ms in the median, {np.percentile(seconds, 95) * 1e3:.0f} ms at 95 %"


async def entered(pages):
    return [await page.__aenter__() for page in pages]


async def left(pages):
    for page in pages:
        await page.__aexit__()


@pytest.mark.parametrize("tab", ["live", "committor", "paths"])
def test_what_an_update_costs_for_more_and_more_clients(tmp_path, tab):
    async def measure(server):
        alone = await share_of_core(server, 10.0)
        print(f"\n{tab}; nobody looks: {alone:.1%} of a core")
        print("| clients | updates of each per minute | server, of one core | server, ms of processor per update |")
        print("| --- | --- | --- | --- |")
        for n_clients in CROWDS:
            pages = await entered([Page(server.url, f"run?name=ala&tab={tab}") for _ in range(n_clients)])
            await asyncio.sleep(8.0)
            begun, before = min(page.steps for page in pages), sum(page.updates for page in pages)
            watched = await share_of_core(server)
            updates = sum(page.updates for page in pages) - before
            assert min(page.steps for page in pages) > begun
            cost = (watched - alone) * SECONDS / updates
            await left(pages)
            each = 60 * updates / n_clients / SECONDS
            print(f"| {n_clients} | {each:.0f} | {watched:.1%} | {1e3 * cost:.1f} |", flush=True)

    with sampling(tmp_path / "ala"), serving(tmp_path) as server:
        asyncio.run(measure(server))


def test_from_a_commit_to_a_client(tmp_path):
    async def measure(server):
        begun = time.perf_counter()
        reader, delays = Reader(tmp_path / "ala"), []
        async with Page(server.url, "run?name=ala") as page:
            opening = time.perf_counter() - begun
            file = tmp_path / "ala" / "run.zarr" / "zarr.json"
            known = file.stat().st_mtime_ns
            while len(delays) < CLICKS:
                await asyncio.sleep(0.01)
                if file.stat().st_mtime_ns == known:
                    continue
                begun = time.perf_counter()
                known, committed = file.stat().st_mtime_ns, reader.status().steps
                await page.until(lambda: page.steps >= committed)  # noqa: B023 - awaited at once
                delays.append(time.perf_counter() - begun)
        print(f"\na page opens in {opening:.2f} s; from a commit to a client: {spread(delays)}")

    with sampling(tmp_path / "ala"), serving(tmp_path) as server:
        asyncio.run(measure(server))


def test_clicks_are_answered_while_a_session_trains(tmp_path):
    async def measure(server):
        async with Page(server.url, "run?name=ala") as page:
            await page.click("Start")
            await page.until(lambda: page.steps >= 200)
        alone = await share_of_core(server)
        pages = await entered([Page(server.url, "run?name=ala") for _ in range(CLIENTS)])
        await asyncio.sleep(8.0)
        watched, clicker, answers, delays = await share_of_core(server), pages[0], [], []
        for _ in range(CLICKS):
            before, answered = clicker.state, clicker.answers
            begun = time.perf_counter()
            await clicker.click("Pause")
            await clicker.until(lambda: clicker.answers > answered)  # noqa: B023 - awaited at once
            answers.append(time.perf_counter() - begun)
            await clicker.until(lambda: clicker.state != before)  # noqa: B023 - awaited at once
            delays.append(time.perf_counter() - begun)
            await asyncio.sleep(2.0)
        await left(pages)
        print(f"\na session of the server: {alone:.1%} of a core, with {CLIENTS} clients {watched:.1%}")
        print(f"a click on Pause or Resume is answered in {spread(answers)}; the run follows in {spread(delays)}")

    config = {"system": {"kind": "alanine-dipeptide"}, "sampling": {"steps": 1_000_000}}
    Session.create(tmp_path / "ala", config)
    with serving(tmp_path, "--max-workers", "1") as server:
        asyncio.run(measure(server))


@pytest.mark.parametrize("address", ["", "run?name=run"])
def test_closed_pages_leave_nothing(tmp_path, address):
    async def measure(server):
        memory = []
        for page in range(PAGES + WARM + 1):
            if page in (WARM, WARM + PAGES // 2, WARM + PAGES):
                await asyncio.sleep(15.0)  # pages that are gone are given up after some seconds
                memory.append(server.memory)
            async with Page(server.url, address):
                pass
        print(
            f"\nmemory of the server after {WARM}, {PAGES // 2} and {PAGES // 2} more pages of /{address}, MiB:",
            *memory,
        )

    config = {"system": {"kind": "hummer-szabo"}}
    Session.create(tmp_path / "run", config).run(200, workers=0, platform="Reference", progress=False)
    with serving(tmp_path) as server:
        asyncio.run(measure(server))
