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


def test_a_visitor_tries_a_session_of_their_own(page, browser, serve, runs, seen, screenshots):
    server = serve(runs, "--demo", "--max-workers", "1")
    page.goto(server.url)
    expect(page.get_by_text("Try it yourself")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("landscape", exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("New session")).to_have_count(0)
    page.screenshot(path=screenshots / "demo-home.png")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(r"try\?session=[\w-]{32}"), timeout=PATIENCE)
    expect(page.locator(".sx-chip[data-state=running]")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("Committor", exact=True).first.click()
    expect(page.get_by_text(re.compile(r"Model \d+ of \d+")).first).to_be_visible(timeout=PATIENCE)
    told = page.get_by_text(re.compile(r"Model \d+ of \d+")).first
    before, first = told.inner_text(), image_of(page)
    expect(told).not_to_have_text(before, timeout=PATIENCE)
    assert image_of(page) != first, "the map moves"
    page.screenshot(path=screenshots / "demo-committor.png")

    other = browser.new_context(viewport={"width": 400, "height": 850})
    other.on("request", lambda request: seen.ask(request.url))
    other.on("page", seen.watch)
    try:
        stranger = other.new_page()
        stranger.goto(server.url)
        expect(stranger.get_by_text("molecule", exact=True).first).to_be_visible(timeout=PATIENCE)
        expect(stranger.get_by_role("button", name="Start")).to_be_visible(timeout=PATIENCE)
        expect(stranger.get_by_text("Back to your session")).to_have_count(0)
        assert stranger.locator("article.card").count() == 2
        stranger.goto(page.url)
        expect(stranger.get_by_text("You may look at this session but not control it")).to_be_visible(timeout=PATIENCE)
        for name in ("Pause", "Stop", "Discard"):
            expect(stranger.get_by_role("button", name=name)).to_have_count(0)
        stranger.screenshot(path=screenshots / "demo-stranger.png")
    finally:
        other.close()

    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".sx-chip[data-state]").first).to_have_text("stopped", timeout=PATIENCE)
    page.get_by_role("button", name="Discard").click()
    page.wait_for_url(re.compile(r"/$"), timeout=PATIENCE)
    expect(page.get_by_role("button", name="Start")).to_be_visible(timeout=PATIENCE)
    page.go_back()
    expect(page.get_by_text("This session is over").first).to_be_visible(timeout=PATIENCE)
