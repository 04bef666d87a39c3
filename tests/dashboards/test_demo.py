"""The pages of a server for everybody, without a browser: the form, the head without numbers, and the cookie."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile

import pytest
from tests.page_document import push
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from separatrix.errors import SeparatrixError
from separatrix_dashboards.access import VISITOR, Role
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.pages import routes
from separatrix_dashboards.pages.visit import Invitation, VisitHead, VisitPage, availability, visit_words
from separatrix_dashboards.sandbox import LANDSCAPES, Limits, Sandbox, Visit, Wish
from separatrix_dashboards.sessions import SessionPool
from separatrix_dashboards.views.base import Watch
from separatrix_dashboards.visitors import VisitorCookie
from separatrix_dashboards.workspace import Workspace


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """Return a sandbox over an empty folder of runs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = SessionPool(1)
    hub = Hub(tmp_path, pool)
    sandbox = Sandbox(hub, pool, Limits(seconds=120.0))
    yield sandbox
    pool.close()
    hub.close()
    sandbox.close()


@pytest.fixture
def visit(sandbox, landscape_run):
    """Return the session of ada, finished."""
    path = shutil.copytree(landscape_run, sandbox.folder / "key" / "run")
    visit = Visit("key", "ada", path, sandbox._ticked, sandbox._ticked)
    visit.viewers = 1
    visit.ready = True
    sandbox._visits["key"] = visit
    return visit


# -- the form ----------------------------------------------------------------------------------------------------------


def test_the_form_offers_every_landscape_and_says_what_there_is(sandbox):
    form = Invitation(sandbox, "ada")
    assert {option["name"] for option in form.landscape.options} == set(LANDSCAPES)
    assert "Try it yourself" in form.first_html()
    assert form.first_html().count("<svg") == len(LANDSCAPES)
    assert (form.start.label, form.back.visible) == ("Start", False)
    assert "2,000 shots at most, within 2 min. It starts at once." in availability(sandbox)


def test_the_form_leads_to_the_session_that_was_begun(sandbox, monkeypatch):
    wishes = []
    monkeypatch.setattr(sandbox, "begin", lambda visitor, wish: wishes.append((visitor, wish)) or "abc")
    form = Invitation(sandbox, "ada")
    form.landscape.value, form.selection.value, form.shots.value = "three-basins", "uniform", 200
    asyncio.run(form.begin())
    assert wishes == [("ada", Wish(landscape="three-basins", selection="uniform", shots=200))]
    assert form._redirect.address == "try?session=abc"


@pytest.mark.parametrize("forged", ["alanine-dipeptide", "lithium-chloride", "files", "potential", "<script>"])
def test_a_forged_choice_begins_nothing(sandbox, forged):
    form = Invitation(sandbox, "ada")
    form.landscape.value = forged
    asyncio.run(form.begin())
    assert "landscape: expected one of" in form._message.object
    assert "<script>" not in form._message.object
    assert form._redirect.address == ""
    assert not sandbox._visits


@pytest.mark.usefixtures("visit")
def test_who_has_a_session_is_led_back_to_it(sandbox):
    for visitor, label in (("ada", "Discard it and start anew"), ("ben", "Start")):
        form = Invitation(sandbox, visitor)
        assert (form.start.label, form.back.visible) == (label, visitor == "ada")
    assert Invitation(sandbox, "ada").back.href == "try?session=key"


# -- the page ----------------------------------------------------------------------------------------------------------


def head_of(sandbox, visitor):
    watch = Watch(sandbox.hub, sandbox.feed("key"), push=push)
    return VisitHead(watch.scope(), sandbox, visitor, "key", sandbox.hub.refresh)


def labels(viewable):
    return [pane.label for pane in viewable.select(lambda pane: hasattr(pane, "clicks"))]


def test_the_visitor_has_controls_without_numbers_and_others_have_none(sandbox, visit):
    panel = head_of(sandbox, "ada").__panel__()
    assert labels(panel) == ["More shots", "Pause", "Stop"]
    assert not list(panel.select(lambda pane: hasattr(pane, "step")))
    assert labels(head_of(sandbox, "ben").__panel__()) == []
    visit.over = "The 2 min of this session are over."
    head = head_of(sandbox, "ada")
    head.__panel__()
    assert head._start.disabled


def test_a_forged_control_of_another_visitor_is_refused(sandbox, visit, monkeypatch):
    monkeypatch.setattr(sandbox.pool, "start", lambda *_, **__: pytest.fail("it was started"))
    head = head_of(sandbox, "ada")
    head.__panel__()
    visit.visitor = "ben"  # as if ada's page were another's
    for control in (head._on_start, head._on_pause, head._on_stop):
        control(None)
        assert "only the visitor who began a session may" in head._problem.object
    page = VisitPage(sandbox, "ada", "key", lambda: None)
    assert not page._discard.visible
    page._on_discard(None)
    assert sandbox.find("key") is visit
    visit.visitor = "ada"
    VisitPage(sandbox, "ada", "key", lambda: None)._on_discard(None)
    assert sandbox.find("key") is None


def test_the_page_tells_what_is_left_and_when_it_is_over(sandbox, visit):
    visit.used = 30.0
    assert "1 min 30 s of sampling and 2,000 shots at most" in visit_words(sandbox, visit, own=True)
    assert "look at this session but not control it" in visit_words(sandbox, visit, own=False)
    ended = []
    page = VisitPage(sandbox, "ada", "key", lambda: ended.append(True))
    visit.leaving = True
    page.refresh()
    page.refresh()
    assert "is over" in page._words.object
    assert ended == [True]
    with pytest.raises(SeparatrixError, match="this session is over"):
        sandbox.feed("key")


def test_everybody_looks_and_nobody_makes_runs(sandbox, tmp_path):
    hub = sandbox.hub
    closed = Workspace(folder=tmp_path, hub=hub, pool=sandbox.pool, read_only=True, sandbox=sandbox)
    assert set(routes(closed)) == {"/", "/run", "/compare", "/try"}
    assert closed.role() is Role.VIEWER
    usual = Workspace(folder=tmp_path, hub=hub, pool=sandbox.pool)
    assert set(routes(usual)) == {"/", "/run", "/compare", "/new"}


# -- the cookie --------------------------------------------------------------------------------------------------------


def asked(path="/", cookie=None, method="GET"):
    """Return a request as a handler sees it, and the cookies that its answer sets."""
    headers = HTTPHeaders({"Host": "localhost"} | ({"Cookie": cookie} if cookie else {}))
    request = HTTPServerRequest(
        start_line=RequestStartLine(method, path, "HTTP/1.1"), headers=headers, connection=_Connection()
    )
    _, answer, _ = VisitorCookie(request).transform_first_chunk(200, HTTPHeaders(), b"", True)
    return request, answer.get_list("Set-Cookie")


class _Connection:
    """What a request asks of its connection."""

    context = None

    def set_close_callback(self, callback):
        """Take what is called at the end."""


@pytest.mark.parametrize("path", ["/", "/try", "/run", "/user/ada/proxy/5006/", "/user/ada/proxy/5006/compare"])
def test_whoever_comes_first_gets_a_name_with_the_page(path):
    request, cookies = asked(path)
    name = request.cookies[VISITOR].value
    assert re.fullmatch(r"[\w-]{32}", name)
    assert cookies == [f"{VISITOR}={name}; Path=/; HttpOnly; SameSite=Lax"]
    assert asked(path)[0].cookies[VISITOR].value != name
    again, cookies = asked(path, f"{VISITOR}={name}")
    assert (again.cookies[VISITOR].value, cookies) == (name, [])


@pytest.mark.parametrize("given", ["", "short", "x" * 33, "'; drop"])
def test_a_name_of_ones_own_making_is_replaced(given):
    request, cookies = asked("/", f"{VISITOR}={given}")
    assert len(cookies) == 1
    assert request.cookies[VISITOR].value != given


@pytest.mark.parametrize("path", ["/ws", "/static/js/bokeh.min.js", "/try/ws"])
def test_what_is_no_page_gets_none(path):
    request, cookies = asked(path)
    assert (VISITOR in request.cookies, cookies) == (False, [])
