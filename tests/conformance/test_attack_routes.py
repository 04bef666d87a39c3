"""A real server takes any request: no route fails, hangs, gives away what is the machine's own, or leads elsewhere."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import urllib.parse

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attacked import PATIENCE, SECRET, Attacked, token_of
from tests.users import PASSWORD, write_users

from separatrix import Session
from separatrix_dashboards.doors import MAX_BODY

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")

USERS = {"anna": "operator", "ben": "viewer"}
CONFIG = {"system": {"kind": "hummer-szabo"}, "committor": {"members": 1}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with a run, one beside it, a link that leads there, and a file of users."""
    folder = tmp_path_factory.mktemp("attacked") / "runs"
    Session.create(folder / "first", CONFIG).run(12, workers=0, platform="Reference", progress=False)
    shutil.copytree(folder / "first", folder.parent / "outside")
    (folder / "leads-out").symlink_to(folder.parent / "outside")
    (folder.parent / "secret.txt").write_bytes(SECRET)
    (folder / "secret.css").symlink_to(folder.parent / "secret.txt")
    write_users(folder.parent / "users.toml", **USERS)
    return folder


MODES = {
    "open": [],
    "auth": ["--auth", "users.toml"],
    "read-only": ["--read-only"],
    "demo": ["--demo", "--max-workers", "1"],
}


@pytest.fixture(scope="module")
def attacked(runs):
    """Return what starts a server in one of its modes, once."""
    made = {}

    def start(mode):
        if mode not in made:
            arguments = [runs.parent / each if each.endswith(".toml") else each for each in MODES[mode]]
            made[mode] = Attacked(runs, *arguments)
        return made[mode]

    yield start
    for server in made.values():
        server.stop()
        assert "Traceback" not in server.text, server.text[-3000:]


# -- any request -------------------------------------------------------------------------------------------------------

HARM = [
    *("..", "%2e%2e", "..%2f..%2f..", "%00", "%0d%0aSet-Cookie:%20a=b", "//", "\\", "%5c..%5c", "first", "leads-out"),
    *("%c0%ae%c0%ae", "%ff%fe", "%", "%zz", "~", "etc/passwd", "a" * 3_000, "{{7*7}}", "<script>", "'\"", "$(id)", "*"),
    *("%E2%80%AE", ".", "*", "%25%32%65", "file:%2f%2f/etc/passwd", "http://[", "//[", "null", "-1", "1e999", "true"),
]
ROUTES = [
    *("", "run", "compare", "new", "try", "ws", "run/ws", "new/ws", "metadata", "run/metadata", "autoload.js", "admin"),
    *(
        "static/js/bokeh.min.js",
        "static/extensions/panel",
        "static/",
        "components/separatrix_dashboards.pages.home/RunCard",
    ),
    *(
        "components/os/path/_resources",
        "components/sys/modules/css",
        "favicon.ico",
        "login",
        "logout",
        "liveness",
        "rest",
    ),
    *("components/separatrix_dashboards.pages.home/RunCard/_stylesheets", "components/panel.pane/HTML/_bundle_css"),
]
NAMES = [
    *("name", "runs", "tab", "session", "theme", "next", "bokeh-session-id", "bokeh-token", "bokeh-autoload-element"),
    *("bokeh-absolute-url", "bokeh-app-path", "resources", "username", "password", "code", "state", "a", ""),
]
HEADERS = [
    *(
        "Host",
        "Cookie",
        "Origin",
        "Referer",
        "Range",
        "If-None-Match",
        "If-Modified-Since",
        "Accept-Encoding",
        "Upgrade",
    ),
    *(
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Protocol",
        "Bokeh-Session-Id",
        "Expect",
    ),
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Real-Ip", "Transfer-Encoding", "Content-Type", "Authorization", "X"),
]
VALUES = [
    *(
        "",
        "a",
        "127.0.0.1",
        "http://evil.example",
        "http://[",
        "bytes=0-",
        "bytes=9-1,-",
        "websocket",
        "chunked",
        "*/*",
    ),
    *(
        "user=anna; is_guest=1",
        "separatrix-visitor=" + "a" * 32,
        "separatrix-visitor=" + "é" * 32,
        "user=2|1:0|a",
        "=;=;,",
    ),
    *("multipart/form-data; boundary=x", "application/x-www-form-urlencoded; charset=x", "bokeh, a.b.c", "bokeh", "13"),
    *(
        "Upgrade",
        "dGhlIHNhbXBsZSBub25jZQ==",
        "https",
        "1, 2, ::1",
        "100-continue",
        "gzip",
        "é" * 40,
        "a" * 4_000,
        "\x01",
    ),
]
PIECES = st.sampled_from(HARM) | st.text(st.characters(codec="latin-1", exclude_characters="\r\n \x00"), max_size=8)
PATHS = st.tuples(st.sampled_from(ROUTES), st.lists(PIECES, max_size=3)).map(lambda pair: "/".join([pair[0], *pair[1]]))
QUERIES = st.lists(st.tuples(st.sampled_from(NAMES), PIECES), max_size=4).map(
    lambda pairs: "&".join(map("=".join, pairs))
)
BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=200),
    QUERIES.map(lambda query: query.encode("latin-1")),
    st.sampled_from(
        [b"--x\r\n\r\n--x--\r\n", b"0\r\n\r\n", b"a=" * 20_000, b"username=anna&password=%ff", b"{" * 30_000]
    ),
)
REQUESTS = st.tuples(
    st.sampled_from(
        ["GET", "GET", "GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "é"]
    ),
    PATHS,
    QUERIES,
    st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(VALUES), max_size=4),
    BODIES,
)


def answer(server, octets):
    """Send octets to a server; return what it answers, until it ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(octets)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # refused before it was all there
            pass
        parts = []
        try:
            while part := connection.recv(2**16):
                parts.append(part)
        except ConnectionResetError:
            pass
    return b"".join(parts)


def octets_of(method, path, query, headers, body):
    """Return a request as it goes over the wire."""
    given = {"Host": "127.0.0.1", "Content-Length": str(len(body))} | headers | {"Connection": "close"}
    if "websocket" in headers.values():
        given["Connection"] = "Upgrade"
    lines = [f"{method} /{path}?{query} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def bombard(server, times):
    """Send so many requests, and assert that the server stays what it was."""
    cookie = ""
    if "--auth" in server.process.args:
        cookie = server.sign_in("ben", PASSWORD)[1]

    @settings(max_examples=times, database=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS, st.booleans())
    def one(request, known):
        method, path, query, headers, body = request
        if known and cookie:
            headers = {"Cookie": cookie} | headers
        found = answer(server, octets_of(method, path, query, headers, body)).decode("latin-1")
        status = found.split(" ", 2)[1:2]
        assert not status or status[0] < "500", (request, found[:500])
        assert not server.given_away(found), request
        assert "\r\nSet-Cookie: a=b" not in found

    before = server.fingerprint()
    one()
    assert server.fingerprint() == before
    code, headers, text = server.get("run?name=first", {"Cookie": cookie})
    assert (code, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "12</span> of" in text
    assert not server.children


def test_any_request_is_answered_and_changes_nothing(attacked):
    bombard(attacked("auth"), 40)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_thousands_of_requests_are_answered_and_change_nothing(attacked, mode):
    bombard(attacked(mode), 1_000)


# -- what failed, or would ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "address", "code"),
    [
        ("open", "run??", 200),
        ("open", "run?name=first&tab=live?", 200),
        ("open", "run?name=%00", 200),
        ("open", "run?name=" + "a" * 5_000, 200),
        ("open", "run?name=" + "a/" * 3_000, 200),
        ("open", "compare?runs=%00,first", 200),
        ("open", "?bokeh-token=a", 403),
        ("open", "?bokeh-session-id=a", 403),
        ("open", "autoload.js?bokeh-autoload-element=a", 404),
        ("open", "metadata", 404),
        ("open", "components/separatrix_dashboards.pages.home/RunCard/_stylesheets/a", 403),
        ("open", "components/os/path/_resources/a", 404),
        ("auth", "login?next=//[", 200),
        ("auth", "login?next=%FF", 400),
        ("demo", "try?session=%00", 200),
    ],
)
@pytest.mark.slow
def test_no_address_is_an_error_of_the_server(attacked, mode, address, code):
    server = attacked(mode)
    found, headers, text = server.get(address)
    assert found == code
    assert not server.given_away(text)
    assert headers["Content-Security-Policy"].startswith("frame-ancestors 'self'")


@pytest.mark.slow
def test_a_preflight_and_an_origin_that_is_none_are_no_errors(attacked):
    server = attacked("auth")
    for request in (
        b"OPTIONS /autoload.js HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: a\r\nOrigin: http://[\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nOrigin: http://[\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ):
        assert answer(server, request).split(b" ")[1] in (b"400", b"403", b"404", b"405")


@pytest.mark.slow
def test_a_visitor_with_a_name_of_odd_letters_is_given_another(attacked):
    server = attacked("demo")
    request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: separatrix-visitor=" + "é" * 32 + "\r\n\r\n"
    found = answer(server, request.encode("latin-1")).decode("latin-1")
    assert found.startswith("HTTP/1.1 200")
    assert "Set-Cookie: separatrix-visitor=" in found


@pytest.mark.slow
def test_large_bodies_are_refused_before_they_are_taken(attacked):
    server = attacked("auth")
    before = server.peak()
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.putrequest("POST", "/login")
        connection.putheader("Content-Length", str(90 * 2**20))
        connection.endheaders()
        sent = 0
        try:
            for _ in range(90):
                connection.send(bytes(2**20))
                sent += 1
        except OSError:
            pass
        assert sent < 90
        connection.close()
    assert server.peak() - before < 50 * 2**20
    assert server.sign_in("x" * MAX_BODY, "y")[0] == 400
    assert server.sign_in("anna", PASSWORD)[0] == 302


# -- out of the folder -------------------------------------------------------------------------------------------------

LEADING_OUT = [
    *(
        "../outside",
        "..%2Foutside",
        "%2e%2e/outside",
        "first/../../outside",
        "./../outside",
        "..\\outside",
        "leads-out",
    ),
    *("leads-out/", "first%00", "%2e%2e%2foutside%00", "first/../leads-out", "..%252Foutside", "%c0%ae%c0%ae/outside"),
    *(
        "/outside",
        "//outside",
        "file:..%2Foutside",
        "\u2025/outside",
        "\uff0e\uff0e/outside",
        "first/run.zarr",
        ".",
        "",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["open", "demo"])
def test_names_of_runs_do_not_lead_out(attacked, runs, mode):
    server = attacked(mode)
    assert "data-steps" in server.get("run?name=first")[2]
    names = [
        *(urllib.parse.quote(name, safe="%/\\:.") for name in LEADING_OUT),
        urllib.parse.quote(f"{runs.parent}/outside"),
    ]
    for name in names:
        for page in ("run?name=", "compare?runs=", "try?session=", "run?tab=paths&name="):
            code, _, text = server.get(page + name)
            assert code in (200, 404)
            assert "data-steps" not in text, (page, name)
            assert not [mark for mark in server.given_away(text) if mark not in urllib.parse.unquote(name)], (
                page,
                name,
            )


@pytest.mark.slow
def test_static_files_do_not_lead_out(attacked, runs):
    server = attacked("open")
    assert server.get("static/js/bokeh.min.js")[0] == 200
    deep = "/".join([".."] * 12)
    targets = [f"{deep}{place}" for place in ("/etc/passwd", f"{runs.parent}/secret.txt", f"{runs}/secret.css")]
    roots = [
        *("static", "static/js", "static/extensions", "static/extensions/panel", "static/extensions/panel/bundled"),
        *(
            "components",
            "components/separatrix_dashboards.pages.home/RunCard/_stylesheets",
            "components/panel.pane/HTML/css",
        ),
        *(
            "components/separatrix_dashboards.viewer.component/MoleculeViewer/_bundle",
            "components/os/environ/css",
            "run",
            "",
        ),
    ]
    for root in roots:
        for target in targets:
            for path in (
                target,
                urllib.parse.quote(target, safe=""),
                target.replace("..", "%2e%2e"),
                target.replace("/", "%5c"),
            ):
                request = f"GET /{root}/{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
                found = answer(server, request).decode("latin-1")
                # A path that begins with two slashes is none to Tornado, which closes the connection.
                assert not found or found.split(" ", 2)[1] in ("302", "400", "403", "404"), (root, path)
                assert not server.given_away(found), (root, path)


# -- headers -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_answer_says_how_to_be_careful_with_it(attacked, mode):
    server = attacked(mode)
    for address in ("", "run?name=first", "nothing", "static/js/bokeh.min.js", "login", "components/a"):
        _, headers, _ = server.get(address)
        policy = {part.split()[0]: part.split()[1:] for part in headers["Content-Security-Policy"].split(";")}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'self'"]
        assert policy["object-src"] == ["'none'"]
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "same-origin")
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.slow
def test_cookies_are_for_this_site_alone_and_for_https_where_it_is_spoken(attacked):
    auth, demo = attacked("auth"), attacked("demo")
    for spoken in ({}, {"X-Forwarded-Proto": "https"}, {"Origin": f"https://127.0.0.1:{auth.port}"}):
        _, _, headers = auth.sign_in("anna", PASSWORD, **spoken)
        given = [*headers.get_all("Set-Cookie"), *demo.get("", spoken)[1].get_all("Set-Cookie")]
        assert len(given) == 4
        for cookie in given:
            flags = {part.strip().lower() for part in cookie.split(";")[1:]}
            assert {"httponly", "samesite=lax"} <= flags, cookie
            assert ("secure" in flags) == bool(spoken), cookie
    assert PASSWORD not in token_of(demo.get("")[2])
