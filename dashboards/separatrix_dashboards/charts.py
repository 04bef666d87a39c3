"""Charts: figures that HoloViews draws once and whose data then stream.

A full HoloViews update costs 0.15 s of processor time for every document, and so does a new figure. Here HoloViews
draws a figure once, documents get copies of it, and elements are turned into columns once for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np
import panel as pn
from bokeh.core.serialization import Deserializer, Serializer
from bokeh.document import Document
from bokeh.models import ColumnDataSource, DataRange1d, Plot
from bokeh.util.serialization import make_id

from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import empty
from separatrix_dashboards.words import escaped

Element = hv.Element | hv.Overlay
_FEW = 64
"""Numbers of a column that go into the text of a message."""

Columns = tuple[Mapping[str, Any], ...]
"""The columns of every leaf of an element, in order."""

_DRAWING = threading.Lock()
"""Held while HoloViews draws: it turns Bokeh's validation off and on again for the whole process, and where two threads
do so at once it stays off, after which colours are written down wrongly."""


class Template:
    """A figure as HoloViews draws it, of which every document gets a copy: that takes a third of the time.

    Parameters
    ----------
    element : what is drawn; of later ones of the same build only the columns are needed
    """

    def __init__(self, element: Element) -> None:
        with _DRAWING:
            # A document of its own: that of whoever looks first would be kept. Other modes take the current one anyhow.
            self._plot = hv.renderer("bokeh").instance(mode="server").get_plot(element, doc=Document())
            sources = [leaf.handles["source"] for leaf in leaves(self._plot)]
            for source in sources:
                source.data = {}
            self._figure = Serializer().encode(self._plot.state)
        self._ids = [source.id for source in sources]

    def columns(self, element: Element) -> Columns:
        """Return the columns of an element; none if it is of another build."""
        parts = list(element) if isinstance(element, hv.Overlay) else [element]
        plots = list(leaves(self._plot))
        return tuple(map(_columns, plots, parts)) if len(parts) == len(plots) else ()

    def copy(self) -> tuple[Plot, list[ColumnDataSource]]:
        """Return a figure that is nowhere else yet, and the sources of its leaves, which are empty."""
        ids: dict[str, str] = {}
        figure = Deserializer().decode(_renamed(self._figure, ids))
        models = {model.id: model for model in figure.references()}
        return figure, [models[ids[source]] for source in self._ids]


class Templates:
    """The template of a chart, made once for all documents, and anew for an element of another build."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._template: Template | None = None

    def of(self, drawing: Drawing) -> Template:
        """Return a template into which a drawing fits."""
        with self._lock:
            if self._template is None or not drawing.columns(self._template):
                self._template = Template(drawing.element)
            return self._template


@dataclass(eq=False)
class Drawing:
    """An element and, once some document needed them, its columns.

    Attributes
    ----------
    templates : the same for all drawings of one chart; by default this drawing's own
    """

    element: Element
    templates: Templates = field(default_factory=Templates)

    def __post_init__(self) -> None:
        """Have the columns made by one document alone."""
        self._lock = threading.Lock()
        self._columns: Columns = ()

    def columns(self, template: Template) -> Columns:
        """Return the columns as a template of the same build makes them; none if it is of another one."""
        with self._lock:
            if not self._columns:
                self._columns = template.columns(self.element)
            return self._columns

    def ready(self) -> Drawing:
        """Draw it in this thread, after which documents only copy, and return it."""
        self.columns(self.templates.of(self))
        return self


def drawn(
    key: Hashable,
    draw: Callable[[Feed, RunSnapshot], Element],
    depends: Callable[[RunSnapshot], Hashable] | None = None,
    *,
    slow: bool = False,
) -> Query:
    """Return the query of a chart.

    Parameters
    ----------
    key : of the chart and everything chosen in it
    draw : returns an element or an overlay whose leaves are the same in number and kind whatever the run holds
    depends, slow : as of `Query`
    """
    options: dict[str, Any] = {} if depends is None else {"depends": depends}

    def compute(feed: Feed, snapshot: RunSnapshot) -> Drawing:
        return Drawing(draw(feed, snapshot), feed.shared(("figure", key), Templates))

    return Query(key=key, compute=compute, slow=slow, **options)


class Chart:
    """One figure in one document.

    Parameters
    ----------
    fixed : axes whose range is that of the first drawing or of its options, and does not follow the data
    height : px; the width is that of the page

    Attributes
    ----------
    pane : what a page shows
    figure : the Bokeh figure, once something was drawn
    """

    def __init__(
        self, *, fixed: tuple[str, ...] = (), height: int = 280, ready: Callable[[Plot], None] | None = None
    ) -> None:
        self._fixed, self._height, self._ready = fixed, height, ready
        self._template: Template | None = None
        self._sources: list[ColumnDataSource] = []
        self._shown: Drawing | None = None
        self.figure: Plot | None = None
        self.pane = pn.Column(empty("drawing"), sizing_mode="stretch_width", min_height=height, margin=0)

    def apply(self, drawing: Drawing | Failure) -> None:
        """Show a drawing."""
        if isinstance(drawing, Failure):
            self._template = self._shown = None
            self.pane[:] = [empty(escaped(drawing.message))]
            return
        if drawing is self._shown:
            return
        self._shown = drawing
        columns = () if self._template is None else drawing.columns(self._template)
        drawn_anew = len(columns) != len(self._sources) or not columns
        if drawn_anew:
            self._template = drawing.templates.of(drawing)
            self.figure, self._sources = self._template.copy()
            columns = drawing.columns(self._template)
        for source, data in zip(self._sources, columns, strict=True):
            source.data = dict(data)
        if drawn_anew:
            self._show(self.figure)

    def source(self, index: int) -> ColumnDataSource:
        """Return the source of the n-th leaf, to listen to taps on it."""
        return self._sources[index]

    def _show(self, figure: Plot) -> None:
        for axis in ("x", "y"):
            if axis not in self._fixed:
                setattr(figure, f"{axis}_range", DataRange1d(range_padding=0.04))
        figure.height, figure.sizing_mode = self._height, "stretch_width"
        figure.toolbar.logo = None
        figure.toolbar.active_scroll = None  # the wheel belongs to the page
        figure.toolbar.autohide = True
        if self._ready is not None:
            self._ready(figure)
        self.pane[:] = [pn.pane.Bokeh(figure, sizing_mode="stretch_width", height=self._height, margin=0)]


def leaves(plot: Any) -> Iterator[Any]:
    """Yield the plots of the single elements of a plot."""
    if getattr(plot, "subplots", None):
        for subplot in plot.subplots.values():
            yield from leaves(subplot)
    else:
        yield plot


def _columns(leaf: Any, part: hv.Element) -> Mapping[str, Any]:
    """Return the columns of an element as the plot of one like it makes them."""
    style = dict(leaf.lookup_options(part, "style")[0])
    data, _, style = leaf.get_data(part, {}, style)
    data = dict(data)
    leaf._apply_transforms(part, data, {}, style)  # noqa: SLF001 - adds the columns of colours and sizes given by data
    return {name: _light(column) for name, column in data.items()}


def _renamed(part: Any, ids: dict[str, str]) -> Any:
    """Return a part of a figure as it was written down, its models under new names that are noted in ``ids``."""
    if isinstance(part, dict):
        return {
            key: ids.setdefault(value, make_id()) if key == "id" else _renamed(value, ids)
            for key, value in part.items()
        }
    return [_renamed(each, ids) for each in part] if isinstance(part, list) else part


def _light(column: Any) -> Any:
    """Return a column as it is sent at the least cost: a buffer costs as much as some hundred numbers in the text."""
    few = isinstance(column, np.ndarray) and column.dtype.kind in "fi" and column.ndim == 1 and len(column) <= _FEW
    return column.tolist() if few else column
