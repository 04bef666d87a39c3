"""Whoever may not control a run does not, whatever is sent: every event of every model, every property of every model.

What is sent is made from the document itself and from all kinds of events that Bokeh, Panel and its Material components
know, not from a list of our controls: a control that forgets to ask who presses it is found.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import time
from functools import partial
from pathlib import Path

import panel_material_ui
import pytest
from bokeh import events
from bokeh.model import Model
from panel.custom import ReactiveESM
from tests.attacked import Attacked, Forger, changed, event
from tests.users import PASSWORD, write_users

from separatrix import Session
from separatrix.reader import read
from separatrix_dashboards.views.registry import VIEWS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux"),
]

CONFIG = {"system": {"kind": "hummer-szabo"}, "committor": {"members": 1}, "sampling": {"steps": 100_000}}
PAGES = ["", "new", "compare?runs=first,second", *(f"run?name=first&tab={view}" for view in VIEWS)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with two runs, each with a model."""
    folder = tmp_path_factory.mktemp("made") / "runs"
    Session.create(folder / "first", CONFIG).run(60, workers=0, platform="Reference", progress=False)
    shutil.copytree(folder / "first", folder / "second")
    return folder


@pytest.fixture
def runs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def users(tmp_path):
    """Return a file of users, all operators, and what makes somebody a viewer."""
    file = write_users(tmp_path / "users.toml", anna="operator", ben="viewer")
    return file, partial(write_users, file)


# -- everything that can be sent ---------------------------------------------------------------------------------------


def kinds_of_events():
    """Return the names of all kinds of events of a model, with the values that each takes."""
    assert panel_material_ui
    kinds = {}
    for name, kind in events._CONCRETE_EVENT_CLASSES.items():
        taken = [one for one in inspect.signature(kind.__init__).parameters if one not in ("self", "model", "kwargs")]
        if issubclass(kind, events.ModelEvent):
            kinds[name] = taken
    return kinds


def nodes():
    """Return the parts of components whose events are taken by a method."""
    found, classes = {"msg", "click", "button"}, [ReactiveESM]
    while classes:
        each = classes.pop()
        classes += each.__subclasses__()
        found |= {name.removeprefix("_handle_") for name in dir(each) if name.startswith("_handle_")}
    return sorted(found)


KINDS, NODES = kinds_of_events(), nodes()
DATA = [
    "click",
    True,
    1,
    {"type": "map", "entries": [["type", "click"]]},
    {"type": "map", "entries": [["event", "click"], ["data", 1]]},
]


def events_of(model):
    """Return every event that can be sent of a model."""
    target = {"id": model}
    for name, taken in KINDS.items():
        if set(taken) >= {"node", "data"}:
            for node in NODES:
                yield event(name, model=target, node=node, data=DATA[3])
        elif "data" in taken:
            for data in DATA:
                yield event(name, model=target, data=data)
        else:
            yield event(name, model=target, **dict.fromkeys(taken, 0))


OTHERS = [True, 1, "x", None]


def changes_of(model, name, attributes, definitions):
    """Return changes of every property of a model."""
    known = Model.model_class_reverse_map.get(name)
    properties = (
        set(attributes) | set(definitions.get(name, ())) | (set() if known is None else set(known.properties()))
    )
    for each in sorted(
        properties - {"name", "tags", "js_event_callbacks", "subscribed_events", "js_property_callbacks"}
    ):
        current = attributes.get(each)
        if isinstance(current, bool):
            values = [not current]
        elif isinstance(current, int | float):
            values = [current + 1]
        elif each in ("children", "data", "source", "renderers", "esm", "stylesheets", "styles"):
            continue
        else:
            values = OTHERS if each in _CONTROLS else OTHERS[:2]
        for value in values:
            yield changed(model, each, value)


_CONTROLS = {
    "value",
    "value_input",
    "value_throttled",
    "active",
    "clicks",
    "selected",
    "data",
    "text",
    "object",
    "enter_pressed",
}


async def barrage(page, *, changes=True):
    """Send everything that can be sent of a page, each in a message of its own; return how much that was."""
    definitions, number = page.definitions(), 0
    for each, name, attributes in page.models():
        for one in events_of(each):
            await page.patch(one)
            number += 1
        if changes:
            for one in changes_of(each, name, attributes, definitions):
                await page.patch(one)
                number += 1
        if number % 50 == 0:
            await page.done()
    await page.done()
    return number


async def shelled(server, address, cookie="", act=None):
    """Open a page, have something done meanwhile, send everything; return how much that was."""
    async with Forger(server.url, address, {"Cookie": cookie} if cookie else {}) as page:
        if act is not None:
            act()
        number = await barrage(page)
        await page.settled(1.0)
        return number


# -- who may not -------------------------------------------------------------------------------------------------------


def untouched(server, before):
    """Assert that nothing was made, begun or changed."""
    assert not server.children
    assert server.fingerprint() == before
    assert "Traceback" not in server.text, "whoever sends nonsense could fill the log"
    assert sorted(path.name for path in server.runs.iterdir()) == ["first", "second"]


@pytest.mark.parametrize("address", PAGES)
def test_an_operator_who_is_one_no_more_controls_nothing(runs, users, address):
    file, write = users
    with Attacked(runs, "--auth", file) as server:
        cookie, before = server.sign_in("anna", PASSWORD)[1], server.fingerprint()
        demote = lambda: write(anna="viewer", ben="viewer")  # noqa: E731
        number = asyncio.run(shelled(server, address, cookie, demote))
        print(f"{address or 'home'}: {number:,} messages")  # noqa: T201
        assert number > 1_000
        untouched(server, before)


@pytest.mark.parametrize("mode", ["viewer", "read-only", "demo"])
def test_a_viewer_controls_nothing(runs, users, mode):
    file, _ = users
    arguments = {"viewer": ["--auth", file], "read-only": ["--read-only"], "demo": ["--demo", "--max-workers", 1]}[mode]
    with Attacked(runs, *arguments) as server:
        cookie = server.sign_in("ben", PASSWORD)[1] if mode == "viewer" else ""
        before = server.fingerprint()
        for address in PAGES:
            if (mode == "demo" and address in ("", "new")) or address == "new":
                continue  # in a demo anybody may begin a session of their own; viewers have no form
            number = asyncio.run(shelled(server, address, cookie))
            print(f"{mode}, {address or 'home'}: {number:,} messages")  # noqa: T201
        untouched(server, before)


@pytest.mark.parametrize("address", ["new", "run?name=first&tab=live", "run?name=first&tab=mechanism"])
def test_the_same_from_an_operator_controls_something(runs, users, address):
    file, _ = users
    with Attacked(runs, "--auth", file) as server:
        cookie, before, begun = server.sign_in("anna", PASSWORD)[1], server.fingerprint(), []

        async def play():
            async with Forger(server.url, address, {"Cookie": cookie}) as page:
                sending = asyncio.create_task(barrage(page, changes=False))
                while not sending.done():
                    begun.extend(server.children)
                    await asyncio.sleep(0.2)
                await sending

        asyncio.run(play())
        assert begun or server.fingerprint() != before, "else the others' silence would mean nothing"


def test_an_open_page_keeps_watching_while_it_is_shelled(runs):
    async def play(server):
        async with Forger(server.url, "run?name=first") as quiet:
            sending = asyncio.create_task(shelled(server, "run?name=second&tab=committor"))
            slowest, number = 0.0, 0
            while not sending.done():
                begun = time.monotonic()
                await quiet.done()
                slowest, number = max(slowest, time.monotonic() - begun), number + 1
                await asyncio.sleep(0.1)
            print(f"slowest of {number} answers to another page: {slowest:.2f} s; {await sending:,} messages")  # noqa: T201
            assert slowest < 20
            assert quiet.steps == 60

    with Attacked(runs) as server:
        asyncio.run(asyncio.wait_for(play(server), 600))
        assert read(runs / "first").status().steps == 60
