"""Those who look: open pages, click through their tabs, leave and come back."""

from __future__ import annotations

import asyncio
import json
import re
import time
from itertools import count

from tests.page_client import Page

TABS = ("Live", "Committor", "Paths", "Mechanism", "Validation", "Log")
BAD_STATES = {"failed", "interrupted"}


class Commits:
    """When runs committed which shots, as seen from outside.

    Parameters
    ----------
    patience : seconds in which a page must show what was committed, and a click must be answered

    Attributes
    ----------
    shots : name of a run -> shots that are committed
    """

    def __init__(self, folder, names, patience):
        self.patience = patience
        self._files = {name: folder / name / "run.zarr" / "zarr.json" for name in names}
        self._stamps = dict.fromkeys(names, 0)
        self._times = {name: [] for name in names}
        self.shots = dict.fromkeys(names, 0)

    def look(self):
        """Note what is new."""
        for name, file in self._files.items():
            stamp = file.stat().st_mtime_ns
            if stamp == self._stamps[name]:
                continue
            self._stamps[name] = stamp
            shots = json.loads(file.read_text())["attributes"]["committed"]["shots"]
            if shots > self.shots[name]:
                self.shots[name] = shots
                self._times[name] = [*self._times[name][-300:], (shots, stamp / 1e9)]

    async def follow(self):
        """Look for ever, often enough to tell milliseconds."""
        while True:
            self.look()
            await asyncio.sleep(0.02)

    def since(self, name, shown, before):
        """Return how long ago each commit was made that a page shows now and did not show before, in seconds."""
        now = time.time()
        return [now - moment for shots, moment in self._times[name] if before < shots <= shown]

    def due(self, name):
        """Return the shots that every page must show by now."""
        late = time.time() - self.patience
        return max((shots for shots, moment in self._times[name] if moment < late), default=0)


class Record:
    """What clients saw since somebody took it away.

    Attributes
    ----------
    problems : in words, for good
    """

    def __init__(self):
        self.problems = []
        self.take()

    def take(self):
        """Return what was seen, and begin anew."""
        seen = getattr(self, "seen", None)
        self.seen = {"update": [], "click": [], "opening": [], "messages": 0, "bytes": 0}
        return seen


class Visitor(Page):
    """One open page; notes how late it is told what, and whatever should not be.

    Parameters
    ----------
    run : whose page it is, None for pages of no run
    """

    def __init__(self, url, address, run, commits, record):
        super().__init__(url, address)
        self.run, self._commits, self._record = run, commits, record
        self._leaving, self._turned = False, asyncio.Event()
        self._tab = address.partition("&tab=")[2].capitalize()
        self.opened = time.monotonic()

    async def __aexit__(self, *_):
        self._leaving = True
        await super().__aexit__()

    async def _listen(self):
        await super()._listen()
        if not self._leaving:
            self.complain("lost its connection")

    def complain(self, what):
        """Note what should not be."""
        self._record.problems.append(f"{time.strftime('%H:%M:%S')} the page /{self.address} {what}")

    def _note(self, content):
        before = self.steps
        super()._note(content)
        self._record.seen["messages"] += 1
        self._record.seen["bytes"] += len(content)
        if self.run is not None and before and self.steps > before:
            self._record.seen["update"] += self._commits.since(self.run, self.steps, before)
        if '"attr":"tabs"' in content.replace(" ", ""):
            self._turned.set()
        for pattern, what in _BAD.items():
            if found := re.search(pattern, content):
                self.complain(f"{what}: {content[max(0, found.start() - 40) : found.start() + 160]}")

    async def look_elsewhere(self, rng):
        """Click on another tab and wait for what it shows."""
        tab = self._tab = rng.choice([tab for tab in TABS if tab != self._tab])
        self._turned.clear()
        begun = time.perf_counter()
        await self.turn_to(tab)
        try:
            await asyncio.wait_for(self._turned.wait(), self._commits.patience)
        except TimeoutError:
            self.complain(f"did not turn to {tab} in {self._commits.patience:g} s")
        else:
            self._record.seen["click"].append(time.perf_counter() - begun)

    def check(self):
        """Complain about a page that does not show what was committed long ago."""
        if self.run is not None and time.monotonic() - self.opened > self._commits.patience:
            due = self._commits.due(self.run)
            if self.steps < due:
                late = f"{self._commits.patience:g} s ago"
                self.complain(f"shows {self.steps} shots where {due} were committed {late}")


_BAD = {
    r'"msgtype": ?"ERROR"|Traceback \(most': "told of an error",
    r'class=\\?["\']sx-problem': "showed a problem",
    rf'data-state=\\?(?:"|&quot;)(?:{"|".join(BAD_STATES)})': "showed a run that had ended",
}


class People:
    """A number of clients, each of which looks at one page after the other.

    Parameters
    ----------
    runs : names of the runs
    rng : what they do when is drawn from it

    Attributes
    ----------
    present : pages that are open now
    """

    def __init__(self, url, runs, commits, record, rng):
        self._url, self._commits, self._record, self._rng = url, commits, record, rng
        pages = [(f"run?name={run}&tab={tab.lower()}", run) for tab in TABS for run in runs]
        pages[7:7] = [("", None)]
        pages[14:14] = [(f"compare?runs={','.join(runs)}", None)]
        self._addresses = [*pages, ("", None), ("new", None)]
        self._next = count()
        self.present = []

    async def enter(self, n):
        """Open so many pages, of every kind."""
        for _ in range(n):
            await self._come()

    async def _come(self):
        address, run = self._addresses[next(self._next) % len(self._addresses)]
        begun = time.perf_counter()
        page = Visitor(self._url, address, run, self._commits, self._record)
        try:
            await asyncio.wait_for(page.__aenter__(), self._commits.patience)
        except (TimeoutError, OSError) as error:
            page.complain(f"could not be opened: {type(error).__name__} {error}")
            return
        self._record.seen["opening"].append(time.perf_counter() - begun)
        self.present.append(page)

    async def behave(self):
        """Click and come and go for ever: a click every other second, three in a minute leave and others come."""
        for moment in count(1):
            await asyncio.sleep(2.0)
            readers = [page for page in self.present if page.run is not None]
            page = readers[self._rng.integers(len(readers))]
            await page.look_elsewhere(self._rng)
            if moment % 10 == 0:
                await self.leave(self.present[0])
                await self._come()
            for page in self.present:
                page.check()

    async def leave(self, page):
        """Close a page."""
        self.present.remove(page)
        await page.__aexit__()
