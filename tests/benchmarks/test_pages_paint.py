"""How soon a page is of use after navigation, in Chromium: its words first, then its figures.

Prints; asserts no times. A page is of use when what it was opened for can be read: the head of a run with its numbers,
the cards of the gallery, the systems to choose from, the runs that are compared.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from playwright.async_api import async_playwright
from tests.benchmarks.test_pages_speed import serving, wait_for_steps
from tests.browser.conftest import FLAGS, HERE, chromium

from separatrix import Session

pytestmark = pytest.mark.benchmark

TIMES = 7
PATIENCE = 60_000
FIGURE = ".bk-Canvas, canvas"

# What makes a page useful, what completes it.
PAGES = {
    "home": ("", ".run-card .content .name", None),
    "new": ("new", ".choice .title", "text=Create and start"),
    "compare": ("compare?runs=landscape,uniform", "text=Transitions per shot", FIGURE),
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


async def open_page(context, url, useful, complete):
    """Open a page in a tab of its own; return the seconds until it is useful, and until it is complete."""
    page = await context.new_page()
    await page.goto(url, wait_until="commit")
    first = await seen(page, useful)
    last = first if complete is None else await seen(page, complete)
    await page.close()
    return first, last


async def measure(url, names, run):
    async with browsing() as browser:
        for name in names:
            address, useful, complete = PAGES[name]
            context = await browser.new_context(viewport={"width": 1280, "height": 800})
            times = []
            for _ in range(TIMES):
                times.append(await open_page(context, f"{url}/{address.format(run=run)}", useful, complete))
                await asyncio.sleep(0.3)
            await context.close()
            (cold_first, cold_last), warm = times[0], np.array(times[1:])
            first, last = (f"{np.median(each):.2f} (at most {each.max():.2f})" for each in warm.T)
            print(f"{name}: useful after {first} s, complete after {last} s; at the first visit ", end="")
            print(f"{cold_first:.2f} and {cold_last:.2f} s")


def test_pages_of_finished_runs(tmp_path):
    for name, selector in (("landscape", "lorentzian"), ("uniform", "uniform")):
        config = {"system": {"kind": "hummer-szabo"}, "sampling": {"selector": selector}}
        Session.create(tmp_path / name, config).run(300, workers=0, platform="Reference", progress=False)
    Session.create(tmp_path / "molecule", {"system": {"kind": "alanine-dipeptide"}}).run(300, workers=1, progress=False)
    with serving(tmp_path) as server:
        for run in ("molecule", "landscape"):
            print(f"\nfinished run {run}, nothing else going on:")
            asyncio.run(measure(server.url, [name for name in PAGES if run == "molecule" or "run" in name], run))


def test_pages_of_a_session_that_trains(tmp_path):
    with serving(tmp_path, "--start", "alanine-dipeptide", "--max-workers", "1") as server:
        wait_for_steps(tmp_path / "alanine-dipeptide", 300)
        print("\na session of the server samples and trains:")
        names = [name for name in PAGES if name == "home" or "run" in name]
        asyncio.run(measure(server.url, names, "alanine-dipeptide"))
