"""A real browser, real servers and real runs for the tests of the pages.

Playwright keeps an event loop running in its thread, and tests of other folders need theirs; tests that ask for `page`
or `browser` therefore run, as a whole, in a thread of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import sync_playwright
from tests.browser.lab import Lab

from separatrix import Session, preparing

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)

PATIENCE = 60.0
"""Seconds that anything may take here: two cores are shared with whatever else runs."""

STOP_SECONDS = 20.0
HERE = ("127.0.0.1", "localhost")

LANDSCAPE = {"system": {"kind": "hummer-szabo"}, "sampling": {"steps": 300}}
MOLECULE = {"system": {"kind": "alanine-dipeptide"}, "sampling": {"steps": 120}, "seeding": {"temperature": 1200.0}}


# -- the browser -------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test of the browser in the browser's thread; what it shows at the time of a failure is kept."""
    thread = pyfuncitem.funcargs.get("browser_thread")
    if thread is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    try:
        thread.run(pyfuncitem.obj, **arguments)
    except BaseException as error:
        page = pyfuncitem.funcargs.get("page")
        if page is not None:
            picture = (
                pyfuncitem._request.getfixturevalue("screenshots")
                / f"failed-{re.sub(r'[^A-Za-z0-9]+', '-', pyfuncitem.name)}.png"
            )
            thread.run(page.screenshot, path=picture)
            error.add_note(f"what the browser showed: {picture}")
        raise
    return True


class BrowserThread:
    """Runs functions in one thread, in order."""

    def __init__(self):
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="browser")

    def run(self, function, *arguments, **named):
        """Run a function there and return what it returns."""
        return self._executor.submit(function, *arguments, **named).result()

    def close(self):
        """End the thread."""
        self._executor.shutdown()


@dataclass
class Seen:
    """What pages did that they should not do."""

    elsewhere: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)

    def ask(self, url):
        """Note a request."""
        address = urlsplit(url)
        if address.scheme not in ("data", "blob", "about") and address.hostname not in HERE:
            self.elsewhere.append(url)

    def watch(self, page):
        """Note what a page does from now on; requests are those of its context."""
        page.on("websocket", lambda socket: self.ask(socket.url))
        page.on("pageerror", lambda error: self.page_errors.append(str(error)))
        page.on("console", lambda line: self.console_errors.append(line.text) if line.type == "error" else None)

    def check(self):
        """Fail if there was anything."""
        assert not self.elsewhere, "requests to other hosts"
        assert not self.page_errors, "errors of a page"
        assert not self.console_errors, "errors in a page's console"


def chromium():
    """Return the path of Chromium."""
    path = os.environ.get("SEPARATRIX_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None or not os.access(path, os.X_OK):
        pytest.fail(
            f"expected Chromium, found {path or 'none'}; install it (Debian: apt-get install -y chromium), or set "
            "SEPARATRIX_CHROMIUM to the path of a Chromium or Chrome",
            pytrace=False,
        )
    return path


@pytest.fixture(scope="session")
def browser_thread():
    """Return the thread of the browser."""
    thread = BrowserThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def browser(browser_thread):
    """Return a Chromium with a profile of its own, which finds no host but this one; use it in the browser's thread."""
    rules = ", ".join(["MAP * ~NOTFOUND", *(f"EXCLUDE {host}" for host in HERE)])

    def start():
        playwright = sync_playwright().start()
        return playwright, playwright.chromium.launch(
            executable_path=chromium(), args=[*FLAGS, f"--host-resolver-rules={rules}"]
        )

    playwright, browser = browser_thread.run(start)
    yield browser
    browser_thread.run(browser.close)
    browser_thread.run(playwright.stop)


@pytest.fixture
def context(browser, browser_thread, seen, serve):
    """Return a fresh browser context, as of another user; use it in the browser's thread.

    It is closed before the servers are: pages that lose their server complain.
    """
    del serve

    def make():
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(PATIENCE * 1000)
        context.on("request", lambda request: seen.ask(request.url))
        context.on("page", seen.watch)
        return context

    context = browser_thread.run(make)
    yield context
    browser_thread.run(context.close)


@pytest.fixture
def seen():
    """Return what the pages of this test did that they should not do; it must be empty at the end."""
    seen = Seen()
    yield seen
    seen.check()


@pytest.fixture
def page(context, browser_thread):
    """Return a page; the test fails if one of its context asks another host for something, or reports an error."""
    return browser_thread.run(context.new_page)


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    """Return the folder of the screenshots; ``SEPARATRIX_SCREENSHOTS`` names one that is kept."""
    kept = os.environ.get("SEPARATRIX_SCREENSHOTS")
    if not kept:
        return tmp_path_factory.mktemp("screenshots")
    folder = Path(kept).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- servers and runs --------------------------------------------------------------------------------------------------


class Server:
    """A `separatrix serve` of its own.

    Attributes
    ----------
    url : of its pages, without a slash at the end
    folder : of its runs
    """

    def __init__(self, folder, log, *options):
        self.folder, self._log = folder, log
        command = [sys.executable, "-c", "from separatrix.cli import main; main()", "serve", folder, "--port", "0"]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*map(str, command), *map(str, options)], stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
            )
        self.url = self._address()
        # A pipe that nobody reads from fills up one day, and the server would wait.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self):
        """Ask it politely to end, as a service manager would; see to it that nothing is left of it."""
        family = [self._root(), *self._root().children(recursive=True)] if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_SECONDS)
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            process.kill()
        self.process.stdout.close()
        assert code == 0, self.log
        assert not left, "processes left behind"
        assert "Traceback" not in self.log, self.log

    @property
    def log(self):
        """What it wrote to standard error."""
        return self._log.read_text()

    def _root(self):
        return psutil.Process(self.process.pid)

    def _address(self):
        end = time.monotonic() + PATIENCE
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                if found := re.search(r"http://\S+", line):
                    return found.group().rstrip("/")
        finally:
            watchdog.cancel()
        self.process.wait(STOP_SECONDS)
        late = " in time" if time.monotonic() > end else ""
        pytest.fail(f"expected the server to say its address{late}; it said: {self.log}")


@pytest.fixture
def serve(tmp_path):
    """Return a function that serves a folder with ``separatrix serve`` and further options, until the test ends."""
    servers = []

    def start(folder, *options):
        server = Server(folder, tmp_path / f"server-{len(servers)}.log", *options)
        servers.append(server)
        return server

    yield start
    problems = []
    for server in servers:
        try:
            server.stop()
        except (AssertionError, subprocess.TimeoutExpired) as problem:
            server.process.kill()
            problems.append(problem)
    if problems:
        raise problems[0]


@pytest.fixture(scope="session")
def landscape_run(tmp_path_factory):
    """Return a finished run of 300 shots on the Hummer-Szabo double well, to be looked at only."""
    return sample(tmp_path_factory.mktemp("runs") / "landscape", LANDSCAPE, workers=0)


@pytest.fixture(scope="session")
def molecule_run(tmp_path_factory):
    """Return a finished run of 120 shots on alanine dipeptide in vacuum, to be looked at only."""
    return sample(tmp_path_factory.mktemp("runs") / "molecule", MOLECULE, workers=1)


def sample(path, config, workers):
    """Sample a whole new run and return its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        Session.create(path, config).run(workers=workers, platform="Reference", progress=False)
    return path


@pytest.fixture
def runs(tmp_path, landscape_run, molecule_run):
    """Return a folder with a copy of both runs, to be used up."""
    folder = tmp_path / "runs"
    for run in (landscape_run, molecule_run):
        shutil.copytree(run, folder / run.name)
    return folder


@pytest.fixture
def server(serve, runs):
    """Return a server of that folder."""
    return serve(runs, "--max-workers", "1")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return a JupyterLab."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()
