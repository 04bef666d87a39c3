"""The head of a run's page, its log and its frames for results, without a browser."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import holoviews as hv
import panel as pn
import pytest
from tests.page_document import DOCUMENT, push

from separatrix.gpus import Gpu
from separatrix.records import RunState
from separatrix.store import write_result
from separatrix_dashboards.access import PermissionDeniedError, Role
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.pages.head import Head, facts, name_html, progress_html
from separatrix_dashboards.sessions import SessionPool
from separatrix_dashboards.views.base import Watch
from separatrix_dashboards.views.log import LogView, events_html, failures_html
from separatrix_dashboards.views.mechanism import MechanismView
from separatrix_dashboards.views.mechanism.formulas import formulas_html
from separatrix_dashboards.views.mechanism.relevance import draw_relevance, relevance_note
from separatrix_dashboards.views.registry import VIEWS
from separatrix_dashboards.views.validation import ValidationView, scores_html
from separatrix_dashboards.views.validation import how_to_get_it as how_to_validate
from separatrix_dashboards.widgets import CopyText, download

HOSTILE = "<script>alert(1)</script>"


def texts(viewable):
    """Return the HTML of every pane."""
    return " ".join(str(pane.object) for pane in viewable.select(lambda pane: hasattr(pane, "object")))


KNOWN = ("loss", "explained", "slope", "intercept", "r_squared", "rmse")
VALIDATION = {
    "configurations": 4,
    "shots": 100,
    "complete": False,
    "drawn_with": 7,
    "model_version": 7,
    "trajectories": 3,
    "neither": 0,
    "failed": 0,
    "null_loss": 0.69,
    "saturated_loss": 0.4,
    "r_squared_ceiling": 0.93,
    "r_squared_ceiling_error": 0.01,
    "points": {"observed": [0.0, 0.5, 1.0, None], "lower": [0.0, 0.2, 0.4, 0.0], "upper": [0.6, 0.8, 1.0, 1.0]},
    "predictors": [
        {"name": "network", "expression": None, "complexity": None, "recommended": False, "q": [0.0] * 4}
        | dict.fromkeys(KNOWN, 0.8)
        | dict.fromkeys([f"{name}_error" for name in KNOWN], 0.05),
        {
            "name": "2*x",
            "expression": "2*x",
            "complexity": 4,
            "recommended": True,
            "q": [-1.0986123, None, 1.0986123, 0.0],
        }
        | dict.fromkeys([*KNOWN, *(f"{name}_error" for name in KNOWN)]),
    ],
}
"""A validation under way, with a formula that has no value for one configuration."""


def figures(viewable):
    """Return the figures of every pane."""
    return [pane.object for pane in viewable.select(pn.pane.Bokeh)]


def dots(view):
    """Return predicted and sampled p_B of the points drawn."""
    data = view._chart.source(2).data
    return list(data["predicted"]), list(data["sampled"])


def watched(hub, run):
    return Watch(hub, hub.feed(run), push=push)


@pytest.fixture
def pool():
    pool = SessionPool(2)
    yield pool
    pool.close()


def test_the_head_tells_how_a_run_stands(any_feed):
    snapshot = any_feed.snapshot
    assert f'data-state="{snapshot.status.state.value}"' in name_html(snapshot)
    assert f"{snapshot.status.steps:,}</span> of {snapshot.status.target:,} steps" in progress_html(snapshot, None)
    numbers = {name: number for name, number, _ in facts(snapshot)}
    assert numbers["transitions"] == f"{snapshot.status.transitions:,}"
    assert ("±" in numbers["yield"]) == (snapshot.n_shots > 0)


GPU = Gpu(
    index=0,
    name="NVIDIA Test",
    driver="580",
    memory_used=2**30,
    memory_total=80 * 2**30,
    utilisation=93,
    temperature=61,
)


def test_the_head_shows_the_load_of_gpus_of_a_run_that_computes_on_them_here(landscape_run, hub, monkeypatch):
    monkeypatch.setattr(hub.gpus, "read", lambda: (GPU, replace(GPU, index=1, utilisation=None, temperature=None)))
    head = Head(watched(hub, landscape_run).scope(), None, lambda: Role.VIEWER, hub.refresh)
    snapshot = Feed(landscape_run).snapshot
    live = replace(snapshot, status=replace(snapshot.status, state=RunState.RUNNING, platform="CUDA"), owned=True)
    head._show(live)
    for words in ("GPU 0 busy", "93 %", "1.0 of 80 GiB, 61 °C", "GPU 1 busy"):
        assert words in head._gpus.object
    monkeypatch.setattr(hub.gpus, "read", lambda: ())
    head._show(live)
    assert head._gpus.object == ""
    monkeypatch.setattr(hub.gpus, "read", lambda: pytest.fail("nobody asked"))
    monkeypatch.setattr("separatrix_dashboards.pages.head.lock_holder", lambda path: "process 7 on another host")
    on_processors = replace(live.status, platform="Reference")
    for other in (snapshot, replace(live, status=on_processors), replace(live, owned=False)):
        head._show(other)
        assert head._gpus.object == ""


def test_viewers_get_no_controls(landscape_run, hub, pool):
    def widgets(role):
        head = Head(watched(hub, landscape_run).scope(), pool, lambda: role, hub.refresh)
        return list(head.__panel__().select(lambda pane: hasattr(pane, "clicks")))

    assert widgets(Role.VIEWER) == []
    assert [button.label for button in widgets(Role.OPERATOR)] == ["Continue", "Pause", "Stop"]


def test_a_forged_control_is_refused(landscape_run, hub, pool):
    roles = iter([Role.OPERATOR])
    head = Head(watched(hub, landscape_run).scope(), pool, lambda: next(roles, Role.VIEWER), hub.refresh)
    head.__panel__()
    head._on_start(None)
    assert "only operators may" in head._problem.object
    with pytest.raises(PermissionDeniedError):
        pool.start(landscape_run, role=Role.VIEWER)


def test_an_emptied_number_is_told_and_the_button_can_be_clicked_again(landscape_run, hub, pool):
    head = Head(watched(hub, landscape_run).scope(), pool, lambda: Role.OPERATOR, hub.refresh)
    head.__panel__()
    head._target.value = None  # as browsers send it
    head._on_start(None)
    assert "target steps: expected a number" in head._problem.object
    assert not head._start.disabled


def test_files_are_made_in_a_thread():
    button = download("PDB", threading.current_thread, "path.pdb")
    assert asyncio.run(button.callback()) is not threading.current_thread()


def test_a_problem_is_shown_and_what_comes_from_outside_is_escaped(failed_run):
    snapshot = replace(Feed(failed_run).snapshot, problem=HOSTILE, name=HOSTILE)
    shown = name_html(snapshot) + progress_html(snapshot, 3.0) + failures_html(snapshot)
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_the_log_shows_failures_with_their_cause_and_every_event(any_feed):
    failures, events = failures_html(any_feed.snapshot), events_html(any_feed.snapshot)
    recorded = [event for event in any_feed.snapshot.events if event["event"] == "failure"]
    assert failures.count("<details>") == sum("traceback" in event for event in recorded)
    assert events.count("<tr>") - 1 == len(any_feed.snapshot.events) - len(recorded)


@pytest.mark.parametrize("view", [LogView, MechanismView, ValidationView])
def test_views_show_something_for_every_run(view, any_run, hub):
    watch = watched(hub, any_run)
    with DOCUMENT:
        assert len(texts(view(watch.scope()).__panel__())) > 20
    watch.close()


def test_the_configuration_can_be_copied(landscape_run, hub):
    page = LogView(watched(hub, landscape_run).scope()).__panel__()
    (copied,) = (each.text for each in page.select(CopyText))
    assert copied == Feed(landscape_run).snapshot.config.to_toml()
    assert "[sampling]" in copied


def test_results_appear_as_soon_as_the_run_holds_them(running_run, hub):
    watch = watched(hub, running_run)
    scope = watch.scope()
    with DOCUMENT:
        mechanism, validation = MechanismView(scope).__panel__(), ValidationView(scope).__panel__()
    assert "No mechanism yet" in texts(mechanism)
    assert "No committor shooting yet" in texts(validation)
    formula = {"expression": "2.1*x + <y>", "complexity": 5, "training_loss": 0.5, "validation_loss": 0.52, "latex": ""}
    relevance = [{"name": name, "group": name, "mean": mean, "std": 0.1} for name, mean in (("x", 1.0), ("y", 0.2))]
    write_result(running_run, "mechanism", {"relevance": relevance, "expressions": [formula]})
    write_result(running_run, "validation", VALIDATION)
    assert hub.feed(running_run).refresh()
    hub._publish(hub.feed(running_run))
    assert "q = 2.1*x + &lt;y&gt;" in texts(mechanism)
    assert figures(mechanism)[-1].y_range.factors == ["y", "x"]  # names, or the browser refuses to draw
    assert "Sampled against predicted" in texts(validation)


def test_a_validation_grows_under_the_page_and_its_predictors_can_be_chosen(running_run, hub):
    watch = watched(hub, running_run)
    with DOCUMENT:
        view = ValidationView(watch.scope())
        page = view.__panel__()
    feed = hub.feed(running_run)
    assert f"<code>separatrix validate {running_run}</code>" in texts(page)

    def show(result):
        write_result(running_run, "validation", result)
        assert feed.refresh()
        hub._publish(feed)

    show(VALIDATION)
    assert "3 of 400 trajectories from 4 configurations" in texts(page)
    (figure,) = figures(page)
    assert (figure.xaxis[0].axis_label, figure.yaxis[0].axis_label) == ("predicted p_B", "sampled p_B")
    assert (figure.x_range.start, figure.x_range.end) == (-0.02, 1.02)
    assert dots(view) == ([0.5, 0.5, 0.5], [0.0, 0.5, 1.0])  # the last one has no outcome yet
    assert view.predictor.options == {"network": "network", "formula of complexity 4": "2*x"}
    view.predictor.value = "2*x"
    assert dots(view)[0] == pytest.approx([0.25, 0.75])  # it has no value in one of them
    assert "q = 2*x" in texts(page)
    shown = VALIDATION["points"] | {"observed": [0.0, 0.5, 1.0, 0.25], "lower": [0.0] * 4, "upper": [1.0] * 4}
    show(VALIDATION | {"points": shown, "complete": True, "trajectories": 400, "model_version": 9})
    assert view.predictor.value == "2*x"
    assert dots(view)[1] == [0.0, 1.0, 0.25]
    assert figures(page) == [figure]  # the same figure, with other data
    assert "400 trajectories from 4 configurations, drawn with model 7, judged is model 9" in texts(page)
    rival = VALIDATION["predictors"][1] | {"name": "3*x", "expression": "3*x"}
    show(VALIDATION | {"predictors": [*VALIDATION["predictors"], rival]})
    assert view.predictor.options["formula of complexity 4, no. 2"] == "3*x"
    assert len(view.predictor.options) == 3
    show(VALIDATION | {"predictors": VALIDATION["predictors"][:1]})
    assert view.predictor.value == "network"
    assert "q = 2*x" not in texts(page)


def test_scores_stand_between_what_a_constant_and_a_perfect_predictor_reach():
    table = scores_html(VALIDATION)
    rows = [row.split("</td>") for row in table.split("<tr")[2:]]
    assert [row[0].rpartition(">")[2] for row in rows] == [
        "network",
        "formula of complexity 4",
        "perfect: noise ceiling",
        "constant",
        "the frequencies themselves",
    ]
    assert "0.80 ± 0.05" in rows[0][1]
    assert "bold" in rows[1][0]
    assert rows[1][1].endswith(">-")  # nothing is known
    assert "0.93 ± 0.01" in rows[2][1]


def test_a_run_whose_committor_is_not_trained_is_not_told_to_validate(empty_run, landscape_run):
    assert "after ten shots" in how_to_validate(Feed(empty_run).snapshot)
    assert "separatrix validate" in how_to_validate(Feed(landscape_run).snapshot)


def test_inputs_that_were_shuffled_together_are_one_bar():
    def rows(**means):
        return [{"name": name, "group": "phi", "mean": mean, "std": 0.1} for name, mean in means.items()]

    columns = rows(sin=0.2, cos=0.4, r=0.1)
    for result, names in (
        ({"relevance": columns}, ["r", "sin", "cos"]),
        ({"relevance": columns, "groups": rows(r=0.1, phi=0.7)}, ["r", "phi"]),
    ):
        bars = draw_relevance(result).get(0)
        assert bars.dimension_values("input").tolist() == names


def test_the_recommended_formula_is_marked_and_the_noise_is_told():
    row = {"complexity": 1, "training_loss": 0.5, "validation_loss": 0.5}
    result = {"expressions": [{**row, "expression": "x"}, {**row, "expression": "y"}], "recommended": "y"}
    bold = [line for line in formulas_html(result).split("<tr") if "bold" in line]
    assert len(bold) == 1
    assert "q = y" in bold[0]
    assert "bold" not in formulas_html({"expressions": result["expressions"]})
    assert "below 0.012 is noise" in relevance_note({"noise_line": 0.0123})
    assert "noise" not in relevance_note({})


def test_a_part_out_of_sight_computes_nothing(running_run, hub):
    watch = watched(hub, running_run)
    calls = []
    scope = watch.scope(active=False)
    scope.chart("hidden", lambda *_: calls.append(1) or hv.Curve([]))
    assert watch.queries() == ()
    assert calls == []
    scope.active = True
    assert len(watch.queries()) == 1
    assert calls == [1]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_documents_share_results_but_no_model(view, molecule_run, hub):
    watches = [watched(hub, molecule_run) for _ in range(2)]
    with DOCUMENT:
        panels = [view(watch.scope()).__panel__() for watch in watches]
    end = time.monotonic() + 60
    while any(">drawing<" in texts(panel) for panel in panels):
        assert time.monotonic() < end
        time.sleep(0.05)
    pages = [{model for pane in panel.select(pn.pane.Bokeh) for model in pane.object.references()} for panel in panels]
    assert bool(pages[0]) == bool(pages[1]) == (view.id in ("live", "committor", "paths"))
    assert not pages[0] & pages[1]
    for watch in watches:
        watch.close()
