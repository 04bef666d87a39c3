"""The gallery, its pictures, and the page that makes runs, without a browser."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from separatrix import Session
from separatrix.errors import ConfigError, EquilibrationStoppedError
from separatrix.records import RunState
from separatrix.systems import CATALOGUE, resolve
from separatrix_dashboards.access import Role
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Hub, UnreadableRun
from separatrix_dashboards.pages.cards import CardFacts, age_words, card_facts, card_html, run_address
from separatrix_dashboards.pages.home import Gallery, RunCard, choose, home_page
from separatrix_dashboards.pages.new import (
    LARGEST_TOML,
    NewSession,
    name_problem,
    new_page,
    parsed_toml,
    suggested_name,
    toml_text,
)
from separatrix_dashboards.pages.pictures import catalogue_picture, system_picture, unknown_picture
from separatrix_dashboards.sessions import SessionPool
from separatrix_dashboards.workspace import Workspace

HOSTILE = "\"'><img src=x onerror=alert(1)></div><script>alert(1)</script>"
NOW = 1_000_000.0


class Tags(HTMLParser):
    """Collects the tags of a text with the names of their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))


def facts_of(name="run", **values):
    """Return the facts of a run that needs none on disk."""
    common = {"state": "finished", "word": "finished", "colour": "#000", "modified": NOW}
    return CardFacts(name=name, **{**common, **values})


@pytest.fixture
def workspace(tmp_path):
    """Return a workspace over an empty folder."""
    folder = tmp_path / "runs"
    folder.mkdir()
    pool = SessionPool(2)
    hub = Hub(folder, pool, interval=0.05)
    yield Workspace(folder=folder, hub=hub, pool=pool)
    hub.close()
    pool.close()


def seen(workspace):
    """Have the hub look at the folder now."""
    workspace.hub._scanned = -np.inf
    return workspace


# -- what a card says ------------------------------------------------------------------------------------------------


def test_a_card_tells_how_a_run_stands(any_feed):
    snapshot = any_feed.snapshot
    facts = card_facts(snapshot)
    assert (facts.name, facts.steps, facts.transitions) == (
        snapshot.name,
        snapshot.status.steps,
        snapshot.status.transitions,
    )
    assert facts.state == snapshot.status.state.value
    assert facts.states == snapshot.state_names
    html = card_html(facts, facts.modified + 65)
    assert f'data-state="{facts.state}"' in html
    assert facts.word in html
    assert f"{facts.steps:,}</span> of {facts.target:,} steps" in html
    assert "changed 1 minute ago" in html
    assert ("±" in html) == (snapshot.n_shots > 0)
    assert ("polyline" in html) == (snapshot.n_shots > 1)


def test_the_curve_of_a_card_ends_where_the_run_stands(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    facts = card_facts(snapshot)
    assert len(facts.seen) == len(facts.foretold) == 60
    assert facts.seen[-1] == facts.transitions > 0
    assert facts.foretold[-1] == pytest.approx(facts.expected, abs=0.01)
    assert facts.rate == pytest.approx(facts.transitions / facts.steps)
    assert facts.ideal == pytest.approx(0.422, abs=5e-4)
    assert list(facts.seen) == sorted(facts.seen)


def test_cards_of_failed_uniform_and_empty_runs(failed_run, uniform_run, empty_run):
    failed = card_facts(Feed(failed_run).snapshot)
    assert failed.failed
    assert "system.xml" in failed.note
    assert 'class="note bad"' in card_html(failed, NOW)
    assert card_facts(Feed(uniform_run).snapshot).ideal is None
    empty = card_facts(Feed(empty_run).snapshot)
    assert (empty.rate, empty.seen, empty.share, empty.word) == (None, (), 0.0, "new")
    assert "No shots yet" in card_html(empty, NOW)


def test_an_interrupted_and_a_queued_run_say_so(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    interrupted = replace(snapshot, status=replace(snapshot.status, state=RunState.INTERRUPTED))
    assert card_facts(interrupted).word == "interrupted"
    assert card_facts(replace(snapshot, queue=1)).word == "queued, next"
    assert card_facts(replace(snapshot, queue=3)).word == "queued, 2 before it"
    assert card_facts(replace(snapshot, queue=3)).state == "queued"
    problem = card_facts(replace(snapshot, problem="no platform"))
    assert problem.failed
    assert problem.note == "no platform"


def test_a_run_that_cannot_be_read_has_a_card_with_the_reason():
    facts = card_facts(UnreadableRun(path=Path("/x"), name="x", error="damaged <b>", modified=0.0))
    html = card_html(facts, NOW)
    assert "cannot be read" in html
    assert "damaged &lt;b&gt;" in html
    assert "changed never" not in html


def test_nothing_from_outside_becomes_html(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    status = replace(snapshot.status, message=HOSTILE)
    changes = {"name": HOSTILE, "state_names": (HOSTILE, "B"), "problem": HOSTILE}
    harmless = {"name": "run", "state_names": ("A", "B"), "problem": "message"}
    unreadable = [UnreadableRun(path=Path("/x"), name=n, error=n, modified=NOW) for n in (HOSTILE, "x")]
    pairs = [
        (replace(snapshot, status=status, **changes), replace(snapshot, **harmless)),
        (replace(snapshot, status=status), replace(snapshot, status=replace(status, message="message"))),
        tuple(unreadable),
    ]
    for bad, good in pairs:
        html = card_html(card_facts(bad), NOW)
        assert Tags(html).found == Tags(card_html(card_facts(good), NOW)).found
        assert "<script" not in html


def test_addresses_carry_any_name():
    assert run_address("a/b &c=d#e?") == "run?name=a%2Fb%20%26c%3Dd%23e%3F"
    assert "javascript:" not in run_address("javascript:alert(1)")


def test_ages_change_every_ten_seconds_at_most():
    words = [age_words(NOW, NOW + seconds / 10) for seconds in range(1200)]
    changes = [i for i in range(1, 1200) if words[i] != words[i - 1]]
    assert words[0] == "just now"
    assert words[-1] == "1 minute ago"
    assert np.diff(changes).min() >= 100


# -- choosing --------------------------------------------------------------------------------------------------------

SOME = {
    Path(facts.name): facts
    for facts in (
        facts_of("beta", modified=30.0, steps=10, rate=0.1, system="Alanine dipeptide, vacuum"),
        facts_of("Alpha", modified=20.0, steps=30, rate=0.3, system="Mueller-Brown potential"),
        facts_of("live", modified=10.0, steps=20, state="running", word="sampling", colour="#0"),
        facts_of("gone", state="unreadable", word="cannot be read", modified=5.0),
    )
}


@pytest.mark.parametrize(
    ("search", "state", "order", "names"),
    [
        ("", "every state", "last change", ["live", "beta", "Alpha", "gone"]),
        ("", "every state", "name", ["Alpha", "beta", "gone", "live"]),
        ("", "every state", "steps", ["Alpha", "live", "beta", "gone"]),
        ("", "every state", "yield", ["Alpha", "beta", "gone", "live"]),
        ("VACUUM ala", "every state", "name", ["beta"]),
        ("sampling", "every state", "name", ["live"]),
        ("", "running", "name", ["live"]),
        ("", "cannot be read", "name", ["gone"]),
        ("nothing like it", "every state", "name", []),
    ],
)
def test_search_state_and_order(search, state, order, names):
    assert [path.name for path in choose(SOME, search, state, order)] == names


# -- the gallery -----------------------------------------------------------------------------------------------------


def test_an_empty_folder_says_how_to_begin(workspace):
    gallery = Gallery(workspace, Role.OPERATOR)
    assert gallery._nothing.visible
    assert f"separatrix run {workspace.folder / 'first'} --system alanine-dipeptide" in gallery._nothing.object
    assert 'href="new"' in gallery._nothing.object
    assert 'href="new"' not in Gallery(workspace, Role.VIEWER)._nothing.object


def test_new_runs_appear_removed_ones_go_and_only_changed_cards_are_sent(
    workspace, landscape_run, uniform_run, monkeypatch
):
    monkeypatch.setattr("separatrix_dashboards.pages.cards.ago", lambda *_: "then")  # a minute may pass meanwhile
    shutil.copytree(landscape_run, workspace.folder / "one")
    gallery = Gallery(seen(workspace), Role.OPERATOR)
    assert [card.label for card in gallery._grid] == ["one"]
    assert not gallery._nothing.visible
    shutil.copytree(uniform_run, workspace.folder / "two")
    (workspace.folder / "broken" / "run.zarr").mkdir(parents=True)
    seen(workspace)
    gallery.refresh()
    assert {card.label for card in gallery._grid} == {"one", "two", "broken"}
    sent = []
    for card in gallery._grid:
        card.param.watch(lambda event: sent.append(event.obj.label), list(card.param))
    first = gallery._grid.objects
    gallery.refresh()
    assert sent == []
    assert gallery._grid.objects == first
    Session.open(workspace.folder / "one").run(310, workers=0, platform="Reference", progress=False)
    assert workspace.hub.feed("one").refresh()
    gallery.refresh()
    assert set(sent) == {"one"}
    shutil.rmtree(workspace.folder / "two")
    seen(workspace)
    gallery.refresh()
    assert {card.label for card in gallery._grid} == {"one", "broken"}


def test_a_run_that_comes_back_gets_a_card_of_its_own(workspace, landscape_run, molecule_run):
    (workspace.folder / "run" / "run.zarr").mkdir(parents=True)
    gallery = Gallery(seen(workspace), Role.OPERATOR)
    (broken,) = gallery._grid
    assert not broken.selectable
    assert broken.picture == unknown_picture()
    shutil.rmtree(workspace.folder / "run")
    shutil.copytree(landscape_run, workspace.folder / "run")
    seen(workspace)
    gallery.refresh()
    (mended,) = gallery._grid
    assert mended.selectable
    assert mended.picture == catalogue_picture("hummer-szabo")
    workspace.hub._feeds.clear()  # as after a scan that found it gone
    shutil.rmtree(workspace.folder / "run")
    shutil.copytree(molecule_run, workspace.folder / "run")
    seen(workspace)
    gallery.refresh()
    (other,) = gallery._grid
    assert other.picture == catalogue_picture("alanine-dipeptide")
    assert "Alanine dipeptide" in other.content


def test_runs_that_are_chosen_can_be_compared(workspace, landscape_run, uniform_run):
    shutil.copytree(landscape_run, workspace.folder / "a run")
    shutil.copytree(uniform_run, workspace.folder / "b")
    gallery = Gallery(seen(workspace), Role.VIEWER)
    gallery.sort.value = "name"
    first, second = gallery._grid
    assert gallery.compare.disabled
    first.selected = second.selected = True
    assert not gallery.compare.disabled
    assert gallery.compare.href == "compare?runs=a%20run,b"
    gallery.search.value = "a run"
    assert gallery.compare.disabled  # what is out of sight is not compared
    assert [card.label for card in gallery._grid] == ["a run"]


def test_many_runs_are_shown_in_parts(workspace, empty_run):
    for number in range(50):
        shutil.copytree(empty_run, workspace.folder / f"run {number:02}")
    gallery = Gallery(seen(workspace), Role.OPERATOR)
    assert len(gallery._grid) == 48
    assert gallery._more.visible
    gallery._show_more()
    assert len(gallery._grid) == 50
    assert not gallery._more.visible


def test_only_operators_are_offered_a_new_session(workspace):
    def links(role):
        page = Gallery(workspace, role).__panel__()
        return [item.href for item in page.select(lambda item: getattr(item, "href", None))]

    assert links(Role.OPERATOR) == ["new"]
    assert links(Role.VIEWER) == []


def test_the_page_shows_the_gallery(workspace, empty_run):
    shutil.copytree(empty_run, workspace.folder / "one")
    page = home_page(seen(workspace), Role.OPERATOR)
    assert [card.label for card in page.select(RunCard)] == ["one"]


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CATALOGUE)
def test_every_system_has_a_picture_of_its_own_that_is_well_formed_and_small(kind):
    picture = catalogue_picture(kind)
    root = ET.fromstring(picture)  # noqa: S314 - ours
    assert len(list(root.iter())) > 10
    assert len(picture) < 16_000
    assert "href" not in picture
    assert picture != unknown_picture()


def test_a_landscape_shows_its_states_where_they_are():
    root = ET.fromstring(catalogue_picture("hummer-szabo"))  # noqa: S314 - ours
    names = {text.text: float(text.get("x")) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert set(names) == {"A", "B"}
    assert names["A"] < 160 < names["B"]


def test_hostile_states_and_energies_nobody_can_draw_still_have_a_picture():
    data = {
        "system": {"kind": "potential", "expression": "10*(x^2-1)^2", "start": {HOSTILE: [-1, 0, 0], "B": [1, 0, 0]}},
        "collective_variables": {"x": "x(0)"},
        "states": {HOSTILE: "x < -0.8", "B": "x > 0.8"},
    }
    picture = system_picture(resolve(data))
    assert "<script" not in picture
    assert "<img" not in picture
    ET.fromstring(picture)  # noqa: S314 - ours
    data["system"]["expression"] = "erf(x)"  # OpenMM knows it, the picture does not
    assert system_picture(resolve(data))
    data["system"]["expression"] = "x^^"
    assert system_picture(resolve(data)) == unknown_picture()


# -- a new run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "   ", "a/b", "a\\b", "..", ".hidden", "_temporary", "x" * 81, "a\nb", "a\x00b", "a,b", "there", "a:b", "a?"],
)
def test_names_that_are_none_are_refused(name, tmp_path):
    (tmp_path / "there").mkdir()
    assert name_problem(name, tmp_path)


@given(st.text(max_size=90))
def test_a_good_name_is_a_folder_inside(name):
    folder = Path("/nowhere/runs")
    if not name_problem(name, folder):
        assert (folder / name.strip()).resolve().parent == folder


def test_suggested_names_are_free(tmp_path):
    assert suggested_name("hummer-szabo", tmp_path) == "hummer-szabo"
    (tmp_path / "hummer-szabo").mkdir()
    (tmp_path / "hummer-szabo-2").mkdir()
    assert suggested_name("hummer-szabo", tmp_path) == "hummer-szabo-3"
    assert suggested_name("potential", tmp_path) == "landscape"


def test_uploads_are_text_of_a_size():
    assert toml_text("\ufeffx = 1".encode()) == "x = 1"
    assert parsed_toml("x = 1") == {"x": 1}
    with pytest.raises(ConfigError, match=r"1 MB at most, got 2\.0 MB"):
        toml_text(b"#" * (2 * LARGEST_TOML))
    with pytest.raises(ConfigError, match="UTF-8"):
        toml_text(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML: .*line 1"):
        parsed_toml("[system\nkind = 1", "mine.toml")


def test_a_file_fills_the_form_or_says_what_is_wrong(workspace):
    page = NewSession(workspace)
    page._take_file(type("Event", (), {"new": b'[system]\nkind = "mueller-brown"\n[sampling]\nchains = 3\n'}))
    assert page.system.value == "own"
    assert page.form.data == {"system": {"kind": "mueller-brown"}, "sampling": {"chains": 3}}
    assert page.name.value == "mueller-brown"
    for text, message in (
        ("[system", "not valid TOML"),
        ('[system]\nkind = "muller-brown"', "did you mean"),
        ("[sampling]\nchains = 3", "system: missing"),
        ('[system]\nkind = "mueller-brown"\n[sampling]\nchians = 3', "unknown key"),
    ):
        page.take_toml(text)
        assert message in page._own_problem.object
    assert page.form.data["sampling"] == {"chains": 3}  # the last good one stays
    page.take_toml('[system]\nkind = "<script>"')
    assert "<script>" not in page._own_problem.object


def test_each_system_has_a_form_that_is_kept_while_another_is_looked_at(workspace):
    page = NewSession(workspace)
    page.form.fields["sampling", "chains"].widget.value = "3"
    page.system.value = "hummer-szabo"
    assert page.form.data == {"system": {"kind": "hummer-szabo"}}
    assert page.name.value == "hummer-szabo"
    page.name.value = "mine"
    page.system.value = "own"
    assert page.form.kind == "potential"
    assert page.form.problems == {}
    assert page.name.value == "mine"
    page.system.value = "alanine-dipeptide"
    assert page.form.data["sampling"] == {"chains": 3}
    assert "chains = 3" in page._preview.text


def test_a_run_is_created_and_the_browser_taken_to_it(workspace):
    page = NewSession(workspace)
    page.system.value = "hummer-szabo"
    page.form.fields["sampling", "steps"].widget.value = "5"
    page.name.value = "first run"
    asyncio.run(page.act("create"))
    assert Session.open(workspace.folder / "first run").config.sampling.steps == 5
    assert page._redirect.address == "run?name=first%20run"
    assert not page.start.disabled
    asyncio.run(page.act("create"))
    assert "already" in page.name.helper_text


def test_a_run_in_water_is_made_beside_the_server_and_the_page_says_how_far_it_is(workspace):
    page = NewSession(workspace)
    page.system.value = "lithium-chloride"
    page.form.fields["system", "equilibration"].widget.value = "0.4"
    page.name.value = "salt"
    said, turns = [], 0

    async def made():
        nonlocal turns
        making = asyncio.create_task(page.act("create"))
        while not making.done():
            await asyncio.sleep(0.05)
            turns += 1
            said.append(page._message.object)

    asyncio.run(made())
    assert set(Session.open(workspace.folder / "salt").config.states) == {"bound", "unbound"}
    assert any("Equilibrating the water" in text and "of 0.8 ps" in text for text in said)
    assert turns > 10  # the server had its turns meanwhile


def test_a_server_that_goes_down_ends_the_making_of_a_run(tmp_path):
    pool = SessionPool(1)
    closing = []

    def report(_):
        if not closing:
            closing.append(threading.Thread(target=pool.close))
            closing[0].start()

    with pytest.raises(EquilibrationStoppedError):
        pool.create(tmp_path / "salt", {"system": {"kind": "lithium-chloride"}}, role=Role.OPERATOR, report=report)
    closing[0].join()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_is_created_and_started(workspace):
    page = NewSession(workspace)
    page.system.value = "hummer-szabo"
    page.form.fields["sampling", "steps"].widget.value = "5"
    page.workers.value = 1
    asyncio.run(page.act("start"))
    end = time.monotonic() + 60
    path = workspace.folder / "hummer-szabo"
    while Session.open(path).status.steps < 5 and time.monotonic() < end:
        time.sleep(0.2)
    assert Session.open(path).status.steps == 5


def test_nothing_is_made_of_what_is_wrong(workspace):
    page = NewSession(workspace)
    page.system.value = "hummer-szabo"
    page.form.fields["sampling", "chains"].widget.value = "0"
    asyncio.run(page.act("start"))
    assert "Mend first: Chains" in page._message.object
    page.form.fields["sampling", "chains"].widget.value = "1"
    page.form.fields["states",]._rows[1][1].value = "x + yy > 1"
    asyncio.run(page.act("create"))
    assert "unknown name &#x27;yy&#x27;" in page._message.object
    assert "unknown name 'yy'" in page.form.problems["states",]
    assert list(workspace.folder.iterdir()) == []
    page.form.fields["states",]._rows[1][1].value = "x > 0.9"
    assert page._message.object == ""
    asyncio.run(page.act("check"))
    assert "Nothing is wrong" in page._message.object
    assert list(workspace.folder.iterdir()) == []


def test_viewers_get_a_note_and_a_forged_click_makes_nothing(workspace):
    assert not new_page(workspace, Role.VIEWER).select(lambda item: hasattr(item, "clicks"))
    viewers = Workspace(folder=workspace.folder, hub=workspace.hub, pool=workspace.pool, read_only=True)
    page = NewSession(viewers)
    page.system.value = "hummer-szabo"
    asyncio.run(page.act("create"))
    assert "only operators may" in page._message.object
    assert list(workspace.folder.iterdir()) == []
