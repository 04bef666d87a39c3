"""Dashboards in JupyterLab: they live, the kernel answers meanwhile, nothing is left and nobody asked outside."""

from __future__ import annotations

import secrets
import time

import pytest
from tests.browser.lab import PATIENCE, WIDTH, Notebook

pytestmark = pytest.mark.browser

START = """
import separatrix_dashboards.cells as cells
from separatrix import Session
from separatrix_dashboards import dashboard, view
cells.PATIENCE = 2.0
session = Session.create("RUN", {"system": {"kind": "hummer-szabo"}, "sampling": {"steps": 1000000}})
session.start(workers=1)
"""


@pytest.fixture
def open_notebook(lab, page):
    """Return a function that opens a notebook with the cells it is given."""

    def opened(*cells):
        page.set_default_timeout(PATIENCE * 1000)
        page.set_viewport_size({"width": WIDTH, "height": 1000})
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
