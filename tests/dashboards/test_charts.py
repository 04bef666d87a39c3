"""Charts: HoloViews draws once, then columns stream, and they are those HoloViews itself would have drawn."""

from __future__ import annotations

import re
import threading
import time
from itertools import combinations

import holoviews as hv
import numpy as np
import pytest
from bokeh.core.property.bases import Property, validation_on
from bokeh.core.property.validation import validate
from bokeh.model import Model
from bokeh.models import DataRange1d, Range1d

from separatrix_dashboards.charts import Chart, Drawing, Template, Templates, leaves
from separatrix_dashboards.hub import Failure

hv.extension("bokeh")


def elements(n):
    """Return one of each kind of leaf with n points, n may be 0."""
    x = np.arange(n, dtype=float)
    z = np.add.outer(np.arange(4.0), np.arange(4.0)) + n
    image = hv.Image((np.arange(4.0), np.arange(4.0), z), ["a", "b"], "p")
    return {
        "curve": hv.Curve((x, x), "shot", "number"),
        "scatter": hv.Scatter((x, x, x), "shot", ["number", "colour"]).opts(color="colour", cmap="RdBu_r"),
        "area": hv.Area((x, x, x + 1), "shot", ["low", "high"]),
        "errors": hv.ErrorBars((x, x, x + 1, x + 1), "shot", ["number", "below", "above"]),
        "histogram": hv.Histogram((np.arange(n + 2.0), np.arange(n + 1.0)), kdims="time", vdims="density"),
        "segments": hv.Segments((x, x, x + 1, x), ["a", "b", "c", "d"]),
        "points": hv.Points((x, x), ["a", "b"]),
        "labels": hv.Labels({"a": x, "b": x, "text": [str(i) for i in x]}, ["a", "b"], "text"),
        "path": hv.Path([{"a": x, "b": x}] if n else [], ["a", "b"]),
        "image": image,
    }


@pytest.mark.parametrize("kind", elements(1))
@pytest.mark.parametrize(("first", "second"), [(0, 5), (5, 9), (5, 0)])
def test_streamed_columns_are_those_of_a_new_figure(kind, first, second):
    if kind == "labels" and first == 0:
        pytest.skip("HoloViews cannot draw labels of nothing")
    chart = Chart()
    chart.apply(Drawing(elements(first)[kind]))
    figure = chart.figure
    chart.apply(Drawing(elements(second)[kind]))
    assert chart.figure is figure
    expected = next(leaves(hv.renderer("bokeh").get_plot(elements(second)[kind]))).handles["source"].data
    found = chart.source(0).data
    assert set(found) == set(expected)
    for name, column in expected.items():
        for one, other in zip(found[name], column, strict=True):
            np.testing.assert_array_equal(one, other)


def test_overlays_stream_leaf_by_leaf():
    def overlay(n):
        parts = elements(n)
        return parts["area"] * parts["curve"] * parts["errors"]

    chart = Chart()
    chart.apply(Drawing(overlay(3)))
    chart.apply(Drawing(overlay(7)))
    assert [len(next(iter(chart.source(leaf).data.values()))) for leaf in range(3)] == [14, 7, 7]


def test_an_element_of_another_build_is_drawn_anew():
    chart = Chart()
    chart.apply(Drawing(elements(3)["curve"]))
    figure = chart.figure
    chart.apply(Drawing(elements(3)["curve"] * elements(3)["errors"]))
    assert chart.figure is not figure


def test_axes_follow_the_data_unless_they_are_fixed():
    chart = Chart(fixed=("y",))
    chart.apply(Drawing(elements(3)["curve"].opts(ylim=(0, 1))))
    assert isinstance(chart.figure.x_range, DataRange1d)
    assert isinstance(chart.figure.y_range, Range1d)
    assert chart.figure.y_range.end == 1


def test_columns_are_made_once_for_all_documents():
    drawing = Drawing(elements(3)["curve"])
    charts = [Chart(), Chart()]
    for chart in charts:
        chart.apply(Drawing(elements(2)["curve"]))
        chart.apply(drawing)
    first, second = (drawing.columns(chart._template) for chart in charts)
    assert first is second


def test_a_failure_is_told_in_place_of_the_figure_and_the_figure_comes_back():
    chart = Chart()
    chart.apply(Failure(message="<no> map"))
    assert "&lt;no&gt; map" in chart.pane[0].object
    chart.apply(Drawing(elements(2)["curve"]))
    assert chart.figure is not None
    assert len(chart.pane) == 1


def test_documents_get_copies_of_one_figure_that_share_nothing(monkeypatch):
    made = []
    monkeypatch.setattr("separatrix_dashboards.charts.Template", lambda element: made.append(1) or Template(element))
    templates, charts = Templates(), [Chart() for _ in range(3)]
    for n, chart in enumerate(charts):
        chart.apply(Drawing(elements(n + 2)["curve"], templates))
    assert len(made) == 1
    models = [chart.figure.references() for chart in charts]
    ids = [{model.id for model in each} for each in models]
    assert not any(one & other for group in (models, ids) for one, other in combinations(group, 2))
    assert len({len(each) for each in models}) == 1
    assert [chart.source(0).data["shot"] for chart in charts] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_figures_drawn_in_several_threads_at_once_leave_bokehs_validation_on(monkeypatch):
    class Long(validate):
        def __enter__(self):
            time.sleep(0.05)

    monkeypatch.setattr("holoviews.plotting.bokeh.plot.validate", Long)
    monkeypatch.setattr(Property, "_should_validate", True)
    threads = [threading.Thread(target=lambda: Template(elements(4)["scatter"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert validation_on()


@pytest.mark.parametrize("kind", elements(1))
def test_a_copy_is_the_figure_that_holoviews_draws(kind):
    drawn = hv.renderer("bokeh").get_plot(elements(4)[kind]).state
    copy, sources = Template(elements(4)[kind]).copy()
    for one, other in zip(described(copy), described(drawn), strict=True):
        assert one == other
    assert len(sources) == 1


def described(figure):
    """Return the type and every property of every model, in the order in which they are met, without data."""
    order, told = {}, []

    def plain(value):
        if isinstance(value, Model):
            if value not in order:
                order[value] = len(order)
                values = sorted(value.properties_with_values().items())
                told.append((type(value), [(name, plain(each)) for name, each in values if name != "data"]))
            return order[value]
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return repr(float(value)) if isinstance(value, int | float) else re.sub(r"id='\w+'", "", repr(value))

    plain(figure)
    return told
