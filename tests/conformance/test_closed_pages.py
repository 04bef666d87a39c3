"""Pages that were closed leave nothing in the server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from tests.page_client import Page

from separatrix import Session

PATIENCE = 30.0

# A server that counts what it holds when it is asked.
COUNTING = """
import gc, json, sys, threading
from bokeh.document import Document
from separatrix.cli import main
from separatrix_dashboards.hub import Hub
def count():
    held = gc.get_objects()
    hubs = [each for each in held if type(each) is Hub]
    documents = [each for each in held if type(each) is Document]
    # One that was destroyed has no roots any more; its empty shell may lie in the context of some task.
    shells = sum(not hasattr(each, "_roots") for each in documents)
    pages = sum(hasattr(each, "_roots") and each.session_context is not None for each in documents)
    watching = sum(hub.n_watchers + len(hub._galleries) for hub in hubs)
    return {"pages": pages, "shells": shells, "watching": watching}
def answer():
    for _ in sys.stdin:
        for _ in range(3):
            gc.collect()
        print(json.dumps(count()), flush=True)
threading.Thread(target=answer, daemon=True).start()
main()
"""


@pytest.fixture
def counted(tmp_path):
    """Return the address of a server over a run, and a function that returns what it holds."""
    config = {"system": {"kind": "hummer-szabo"}}
    Session.create(tmp_path / "run", config).run(30, workers=0, platform="Reference", progress=False)
    command = [sys.executable, "-c", COUNTING, "serve", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        url = re.search(r"http://\S+:\d+", process.stdout.readline())[0]

        def count():
            process.stdin.write("\n")
            return json.loads(process.stdout.readline())

        yield url, count
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow  # a server for each kind of page
@pytest.mark.parametrize(
    "address",
    [
        "",
        "new",
        *(f"run?name=run&tab={tab}" for tab in ("live", "committor", "paths", "mechanism", "validation", "log")),
        "compare?runs=run",
    ],
)
def test_closed_pages_leave_nothing(counted, address):
    url, count = counted

    async def visit(times):
        for _ in range(times):
            async with Page(url, address):
                await asyncio.sleep(0.5)
                open_pages.append(count()["pages"])

    before, open_pages = count(), []
    asyncio.run(visit(4))
    assert min(open_pages) > before["pages"]
    first = settled(count, before | {"shells": 4})
    asyncio.run(visit(4))
    settled(count, first)  # as many shells as before: those in contexts, not one for each page


def settled(count, most):
    """Return what a server holds once it is no more than that."""
    end = time.monotonic() + PATIENCE
    held = count()
    while any(number > most[name] for name, number in held.items()):
        assert time.monotonic() < end, (held, most)
        time.sleep(2)
        held = count()
    return held
