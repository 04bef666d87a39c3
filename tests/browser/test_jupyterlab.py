"""Dashboards in JupyterLab: they live, the kernel answers meanwhile, nothing is left and nobody asked outside."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import nbformat
import psutil
import pytest

pytestmark = pytest.mark.browser

PATIENCE = 180.0
"""Seconds for which a notebook is waited for: JupyterLab, its kernel, a sampler and a browser share two cores."""

# What keeps JupyterLab from asking for news, for updates and for lists of extensions.
QUIET = (
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.news_url=None",
    "--LabApp.extension_manager=readonly",
)
SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false", "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},
}

EAVESDROPPER = """
import os, socket, sys
connect = socket.socket.connect
def noted(self, address):
    here = str(address[0]).startswith(("127.", "::1", "localhost"))
    if self.family in (socket.AF_INET, socket.AF_INET6) and not here:
        with open(os.environ["CONNECTIONS"], "a") as file:
            print(address, sys.argv, file=file)
    return connect(self, address)
socket.socket.connect = noted
"""

START = """
import separatrix_dashboards.cells as cells
from separatrix import Session
from separatrix_dashboards import dashboard, view
cells.PATIENCE = 2.0
session = Session.create("RUN", {"system": {"kind": "hummer-szabo"}, "sampling": {"steps": 1000000}})
session.start(workers=1)
"""


class Lab:
    """A JupyterLab of its own, with settings, notebooks and runs in one folder."""

    def __init__(self, folder):
        self.folder, self._token = folder, secrets.token_hex(8)
        self._connections = folder / "connections"
        spy = folder / "spy"
        self._write(spy / "sitecustomize.py", EAVESDROPPER)
        for name, values in SETTINGS.items():
            self._write(folder / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings", json.dumps(values))
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(spy), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "CONNECTIONS": str(self._connections),
            "IPYTHONDIR": str(folder / "ipython"),
            **{f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")},
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={self._port}"]
        options = [f"--IdentityProvider.token={self._token}", f"--ServerApp.root_dir={folder}", *QUIET]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--ServerApp.port_retries=0", *options], env=environment, stderr=log, stdout=log, cwd=folder
            )
        self._wait()

    def write_notebook(self, name, *cells):
        """Write a notebook and return the address of JupyterLab with it alone."""
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=cells), self.folder / name)
        return f"{self.url}/doc/tree/{name}?token={self._token}&reset"

    def end_kernels(self):
        """End the kernels, and with them their sessions."""
        for session in self._ask("api/sessions"):
            self._ask(f"api/sessions/{session['id']}", "DELETE")

    def close(self):
        """End it; see to it that nothing is left of it and that nobody was asked outside."""
        server = psutil.Process(self._process.pid)
        family = [server, *server.children(recursive=True)]
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:
            process.kill()
        assert not left
        assert not self._connections.exists(), self._connections.read_text()

    @property
    def _port(self):
        return self.url.rpartition(":")[2]

    def _wait(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                self._ask("api/status")
            except OSError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.2)
            else:
                return
        pytest.fail((self.folder / "log").read_text())

    def _ask(self, path, method="GET"):
        headers = {"Authorization": f"token {self._token}"}
        request = urllib.request.Request(f"{self.url}/{path}", headers=headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            return json.loads(answer.read() or "null")

    @staticmethod
    def _write(file, text):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


class Notebook:
    """A notebook that is open in a browser."""

    def __init__(self, page, url):
        self.page = page
        page.goto(url)
        self.cells = page.locator(".jp-Notebook .jp-CodeCell")
        self._ready()

    def run_all(self):
        """Execute every cell."""
        self._menu("Run", "Run All Cells")

    def run(self, index, code=None):
        """Execute a cell, with other code if that is given."""
        cell = self.cells.nth(index)
        cell.locator(".cm-content").click()
        if code is not None:
            self.page.keyboard.press("Control+A")
            self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Control+Enter")

    def output(self, index):
        """Return where a cell shows its output."""
        return self.cells.nth(index).locator(".jp-OutputArea")

    def shown(self, index):
        """Return a cell's output once it shows the head of a run."""
        output = self.output(index)
        error = self.page.locator(".jp-OutputArea").get_by_text("Traceback (most recent call last)")
        output.locator("[data-steps]").or_(error).first.wait_for()
        assert not error.count(), self.page.locator(".jp-OutputArea").all_inner_texts()
        return output

    def answer(self, index, expression):
        """Return what an expression is, and how many seconds the kernel took to tell."""
        mark = secrets.token_hex(4)
        begun = time.monotonic()
        self.run(index, f"print('{mark}', {expression})")
        text = self.output(index).get_by_text(mark)
        text.wait_for()
        return text.inner_text().split(mark)[1].strip(), time.monotonic() - begun

    def clear(self, index):
        """Remove the output of a cell."""
        self.cells.nth(index).locator(".cm-content").click()
        self._menu("Edit", "Clear Cell Output")

    def reload(self):
        """Load the page anew; the kernel goes on."""
        self.page.keyboard.press("Control+s")
        self.page.wait_for_timeout(1000)
        self.page.reload()
        self._ready()

    def _ready(self):
        self.cells.first.wait_for()
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()

    def _menu(self, menu, entry):
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_role("menuitem", name=entry, exact=True).click()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return a JupyterLab."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def open_notebook(lab, page):
    """Return a function that opens a notebook with the cells it is given."""

    def opened(*cells):
        page.set_default_timeout(PATIENCE * 1000)
        page.set_viewport_size({"width": 1400, "height": 1000})
        name = secrets.token_hex(4)
        cells = [cell.replace("RUN", f"run-{name}") for cell in cells]
        return Notebook(page, lab.write_notebook(f"{name}.ipynb", *cells))

    yield opened
    lab.end_kernels()


def steps(where):
    """Return the steps that the head of a run shows."""
    return int(where.locator("[data-steps]").first.get_attribute("data-steps"))


def wait_for(condition, seconds=PATIENCE):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def moves(where):
    """Wait until the steps shown become more."""
    shown = steps(where)
    wait_for(lambda: steps(where) > shown)


def test_a_dashboard_lives_and_the_kernel_answers(open_notebook, screenshots):
    notebook = open_notebook(START, "dashboard(session)", 'view(session, "committor")', "1 + 1")
    notebook.run_all()
    shown = notebook.shown(1)
    moves(shown)
    answers = [notebook.answer(3, f"{n} + 1") for n in range(7)]
    assert [answer for answer, _ in answers] == [str(n + 1) for n in range(7)]
    seconds = [seconds for _, seconds in answers]
    assert sorted(seconds)[2] < 1.0, seconds
    moves(shown)
    notebook.page.screenshot(path=screenshots / "jupyterlab.png")


def test_it_lives_while_the_kernel_computes_and_can_be_controlled(open_notebook):
    notebook = open_notebook(START, "dashboard(session)", "1 + 1", "import time")
    notebook.run_all()
    shown = notebook.shown(1)
    moves(shown)
    notebook.run(3, "for second in range(600): time.sleep(1)")
    moves(shown)
    shown.get_by_role("button", name="Pause").click()
    shown.locator("[data-state=paused]").wait_for()
    shown.get_by_role("button", name="Resume").click()
    shown.locator("[data-state=running]").wait_for()
    moves(shown)
    shown.get_by_role("tab", name="Log").or_(shown.get_by_text("Log", exact=True)).first.click()
    shown.get_by_text("hummer-szabo").first.wait_for()
    shown.get_by_role("button", name="Stop").click()
    shown.locator("[data-state=stopped]").wait_for()
    notebook.page.keyboard.press("Escape")


def test_a_page_that_is_loaded_anew_goes_on(open_notebook):
    notebook = open_notebook(START, 'view(session, "live")', "dashboard(session)")
    notebook.run_all()
    notebook.shown(2)
    moves(notebook.output(2))
    notebook.reload()
    notebook.shown(2)
    moves(notebook.output(2))


def test_nothing_grows(open_notebook):
    notebook = open_notebook(START, "dashboard(session)", "1 + 1", "from panel import state")
    notebook.run_all()
    notebook.shown(1)
    watchers = "__import__('separatrix_dashboards.notebook').notebook._hub().n_watchers"
    assert notebook.answer(2, watchers)[0] == "1"
    for _ in range(8):
        notebook.run(1)
        notebook.page.wait_for_timeout(300)
        notebook.shown(1)
    moves(notebook.output(1))
    wait_for(lambda: notebook.answer(2, watchers)[0] == "1")
    assert int(notebook.answer(2, "len(state._views)")[0]) <= 1 + 1 + 4
    notebook.clear(1)
    wait_for(lambda: notebook.answer(2, watchers)[0] == "0")
