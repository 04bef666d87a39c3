"""The mechanism on pages: formulas beside the network, and analyses that run beside the sessions."""

from __future__ import annotations

import shutil
import sys
from functools import partial

import panel as pn
import pytest
from bokeh.events import Tap
from tests.page_document import DOCUMENT, push, wait_until

from separatrix import Session, read
from separatrix.errors import ConfigError, SeparatrixError
from separatrix_dashboards.access import PermissionDeniedError, Role
from separatrix_dashboards.analyses import Analyses
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.sessions import SessionPool
from separatrix_dashboards.views.base import Watch
from separatrix_dashboards.views.mechanism import MechanismView
from separatrix_dashboards.views.mechanism.formulas import recommended_row, rows_of
from separatrix_dashboards.views.validation import ValidationView

until = partial(wait_until, seconds=60.0)


@pytest.fixture(scope="module")
def explained_run(landscape_run, tmp_path_factory):
    """Return a copy of a finished run with a mechanism that was read off in a short search."""
    path = shutil.copytree(landscape_run, tmp_path_factory.mktemp("explained") / "explained")
    Session.open(path).explain(generations=40, progress=False)
    return path


@pytest.fixture
def viewed(explained_run):
    """Return what makes the view of a run with a mechanism, for a role."""
    pool = SessionPool(1)
    hubs = []

    def view(path=explained_run, role=Role.OPERATOR, kind=MechanismView):
        hub = Hub(path.parent, pool)
        hubs.append(hub)
        with DOCUMENT:
            result = kind(Watch(hub, hub.feed(path), push=push, role=lambda: role).scope())
            return result, result.__panel__()

    yield view
    for hub in hubs:
        hub.close()
    pool.close()


def labels(panel):
    return [button.label for button in panel.select(pn.widgets.Button) if button.visible]


def test_a_formula_is_typeset_compared_and_ready_to_copy(viewed, explained_run):
    result = read(explained_run).result("mechanism")
    view, panel = viewed()
    until(lambda: view._shown is not None)
    row = rows_of(result)[recommended_row(result)]
    assert "<math>" in view._typeset.object
    assert view._copy.text == row["expression"]
    view._language.value = "LaTeX"
    assert view._copy.text == row["latex"]
    until(lambda: all(chart.figure is not None for chart in (*view._maps, view._points, view._front)))
    assert f"{row['validation_loss']:.3f}" in view._facts.object
    assert "Explain" in labels(panel)


def test_a_tap_on_the_front_chooses_the_nearest_formula(viewed):
    view, _ = viewed()
    until(lambda: view._shown is not None)
    shown, rows = view._shown, rows_of(view._result)
    with DOCUMENT:
        view._tap(Tap(view._front.figure, x=rows[0]["complexity"] + 0.2, y=0.5))
    assert view._choice.value == 0
    until(lambda: view._shown not in (None, shown))
    assert view._copy.text == rows[0]["expression"]
    assert view._shown.agreement.r_squared != shown.agreement.r_squared


def test_viewers_and_notebooks_get_no_controls(viewed, explained_run):
    assert labels(viewed(role=Role.VIEWER)[1]) == []
    hub = Hub()
    view = MechanismView(Watch(hub, hub.feed(explained_run), push=push, role=lambda: Role.OPERATOR).scope())
    with DOCUMENT:
        assert labels(view.__panel__()) == []
    hub.close()


def test_an_analysis_from_the_page_brings_its_result(viewed, landscape_run, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    view, panel = viewed(path)
    with DOCUMENT:
        (start,) = [button for button in panel.select(pn.widgets.Button) if button.label == "Explain"]
        view_generations = next(field for field in panel.select(pn.widgets.IntInput) if field.label == "generations")
        view_generations.value = 10
        start.clicks += 1
    until(lambda: "Cancel" in labels(panel))
    until(lambda: view._result != {})
    until(lambda: labels(panel) == ["Explain"])
    assert read(path).result("mechanism")["complete"]


def test_a_validation_from_the_page_brings_its_result(viewed, landscape_run, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    view, panel = viewed(path, kind=ValidationView)
    with DOCUMENT:
        (start,) = [button for button in panel.select(pn.widgets.Button) if button.label == "Validate"]
        for field, number in zip(panel.select(pn.widgets.IntInput), (5, 8), strict=True):
            field.value = number
        start.clicks += 1
    until(lambda: "Cancel" in labels(panel))
    until(lambda: view._result is not None and view._result["complete"])
    until(lambda: labels(panel) == ["Validate"])
    assert read(path).result("validation")["trajectories"] == 40
    assert labels(viewed(path, Role.VIEWER, ValidationView)[1]) == []


def test_an_analysis_can_be_cancelled_and_keeps_what_it_found(landscape_run, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    analyses = Analyses()
    analyses.start(path, "explain", {"generations": 1_000_000}, role=Role.OPERATOR)
    with pytest.raises(SeparatrixError, match="under way already"):
        analyses.start(path, "explain", {}, role=Role.OPERATOR)
    until(lambda: "formulas fitted" in analyses.of(path)["explain"].words)
    with pytest.raises(PermissionDeniedError):
        analyses.cancel(path, "explain", role=Role.VIEWER)
    analyses.cancel(path, "explain", role=Role.OPERATOR)
    until(lambda: not analyses.of(path)["explain"].running)
    assert analyses.of(path)["explain"].problem == ""
    assert not read(path).result("mechanism")["complete"]


def test_an_analysis_can_be_cancelled_before_it_has_begun(landscape_run, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    analyses = Analyses()
    analyses.start(path, "explain", {"generations": 1_000_000}, role=Role.OPERATOR)
    analyses.cancel(path, "explain", role=Role.OPERATOR)
    until(lambda: not analyses.of(path)["explain"].running)
    assert analyses.of(path)["explain"].problem == ""


@pytest.mark.parametrize("cancelled", [True, False])
def test_an_analysis_whose_python_ends_while_it_starts_is_cancelled_if_somebody_wanted_that(
    tmp_path, monkeypatch, cancelled
):
    """Python says "Fatal Python error" then, and ends with code 1."""
    program, listens = tmp_path / "python", tmp_path / "listens"
    wait = f"trap 'exit 1' INT; touch {listens}; while true; do sleep 0.05; done" if cancelled else "exit 1"
    program.write_text(f"#!/bin/sh\n{wait}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    analyses = Analyses()
    analyses.start(tmp_path, "explain", {}, role=Role.OPERATOR)
    if cancelled:
        until(listens.exists)
        analyses.cancel(tmp_path, "explain", role=Role.OPERATOR)
    until(lambda: not analyses.of(tmp_path)["explain"].running)
    told = "" if cancelled else "it ended with exit code 1; the log of the server tells more"
    assert analyses.of(tmp_path)["explain"].problem == told


def test_an_emptied_field_of_an_analysis_is_told(viewed, landscape_run, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    _, panel = viewed(path, Role.OPERATOR, ValidationView)
    with DOCUMENT:
        (start,) = [button for button in panel.select(pn.widgets.Button) if button.label == "Validate"]
        (field,) = [field for field in panel.select(pn.widgets.IntInput) if field.label == "shots of each"]
        field.value = None
        start.clicks += 1
    said = [str(pane.object) for pane in panel.select(lambda pane: hasattr(pane, "object"))]
    assert any("shots of each: expected a number" in text for text in said)


def test_analyses_that_cannot_be_are_refused_or_say_why(empty_run):
    analyses = Analyses()
    with pytest.raises(PermissionDeniedError):
        analyses.start(empty_run, "explain", {}, role=Role.VIEWER)
    with pytest.raises(ConfigError, match="expected an analysis"):
        analyses.start(empty_run, "magic", {}, role=Role.OPERATOR)
    assert analyses.of(empty_run) == {}
    analyses.start(empty_run, "explain", {}, role=Role.OPERATOR)
    until(lambda: not analyses.of(empty_run)["explain"].running)
    assert "expected a trained committor" in analyses.of(empty_run)["explain"].problem
