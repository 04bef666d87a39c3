"""What browsers may ask of the server: pages and their websockets, no more, and nothing that no browser would send.

Bokeh trusts who opens a websocket: it takes messages of any size, unpacks what is packed, makes any model as often as
it is told to, answers mistakes with its own stack, and lets whoever asks choose the session of a page. Here all of
these are refused before Bokeh sees them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from bokeh.protocol.message import Message
from bokeh.server import urls
from bokeh.server.protocol_handler import ProtocolHandler
from bokeh.util.token import check_token_signature, get_token_payload
from panel import config
from panel.io.server import DocHandler, WSHandler
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError

from separatrix.errors import SeparatrixError
from separatrix_dashboards.words import in_a_line

_LOG = logging.getLogger(__name__)

MAX_BODY: Final = 64 * 2**10
"""Bytes of a request; the largest form is that for signing in."""

MAX_MESSAGE: Final = 4 * 2**20
"""Bytes of a message, all its parts together; the largest is a configuration that is uploaded."""

MAX_BUFFERS: Final = 64
MAX_EVENTS: Final = 1_000
MAX_MODELS: Final = 100
MAX_DEPTH: Final = 64

SILENT_SECONDS: Final = 120.0
"""A connection that asks for nothing for so long is closed, and so is one that takes longer to send its request."""

_MOST_LINES: Final = 10
"""Of the log, about what one websocket sends that cannot be done."""

_KINDS: Final = frozenset(("PULL-DOC-REQ", "PATCH-DOC", "SERVER-INFO-REQ"))
_DTYPES: Final = frozenset(
    ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "object")
)
_CHOSEN: Final = ("bokeh-session-id", "bokeh-token")
_REFUSED: Final = 1008
"""Code of a websocket that is closed because of what came through it."""


class StrangeMessageError(SeparatrixError):
    """A message that no browser would send."""


def is_encrypted(request: HTTPServerRequest) -> bool:
    """Return whether a browser sent a request through HTTPS, by what it or a proxy says.

    Whoever says so wrongly loses but cookies of their own.
    """
    said = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return "https" in (request.protocol, said) or request.headers.get("Origin", "").lower().startswith("https://")


def network_of(request: HTTPServerRequest) -> str:
    """Return where a request comes from: an IPv4 address or an IPv6 network; nothing where that is this machine.

    Of a proxy on this machine it is what the proxy saw. Whoever has one IPv6 address has a network of 2**64.
    """
    said = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    for place in (request.remote_ip or "", said):
        try:
            address = ipaddress.ip_address(place.partition("%")[0])
        except ValueError:
            return ""
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        if not address.is_loopback:
            return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))
    return ""


@contextlib.contextmanager
def narrow_doors() -> Iterator[None]:
    """Have a server that is made meanwhile answer requests for pages and their websockets alone.

    Bokeh's further addresses hand a page's token to the scripts of any site, and describe it to anybody.
    """
    before = list(urls.per_app_patterns)
    urls.per_app_patterns[:] = [("/ws", PageSocket), ("/?", PageHandler)]
    try:
        yield
    finally:
        urls.per_app_patterns[:] = before


class PageHandler(DocHandler):
    """A page; each is a session of its own, and nobody chooses whose."""

    async def prepare(self) -> None:
        """Refuse who brings a session: a link could lead somebody else into it, to act there in their name."""
        if "Bokeh-Session-Id" in self.request.headers or any(name in self.request.arguments for name in _CHOSEN):
            raise HTTPError(403, reason="A page begins a session of its own")
        path, mark, query = str(self.request.uri).partition("?")
        self.request.uri = path + mark + query.replace("?", "%3F")  # the same, and Panel takes no other
        await super().prepare()


class PageSocket(WSHandler):
    """The websocket of a page, for who opened that page."""

    def initialize(self, application_context: Any, bokeh_websocket_path: str) -> None:
        """Begin with no part of a message."""
        super().initialize(application_context, bokeh_websocket_path)
        self._weight, self._answers = 0, _Answers()

    async def prepare(self) -> None:
        """Refuse, before anything is opened, a token that this server did not sign, and one of another user's page."""
        try:
            urlsplit(self.request.headers.get("Origin", ""))  # Tornado compares it, and fails if it is no address
        except ValueError:
            raise HTTPError(403) from None
        await super().prepare()
        if not self._finished and not self._is_own():
            raise HTTPError(403)

    async def on_message(self, fragment: str | bytes) -> None:
        """Take a part of a message; close the websocket if no browser would send it."""
        if not self._is_attached():
            return
        message, problem = None, ""
        try:
            message = await self._assembled(fragment)
        except Exception as error:  # noqa: BLE001 - whatever Bokeh runs into while it reads
            problem = in_a_line(error)
        if problem:
            _LOG.warning("closed the websocket of a page that sent what no browser does: %s", problem)
            self.close(_REFUSED, "not a message of a page")
        elif message is not None and (answer := await self._answers.handle(message, self.connection)) is not None:
            await self._schedule(answer)

    def on_close(self) -> None:
        """Let go of the page, unless that was done when it did not answer a ping."""
        if self._is_attached():
            super().on_close()

    def _is_attached(self) -> bool:
        """Return whether this still speaks for its page; Bokeh detaches who is gone before all they sent is read."""
        return self.connection is None or self.connection._session is not None  # noqa: SLF001 - asking raises

    async def _assembled(self, fragment: str | bytes) -> Message[Any] | None:
        """Return a message once all its parts are there."""
        if self.connection is None:
            raise StrangeMessageError("it began before it was greeted")
        self._weight += len(fragment)
        if self._weight > MAX_MESSAGE:
            raise StrangeMessageError(f"expected a message of {MAX_MESSAGE} bytes at most, got more")
        message: Message[Any] | None = await self.receiver.consume(fragment)
        begun = self.receiver._partial  # noqa: SLF001 - the parts of a message are not counted elsewhere
        if begun is not None:
            check_header(begun.header)
        if message is not None:
            self._weight = 0
            check_content(message.content)
        return message

    def _is_own(self) -> bool:
        protocol, _, token = self.request.headers.get("Sec-WebSocket-Protocol", "").partition(",")
        signing = {"secret_key": self.application.secret_key, "signed": self.application.sign_sessions}
        try:
            if protocol.strip() != "bokeh" or not check_token_signature(token.strip(), **signing):
                return False
            payload = get_token_payload(token.strip())
        except Exception:  # noqa: BLE001 - whatever is wrong with it, nobody signed it
            return False
        if payload["session_expiry"] <= time.time():
            return False
        if not self.application.settings.get("cookie_secret"):
            return True
        cookie = payload["cookies"].get("user")
        opener = self.get_secure_cookie("user", cookie, max_age_days=config.oauth_expiry) if cookie else None
        return opener is not None and opener.decode() == self.current_user


class _Answers(ProtocolHandler):
    """Has Bokeh do what a message asks for; what goes wrong is told in the log, and not to who sent it."""

    _told = 0

    async def handle(self, message: Message[Any], connection: Any) -> Any:
        problem = ""
        try:
            answer = await self._handlers[message.msgtype](message, connection)
        except Exception as error:  # noqa: BLE001 - the page and its websocket stay as they are
            problem = in_a_line(error)
        if not problem:
            return answer
        self._told += 1
        if self._told <= _MOST_LINES:
            _LOG.warning("a page sent what could not be done: %s", problem)
        return connection.error(message, "this could not be done")  # after the exception, or its stack would go along


def check_header(header: Any) -> None:
    """Refuse a message by what it says that it is.

    Raises
    ------
    StrangeMessageError
        If no browser would send it.
    """
    if not isinstance(header, Mapping) or header.get("msgtype") not in _KINDS or "msgid" not in header:
        raise StrangeMessageError("expected a message of a page, got another")
    n_buffers = header.get("num_buffers", 0)
    if type(n_buffers) is not int or not 0 <= n_buffers <= MAX_BUFFERS:
        raise StrangeMessageError(f"expected {MAX_BUFFERS} buffers at most, got {n_buffers!r:.20}")


def check_content(content: Any) -> None:
    """Refuse what would make Bokeh take much time or memory over a message.

    That is events without number, models without number, bytes that are packed, and arrays whose items have any size.

    Raises
    ------
    StrangeMessageError
        If no browser would send it.
    """
    events = content.get("events", []) if isinstance(content, Mapping) else None
    if not isinstance(events, list) or len(events) > MAX_EVENTS:
        raise StrangeMessageError(f"expected {MAX_EVENTS} events at most, got more, or none at all")
    n_models, parts = 0, [(content, 0)]
    while parts:
        part, depth = parts.pop()
        if depth > MAX_DEPTH:
            raise StrangeMessageError(f"expected {MAX_DEPTH} levels at most, got more")
        if isinstance(part, Mapping):
            n_models += _checked(part) == "object"
            if n_models > MAX_MODELS:
                raise StrangeMessageError(f"expected {MAX_MODELS} new models at most, got more")
            parts.extend((each, depth + 1) for each in part.values())
        elif isinstance(part, list):
            parts.extend((each, depth + 1) for each in part)


def _checked(part: Mapping[str, Any]) -> Any:
    """Return of what type a part of a message is, if it is one that browsers send."""
    kind = part.get("type")
    if kind == "bytes" and not isinstance(part.get("data"), Mapping):
        raise StrangeMessageError("expected bytes in buffers, got them packed into text")
    if kind == "ndarray" and part.get("dtype") not in _DTYPES:
        raise StrangeMessageError(f"expected an array of numbers, got items of type {part.get('dtype')!r:.20}")
    return kind
