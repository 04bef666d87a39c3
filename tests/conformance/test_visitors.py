"""A real server for everybody: a session obeys its visitor alone, and a server that is killed is cleaned up after."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from tests.page_client import Page

from separatrix import Session

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")]

PATIENCE = 60.0
ADA, BEN = "a" * 32, "b" * 32

# A server that begins a session for whom it is told to, and tells how one stands.
SERVER = """
import json, sys, threading
from separatrix.cli import main
from separatrix_dashboards.sandbox import Sandbox, Wish
made, make = [], Sandbox.__init__
def note(self, *arguments):
    make(self, *arguments)
    made.append(self)
Sandbox.__init__ = note
def obey():
    for line in sys.stdin:
        action, word = line.split()
        sandbox = made[0]
        if action == "begin":
            print(json.dumps([sandbox.begin(word, Wish(landscape="hummer-szabo")), str(sandbox.folder)]), flush=True)
        else:
            visit = sandbox.find(word)
            session = None if visit is None else sandbox.pool.session(visit.path)
            print(json.dumps("gone" if visit is None else "ended" if session is None else session.status.state.value),
                  flush=True)
threading.Thread(target=obey, daemon=True).start()
main()
"""


class VisitorPage(Page):
    """A page as it is opened by somebody with a cookie."""

    def __init__(self, url, address, visitor):
        super().__init__(url, address)
        self._visitor = visitor

    def _fetch(self):
        headers = {"Cookie": f"separatrix-visitor={self._visitor}"}
        request = urllib.request.Request(f"{self.url}/{self.address}", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.read().decode()


@pytest.fixture
def serve(tmp_path):
    """Return what starts servers over a run, with temporary files in a folder of this test's own."""
    runs, temporary = tmp_path / "runs", tmp_path / "temporary"
    temporary.mkdir()
    config = {"system": {"kind": "hummer-szabo"}, "committor": {"members": 1}}
    Session.create(runs / "run", config).run(12, workers=0, platform="Reference", progress=False)
    processes = []

    def start():
        command = [sys.executable, "-c", SERVER, "serve", str(runs), "--port", "0", "--demo", "--max-workers", "1"]
        environment = os.environ | {"TMPDIR": str(temporary)}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )
        processes.append(process)
        url = re.search(r"http://\S+:\d+", process.stdout.readline())[0]

        def ask(*words):
            process.stdin.write(" ".join(words) + "\n")
            return json.loads(process.stdout.readline())

        return process, url, ask

    yield start
    for process in processes:
        with process:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0
    assert not list(temporary.glob("separatrix-demo-*")), "nothing is left"


def wait_for(condition):
    """Wait until a condition holds, and assert that it does in time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def status(url, address):
    try:
        with urllib.request.urlopen(f"{url}/{address}") as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_a_session_obeys_its_visitor_alone_and_goes_with_a_killed_server(serve):
    process, url, ask = serve()
    key, folder = ask("begin", ADA)
    address = f"try?session={key}"

    async def play():
        async with VisitorPage(url, address, ADA) as own, VisitorPage(url, address, BEN) as other:
            await own.until(lambda: own.state == "sampling")
            for label in ("Pause", "Stop"):
                with pytest.raises(LookupError):
                    other._button(label)
            await other.click("Discard")  # out of sight, but in the page
            await other._tell("button_click", model={"id": own._button("Stop")})
            await other.until(lambda: other.steps > 20)
            assert ask("state", key) == "running"
            await own.click("Pause")
            await own.until(lambda: own.state == "paused")
            await own.click("Stop")  # what the other page could not do
            await own.until(lambda: own.state == "stopped")

    asyncio.run(asyncio.wait_for(play(), PATIENCE))
    assert status(url, "new")[0] == 404
    inside = urllib.parse.quote(f"{os.path.relpath(folder, process.args[4])}/{key}/Hummer-Szabo double well")
    for name in ("run", inside):
        code, text = status(url, f"run?name={name}")
        assert (code, "12</span> of" in text or "data-steps" in text) == (200, name == "run")
    process.kill()
    process.wait()
    assert (Path(folder) / key).exists()
    serve()
    wait_for(lambda: not Path(folder).exists())
