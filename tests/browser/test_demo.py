"""A server for everybody, as a visitor meets it: try a session, watch it learn, and be alone with it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

PATIENCE = 90_000


def image_of(page):
    """Return what the committor map shows, as the pixels of its figure."""
    return page.locator(".bk-Figure").first.screenshot()


def pause(page):
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".sx-chip[data-state]").first).to_have_text("paused", timeout=PATIENCE)


def look_as_another(browser, seen, home, address, picture):
    """Open both pages as another visitor, who sees no session of anybody and controls none."""
    other = browser.new_context(viewport={"width": 400, "height": 850})
    other.on("request", lambda request: seen.ask(request.url))
    other.on("page", seen.watch)
    try:
        page = other.new_page()
        page.goto(home)
        expect(page.get_by_text("molecule", exact=True).first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_role("button", name="Start")).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("Back to your session")).to_be_hidden()
        expect(page.locator("article.card")).to_have_count(2, timeout=PATIENCE)
        page.goto(address)
        expect(page.get_by_text("You may look at this session but not control it")).to_be_visible(timeout=PATIENCE)
        for name in ("Pause", "Resume", "Stop", "Discard"):
            expect(page.get_by_role("button", name=name)).to_have_count(0)
        page.screenshot(path=picture)
    finally:
        other.close()


def test_a_visitor_tries_a_session_of_their_own(page, browser, serve, runs, seen, screenshots):
    server = serve(runs, "--demo", "--max-workers", "1")
    page.goto(server.url)
    expect(page.get_by_text("Try it yourself")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("landscape", exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("New session")).to_have_count(0)
    page.screenshot(path=screenshots / "demo-home.png")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(r"try\?session=[\w-]{32}"), timeout=PATIENCE)
    expect(page.get_by_text(re.compile(r"chance 0.693, model \d+"))).to_be_visible(timeout=PATIENCE)
    pause(page)  # however slow the browser is, there is something to come
    page.get_by_text("Committor", exact=True).first.click()
    told = page.get_by_text(re.compile(r"Model \d+ of \d+")).first
    expect(told).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(1500)  # figures come after their words
    before, first = told.inner_text(), image_of(page)
    page.get_by_role("button", name="Resume").click()
    expect(told).not_to_have_text(before, timeout=PATIENCE)
    pause(page)
    page.wait_for_timeout(1500)
    assert image_of(page) != first, "the map moves"
    page.screenshot(path=screenshots / "demo-committor.png")
    look_as_another(browser, seen, server.url, page.url, screenshots / "demo-stranger.png")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".sx-chip[data-state]").first).to_have_text("stopped", timeout=PATIENCE)
    page.get_by_role("button", name="Discard").click()
    page.wait_for_url(re.compile(r"/$"), timeout=PATIENCE)
    expect(page.get_by_role("button", name="Start")).to_be_visible(timeout=PATIENCE)
    page.go_back()
    expect(page.get_by_text("This session is over").first).to_be_visible(timeout=PATIENCE)
