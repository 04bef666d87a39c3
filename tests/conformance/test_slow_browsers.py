"""A browser that takes its time to make a page is shown what came meanwhile."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys

import pytest
from tests.page_client import Page

from separatrix import Session

PATIENCE = 60.0


class SlowPage(Page):
    """A page whose browser has not made it yet; `made` says that it has."""

    def __init__(self, url, address):
        super().__init__(url, address)
        self.heard = []

    async def _made(self):
        """Say nothing yet."""

    async def made(self):
        """Say that the page is made."""
        await super()._made()

    def _note(self, content):
        super()._note(content)
        self.heard.append(content)
        self.changed.set()


@pytest.fixture
def url(tmp_path):
    """Return the address of a server over a finished run."""
    config = {"system": {"kind": "hummer-szabo"}}
    Session.create(tmp_path / "run", config).run(30, workers=0, platform="Reference", progress=False)
    command = [sys.executable, "-c", "from separatrix.cli import main; main()", "serve", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        yield re.search(r"http://\S+:\d+", process.stdout.readline())[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_map_that_is_ready_before_its_page_is_shown_once_the_page_is_made(url):
    async def visit():
        async with SlowPage(url, "run?name=run&tab=committor") as page:
            await asyncio.sleep(5)  # the map is ready long before
            assert not any("ColorBar" in content for content in page.heard), "a page half made was changed"
            page.heard.clear()
            await page.made()
            await page.until(lambda: any("ColorBar" in content for content in page.heard))

    asyncio.run(visit())
