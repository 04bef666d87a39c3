"""What a view is, and the watch of a document through which the hub reaches it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

import panel as pn
from bokeh.document import Document
from panel.io.document import hold
from panel.io.state import set_curdoc
from panel.viewable import Viewable

from separatrix_dashboards.access import Role
from separatrix_dashboards.charts import Chart, drawn
from separatrix_dashboards.feeds import Feed, RunSnapshot, stamp
from separatrix_dashboards.hub import Hub, Query, Watcher
from separatrix_dashboards.theme import CSS, html
from separatrix_dashboards.turns import Turn
from separatrix_dashboards.words import escaped

Push = Callable[[Callable[[], None]], None]
"""Runs a function in a document, from any thread."""

_BREATH_MS = 250
"""Between two parts of a page: what a browser is sent in one go, it shows only when it has done all of it."""


class Scope:
    """The queries of one part of a page; a part that is not in sight computes nothing."""

    def __init__(self, watch: Watch, *, active: bool = True) -> None:
        self._watch = watch
        self.feed = watch.feed
        self._wanted: dict[Hashable, tuple[Query, Callable[[Any], None]]] = {}
        self._followers: list[Callable[[RunSnapshot], None]] = []
        self._active = active
        watch.scopes.append(self)

    @property
    def hub(self) -> Hub:
        """What publishes the run."""
        return self._watch.hub

    def role(self) -> Role:
        """Return what whoever looks may do now; ask again with every control."""
        return self._watch.role()

    @property
    def active(self) -> bool:
        """Whether this part is in sight."""
        return self._active

    @active.setter
    def active(self, active: bool) -> None:
        if active and not self._active:
            self._active = True
            for follower in self._followers:
                follower(self.feed.snapshot)
            for query, apply in tuple(self._wanted.values()):
                self._show_now(query, apply)
        self._active = active

    def soon(self, fill: Callable[[], None]) -> None:
        """Make a part of the page after those that matter more, as `Watch.soon` does."""
        self._watch.soon(fill)

    def follow(self, apply: Callable[[RunSnapshot], None]) -> None:
        """Call ``apply`` in the document now and with every new snapshot."""
        self._followers.append(apply)
        if self._active:
            apply(self.feed.snapshot)

    def add(self, query: Query, apply: Callable[[Any], None], *, replacing: Query | None = None) -> None:
        """Call ``apply`` in the document with every new result of a query, a `hub.Failure` when there is none.

        Parameters
        ----------
        replacing : a query that is no longer wanted, when the user chose something else
        """
        self._wanted[query.key] = query, apply
        if replacing is not None and replacing.key != query.key:
            self._wanted.pop(replacing.key, None)
            self._watch.hub.forget(self.feed, replacing.key)
        if self._active:
            self._show_now(query, apply)

    def chart(
        self,
        key: Hashable,
        draw: Callable[[Feed, RunSnapshot], Any],
        depends: Callable[[RunSnapshot], Hashable] | None = None,
        *,
        slow: bool = False,
        **options: Any,
    ) -> Chart:
        """Add a chart; parameters are those of `charts.drawn`, options those of `charts.Chart`."""
        chart = Chart(**options)
        self.add(drawn(key, draw, depends, slow=slow), chart.apply)
        return chart

    def queries(self) -> tuple[Query, ...]:
        """Return what is wanted now."""
        return tuple(query for query, _ in tuple(self._wanted.values())) if self._active else ()

    def wants(self, key: Hashable) -> bool:
        """Return whether a result is wanted, now or when this part is in sight again."""
        return key in self._wanted

    def show(self, results: Mapping[Hashable, Any]) -> None:
        """Take what the hub computed; runs in the document."""
        if not self._active:
            return
        for follower in self._followers:
            follower(self.feed.snapshot)
        for key, result in results.items():
            if key in self._wanted:
                self._wanted[key][1](self.hub.newest(self.feed, key, result))

    def _show_now(self, query: Query, apply: Callable[[Any], None]) -> None:
        there, result = self._watch.hub.result(self.feed, query)
        if there:
            apply(result)


class Watch(Watcher):
    """One document, or one notebook cell, that watches a run.

    Parameters
    ----------
    hub, feed : of the run
    push : runs a function in the document; by default that of the document that is being made
    role : tells what whoever looks may do now

    Attributes
    ----------
    scopes : parts of the page
    """

    def __init__(
        self, hub: Hub, feed: Feed, push: Push | None = None, role: Callable[[], Role] = lambda: Role.VIEWER
    ) -> None:
        self.hub, self.feed, self.role = hub, feed, role
        self.scopes: list[Scope] = []
        self._push = push or into_document(self)
        self._pending: dict[Hashable, Any] = {}
        self._parts: deque[Callable[[], None]] = deque()
        self._filling = False
        self._scheduled = False
        self._lock = threading.Lock()
        hub.add(self)

    def scope(self, *, active: bool = True) -> Scope:
        """Return a new part of the page."""
        return Scope(self, active=active)

    def queries(self) -> tuple[Query, ...]:
        """Return what is wanted now."""
        return tuple(query for scope in tuple(self.scopes) for query in scope.queries())

    def wants(self, key: Hashable) -> bool:
        """Return whether any part of the page wants a result."""
        return any(scope.wants(key) for scope in tuple(self.scopes))

    def deliver(self, results: Mapping[Hashable, Any]) -> None:
        """Take fresh results in the hub's thread; what a slow document has not shown yet is replaced, not queued."""
        with self._lock:
            self._pending.update(results)
            if self._scheduled:
                return
            self._scheduled = True
        try:
            self._push(self._show)
        except Exception:  # noqa: BLE001 - whatever a document says that is going away
            self.close()

    def soon(self, fill: Callable[[], None]) -> None:
        """Make a part of the page once it is seen what was asked for before: nobody waits for all of it to see some.

        In a cell, which has no clock of its own, it is made at once.
        """
        document = pn.state.curdoc
        if document is None or document.session_context is None:
            fill()
            return
        self._parts.append(fill)
        if self._filling:
            return
        self._filling = True
        # Not before the page has arrived: panes made earlier do not know where this server has its style sheets.
        pn.state.onload(lambda: self._fill(document))

    def _fill(self, document: Document) -> None:
        if not self._parts:
            self._filling = False
            return
        try:
            if document.session_context.session.connection_count:  # else whoever opened the page has left it
                with set_curdoc(document), hold(document):
                    self._parts.popleft()()
        finally:
            document.add_timeout_callback(lambda: self._fill(document), _BREATH_MS)

    def close(self) -> None:
        """Stop watching."""
        self._parts.clear()
        self.hub.remove(self)

    def _show(self) -> None:
        if _loading():
            pn.state.onload(self._show_loaded)
        else:
            self._show_pending()

    def _show_loaded(self) -> None:
        with hold(pn.state.curdoc):
            self._show_pending()

    def _show_pending(self) -> None:
        with self._lock:
            results, self._pending, self._scheduled = self._pending, {}, False
        for scope in tuple(self.scopes):
            scope.show(results)


def _loading() -> bool:
    """Return whether the browser is still making the page of this document.

    A part that is exchanged meanwhile stays as it was, and a slider that changes fails: it has no element yet.
    """
    document = pn.state.curdoc
    return document is not None and document.session_context is not None and not pn.state.loaded


def into_document(watch: Watch) -> Push:
    """Return what runs a function in the document that is being made, with all its changes in one message.

    Documents take turns, that of whoever clicked last first.
    """
    document, turns = pn.state.curdoc, watch.hub.turns
    served = document.session_context is not None
    loop = asyncio.get_running_loop()

    def push(function: Callable[[], None]) -> None:
        def begin(turn: Turn) -> None:
            if served and document.session_context is None:  # the page was closed while this waited for its turn
                watch.close()
                turns.over(turn)
                return

            def run() -> None:
                try:
                    with set_curdoc(document), hold(document):
                        function()
                finally:
                    turns.over(turn)

            try:
                document.add_next_tick_callback(run)
            except Exception:  # noqa: BLE001 - whatever a document says that is going away
                watch.close()
                turns.over(turn)

        turns.ask(loop, Turn(begin, lambda: watch.asked))

    return push


def watch_page(hub: Hub, feed: Feed, role: Callable[[], Role] = lambda: Role.VIEWER) -> Watch:
    """Return the watch of the page that is being made; it ends with the page."""
    watch = Watch(hub, feed, role=role)
    pn.state.on_session_destroyed(lambda context: watch.close())
    return watch


class View:
    """One tab of a run's page, or one cell of a notebook.

    A view draws something sensible for an empty, a running, a failed and a finished run, and computes nothing that
    `separatrix.estimates` could.

    Parameters
    ----------
    scope : of the run and the document
    """

    id: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.feed = scope.feed

    def __panel__(self) -> Viewable:
        """Return what is shown; made once per document."""
        raise NotImplementedError


def card(title: str, *content: Any, note: str = "", **options: Any) -> pn.Column:
    """Return content under a heading, with a line that says what is seen."""
    head = f'<div class="sx-card-title">{title}</div>' + (f'<div class="sx-note">{note}</div>' if note else "")
    return pn.Column(
        html(head),
        *content,
        css_classes=["sx-card"],
        stylesheets=[CSS],
        **({"sizing_mode": "stretch_width", "margin": (0, 0, 12, 0)} | options),
    )


def beside(*cards: pn.Column, least: int) -> pn.Row:
    """Return cards beside each other where there is room for ``least`` px each, all as high as the highest.

    No `panel.FlexBox`: figures that are in it from the start are drawn without a width.
    """
    for each in cards:
        each.param.update(styles={"flex": f"1 1 {least}px", "align-self": "stretch", "height": "auto"}, margin=0)
    styles = {"flex-wrap": "wrap", "gap": "12px", "align-items": "stretch"}
    return pn.Row(*cards, styles=styles, sizing_mode="stretch_width", margin=(0, 0, 12, 0))


def fact(name: str, number: str, more: str = "") -> str:
    """Return a number with its name above and what it means below, as HTML."""
    return (
        f'<div class="sx-fact"><div class="sx-fact-name">{escaped(name)}</div>'
        f'<div class="sx-number">{escaped(number)}</div>'
        f'<div class="sx-fact-more">{escaped(more) or "&nbsp;"}</div></div>'
    )


def result_query(name: str) -> Query:
    """Return the query of a result that the run holds, read when it changed, and when a first model is there."""
    return Query(
        key=name,
        compute=lambda feed, snapshot: feed.result(name),
        depends=lambda snapshot: (stamp(snapshot.result_file(name)), snapshot.model_version > 0),
    )


def bar(share: float, words: str, *, label: str = "progress") -> str:
    """Return a progress bar with words beside it, as HTML; the words are HTML, too."""
    return (
        f'<div class="sx-head"><div class="sx-bar" role="progressbar" aria-valuenow="{share * 100:.0f}" '
        f'aria-label="{label}"><div style="width:{share:.1%}"></div></div>'
        f'<span class="sx-bar-words">{words}</span></div>'
    )
