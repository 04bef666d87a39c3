"""Signing in and out: pages of our own on Panel's hooks, without a single request to another host."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from bokeh.server.util import check_allowlist
from jinja2 import Environment
from panel import config
from panel.auth import BasicAuthProvider, OAuthProvider
from tornado.web import HTTPError, RequestHandler

from separatrix_dashboards.access import Throttle, User, Users
from separatrix_dashboards.doors import is_encrypted, network_of

_LOG = logging.getLogger(__name__)

SIGNED_IN_DAYS: Final = 7
"""After this, one signs in again."""

_PAGE = Environment(autoescape=True).from_string(
    (files("separatrix_dashboards") / "pages" / "login.html").read_text(encoding="utf-8")
)
_STAMP_COOKIE = "separatrix-stamp"
_KNOWN_COOKIE = "separatrix-known"
_KNOWN_DAYS = 90
_COOKIES = (
    "user",
    "id_token",
    "access_token",
    "refresh_token",
    "oauth_expiry",
    "is_guest",
    _STAMP_COOKIE,
    _KNOWN_COOKIE,
)
_LONGEST_INPUT = 1000
_LONGEST_LINE = 8
_LONGEST_WAIT: Final = {"address": 30.0, "user": 4.0}
"""Seconds between guesses. Shorter for a user, or whoever keeps guessing would keep the user out."""


def login_path(handler: RequestHandler) -> str:
    """Return where to sign in, relative to the page asked for: behind a proxy, the root may be anywhere."""
    path = handler.request.path.removeprefix(handler.application.prefix)  # type: ignore[attr-defined]
    return "/" + "../" * (path.count("/") - 1) + "login"


class PasswordProvider(BasicAuthProvider):
    """Lets in who has an entry with a password in the file of users.

    Parameters
    ----------
    users : followed while the server runs: who is taken out of the file is out with the next request
    """

    def __init__(self, users: Users) -> None:
        self._users = users
        super().__init__()

    def patterns(self) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
        """Return the addresses of the pages for signing in and out."""
        throttles = {kind: Throttle(seconds) for kind, seconds in _LONGEST_WAIT.items()}
        given = {"users": self._users, "throttles": throttles, "desk": _Desk()}
        return [("/login", LoginHandler, given), ("/logout", LogoutHandler, {})]

    @property
    def get_user(self) -> Callable[[RequestHandler], str | None]:
        """Return what finds the user of a request."""
        from_cookie = super().get_user

        def get_user(handler: RequestHandler) -> str | None:
            name = from_cookie(handler)
            user = self._users.find(name)
            stamp = handler.get_secure_cookie(_STAMP_COOKIE, max_age_days=config.oauth_expiry)
            if user is None or stamp is None or not hmac.compare_digest(stamp, user.stamp.encode()):
                return None
            return name

        return get_user

    @property
    def get_login_url(self) -> Callable[[RequestHandler], str]:
        """Return what finds the page for signing in."""
        return login_path

    login_url = login_handler = logout_handler = None

    def _allow_guest(self, uri: str) -> bool:  # noqa: ARG002 - Panel's signature
        return False


class ListedOAuthProvider(OAuthProvider):
    """Lets in whom an OAuth provider knows and the file of users lists.

    Parameters
    ----------
    users : by the name that the provider gives them; ``*`` for everybody
    """

    def __init__(self, users: Users) -> None:
        self._users = users
        super().__init__()
        self._error_template = _ErrorPage()

    def patterns(self) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
        """Return the addresses of the pages for signing in and out."""
        return [("/login", self.login_handler, {}), ("/logout", LogoutHandler, {})]

    @property
    def endpoints(self) -> list[tuple[str, type[RequestHandler]]]:
        """Return nothing: see `patterns`."""
        return []

    @property
    def get_user_async(self) -> Callable[[RequestHandler], Awaitable[str | None]]:
        """Return what finds the user of a request."""
        from_cookie = super().get_user_async

        async def get_user(handler: RequestHandler) -> str | None:
            name: str | None = await from_cookie(handler)
            if name is not None and self._users.find(name) is None:
                _LOG.warning("%s signed in, but is not in %s", name, self._users.file)
                raise HTTPError(403, reason="You are signed in, but not on the list of users of this server")
            return name

        return get_user

    def _allow_guest(self, uri: str) -> bool:  # noqa: ARG002 - Panel's signature
        return False


class _Desk:
    """Verifies one password at a time, since each costs memory and a core; many at once are sent away."""

    def __init__(self) -> None:
        self._verifier = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._waiting = 0

    @property
    def wait(self) -> float:
        """Seconds until it is worth asking, 0 for now."""
        return 0.0 if self._waiting < _LONGEST_LINE else 5.0

    async def ask(self, verify: Callable[[str, str], User | None], name: str, password: str) -> User | None:
        """Return what ``verify`` returns, without keeping the event loop waiting."""
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._verifier.submit(verify, name, password))
        finally:
            self._waiting -= 1


class LoginHandler(RequestHandler):
    """The page for signing in with a password."""

    def initialize(self, users: Users, throttles: dict[str, Throttle], desk: _Desk) -> None:
        """Take what all requests share."""
        self._users, self._throttles, self._desk = users, throttles, desk

    def get(self) -> None:
        """Show the page."""
        self._show(name="", error="")

    async def post(self) -> None:
        """Sign in, or say why not."""
        self._check_origin()
        name = self.get_body_argument("username", "", strip=True)[:_LONGEST_INPUT]
        password = self.get_body_argument("password", "", strip=False)[:_LONGEST_INPUT]
        keys = self._keys(name)
        wait = max(self._desk.wait, *(self._throttles[kind].wait(key) for kind, key in keys.items()))
        if wait > 0:
            self.set_status(429)
            self.set_header("Retry-After", str(math.ceil(wait)))
            self._show(name, f"Too many attempts. Try again in {math.ceil(wait)} s.")
            return
        for kind, key in keys.items():
            self._throttles[kind].begin(key)
        user = await self._desk.ask(self._users.verify, name, password)
        if user is None:
            _LOG.warning("wrong name or password for %r from %s", name, self.request.remote_ip)
            self.set_status(401)
            self._show(name, "Wrong name or password.")
            return
        self._throttles["user"].clear(keys["user"])
        if "address" in keys:
            self._throttles["address"].take_back(keys["address"])
        self._sign_in(name, user.stamp)
        self.redirect("." + _local(self.get_body_argument("next", "/")))

    def _keys(self, name: str) -> dict[str, str]:
        """Return what attempts are counted by.

        A browser in which this user signed in before is counted by itself, so that strangers who guess the user's
        password cannot keep the user waiting there (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
        """
        if self.get_secure_cookie(_KNOWN_COOKIE, max_age_days=_KNOWN_DAYS) == name.encode():
            return {"user": f"known: {self.get_cookie(_KNOWN_COOKIE)}"}
        network = network_of(self.request)
        return {"user": name} | ({"address": network} if network else {})

    def _sign_in(self, name: str, stamp: str) -> None:
        days = {_KNOWN_COOKIE: _KNOWN_DAYS}
        for cookie, value in (("user", name), (_STAMP_COOKIE, stamp), (_KNOWN_COOKIE, name)):
            self.set_secure_cookie(
                cookie,
                value,
                expires_days=days.get(cookie, config.oauth_expiry),
                path=config.cookie_path,
                httponly=True,
                samesite="Lax",  # other sites neither post with it nor open a websocket with it
                secure=is_encrypted(self.request),
            )

    def _check_origin(self) -> None:
        """Let no other site sign somebody in."""
        given = self.request.headers.get("Origin", "")
        try:
            origin = urlsplit(given).netloc.lower() or given  # "null" from the frame of a site that hides what it is
        except ValueError:
            origin = given
        known = {self.request.host.lower(), *self.application.websocket_origins}  # type: ignore[attr-defined]
        if origin and not check_allowlist(origin, known):
            raise HTTPError(403, reason="This form was sent by another site")

    def _show(self, name: str, error: str) -> None:
        self.set_header("Cache-Control", "no-store")
        wanted = _local(self.get_argument("next", "/"))
        self.write(_PAGE.render(page="login", name=name, error=error, wanted=wanted))


class LogoutHandler(RequestHandler):
    """Signs out."""

    def get(self) -> None:
        """Forget who it was, and say so."""
        for cookie in _COOKIES:
            self.clear_cookie(cookie, path=config.cookie_path)
        self.set_header("Cache-Control", "no-store")
        self.write(_PAGE.render(page="logout"))


class _ErrorPage:
    """What Panel's OAuth handlers render when the provider refuses; Panel's own page asks other hosts for fonts."""

    def render(self, *, error: str = "", error_msg: str = "", **_: Any) -> str:
        return _PAGE.render(page="error", error=error, message=error_msg or "")


def _local(url: str) -> str:
    """Return an address of this server as it is, and the home page in place of any other.

    >>> _local("/run?path=a"), _local("//evil.example/"), _local("https://evil.example/")
    ('/run?path=a', '/', '/')
    """
    strange = "\\" in url or not url.isprintable() or not url.startswith("/") or url.startswith("//")
    return "/" if strange else url
