"""The cookie by which a server for everybody knows its visitors, given with the first page."""

from __future__ import annotations

import re
import secrets
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import OutputTransform

from separatrix_dashboards.access import VISITOR
from separatrix_dashboards.doors import is_encrypted

_PAGES = frozenset(("", "run", "compare", "try"))


class VisitorCookie(OutputTransform):
    """Gives everybody who opens a page a name that nobody can guess, unless they have one.

    It stands among the cookies of that very request, so that the first page knows it, too. A transform sees a request
    before its handler does.
    """

    def __init__(self, request: HTTPServerRequest) -> None:
        self._new = ""
        given = request.cookies.get(VISITOR)
        if given is not None and re.fullmatch(r"[\w-]{32}", given.value, re.ASCII):
            return
        request.cookies.pop(VISITOR, None)
        if request.method == "GET" and request.path.rpartition("/")[2] in _PAGES:
            self._new = request.cookies[VISITOR] = secrets.token_urlsafe(24)
            self._secure = "; Secure" if is_encrypted(request) else ""

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Send the cookie with the page."""
        del finishing
        if self._new:
            # Scripts do not see it, and other sites neither send it nor open a websocket with it.
            cookie: Any = f"{VISITOR}={self._new}; Path=/; HttpOnly; SameSite=Lax{self._secure}"
            headers.add("Set-Cookie", cookie)
            headers["Cache-Control"] = "no-store"  # a page holds its visitor's name
        return status_code, headers, chunk
