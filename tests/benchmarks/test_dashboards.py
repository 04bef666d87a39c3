"""The pages under load: processor time of updates, delay from commit to client, clicks, and what closed pages leave.

Clients speak Bokeh's own protocol without a browser, in threads of this process; the server is a process of its own.
Prints a table; asserts nothing about time. `make bench` runs it.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from bokeh.client import pull_session

from separatrix import Session

pytestmark = pytest.mark.benchmark

COMMAND = [sys.executable, "-c", "from separatrix.cli import main; main()"]
CLIENTS = 20
SECONDS = 20.0
PAGES = 200


@contextmanager
def serving(folder):
    """Serve a folder in a process of its own; yields its address and the process."""
    process = subprocess.Popen([*COMMAND, "serve", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        yield re.search(r"http://\S+", process.stdout.readline()).group().rstrip("/"), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def sampling(folder):
    """Sample alanine dipeptide in another process."""
    options = ["--system", "alanine-dipeptide", "--steps", "1000000", "--workers", "1"]
    process = subprocess.Popen([*COMMAND, "run", str(folder), *options], stderr=subprocess.DEVNULL)
    try:
        while not (folder / "run.zarr").exists() or Session.open(folder).status.steps < 100:
            time.sleep(0.5)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


class Client(threading.Thread):
    """A page that is open: asks for an answer twice a second and notes how long it takes."""

    def __init__(self, url, arguments):
        super().__init__(daemon=True)
        self.url, self.arguments = url, arguments
        self.delays, self.steps, self.ended = [], 0, threading.Event()

    def run(self):
        session = pull_session(url=self.url, arguments=self.arguments)
        while not self.ended.wait(0.5):
            begun = time.perf_counter()
            session.force_roundtrip()
            self.delays.append(time.perf_counter() - begun)
            self.steps = shown_steps(session.document)
        session.close()


def shown_steps(document):
    """Return the steps a page shows, 0 before it shows any."""
    found = (re.search(r'data-steps=(?:"|&quot;)(\d+)', str(getattr(m, "text", ""))) for m in document.models)
    return max((int(match.group(1)) for match in found if match), default=0)


def share_of_core(process, seconds):
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / seconds


def test_twenty_clients_watch_a_run(tmp_path):
    with serving(tmp_path) as (url, server), sampling(tmp_path / "ala"):
        alone = share_of_core(server, 5.0)
        clients = [Client(f"{url}/run", {"name": "ala"}) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        while not all(client.delays for client in clients):
            time.sleep(0.2)
        for client in clients:
            client.delays.clear()
        watched = share_of_core(server, SECONDS)
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join()
        delays = np.concatenate([client.delays for client in clients])
        assert min(client.steps for client in clients) > 100
    print(
        f"\n{CLIENTS} clients: {watched:.0%} of a core ({alone:.0%} without clients); a round trip takes "
        f"{np.median(delays) * 1e3:.0f} ms in the median, {np.percentile(delays, 95) * 1e3:.0f} ms at the 95 % level"
    )


def test_from_a_commit_to_a_client(tmp_path):
    with serving(tmp_path) as (url, _), sampling(tmp_path / "ala"):
        begun = time.perf_counter()
        session = pull_session(url=f"{url}/run", arguments={"name": "ala"})
        opening = time.perf_counter() - begun
        file, delays = tmp_path / "ala" / "run.zarr" / "zarr.json", []
        known = file.stat().st_mtime_ns
        while len(delays) < 15:
            time.sleep(0.01)
            if file.stat().st_mtime_ns == known:
                continue
            known, committed = file.stat().st_mtime_ns, Session.open(tmp_path / "ala").reader.status().steps
            begun = time.perf_counter()
            while shown_steps(session.document) < committed:
                session.force_roundtrip()
                time.sleep(0.01)
            delays.append(time.perf_counter() - begun)
        session.close()
    print(
        f"\na page opens in {opening:.2f} s; from a commit to a client: {np.median(delays):.2f} s in the median, "
        f"{max(delays):.2f} s at most"
    )


def test_closed_pages_leave_nothing(tmp_path):
    config = {"system": {"kind": "hummer-szabo"}}
    Session.create(tmp_path / "run", config).run(200, workers=0, platform="Reference", progress=False)
    memory = []
    with serving(tmp_path) as (url, server):
        for page in range(PAGES + 1):
            if page % 50 == 0:
                time.sleep(40.0)  # Bokeh gives up pages that are gone after some 30 s
                memory.append(server.memory_info().rss / 2**20)
            pull_session(url=f"{url}/run", arguments={"name": "run"}).close()
    print("\nmemory of the server before and after every 50 pages, MiB: " + ", ".join(f"{m:.0f}" for m in memory))
