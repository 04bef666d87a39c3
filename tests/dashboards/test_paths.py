"""The view of the paths on empty, running, failed and finished runs: what is drawn, chosen, followed and saved."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from functools import partial

import holoviews as hv
import mdtraj
import numpy as np
import panel as pn
import pytest
from bokeh.events import Tap
from bokeh.models import ColorBar, Image
from tests.page_document import DOCUMENT, push, wait_until

from separatrix import Session, preparing
from separatrix.estimates import transition_times
from separatrix.records import RunState
from separatrix_dashboards.charts import Chart, Drawing, leaves
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Query
from separatrix_dashboards.views.base import Watch
from separatrix_dashboards.views.paths import PathsView
from separatrix_dashboards.views.paths import view as paths_view
from separatrix_dashboards.views.paths.choice import accepted_paths, chosen_path, counted, multiplicities, pace
from separatrix_dashboards.views.paths.ensemble import counted_words, draw_density, draw_running_mean, draw_times
from separatrix_dashboards.views.paths.logits import draw_logits
from separatrix_dashboards.views.paths.marks import Marks
from separatrix_dashboards.views.paths.movie import LandscapeMovie, MoleculeMovie, draw_landscape
from separatrix_dashboards.views.paths.table import joined, path_rows, paths_csv
from separatrix_dashboards.views.paths.tree import draw_tree, newest_branch, path_at
from separatrix_dashboards.views.paths.view import empty_words

hv.extension("bokeh")

DRAWN = {
    "density": lambda feed, snapshot: draw_density(feed, snapshot, snapshot.cv_names[:2]),
    "density of one variable": lambda feed, snapshot: draw_density(feed, snapshot, snapshot.cv_names[:1]),
    "times": draw_times,
    "running mean": draw_running_mean,
    "tree": lambda feed, snapshot: draw_tree(newest_branch(snapshot, 0), rejected=False),
    "tree with rejected trials": lambda feed, snapshot: draw_tree(newest_branch(snapshot, 1), rejected=True),
}


@pytest.fixture(scope="session")
def narrow_run(runs_folder):
    """Return a run with one collective variable, and states defined by it."""
    config = {
        "system": {
            "kind": "potential",
            "expression": "8*(x^2-1)^2 + 5*y^2 + 5*z^2",
            "start": {"A": [-1.0, 0.0, 0.0], "B": [1.0, 0.0, 0.0]},
            "integrator": "brownian",
            "friction": 10.0,
            "timestep": 10.0,
        },
        "collective_variables": {"x": "x(0)"},
        "states": {"A": "x < -0.9", "B": "x > 0.9"},
        "sampling": {"steps": 100, "max_frames": 2000},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        session = Session.create(runs_folder / "narrow", config)
        session.run(100, workers=0, platform="Reference", progress=False)
    return session.path


@pytest.fixture
def show(hub):
    """Return what shows the view of a run as a page would, but without a browser."""
    watches = []

    def shown(path):
        feed = hub.feed(path)
        watches.append(Watch(hub, feed, push=push))
        with DOCUMENT:
            view = PathsView(watches[-1].scope())
            return view, view.__panel__()

    yield shown
    for watch in watches:
        watch.close()


settled = partial(wait_until, seconds=20.0)


def texts(panel):
    """Return the texts of all HTML in a layout."""
    return " ".join(str(pane.object) for pane in panel.select(lambda each: hasattr(each, "object")))


# What is drawn.


@pytest.mark.parametrize("name", DRAWN)
def test_every_drawing_is_built_and_streamed_whatever_the_run_holds(any_feed, name):
    chart = Chart()
    chart.apply(Drawing(DRAWN[name](any_feed, any_feed.snapshot)))
    figure = chart.figure
    assert figure is not None
    chart.apply(Drawing(DRAWN[name](any_feed, any_feed.snapshot)))
    assert chart.figure is figure


@pytest.mark.parametrize("name", DRAWN)
def test_drawings_of_an_empty_and_of_a_finished_run_have_the_same_leaves(empty_run, landscape_run, name):
    empty, finished = (DRAWN[name](feed, feed.snapshot) for feed in map(Feed, (empty_run, landscape_run)))
    assert [type(leaf) for leaf in empty] == [type(leaf) for leaf in finished]
    chart = Chart()
    chart.apply(Drawing(empty))
    figure = chart.figure
    chart.apply(Drawing(finished))
    assert chart.figure is figure
    renderer = hv.renderer("bokeh")
    for index, leaf in enumerate(leaves(renderer.get_plot(finished))):
        for column, values in leaf.handles["source"].data.items():
            for one, other in zip(chart.source(index).data[column], values, strict=True):
                np.testing.assert_array_equal(one, other)


def test_the_density_is_that_of_the_counted_paths(landscape_run):
    feed = Feed(landscape_run)
    snapshot = feed.snapshot
    image = draw_density(feed, snapshot, ("x", "y")).get(0)
    density = image.dimension_values(2, flat=False)
    left, low, right, high = image.bounds.lbrt()
    cell = (right - left) * (high - low) / density.size
    assert np.nansum(density) * cell == pytest.approx(1.0)
    counts = multiplicities(feed, snapshot)
    frames = snapshot.frames
    inside = np.repeat(frames["cvs"], counts[frames["shot"]], axis=0)
    expected, *_ = np.histogram2d(*inside.T, bins=density.shape[::-1], range=[[left, right], [low, high]], density=True)
    np.testing.assert_allclose(np.nan_to_num(density), expected.T, rtol=1e-3, atol=1e-6)


def test_burn_in_counts_nowhere(landscape_run):
    feed = Feed(landscape_run)
    snapshot = feed.snapshot
    burn_in = snapshot.shots["burn_in"]
    assert burn_in.any()
    counts = multiplicities(feed, snapshot)
    assert not counts[burn_in].any()
    assert counts.sum() <= (~burn_in).sum()
    all_of_it = replace(snapshot, shots={**snapshot.shots, "burn_in": np.ones(snapshot.n_shots, bool)})
    feed = Feed(landscape_run)
    assert not multiplicities(feed, all_of_it).any()
    assert "Nothing counts yet" in counted_words(accepted_paths(feed, all_of_it))
    density = draw_density(feed, all_of_it, ("x", "y")).get(0).dimension_values(2)
    assert not np.nansum(density)
    draw_times(feed, all_of_it)
    draw_running_mean(feed, all_of_it)


def test_angles_go_once_round_and_states_are_outlined(molecule_run):
    feed = Feed(molecule_run)
    overlay = draw_density(feed, feed.snapshot, feed.snapshot.cv_names)
    assert overlay.get(0).bounds.lbrt() == (-180.0, -180.0, 180.0, 180.0)
    first, second, labels = overlay.get(1), overlay.get(2), overlay.get(3)
    assert len(first.split()) >= 1
    assert len(second.split()) >= 1
    assert set(labels.dimension_values("state")) == set(feed.snapshot.state_names)


def test_states_of_other_variables_are_left_out(molecule_run):
    feed = Feed(molecule_run)
    snapshot = feed.snapshot
    config = snapshot.config.model_copy(update={"states": {"A": "psi > 0 and phi < 0", "B": "psi < -150"}})
    overlay = draw_density(feed, replace(snapshot, config=config, state_names=("A", "B")), ("phi",))
    first, second = overlay.get(0), overlay.get(1)
    assert not first.dimension_values(1).any()
    assert not second.dimension_values(1).any()


def test_a_run_with_one_variable_has_a_histogram(narrow_run, show):
    view, panel = show(narrow_run)
    assert view._density.axes == ("x",)
    settled(lambda: "drawing" not in texts(panel))
    overlay = draw_density(view.feed, view.feed.snapshot, ("x",))
    assert set(overlay.get(3).dimension_values("state")) == {"A", "B"}
    landscape = draw_landscape(view.feed, view.feed.snapshot)
    assert set(landscape.get(3).dimension_values("state")) == {"A", "B"}


def test_the_mean_time_is_that_of_the_estimates(landscape_run):
    feed = Feed(landscape_run)
    snapshot = feed.snapshot
    frame_time = snapshot.config.sampling.stride * snapshot.config.system.timestep / 1000
    mean = transition_times(**counted(snapshot), frame_time=frame_time).mean
    curve = draw_times(feed, snapshot).get(2)
    assert curve.dimension_values(0)[0] == pytest.approx(mean.value)
    running = draw_running_mean(feed, snapshot).get(1)
    assert running.dimension_values(1)[-1] == pytest.approx(mean.value)


def test_the_committor_along_a_path_is_that_of_the_newest_model(landscape_run):
    feed = Feed(landscape_run)
    snapshot = feed.snapshot
    shot = accepted_paths(feed, snapshot).newest
    path = chosen_path(feed, snapshot, shot)
    positions, _ = feed.positions(shot)
    assert len(path.times) == len(positions) == snapshot.shots["n_frames"][shot]
    np.testing.assert_allclose(path.cvs, positions[:, 0, :2], atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-path.q)), feed.reader.committor(positions), atol=1e-4)
    assert path.q[0] < path.q[-1]
    assert (path.spread >= 0).all()
    overlay = draw_logits(path)
    np.testing.assert_allclose(overlay.get(2).dimension_values(1), path.q)


def test_a_landscape_is_drawn_with_its_states(landscape_run):
    feed = Feed(landscape_run)
    overlay = draw_landscape(feed, feed.snapshot)
    energy = overlay.get(0).dimension_values(2)
    assert np.nanmin(energy) == pytest.approx(0.0)
    assert np.isnan(energy).any()
    assert set(overlay.get(3).dimension_values("state")) == {"A", "B"}
    Chart().apply(Drawing(overlay))


# The tree and the table.


@pytest.mark.parametrize("chain", [0, 1])
def test_bars_are_as_high_as_paths_count(landscape_run, chain):
    feed = Feed(landscape_run)
    snapshot = feed.snapshot
    branch = newest_branch(snapshot, chain, steps=10_000)
    shots = snapshot.shots
    taken = branch.accepted
    assert branch.shots[taken].tolist() == np.flatnonzero(shots["accepted"] & (shots["chain"] == chain)).tolist()
    np.testing.assert_array_equal(branch.bottom[taken][:-1], branch.top[taken][1:])
    assert branch.bottom[taken][-1] == (shots["chain"] == chain).sum()
    counted_here = ~shots["burn_in"][branch.shots[taken]]
    counts = multiplicities(feed, snapshot)[branch.shots[taken]]
    np.testing.assert_array_equal((branch.bottom - branch.top)[taken][counted_here], counts[counted_here])
    spacing = 0.1
    durations = (shots["n_frames"][branch.shots] - 1) * spacing
    np.testing.assert_allclose(branch.end - branch.begin, durations, atol=1e-9)
    assert (branch.begin < branch.shared).all()
    assert (branch.shared < branch.end).all()


def test_children_are_shot_from_their_parents(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    branch = newest_branch(snapshot, 0, steps=10_000)
    place = {int(shot): index for index, shot in enumerate(branch.shots)}
    for index, shot in enumerate(branch.shots):
        parent = int(snapshot.shots["parent"][shot])
        if parent >= 0:
            frame = branch.begin[place[parent]] + 0.1 * snapshot.shots["frame"][shot]
            assert branch.shared[index] == pytest.approx(frame)


def test_the_tree_shows_the_newest_steps_and_a_tap_finds_a_path(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    branch = newest_branch(snapshot, 0, steps=20)
    last = branch.bottom.max()
    assert branch.top.min() >= last - 20
    newest = np.flatnonzero(snapshot.shots["accepted"] & (snapshot.shots["chain"] == 0))[-1]
    assert path_at(branch, last - 0.5) == newest
    assert path_at(branch, last + 1) is None
    assert path_at(newest_branch(snapshot, 0, steps=10_000), -0.5) is None


def test_rows_are_the_newest_paths(landscape_run):
    feed = Feed(landscape_run)
    snapshot = feed.snapshot
    paths = accepted_paths(feed, snapshot)
    rows = path_rows(snapshot, paths)
    shots = [int(row[0]) for row in rows]
    assert shots == paths.shots[::-1][: len(rows)].tolist()
    assert sum("in use" in row[-1] for row in rows) == snapshot.config.sampling.chains
    assert len(path_rows(snapshot, paths, most=3)) == 3
    assert [line.split("\t") for line in joined(rows).split("\n")] == rows
    assert all(paths.count(int(row[0])) == (0 if row[6] == "-" else int(row[6])) for row in rows)


def test_the_csv_has_every_accepted_path(landscape_run):
    feed = Feed(landscape_run)
    table = list(csv.DictReader(io.StringIO(paths_csv(feed, feed.snapshot))))
    shots = feed.snapshot.shots
    assert [int(row["shot"]) for row in table] == np.flatnonzero(shots["accepted"]).tolist()
    newest = int(table[-1]["shot"])
    assert float(table[-1]["q"]) == pytest.approx(float(shots["q"][newest]))
    assert float(table[-1]["time_ps"]) == pytest.approx(0.1 * (shots["n_frames"][newest] - 1))
    assert (table[-1]["first_end"], table[-1]["last_end"]) == ("0", "1")


def test_a_long_run_is_drawn_anew_seldom(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    running = replace(snapshot, status=replace(snapshot.status, state=RunState.RUNNING))

    def drawings(first, last):
        columns = {"chain": np.zeros(last, int)}
        return len({pace(replace(running, shots={"chain": columns["chain"][:n]})) for n in range(first, last)})

    assert drawings(0, 100) > 90
    assert drawings(0, 20_000) < 500
    assert pace(snapshot)[0] == snapshot.n_shots


# The marks.


def test_a_line_is_broken_where_an_angle_goes_round(molecule_run):
    feed = Feed(molecule_run)
    path = chosen_path(feed, feed.snapshot, accepted_paths(feed, feed.snapshot).newest)
    jumping = replace(
        path, cvs=np.array([[170.0, 0.0], [-175.0, 5.0], [-170.0, 5.0]]), times=path.times[:3], q=path.q[:3]
    )
    marks = Marks()
    marks.look_along((0, 1), (True, True))
    marks.show(jumping)
    np.testing.assert_array_equal(marks.course.data["x"], [170.0, np.nan, -175.0, -170.0])
    marks.look_along((0,), (False,))
    np.testing.assert_array_equal(marks.course.data["x"], [170.0, -175.0, -170.0])
    marks.jump(2)
    assert marks.here.data["x"].tolist() == [-170.0]


# The view.


def test_a_run_without_paths_says_what_they_are(empty_run, show):
    view, panel = show(empty_run)
    assert "No transition yet" in texts(panel)
    assert "from A to B" in texts(panel)
    view.scope.active = False
    view.scope.active = True


def test_shots_without_an_accepted_path_are_explained(landscape_run):
    snapshot = Feed(landscape_run).snapshot
    assert f"in {snapshot.n_shots} shots" in empty_words(snapshot)


def test_any_run_is_shown(any_run, show):
    view, panel = show(any_run)
    if view.feed.snapshot.shots["accepted"].any():
        settled(lambda: "drawing" not in texts(panel))
        assert "shot " in texts(panel)
        assert view._choice.path.shot == accepted_paths(view.feed, view.feed.snapshot).newest
    panel.get_root()


def test_a_molecule_moves_in_three_dimensions_and_a_particle_on_its_landscape(molecule_run, landscape_run, show):
    molecule, _ = show(molecule_run)
    assert isinstance(molecule._movie, MoleculeMovie)
    settled(lambda: molecule._movie._viewer.n_frames > 0)
    assert molecule._movie._viewer.n_frames == len(molecule._choice.path.times)
    particle, _ = show(landscape_run)
    assert isinstance(particle._movie, LandscapeMovie)
    settled(lambda: particle._movie._player.n_frames > 0)
    positions, _ = particle.feed.positions(particle._choice.shot)
    np.testing.assert_array_equal(particle._marks.frames.data["u"], positions[:, 0, 0])


def test_the_users_choice_stays(landscape_run, show):
    view, _ = show(landscape_run)
    choice, paths = view._choice, view._paths
    assert choice.follow
    assert choice.shot == paths.newest
    older = int(paths.shots[3])
    view._table._table.chosen = older
    assert choice.shot == choice.path.shot == older
    assert not choice.follow
    view._look((replace(paths, shots=np.append(paths.shots, older + 10_000)), ""))
    assert choice.shot == older
    view._paths = paths
    choice.follow = True
    assert choice.shot == paths.newest == view._table._table.chosen


def test_a_path_stays_for_a_while_when_a_running_run_is_followed(running_run, show, monkeypatch):
    view, _ = show(running_run)
    paths = view._paths
    view._choice.shot = older = int(paths.shots[0])
    assert view._choice.follow
    view._follow()
    assert view._choice.shot == older
    monkeypatch.setattr(paths_view, "DWELL", 0.0)
    view._follow()
    assert view._choice.shot == paths.newest


def test_taps_on_the_tree_and_on_the_committor(landscape_run, show):
    view, panel = show(landscape_run)
    settled(lambda: "drawing" not in texts(panel))
    chains = view.feed.snapshot.shots["chain"]
    chosen = int(np.flatnonzero(view.feed.snapshot.shots["accepted"] & (chains == 1))[-1])
    view._choice.choose(chosen)
    tree = next(part for part in _trees(panel) if part is not None)
    assert tree._chain.value == 1
    settled(lambda: chosen in tree._branch.shots)  # the hub computes it in its own thread
    tree._tap(Tap(model=None, x=0.0, y=float(tree._branch.top[tree._branch.accepted][0]) + 0.5))
    assert view._choice.shot == tree._branch.shots[tree._branch.accepted][0]
    assert len(tree._outline.data["left"]) == 1
    settled(lambda: view._movie._player.n_frames == len(view._choice.path.times))
    view._logits._tap(Tap(model=None, x=float(view._choice.path.times[4]) + 0.01, y=0.0))
    assert view._movie._player.frame == 4
    assert not view._movie._player.playing
    assert view._marks.here.data["time"].tolist() == [view._choice.path.times[4]]


def _trees(panel):
    """Return the tree behind the chart of a layout, found by its callbacks."""
    for pane in panel.select(lambda each: hasattr(each, "object")):
        for callbacks in getattr(pane.object, "_event_callbacks", {}).values():
            for callback in callbacks:
                owner = getattr(callback, "__self__", None)
                yield owner if hasattr(owner, "_branch") else None


def test_axes_can_be_chosen(molecule_run, show):
    view, panel = show(molecule_run)
    settled(lambda: "drawing" not in texts(panel))
    density = view._density
    path = view._choice.path
    density._x.value, density._y.value = "psi", "phi"
    assert density.axes == ("psi", "phi")
    np.testing.assert_array_equal(view._marks.frames.data["x"], path.cvs[:, 1])
    density._y.value = "(histogram)"
    assert density.axes == ("psi",)
    assert not view._marks.frames.data["y"].any()
    settled(lambda: "drawing" not in texts(panel))
    wanted = [query.key for query in view.scope.queries() if "density" in query.key]
    assert wanted == [("paths", "density", ("psi",))]


def test_the_colour_bar_follows_the_density_while_it_streams(molecule_run, show):
    view, panel = show(molecule_run)
    settled(lambda: "drawing" not in texts(panel))
    query, apply = view.scope._wanted["paths", "density", view._density.axes]
    for _ in range(2):
        figures = [pane.object for pane in panel.select(pn.pane.Bokeh) if pane.object.select({"type": ColorBar})]
        assert len(figures) == 1
        mappers = [part.color_mapper for kind in (ColorBar, Image) for part in figures[0].select({"type": kind})]
        assert {(mapper.low, mapper.high) for mapper in mappers} == {(0, None)}
        apply(query.compute(view.feed, view.feed.snapshot))


def test_results_of_paths_left_behind_are_let_go(landscape_run, show, hub):
    view, _ = show(landscape_run)
    settled(lambda: view._movie._player.n_frames > 0)
    for shot in view._paths.shots[:5].tolist():
        view._choice.choose(shot)
    settled(lambda: view._choice.path.shot == shot and not hub._running)
    kept = [key for feed, key in hub._results if key[:2] in {("paths", "path"), ("paths", "positions")}]
    assert sorted(kept) == [("paths", "path", shot), ("paths", "positions", shot)]


def test_what_another_page_wants_is_kept(landscape_run, show, hub):
    first, _ = show(landscape_run)
    second, _ = show(landscape_run)
    shot = first._choice.shot
    assert second._choice.shot == shot
    first._choice.choose(int(first._paths.shots[0]))
    assert (first.feed, ("paths", "path", shot)) in hub._results
    second._choice.choose(int(first._paths.shots[1]))
    assert (first.feed, ("paths", "path", shot)) not in hub._results


# Files.


@pytest.mark.parametrize("suffix", ["pdb", "xtc"])
@pytest.mark.parametrize("kind", ["molecule_run", "landscape_run"])
def test_a_path_is_saved(request, show, kind, suffix, tmp_path):
    view, _ = show(request.getfixturevalue(kind))
    shot = view._choice.shot
    content = view._file(suffix)
    assert view._files[suffix].filename == f"{view.feed.path.name}-shot-{shot}.{suffix}"
    file = tmp_path / f"path.{suffix}"
    file.write_bytes(content.read())
    top = None if suffix == "pdb" else str(view.feed.path / "system" / "topology.pdb")
    trajectory = mdtraj.load(str(file), **({} if top is None else {"top": top}))
    positions, _ = view.feed.positions(shot)
    np.testing.assert_allclose(trajectory.xyz, positions, atol=2e-3)


def test_the_table_is_saved(landscape_run, show):
    view, _ = show(landscape_run)
    assert view._csv().read().startswith(b"shot,")


def test_a_query_that_fails_leaves_the_rest(landscape_run, show, monkeypatch):
    view, panel = show(landscape_run)
    broken = Query(key=("paths", "path", -7), compute=lambda feed, snapshot: 1 / 0)
    monkeypatch.setattr(paths_view, "path_query", lambda shot: broken)
    before = view._choice.path
    view._choice.choose(int(view._paths.shots[0]))
    assert view._choice.path is before
    assert "shot " in texts(panel)
