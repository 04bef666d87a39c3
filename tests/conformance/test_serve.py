"""`separatrix serve` keeps its promises: who gets in, who may control, what other sites may do, and how it ends.

Run as a program, this file starts servers in processes of their own: it has loaded all there is to load and forks for
each, so that imports are paid for once. Their pages are stand-ins of a few lines; everything else is the real thing.
"""

from __future__ import annotations

import contextlib
import getpass
import http.cookiejar
import http.server
import importlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.parse
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import psutil
import pytest
from bokeh.client import ClientSession, connection
from bokeh.document import Document
from bokeh.util.token import generate_jwt_token, generate_session_id, get_session_id, get_token_payload
from tornado.httpclient import HTTPError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

from separatrix.cli import main as command_line
from separatrix.errors import SeparatrixError
from separatrix.reader import Reader
from separatrix.records import RunState
from separatrix.session import Session
from separatrix.store import Store
from separatrix_dashboards.access import Role, Users, add_user, hash_password

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")

SYSTEM = {"system": {"kind": "hummer-szabo"}, "sampling": {"chains": 2}, "committor": {"members": 1}}
NOTHING_ELSE = "base-uri 'self'; form-action 'self'; object-src 'none'"
PATIENCE = 60.0
STOP_SECONDS = 15.0
CHEAP = (2, 8, 1)
PASSWORD = "correct horse"  # noqa: S105
USERS = {"anna": "operator", "ben": "viewer"}
LOOK = "/control?action=look&run=first"


# -- servers -----------------------------------------------------------------------------------------------------------


class Starter:
    """Starts `separatrix` command lines, each in a session of processes of its own."""

    def __init__(self, folder):
        self.output = folder / "output"
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def start(self, *arguments, **environment):
        """Start a command line; return its process number, which its processes have in common as session."""
        self.process.stdin.write(json.dumps([str(self.output), environment, *map(str, arguments)]) + "\n")
        return int(self.process.stdout.readline())

    def wait(self, process):
        """Wait for the end of a process; return its exit code, negative for a signal."""
        self.process.stdin.write(f"{process}\n")
        return int(self.process.stdout.readline())

    def text(self, process):
        """Return all that a process wrote, to standard output or error."""
        file = self.output.with_suffix(f".{process}")
        return file.read_text() if file.exists() else ""

    def run(self, *arguments, **environment):
        """Run a command line to its end; return its exit code and what it wrote."""
        process = self.start(*arguments, **environment)
        return self.wait(process), self.text(process)


class Served:
    """A server that runs."""

    def __init__(self, starter, *arguments, quiet=True, **environment):
        self.starter, self.quiet = starter, quiet
        self.process = starter.start("serve", *arguments, "--port", 0, **environment)
        self.ended = None
        wait_for(lambda: "serving " in self.text or psutil.Process(self.process).status() == psutil.STATUS_ZOMBIE)
        found = re.search(r"^serving .* at (http://\S+):(\d+)  \(stop with Ctrl-C\)$", self.text, re.MULTILINE)
        assert found, self.text
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def text(self):
        return self.starter.text(self.process)

    def wait(self):
        """Wait for the end of the server; return its exit code."""
        if self.ended is None:
            self.ended = self.starter.wait(self.process)
        return self.ended

    def stop(self):
        """End the server; return its exit code."""
        if self.ended is None:
            os.kill(self.process, signal.SIGTERM)
        return self.wait()


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    made = Starter(tmp_path_factory.mktemp("starter"))
    with made.process:
        yield made
        made.process.stdin.close()


@pytest.fixture
def serve(starter):
    """Return what starts servers; they end with the test."""
    made = []

    def start(*arguments, **options):
        made.append(Served(starter, *arguments, **options))
        return made[-1]

    yield start
    for server in made:
        server.stop()
        assert "Traceback" not in server.text
        assert not server.quiet or not re.search("ERROR|WARNING|warning", server.text), server.text


@pytest.fixture
def runs(tmp_path):
    """Return a folder with one new run."""
    folder = tmp_path / "runs"
    Session.create(folder / "first", SYSTEM)
    return folder


@pytest.fixture
def users(tmp_path):
    """Return a file with an operator and a viewer; their passwords are verified quickly."""
    file, password = tmp_path / "users.toml", hash_password(PASSWORD, CHEAP)
    entries = [f'[users.{name}]\npassword = "{password}"\nrole = "{role}"\n' for name, role in USERS.items()]
    file.write_text("".join(entries))
    file.chmod(0o600)
    return file


def committed(path):
    return Store.open(path).committed.shots


def wait_for(condition, seconds=PATIENCE):
    """Wait until a condition holds, and assert that it does in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.03)


def processes(session):
    """Return the living processes of a session, its leader included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# -- browsers ----------------------------------------------------------------------------------------------------------


class Browser:
    """Keeps cookies and follows redirections, as browsers do."""

    def __init__(self, url):
        self.url = url
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path, form=None, **headers):
        """Return (status, final address, headers, text) of a page; with a form, after sending it."""
        data = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(urllib.parse.urljoin(self.url, path), data, headers)  # noqa: S310
        try:
            with self._opener.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.url, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.url, error.headers, error.read().decode()

    def sign_in(self, name, password=PASSWORD, wanted="/"):
        """Send the form of the login page."""
        return self.get("/login", {"username": name, "password": password, "next": wanted})

    def control(self, action, run="first", **numbers):
        """Press a button; return what the page says."""
        query = urllib.parse.urlencode({"action": action, "run": run, **numbers})
        return title(self.get(f"/control?{query}")[3])

    @property
    def cookie(self):
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)


def title(text):
    return re.search(r"<title>(.*?)</title>", text, re.DOTALL)[1].strip()


def token_of(text):
    return re.search(r'"token":"([^"]+)"', text)[1]


def knock(server, token, *, path="/ws", **headers):
    """Try to open the websocket of a page; return None if it opens, else the status of the answer or "closed"."""

    async def attempt():
        request = HTTPRequest(f"ws://127.0.0.1:{server.port}{path}", headers=headers)
        opened = await websocket_connect(request, subprotocols=["bokeh", token])
        first = await opened.read_message()
        opened.close()
        return None if first is not None else "closed"

    loop = IOLoop(make_current=False)
    try:
        return loop.run_sync(attempt, timeout=PATIENCE)
    except HTTPError as error:
        return error.code
    finally:
        loop.close()


@contextlib.contextmanager
def opened(server, browser, monkeypatch):
    """Open a page for good, as a browser does; yield what asks it to do things and returns its answers."""
    token = token_of(browser.get("/")[3])

    class Page(ClientSession):
        @property
        def token(self):
            return token

    monkeypatch.setattr(connection, "HTTPRequest", partial(HTTPRequest, headers={"Cookie": browser.cookie}))
    page = Page(get_session_id(token), f"ws://127.0.0.1:{server.port}/ws")
    page.pull()
    numbers = iter(range(10**6))

    def ask(*words):
        number = next(numbers)
        page.document.get_model_by_name("command").value = " ".join(map(str, (number, *words)))

        def answer():
            fresh = Document()  # this client drops changes that come between question and answer
            page._connection.pull_doc(fresh)
            return fresh.get_model_by_name("answer").text

        wait_for(lambda: answer().startswith(f"{number} "))
        return answer().partition(" ")[2]

    try:
        yield ask
    finally:
        page.close()


# -- this machine alone ------------------------------------------------------------------------------------------------


def test_without_a_login_this_machine_is_served_and_other_sites_are_not(serve, runs):
    server = serve(runs, BOKEH_RESOURCES="cdn", quiet=False)
    assert server.host == "http://127.0.0.1"
    browser = Browser(server.url)
    status, _, headers, text = browser.get("/", Cookie="secret=1", Authorization="secret")
    assert status == 200
    assert not re.findall(r"https?://(?!127\.0\.0\.1|www\.w3\.org)[^\s\"'<>]+", text), "nothing comes from elsewhere"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == f"frame-ancestors 'self'; {NOTHING_ELSE}"
    token = token_of(text)
    assert "secret" not in str(get_token_payload(token))
    assert browser.control("look") == "None is operator, 0 busy"
    assert browser.get("/login")[0] == 404

    port = server.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        assert knock(server, token, Origin=f"http://{host}") is None
    for origin in ("http://evil.example", f"http://evil.example:{port}", f"http://127.0.0.1:{port + 1}", "null"):
        assert knock(server, token, Origin=origin) == 403
    assert "--allow-origin evil.example" in server.text
    forged = generate_jwt_token(generate_session_id(), extra_payload={"headers": {}, "cookies": {}, "arguments": {}})
    assert knock(server, forged) == 403, "what a page's token says, the server must have said"
    assert browser.get("/components/antigravity/A/__css__/b")[0] == 404, "an address must not import modules"


def test_a_proxy_is_let_in_when_it_is_named(serve, runs):
    server = serve(runs, "--allow-origin", "https://runs.example.org", "--allow-origin", "http://lab:8080")
    _, _, headers, text = Browser(server.url).get("/")
    assert headers["Content-Security-Policy"] == f"frame-ancestors 'self' runs.example.org lab:8080; {NOTHING_ELSE}"
    for origin in ("https://runs.example.org", "http://lab:8080", server.url):
        assert knock(server, token_of(text), Origin=origin) is None


def test_read_only_makes_everybody_a_viewer(serve, runs):
    browser = Browser(serve(runs, "--read-only").url)
    assert browser.control("look") == "None is viewer, 0 busy"
    assert browser.control("start").startswith("PermissionDeniedError: only operators may start runs")


def test_a_server_for_everybody_listens_anywhere_and_nobody_controls_its_runs(serve, runs):
    server = serve(runs, "--demo", "--address", "0.0.0.0", "--max-workers", 1, quiet=False)  # noqa: S104
    assert server.host == f"http://{socket.gethostname()}"
    assert f"for everybody who can reach it: the runs in {runs} to look at, and 1 session of visitors" in server.text
    browser = Browser(server.url)
    assert browser.control("look") == "None is viewer, 0 busy"
    for action in ("start", "stop", "pause"):
        assert browser.control(action).startswith("PermissionDeniedError: only operators may")
    token = token_of(browser.get("/")[3])
    (cookie,) = (cookie for cookie in browser.cookies if cookie.name == "separatrix-visitor")
    assert get_token_payload(token)["cookies"] == {"separatrix-visitor": cookie.value}
    stranger = Browser(server.url)
    stranger.get("/")
    assert cookie.value not in stranger.cookie
    assert knock(server, token, Origin=f"http://127.0.0.1:{server.port}") is None
    assert knock(server, token, Origin="http://evil.example") == 403


# -- the end -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_every_session_with_all_committed(starter, serve, runs, monkeypatch):
    Session.create(runs / "second", SYSTEM)
    server = serve(runs, "--max-workers", 1)
    with opened(server, Browser(server.url), monkeypatch) as ask:
        assert ask("start", "first", 10**6, 1) == "None is operator, 0 busy"
        assert ask("start", "second", 10**6, 1).startswith("None is operator")
        assert ask("start", "first").startswith("RunLockedError: first is ")
        wait_for(lambda: committed(runs / "first") > 0)
        assert ask("look", "first") == "None is operator, 1 busy"
        assert len(processes(server.process)) > 1
        begun = time.monotonic()
        for _ in range(2):
            os.killpg(server.process, signal.SIGINT)
            time.sleep(0.05)
        assert server.wait() == 130, server.text
        assert time.monotonic() - begun < STOP_SECONDS
    wait_for(lambda: not processes(server.process))
    assert server.text.splitlines()[1:] == ["stopping first: committing what is there"]
    assert Reader(runs / "first").status().state is RunState.STOPPED
    assert Reader(runs / "second").status().state is RunState.NEW
    steps = committed(runs / "first")
    code, text = starter.run("run", runs / "first", "--steps", steps + 1, "--workers", 0, "--platform", "Reference")
    assert (code, committed(runs / "first")) == (0, steps + 1), text


@pytest.mark.slow
def test_a_server_killed_twenty_times_at_random_moments_loses_nothing_committed(starter, serve, runs):
    rng, path, hit = random.Random(20), runs / "first", 0  # noqa: S311
    before = Store.open(path).shots()
    for kill in range(20):
        server = serve(runs, "--max-workers", 1, quiet=False)
        Browser(server.url).control("start", steps=10**6, workers=kill % 2)
        had = len(before["q"])
        if kill % 4:
            wait_for(lambda had=had: committed(path) > had)
        time.sleep(rng.uniform(0, 1))
        os.kill(server.process, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        wait_for(lambda server=server: not processes(server.process))
        after = Store.open(path).shots()
        for name, column in before.items():
            assert (after[name][: len(column)] == column).all(), name
        assert Reader(path).status().state in (RunState.INTERRUPTED, RunState.NEW)
        hit += len(after["q"]) > had
        before = after
    assert hit >= 15
    code, text = starter.run("run", path, "--steps", len(before["q"]) + 5, "--workers", 0, "--platform", "Reference")
    assert (code, committed(path)) == (0, len(before["q"]) + 5), text


def test_a_polite_request_to_terminate_is_no_error(serve, runs):
    server = serve(runs)
    browser = Browser(server.url)
    browser.control("start", steps=10**6, workers=0)
    wait_for(lambda: committed(runs / "first") > 0)
    browser.control("pause")
    wait_for(lambda: Reader(runs / "first").status().state is RunState.PAUSED)
    assert server.stop() == 0
    assert Reader(runs / "first").status().state is RunState.STOPPED
    wait_for(lambda: not processes(server.process))


# -- signing in --------------------------------------------------------------------------------------------------------


def test_with_a_login_nothing_is_shown_before(serve, runs, users):
    server = serve(runs, "--auth", users, "--address", "0.0.0.0", quiet=False)  # noqa: S104
    assert server.host == f"http://{socket.gethostname()}"
    assert "warning: passwords and pages travel unencrypted" in server.text
    browser = Browser(server.url)
    assert browser.get("/autoload.js?bokeh-autoload-element=a")[0] == 404
    for path in ("/", LOOK, "/control/"):
        status, address, headers, text = browser.get(path)
        assert (status, urllib.parse.urlsplit(address).path) == (200, "/login"), path
        assert headers["Cache-Control"] == "no-store"
        assert "token" not in text
        assert "http" not in text, "nothing comes from elsewhere"
    for part in ('autocomplete="username"', 'autocomplete="current-password"', "prefers-color-scheme: dark"):
        assert part in text
    assert f'name="next" value="{LOOK.replace("&", "&amp;")}"' in browser.get(LOOK)[3]

    status, _, _, text = browser.sign_in("anna", "wrong password")
    assert (status, list(browser.cookies)) == (401, [])
    assert "Wrong name or password." in text
    assert 'value="anna"' in text
    assert "wrong password" not in text

    status, address, _, text = browser.sign_in("anna", wanted=LOOK)
    assert (status, address, title(text)) == (200, server.url + LOOK, "anna is operator, 0 busy")
    assert all(cookie.has_nonstandard_attr("HttpOnly") for cookie in browser.cookies)
    assert {cookie.get_nonstandard_attr("SameSite") for cookie in browser.cookies} == {"Lax"}

    token, path = token_of(text), "/control/ws"
    assert set(get_token_payload(token)["cookies"]) == {"user"}
    assert knock(server, token, path=path) == 403, "a websocket needs the cookie as well"
    assert knock(server, token, path=path, Cookie="is_guest=1; user=anna") == 403
    assert knock(server, token, path=path, Cookie=browser.cookie) is None
    assert knock(server, token, path=path, Cookie=browser.cookie, Origin="http://evil.example") == 403
    assert browser.get("/logout")[0] == 200
    assert not list(browser.cookies)
    assert browser.get("/")[1].startswith(f"{server.url}/login")


def test_a_viewer_finds_every_control_refused_and_so_does_who_was_an_operator(serve, runs, users, monkeypatch):
    server = serve(runs, "--auth", users)
    anna, ben = Browser(server.url), Browser(server.url)
    anna.sign_in("anna")
    ben.sign_in("ben")
    for action in ("start", "pause", "resume", "stop"):
        assert ben.control(action).startswith("PermissionDeniedError: only operators may")
    with opened(server, ben, monkeypatch) as ask:
        assert ask("start", "first").startswith("PermissionDeniedError: only operators may start runs")
        assert ask("look", "first") == "ben is viewer, 0 busy"
    with opened(server, anna, monkeypatch) as ask:
        assert ask("look", "first") == "anna is operator, 0 busy"
        users.write_text(users.read_text().replace("operator", "viewer"))
        assert ask("start", "first").startswith("PermissionDeniedError"), "an open page keeps no rights"
        users.write_text(users.read_text().replace("users.anna", "users.carl"))
        assert ask("look", "first") == "anna is viewer, 0 busy"
    add_user(users, "dora", Role.OPERATOR, "dora's password")
    dora = Browser(server.url)
    dora.sign_in("dora", "dora's password")
    with opened(server, dora, monkeypatch) as ask:
        assert ask("look", "first") == "dora is operator, 0 busy"
        add_user(users, "dora", Role.OPERATOR, "another password")
        assert ask("look", "first") == "dora is viewer, 0 busy", "nor under a password that is no more"
        assert ask("start", "first").startswith("PermissionDeniedError")
    assert anna.get("/")[1].startswith(f"{server.url}/login"), "who is taken out of the file is out"
    add_user(users, "ben", Role.OPERATOR, "another password")
    assert ben.get("/")[1].startswith(f"{server.url}/login"), "a new password ends what the old one opened"
    assert committed(runs / "first") == 0


def test_guessing_is_slowed_down_and_other_sites_do_not_sign_in(serve, runs, users):
    server = serve(runs, "--auth", users, quiet=False)
    browser = Browser(server.url)
    form = {"username": "anna", "password": PASSWORD}
    assert browser.get("/login", form, Origin="http://evil.example")[0] == 403
    assert not list(browser.cookies)
    codes = [browser.sign_in("anna", f"guess {number}")[0] for number in range(8)]
    assert (codes[0], codes[-1]) == (401, 429)
    status, _, headers, text = browser.sign_in("anna")
    assert status == 429, "the right password is of no use while one must wait"
    assert 1 <= int(headers["Retry-After"]) <= 4
    assert "Too many attempts. Try again in " in text
    assert [browser.sign_in("nobody", f"guess {number}")[0] for number in range(8)][-1] == 429
    assert Browser(server.url).sign_in("ben")[0] == 200, "others come in"
    time.sleep(int(headers["Retry-After"]))
    assert title(browser.sign_in("anna", wanted=LOOK)[3]) == "anna is operator, 0 busy"
    assert "wrong name or password for 'anna' from 127.0.0.1" in server.text
    for strange in ("//evil.example/", "https://evil.example/", "/\\evil.example", "evil.example", "/a\r\nb: c"):
        assert browser.sign_in("ben", wanted=strange)[1] == f"{server.url}/"


class Provider(http.server.BaseHTTPRequestHandler):
    """An OAuth provider that lets in whom it is told to."""

    user = "anna@example.org"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        given = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/authorize":
            self.send_response(302)
            answer = {"code": "code", "state": given["state"]} if self.user else {"error": "<b>denied</b>"}
            self.send_header("Location", f"{given['redirect_uri']}?{urllib.parse.urlencode(answer)}")
            self.end_headers()
        else:
            self._answer({"email": self.user})

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        assert (form["client_id"], form["client_secret"], form["code"]) == ("key", "secret", "code")
        self._answer({"access_token": "access"})

    def log_message(self, *_):
        pass

    def _answer(self, data):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())


@pytest.fixture
def provider(monkeypatch):
    """Return the address of an OAuth provider, and what tells it whom to let in."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", partial(monkeypatch.setattr, Provider, "user")
    server.shutdown()
    thread.join()
    server.server_close()


def test_with_oauth_the_listed_come_in(serve, runs, tmp_path, provider):
    url, let_in = provider
    users = tmp_path / "users.toml"
    add_user(users, "anna@example.org", Role.OPERATOR, None)
    add_user(users, "ben@example.org", Role.VIEWER, None)
    addresses = {f"PANEL_OAUTH_{name}_URL": f"{url}/{name.lower()}" for name in ("AUTHORIZE", "TOKEN", "USER")}
    client = {"PANEL_OAUTH_KEY": "key", "PANEL_OAUTH_SECRET": "secret"}
    server = serve(runs, "--auth", users, "--oauth-provider", "generic", quiet=False, **addresses, **client)

    def come(user):
        let_in(user)
        browser = Browser(server.url)
        status, _, _, text = browser.get(LOOK)
        return browser, status, text

    anna, status, text = come("anna@example.org")
    assert (status, title(text)) == (200, "anna@example.org is operator, 0 busy")
    assert set(get_token_payload(token_of(text))["cookies"]) == {"user"}, "no access token lies in a page"
    assert title(come("ben@example.org")[2]) == "ben@example.org is viewer, 0 busy"
    stranger, status, text = come("stranger@example.org")
    assert (status, "token" in text) == (403, False)
    assert stranger.get("/autoload.js?bokeh-autoload-element=a")[0] == 404
    assert knock(server, token_of(anna.get("/")[3]), Cookie=stranger.cookie) == 403
    _, status, text = come(None)
    assert (status, title(text)) == (401, "Not signed in · Separatrix")
    assert "<b>" not in text
    assert "http" not in text, "nothing comes from elsewhere"
    anna.get("/logout")
    assert not list(anna.cookies)


# -- the command line --------------------------------------------------------------------------------------------------


def say(*arguments):
    """Run a command line in this process; return its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        command_line([str(argument) for argument in arguments])
    return end.value.code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected a folder of runs: separatrix serve DIR"),
        (["{runs}", "--address", "0.0.0.0"], "separatrix serve {runs} --address 0.0.0.0 --auth users.toml"),  # noqa: S104
        (["{runs}", "--address", "192.0.2.1"], "separatrix serve --add-user NAME --role operator --auth users.toml"),
        (["{runs}", "--address", "192.0.2.1", "--auth", "{users}"], "this machine has no such address"),
        (["{runs}", "--auth", "{runs}/none.toml"], "none.toml: expected a file of users, found nothing"),
        (["{runs}", "--oauth-provider", "github"], "expected --oauth-key and --oauth-secret"),
        (
            ["{runs}", "--oauth-provider", "github", "--oauth-key", "k", "--oauth-secret", "s"],
            "expected --auth FILE with the users who may come in",
        ),
        (["{runs}/a/b"], "expected a folder with runs, or a new name in a folder that is there"),
        (["{users}"], "expected a folder with runs, found a file"),
        (["{runs}", "--port", "65536"], "--port: expected 0 to 65535, got 65536"),
        (["{runs}", "--max-workers", "0"], "--max-workers: expected 1 or more, got 0"),
        (["{runs}", "--allow-origin", "*"], "--allow-origin: expected an address such as https://"),
        (["--add-user", "anna"], "--add-user anna: expected --auth FILE"),
        (["{runs}", "--demo", "--auth", "{users}"], "--demo does not go together with --auth: everybody may look"),
        (["{runs}", "--demo", "--read-only"], "--demo does not go together with --read-only: nobody may control"),
        (["{runs}", "--demo", "--start", "hummer-szabo"], "--demo does not go together with --start: its workers are"),
        (
            ["{runs}", "--demo", "--oauth-provider", "github", "--oauth-key", "k", "--oauth-secret", "s"],
            "--demo does not go together with --oauth-provider: everybody may look",
        ),
        (["{runs}", "--demo", "--max-workers", "0"], "--max-workers: expected 1 or more, got 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(runs, users, monkeypatch, arguments, says):
    for name in ("PROVIDER", "KEY", "SECRET"):
        monkeypatch.delenv(f"PANEL_OAUTH_{name}", raising=False)
    places = {"runs": runs, "users": users}
    code, out, err = say("serve", *(argument.format(**places) for argument in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says.format(**places) in err
    assert sorted(path.name for path in runs.iterdir()) == ["first"]


def test_a_port_that_is_taken_is_refused_at_once(runs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = say("serve", runs, "--port", port)
    assert (code, err) == (2, f"error: port {port} of 127.0.0.1 is taken; choose another: --port {port + 1}\n")


def test_an_unknown_oauth_provider_is_refused(starter, runs, tmp_path):
    users = tmp_path / "users.toml"
    add_user(users, "*", Role.VIEWER, None)
    client = ("--oauth-key", "k", "--oauth-secret", "s")
    code, text = starter.run("serve", runs, "--auth", users, "--oauth-provider", "gihtub", *client, "--port", 0)
    assert code == 2
    assert re.fullmatch(r"error: --oauth-provider: expected one of .*github.*, got 'gihtub'\n", text)


def test_a_folder_that_is_not_there_is_made(serve, tmp_path):
    server = serve(tmp_path / "new")
    assert (tmp_path / "new").is_dir()
    assert Browser(server.url).get("/")[0] == 200


def test_users_are_added_from_the_command_line(tmp_path, monkeypatch):
    file = tmp_path / "users.toml"
    add = ("serve", "--auth", file, "--add-user")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\nno more\n"))
    code, out, _ = say(*add, "anna", "--role", "operator")
    assert (code, out) == (0, f"added anna in {file}: operator, signs in with a password\n")
    assert Users(file).verify("anna", PASSWORD).role is Role.OPERATOR
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert say(*add, "ben") == (2, "", "error: password: expected 8 characters or more, got 5\n")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    typed = iter(["first password", "other password", PASSWORD, PASSWORD])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    assert say(*add, "ben")[2] == "error: the two passwords differ; nothing was written\n"
    assert len(Users(file)) == 1
    assert say(*add, "ben")[1].startswith("added ben")
    assert Users(file).find("ben").role is Role.VIEWER
    assert say(*add, "*", "--oauth-provider", "github")[1].startswith("added *")
    assert say(*add, "anna", "--oauth-provider", "github")[1].endswith("viewer, signs in through OAuth\n")


def test_no_other_command_waits_for_the_pages():
    code = (
        "import sys\n"
        "from separatrix.cli import main\n"
        "for arguments in (['--help'], ['serve', '--help'], ['systems']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert not end.code\n"
        "sys.exit(','.join({'panel', 'bokeh', 'tornado', 'torch'} & set(sys.modules)) or 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Serve live pages of the runs in a folder" in " ".join(run.stdout.split())


# -- the program -------------------------------------------------------------------------------------------------------


def stand_in_routes(workspace):
    """Return pages that tell who looks, and do what they are asked to."""
    import panel as pn  # noqa: PLC0415 - the tests themselves draw nothing
    from bokeh.models import Div, TextInput  # noqa: PLC0415

    def obey(action, run, steps=None, workers=None):
        numbers = {name: int(number) for name, number in (("steps", steps), ("workers", workers)) if number is not None}
        numbers |= {"platform": "Reference"} if action == "start" else {}
        try:
            if action != "look":
                getattr(workspace.pool, action)(workspace.folder / run, role=workspace.role(), **numbers)
        except SeparatrixError as error:
            return f"{type(error).__name__}: {error}"
        return f"{workspace.user()} is {workspace.role()}, {workspace.pool.busy_workers} busy"

    def home():
        command, answer = TextInput(name="command"), Div(name="answer")

        def changed(_attribute, _old, words):
            number, *asked = words.split()
            answer.text = f"{number} {obey(*asked)}"

        command.on_change("value", changed)
        for model in (command, answer):
            pn.state.curdoc.add_root(model)

    def control():
        given = {name: values[0].decode() for name, values in pn.state.session_args.items()}
        pn.state.curdoc.title = obey(**given) if given else "nothing to do"

    return {"/": home, "/control": control}


def main():
    """Start a command line for each list of arguments read, and wait for a process for each number."""
    from separatrix import preparing  # noqa: PLC0415 - the tests themselves run nothing

    pages = types.ModuleType("separatrix_dashboards.pages")
    pages.routes = stand_in_routes
    sys.modules["separatrix_dashboards.pages"] = pages
    for module in ("panel.io.server", "separatrix_dashboards.sessions", "separatrix_dashboards.login"):
        importlib.import_module(module)
    preparing._MEASURE_SECONDS = 0.1  # every start would wait for it
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(request, 0)[1])
        elif (answer := os.fork()) == 0:
            os.setsid()
            output, environment, *sys.argv[1:] = request
            os.environ.update(environment)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            file = os.open(f"{output}.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1)
            os.dup2(file, 2)
            command_line()
            return
        os.write(1, f"{answer}\n".encode())


if __name__ == "__main__":
    main()
