"""The view of a run as it learns: what it draws is what the run holds, for every kind of run."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from functools import partial

import holoviews as hv
import numpy as np
import panel as pn
import pytest
from tests.page_document import DOCUMENT, push, wait_until

from separatrix import Session
from separatrix.estimates import expected_transitions, perfect_yield
from separatrix.records import Reason
from separatrix.rows import are_transitions
from separatrix.store import write_result
from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Failure, Hub
from separatrix_dashboards.views import live
from separatrix_dashboards.views import live_figures as figures
from separatrix_dashboards.views.base import Watch
from separatrix_dashboards.views.live import LiveView
from separatrix_dashboards.views.live_figures import Reference

DRAWN = {
    "transitions": lambda feed: figures.draw_transitions(feed.snapshot, None),
    "yield": lambda feed: figures.draw_yield(feed.snapshot, None),
    "losses": lambda feed: figures.draw_losses(feed, feed.snapshot),
    "rate": lambda feed: figures.draw_rate(feed, feed.snapshot),
    "efficiency": lambda feed: figures.draw_efficiency(feed, feed.snapshot),
    "calibration": lambda feed: figures.draw_calibration(feed, feed.snapshot),
}


def curve(overlay, label):
    """Return the one curve of an overlay that has a label, or None."""
    found = [part for part in overlay if part.label == label and isinstance(part, hv.Curve)]
    assert len(found) <= 1
    return found[0] if found else None


def columns(element):
    """Return the columns of an element by name."""
    return {dimension.name: element.dimension_values(dimension) for dimension in element.dimensions()}


def altered(feed, **shots):
    """Return a feed's snapshot with other columns of shots."""
    return replace(feed.snapshot, shots={**feed.snapshot.shots, **shots})


@pytest.fixture
def watched(any_run):
    """Return a watch of each kind of run, whose document is the hub's own thread."""
    hub = Hub()
    yield Watch(hub, hub.feed(any_run), push=push)
    hub.close()


until = partial(wait_until, seconds=30.0)


# -- every kind of run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
def test_every_chart_of_every_run_is_built_and_then_streams(any_feed, name):
    chart = Chart()
    chart.apply(Drawing(DRAWN[name](any_feed)))
    figure = chart.figure
    assert figure is not None
    chart.apply(Drawing(DRAWN[name](any_feed)))
    assert chart.figure is figure


@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_of_an_empty_run_goes_on_into_a_full_one(empty_run, landscape_run, name):
    empty, full = (DRAWN[name](Feed(run)) for run in (empty_run, landscape_run))
    assert [type(part) for part in empty] == [type(part) for part in full]
    assert [part.label for part in empty] == [part.label for part in full]
    chart = Chart()
    chart.apply(Drawing(empty))
    figure = chart.figure
    chart.apply(Drawing(full))
    assert chart.figure is figure
    fresh = Chart()
    fresh.apply(Drawing(full))
    for streamed, drawn in zip(chart._sources, fresh._sources, strict=True):
        for key, values in drawn.data.items():
            assert np.array_equal(np.asarray(streamed.data[key], float), np.asarray(values, float), equal_nan=True)


def test_the_view_of_every_run_is_made_and_shows_its_shots(watched):
    with DOCUMENT:
        view = LiveView(watched.scope()).__panel__()
    tables = view.select(lambda pane: isinstance(pane, pn.pane.HTML) and "sx-table" in str(pane.object))
    n_shots = watched.feed.snapshot.n_shots
    several = len(watched.feed.snapshot.state_names) > 2  # whose transitions have a table, by pair, and no formulas
    assert len(tables) == (1 + several if n_shots else 0)
    started = view.select(lambda pane: isinstance(pane, pn.pane.HTML) and "sx-empty" in str(pane.object))
    assert any("Start the run" in str(pane.object) for pane in started) == (n_shots == 0)
    waiting = [pane for pane in view.select(pn.pane.HTML) if "Drawn " in str(pane.object) and pane.visible]
    assert len(waiting) == (0 if n_shots else 5)
    n_charts = 6
    until(lambda: len(list(view.select(pn.pane.Bokeh))) == n_charts)


def test_the_view_follows_a_run_that_goes_on(empty_run, tmp_path):
    path = shutil.copytree(empty_run, tmp_path / "run")
    hub = Hub(interval=0.05)
    try:
        watch = Watch(hub, hub.feed(path), push=push)
        with DOCUMENT:
            view = LiveView(watch.scope()).__panel__()
        until(lambda: len(list(view.select(pn.pane.Bokeh))) == 6)
        shown = [pane.object for pane in view.select(pn.pane.Bokeh)]
        Session.open(path).run(12, workers=0, platform="Reference", progress=False)
        table = lambda: next(iter(view.select(lambda p: "sx-table" in str(getattr(p, "object", "")))), None)  # noqa: E731
        until(lambda: table() is not None and table().object.count("<tr>") == 13)
        assert not [pane for pane in view.select(pn.pane.HTML) if "Drawn " in str(pane.object) and pane.visible]
        until(lambda: max(len(r.data_source.data.get("transitions", ())) for r in shown[0].renderers) == 13)
        assert [pane.object for pane in view.select(pn.pane.Bokeh)] == shown
    finally:
        hub.close()


# -- transitions -------------------------------------------------------------------------------------------------------


def test_the_counts_are_those_of_the_run(landscape_run):
    feed = Feed(landscape_run)
    snapshot, status = feed.snapshot, feed.snapshot.status
    drawn = figures.draw_transitions(snapshot, None)
    found = columns(curve(drawn, "generated"))
    assert found["shots"].tolist() == list(range(301))
    assert found["transitions"].tolist() == [0, *np.cumsum(are_transitions(snapshot.shots["ends"]))]
    assert (found["transitions"][-1], found["accepted"][-1]) == (status.transitions, status.accepted)
    assert found["expected"][-1] == pytest.approx(status.expected_transitions, rel=1e-5)
    expected = expected_transitions(snapshot.shots["p_transition"])
    band = drawn.Area.I
    assert band.dimension_values(2)[-1] == pytest.approx(expected.value[-1] + expected.error[-1])
    assert (band.dimension_values(1) >= 0).all()


def test_the_limit_is_that_of_a_perfect_committor(landscape_run, uniform_run):
    feed = Feed(landscape_run)
    line = curve(figures.draw_transitions(feed.snapshot, None), "ideal, independent halves")
    assert line.dimension_values(1).tolist() == pytest.approx([0, 300 * perfect_yield(1.0)])
    assert curve(figures.draw_transitions(Feed(uniform_run).snapshot, None), "ideal, independent halves") is None


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({}, True),
        ({"scale": 0.5}, True),
        ({"selector": "gaussian"}, False),
        ({"selector": "uniform"}, False),
        ({"density_correction": False}, False),
    ],
)
def test_the_limit_holds_for_lorentzian_selection_with_density_correction(landscape_run, changes, there):
    config = Feed(landscape_run).snapshot.config
    other = config.model_copy(update={"sampling": config.sampling.model_copy(update=changes)})
    expected = perfect_yield(other.sampling.scale) if there else None
    assert figures.ideal_yield(other) == expected
    three = other.model_copy(update={"states": {**config.states, "C": "x > 5"}})
    assert figures.ideal_yield(three) is None


def test_a_long_run_is_thinned_and_keeps_its_last_shot(landscape_run):
    feed = Feed(landscape_run)
    many = {name: np.concatenate([column] * 20) for name, column in feed.snapshot.shots.items()}
    snapshot = altered(feed, **many)
    assert snapshot.n_shots == 6000
    found = columns(curve(figures.draw_transitions(snapshot, None), "generated"))
    assert len(found["shots"]) <= 1002
    assert found["shots"][-1] == 6000
    assert found["transitions"][-1] == 20 * feed.snapshot.status.transitions
    window = columns(curve(figures.draw_yield(snapshot, None), "last 100 shots"))
    assert len(window["shots"]) <= 1002


# -- the reference -----------------------------------------------------------------------------------------------------


def test_the_reference_is_the_longest_uniform_run_of_the_same_transition(landscape_run, uniform_run, molecule_run):
    hub = Hub(landscape_run.parent)
    try:
        found = figures.find_reference(hub, hub.feed(landscape_run).snapshot)
        assert found.name == "uniform"
        ends = Feed(uniform_run).snapshot.shots["ends"]
        assert found.is_transition.tolist() == are_transitions(ends).tolist()
        assert figures.find_reference(hub, hub.feed(uniform_run).snapshot) is None
        assert figures.find_reference(hub, hub.feed(molecule_run).snapshot) is None
    finally:
        hub.close()


def test_a_reference_that_goes_on_is_seen_as_it_is_on_the_disk(landscape_run, uniform_run, tmp_path):
    shutil.copytree(landscape_run, tmp_path / "guided")
    standard = shutil.copytree(uniform_run, tmp_path / "standard")
    hub = Hub(tmp_path)
    try:
        snapshot = hub.feed("guided").snapshot
        assert len(figures.find_reference(hub, snapshot).is_transition) == 150
        Session.open(standard).run(160, workers=0, platform="Reference", progress=False)
        assert len(figures.find_reference(hub, snapshot).is_transition) == 160
    finally:
        hub.close()


def test_the_reference_is_drawn_as_far_as_the_run_reaches(landscape_run):
    feed = Feed(landscape_run)
    for n in (40, 1000):
        reference = Reference(name="standard", is_transition=np.arange(n) % 4 == 0)
        line = columns(curve(figures.draw_transitions(feed.snapshot, reference), "uniform selection"))
        assert line["shots"][-1] == min(n, 300)
        assert line["uniform"][-1] == reference.is_transition[:300].sum()
        level = columns(curve(figures.draw_yield(feed.snapshot, reference), "uniform selection"))
        assert level["uniform"] == pytest.approx([0.25, 0.25])
        assert "<i>standard</i>" in live.transitions_note(feed.snapshot, reference)


def test_a_missing_reference_is_a_command_away(landscape_run, uniform_run):
    snapshot = replace(Feed(landscape_run).snapshot, name="my runs/a&b")
    note = live.transitions_note(snapshot, None)
    assert "separatrix run &#x27;my runs/a&amp;b-uniform&#x27; --config &#x27;my runs/a&amp;b&#x27;/config.toml" in note
    assert "--set sampling.selector=uniform" in note
    assert "separatrix run" not in live.transitions_note(Feed(uniform_run).snapshot, None)


# -- what the model learned --------------------------------------------------------------------------------------------


def test_losses_and_rates_are_those_of_the_reports(landscape_run):
    feed = Feed(landscape_run)
    reports = [feed.snapshot.reports[version] for version in sorted(feed.snapshot.reports)]
    drawn = figures.draw_losses(feed, feed.snapshot)
    assert columns(curve(drawn, "training"))["training"].tolist() == [report["training_loss"] for report in reports]
    held_out = columns(curve(drawn, "held out"))
    assert held_out["held_out"].tolist() == [report["validation_loss"] for report in reports]
    assert held_out["shots"].tolist() == [report["n_shots"] for report in reports]
    level = curve(drawn, f"chance, {np.log(2):.3f}")
    assert level.dimension_values(1) == pytest.approx([np.log(2)] * 2)
    for draw, name in ((figures.draw_rate, "learning_rate"), (figures.draw_efficiency, "efficiency")):
        values = next(iter(draw(feed, feed.snapshot))).dimension_values(1)
        assert values.tolist() == [report[name] for report in reports]


def test_the_calibration_is_that_of_the_newest_report(landscape_run, empty_run):
    feed = Feed(landscape_run)
    fit = feed.snapshot.reports[feed.snapshot.model_version]["calibration"]
    points = columns(figures.draw_calibration(feed, feed.snapshot).Scatter.I)
    there = [i for i, value in enumerate(fit["predicted"]) if value is not None]
    assert points["predicted"].tolist() == [fit["predicted"][i] for i in there]
    assert points["n"].sum() == np.sum(fit["n_ends"])
    assert ((points["lower"] <= points["observed"]) & (points["observed"] <= points["upper"])).all()
    words = live.calibration_words(feed, feed.snapshot)
    assert f"{fit['slope']:.2f} ± {fit['slope_error']:.2f}" in words
    empty = Feed(empty_run)
    assert "±" not in live.calibration_words(empty, empty.snapshot)
    undetermined = {1: {"calibration": {**fit, "slope": None}}}
    assert "not determined" in live.calibration_words(feed, replace(feed.snapshot, reports=undetermined))


# -- the newest shots --------------------------------------------------------------------------------------------------


def rows_of(text):
    """Return the rows of a table as lists of plain texts."""
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row)] for row in rows]


def test_the_table_tells_the_newest_shots(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    head, *rows = rows_of(live.shots_html(snapshot, now=float(snapshot.shots["time"][-1]) + 120))
    assert head[0] == "shot"
    assert [int(row[0]) for row in rows] == list(range(299, 269, -1))
    assert rows[0][-1] == "2 min ago"
    shots = snapshot.shots
    for row in rows:
        shot = int(row[0])
        assert row[1] == f"{shots['chain'][shot]}, {shots['step'][shot]}"
        assert float(row[2]) == pytest.approx(1 / (1 + np.exp(-shots["q"][shot])), abs=0.006)
        assert row[3].replace("● ", "") == "-".join("AB"[end] if end >= 0 else "no end" for end in shots["ends"][shot])
        assert row[4].startswith("accepted" if shots["accepted"][shot] else "rejected")
        assert row[5].startswith(f"{shots['n_frames'][shot]}, ")


def test_every_reason_is_told(landscape_run, failed_run):
    feed = Feed(landscape_run)
    n = feed.snapshot.n_shots
    for reason in Reason:
        text = live.shots_html(altered(feed, reason=np.full(n, int(reason))))
        assert reason.label in text
    failed = Feed(failed_run).snapshot
    shots = [f"{shot}" for shot in np.flatnonzero(failed.shots["reason"] == Reason.FAILURE)]
    told = {row[0]: row for row in rows_of(live.shots_html(failed))[1:]}
    assert shots
    for shot in set(shots) & set(told):
        assert told[shot][3:6] == ["no result", "rejected, failure", "-"]


def test_names_from_outside_are_shown_as_they_are(landscape_run):
    feed = Feed(landscape_run)
    snapshot = replace(feed.snapshot, state_names=("<b>A", "B&"))
    text = live.shots_html(snapshot)
    assert "&lt;b&gt;A" in text
    assert "<b>A" not in text
    status = replace(feed.snapshot.status, message="<script>")
    nothing = {name: column[:0] for name, column in feed.snapshot.shots.items()}
    assert "<script>" not in live.start_html(replace(feed.snapshot, shots=nothing, status=status))


def test_three_states_show_the_probability_of_a_transition(landscape_run):
    feed = Feed(landscape_run)
    row = rows_of(live.shots_html(replace(feed.snapshot, state_names=("A", "B", "C"))))[1]
    assert float(row[2]) == pytest.approx(feed.snapshot.shots["p_transition"][-1], abs=0.006)


def test_what_cannot_be_computed_is_told_in_its_place():
    pane = pn.pane.HTML("")
    live._write(pane, Failure(message="<broken>"))
    assert "&lt;broken&gt;" in pane.object


def texts(panel):
    return " ".join(str(pane.object) for pane in panel.select(pn.pane.HTML))


def insight(n_shots, expression, means):
    return {
        "n_shots": n_shots,
        "model_version": 3,
        "noise_line": 0.01,
        "groups": [{"name": name, "mean": mean, "std": 0.01} for name, mean in means.items()],
        "expression": expression,
        "symbols": {"x": "x"},
        "complexity": 2,
        "training_loss": 0.5,
        "validation_loss": 0.51,
        "network_loss": 0.5,
    }


def test_the_mechanism_so_far_is_shown_with_how_it_changed(landscape_run, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    hub = Hub()
    entries = [insight(250, "2.0*x", {"x": 0.2, "y": 0.1}), insight(500, "2.0*x", {"x": 0.3, "y": 0.1})]
    with DOCUMENT:
        view = LiveView(Watch(hub, hub.feed(path), push=push).scope()).__panel__()
    assert "Found after every 250 shots" in texts(view)
    for more in (insight(750, "3.1*x - 0.2", {"y": 0.5, "x": 0.4}), insight(1000, "2.5*x", {"x": 0.5, "z": 0.1})):
        entries = [*entries, more]
        write_result(path, "insights", {"entries": entries})
        until(lambda more=more: f"After {more['n_shots']:,} shots" in texts(view))
    shown = texts(view)
    assert "<math>" in shown
    assert [shown.count(f"q = {each}<") for each in ("2.5*x", "3.1*x - 0.2", "2.0*x")] == [1, 1, 1]
    hub.close()
