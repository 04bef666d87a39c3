"""A JupyterLab of one's own, and a notebook that is open in it in a browser."""

from __future__ import annotations

import json
import os
import re
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

WIDTH = 1400
"""Of the window, px."""

BUSY = ("queued", "seeding", "running")
"""States of a run that end by themselves."""

LEAST_DRAWN = 0.002
"""Share of a picture that is no background."""
DRAWN = """canvas => {
  const shares = [...canvas.getRootNode().querySelectorAll("canvas")].map(layer => {
    const flat = document.createElement("canvas");
    [flat.width, flat.height] = [layer.width, layer.height];
    const context = flat.getContext("2d");
    context.drawImage(layer, 0, 0);
    const pixels = new Uint32Array(context.getImageData(0, 0, flat.width, flat.height).data.buffer);
    const counts = new Map();
    for (let i = 0; i < pixels.length; i += 3) counts.set(pixels[i], (counts.get(pixels[i]) ?? 0) + 1);
    return 1 - Math.max(...counts.values()) / Math.ceil(pixels.length / 3);
  });
  return Math.max(...shares);
}"""
"""How much of a picture is not its background, its most common colour; a picture has several layers."""

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


class Lab:
    """A JupyterLab of its own, with settings, notebooks and runs in one folder.

    Attributes
    ----------
    folder : of its settings
    root : of notebooks and runs; the same by default
    token : lets in whoever knows it
    process : that of the server
    """

    def __init__(self, folder, command=None, environment=os.environ, root=None):
        """Start it, by a command that sees to settings itself if there is one."""
        self.folder, self.root, self.token = folder, root or folder, secrets.token_hex(8)
        self._connections = folder / "connections"
        spy = folder / "spy"
        self._write(spy / "sitecustomize.py", EAVESDROPPER)
        for name, values in SETTINGS.items() if command is None else ():
            self._write(folder / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings", json.dumps(values))
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        environment = {
            **environment,
            "PYTHONPATH": os.pathsep.join([str(spy), *filter(None, [environment.get("PYTHONPATH")])]),
            "CONNECTIONS": str(self._connections),
            "IPYTHONDIR": str(folder / "ipython"),
            **{f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")},
        }
        options = ["--no-browser", "--allow-root", f"--ServerApp.port={self._port}", "--ServerApp.port_retries=0"]
        options += [f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}"]
        command = [*(command or (sys.executable, "-m", "jupyterlab", *QUIET)), *options]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, stdout=log, cwd=self.root)
        self._wait()

    def write_notebook(self, name, *cells):
        """Write a notebook and return the address of JupyterLab with it alone."""
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=cells), self.root / name)
        return self.address(name)

    def address(self, name):
        """Return the address of JupyterLab with a notebook of its folder alone."""
        return f"{self.url}/doc/tree/{name}?token={self.token}&reset"

    def end_kernels(self):
        """End the kernels, and with them their sessions."""
        for session in self._ask("api/sessions"):
            self._ask(f"api/sessions/{session['id']}", "DELETE")

    def close(self):
        """End it; see to it that nothing is left of it and that nobody was asked outside."""
        server = psutil.Process(self.process.pid)
        family = [server, *server.children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
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
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.2)
            else:
                return
        pytest.fail((self.folder / "log").read_text())

    def _ask(self, path, method="GET"):
        headers = {"Authorization": f"token {self.token}"}
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

    def run_to_end(self):
        """Execute every cell, wait for the last one, and see to it that none failed."""
        self.run_all()
        waiting = self.page.locator(".jp-CodeCell .jp-InputPrompt").filter(has_text=re.compile(r"\[[ *]\]"))
        failed = self.page.locator(".jp-OutputArea").get_by_text("Traceback (most recent call last)")
        end = time.monotonic() + PATIENCE
        while waiting.count() and not failed.count():
            assert time.monotonic() < end, f"{waiting.count()} cells have not ended"
            self.page.wait_for_timeout(200)
        assert not failed.count(), failed.all_inner_texts()

    def figures(self):
        """Return the pictures that the cells show, once all of them are drawn: a share of each is no background."""
        canvases = self.page.locator(".jp-OutputArea canvas:visible")
        end = time.monotonic() + PATIENCE
        while True:
            shares = [canvas.evaluate(DRAWN) for canvas in canvases.all()]
            if shares and min(shares) > LEAST_DRAWN:
                return shares
            assert time.monotonic() < end, f"shares of the pictures that are drawn: {shares}"
            self.page.wait_for_timeout(500)

    def catch_up(self):
        """Wait until what is live shows how its run stands in the end: what it does, and its model."""
        outputs = self.page.locator(".jp-OutputArea")
        busy = outputs.locator(", ".join(f"[data-state={state}]" for state in BUSY))
        behind = busy.or_(outputs.get_by_text(re.compile("^No model")).locator("visible=true"))
        end = time.monotonic() + PATIENCE
        while behind.count():
            assert time.monotonic() < end, behind.all_inner_texts()
            self.page.wait_for_timeout(200)

    def photograph(self, folder, name):
        """Save how the whole notebook looks, one picture for each screen of it."""
        panel = self.page.locator(".jp-WindowedPanel-outer")
        self.page.set_viewport_size({"width": WIDTH, "height": WIDTH})
        part, above, top = 0, -1, panel.evaluate("panel => { panel.scrollTop = 0; return 0; }")
        while top > above:
            self.page.wait_for_timeout(500)
            self.page.screenshot(path=folder / f"{name}-{part}.png")
            scroll = "panel => { panel.scrollTop += panel.clientHeight - 60; return panel.scrollTop; }"
            part, above, top = part + 1, top, panel.evaluate(scroll)

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
