"""Notebook cells: when their content is made anew, and when a slow browser is waited for. No browser, no kernel."""

from __future__ import annotations

import pytest

from separatrix_dashboards import cells
from separatrix_dashboards.cells import LATE_WORDS, Cell
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.theme import html


class Browser:
    """What the pulse of a cell hears of one browser.

    Parameters
    ----------
    cell : that it shows
    page : a number of this page's own
    """

    def __init__(self, cell, page):
        self._cell, self._page, self._words = cell, page, 0

    def says(self, shown):
        """Say how many updates are shown."""
        self._words += 1
        self._cell._pulse.shown = [shown, self._words, self._page]


class Shown:
    """A cell and how often its content was made."""

    def __init__(self, hub, path):
        self.hub, self.made, self.updates = hub, 0, 0
        self.cell = Cell(hub, hub.feed(path), self._make)

    def _make(self, watch):
        self.made += 1
        self.scope = watch.scope()
        return html("")

    def update(self):
        """Change what is shown."""
        self.cell.push(lambda: setattr(self, "updates", self.updates + 1))

    @property
    def sent(self):
        """Updates that were sent to the browser."""
        return self.cell._pulse.sent

    @property
    def is_awake(self):
        """Whether the run is published to the cell."""
        return self.hub.n_watchers == 1


@pytest.fixture
def shown(landscape_run):
    """Return a cell whose browser showed one update and is silent since the second."""
    hub = Hub()
    shown = Shown(hub, landscape_run)
    browser = Browser(shown.cell, 0.1)
    browser.says(0)
    shown.update()
    browser.says(1)
    shown.update()
    assert (shown.sent, shown.updates, shown.made) == (2, 2, 1)
    yield shown, browser
    shown.cell._close()
    hub.close()


def sleep(shown, monkeypatch):
    """Wait longer than a browser may be silent."""
    with monkeypatch.context() as patch:
        patch.setattr(cells, "PATIENCE", -1.0)
        shown.cell.look_after()
    assert not shown.is_awake


def test_a_late_browser_wakes_its_cell_and_nothing_is_made_anew(shown, monkeypatch):
    shown, browser = shown
    for late_by in range(LATE_WORDS + 1):
        sleep(shown, monkeypatch)
        for _ in range(late_by):
            browser.says(shown.sent - 1)  # its clock speaks while the update still lies before it
            assert not shown.is_awake
        before = shown.sent
        browser.says(before)
        assert shown.is_awake
        assert shown.sent == before + 1  # what was missed
    assert shown.made == 1


def test_an_update_that_is_lost_is_made_good(shown, monkeypatch):
    shown, browser = shown
    sleep(shown, monkeypatch)
    for _ in range(LATE_WORDS):
        browser.says(1)
    assert shown.made == 1
    browser.says(1)
    assert (shown.made, shown.is_awake) == (2, True)
    browser.says(shown.sent)
    shown.update()
    assert shown.updates == 3


def test_a_late_browser_is_not_given_another_content_while_it_makes_one(shown, monkeypatch):
    shown, browser = shown
    sleep(shown, monkeypatch)
    for _ in range(LATE_WORDS + 1):
        browser.says(1)
    assert shown.made == 2
    for _ in range(5):
        browser.says(1)
    assert shown.made == 2


def test_a_page_loaded_anew_is_given_its_content_anew(shown, monkeypatch):
    shown, _ = shown
    another = Browser(shown.cell, 0.2)
    another.says(0)
    assert shown.made == 2
    another.says(0)  # it has not shown that yet
    assert shown.made == 2
    another.says(shown.sent)
    sleep_and_reload = Browser(shown.cell, 0.3)
    shown.update()
    sleep(shown, monkeypatch)
    sleep_and_reload.says(0)
    assert (shown.made, shown.is_awake) == (3, True)
