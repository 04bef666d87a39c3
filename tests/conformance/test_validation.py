"""Validation of runs: frequencies are right, nothing is made twice or lost, and the run itself is left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tomli_w
import zarr
from scipy import special, stats
from tests.conformance.test_cli import LANDSCAPE, refuse, run_cli, succeed

from separatrix import preparing
from separatrix.config import read_toml
from separatrix.errors import AnalysisError, RunLockedError
from separatrix.estimates import clopper_pearson, landscape_committor, scores
from separatrix.reader import Reader
from separatrix.records import RunState
from separatrix.session import Session
from separatrix.store import Store, read_result, write_result
from separatrix.systems import build_system
from separatrix.units import thermal_energy

SERIAL = ("--workers", 0, "--platform", "Reference")
SMALL = ("--configurations", 6, "--shots", 5, *SERIAL)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Time platforms briefly, and leave this process's signals as they are."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        yield
    signal.signal(signal.SIGTERM, handler)


def sample(path, config, steps):
    """Sample a new run in this process."""
    Session.create(path, config).run(steps, workers=0, platform="Reference", progress=False)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a finished run with formulas on the Hummer-Szabo landscape, to be looked at only."""
    path = sample(tmp_path_factory.mktemp("validated") / "run", {"system": {"kind": "hummer-szabo"}}, 250)
    Session.open(path).explain(generations=5, workers=1, progress=False)
    return path


@pytest.fixture
def run(finished, tmp_path):
    """Return a run of one's own."""
    return shutil.copytree(finished, tmp_path / "run")


def outcomes(path, number=0):
    """Return all that is committed of a validation but wall times, in the order of configurations and trajectories."""
    columns = Reader(path).stored_validations.open(number).outcomes()
    order = np.lexsort((columns["trajectory"], columns["configuration"]))
    return {name: column[order] for name, column in columns.items() if name not in ("seconds", "time")}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name], name)


def pairs(columns):
    return list(zip(columns["configuration"].tolist(), columns["trajectory"].tolist(), strict=True))


# -- what is measured --------------------------------------------------------------------------------------------------


@pytest.mark.statistics
def test_frequencies_agree_with_the_exact_committor_and_scores_with_them(run):
    validation = Session.open(run).validate(
        configurations=25, shots=40, workers=0, platform="Reference", progress=False
    )
    reader = Reader(run)
    config, found = reader.config, reader.validation
    exact = landscape_committor(
        build_system(config).landscape,
        thermal_energy(config.system.temperature),
        config.collective_variables,
        config.states,
        np.linspace(-2, 2, 161),
        np.linspace(-2.2, 2.2, 177),
    ).at(found["cvs"].values)
    n = (found["n_A"] + found["n_B"]).values
    assert (n + found["n_neither"].values).tolist() == [40] * 25
    assert found["n_neither"].values.sum() == 0

    def surprise(p):
        return float((((found["n_B"].values - n * p) ** 2) / (n * p * (1 - p))).sum())

    assert surprise(np.clip(exact, 0.01, 0.99)) < stats.chi2.ppf(0.9999, 25)
    assert surprise(np.clip(exact[::-1], 0.01, 0.99)) > 5 * stats.chi2.ppf(0.9999, 25)  # another configuration's
    best = scores(special.logit(np.clip(exact, 1e-3, 1 - 1e-3)), found["n_A"], found["n_B"])
    ceiling = validation.bounds.ceiling
    assert best.r_squared.value == pytest.approx(ceiling.value, abs=0.05)
    (network, good), *formulas = validation.scores
    assert network.name == "network"
    assert 0.8 < good.r_squared.value < ceiling.value + 0.05
    assert good.rmse.value < 0.15
    constant = next(score for prediction, score in formulas if prediction.complexity == 0)
    assert constant.r_squared.value < 0.1
    assert constant.rmse.value > 0.25
    recommended = next(score for prediction, score in formulas if prediction.recommended)
    assert recommended.r_squared.value > 0.7
    np.testing.assert_allclose(special.expit(network.q), found["p_B"].values, atol=1e-6)
    strata = np.bincount(np.minimum((found["p_B"].values * 25).astype(int), 24), minlength=25)
    assert (strata == 1).sum() >= 20  # evenly spread


def test_configurations_are_frames_of_paths_and_trajectories_end_in_a_state(run):
    succeed("validate", run, *SMALL)
    reader = Reader(run)
    stored = reader.stored_validations.open(0)
    starts, found = stored.configurations(), reader.validation
    for i, (shot, frame) in enumerate(zip(starts.shot, starts.frame, strict=True)):
        positions, _ = reader.path_positions(shot)
        assert 0 < frame < len(positions) - 1
        np.testing.assert_array_equal(positions[frame], starts.positions[i])
        assert reader.observables.state_of(starts.snapshot(i)) < 0
    np.testing.assert_array_equal(reader.observables.features(starts.positions, None), starts.features)
    ends = stored.outcomes()
    assert set(ends["state"].tolist()) <= {0, 1}
    assert (ends["md_steps"] == ends["n_frames"] * reader.config.sampling.stride).all()
    assert len(set(ends["seed"].tolist())) == 30
    np.testing.assert_array_equal(np.bincount(ends["configuration"][ends["state"] == 1], minlength=6), found["n_B"])


def test_json_says_what_is_stored(run):
    assert Reader(run).validation is None
    printed = json.loads(succeed("validate", run, *SMALL, "--json"), parse_constant=pytest.fail)
    assert Reader(run).result("validation") == printed
    found, points = Reader(run).validation, printed["points"]
    for name in ("n_A", "n_B", "n_neither", "n_failed", "observed", "lower", "upper", "shot", "frame"):
        np.testing.assert_allclose(points[name], found[name].values, err_msg=name)
    n_B, n = np.array(points["n_B"]), np.array(points["n_A"]) + points["n_B"]
    np.testing.assert_allclose([points["lower"], points["upper"]], clopper_pearson(n_B, n))
    assert (printed["configurations"], printed["shots"], printed["seed"], printed["number"]) == (6, 5, 0, 0)
    assert (printed["trajectories"], printed["neither"], printed["failed"]) == (30, 0, 0)
    assert (printed["complete"], printed["n_points"], printed["n_trials"]) == (True, 6, 30)
    assert printed["drawn_with"] == printed["model_version"] == Reader(run).model_versions[-1]
    assert 0 < printed["saturated_loss"] < printed["null_loss"] < 0.7
    mechanism = Reader(run).result("mechanism")
    network, *formulas = printed["predictors"]
    assert (network["name"], network["expression"]) == ("network", None)
    assert [row["expression"] for row in formulas] == [row["expression"] for row in mechanism["expressions"]]
    assert [row["expression"] for row in formulas if row["recommended"]] == [mechanism["recommended"]]
    for row in printed["predictors"]:
        score = scores(row["q"], points["n_A"], points["n_B"])
        assert score.as_dict() == {name: pytest.approx(row[name]) for name in score.as_dict()}
        assert len(row["q"]) == 6


def test_the_table_fits_a_terminal_and_names_every_predictor(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run_cli("validate", run, *SMALL)
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    for pattern in (
        r"^predictor +R\^2 +RMSE +loss +slope",
        r"^network +-?\d\.\d\d ± ",
        r"^formula of complexity 0 ",
        r"^perfect ",
    ):
        assert re.search(pattern, result.out, re.MULTILINE), result.out
    assert "30 trajectories ended in a state, 0 in neither" in " ".join(result.out.split())
    assert result.err.splitlines()[-1].startswith("validated: 100%, 30 of 30 trajectories")


def test_trajectories_that_reach_no_state_are_counted_apart(run):
    config = read_toml(run / "config.toml")
    config["sampling"]["max_frames"] = 4  # paths of this run are longer: most trajectories will not end
    (run / "config.toml").write_text(tomli_w.dumps(config))
    (run / "SHA256SUMS").unlink()
    found = json.loads(succeed("validate", run, *SMALL, "--json"))
    points = found["points"]
    total = np.add(np.add(points["n_A"], points["n_B"]), points["n_neither"])
    assert total.tolist() == [5] * 6
    assert found["neither"] == sum(points["n_neither"]) > 10
    assert found["n_trials"] == 30 - found["neither"]
    assert None in points["observed"]


def test_a_trajectory_that_always_fails_is_recorded_and_nothing_is_tried_for_ever(run):
    file = run / "system" / "system.xml"
    text = file.read_text()
    broken = text.replace("2*z^2", "2*z^2+1e-6*sqrt(0.1-x)")  # no number beyond the barrier
    assert broken != text or "z^2" not in text
    if broken == text:
        broken = re.sub(r'energy="([^"]+)"', r'energy="\1+1e-6*sqrt(0.1-x)"', text, count=1)
    file.write_text(broken)
    (run / "SHA256SUMS").unlink()
    found = json.loads(succeed("validate", run, *SMALL, "--json"))
    assert 0 < found["failed"] < 30
    assert found["complete"] is True
    assert sum(found["points"]["n_B"]) == 0
    assert found["n_trials"] == 30 - found["failed"]
    failures = [event for event in Reader(run).log() if event["event"] == "failure" and "validation" in event]
    assert len(failures) == 4 * found["failed"]
    ends = outcomes(run)
    assert (ends["retries"][ends["failed"]] == 3).all()


# -- going on ----------------------------------------------------------------------------------------------------------


def test_the_same_command_makes_nothing_twice_and_more_shots_are_added(run):
    succeed("validate", run, *SMALL)
    first, log = outcomes(run), Reader(run).log()
    succeed("validate", run, *SMALL)
    assert_equal(outcomes(run), first)
    assert Reader(run).log() == log
    more = json.loads(succeed("validate", run, "--configurations", 6, "--shots", 8, *SERIAL, "--json"))
    assert (more["number"], more["trajectories"]) == (0, 48)
    after = outcomes(run)
    old = after["trajectory"] < 5
    assert_equal({name: column[old] for name, column in after.items()}, first)
    assert len(set(pairs(after))) == len(pairs(after)) == 48
    fewer = json.loads(succeed("validate", run, *SMALL, "--json"))  # what is there counts
    assert (fewer["trajectories"], fewer["complete"]) == (48, True)


def test_other_settings_begin_another_validation_beside_the_first(run):
    succeed("validate", run, *SMALL)
    first, shown = outcomes(run), Reader(run).validation
    for number, settings in ((1, ("--seed", 4)), (2, ("--configurations", 7))):
        found = json.loads(succeed("validate", run, *SMALL, *settings, "--json"))
        assert found["number"] == number
        assert Reader(run).validation.attrs["number"] == number
        assert_equal(outcomes(run), first)
    assert Reader(run).stored_validations.numbers() == [0, 1, 2]
    assert outcomes(run, 1)["seed"].tolist() != first["seed"].tolist()
    assert Reader(run).validation_of(0).identical(shown)
    assert json.loads(succeed("validate", run, *SMALL, "--json"))["number"] == 0
    assert Reader(run).validation.identical(shown)


def test_the_run_itself_is_left_alone_and_goes_on(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    before, status = Store.open(run), Reader(run).summary()
    root = (run / "run.zarr" / "zarr.json").read_bytes()
    succeed("validate", run, *SMALL)
    after = Store.open(run)
    assert (run / "run.zarr" / "zarr.json").read_bytes() == root
    assert Reader(run).summary() == status
    for table in ("shots", "frames"):
        assert_equal(getattr(after, table)(), getattr(before, table)())
    assert not list((run / "pending").iterdir())
    for path in (run, other):
        Session.open(path).run(280, workers=0, platform="Reference", progress=False)
    assert_equal(
        *({k: v for k, v in Store.open(p).shots().items() if k not in ("seconds", "time")} for p in (run, other))
    )
    found = json.loads(succeed("validate", run, *SMALL, "--json"))  # the newest network, on the same trajectories
    assert found["model_version"] > found["drawn_with"]
    assert found["trajectories"] == 30


def test_workers_make_the_same_trajectories(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    succeed("validate", run, *SMALL)
    succeed("validate", other, "--configurations", 6, "--shots", 5, "--workers", 2, "--platform", "Reference")
    assert_equal(outcomes(run), outcomes(other))


def test_what_is_stored_is_plain_zarr_and_arrays_of_unequal_length_are_mended(run):
    succeed("validate", run, *SMALL)
    group = zarr.open_group(run / "run.zarr" / "validations" / "0", mode="r")
    expected = outcomes(run)
    assert group.attrs["committed"] == 30
    assert group.attrs["settings"] == {"configurations": 6, "seed": 0}
    assert group["positions"].shape == (6, 1, 3)
    assert group["positions"].attrs["units"] == "nm"
    for name in expected:
        column = group[f"outcomes/{name}"]
        assert column.shape == (30,)
        assert column.attrs["long_name"]
    # A process that was killed while it made room leaves some arrays longer than others.
    file = run / "run.zarr" / "validations" / "0" / "outcomes" / "state" / "zarr.json"
    metadata = json.loads(file.read_text())
    del metadata["attributes"]["checksum"]
    file.write_text(json.dumps({**metadata, "shape": [4096]}))
    assert_equal(outcomes(run), expected)
    succeed("validate", run, "--configurations", 6, "--shots", 6, *SERIAL)
    assert zarr.open_group(run / "run.zarr" / "validations" / "0" / "outcomes", mode="r")["state"].shape == (36,)
    after = outcomes(run)
    assert_equal({name: column[after["trajectory"] < 5] for name, column in after.items()}, expected)


# -- killed and interrupted --------------------------------------------------------------------------------------------

PROGRAM = (
    "from separatrix import cli, committor_shooting, preparing; preparing._MEASURE_SECONDS = 0.05; "
    "committor_shooting.COMMIT_INTERVAL = 0.05; cli.main()"
)


def start(path, *arguments):
    """Start `separatrix validate` in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, "validate", path, *arguments]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def n_committed(path):
    stored = Reader(path).stored_validations
    return stored.open(0).n_outcomes if stored.numbers() else 0


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("n_kills", "workers"), [(1, 0), pytest.param(8, 2, marks=pytest.mark.slow)], ids=["once", "often"]
)
def test_a_validation_killed_and_resumed_is_the_same_and_holds_nothing_twice(finished, tmp_path, n_kills, workers):
    whole, killed = (shutil.copytree(finished, tmp_path / name) for name in ("whole", "killed"))
    arguments = ("--configurations", 10, "--shots", 300, "--workers", workers, "--platform", "Reference")
    succeed("validate", whole, "--configurations", 10, "--shots", 300, *SERIAL)
    expected, before = outcomes(whole), 0
    rng = np.random.default_rng(5)
    for kill in range(n_kills):
        process = start(killed, *arguments)
        least = max(kill * 2000 // n_kills, before) + 10
        wait_for(lambda least=least: n_committed(killed) >= least)
        time.sleep(rng.uniform(0, 0.1))
        if workers and kill % 2:  # one of its workers first
            children = psutil.Process(process.pid).children()
            next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
            time.sleep(0.1)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        part = outcomes(killed)
        part["retries"][:] = 0  # those whose worker was killed were made again
        assert before < len(part["state"]) < 3000
        before = len(part["state"])
        there = {pair: i for i, pair in enumerate(pairs(expected))}
        rows = [there[pair] for pair in pairs(part)]
        assert len(set(rows)) == len(rows)
        assert_equal(part, {name: column[rows] for name, column in expected.items()})
        assert Reader(killed).status().state is RunState.FINISHED
    succeed("validate", killed, "--configurations", 10, "--shots", 300, *SERIAL)
    whole_again = outcomes(killed)
    whole_again["retries"][:] = 0
    assert_equal(whole_again, expected)
    first, second = Reader(whole).result("validation"), Reader(killed).result("validation")
    for result in (first, second):
        result.pop("seconds")
    assert first == second
    assert not list((killed / "pending").iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
def test_ctrl_c_commits_and_the_same_command_goes_on(finished, tmp_path):
    path = shutil.copytree(finished, tmp_path / "run")
    arguments = ("--configurations", 10, "--shots", 10000, "--workers", 0, "--platform", "Reference", "--json")
    process = start(path, *arguments)
    wait_for(lambda: n_committed(path) > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["complete"] is False
    assert 0 < found["trajectories"] == n_committed(path) < 100_000
    assert read_result(path, "validation") == found
    stopped = outcomes(path)
    least = 1 + int(stopped["trajectory"].max())
    done = json.loads(succeed("validate", path, "--configurations", 10, "--shots", least, *SERIAL, "--json"))
    assert (done["complete"], done["trajectories"]) == (True, 10 * least)


def test_a_run_killed_while_sampling_is_not_taken_for_running_while_it_is_validated(run):
    with Store.open(run, writable=True) as store:
        store.commit({**store.notes, "state": "running"})
    assert Reader(run).status().state is RunState.INTERRUPTED
    succeed("validate", run, *SMALL)
    assert Store.open(run).notes["state"] == "interrupted"
    assert Reader(run).status().state is RunState.INTERRUPTED


# -- what is refused ---------------------------------------------------------------------------------------------------

MISTAKES = {
    "no configurations": (["--configurations", 0], ["--configurations", "1 or more", "got 0"]),
    "no shots": (["--shots", 0], ["--shots", "1 or more", "got 0"]),
    "negative seed": (["--seed", -1], ["--seed", "0 or more", "got -1"]),
    "negative workers": (["--workers", -1], ["--workers", "0 or more", "got -1"]),
    "no number": (["--shots", "all"], ["--shots", "integer", "separatrix validate --help"]),
    "no such platform": (["--platform", "Referense"], ["'Referense'", "did you mean 'Reference'"]),
    "too many": (["--configurations", 10**6], ["expected 1000000 frames", "--configurations", "sample more"]),
    "nothing to shoot": (["--against", "other", "--shots", 3], ["--against", "leave --shots out"]),
    "nothing for a device": (["--against", "other", "--devices", "0"], ["--against", "leave --devices out"]),
    "no device": (["--devices", "x"], ["devices", "such as 0,1", "'x'"]),
    "no other run": (["--against", "other"], ["no run at", "other"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_leaves_nothing(finished, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, says = MISTAKES[mistake]
    refuse("validate", finished, *arguments, says=says)
    assert Reader(finished).stored_validations.numbers() == []
    assert Reader(finished).result("validation") is None


def test_runs_that_cannot_be_validated_say_so(tmp_path):
    refuse("validate", tmp_path / "none", says=["no run at"])
    empty = Session.create(tmp_path / "empty", {"system": {"kind": "hummer-szabo"}}).path
    refuse("validate", empty, says=[str(empty), "trained committor", "separatrix run"])
    states = {**LANDSCAPE["states"], "C": "(x - 1)^2 + (y + 1)^2 < 0.01"}
    start = {**LANDSCAPE["system"]["start"], "C": [1.0, -1.0, 0.0]}
    three = Session.create(
        tmp_path / "three", {**LANDSCAPE, "states": states, "system": {**LANDSCAPE["system"], "start": start}}
    )
    refuse("validate", three.path, says=["two states", "found 3 (A, B, C)"])
    with pytest.raises(AnalysisError, match="shots: expected 1 or more, got 0"):
        Session.open(empty).validate(shots=0)


def test_a_run_with_another_writer_is_refused_and_left_alone(run):
    with Store.open(run, writable=True):
        refuse("validate", run, *SMALL, says=[f"{run} is being written by process {os.getpid()} on "])
        with pytest.raises(RunLockedError):
            Session.open(run).validate(workers=0, progress=False)
    assert Reader(run).stored_validations.numbers() == []


def test_formulas_from_elsewhere_are_parsed_and_never_run(run, tmp_path):
    mechanism = Reader(run).result("mechanism")
    trap = tmp_path / "trap"
    touch = f"__import__('pathlib').Path('{trap}').touch()"
    for expression, symbols in ((touch, {"x": "x"}), ("x.real", {"x": "x"}), ("z", {"x": "x"}), ("x", {touch: "x"})):
        row = {**mechanism["expressions"][1], "expression": expression, "symbols": symbols}
        write_result(run, "mechanism", {**mechanism, "expressions": [row]})
        refuse("validate", run, *SMALL, says=["mechanism.json", "explain the run again"])
    assert not trap.exists()


def test_a_run_from_a_table_is_predicted_and_never_shot_from(finished, tmp_path):
    table = tmp_path / "shots.csv"
    succeed("export", "shots", finished, table)
    succeed("learn", table, tmp_path / "made")
    refuse("validate", tmp_path / "made", says=["made from a table", "nothing can be simulated", "--test TABLE2"])
    found = json.loads(succeed("validate", finished, "--against", tmp_path / "made", "--json"))
    assert found[0]["n_trials"] == found[1]["n_trials"] == 500
    assert found[0]["null_loss"] == pytest.approx(found[1]["null_loss"])  # they are the same shots


# -- two runs ----------------------------------------------------------------------------------------------------------


def test_two_runs_predict_each_other(finished, tmp_path):
    other = sample(
        tmp_path / "other", {"system": {"kind": "hummer-szabo"}, "sampling": {"seed": 9, "selector": "uniform"}}, 150
    )
    before = [sorted(path.rglob("*")) for path in (finished, other)]
    found = json.loads(succeed("validate", finished, "--against", other, "--json"), parse_constant=pytest.fail)
    assert [sorted(path.rglob("*")) for path in (finished, other)] == before
    assert [each["predicting"] for each in found] == [str(finished), str(other)]
    assert [each["predicted"] for each in found] == [str(other), str(finished)]
    assert [each["n_points"] for each in found] == [150, 250]
    assert [len(each["predictors"]) > 1 for each in found] == [True, False]  # only one has formulas
    frames = Reader(other).frames
    at = frames["offset"].values == 0
    q = Reader(finished).model().q(frames["features"].values[at])
    shots = Reader(other).shots
    score = scores(q, shots["n_A"].values, shots["n_B"].values)
    network = found[0]["predictors"][0]
    assert network["loss"] == pytest.approx(score.loss.value)
    assert network["slope"] == pytest.approx(score.slope.value)
    assert [each["same_system"] for each in found] == [True, True]
    for each in found:
        good = each["predictors"][0]
        assert each["saturated_loss"] < good["loss"] < each["null_loss"]
        assert good["loss"] == pytest.approx(good["entropy"], abs=0.06)
        assert 0 < good["loss_error"] < 0.05
        assert abs(good["slope"] - 1) < 0.6
    text = " ".join(succeed("validate", finished, "--against", other).split())
    assert "predictor loss entropy slope intercept" in text
    assert "network 0." in text


def test_runs_that_differ_in_columns_or_states_do_not_predict_each_other(finished, tmp_path):
    refuse("validate", finished, "--against", finished, says=["expected another run", "got the run itself"])
    fewer = Session.create(
        tmp_path / "fewer", {"system": {"kind": "hummer-szabo"}, "descriptors": {"columns": ["x"]}}
    ).path
    refuse("validate", finished, "--against", fewer, says=[str(fewer), "expected the descriptors of", "without 'y'"])
    states = {"A": "x < -0.9", "B": "x > 0.9"}
    moved = Session.create(tmp_path / "moved", {"system": {"kind": "hummer-szabo"}, "states": states}).path
    refuse("validate", finished, "--against", moved, says=[str(moved), "expected the states of", "A = x < -0.9"])
    empty = Session.create(tmp_path / "empty", {"system": {"kind": "hummer-szabo"}}).path
    refuse("validate", finished, "--against", empty, says=[str(empty), "shots", "separatrix run"])
