"""The committor view: what its maps hold is what the run holds, for every kind of run."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tests.dashboards.test_charts import described
from tests.page_document import DOCUMENT, push, wait_until

from separatrix import Session, preparing
from separatrix.estimates import landscape_committor, path_multiplicities, transition_region_error
from separatrix.records import NO_STATE, RunState
from separatrix.rows import are_transitions
from separatrix.systems import build_system
from separatrix.units import thermal_energy
from separatrix_dashboards import charts
from separatrix_dashboards.charts import Chart, Drawing
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Hub
from separatrix_dashboards.views import committor_axes as axes
from separatrix_dashboards.views import committor_landscape
from separatrix_dashboards.views import committor_map as maps
from separatrix_dashboards.views.base import Watch
from separatrix_dashboards.views.committor import (
    CommittorView,
    draw_shooting_points,
    map_query,
    no_model,
    numbers_html,
    version_words,
)
from separatrix_dashboards.views.committor_axes import LAYERS, Axis, Choice, first_choice, layers_of
from separatrix_dashboards.views.committor_figure import (
    OVERLAYS,
    contours,
    draw_map,
    finish,
    glyphs,
    outcome_of,
    outcomes,
    show_overlays,
)
from separatrix_dashboards.views.committor_key import key_html
from separatrix_dashboards.views.committor_map import committor_map, dependence
from separatrix_dashboards.views.committor_prediction import FramePredictions, predictions_on_frames

POTENTIAL = {
    "kind": "potential",
    "temperature": 120.272,
    "integrator": "brownian",
    "friction": 10.0,
    "timestep": 10.0,
}
ONE = {
    "system": {
        **POTENTIAL,
        "expression": "4*((x^2 - 1)^2 + (x - y)^2) + 2*z^2",
        "start": {"A": [-1.0, -1.0, 0.0], "B": [1.0, 1.0, 0.0]},
    },
    "collective_variables": {"x": "x(0)"},
    "states": {"A": "x < -0.9", "B": "x > 0.9"},
    "descriptors": {"columns": ["x", "y(0)"]},
    "sampling": {"steps": 40, "chains": 1},
}
THREE = {
    "system": {
        **POTENTIAL,
        "expression": "7 - 10*exp(-3*((x-1)^2+y^2)) - 10*exp(-3*((x+0.5)^2+(y-0.87)^2))"
        " - 10*exp(-3*((x+0.5)^2+(y+0.87)^2)) + 0.5*(x^2+y^2)^2 + 2*z^2",
        "start": {"A": [1.0, 0.0, 0.0], "B": [-0.5, 0.87, 0.0], "C": [-0.5, -0.87, 0.0]},
    },
    "collective_variables": {"x": "x(0)", "y": "y(0)", "z": "z(0)"},
    "states": {
        "A": "(x - 1)^2 + y^2 < 0.05",
        "B": "(x + 0.5)^2 + (y - 0.87)^2 < 0.05",
        "C": "(x + 0.5)^2 + (y + 0.87)^2 < 0.05",
    },
    "descriptors": {"columns": ["x", "y"]},
    "sampling": {"steps": 40, "chains": 1},
}


def sampled(path, config):
    """Sample a new run in this process and return its feed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        Session.create(path, config).run(workers=0, platform="Reference", progress=False)
    return Feed(path)


@pytest.fixture(scope="module")
def landscape(landscape_run):
    return Feed(landscape_run)


@pytest.fixture(scope="module")
def molecule(molecule_run):
    return Feed(molecule_run)


@pytest.fixture(scope="module")
def one_variable(tmp_path_factory):
    return sampled(tmp_path_factory.mktemp("one") / "run", ONE)


@pytest.fixture(scope="module")
def three_states(tmp_path_factory):
    return sampled(tmp_path_factory.mktemp("three") / "run", THREE)


def found(feed, **choice):
    """Return the map of a choice."""
    return committor_map(feed, feed.snapshot, replace(first_choice(feed.snapshot), **choice))


def exact_of(feed, x, y):
    config = feed.snapshot.config
    kT = thermal_energy(config.system.temperature)
    expression = build_system(config).landscape
    return landscape_committor(expression, kT, config.collective_variables, config.states, x, y)


# -- drawing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", ["second", None])
def test_every_run_is_drawn_and_then_streams(any_feed, y):
    choice = first_choice(any_feed.snapshot)
    choice = choice if y else replace(choice, y=None)
    chart = Chart(ready=lambda figure: finish(figure, on_map=choice.y is not None))
    first, second = (map_query(choice).compute(any_feed, any_feed.snapshot) for _ in range(2))
    chart.apply(first.drawing)
    figure = chart.figure
    assert figure is not None
    chart.apply(second.drawing)
    assert chart.figure is figure
    histogram = Chart()
    for _ in range(2):
        histogram.apply(Drawing(draw_shooting_points(any_feed, any_feed.snapshot)))
    assert histogram.figure is not None


@pytest.mark.parametrize("layer", LAYERS)
def test_a_figure_made_of_an_empty_run_takes_the_data_of_a_finished_one(empty_run, landscape, layer):
    choice = Choice(x="x", y="y", layer=layer)
    empty, full = Feed(empty_run), landscape
    chart = Chart(ready=lambda figure: finish(figure, on_map=True))
    chart.apply(map_query(choice).compute(empty, empty.snapshot).drawing)
    figure = chart.figure
    chart.apply(map_query(choice).compute(full, full.snapshot).drawing)
    assert chart.figure is figure
    image, *_, shots, names = glyphs(figure)
    values = image.data_source.data["image"][0]
    assert np.isfinite(values).all()
    rows = np.flatnonzero(np.isfinite(shots.data_source.data["map_x"]))
    assert len(rows) == 300
    # Colours and markers are those of every point, not of the figure.
    for field, column in ((shots.glyph.fill_color, 1), (shots.glyph.marker, 2)):
        assert set(shots.data_source.data[field.field][rows]) == {look[column] for look in outcomes(["A", "B"])[:3]}
    assert list(names.data_source.data[names.glyph.text.field]) == ["A", "B"]


def test_an_older_model_is_drawn_into_the_same_figure(molecule):
    choice = first_choice(molecule.snapshot)
    chart = Chart(ready=lambda figure: finish(figure, on_map=True))
    images = []
    for version in (None, 1, 2):
        shown = map_query(replace(choice, version=version)).compute(molecule, molecule.snapshot)
        chart.apply(shown.drawing)
        figure = chart.figure
        images.append(np.array(glyphs(figure)[0].data_source.data["image"][0]))
    assert chart.figure is figure
    assert not np.array_equal(images[1], images[2], equal_nan=True)


CHOICES = [
    ("landscape", {}),
    ("landscape", {"layer": "difference"}),
    ("landscape", {"layer": "spread"}),
    ("molecule", {}),
    ("one_variable", {}),
    ("three_states", {"state": 2}),
    ("three_states", {"x": "y", "y": "z"}),
]


@pytest.mark.parametrize(("name", "chosen"), CHOICES)
def test_documents_copy_a_figure_that_is_drawn_once_and_is_that_of_the_data(request, monkeypatch, name, chosen):
    feed = Feed(request.getfixturevalue(name).path)
    last = feed.snapshot
    choice = replace(first_choice(last), **chosen)
    few = {column: values[:12] for column, values in last.shots.items()}
    # Before there is a model, where that does not change what is told of a cell.
    reports = {} if name in ("molecule", "one_variable") else {1: last.reports[1]}
    first = replace(last, shots=few, frames=feed._frames.of_first(12), reports=reports, revision=1)
    later = replace(last, revision=2)
    query = map_query(choice)
    query.compute(feed, first)
    monkeypatch.setattr(charts, "Template", None)  # nothing is drawn any more
    shown = query.compute(feed, later)
    ready = partial(finish, on_map=choice.y is not None)
    copied = Chart(fixed=() if choice.y else ("y",), ready=ready)
    copied.apply(shown.drawing)
    monkeypatch.undo()
    alone = Chart(fixed=() if choice.y else ("y",), ready=ready)
    alone.apply(Drawing(shown.drawing.element))
    assert described(copied.figure) == described(alone.figure)
    for one, other in zip(copied._sources, alone._sources, strict=True):
        assert set(one.data) == set(other.data)


def test_overlays_are_shown_and_hidden_without_drawing(landscape):
    shown = map_query(first_choice(landscape.snapshot)).compute(landscape, landscape.snapshot)
    chart = Chart(ready=lambda figure: finish(figure, on_map=True))
    chart.apply(shown.drawing)
    renderers = glyphs(chart.figure)

    def hidden(*overlays):
        show_overlays(chart.figure, overlays, n_states=2, on_map=True)
        return [index for index, renderer in enumerate(renderers) if not renderer.visible]

    energy, paths, shots = 2, 3, len(renderers) - 2
    assert hidden(*OVERLAYS) == []
    assert hidden("energy") == [paths, shots]
    assert hidden("paths", "shooting points") == [energy]
    assert len(renderers[energy].data_source.data["map_x"]) > 1000
    assert len(renderers[paths].data_source.data["map_x"]) > 100


def test_the_wheel_scrolls_the_page_and_the_map_fills_its_frame(landscape):
    shown = map_query(first_choice(landscape.snapshot)).compute(landscape, landscape.snapshot)
    chart = Chart(ready=lambda figure: finish(figure, on_map=True))
    chart.apply(shown.drawing)
    figure = chart.figure
    assert figure.toolbar.active_scroll is None
    assert figure.x_range.renderers == figure.y_range.renderers == glyphs(figure)[:1]
    assert figure.xaxis[0].axis_label == "x (nm)"


# -- landscapes --------------------------------------------------------------------------------------------------------


def test_the_map_of_a_landscape_is_the_model_on_positions(landscape):
    result = found(landscape)
    x, y = (axis.centres for axis in result.axes)
    j, i = 20, 60
    positions = np.zeros((1, 1, 3), dtype=np.float32)
    positions[0, 0, :2] = x[i], y[j]
    assert result.model.on_grid
    assert result.model.p[j, i] == pytest.approx(landscape.reader.committor(positions)[0], abs=1e-6)


def test_swapped_axes_give_the_transposed_map(landscape):
    plain, swapped = found(landscape), found(landscape, x="y", y="x")
    assert [axis.name for axis in swapped.axes] == ["y", "x"]
    for name in LAYERS:
        np.testing.assert_allclose(swapped.layer(name), plain.layer(name).T, atol=1e-6)
    np.testing.assert_allclose(swapped.energy, plain.energy.T)
    np.testing.assert_array_equal(swapped.count, plain.count.T)
    assert swapped.labels["A"] == plain.labels["A"][::-1]


def test_the_exact_map_and_the_error_are_those_of_the_landscape(landscape):
    result = found(landscape)
    grid = exact_of(landscape, np.linspace(-2, 2, 241), np.linspace(-3, 3, 241))
    mesh = np.meshgrid(*(axis.centres for axis in result.axes))
    expected = grid.at(np.stack([part.ravel() for part in mesh], axis=1)).reshape(result.exact.shape)
    np.testing.assert_allclose(result.exact, expected, atol=0.02)
    np.testing.assert_allclose(result.layer("difference"), result.model.p - result.exact)
    frames = landscape.snapshot.frames
    error = transition_region_error(landscape.reader.predict(frames["features"]), grid.at(frames["cvs"]))
    assert result.numbers.deviation.rmse == pytest.approx(error.rmse, rel=0.02)
    assert result.numbers.deviation.n_frames == pytest.approx(error.n_frames, rel=0.02)
    assert 0 < error.rmse < 0.2


def test_the_separatrix_is_where_p_is_one_half(landscape):
    result = found(landscape)
    x, y = contours(result.axes, result.model.smooth, (0.5,))
    points = np.zeros((len(x), 1, 3), dtype=np.float32)
    points[:, 0, 0], points[:, 0, 1] = x, y
    p = landscape.reader.committor(points[np.isfinite(x)])
    assert len(p) > 30
    np.testing.assert_allclose(p, 0.5, atol=0.02)


def test_states_are_outlined_and_named(landscape, molecule):
    for feed, centres in (
        (landscape, {"A": (-1, -1), "B": (1, 1)}),
        (molecule, {"C7eq": (-85, 75), "C7ax": (70, -65)}),
    ):
        result = found(feed)
        for name, centre in centres.items():
            assert result.labels[name] == pytest.approx(centre, abs=0.06 if feed is landscape else 3)
            x, y = contours([replace_edges(axis) for axis in result.axes], result.masks[name].astype(float), (0.5,))
            assert len(x) > 20
            assert len(y) == len(x)


def replace_edges(axis):
    """Return an axis whose bins lie around its fine points."""
    step = axis.fine[1] - axis.fine[0]
    return replace(axis, edges=np.append(axis.fine - step / 2, axis.fine[-1] + step / 2))


def test_a_contour_goes_on_where_an_angle_goes_round():
    axes = [
        Axis(name=name, unit="degrees", column=i, periodic=periodic, edges=np.linspace(-180, 180, 37))
        for i, (name, periodic) in enumerate((("phi", True), ("psi", False)))
    ]
    values = np.repeat(np.linspace(0, 1, 36)[:, None], 36, axis=1)
    x, y = contours(axes, values, (0.5,))
    assert (x.min(), x.max()) == (-185, 185)
    np.testing.assert_allclose(y, 0, atol=1e-9)


def test_a_plane_without_exact_committor_says_why(tmp_path):
    config = {**ONE, "collective_variables": {"x": "x(0)", "y": "y(0)", "z": "z(0)"}}
    config["states"] = {"A": "x < -0.9 and z < 1", "B": "x > 0.9"}
    feed = Feed(Session.create(tmp_path / "run", config).path)
    result = found(feed)
    assert np.isnan(result.exact).all()
    assert any("No exact map: state 'A' uses z" in note for note in result.notes)
    assert any("Not outlined: A, defined by other variables" in note for note in result.notes)
    assert list(result.masks) == ["B"]
    chart = Chart()
    chart.apply(Drawing(draw_map(result, first_choice(feed.snapshot), feed.snapshot.state_names)))
    assert chart.figure is not None


def test_coordinates_on_no_axis_lie_in_the_middle_of_the_starts(three_states):
    result = found(three_states, x="x", y="z")
    assert result.model.on_grid
    assert np.ptp(result.model.p, axis=0).max() == pytest.approx(0, abs=1e-6)  # no descriptor sees z
    assert any("the other coordinates lie in the middle of the starts" in note for note in result.notes)
    assert not any("other coordinates" in note for note in found(three_states).notes)


# -- molecules ---------------------------------------------------------------------------------------------------------


def test_the_map_of_a_molecule_is_a_conditional_mean(molecule):
    result = found(molecule, least=3)
    frames = molecule.snapshot.frames
    p = molecule.reader.predict(frames["features"])
    x, y = (axis.edges for axis in result.axes)
    n_shown = 0
    for j, i in np.ndindex(result.count.shape):
        phi, psi = frames["cvs"].T
        inside = (phi >= x[i]) & (phi < x[i + 1]) & (psi >= y[j]) & (psi < y[j + 1])
        assert result.count[j, i] == inside.sum()
        if inside.sum() >= 3:
            assert result.model.p[j, i] == pytest.approx(p[inside].mean(), abs=1e-5)
            assert result.model.within[j, i] == pytest.approx(p[inside].std(), abs=1e-4)
            n_shown += 1
        else:
            assert np.isnan(result.model.p[j, i])
    assert n_shown > 20
    assert (x[0], x[-1], y[0], y[-1]) == (-180, 180, -180, 180)
    assert result.numbers.deviation is None
    assert f"{len(p):,} sampled frames" in result.notes[0]
    assert layers_of(molecule, first_choice(molecule.snapshot)) == ("learned", "spread")


def test_only_the_newest_frames_are_looked_at_when_there_are_many(molecule, monkeypatch):
    for module in (axes, maps):
        monkeypatch.setattr(module, "MOST_FRAMES", 500)
    feed = Feed(molecule.path)
    result = found(feed)
    assert result.count.sum() == 500
    assert "the newest 500 of" in result.notes[0]


def test_the_spread_is_that_of_the_members(molecule):
    result = found(molecule, layer="spread")
    members = 1 / (1 + np.exp(-molecule.model().member_logits(molecule.snapshot.frames["features"])))
    shown = np.isfinite(result.layer("spread"))
    weights = result.count[shown] / result.count.sum()
    assert (result.layer("spread")[shown] * weights).sum() == pytest.approx(members.std(axis=0).mean(), rel=1e-4)


def test_paths_count_as_often_as_their_chain_stood_on_them(molecule):
    result = found(molecule)
    shots, frames = molecule.snapshot.shots, molecule.snapshot.frames
    weights = path_multiplicities(shots["chain"], shots["accepted"])[frames["shot"]]
    mean = np.average(np.cos(np.radians(frames["cvs"][:, 1])), weights=weights)
    centres = np.cos(np.radians(result.axes[1].centres))
    assert result.density.sum() == pytest.approx(1)
    assert (result.density.sum(axis=1) * centres).sum() == pytest.approx(mean, abs=0.06)


# -- shooting points and versions --------------------------------------------------------------------------------------


def test_shooting_points_carry_what_came_of_them(landscape):
    result = found(landscape)
    shots, frames = landscape.snapshot.shots, landscape.snapshot.frames
    assert len(result.shots.shot) == 300
    row = 7
    shot = result.shots.shot[row]
    place = frames["cvs"][(frames["shot"] == shot) & (frames["offset"] == 0)][0]
    np.testing.assert_array_equal(result.shots.place[row], place)
    assert result.shots.foretold[row] == shots["q"][shot]
    outcome = outcome_of(shots["ends"], 2)
    np.testing.assert_array_equal(outcome == 0, are_transitions(shots["ends"]))
    ends = np.array([[0, 1], [2, 2], [1, 1], [NO_STATE, 1], [NO_STATE, NO_STATE]])
    assert [outcomes("ABC")[i][0] for i in outcome_of(ends, 3)] == [
        "transition",
        "C to C",
        "B to B",
        "a half without end",
        "a half without end",
    ]


def test_an_older_model_comes_with_the_shots_it_had_seen(landscape):
    report = landscape.snapshot.reports[2]
    result = found(landscape, version=2)
    assert result.shots.shot.max() == report["n_shots"] - 1
    assert result.numbers.version == 2
    assert result.numbers.n_shots == report["n_shots"]
    assert f"first {report['n_shots']} shots" in " ".join(result.notes)
    words = version_words(result.numbers)
    assert words.startswith(f"Model 2 of {len(landscape.snapshot.reports)}, trained on {report['n_shots']} shots")


def test_a_running_map_does_not_change_with_every_shot(landscape):
    running = replace(landscape.snapshot, status=replace(landscape.snapshot.status, state=RunState.RUNNING))
    choice = first_choice(running)

    def mark(snapshot, n_shots):
        shots = {name: column[:n_shots] for name, column in snapshot.shots.items()}
        return dependence(replace(snapshot, shots=shots), choice)

    assert len({mark(running, n) for n in range(200, 300)}) < 30
    assert len({mark(running, n) for n in range(20)}) == 20
    assert len({mark(landscape.snapshot, n) for n in range(290, 300)}) == 10  # what has ended is shown to its end
    assert dependence(running, replace(choice, version=1)) != dependence(running, choice)


def test_the_map_of_the_first_model_does_not_wait_for_the_rest_that_maps_without_one_earned(landscape_run):
    hub = Hub(rest=1e6)
    try:
        feed = hub.feed(landscape_run)
        last, shown = feed.snapshot, []
        query = map_query(first_choice(last))
        watch = Watch(hub, feed, push=push)
        for number, n_shots in enumerate((5, 6, 300)):
            shots = {name: column[:n_shots] for name, column in last.shots.items()}
            feed.snapshot = replace(last, shots=shots, reports=last.reports if n_shots == 300 else {}, revision=number)
            if number:
                hub.result(feed, query)
            else:
                watch.scope().add(query, shown.append)
            wait_until(lambda number=number: len(shown) > number, seconds=20)
        assert [each.numbers.version for each in shown] == [0, 0, last.model_version]
    finally:
        hub.close()


def test_without_a_model_there_is_no_map_and_a_reason(empty_run, landscape):
    feed = Feed(empty_run)
    result = found(feed)
    assert np.isnan(result.model.p).all()
    assert result.energy is not None
    assert set(result.labels) == {"A", "B"}
    assert no_model(feed.snapshot) == "No model yet: the first comes after about 10 shots."
    running = replace(landscape.snapshot, status=replace(landscape.snapshot.status, state=RunState.RUNNING))
    assert "is being trained" in no_model(running)
    assert "ended after 300 shots" in no_model(landscape.snapshot)
    assert "none yet" in numbers_html(result.numbers, "AB", 1)
    assert version_words(result.numbers) == ""


# -- other numbers of variables and states -----------------------------------------------------------------------------


def test_one_variable_gives_a_curve(one_variable):
    choice = first_choice(one_variable.snapshot)
    assert choice.y is None
    result = found(one_variable)
    frames = one_variable.snapshot.frames
    p = one_variable.reader.predict(frames["features"])
    edges = result.axes[0].edges
    for i, mean in enumerate(result.model.p):
        inside = (frames["cvs"][:, 0] >= edges[i]) & (frames["cvs"][:, 0] < edges[i + 1])
        assert np.isnan(mean) if not inside.any() else mean == pytest.approx(p[inside].mean(), abs=1e-5)
    chart = Chart(fixed=("y",), ready=lambda figure: finish(figure, on_map=False))
    for _ in range(2):
        chart.apply(map_query(choice).compute(one_variable, one_variable.snapshot).drawing)
    assert chart.figure.yaxis[0].axis_label == "p_B"
    show_overlays(chart.figure, [], n_states=2, on_map=False)
    assert [not renderer.visible for renderer in glyphs(chart.figure)].count(True) == 2
    assert "standard deviation" in key_html(choice, ["A", "B"], ["paths"], frozenset())


def test_one_of_three_states_is_chosen(three_states):
    model, features = three_states.model(), three_states.snapshot.frames["features"]
    assert layers_of(three_states, first_choice(three_states.snapshot)) == LAYERS
    assert layers_of(three_states, Choice(x="x", y="z")) == ("learned", "spread")
    total = sum(found(three_states, state=state).model.p for state in range(3))
    np.testing.assert_allclose(total, 1, atol=1e-5)
    curve = found(three_states, y=None, state=2)
    shown = np.isfinite(curve.model.p)
    mean = (curve.model.p[shown] * curve.count[shown]).sum() / curve.count.sum()
    assert mean == pytest.approx(model.probabilities(features)[:, 2].mean(), abs=1e-5)
    assert "p of C" in key_html(Choice(x="x", y="y", state=2), "ABC", [], {"model"})
    fit = three_states.snapshot.reports[three_states.snapshot.model_version]["calibration"]["states"]["C"]
    assert curve.numbers.slope == fit["slope"]
    assert "calibration slope of C" in numbers_html(curve.numbers, "ABC", 2)
    chart = Chart(ready=lambda figure: finish(figure, on_map=True))
    for state in (1, 2):
        chart.apply(map_query(Choice(x="x", y="y", state=state)).compute(three_states, three_states.snapshot).drawing)
    histogram = Chart()
    histogram.apply(Drawing(draw_shooting_points(three_states, three_states.snapshot)))
    assert histogram.figure.xaxis[0].axis_label == "p(transition) at the shooting point"


def test_every_state_has_its_exact_map_and_the_separatrices_of_the_others(three_states):
    maps = [found(three_states, state=state) for state in range(3)]
    total = sum(each.exact for each in maps)
    np.testing.assert_allclose(total[np.isfinite(total)], 1, atol=1e-9)
    assert np.isfinite(total).all()
    exact = committor_landscape.exact_of(three_states, committor_landscape.landscape_of(three_states))
    for state, each in enumerate(maps):
        p = exact[state].at(three_states.snapshot.frames["cvs"][:, :2])
        assert each.numbers.deviation.n_frames == ((p > 0.05) & (p < 0.95)).sum() > 0
        rest = [maps[other] for other in range(3) if other != state]
        for other, p in zip(rest, each.model.others, strict=True):
            np.testing.assert_allclose(p, other.model.smooth)
        # Near its own state the exact map is 1, and near the others 0.
        x, y = each.labels["ABC"[state]]
        cell = np.argmin(np.abs(each.axes[1].centres - y)), np.argmin(np.abs(each.axes[0].centres - x))
        assert [m.exact[cell] > 0.9 for m in maps] == [place == state for place in range(3)]
    # Over other axes they are means over frames, and those of the others too.
    flat = [found(three_states, y="z", state=state) for state in range(3)]
    assert not flat[0].model.on_grid or flat[0].axes[1].name == "z"
    for one, p in zip(flat[1:], flat[0].model.others, strict=True):
        np.testing.assert_allclose(p, one.model.smooth)
    assert found(three_states, y=None, state=0).shots.p == pytest.approx(
        three_states.reader.predict(
            three_states.snapshot.frames["features"][three_states.snapshot.frames["offset"] == 0]
        )[:, 0],
        abs=1e-6,
    )
    assert "p = ½ of each other state" in key_html(Choice(x="x", y="y", state=2), "ABC", [], {"model", "others"})


def test_names_are_shown_as_they_are():
    text = key_html(Choice(x="x", y="y", state=0), ["<b>", "&", "c"], OVERLAYS, {"model", "exact", "veil", "energy"})
    assert "&lt;b&gt; to &lt;b&gt;" in text
    assert "<b>" not in text


# -- the view ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def viewed():
    """Return a view of a run, whose document is whatever thread delivers."""
    hub = Hub()

    def view(path):
        watch = Watch(hub, hub.feed(path), push=push)
        with DOCUMENT:
            result = CommittorView(watch.scope())
            result.__panel__()
        until(lambda: not result._waiting)
        return result

    yield view
    hub.close()


until = partial(wait_until, seconds=60.0)


def showing(view):
    """Wait until a view shows what is chosen in it."""
    until(lambda: not view._waiting)
    return view._shown


def test_the_view_shows_every_run(any_run, viewed):
    view = viewed(any_run)
    assert view.chart.figure is not None
    model = view.feed.snapshot.model_version
    assert ("No model" in view.message.object) == (model == 0)
    assert view.place.disabled == (len(view.feed.snapshot.reports) < 2)
    assert ("Model" in view.learned_from.object) == (model > 0)
    assert view.least.visible == (model > 0 and "phi" in view.feed.snapshot.cv_names)


def test_choosing_the_variable_of_the_other_axis_swaps_them(landscape_run, viewed):
    view = viewed(landscape_run)
    first = view.chart
    view.x.value = "y"
    assert (view.x.value, view.y.value) == (view.choice.x, view.choice.y) == ("y", "x")
    showing(view)
    assert view.chart is not first
    assert view.chart.figure.xaxis[0].axis_label == "y (nm)"
    view.y.value = "y"
    assert (view.choice.x, view.choice.y) == ("x", "y")


def test_layers_and_overlays_are_chosen(landscape_run, viewed):
    view = viewed(landscape_run)
    assert list(view.layer.options) == ["learned", "exact", "difference", "spread"]
    view.layer.value = "difference"
    showing(view)
    assert "learned less exact" in view.key.object
    figure = view.chart.figure
    view.overlays.value = ["energy"]
    assert view.chart.figure is figure
    assert [renderer.visible for renderer in glyphs(figure)[2:4]] == [True, False]
    assert "every kT" in view.key.object
    view.layer.value = "spread"  # what is shown stays shown in the next figure
    showing(view)
    assert [renderer.visible for renderer in glyphs(view.chart.figure)[2:4]] == [True, False]


def test_a_layer_that_other_axes_do_not_have_is_left(three_states, landscape_run, viewed):
    view = viewed(landscape_run)
    view.layer.value = "exact"
    showing(view)
    assert view.choice.layer == "exact"
    other = viewed(three_states.path)
    assert other.state.visible
    other.layer.value = "exact"
    other.y.value = "z"
    showing(other)
    assert "exact" not in other.layer.options
    assert other.choice.layer == "learned"
    other.y.value = "y"
    other.state.value = 2
    showing(other)
    assert "p of C" in other.key.object


def test_the_versions_are_played_from_the_first_to_the_newest(molecule_run, viewed, monkeypatch):
    view = viewed(molecule_run)
    versions = sorted(view.feed.snapshot.reports)
    assert view.choice.version is None
    assert view.known[view.place.value] == versions[-1]
    monkeypatch.setattr("panel.state.add_periodic_callback", lambda callback, period: Timer())
    view._toggle()
    assert view.play.label == "Pause"
    seen = [view.choice.version]
    while view._timer is not None:
        showing(view)
        view._advance()
        seen.append(view.choice.version)
    assert seen == [*versions[:-1], None]
    assert view.play.label == "Play"
    assert showing(view).numbers.version == versions[-1]


class Timer:
    """A periodic callback that is called by hand."""

    def stop(self):
        """End it."""


def test_playing_waits_for_the_map_and_can_be_paused(molecule_run, viewed, monkeypatch):
    view = viewed(molecule_run)
    monkeypatch.setattr("panel.state.add_periodic_callback", lambda callback, period: Timer())
    view._toggle()
    shown = view.choice.version
    view._waiting = True
    view._advance()
    assert view.choice.version == shown
    view._toggle()
    assert view._timer is None


def test_the_slider_follows_the_newest_model_until_another_is_chosen(landscape_run, viewed, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    view = viewed(path)
    newest = view.known[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        Session.open(path).run(320, workers=0, platform="Reference", progress=False)
    until(lambda: view.known[-1] > newest)
    assert view.place.value == len(view.known) - 1
    assert view.choice.version is None
    until(lambda: view._shown.numbers.version == view.known[-1])
    view.place.value = view.known.index(newest)
    view._choose()
    until(lambda: view._shown.numbers.version == newest)


def test_what_models_of_old_say_of_every_frame_is_not_kept(landscape_run):
    feed = Feed(landscape_run)
    snapshot = feed.snapshot
    n_versions = len(snapshot.reports)
    gc.collect()
    before = sum(type(each) is FramePredictions for each in gc.get_objects())
    for version in range(1, n_versions + 1):
        p, _ = predictions_on_frames(feed, snapshot, version, 1, 1000)
        assert len(p) == min(1000, len(snapshot.frames["shot"]))
    gc.collect()
    assert sum(type(each) is FramePredictions for each in gc.get_objects()) - before < n_versions / 2
