"""Websockets of a real server take any message: none fails it, fills it, or makes it tell what is its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import secrets
import time
from pathlib import Path

import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id, get_session_id, get_token_payload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attacked import PATIENCE, Attacked, Forger, changed, event, greeted, header, left, opened, token_of, whole
from tests.users import PASSWORD, write_users
from tornado.websocket import WebSocketClosedError

from separatrix import Session
from separatrix_dashboards.doors import MAX_BUFFERS, MAX_EVENTS, MAX_MESSAGE, MAX_MODELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at memory as Linux tells it"),
]

USERS = {"anna": "operator", "ben": "viewer"}
KEY = bytes(range(32))
KNOWN_KEY = "import secrets\nsecrets.token_bytes = lambda n: bytes(range(n))"
GROWTH = 150 * 2**20
EMPTY = ("{}", json.dumps({"events": []}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of runs with one in it."""
    made = tmp_path_factory.mktemp("attacked") / "runs"
    config = {"system": {"kind": "hummer-szabo"}, "committor": {"members": 1}}
    Session.create(made / "first", config).run(12, workers=0, platform="Reference", progress=False)
    return made


@pytest.fixture(scope="module")
def server(folder):
    """Return a server without logins, whose pages sign with a key that is known here."""
    with Attacked(folder, first=KNOWN_KEY) as made:
        yield made
    assert "Traceback" not in made.text, made.text[-3000:]


@pytest.fixture
def signed(folder, tmp_path):
    """Return a server with logins, and its file of users."""
    with Attacked(folder, "--auth", write_users(tmp_path / "users.toml", **USERS)) as made:
        yield made


def patch(*events):
    return [header(), "{}", json.dumps({"events": list(events)})]


async def sent(server, token, parts):
    """Send parts of messages to a page; return (kind, content) of what it answers, and whether it was closed."""
    socket = await opened(server, token, "run/ws")
    await greeted(socket)
    said, closed = [], False
    with contextlib.suppress(WebSocketClosedError):
        for part in [*parts, header(msgtype="PULL-DOC-REQ", msgid="last"), "{}", "{}"]:
            await socket.write_message(part, binary=isinstance(part, bytes))
    while not closed and (not said or said[-1][0] != "PULL-DOC-REPLY"):
        message = await whole(socket)
        closed = message is None
        said += [message] * (not closed)
    await left(socket, closed=closed)
    return said, closed


# -- any message -------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("PATCH-DOC", "PULL-DOC-REQ", "PUSH-DOC", "ACK", "OK", "ERROR", "SERVER-INFO-REQ", "PULL-DOC-REPLY"),
        *("ModelChanged", "RootAdded", "RootRemoved", "TitleChanged", "ColumnsStreamed", "ColumnsPatched"),
        *("MessageSent", "bokeh_event", "ref", "object", "map", "set", "bytes", "ndarray", "slice", "number", "nan"),
        *("event", "button_click", "data_event", "Plot", "CustomJS", "Figure", "ColumnDataSource", "p1001", "p1002"),
        *("value", "data", "clicks", "../../etc/passwd"),
    ]
)
KEYS = st.sampled_from(
    [
        *("events", "kind", "model", "attr", "new", "id", "type", "name", "attributes", "msg_type", "msg_data"),
        *("values", "data", "array", "shape", "dtype", "order", "entries", "doc", "roots", "title", "num_buffers"),
        *("msgid", "msgtype"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | WORDS, inner, max_size=5),
    max_leaves=12,
)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {"kind": WORDS},
        optional=dict.fromkeys(
            ("model", "attr", "new", "msg_type", "msg_data", "title", "data", "patches", "rollover"), JSON
        ),
    ),
    max_size=3,
)
PATCHES = EVENTS.map(lambda events: patch(*events))
ANY = st.lists(JSON.map(json.dumps) | st.text(max_size=40) | st.binary(max_size=60), min_size=1, max_size=5)
WITH_BUFFERS = st.tuples(JSON, st.integers(0, 3), st.binary(max_size=40)).map(
    lambda given: [
        header(num_buffers=given[1]),
        "{}",
        json.dumps({"events": [], "x": given[0]}),
        '{"id": "a"}',
        given[2],
    ]
)


def test_thousands_of_messages_change_nothing_and_are_told_nothing(server):
    before, page = server.fingerprint(), [("", 0.0)]

    @settings(max_examples=1_500, database=None, suppress_health_check=list(HealthCheck))
    @given(PATCHES | ANY | WITH_BUFFERS)
    def one(parts):
        if page[0][1] < time.monotonic():  # its token is good for five minutes
            page[0] = token_of(server.get("run?name=first")[2]), time.monotonic() + 60
        said, _ = asyncio.run(asyncio.wait_for(sent(server, page[0][0], parts), PATIENCE))
        told = [content for kind, content in said if kind == "ERROR"]
        assert not server.given_away(*told), (parts, told)

    one()
    assert server.fingerprint() == before
    assert not server.children
    asyncio.run(still_right(server))


async def still_right(server):
    """Assert that pages are what they were, and answer clicks."""
    async with Forger(server.url, "run?name=first") as page:
        assert page.steps == 12
        await page.done()
        assert not page.errors


# -- much of everything ------------------------------------------------------------------------------------------------


def packed(size):
    return base64.b64encode(gzip.compress(bytes(size))).decode()


def bytes_of(data):
    return changed("p1001", "tags", [{"type": "bytes", "data": data}])


def models(number):
    return changed("p1001", "tags", [{"type": "object", "name": "Plot", "id": f"x{place}"} for place in range(number)])


def buffers(number, size):
    parts = [header(num_buffers=number), "{}", EMPTY[1]]
    for place in range(min(number, MAX_MESSAGE // size + 3)):
        parts += [json.dumps({"id": str(place)}), bytes(size)]
    return parts


WIDE = {"type": "ndarray", "array": ["a"] * 4, "dtype": "U500000000", "shape": [4], "order": "little"}

MUCH = {
    "packed bytes": lambda: patch(bytes_of(packed(2**30))),
    "wide items": lambda: patch(changed("p1001", "tags", [WIDE])),
    "a large part": lambda: ["x" * (MAX_MESSAGE + 1)],
    "a large message": lambda: [header(), json.dumps("x" * (MAX_MESSAGE // 2)), json.dumps("x" * (MAX_MESSAGE // 2))],
    "large buffers": lambda: buffers(MAX_BUFFERS, 2**18),
    "buffers without number": lambda: buffers(10**9, 2**10),
    "fewer than no buffers": lambda: [header(num_buffers=-1), *EMPTY, '{"id": "a"}', b"a"],
    "half a buffer": lambda: [header(num_buffers=0.5), *EMPTY, '{"id": "a"}', b"a"],
    "models without number": lambda: patch(models(20_000)),
    "a few too many models": lambda: patch(models(MAX_MODELS + 1)),
    "events without number": lambda: patch(*[event("button_click", model={"id": "p1001"})] * (MAX_EVENTS + 1)),
    "deep": lambda: [header(), "{}", "[" * 1_000_000],
    "rather deep": lambda: [header(), "{}", '{"events": ' + "[" * 500 + "]" * 500 + "}"],
    "another document": lambda: [header(msgtype="PUSH-DOC"), "{}", json.dumps({"doc": {"roots": [], "title": "a"}})],
    "an answer": lambda: [header(msgtype="ACK"), "{}", "{}"],
    "no words": lambda: [b"\0\1\2", b"\xff" * 100],
    "no list": lambda: [header(), "{}", json.dumps({"events": {"a": 1}})],
    "no header": lambda: ["[]", "{}", "{}"],
}


@pytest.mark.parametrize("much", MUCH)
def test_what_no_browser_sends_ends_its_websocket_and_costs_nothing(server, much):
    token = token_of(server.get("run?name=first")[2])
    before, begun = server.peak(), time.monotonic()
    said, closed = asyncio.run(asyncio.wait_for(sent(server, token, MUCH[much]()), PATIENCE))
    assert closed
    assert not said
    assert server.peak() - before < GROWTH
    asyncio.run(still_right(server))
    assert time.monotonic() - begun < PATIENCE


@pytest.mark.parametrize(
    "change",
    [
        changed("nowhere", "value", 1),
        changed("p1001", "no_such_property", 1),
        {"kind": "ModelChanged"},
        {"kind": "Nothing"},
        event("no_such_event"),
        event("button_click", model=7),
    ],
)
def test_what_cannot_be_done_is_told_without_how_it_went_wrong(server, change):
    token = token_of(server.get("run?name=first")[2])
    (kind, content), *_ = asyncio.run(sent(server, token, patch(change)))[0]
    assert kind == "ERROR"
    assert json.loads(content) == {"text": "this could not be done", "traceback": None}


def test_a_message_before_the_greeting_is_no_error(server):
    token = token_of(server.get("run?name=first")[2])

    async def hurry():
        for _ in range(20):
            socket = await opened(server, token, "run/ws")
            for part in ("{}", "{}", "{}", b"\0"):
                await socket.write_message(part, binary=isinstance(part, bytes))
            await left(socket)

    asyncio.run(hurry())
    asyncio.run(still_right(server))


# -- tokens ------------------------------------------------------------------------------------------------------------


def refused(server, token, **headers):
    """Return the code with which a websocket is refused; None if it opens."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    greeting = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    named = {"Sec-WebSocket-Protocol": f"bokeh, {token}"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        connection.putrequest("GET", "/ws")
        for name, value in (greeting | named | headers).items():
            connection.putheader(name, value.encode())
        connection.endheaders()
        code = connection.getresponse().status
    return None if code == http.HTTPStatus.SWITCHING_PROTOCOLS else code


def test_tokens_cannot_be_guessed_changed_or_kept(server):
    token = token_of(server.get("")[2])
    body, _, signature = token.partition(".")
    session, payload = get_session_id(token), get_token_payload(token)
    assert len(session.partition(".")[0]) == 44, "261 bits"
    assert payload["session_expiry"] <= time.time() + 300
    told = {name: payload[name] for name in ("headers", "cookies", "arguments")}

    def made(key=KEY, session=session, expiration=300, signed=True, **more):
        return generate_jwt_token(
            session, secret_key=key, signed=signed, expiration=expiration, extra_payload=told | more
        )

    assert refused(server, token) is None
    assert refused(server, made()) is None, "else none of the rest would tell anything"
    other = generate_session_id(secret_key=bytes(32), signed=True)
    flipped = ("A" if body[40] != "A" else "B").join([body[:40], body[41:]])
    forged = {
        "another key": made(key=bytes(32)),
        "no signature": made(signed=False),
        "an empty signature": f"{body}.",
        "the signature of nothing": f".{signature}",
        "another's signature": f"{made(session=other).partition('.')[0]}.{signature}",
        "a session of another key": made(session=other),
        "a session without a signature": made(session="a" * 44),
        "a letter changed": f"{flipped}.{signature}",
        "a letter less": token[:-1],
        "over": made(expiration=-1),
        "nothing": "x",
        "no text": "é" * 40,
        "packed zeros": base64.urlsafe_b64encode(gzip.compress(bytes(2**20))).decode().rstrip("=") + "." + signature,
    }
    assert {name: refused(server, each) for name, each in forged.items()} == dict.fromkeys(forged, 403)
    guesses = [f"{secrets.token_urlsafe(200)}.{secrets.token_urlsafe(32)}" for _ in range(200)]
    assert {refused(server, guess) for guess in guesses} == {403}
    lines = [line for line in server.text.splitlines() if "signature" in line or "oken" in line]
    assert not lines, "guesses do not fill the log"


def test_a_token_is_of_no_use_to_another_user(signed):
    anna, ben = (signed.sign_in(name, PASSWORD)[1] for name in USERS)
    token = token_of(signed.get("run?name=first", {"Cookie": anna})[2])
    assert refused(signed, token, Cookie=anna) is None
    assert refused(signed, token, Cookie=ben) == 403
    assert refused(signed, token) == 403


def test_nobody_is_led_into_a_session_of_another(signed):
    anna, ben = (signed.sign_in(name, PASSWORD)[1] for name in USERS)
    token = token_of(signed.get("run?name=first", {"Cookie": ben})[2])
    session = get_session_id(token)
    for address in (f"run?name=first&bokeh-session-id={session}", f"run?name=first&bokeh-token={token}"):
        code, _, text = signed.get(address, {"Cookie": anna})
        assert (code, "token" in text) == (403, False)
    code, _, text = signed.get("run?name=first", {"Cookie": anna, "Bokeh-Session-Id": session})
    assert (code, "token" in text) == (403, False)


def test_pages_of_other_sites_open_no_websocket(signed):
    anna = signed.sign_in("anna", PASSWORD)[1]
    token = token_of(signed.get("", {"Cookie": anna})[2])
    port = signed.port
    assert refused(signed, token, Cookie=anna, Origin=f"http://127.0.0.1:{port}") is None
    for origin in (
        *(
            "http://evil.example",
            f"http://evil.example:{port}",
            f"http://127.0.0.1:{port + 1}",
            "null",
            "",
            "http://[",
            "http://a:b:c",
            "http://a:99999999999",
        ),
        *(f"http://127.0.0.1:{port}@evil.example", f"http://127.0.0.1.evil.example:{port}", f"http://[::1]:{port + 1}"),
    ):
        assert refused(signed, token, Cookie=anna, Origin=origin) == 403, origin
        assert signed.sign_in("anna", PASSWORD, Origin=origin or "null")[0] == 403, origin
