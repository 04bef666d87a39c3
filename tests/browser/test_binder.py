"""What Binder makes of this repository, rehearsed: a clean environment, and a session in it.

The files of ``binder/`` are used in the order and in the way in which repo2docker uses them (its documentation,
"Configuration files"): the repository is the home folder, ``requirements.txt`` is installed from there, ``postBuild``
runs once, and ``start`` begins every session. Left out are Debian packages, of which there are none, and what the image
holds before: Jupyter comes from the requirements alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect
from tests.browser.lab import Lab, Notebook

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 1_800
PATIENCE = 180_000
"""Milliseconds: a whole session shares two cores with its browser."""

MOST_MEMORY = 1.5e9
RUNS = ("example-landscape", "example-alanine-dipeptide")

pytestmark = [pytest.mark.browser, pytest.mark.timeout(BUILD_SECONDS)]


# -- the image ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built image.

    Attributes
    ----------
    home : the repository, which is the home folder of the user as well
    environment : variables that its processes have, and no others
    """

    home: Path
    environment: dict[str, str]

    def run(self, *command):
        """Run a command there as in a session, and return what it prints."""
        return finish(["binder/start", *command], self.home, self.environment)


def finish(command, folder, environment=None):
    """Run a command to its end, which must be a good one, and return what it prints."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder):
    """Build the image below a folder, and say how long each part took."""
    home, prefix = folder / "home", folder / "prefix"
    finish(["git", "clone", "--quiet", ROOT, home], folder)
    version = (home / "binder" / "runtime.txt").read_text().strip().replace("-", "")
    finish([shutil.which(version) or sys.executable, "-m", "venv", prefix], folder)
    elsewhere = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != Path(sys.executable).parent]
    path = os.pathsep.join([str(prefix / "bin"), *elsewhere])
    with timed("requirements"):
        install(home, path)
    environment = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", "USER": "jovyan"}
    with timed("postBuild"):
        finish(["binder/postBuild"], home, environment)
    assert not finish(["git", "status", "--porcelain"], home), "files that git does not ignore"
    return Image(home=home, environment=environment)


def install(home, path):
    """Install the requirements, through whatever indexes the pip and the npm of this machine are set up for."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PATH": path}
    finish(["pip", "install", "--no-cache-dir", "-r", "binder/requirements.txt"], home, environment)


@contextmanager
def timed(what):
    begun = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - begun:.0f} s")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Return the image, for all tests here."""
    return build(tmp_path_factory.mktemp("binder"))


# -- a session in it ---------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """Watches the memory of a process and all below it.

    Attributes
    ----------
    most : bytes; pages that processes share count once (proportional set size)
    """

    def __init__(self, process):
        super().__init__(name="memory", daemon=True)
        self._process, self._ended = process, threading.Event()
        self.most, self.where = 0, {}

    def run(self):
        """Look twice a second until told to end."""
        while not self._ended.wait(0.5):
            sizes = {}
            for process in [self._process, *self._process.children(recursive=True)]:
                try:
                    name = " ".join(process.cmdline())[-60:]
                    sizes[f"{process.pid} {name}"] = process.memory_full_info().pss
                except psutil.Error:  # has ended
                    continue
            if sum(sizes.values()) > self.most:
                self.most, self.where = sum(sizes.values()), sizes

    def end(self):
        """End, and say what was found."""
        self._ended.set()
        self.join()
        print(f"most memory of a session: {self.most / 1e6:.0f} MB")
        for name, size in sorted(self.where.items(), key=lambda entry: -entry[1]):
            print(f"  {size / 1e6:6.0f} MB  {name}")


@pytest.fixture
def session(image, tmp_path):
    """Return a JupyterLab that was started as Binder starts it, and its memory."""
    command = [image.home / "binder" / "start", "jupyter", "lab"]
    lab = Lab(tmp_path / "lab", command=command, environment=image.environment, root=image.home)
    memory = Memory(psutil.Process(lab.process.pid))
    memory.start()
    yield lab, memory
    memory.end()
    lab.end_kernels()
    lab.close()
    assert memory.most < MOST_MEMORY


def open_pages(page, lab, address=""):
    """Open a page of the dashboards as ``?urlpath=separatrix/`` of Binder does."""
    page.set_default_timeout(PATIENCE)
    mark = "&" if "?" in address else "?"
    page.goto(f"{lab.url}/separatrix/{address}{mark}token={lab.token}")


def steps(page):
    return int(page.locator("[data-steps]").first.get_attribute("data-steps"))


def wait_for(page, condition):
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(200)


# -- what must hold ----------------------------------------------------------------------------------------------------


def test_the_environment_is_small_and_the_limits_are_those_of_binder(image):
    code = "import torch; from separatrix.resources import usable_cores; print(torch.version.cuda, usable_cores())"
    cuda, cores = image.run("python", "-c", code).split()
    assert cuda == "None"
    assert int(cores) == 1


def test_the_launcher_opens_the_gallery_with_the_prepared_runs(session, page, context, screenshots):
    lab, _ = session
    page.set_default_timeout(PATIENCE)
    page.goto(f"{lab.url}/lab?token={lab.token}&reset")
    card = page.locator(".jp-LauncherCard", has_text="Separatrix")
    expect(card.locator("img, svg").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Jupyter news")).to_have_count(0)
    page.screenshot(path=screenshots / "binder-launcher.png")
    with context.expect_page() as opened:
        card.click()
    gallery = opened.value
    for run in RUNS:
        expect(gallery.get_by_text(run, exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(gallery.get_by_text("of 1 worker").first).to_be_visible(timeout=PATIENCE)
    gallery.screenshot(path=screenshots / "binder-gallery.png")
    gallery.get_by_text(RUNS[0], exact=True).first.click()
    gallery.wait_for_url(re.compile(rf"/separatrix/run\?name={RUNS[0]}"), timeout=PATIENCE)
    expect(gallery.locator(".sx-chip[data-state]").first).to_have_text("finished", timeout=PATIENCE)


def test_every_page_works_behind_the_proxy(session, page, screenshots):
    lab, _ = session
    open_pages(page, lab)
    page.get_by_role("link", name="Compare").first.click()
    page.wait_for_url("**/separatrix/compare", timeout=PATIENCE)
    open_pages(page, lab, f"run?name={RUNS[1]}")
    signs = {
        "Live": "Newest shots",
        "Committor": "Where shots begin",
        "Mechanism": "Relevance",
        "Validation": "noise ceiling",
        "Log": "[sampling]",
        "Paths": "XTC",
    }
    for tab, sign in signs.items():
        page.locator(".bk-tab", has_text=tab).click()
        expect(page.get_by_text(sign).first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("drawing", exact=True)).to_have_count(0, timeout=PATIENCE)
        page.wait_for_timeout(1500)
        page.screenshot(path=screenshots / f"binder-{tab.lower()}.png")
    where = page.locator(".separatrix-viewer").get_by_text(re.compile(r"frame \d+ / \d+"))
    expect(where).not_to_have_text(where.inner_text(), timeout=PATIENCE)
    with page.expect_download() as download:
        page.get_by_text("All as CSV").click()
    assert download.value.path().read_text().count("\n") > 10


def test_a_session_and_then_a_notebook_fit_into_the_memory_beside_the_pages(session, image, page, context, screenshots):
    lab, memory = session
    open_pages(page, lab, "new")
    expect(page.get_by_label("Solvent")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("Hummer-Szabo double well").first.click(timeout=PATIENCE)
    expect(page.get_by_label("Solvent")).to_have_count(0, timeout=PATIENCE)
    page.get_by_label("Name of the run").fill("mine")
    page.get_by_label("Monte Carlo steps").first.fill("100000")
    page.get_by_label("Monte Carlo steps").first.press("Tab")
    page.get_by_role("button", name="Create and start").click()
    page.wait_for_url(re.compile(r"/separatrix/run\?name=mine"), timeout=PATIENCE)
    wait_for(page, lambda: page.locator("[data-steps]").count() and steps(page) > 0)
    wait_for(page, lambda: steps(page) > 500)
    page.screenshot(path=screenshots / "binder-live.png")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".sx-chip[data-state]").first).to_have_text("stopped", timeout=PATIENCE)
    beside = context.new_page()
    beside.set_default_timeout(PATIENCE)
    first = min((image.home / "notebooks").glob("*.ipynb"))
    notebook = Notebook(beside, lab.address(f"notebooks/{first.name}"))
    notebook.run_to_end()
    notebook.figures()
    beside.screenshot(path=screenshots / "binder-notebook.png")
    assert (image.home / "notebooks" / "runs" / "mine" / "run.zarr").exists()
    assert memory.most > 3e8, "nothing was watched"
