"""What fails in one document is no matter of the others."""

from __future__ import annotations

import gc

import holoviews as hv
import panel as pn
import pytest
from bokeh.document import Document
from bokeh.document.callbacks import invoke_with_curdoc
from bokeh.io import curdoc

from separatrix_dashboards.charts import Template
from separatrix_dashboards.documents import contain_errors, log_error
from separatrix_dashboards.words import lasting


def fail():
    raise ZeroDivisionError("in a callback")


def test_a_callback_that_fails_breaks_nothing_once_its_page_is_closed():
    contain_errors()
    contain_errors()
    before, page = curdoc(), Document()
    with pytest.raises(ZeroDivisionError, match="in a callback"):
        invoke_with_curdoc(page, fail)
    del page
    gc.collect()
    assert curdoc() is before


def test_what_a_browser_made_up_takes_a_line_of_the_log_and_what_is_our_fault_its_stack(caplog, monkeypatch):
    monkeypatch.setattr(pn.config, "exception_handler", log_error)
    select = pn.widgets.Select(options=["a", "b"])
    for value, stack in (("made up", False), ("b", True)):
        if stack:
            select.param.watch(lambda _: lasting("no number"), "value")
        caplog.clear()
        select._comm_change(Document(), "", None, None, "value", "a", value)
        (record,) = (record for record in caplog.records if record.name == log_error.__module__)
        assert (record.exc_info is not None) == stack
    assert select.value == "b"


def test_figures_are_drawn_in_no_page():
    page = Document()
    invoke_with_curdoc(page, lambda: Template(hv.Curve([1, 2, 3])).copy())
    assert not page.session_destroyed_callbacks
