"""Documents beside each other in one process: what fails in one of them is no matter of the others."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from bokeh.io import doc as current
from panel import config

from separatrix.errors import SeparatrixError
from separatrix_dashboards.words import in_a_line

_LOG = logging.getLogger(__name__)


@cache
def contain_errors() -> None:
    """Have Bokeh forget the current document after an error, too; called again, it does nothing.

    Bokeh notes it on a list for the time of a callback. Where that raises, it stays on the list (Bokeh 3.9). Once its
    page is closed, whatever asks for the current document in any other page fails: nobody sees a new figure.
    """
    patch = current.patch_curdoc

    @contextmanager
    def patched(document: Any) -> Iterator[None]:
        error = None
        with patch(document):
            try:
                yield
            except BaseException as raised:  # noqa: BLE001 - raised again below
                error = raised
        if error is not None:
            try:
                raise error
            finally:
                del error  # it knows this frame

    current.patch_curdoc = patched


@cache
def log_errors() -> None:
    """Have this process, which is a server, log what fails in its pages as `log_error` does, and once."""
    config.exception_handler = log_error
    logging.getLogger("panel.reactive").addFilter(lambda record: "Callback failed" not in record.msg)


def log_error(error: BaseException) -> None:
    """Log what failed in a page: with its stack if our code failed and did not mean to.

    Else a browser has sent a value that a control cannot have, which anybody can, as often as they like: a line.
    """
    stack = traceback.walk_tb(error.__traceback__)
    ours = any(frame.f_globals.get("__name__", "").startswith("separatrix") for frame, _ in stack)
    if ours and not isinstance(error, SeparatrixError):
        _LOG.error("a page failed", exc_info=error)
    else:
        _LOG.warning("a page sent what could not be done: %s", in_a_line(error))
