"""Notebook cells that go on living after they were shown: what a page of the server has in its document and websocket.

Browser and kernel exchange messages through Jupyter's comms. Three things must be seen to, or cells break, freeze or
pile up:

- JupyterLab hands messages to *subshells*, threads of the kernel, while the hub's thread sends updates. Each of Bokeh's
  messages has several parts, so whoever sends or receives holds one lock. In return a cell stays alive while the kernel
  computes.
- A browser that is slow gets no second update before it has shown the first. One that says nothing at all (its page was
  closed, its output cleared) costs nothing until it speaks again.
- A page that was loaded anew shows the cell as it was first; it is given its content anew. One that is merely late, and
  says so again and again, is not: making it anew would make it later still.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, ClassVar

import panel as pn
import param
from bokeh.document import Document
from bokeh.document.events import (
    DocumentChangedEvent,
    DocumentPatchedEvent,
    ModelChangedEvent,
    RootAddedEvent,
    RootRemovedEvent,
)
from bokeh.model import Model
from bokeh.model.util import collect_models
from bokeh.models import ImportedStyleSheet, InlineStyleSheet, UIElement
from panel.custom import AnyWidgetComponent
from panel.io.model import diff
from panel.io.notebook import JupyterCommManagerBinary, block_comm, replace_inline_css, send
from panel.io.state import state
from panel.theme import Native
from panel.viewable import Viewable

from separatrix_dashboards.documents import contain_errors
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.views.base import Watch

_LOG = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for which a browser may say nothing about an update it was sent before its cell is left alone."""

KEPT_ASLEEP = 4
"""Cells whose browsers are silent are kept so that these may come back: a laptop wakes, a page is loaded anew."""

LATE_WORDS = 3
"""Times that a silent browser may say again that it has not shown the last update, before that is taken for lost."""

COLOURS = """
:host {
  --panel-primary-color: #0b5a8f;
  --panel-background-color: var(--jp-layout-color0, #ffffff);
  --panel-on-background-color: var(--jp-content-font-color1, #1b1f24);
  --panel-surface-color: var(--jp-layout-color0, #ffffff);
  --panel-on-surface-color: var(--jp-ui-font-color1, #1b1f24);
  --panel-border-color: var(--jp-border-color1, #bdbdbd);
}
"""
"""Panel's colours as those of JupyterLab's theme, light or dark."""

LOCK = threading.RLock()
"""Held by whoever changes what a cell shows, sends to its browser or takes its messages."""

_asleep: list[Cell] = []


class Pulse(AnyWidgetComponent):
    """Tells how many updates the browser has shown, with every update, and now and then that it is still there."""

    sent = param.Integer(default=0, doc="Updates sent.")
    shown = param.List(default=[], doc="[updates shown, a number that differs each time, another for every page].")

    # Panel 1.9 hands a JSComponent's model to every component that comes after one in the same window, and calls no
    # cleanup then: the adapter is asked for, and the clock looks for itself whether it is still wanted.
    _esm: ClassVar[str] = """
    export default {
      render({ model, el, view }) {
        model = view?.adapter ?? model;
        // Of this output on this page, however often it is laid out.
        const owner = view?.model ?? model;
        const page = owner.page_of_its_own ??= Math.random();
        let words = 0;
        const tell = () => {
          model.set("shown", [model.get("sent"), Date.now() + ++words / 1000, page]);
          model.save_changes();
        };
        const stop = () => {
          clearInterval(timer);
          document.removeEventListener("visibilitychange", wake);
        };
        const wake = () => {
          if (!el.isConnected) stop();
          else if (!document.hidden) tell();
        };
        const timer = setInterval(() => { if (el.isConnected) tell(); else stop(); }, 10000);
        document.addEventListener("visibilitychange", wake);
        model.on("change:sent", tell);
        tell();
        return stop;
      },
    };
    """

    def __init__(self, **params: Any) -> None:
        super().__init__(**{"width": 0, "height": 0, "margin": 0, "styles": {"position": "absolute"}} | params)


class CellWatch(Watch):
    """The watch of a cell, which ends when nobody seems to look at the cell any more.

    Parameters
    ----------
    hub, feed : of the run
    cell : what shows it
    """

    def __init__(self, hub: Hub, feed: Feed, cell: Cell) -> None:
        super().__init__(hub, feed, cell.push)
        self._cell = cell

    def deliver(self, results: Mapping[Hashable, Any]) -> None:
        """Take fresh results in the hub's thread."""
        super().deliver(results)
        self._cell.look_after()


class Cell(pn.Column):
    """What one execution of a cell shows; not to be shown twice, since a Bokeh figure lives in one document only.

    Parameters
    ----------
    hub, feed : of the run
    make : makes the content with the watch it is given
    """

    def __init__(self, hub: Hub, feed: Feed, make: Callable[[Watch], Viewable]) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, design=Native)
        self._hub, self._feed, self._make = hub, feed, make
        self._pulse = Pulse()
        self._sent, self._late = 0, 0
        self._page: float | None = None
        self._waits_since: float | None = time.monotonic()  # for the browser to say that it is there
        self._waiting: list[Callable[[], None]] = []
        self._closed = False
        self._sheets: dict[str, InlineStyleSheet] = {}
        with LOCK:
            self._watch = CellWatch(hub, feed, self)
            self[:] = [make(self._watch), self._pulse]
        self._pulse.param.watch(lambda event: self._hear(int(event.new[0]), event.new[2]), "shown")

    # -- to the browser ------------------------------------------------------------------------------------------------

    def push(self, function: Callable[[], None]) -> None:
        """Run a function that changes what is shown, when the browser is ready for it."""
        with LOCK:
            if self._closed:
                return
            if function not in self._waiting:
                self._waiting.append(function)
            if self._waits_since is None:
                self._show_next()

    def look_after(self) -> None:
        """Leave the cell alone if its browser has been silent for long."""
        with LOCK:
            if self._waits_since is not None and time.monotonic() - self._waits_since > PATIENCE:
                self._sleep()

    def _show_next(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._update(*waiting)

    def _update(self, *functions: Callable[[], None]) -> None:
        """Run functions and send all that they change in one message."""
        with block_comm():
            for function in functions:
                function()
            self._sent += 1
            self._pulse.sent = self._sent
        self._waits_since = time.monotonic()
        for _, _, document, comm in tuple(state._views.values()):
            if comm is not None and comm._comm is not None:
                self._share_sheets(_changed_models(document))
                _flush(document, comm)

    def _get_model(
        self, doc: Document, root: Model | None = None, parent: Model | None = None, comm: Any = None
    ) -> Model:
        model = super()._get_model(doc, root, parent, comm)
        if comm is not None:
            doc.on_change(_sender(doc, comm))
        return model

    def _preprocess(self, root: Model, changed: Any = None, old_models: Any = None) -> None:
        super()._preprocess(root, changed, old_models)
        if changed is None:
            self._share_sheets(root.references())

    def _share_sheets(self, models: Iterable[Any]) -> None:
        """Have elements name their style sheets, where Panel gives each a copy or sends for them to the internet."""
        for element in models:
            if isinstance(element, UIElement):
                sheets = [self._shared(sheet) for sheet in element.stylesheets]
                if sheets != element.stylesheets:
                    element.stylesheets = sheets

    def _shared(self, sheet: Any) -> Any:
        """Return a style sheet with its text, which is written down once and not with every pane."""
        extra = ""
        if isinstance(sheet, ImportedStyleSheet):
            extra = COLOURS if "/theme/default.css" in sheet.url else ""
            sheet = replace_inline_css(sheet)
        text = sheet.css + extra if isinstance(sheet, InlineStyleSheet) else sheet
        if not isinstance(text, str):
            return sheet
        return self._sheets.setdefault(text, InlineStyleSheet(css=text))

    # -- from the browser ----------------------------------------------------------------------------------------------

    def _hear(self, shown: int, page: float) -> None:
        """Take a page's word that it has shown so many updates; runs under the lock."""
        if self._closed:
            return
        anew, self._page = page != self._page and self._page is not None, page
        asleep = self in _asleep
        if shown != self._sent:
            # Its browser has the last update still before it, unless the page is another one or the update is lost.
            self._late += asleep
            if anew or self._late > LATE_WORDS:
                self._renew()
            return
        self._late, self._waits_since = 0, None
        if asleep:
            _asleep.remove(self)
            self._hub.add(self._watch)
            waiting, self._waiting = self._waiting, []
            self._update(*waiting, self._look_again)
        else:
            self._show_next()

    def _renew(self) -> None:
        """Make the content anew: the browser shows, and knows, an older one."""
        if self in _asleep:
            _asleep.remove(self)
        self._late = 0
        self._watch.close()
        self._watch, self._waiting, self._sheets = CellWatch(self._hub, self._feed, self), [], {}
        content = [self._make(self._watch), self._pulse]
        self._update(lambda: self.__setitem__(slice(None), content))

    def _look_again(self) -> None:
        for scope in self._watch.scopes:
            if scope.active:
                scope.active = False
                scope.active = True

    # -- the end -------------------------------------------------------------------------------------------------------

    def _sleep(self) -> None:
        if self._closed or self in _asleep:
            return
        self._watch.close()
        _asleep.append(self)
        while len(_asleep) > KEPT_ASLEEP:
            _asleep[0]._forget()

    def _forget(self) -> None:
        for ref in tuple(self._models):
            viewable, root, *_ = state._views.pop(ref)
            viewable._cleanup(root)
        self._close()

    def _cleanup(self, root: Model | None = None) -> None:
        super()._cleanup(root)
        if not self._models:
            self._close()

    def _close(self) -> None:
        with LOCK:
            self._closed = True
            self._watch.close()
            if self in _asleep:
                _asleep.remove(self)


def _changed_models(document: Document) -> list[Model]:
    """Return the models that came to a document, or changed their looks, since its browser was last told."""
    changes = [event for event in document.callbacks._held_events if isinstance(event, ModelChangedEvent)]
    looks = [change.model for change in changes if change.attr == "stylesheets"]
    return [*collect_models(*(change.new for change in changes if change.attr != "data")), *looks]


def _flush(document: Document, comm: Any) -> None:
    """Send what changed in a document, but not back what its browser changed itself."""
    events = [event for event in document.callbacks._held_events if _is_news(event, comm)]
    message = diff(document, binary=False, events=events)
    if message is not None:
        send(comm, message)


def _is_news(event: DocumentChangedEvent, comm: Any) -> bool:
    """Return whether a browser does not know of a change; the roots are in its cell already."""
    about_roots = isinstance(event, RootAddedEvent | RootRemovedEvent)
    return isinstance(event, DocumentPatchedEvent) and not about_roots and event.setter != comm.id


def _sender(document: Document, comm: Any) -> Callable[[DocumentChangedEvent], None]:
    """Return what sends changes of Bokeh models made while a message is taken in; Panel knows of its own alone."""

    def changed(event: DocumentChangedEvent) -> None:
        if comm._comm is not None and _is_news(event, comm):
            message = diff(document, binary=False, events=[event])
            if message is not None:
                send(comm, message)

    return changed


class OrderedComm(JupyterCommManagerBinary.client_comm):
    """Takes a browser's messages one by one, in turn with updates.

    Panel's own exchanges standard output for the time of a message: with messages in threads of their own, what a cell
    prints meanwhile would be lost.
    """

    def _handle_msg(self, msg: Any) -> None:
        with LOCK:
            data = self.decode(msg)
            data.pop("comm_id", None)
            reply = {"msg_type": "Ready", "content": ""}
            try:
                self._on_msg(data)
            except Exception as error:  # noqa: BLE001 - the browser is told, and the next message may be a good one
                _LOG.exception("a message of the browser could not be taken")
                reply = {"msg_type": "Error", "traceback": str(error)}
            self.send(metadata=reply)


class WholeComm(JupyterCommManagerBinary.server_comm):
    """Sends a browser a message whole: Panel hands its parts over one by one, and other threads send as well."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parts = threading.local()

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = ()) -> None:
        """Send a message with its last part."""
        if metadata is not None:  # not a part of one
            super().send(data, metadata, buffers)
            return
        parts = self._parts.__dict__.setdefault("parts", [])
        parts.append((data, buffers))
        expected = 3 + 2 * json.loads(parts[0][0]).get("num_buffers", 0)  # header, metadata, content, buffers
        if len(parts) == expected:
            self._parts.parts = []
            with LOCK:
                for part, content in parts:
                    super().send(part, None, content)


def take_messages_in_order() -> None:
    """Have Panel open every further cell with the two above."""
    contain_errors()
    JupyterCommManagerBinary.client_comm = OrderedComm
    JupyterCommManagerBinary.server_comm = WholeComm
