"""Comparing runs: groups, curves with errors, the gain of guided selection, two committors, and the page."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

import holoviews as hv
import numpy as np
import panel as pn
import pytest
from tests.page_document import DOCUMENT, push, wait_until

from separatrix import Session
from separatrix.errors import SeparatrixError
from separatrix.estimates import Estimate, pooled, transition_times, transition_yield
from separatrix.rows import are_transitions
from separatrix_dashboards.charts import Chart
from separatrix_dashboards.feeds import Feed, Latest
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.pages import compare as page
from separatrix_dashboards.pages.cards import compare_address
from separatrix_dashboards.pages.compare import ComparePage, names_in
from separatrix_dashboards.views import compare
from separatrix_dashboards.views import compare_committors as pairs
from separatrix_dashboards.views.base import Watch


def summary(path, **changes):
    """Return the summary of a run, altered."""
    return replace(compare.summarize(Feed(path).snapshot), **changes)


def with_seed(run, seed, **changes):
    """Return a summary as of a run with another seed."""
    sampling = run.config.sampling.model_copy(update={"seed": seed, **changes})
    return replace(run, name=f"{run.name}-{seed}", config=run.config.model_copy(update={"sampling": sampling}))


@pytest.fixture
def guided(landscape_run):
    """Return the summary of a guided run."""
    return summary(landscape_run)


@pytest.fixture
def standard(uniform_run):
    """Return the summary of a run of standard path sampling."""
    return summary(uniform_run)


@pytest.fixture
def folder(landscape_run, uniform_run, molecule_run, empty_run, tmp_path):
    """Return a folder with copies of runs."""
    for path in (landscape_run, uniform_run, molecule_run, empty_run):
        shutil.copytree(path, tmp_path / path.name)
    shutil.copytree(landscape_run, tmp_path / "again")
    return tmp_path


until = partial(wait_until, seconds=30.0)


# -- groups ------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one_group(guided, standard):
    runs = [standard, guided, with_seed(guided, 2), with_seed(guided, 3, steps=999), with_seed(guided, 4, scale=2.0)]
    together = compare.grouped(runs, together=True)
    assert [len(group.runs) for group in together] == [3, 1, 1]
    assert together[0].label == "hummer-szabo, lorentzian, 3 runs"
    assert [group.label for group in together[1:]] == ["landscape-4", "uniform"]  # standard sampling is last
    apart = compare.grouped(runs, together=False)
    assert [group.label for group in apart] == ["landscape", "landscape-2", "landscape-3", "landscape-4", "uniform"]


def test_groups_of_other_settings_have_names_of_their_own(guided):
    other = with_seed(guided, 9, scale=2.0)
    groups = compare.grouped([guided, with_seed(guided, 2), other, with_seed(other, 10, scale=2.0)], together=True)
    assert [group.label for group in groups] == ["landscape and 1 more", "landscape-9 and 1 more"]


def test_a_group_is_the_mean_of_its_runs(guided, standard):
    runs = guided, with_seed(standard, 2)
    group = compare.Group(label="both", runs=runs)
    assert group.pooled("share") == pooled([run.share for run in runs])
    at, found = group.curve("shots", "found")
    assert at[-1] == 150
    one, other = (np.interp(at, run.shots, run.found.value) for run in runs)
    assert found.value == pytest.approx((one + other) / 2)
    assert (found.error >= np.abs(one - other) / 2 * (1 - 1e-9)).all()
    single = compare.Group(label="one", runs=(guided,)).curve("md_steps", "found")
    assert single[0] is guided.md_steps
    assert single[1] is guided.found


# -- summaries ---------------------------------------------------------------------------------------------------------


def test_a_summary_tells_what_the_run_holds(landscape_run):
    snapshot, found = Feed(landscape_run).snapshot, summary(landscape_run)
    shots, status = snapshot.shots, snapshot.status
    assert (found.n_shots, found.n_transitions, found.n_md_steps) == (300, status.transitions, status.md_steps)
    assert (found.shots[0], found.shots[-1]) == (0, 300)
    assert (found.found.value[0], found.found.value[-1]) == (0, status.transitions)
    assert found.md_steps[-1] == pytest.approx(status.md_steps / 1e6)
    assert found.share == transition_yield(are_transitions(shots["ends"]))
    assert found.rate.value == pytest.approx(status.transitions / status.md_steps * 1e6)
    frame_time = snapshot.config.sampling.stride * snapshot.config.system.timestep / 1000
    assert shots["burn_in"].any(), "the control: what descends from the seed path would shift the mean"
    columns = [shots[name][~shots["burn_in"]] for name in ("chain", "accepted", "n_frames")]
    times = transition_times(*columns, frame_time=frame_time)
    assert found.mean_time.value[-1] == pytest.approx(times.mean.value)
    assert found.time == times.mean
    assert found.validation_loss == status.validation_loss
    fit = snapshot.reports[snapshot.model_version]["calibration"]
    assert found.slope == Estimate(value=fit["slope"], error=fit["slope_error"])


def test_every_kind_of_run_can_be_compared_alone_and_with_another(any_run, guided):
    this = summary(any_run, name="this")
    for runs in ([this], [this, guided], [guided, this]):
        result = compare.compare(runs, together=True)
        for drawing in (result.per_shot, result.per_md_step, result.times):
            chart = Chart()
            chart.apply(drawing)
            figure = chart.figure
            assert figure is not None
            chart.apply(compare.compare(runs, together=True).per_shot if drawing is result.per_shot else drawing)
            assert chart.figure is figure
        assert ">this<" in result.numbers or "and 1 more" in result.numbers or "2 runs" in result.numbers


# -- what is drawn -----------------------------------------------------------------------------------------------------


def curves(overlay):
    """Return the labelled curves of an overlay."""
    return {part.label: part for part in overlay if isinstance(part, hv.Curve) and part.label}


def test_counts_are_drawn_over_shots_and_over_md_steps(guided, standard):
    groups = compare.grouped([guided, standard], together=True)
    per_shot, per_step = (compare.draw_counts(groups, over) for over in ("shots", "md_steps"))
    found = curves(per_shot)
    assert set(found) == {"landscape", "uniform", "ideal, independent halves"}
    assert found["landscape"].dimension_values(1)[-1] == guided.n_transitions
    assert found["uniform"].dimension_values("shots")[-1] == 150
    assert found["ideal, independent halves"].dimension_values(1)[-1] == pytest.approx(0.4223 * 300, rel=1e-3)
    assert set(curves(per_step)) == {"landscape", "uniform"}
    assert curves(per_step)["uniform"].dimension_values(0)[-1] == pytest.approx(standard.n_md_steps / 1e6)
    only_standard = compare.grouped([standard], together=True)
    assert set(curves(compare.draw_counts(only_standard, "shots"))) == {"uniform"}


def test_more_groups_than_colours_can_still_be_told_apart():
    styles = list(compare._styles(14))
    assert len(set(styles)) == 14


def test_the_gain_is_that_of_guided_over_standard_sampling(guided, standard, molecule_run):
    text = compare.headline_html(compare.grouped([standard, guided], together=True))
    per_shot, per_step = (float(number) for number in re.findall(r'sx-number">([\d.]+) ±', text))
    assert per_shot == pytest.approx(guided.share.value / standard.share.value, abs=0.006)
    assert per_step == pytest.approx(guided.rate.value / standard.rate.value, abs=0.006)
    assert per_shot > 1.3
    other = summary(molecule_run)
    assert compare.headline_html(compare.grouped([standard, other], together=True)) == ""
    assert compare.headline_html(compare.grouped([guided, other], together=True)) == ""


def test_the_numbers_stand_in_a_table_with_their_errors(guided, standard):
    runs = [replace(guided, name="<a>"), with_seed(guided, 2), standard]
    text = compare.numbers_html(compare.grouped(runs, together=True))
    assert "<a>" not in text
    assert text.count("<tr") == 1 + 2 + 2  # head, two groups, and the two runs of one
    assert f"{guided.share.value:.3f} ± {guided.share.error:.3f}" in text
    assert f"{standard.n_md_steps:,}" in text
    assert f"{2 * guided.n_shots:,}" in text


@pytest.mark.parametrize(("error", "digits"), [(0.03, 3), (0.3, 2), (12.0, 0), (0.0, 2), (math.nan, 2), (1e-9, 6)])
def test_numbers_show_two_figures_of_their_error(error, digits):
    assert compare._digits(Estimate(value=1.0, error=error)) == digits


# -- two committors ----------------------------------------------------------------------------------------------------


def test_two_committors_are_compared_on_the_shooting_points_of_the_first(landscape_run, uniform_run):
    first, second = Feed(landscape_run), Feed(uniform_run)
    pair = pairs.compare_committors(first, first.snapshot, second)
    frames = first.snapshot.frames
    features = frames["features"][frames["offset"] == 0]
    assert pair.first == pytest.approx(first.model().p_B(features))
    assert pair.second == pytest.approx(second.model().p_B(features))
    assert pair.agreement.n == 300
    assert pair.agreement.r_squared > 0.5
    same = pairs.compare_committors(first, first.snapshot, first)
    assert (same.agreement.rmse, same.agreement.r_squared) == (0.0, pytest.approx(1.0))
    assert "300 shooting points" in pairs.agreement_words(pair.agreement)
    points = pairs.draw_committors(pair, "a", "b").Scatter.I
    assert points.dimension_values(1) == pytest.approx(pair.second)


def test_committors_that_cannot_be_compared_say_why(landscape_run, molecule_run, empty_run):
    landscape, molecule, empty = Feed(landscape_run), Feed(molecule_run), Feed(empty_run)
    with pytest.raises(SeparatrixError, match="different descriptors"):
        pairs.compare_committors(landscape, landscape.snapshot, molecule)
    with pytest.raises(SeparatrixError, match="empty has no model yet"):
        pairs.compare_committors(landscape, landscape.snapshot, empty)


def test_a_newer_model_is_another_question(landscape_run):
    feed = Feed(landscape_run)
    before = pairs.committor_pair(feed)
    assert pairs.committor_pair(feed).key == before.key
    feed.snapshot = replace(feed.snapshot, reports={99: {}})
    assert pairs.committor_pair(feed).key != before.key


# -- the work is done once ---------------------------------------------------------------------------------------------


def test_the_latest_value_is_computed_when_its_mark_changes():
    computed = []
    latest = Latest()
    for mark in (1, 1, 2, 2):
        assert latest.get(mark, lambda mark=mark: computed.append(mark) or mark * 10) == mark * 10
    assert computed == [1, 2]


def test_all_documents_share_one_comparison(landscape_run, uniform_run):
    hub = Hub()
    try:
        feeds = [hub.feed(landscape_run), hub.feed(uniform_run)]
        found = [hub.result(feed, compare.comparison(feeds, together=True))[1] for feed in (*feeds, *feeds)]
        assert all(each is found[0] for each in found)
        apart = hub.result(feeds[0], compare.comparison(feeds, together=False))[1]
        assert apart is not found[0]
    finally:
        hub.close()


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_runs_of_an_address_are_read_back():
    for names in ((), ("a",), ("a", "b/c"), ("with space", "a&b=c", "ü,x")):
        assert names_in("?" + urlsplit(compare_address(names)).query) == names
    assert names_in("?theme=dark") == names_in("") == ()
    assert names_in("?runs=a,a,,b") == ("a", "b")


def test_a_family_is_guided_and_standard_sampling_of_one_transition(folder):
    hub = Hub(folder)
    try:
        known = [run for run in hub.runs() if run.name != "uniform"]
        assert compare.family(known) == ()
        assert compare.family(list(hub.runs())) == ("again", "landscape", "uniform")
    finally:
        hub.close()


@pytest.fixture
def into_hub(monkeypatch):
    """Let pages be changed in the hub's thread: there is no server here."""
    monkeypatch.setattr(page, "Watch", lambda hub, feed: Watch(hub, feed, push=push))


@pytest.mark.usefixtures("into_hub")
def test_the_page_shows_what_is_chosen_and_follows_it(folder):
    hub = Hub(folder, interval=0.05)
    try:
        shown = ComparePage(hub, ("landscape", "uniform"))
        with DOCUMENT:
            content = shown.__panel__()

        def words():
            panes = content.select(pn.pane.HTML)
            return " ".join(str(pane.object) for pane in panes)

        until(lambda: "300 shooting points" in words())
        assert "times" in words()
        assert len(list(content.select(pn.pane.Bokeh))) == 4
        assert hub.n_watchers == 4
        figures = [pane.object for pane in content.select(pn.pane.Bokeh)]
        Session.open(folder / "uniform").run(170, workers=0, platform="Reference", progress=False)
        until(lambda: ">170<" in words())
        assert [pane.object for pane in content.select(pn.pane.Bokeh)] == figures

        shown._runs.value = ["landscape", "again", "uniform"]
        until(lambda: "2 runs" in words())
        shown._together.value = False
        until(lambda: "2 runs" not in words())
        shown._runs.value = ["landscape", "molecule"]
        until(lambda: "different descriptors" in words())
        shown._runs.value = ["landscape"]
        until(lambda: "Choose two runs" in words())
        shown._runs.value = []
        assert "Choose two or more runs" in words()
        assert hub.n_watchers == 0
    finally:
        hub.close()


@pytest.mark.usefixtures("into_hub")
def test_the_page_begins_with_a_family_and_says_what_is_not_there(folder):
    hub = Hub(folder)
    try:
        shown = ComparePage(hub, ())
        assert shown._runs.value == ["again", "landscape", "uniform"]
        shown.close()
        assert hub.n_watchers == 0
        shown = ComparePage(hub, ("landscape", "nowhere", "../outside"))
        with DOCUMENT:
            content = shown.__panel__()
        problems = [str(pane.object) for pane in content.select(pn.pane.HTML) if "sx-problem" in str(pane.object)]
        assert len(problems) == 1
        assert "no run at" in problems[0]
        assert "expected a run below" in problems[0]
        shown.close()
    finally:
        hub.close()


@pytest.mark.usefixtures("into_hub")
def test_the_page_offers_runs_that_come_and_keeps_what_is_chosen(folder):
    hub = Hub(folder)
    try:
        shown = ComparePage(hub, ("landscape", "uniform"))
        before = list(shown._runs.options)

        def looked():
            shown.look()
            return shown._runs.options

        shutil.copytree(folder / "landscape", folder / "late")
        until(lambda: looked() == sorted([*before, "late"]))
        for name in ("late", "landscape"):
            shutil.rmtree(folder / name)
        until(lambda: looked() == before)
        assert shown._runs.value == ["landscape", "uniform"]
        shown.close()
    finally:
        hub.close()


@pytest.mark.usefixtures("into_hub")
@pytest.mark.parametrize("name", ["empty", "landscape", "molecule", "running", "failed"])
def test_the_page_shows_every_kind_of_run(folder, running_run, failed_run, name):
    assert running_run == folder / "running"
    shutil.copytree(failed_run, folder / "failed")
    hub = Hub(folder)
    try:
        shown = ComparePage(hub, (name, "uniform"))
        with DOCUMENT:
            content = shown.__panel__()
        until(lambda: len(list(content.select(pn.pane.Bokeh))) >= 3)
        until(lambda: not any("drawing" in str(pane.object) for pane in content.select(pn.pane.HTML)))
        assert not any("sx-problem" in str(pane.object) for pane in content.select(pn.pane.HTML))
        shown.close()
    finally:
        hub.close()
