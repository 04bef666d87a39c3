"""A client of the pages without a browser: it speaks the protocol of Bokeh's websocket."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from itertools import count

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

LARGEST = 2**28


async def parts_of(socket, patience=None):
    """Return header, metadata, content and buffers of the next message; None once the websocket is closed.

    That it is closed is told once, be it in the middle of a message: who reads on then waits for ever.
    """
    parts, n_parts = [], 3
    while len(parts) < n_parts:
        part = await asyncio.wait_for(socket.read_message(), patience)
        if part is None:
            return None
        parts.append(part)
        if len(parts) == 1:
            n_parts += 2 * json.loads(part).get("num_buffers", 0)
    return parts


def mapping(values):
    """Return a dictionary as Bokeh sends it."""
    return {"type": "map", "entries": [list(pair) for pair in values.items()]}


def event(name, **values):
    """Return an event of the browser, as a change."""
    data = {"type": "event", "name": name, "values": mapping(values)}
    return {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": data}


class Page:
    """A page that is open, as far as its server can tell.

    Parameters
    ----------
    headers : of its requests, such as cookies

    Attributes
    ----------
    steps, state : what its head tells
    updates : messages that told steps
    answers : messages in which a control was taken out of or into use, as a click is answered at once
    """

    def __init__(self, url, address, headers=None):
        self.url, self.address, self.headers = url, address, headers or {}
        self.steps, self.state, self.updates, self.answers = 0, "", 0, 0
        self.contents, self.changed = {}, asyncio.Event()
        self._numbers = count()

    async def __aenter__(self):
        html = await asyncio.to_thread(self._fetch)
        token = re.search(r'"token":"([^"]+)"', html)[1]
        path = "/".join(filter(None, [self.url.replace("http", "ws"), self.address.partition("?")[0], "ws"]))
        request = HTTPRequest(path, headers=self.headers)
        self._socket = await websocket_connect(
            request, subprotocols=["bokeh", token], max_message_size=LARGEST, ping_interval=None
        )
        self._greeted, self._pulled = asyncio.Event(), asyncio.Event()
        self._listener = asyncio.create_task(self._listen())
        await self._greeted.wait()
        await self._send("PULL-DOC-REQ", {})
        await self._pulled.wait()
        await self._made()
        return self

    async def __aexit__(self, *_):
        self._socket.close()
        await self._listener

    async def _made(self):
        """Say that the page is made, as a browser does."""
        await self._tell("document_ready")

    def _fetch(self):
        request = urllib.request.Request(f"{self.url}/{self.address}", headers=self.headers)  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.read().decode()

    async def _send(self, kind, content):
        header = {"msgid": str(next(self._numbers)), "msgtype": kind}
        for part in (header, {}, content):
            await self._socket.write_message(json.dumps(part))

    async def _listen(self):
        while parts := await parts_of(self._socket):
            header, content = json.loads(parts[0]), parts[2]
            if header["msgtype"] == "ACK":
                self._greeted.set()
            if header["msgtype"] == "PULL-DOC-REPLY":
                self.contents = json.loads(content)
                self._pulled.set()
            self._note(content)

    def _note(self, content):
        steps = re.findall(r'data-steps=\\?(?:"|&quot;)(\d+)', content)
        states = re.findall(r'data-state=\\?(?:"|&quot;)\w+\\?(?:"|&quot;)(?:>|&gt;)([^<&]+)', content)
        if steps:
            self.steps, self.updates = int(steps[-1]), self.updates + 1
        if states:
            self.state = states[-1]
        self.answers += '"disabled"' in content
        if steps or states or '"disabled"' in content:
            self.changed.set()

    async def until(self, condition):
        """Wait for a message after which something holds."""
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 60)

    async def click(self, label):
        """Press a button."""
        await self._tell("button_click", model={"id": self._button(label)})

    async def turn_to(self, tab):
        """Click on a tab, by its title; what it shows comes as a message of its own."""
        tabs = self._model("Tabs")
        titles = [each["attributes"]["title"] for each in tabs["attributes"]["tabs"]]
        change = {"kind": "ModelChanged", "model": {"id": tabs["id"]}, "attr": "active", "new": titles.index(tab)}
        await self._send("PATCH-DOC", {"events": [change]})

    async def _tell(self, name, **values):
        await self._send("PATCH-DOC", {"events": [event(name, **values)]})

    def _button(self, label):
        return self._model("Button", "label", label)["id"]

    def _model(self, kind, attribute=None, value=None):
        """Return a model of the page as it was opened, by the end of its type's name and perhaps by an attribute."""
        for each, _ in self._models():
            fits = attribute is None or each.get("attributes", {}).get(attribute) == value
            if fits and each["name"].endswith(kind):
                return each
        raise LookupError(f"{kind} {value or ''}")

    def _models(self):
        """Yield every model of the page as it was opened, and the id of the one that holds it, None for no one."""
        parts = [(self.contents, None)]
        while parts:
            part, owner = parts.pop()
            if isinstance(part, dict):
                if part.get("type") == "object" and "id" in part:
                    yield part, owner
                    owner = part["id"]
                part = list(part.values())
            if isinstance(part, list):
                parts.extend((each, owner) for each in part)
