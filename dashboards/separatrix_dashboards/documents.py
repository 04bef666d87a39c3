"""Documents beside each other in one process: what fails in one of them is no matter of the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from bokeh.io import doc as current


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
