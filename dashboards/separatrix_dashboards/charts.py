"""Charts: figures that HoloViews draws once per document and whose data then stream.

A full HoloViews update costs 0.15 s of processor time for every document. Here an element is drawn once for all
documents, HoloViews turns it into columns once, and each document only gets new columns for its sources.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np
import panel as pn
from bokeh.models import ColumnDataSource, DataRange1d, Plot

from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import empty
from separatrix_dashboards.words import escaped

Element = hv.Element | hv.Overlay
_FEW = 64
"""Numbers of a column that go into the text of a message."""

Columns = tuple[Mapping[str, Any], ...]
"""The columns of every leaf of an element, in order."""


@dataclass(eq=False)
class Drawing:
    """An element and, once some document needed them, its columns."""

    element: Element

    def __post_init__(self) -> None:
        """Have the columns made by one document alone."""
        self._lock = threading.Lock()
        self._columns: Columns | None = None

    def columns(self, plot: Any) -> Columns:
        """Return the columns as a plot of an element of the same build makes them."""
        with self._lock:
            if self._columns is None:
                self._columns = _columns(plot, self.element)
            return self._columns


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
    return Query(key=key, compute=lambda feed, snapshot: Drawing(draw(feed, snapshot)), slow=slow, **options)


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
        self._plot: Any = None
        self._shown: Drawing | None = None
        self.figure: Plot | None = None
        self.pane = pn.Column(empty("drawing"), sizing_mode="stretch_width", min_height=height, margin=0)

    def apply(self, drawing: Drawing | Failure) -> None:
        """Show a drawing."""
        if isinstance(drawing, Failure):
            self._plot = None
            self.pane[:] = [empty(escaped(drawing.message))]
            return
        if drawing is self._shown:
            return
        self._shown = drawing
        if self._plot is None:
            self._build(drawing.element)
            return
        columns = drawing.columns(self._plot)
        sources = [leaf.handles["source"] for leaf in leaves(self._plot)]
        if len(columns) != len(sources):  # drawn otherwise than before
            self._build(drawing.element)
            return
        for source, data in zip(sources, columns, strict=True):
            source.data = dict(data)

    def source(self, index: int) -> ColumnDataSource:
        """Return the source of the n-th leaf, to listen to taps on it."""
        return list(leaves(self._plot))[index].handles["source"]

    def _build(self, element: Element) -> None:
        self._plot = hv.renderer("bokeh").get_plot(element)
        figure = self._plot.state
        for axis in ("x", "y"):
            if axis not in self._fixed:
                setattr(figure, f"{axis}_range", DataRange1d(range_padding=0.04))
        figure.height, figure.sizing_mode = self._height, "stretch_width"
        figure.toolbar.logo = None
        figure.toolbar.active_scroll = None  # the wheel belongs to the page
        figure.toolbar.autohide = True
        self.figure = figure
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


def _columns(plot: Any, element: Element) -> Columns:
    parts = list(element) if isinstance(element, hv.Overlay) else [element]
    plots = list(leaves(plot))
    if len(parts) != len(plots):
        return ()
    result = []
    for leaf, part in zip(plots, parts, strict=True):
        style = dict(leaf.lookup_options(part, "style")[0])
        data, _, style = leaf.get_data(part, {}, style)
        data = dict(data)
        leaf._apply_transforms(part, data, {}, style)  # noqa: SLF001 - adds the columns of colours and sizes given by data
        result.append({name: _light(column) for name, column in data.items()})
    return tuple(result)


def _light(column: Any) -> Any:
    """Return a column as it is sent at the least cost: a buffer costs as much as some hundred numbers in the text."""
    few = isinstance(column, np.ndarray) and column.dtype.kind in "fi" and column.ndim == 1 and len(column) <= _FEW
    return column.tolist() if few else column
