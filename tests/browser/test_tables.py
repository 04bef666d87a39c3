"""The pages of a run that was made from a table: every one of them opens, and says what does not exist."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect

from separatrix import Session, learn
from separatrix_dashboards.views.registry import VIEWS

pytestmark = pytest.mark.browser

PATIENCE = 60_000

SIGNS = {
    "live": "Calibration on held-out shots",
    "committor": "networks that hold a configuration out",
    "paths": "No paths: this run was made from shots.csv",
    "mechanism": "Formulas",
    "validation": "made from a table, and nothing can be simulated",
    "log": "separatrix learn",
}


@pytest.fixture
def tables(tmp_path):
    """Return a folder with a run made from a table, explained."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 1_500))
    n = rng.integers(1, 6, len(x))
    n_b = rng.binomial(n, 1 / (1 + np.exp(-2 * x + y**2 - 1)))
    file = tmp_path / "shots.csv"
    rows = zip(x, y, rng.normal(size=len(x)), n - n_b, n_b, strict=True)
    file.write_text("distance,psi,noise,n_folded,n_open\n" + "\n".join(",".join(map(str, row)) for row in rows))
    run = learn(file, tmp_path / "runs" / "given", counts=["n_folded", "n_open"])
    Session.open(run.folder).explain(generations=5, progress=False)
    return tmp_path / "runs"


def test_every_page_of_a_table_opens_and_says_what_there_is(page, serve, tables, screenshots):
    server = serve(tables, "--max-workers", "1")
    page.goto(server.url)
    expect(page.get_by_text("Shots from shots.csv").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("1,500").first).to_be_visible()
    page.wait_for_timeout(1500)
    page.screenshot(path=screenshots / "table-home.png")
    page.get_by_text("given", exact=True).first.click()
    expect(page.get_by_text("Nothing is simulated here").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("ended in folded").first).to_be_visible()
    for name in ("Start", "Continue", "Pause", "Stop"):
        expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    for view in VIEWS.values():
        page.locator(".bk-tab", has_text=view.title).click()
        expect(page.get_by_text(SIGNS[view.id]).first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("drawing", exact=True)).to_have_count(0, timeout=PATIENCE)
        page.wait_for_timeout(1500)  # figures come after their words
        page.screenshot(path=screenshots / f"table-{view.id}.png")
    page.goto(f"{server.url}/compare?runs=given")
    expect(page.get_by_text("there is no sampling to compare").first).to_be_visible(timeout=PATIENCE)
