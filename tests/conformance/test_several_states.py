"""A run of three states from end to end: sampling, learning, storing, reading, and what is for two states so far."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import zarr
from tests.command_line import run_cli

from separatrix import evaluate, preparing
from separatrix.errors import AnalysisError, TableError
from separatrix.estimates import landscape_committors
from separatrix.export import write_network, write_paths, write_shots
from separatrix.logits import probabilities
from separatrix.mechanism import explain
from separatrix.reader import Reader
from separatrix.session import Session
from separatrix.store import Store
from separatrix.systems import build_system
from separatrix.units import thermal_energy

STEPS = 600
NAMES = ("A", "B", "C")
PAIRS = [list(pair) for pair in combinations(NAMES, 2)]
QUIET = {"workers": 0, "platform": "Reference", "progress": False}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Time platforms briefly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the reader of a finished run on three basins."""
    path = tmp_path_factory.mktemp("states") / "run"
    session = Session.create(path, {"system": {"kind": "three-basins"}, "sampling": {"steps": STEPS, "chains": 3}})
    session.run(STEPS // 2, **QUIET)
    Session.open(path).run(STEPS, **QUIET)  # goes on with what is stored
    return Reader(path)


# -- what it learned and counted ---------------------------------------------------------------------------------------


def test_every_probability_is_near_the_exact_one(run):
    config = run.config
    exact = landscape_committors(
        build_system(config).landscape,
        thermal_energy(config.system.temperature),
        config.collective_variables,
        config.states,
        *[np.linspace(-1.7, 1.7, 171)] * 2,
    )
    frames = run.frames
    truth = np.stack([grid.at(frames["cvs"].values) for grid in exact], axis=1)
    p = run.predict(frames["features"].values)
    assert p.shape == truth.shape
    assert p.sum(axis=1) == pytest.approx(1.0)
    for state in range(3):
        counted = (truth[:, state] > 0.05) & (truth[:, state] < 0.95)
        assert counted.sum() > 5_000
        error, blind, wrong = (
            float(np.sqrt(np.mean((guess[counted] - truth[counted, state]) ** 2)))
            for guess in (p[:, state], np.full(len(p), 1 / 3), p[:, state - 1])
        )
        assert error < 0.05
        assert min(blind, wrong) > 0.25  # knowing nothing, or taking one state for another, would not pass


def test_expected_and_found_transitions_agree(run):
    shots = run.shots.isel(shot=slice(200, None))
    found = ((shots["ends"][:, 0] != shots["ends"][:, 1]) & (shots["ends"] >= 0).all("end")).values
    p = shots["p_transition"].values.astype(float)
    assert abs(found.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    # Beyond the one half that two states cannot exceed: what an effective logit alone would tell.
    assert 0.5 < p.max() <= 2 / 3 + 1e-6
    assert (run.shots["q"] >= 0).all()


def test_every_pair_is_counted(run):
    summary, ends = run.summary(), run.shots["ends"].values
    assert [pair["states"] for pair in summary["pairs"]] == PAIRS
    for pair, states in zip(summary["pairs"], combinations(range(3), 2), strict=True):
        assert pair["transitions"] == int((ends == states).all(axis=1).sum()) > 10
        assert pair["yield"] == pytest.approx(pair["transitions"] / STEPS)
        assert pair["accepted"] <= pair["transitions"]
    assert sum(pair["transitions"] for pair in summary["pairs"]) == summary["transitions"]
    assert sum(pair["accepted"] for pair in summary["pairs"]) == summary["accepted"]


def test_the_calibration_tells_of_every_state(run):
    fits = run.summary()["calibration"]["states"]
    assert list(fits) == list(NAMES)
    report, counts = run.model_report(run.model_versions[-1]), run.shots["n_ends"].values
    assert report["held_out_q"].shape == (STEPS, 3)
    p = probabilities(report["held_out_q"])
    for state, fit in enumerate(fits.values()):
        assert fit["slope"] == pytest.approx(1.0, abs=0.3)
        assert sum(fit["n_ends"][row][1] for row in range(10)) == counts[:, state].sum()
        inside = (p[:, state] >= 0.5) & (p[:, state] < 0.6)
        assert fit["predicted"][5] == pytest.approx(p[inside, state].mean())
    assert run.summary()["validation_loss"] < np.log(3) - 0.2


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_paths_lead_from_the_lower_to_the_higher_state(run):
    accepted = np.flatnonzero(run.shots["accepted"].values)
    seen = set()
    for shot in accepted[::5].tolist():
        ends = run.shots["ends"].values[shot].tolist()
        positions, _ = run.path_positions(shot)
        states = run.observables.states.array(run.observables.cvs(positions, None))
        assert states[[0, -1]].tolist() == ends == sorted(ends)
        assert (states[1:-1] == -1).all()
        seen.add(tuple(ends))
    assert len(seen) == 3


def test_the_counts_are_one_column_that_plain_zarr_reads(run):
    stored = zarr.open_array(run.folder / "run.zarr" / "shots" / "n_ends", mode="r")
    assert stored.shape == (STEPS, 3)
    assert stored.metadata.dimension_names == ("shot", "state")
    ends = run.shots["ends"].values
    np.testing.assert_array_equal(stored[...], (ends[:, :, None] == np.arange(3)).sum(axis=1))
    assert {"n_A", "n_B"}.isdisjoint(run.shots)
    np.testing.assert_array_equal(run.shots["n_ends"].sel(state="C"), stored[:, 2])


def test_predictions_have_a_column_for_each_state(run):
    positions, _ = run.path_positions(int(np.flatnonzero(run.shots["accepted"].values)[-1]))
    p = run.committor(positions)
    assert p.shape == (len(positions), 3)
    assert p == pytest.approx(run.model().probabilities(run.observables.features(positions, None)))
    assert run.model(0).probabilities(np.zeros((2, 2))) == pytest.approx(np.full((2, 3), 1 / 3))


def test_a_run_goes_on_as_if_it_had_not_stopped(run, tmp_path):
    whole = Session.create(tmp_path / "whole", {"system": {"kind": "three-basins"}, "sampling": {"steps": STEPS}})
    whole.run(150, **QUIET)
    columns = [name for name in run.shots if name not in ("seconds", "time")]
    again = Reader(tmp_path / "whole").shots
    for name in columns:  # the first half was made in one piece: the same shots, whatever came after
        np.testing.assert_array_equal(again[name].values, run.shots[name].values[:150], err_msg=name)


# -- first paths -------------------------------------------------------------------------------------------------------


def test_chains_start_on_different_pairs(run):
    events = run.log()
    starts = [event["states"] for event in events if event["event"] == "seed path"]
    assert sorted(starts) == PAIRS
    (found,) = (event for event in events if event["event"] == "pairs of states")
    assert (sorted(found["found"]), found["not_found"]) == (PAIRS, [])
    store = Store.open(run.folder)
    for chain, names in enumerate(starts):
        positions, box = store.seed_path(chain)
        states = run.observables.states.array(run.observables.cvs(positions, box))
        assert [NAMES[state] for state in states[[0, -1]]] == names


IN_A_LINE = {
    "system": {
        "kind": "potential",
        "expression": "6*(x*(x^2 - 1))^2*4 + 5*(y^2 + z^2)",
        "start": {"A": [-1.0, 0.0, 0.0], "B": [0.0, 0.0, 0.0], "C": [1.0, 0.0, 0.0]},
        "integrator": "brownian",
        "friction": 10.0,
        "timestep": 2.0,
    },
    "collective_variables": {"x": "x(0)"},
    "states": {"A": "x < -0.8", "B": "between(x, -0.25, 0.25)", "C": "x > 0.8"},
    "sampling": {"chains": 2, "stride": 5, "max_frames": 5000, "steps": 30},
}


def test_a_pair_that_nothing_connects_is_said_and_left_out(tmp_path):
    """From A to C every path goes through B."""
    session = Session.create(tmp_path / "run", IN_A_LINE)
    assert session.run(30, **QUIET).transitions > 0
    (found,) = (event for event in session.reader.log() if event["event"] == "pairs of states")
    assert sorted(found["found"]) == [["A", "B"], ["B", "C"]]
    assert found["not_found"] == [["A", "C"]]
    counts = {tuple(pair["states"]): pair["transitions"] for pair in session.reader.summary()["pairs"]}
    assert counts["A", "C"] == 0 < counts["A", "B"]


def test_a_state_behind_a_high_barrier_gets_its_path_from_hotter_runs(tmp_path):
    wall = " + 25*exp(-((x - 0.5)/0.1)^2)"
    system = {**IN_A_LINE["system"], "expression": IN_A_LINE["system"]["expression"] + wall}
    session = Session.create(tmp_path / "run", {**IN_A_LINE, "system": system})
    session.run(1, **QUIET)
    starts = {tuple(event["states"]): event["method"] for event in session.reader.log() if "method" in event}
    assert set(starts) == {("A", "B"), ("B", "C")}
    temperatures = [float(starts[pair].removeprefix("hot run at ").split()[0]) for pair in (("A", "B"), ("B", "C"))]
    assert temperatures[0] < temperatures[1]


# -- analyses ----------------------------------------------------------------------------------------------------------


def test_relevance_is_known_of_three_states_and_formulas_are_not(tmp_path):
    config = {
        "system": {"kind": "three-basins"},
        "sampling": {"steps": 250},
        "descriptors": {"columns": ["x", "y", "z(0)"]},
    }
    session = Session.create(tmp_path / "run", config)
    session.run(250, **QUIET)
    found = explain(tmp_path / "run")
    first, second, nuisance = found.relevance
    assert {first.name, second.name} == {"x", "y"}
    assert first.significant
    assert second.significant
    assert nuisance.mean < 0.1 * second.mean  # one time in ten chance alone makes it significant
    assert found.formulas == found.inputs == ()
    assert found.recommended is None
    assert found.network_loss < np.log(3)
    assert session.reader.result("mechanism") == json.loads(json.dumps(found.as_dict()))


def test_the_command_line_shows_pairs_and_states(run):
    shown = run_cli("show", run.folder)
    assert shown.code == 0
    assert all(f"{'-'.join(pair)} " in " ".join(shown.out.split()) for pair in PAIRS)
    assert "chance 1.099" in shown.out
    assert all(f"{name}: slope" in " ".join(shown.out.split()) for name in NAMES)
    assert len(json.loads(run_cli("show", run.folder, "--json").out)["pairs"]) == 3
    told = run_cli("explain", run.folder)
    assert told.code == 0
    assert "formulas are for two states so far" in told.out


NOT_YET = {
    "validate": ["validation"],
    "validate --against": ["predictions of p_B"],
    "export formula": ["formulas"],
}


@pytest.mark.parametrize("command", NOT_YET)
def test_what_is_for_two_states_says_so_in_one_line(run, tmp_path, command):
    arguments = {
        "validate": ["validate", run.folder],
        "validate --against": ["validate", run.folder, "--against", tmp_path / "other"],
        "export formula": ["export", "formula", run.folder, tmp_path / "committor.dat"],
    }[command]
    if "--against" in command:
        other = Session.create(tmp_path / "other", {"system": {"kind": "three-basins"}, "sampling": {"seed": 2}})
        other.run(30, **QUIET)
    result = run_cli(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    for word in [*NOT_YET[command], "two states, found 3 (A, B, C)", "a run of its own"]:
        assert word in result.err
    assert not (tmp_path / "committor.dat").exists()
    assert Reader(run.folder).result("validation") is None
    with pytest.raises(AnalysisError, match="two states"):
        run.validation_of(0)


# -- tables and exports ------------------------------------------------------------------------------------------------


def test_shots_travel_through_a_table(run, tmp_path):
    written = write_shots(run, tmp_path / "shots.csv")
    assert written.counts == ("n_A", "n_B", "n_C")
    table = pd.read_csv(tmp_path / "shots.csv")
    counts = run.shots["n_ends"].values
    np.testing.assert_array_equal(table[list(written.counts)], counts[counts.sum(axis=1) > 0])
    test = tmp_path / "test.csv"
    table.tail(100).to_csv(test, index=False)
    arguments = ("learn", tmp_path / "shots.csv", tmp_path / "run", "--counts", "n_A,n_B,n_C", "--test", test, "--json")
    result = run_cli(*arguments)
    assert result.code == 0
    found = json.loads(result.out)
    made = Reader(tmp_path / "run")
    assert made.state_names == NAMES
    np.testing.assert_array_equal(made.shots["n_ends"], table[list(written.counts)])
    assert found["validation_loss"] == pytest.approx(run.summary()["validation_loss"], abs=0.08)
    # The loss on the test table, by hand.
    p = made.predict(table.tail(100)[["x", "y"]].to_numpy())
    ends = table.tail(100)[list(written.counts)].to_numpy()
    assert found["test"]["network"]["loss"] == pytest.approx(-(ends * np.log(p)).sum() / ends.sum(), rel=1e-5)
    shares = ends.sum(axis=0) / ends.sum()
    assert found["test"]["null_loss"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert list(found["test"]["network"]["calibration"]["states"]) == list(NAMES)
    assert run_cli("show", made.folder).code == 0


def test_two_counts_are_no_test_of_three_states(run, tmp_path):
    write_shots(run, tmp_path / "shots.csv")
    made = ("learn", tmp_path / "shots.csv", tmp_path / "run", "--counts", "n_A,n_B,n_C")
    assert run_cli(*made).code == 0
    with pytest.raises(TableError, match=r"a column for each of A, B, C.*got n_A,n_B$"):
        evaluate(tmp_path / "run", tmp_path / "shots.csv", counts=["n_A", "n_B"])


def test_exported_paths_tell_what_they_connect(run, tmp_path):
    _, table, n_paths = write_paths(run, tmp_path / "paths.xtc")
    rows = pd.read_csv(table)
    ends = run.shots["ends"].values[rows["shot"]]
    assert len(rows) == n_paths
    assert rows["from"].tolist() == [NAMES[state] for state in ends[:, 0]]
    assert rows["to"].tolist() == [NAMES[state] for state in ends[:, 1]]


def test_the_exported_network_gives_every_probability(run, tmp_path):
    torch = pytest.importorskip("torch")
    write_network(run, tmp_path / "network.pt2")
    features = run.frames["features"].values[:50]
    given = torch.export.load(tmp_path / "network.pt2").module()(torch.from_numpy(features.copy()))
    assert given["p"].numpy() == pytest.approx(run.predict(features), abs=1e-6)
