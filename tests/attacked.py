"""A real `separatrix serve` under attack: what it says, what it holds, whether it lives; and a socket that forges."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from itertools import count
from pathlib import Path

import psutil
from tests.page_client import LARGEST, Page, event, mapping, parts_of
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

PATIENCE = 60.0
SECRET = b"separatrix-secret-of-nobody"
"""Stands in files outside the folder that is served."""


class Attacked:
    """A server in a process of its own.

    Parameters
    ----------
    runs : the folder that it serves
    arguments : further ones of the command line
    first : Python that runs before the command
    """

    def __init__(self, runs, *arguments, first=""):
        self.runs = Path(runs)
        self.log = self.runs.parent / f"log-{time.monotonic_ns()}"
        code = f"{first}\nfrom separatrix.cli import main\nmain()"
        command = [sys.executable, "-c", code, "serve", str(runs), "--port", "0", *map(str, arguments)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+?:(\d+)", line)
        assert found, (line, self.text)
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def text(self):
        """What it wrote to standard error."""
        return self.log.read_text(errors="replace")

    @property
    def children(self):
        """Processes that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def peak(self):
        """Return the most memory that it ever held, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def get(self, address="", headers=None):
        """Return (status, headers, text) of a page; redirections are followed."""
        request = urllib.request.Request(f"{self.url}/{address}", headers=headers or {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    def sign_in(self, name, password, **headers):
        """Send the form; return (status, the cookies as a browser sends them, headers)."""
        form = urllib.parse.urlencode({"username": name, "password": password}).encode()
        request = urllib.request.Request(f"{self.url}/login", form, headers)  # noqa: S310
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=PATIENCE) as answer:
                code, given = answer.status, answer.headers
        except urllib.error.HTTPError as error:
            with error:
                code, given = error.code, error.headers
        cookies = [cookie.partition(";")[0] for cookie in given.get_all("Set-Cookie", [])]
        return code, "; ".join(cookies), given

    def stop(self):
        """End it in order, and assert that it does."""
        with self.process:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(PATIENCE) == 0, self.text[-3000:]

    def fingerprint(self):
        """Return what all files below the folder hold; locks of readers apart."""
        return {
            str(file.relative_to(self.runs)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(self.runs.rglob("*"))
            if file.is_file()
        }

    def given_away(self, *texts):
        """Return what of the machine's own stands in texts that anybody may read."""
        own = (str(self.runs.parent), "site-packages", "Traceback", SECRET.decode(), "scrypt$", "root:x:")
        return [mark for mark in own if any(mark in text for text in texts)]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing, so that cookies are seen."""

    def redirect_request(self, *_):
        return None


class Forger(Page):
    """A page that sends what no browser does.

    Attributes
    ----------
    heard : contents of all messages
    errors : messages that something could not be done
    """

    def __init__(self, url, address, headers=None):
        super().__init__(url, address, headers)
        self.heard, self.errors = [], []
        self._answered, self._ids = asyncio.Event(), count()

    def _note(self, content):
        super()._note(content)
        self.heard.append(content)
        self.changed.set()

    async def _made(self):
        """Say that the page is made, and wait until its parts, which come one after the other, are there."""
        await super()._made()
        await self.settled()

    async def settled(self, seconds=1.5):
        """Wait until nothing came for a while, and take all that is there."""
        quiet = asyncio.get_running_loop().time() + seconds
        end = quiet + PATIENCE
        heard = len(self.heard)
        while (now := asyncio.get_running_loop().time()) < min(quiet, end):
            if len(self.heard) != heard:
                heard, quiet = len(self.heard), now + seconds
            await asyncio.sleep(0.1)
        await self.done()

    async def patch(self, *events):
        """Send changes."""
        await self._send("PATCH-DOC", {"events": list(events)})

    async def done(self):
        """Wait until the server has taken all that was sent."""
        self._pulled.clear()
        await self._send("PULL-DOC-REQ", {})
        await asyncio.wait_for(self._pulled.wait(), PATIENCE)

    def models(self):
        """Return every model of the document: (id, name of its type, attributes that differ from the defaults)."""
        found = {each["id"]: (each["id"], each["name"], each.get("attributes", {})) for each, _ in self._models()}
        return list(found.values())

    def component(self, label):
        """Return the ids of what a browser draws and of what it tells, of the control with a label."""
        for each, owner in self._models():
            if each.get("attributes", {}).get("label") == label:
                return owner, each["id"]
        raise LookupError(label)

    async def press(self, label):
        """Click on a button as browsers tell it of Panel's Material components."""
        model = {"id": self.component(label)[0]}
        await self.patch(event("dom_event", model=model, node="click", data=mapping({"type": "click"})))

    async def give(self, label, octets, **strange):
        """Upload a file, as browsers do in one piece."""
        told = {"status": "upload_event", "chunk": 1, "name": "a.toml", "total_chunks": 1, "mime_type": ""} | strange
        told["data"] = {"type": "bytes", "data": {"id": "file"}}
        model = {"id": self.component(label)[0]}
        begun, done = (event("data_event", model=model, data=mapping(each)) for each in (told, {"status": "finished"}))
        for part in (header(num_buffers=1), "{}", json.dumps({"events": [begun]}), '{"id": "file"}', octets):
            await self._socket.write_message(part, binary=isinstance(part, bytes))
        await self.patch(done)

    def definitions(self):
        """Return the properties of the types of models that the page brings along, by their names."""
        defined = self.contents["doc"].get("defs", [])
        return {each["name"]: [one["name"] for one in each.get("properties", [])] for each in defined}


def header(**more):
    """Return the first part of a message."""
    return json.dumps({"msgid": "1", "msgtype": "PATCH-DOC"} | more)


def changed(model, attribute, value):
    """Return a new value of a model's property, as a change."""
    return {"kind": "ModelChanged", "model": {"id": model}, "attr": attribute, "new": value}


def token_of(text):
    """Return the token that lies in a page."""
    return re.search(r'"token":"([^"]+)"', text)[1]


async def opened(server, token, path="ws", **headers):
    """Return a websocket, open; HTTPError if it is refused."""
    request = HTTPRequest(f"ws://127.0.0.1:{server.port}/{path}", headers=headers)
    return await websocket_connect(request, subprotocols=["bokeh", token], max_message_size=LARGEST, ping_interval=None)


async def greeted(socket):
    """Wait for the greeting."""
    for _ in range(3):
        assert await asyncio.wait_for(socket.read_message(), PATIENCE) is not None


async def left(socket, *, closed=False):
    """Close a websocket, and wait until it is; ``closed`` if that was read from it already, as it is told once."""
    socket.close()
    while not closed:
        closed = await asyncio.wait_for(socket.read_message(), PATIENCE) is None


async def whole(socket):
    """Return (kind, content) of the next message; None once the websocket is closed."""
    parts = await parts_of(socket, PATIENCE)
    return None if parts is None else (json.loads(parts[0])["msgtype"], parts[2])
