"""Websockets of pages: who is gone while they still speak harms nobody."""

from __future__ import annotations

import asyncio
import logging
import secrets

import panel as pn
from tests.page_client import Page

from separatrix_dashboards import doors


def test_a_page_that_was_given_up_may_still_speak_and_close(caplog):
    """A ping that finds a browser gone has Bokeh let go of its page before all that was sent is read."""

    async def speak_and_close():
        with doors.narrow_doors():
            signing = {"secret_key": secrets.token_bytes(32), "sign_sessions": True}
            server = pn.io.server.get_server({"/": lambda: pn.pane.HTML("a page")}, port=0, **signing)
        server.start()
        try:
            async with Page(f"http://localhost:{server.port}", "") as page:
                (connection,) = server._tornado._clients
                session = connection.session
                server._tornado.client_lost(connection)
                for _ in range(3):
                    await page._send("PULL-DOC-REQ", {})
            while connection._socket.ws_connection is not None:
                await asyncio.sleep(0.01)
            return session.connection_count, set(server._tornado._clients)
        finally:
            server.stop()

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(asyncio.wait_for(speak_and_close(), 60)) == (0, set())
    assert [record.getMessage() for record in caplog.records] == []
