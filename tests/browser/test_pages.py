"""The pages as people use them: looked at, tapped, and driven through the life of a session."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from separatrix_dashboards.views.registry import VIEWS

pytestmark = pytest.mark.browser

PATIENCE = 60_000


def state(page):
    """Return the chip that tells what a run is doing."""
    return page.locator(".sx-chip[data-state]").first


def steps(page):
    return int(page.locator("[data-steps]").first.get_attribute("data-steps"))


def wait_for_steps(page, more_than):
    page.wait_for_function(
        """least => { const found = []; const walk = node => {
             if (node.dataset && node.dataset.steps) found.push(Number(node.dataset.steps));
             if (node.shadowRoot) walk(node.shadowRoot);
             for (const child of node.children || []) walk(child) };
           walk(document.body); return Math.max(0, ...found) > least }""",
        arg=more_than,
        timeout=PATIENCE,
    )


def test_home_shows_every_run_and_leads_to_it(page, server, screenshots):
    page.goto(server.url)
    expect(page.get_by_text("landscape", exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("molecule", exact=True).first).to_be_visible()
    page.screenshot(path=screenshots / "home.png")
    page.get_by_text("molecule", exact=True).first.click()
    expect(state(page)).to_have_text("finished", timeout=PATIENCE)
    assert re.search(r"run\?name=molecule", page.url)
    assert steps(page) == 120


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", ["landscape", "molecule", "300 of 300"]),
        ("run?name=landscape", ["landscape", "finished", "300 of 300 steps", "transitions"]),
        ("new", ["Alanine dipeptide", "Your own"]),
        ("compare?runs=landscape,molecule", ["landscape", "120 of 120 steps"]),
        ("run?name=none", ["All runs"]),
    ],
)
def test_pages_can_be_read_before_any_script_has_run(browser, server, screenshots, address, words):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{server.url}/{address}")
    page.screenshot(path=screenshots / f"first-{address.partition('?')[0] or 'home'}.png")
    for word in words:
        expect(page.get_by_text(word).first).to_be_visible()
    context.close()


@pytest.mark.parametrize("run", ["landscape", "molecule"])
def test_every_tab_shows_a_finished_run(page, server, screenshots, run):
    page.goto(f"{server.url}/run?name={run}")
    expect(state(page)).to_have_text("finished", timeout=PATIENCE)
    signs = {
        "live": "Newest shots",
        "committor": "Where shots begin",
        "paths": "XTC",
        "mechanism": "No mechanism yet",
        "validation": "On held-out shots",
        "log": "[sampling]",
    }
    for view in VIEWS.values():
        page.locator(".bk-tab", has_text=view.title).click()
        expect(page.get_by_text(signs[view.id]).first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("drawing", exact=True)).to_have_count(0, timeout=PATIENCE)
        page.wait_for_timeout(1500)  # figures come after their words
        page.screenshot(path=screenshots / f"{run}-{view.id}.png")


def test_a_session_is_made_started_paused_resumed_and_stopped(page, server, screenshots):
    page.goto(f"{server.url}/new")
    expect(page.get_by_label("Solvent")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("Hummer-Szabo double well").first.click(timeout=PATIENCE)
    expect(page.get_by_label("Solvent")).to_have_count(0, timeout=PATIENCE)
    page.get_by_label("Name of the run").fill("mine")
    page.get_by_label("Monte Carlo steps").first.fill("100000")
    page.get_by_label("Monte Carlo steps").first.press("Tab")
    page.screenshot(path=screenshots / "new.png")
    page.get_by_role("button", name="Create and start").click()
    page.wait_for_url(re.compile(r"run\?name=mine"), timeout=PATIENCE)
    wait_for_steps(page, 0)
    expect(state(page)).to_have_text("sampling", timeout=PATIENCE)
    wait_for_steps(page, steps(page))
    page.screenshot(path=screenshots / "running.png")
    page.get_by_role("button", name="Pause").click()
    expect(state(page)).to_have_text("paused", timeout=PATIENCE)
    held = steps(page)
    page.wait_for_timeout(1500)
    assert steps(page) == held
    expect(page.get_by_text("100,000").first).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    wait_for_steps(page, held)
    page.get_by_role("button", name="Stop").click()
    expect(state(page)).to_have_text("stopped", timeout=PATIENCE)
    expect(page.get_by_role("button", name="Continue")).to_be_enabled()


def test_a_chosen_path_moves_in_the_viewer(page, server, screenshots):
    page.goto(f"{server.url}/run?name=molecule&tab=paths")
    expect(page.get_by_text(re.compile(r"frame \d+ / \d+")).first).to_be_visible(timeout=PATIENCE)
    viewer = page.locator(".separatrix-viewer")
    box = viewer.get_by_role("button", name="Pause").bounding_box()
    assert box["y"] + box["height"] <= 800, "what plays the path is out of sight"
    shown = page.get_by_text(re.compile(r"^shot \d+$")).first
    before = shown.inner_text()
    rows = page.locator("tr", has_text=re.compile(r"^\s*\d+"))
    expect(rows.nth(3)).to_be_visible(timeout=PATIENCE)
    rows.nth(3).click()
    expect(shown).not_to_have_text(before, timeout=PATIENCE)
    canvas = viewer.locator("canvas")
    canvas.scroll_into_view_if_needed()  # a viewer that is out of sight stands still
    expect(canvas).to_be_visible(timeout=PATIENCE)
    where = viewer.get_by_text(re.compile(r"frame \d+ / \d+"))
    expect(where).not_to_have_text(where.inner_text(), timeout=PATIENCE)
    page.screenshot(path=screenshots / "path.png")


def test_the_map_can_show_another_layer(page, server, screenshots):
    page.goto(f"{server.url}/run?name=landscape&tab=committor")
    # The key of the map tells what it shows.
    for layer, words in (("exact", "exact p_B"), ("spread", "spread of p_B over the ensemble"), ("learned", "p_B")):
        page.get_by_role("button", name=layer, exact=True).first.click(timeout=PATIENCE)
        expect(page.get_by_text(words, exact=True).first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("drawing", exact=True)).to_have_count(0, timeout=PATIENCE)
        page.wait_for_timeout(1000)  # figures come after their words
        page.screenshot(path=screenshots / f"map-{layer}.png")
    box = page.get_by_role("button", name="Play", exact=True).first.bounding_box()
    assert box["y"] + box["height"] <= 800, "what plays the versions is out of sight"


def test_the_map_is_over_the_variables_that_are_chosen(page, server, screenshots):
    page.goto(f"{server.url}/run?name=molecule&tab=committor")
    expect(page.get_by_text("separatrix, p_B = ½").first).to_be_visible(timeout=PATIENCE)
    page.get_by_label("horizontal").select_option("psi")
    expect(page.get_by_label("vertical")).to_have_value("phi", timeout=PATIENCE)
    shown = """() => Bokeh.documents[0].all_models.size && [...Bokeh.documents[0].all_models]
      .some(axis => axis.type === "LinearAxis" && axis.axis_label === "phi (degrees)" && axis.id &&
        [...Bokeh.documents[0].all_models].some(figure => figure.left?.includes?.(axis)))"""
    page.wait_for_function(shown, timeout=PATIENCE)
    page.screenshot(path=screenshots / "map-swapped.png")


def test_pages_stay_as_dark_as_they_were_chosen(page, server, screenshots):
    def is_dark(lights):
        colour = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        made = "document.getElementById('first') === null"  # before that the page has no colour of its own
        page.wait_for_function(f"{made} && ({colour}[0] < 80) === {str(lights).lower()}", timeout=PATIENCE)

    page.goto(server.url)
    expect(page.get_by_text("landscape", exact=True).first).to_be_visible(timeout=PATIENCE)
    is_dark(False)
    page.get_by_role("button", name="Toggle theme").click()
    is_dark(True)
    page.goto(f"{server.url}/run?name=landscape")
    expect(state(page)).to_have_text("finished", timeout=PATIENCE)
    is_dark(True)
    page.screenshot(path=screenshots / "dark.png")
    page.get_by_role("button", name="Toggle theme").click()
    is_dark(False)
    page.goto(f"{server.url}/compare")
    expect(page.get_by_text("Runs that differ in their seed alone as one")).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(3000)
    is_dark(False)


def test_runs_are_compared(page, server, screenshots):
    page.goto(f"{server.url}/compare?runs=landscape,molecule")
    expect(page.get_by_text("Transitions per MD step").first).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(3000)
    page.screenshot(path=screenshots / "compare.png")


def test_a_viewer_signs_in_and_finds_no_control(page, serve, runs, tmp_path, screenshots):
    users = tmp_path / "users.toml"
    command = [sys.executable, "-c", "from separatrix.cli import main; main()", "serve"]
    added = ["--add-user", "vera", "--role", "viewer", "--auth", str(users)]
    subprocess.run([*command, *added], input="a long password\n", text=True, check=True, capture_output=True)
    server = serve(runs, "--auth", users)
    page.goto(f"{server.url}/run?name=landscape")
    page.locator("input[name=username]").fill("vera")
    page.locator("input[name=password]").fill("a long password")
    page.screenshot(path=screenshots / "login.png")
    page.locator("button[type=submit]").click()
    page.goto(f"{server.url}/run?name=landscape")
    expect(state(page)).to_have_text("finished", timeout=PATIENCE)
    for control in ("Start", "Continue", "Pause", "Stop"):
        expect(page.get_by_role("button", name=control, exact=True)).to_have_count(0)
    expect(page.get_by_text("read-only").first).to_be_visible()
    page.screenshot(path=screenshots / "viewer.png")
    page.goto(f"{server.url}/new")
    page.wait_for_timeout(3000)
    expect(page.get_by_role("button", name="Create and start")).to_have_count(0)
