"""How soon a page is of use after navigation, in Chromium: its words first, then its figures; and how late shots show.

Prints seconds, and those of processor time of the server and of the browser; asserts no times. A page is of use when
what it was opened for can be read: the head of a run with its numbers, the cards of the gallery, the systems to choose
from, the numbers of the runs that are compared. It is complete, as counted here, with its first figure or controls.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import numpy as np
import psutil
import pytest
from playwright.async_api import async_playwright
from tests.benchmarks.test_pages_speed import sampling, serving, spread, wait_for_steps
from tests.browser.conftest import FLAGS, HERE, chromium

from separatrix import Session
from separatrix.reader import Reader

pytestmark = pytest.mark.benchmark

TIMES = 5
PATIENCE = 60_000
FIGURE = ".bk-Canvas, canvas"

# What makes a page useful, what completes it.
PAGES = {
    "home": ("", ".content .name", ".run-card .content .name"),
    "new": ("new", "label .title", "text=Create and start"),
    "compare": ("compare?runs=landscape,uniform", "[data-steps]", FIGURE),
} | {
    f"run, {tab}": (f"run?name={{run}}&tab={tab}", "[data-steps]", complete)
    for tab, complete in {
        "live": FIGURE,
        "committor": FIGURE,
        "paths": FIGURE,
        "mechanism": "text=No mechanism yet",
        "validation": "text=On held-out shots",
        "log": "text=[sampling]",
    }.items()
}

PAINTED = "() => new Promise(seen => requestAnimationFrame(() => setTimeout(() => seen(performance.now()))))"
"""Milliseconds from navigation to after the next frame, in which what was just added is painted."""


SHOWN = """
(element, steps) => new Promise(seen => {
  const root = element.getRootNode()
  const look = () => Number(root.querySelector("[data-steps]")?.dataset.steps) >= steps
    ? requestAnimationFrame(() => setTimeout(() => seen(Date.now() / 1000))) : setTimeout(look, 4)
  look()
})
"""
"""Seconds since 1970 at which a page had painted that many steps, from any element beside them."""

HEAD = """
() => {
  const roots = [document]
  for (const root of roots) {
    for (const element of root.querySelectorAll("*")) if (element.shadowRoot) roots.push(element.shadowRoot)
  }
  const head = roots.find((root) => root.querySelector("[data-steps]"))
  return head && head.host.id !== "first" && head.firstElementChild
}
"""
"""An element of a run's head, once the browser has made it."""

COMMITS = 30


class Spent:
    """Processor time of the server and of the browser: where cores are shared, the better measure of what a page costs.

    Parameters
    ----------
    server : that answers
    """

    def __init__(self, server):
        self._server = server

    def __call__(self):
        """Return seconds of the server, and of all processes of the browser."""
        browser = 0.0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                browser += sum(process.cpu_times()[:2]) if "chrom" in process.name() else 0.0
        return np.array([self._server.seconds, browser])


@asynccontextmanager
async def browsing():
    rules = ", ".join(["MAP * ~NOTFOUND", *(f"EXCLUDE {host}" for host in HERE)])
    async with async_playwright() as playwright:
        options = {"executable_path": chromium(), "args": [*FLAGS, f"--host-resolver-rules={rules}"]}
        browser = await playwright.chromium.launch(**options)
        yield browser
        await browser.close()


async def seen(page, sign):
    await page.locator(sign).first.wait_for(timeout=PATIENCE)
    return await page.evaluate(PAINTED) / 1000


async def open_page(context, url, spent, useful, complete):
    """Open a page in a new tab; return seconds, and those of processor time, until it is useful and complete."""
    page = await context.new_page()
    before = spent()
    await page.goto(url, wait_until="commit")
    times = [[await seen(page, sign), *(spent() - before)] for sign in (useful, complete)]
    await page.close()
    return times


async def measure(server, names, run):
    async with browsing() as browser:
        for name in names:
            address, useful, complete = PAGES[name]
            context = await browser.new_context(viewport={"width": 1280, "height": 800})
            url, times = f"{server.url}/{address.format(run=run)}", []
            for _ in range(TIMES):
                times.append(await open_page(context, url, Spent(server), useful, complete))
                await asyncio.sleep(0.3)
            await context.close()
            print(f"{name}: first visit useful after {times[0][0][0]:.2f} s; then", end=" ")
            for sign, visits in zip(("useful", "complete"), np.moveaxis(np.array(times[1:]), 1, 0), strict=True):
                wall, served, browsed = np.median(visits, axis=0)
                print(f"{sign} {wall:.2f} (at most {visits[:, 0].max():.2f}) s, ", end="")
                print(f"of processors {served:.2f} + {browsed:.2f} s", end="; ")
            print()


def test_pages_of_finished_runs(tmp_path):
    for name, selector in (("landscape", "lorentzian"), ("uniform", "uniform")):
        config = {"system": {"kind": "hummer-szabo"}, "sampling": {"selector": selector}}
        Session.create(tmp_path / name, config).run(300, workers=0, platform="Reference", progress=False)
    Session.create(tmp_path / "molecule", {"system": {"kind": "alanine-dipeptide"}}).run(300, workers=1, progress=False)
    with serving(tmp_path) as server:
        for run in ("molecule", "landscape"):
            print(f"\nfinished run {run}, nothing else going on:")
            names = [name for name in PAGES if run == "molecule" or "run" in name]
            asyncio.run(measure(server, names, run))


def test_pages_of_a_session_that_trains(tmp_path):
    with serving(tmp_path, "--start", "alanine-dipeptide", "--max-workers", "1") as server:
        wait_for_steps(tmp_path / "alanine-dipeptide", 300)
        print("\na session of the server samples and trains:")
        names = [name for name in PAGES if name == "home" or "run" in name]
        asyncio.run(measure(server, names, "alanine-dipeptide"))


def test_from_a_commit_to_pixels(tmp_path):
    async def measure(server):
        reader, file, delays = Reader(tmp_path / "ala"), tmp_path / "ala" / "run.zarr" / "zarr.json", []
        async with browsing() as browser:
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            await page.goto(f"{server.url}/run?name=ala")
            await seen(page, FIGURE)
            words = await page.wait_for_function(HEAD, timeout=PATIENCE)
            known = file.stat().st_mtime_ns
            while len(delays) < COMMITS:
                await asyncio.sleep(0.01)
                if file.stat().st_mtime_ns == known:
                    continue
                known, committed = file.stat().st_mtime_ns, reader.status().steps
                delays.append(await page.evaluate(f"([words, steps]) => ({SHOWN})(words, steps)", [words, committed]))
                delays[-1] -= known / 1e9
        print(f"\nfrom a commit to pixels: {spread(delays)}")

    with sampling(tmp_path / "ala"), serving(tmp_path) as server:
        asyncio.run(measure(server))
