"""The command line keeps its contract: what it prints, where it ends, and what a mistake leaves behind (nothing)."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import sympy
import tomli_w
from rich.console import Console
from tests.command_line import run_cli

from separatrix import preparing, progress
from separatrix.engine import platform_names
from separatrix.progress import ProgressDisplay, SearchDisplay, ShootingDisplay, clock, status_line
from separatrix.reader import Reader
from separatrix.records import RunState, ShootingProgress, Status
from separatrix.resources import GPU_PLATFORMS
from separatrix.session import Session
from separatrix.symbolic import Progress as SearchProgress
from separatrix.systems import CATALOGUE, resolve
from separatrix.trainer import held_out_by

SERIAL = ("--workers", 0, "--platform", "Reference")
STEPS = 14
CONTRACT = {
    "state": str,
    "steps": int,
    "transitions": int,
    "expected_transitions": float,
    "accepted": int,
    "failures": int,
    "md_steps": int,
    "seconds": float,
    "md_steps_per_second": float,
    "model_version": int,
    "validation_loss": float | None,
    "calibration": dict | None,
}
LANDSCAPE = {
    "system": {
        "kind": "potential",
        "expression": "4*((x^2 - 1)^2 + (x - y)^2) + 2*z^2",
        "start": {"A": [-1.0, -1.0, 0.0], "B": [1.0, 1.0, 0.0]},
        "temperature": 120.0,
        "integrator": "brownian",
        "friction": 10.0,
        "timestep": 10.0,
    },
    "collective_variables": {"x": "x(0)", "y": "y(0)"},
    "states": {"A": "(x + 1)^2 + (y + 1)^2 < 0.0625", "B": "(x - 1)^2 + (y - 1)^2 < 0.0625"},
    "sampling": {"max_frames": 2000},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Time platforms briefly, and leave this process's signals as they are."""
    monkeypatch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def succeed(*arguments):
    """Run a command line that must succeed; return what it prints."""
    result = run_cli(*arguments)
    assert result.code == 0, result.err
    return result.out


def summary(path):
    """Return what ``show --json`` prints, checked against the contract."""
    found = json.loads(succeed("show", path, "--json"), parse_constant=pytest.fail)
    for name, kind in CONTRACT.items():
        assert isinstance(found[name], kind), f"{name}: {found[name]!r}"
    return found


def refuse(*arguments, says):
    """Run a command line that must be refused in one clear line."""
    result = run_cli(*arguments)
    assert result.code == 2, result
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in says:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


def write_config(path, **changes):
    """Write a configuration, the landscape with some tables replaced key by key."""
    data = {name: dict(table) for name, table in LANDSCAPE.items()}
    for table, values in changes.items():
        data[table] = {**data.get(table, {}), **values}
    path.write_text(tomli_w.dumps(data))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a finished run, to be looked at only."""
    path = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_MEASURE_SECONDS", 0.05)
        Session.create(path, LANDSCAPE).run(STEPS, workers=0, platform="Reference", progress=False)
    return path


@pytest.fixture
def run(finished, tmp_path):
    """Return a finished run of one's own."""
    return shutil.copytree(finished, tmp_path / "run")


# -- what works --------------------------------------------------------------------------------------------------------


def test_systems_lists_the_catalogue():
    text = " ".join(succeed("systems").split())
    entries = json.loads(succeed("systems", "--json"))
    assert [entry["name"] for entry in entries] == list(CATALOGUE)
    for entry in CATALOGUE.values():
        assert entry.name in text
        assert entry.description.split(".")[0] in text


def test_help_names_every_command():
    for arguments in ((), ("--help",)):
        text = succeed(*arguments)
        for command in ("systems", "new", "run", "learn", "show", "explain", "validate", "export", "doctor"):
            assert re.search(rf"\b{command}\b", text)


def test_a_new_run_waits_and_is_shown(tmp_path):
    path = tmp_path / "runs" / "first"
    text = succeed(
        "new", path, "--system", "alanine-dipeptide", "--set", "sampling.chains=3", "--set", "sampling.steps=7"
    )
    assert f"separatrix run {path}" in text
    assert "C7eq" in text
    config = tomllib.loads((path / "config.toml").read_text())
    assert config["sampling"]["chains"] == 3
    found = summary(path)
    assert (found["state"], found["steps"], found["target"], found["md_steps"]) == ("new", 0, 7, 0)
    assert (found["model_version"], found["validation_loss"], found["calibration"]) == (0, None, None)
    assert re.search(r"^steps +0 of 7 steps", succeed("show", path), re.MULTILINE)


def test_steps_are_a_total_and_nothing_is_made_twice(tmp_path):
    path, config = tmp_path / "run", write_config(tmp_path / "landscape.toml")
    last = succeed("run", path, "--config", config, "--steps", 4, *SERIAL)
    assert last == f"{path}: finished, 4 of 4 steps; look at it: separatrix show {path}\n"
    before = summary(path)
    assert (before["state"], before["steps"]) == ("finished", 4)
    rows = Reader(path).shots
    succeed("run", path, "--steps", 4, *SERIAL)
    succeed("run", path, "--steps", 3, *SERIAL)
    assert Reader(path).shots.identical(rows)
    assert summary(path)["steps"] == 4
    succeed("run", path, "--config", config, "--steps", 6, *SERIAL)  # the same configuration may be named again
    assert summary(path)["steps"] == 6
    shots = Reader(path).shots
    assert shots.isel(shot=slice(4)).identical(rows)
    pairs = set(zip(shots["chain"].values.tolist(), shots["step"].values.tolist(), strict=True))
    assert pairs == {(chain, step) for chain in (0, 1) for step in range(3)}


def test_without_steps_a_run_goes_on_to_its_own_number(tmp_path):
    path = tmp_path / "run"
    succeed("run", path, "--system", "hummer-szabo", "--set", "sampling.steps=3", *SERIAL)
    assert summary(path)["steps"] == 3


def test_show_counts_what_is_stored(finished):
    found, shots = summary(finished), Reader(finished).shots
    first, last = shots["ends"].values.T
    assert found["steps"] == STEPS == shots.sizes["shot"]
    assert found["transitions"] == int(((first != last) & (first >= 0) & (last >= 0)).sum())
    assert found["accepted"] == int(shots["accepted"].sum())
    assert found["md_steps"] == int(shots["md_steps"].sum())
    assert found["expected_transitions"] == pytest.approx(float(shots["p_transition"].sum()), rel=1e-6)
    assert found["md_steps_per_second"] == pytest.approx(found["md_steps"] / found["seconds"])
    assert found["model_version"] >= 1
    assert found["calibration"]["n_shots"] > 0


def test_show_speaks_in_words_with_units_and_errors(finished):
    lines = succeed("show", finished).splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for pattern in (
        r"^state +finished",
        rf"^steps +{STEPS} of {STEPS} steps",
        r"^yield +\d\.\d{3} ± \d\.\d{3} \(ideal 0\.42\)",
        r"^MD speed +[\d,]+ steps/s",
        r"^MD done +[\d,]+ steps \([\d.]+ ns\) in 0:00:\d\d of sampling",
        r"^held-out loss +\d\.\d{3} \(chance 0\.693\)",
        r"^calibration +(-|slope .* ± )",
    ):
        assert re.search(pattern, text, re.MULTILINE), f"{pattern} is not in\n{text}"


def test_a_running_run_can_be_shown(tmp_path):
    path = tmp_path / "run"
    session = Session.create(path, {"system": {"kind": "hummer-szabo"}})
    session.start(10**6, workers=0, platform="Reference")
    try:
        deadline = time.monotonic() + 60
        while summary(path)["steps"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        found = summary(path)
        assert (found["state"], found["target"]) == ("running", 10**6)
        assert found["md_steps"] > 0
        assert "sampl" in succeed("show", path)
    finally:
        session.stop()
    assert summary(path)["state"] == "stopped"


def test_doctor_looks_at_this_machine(tmp_path):
    findings = json.loads(succeed("doctor", tmp_path, "--json"))
    assert {finding["level"] for finding in findings} <= {"ok", "note"}
    assert {finding["level"] == "ok" or bool(finding["advice"]) for finding in findings} == {True}
    subjects = {finding["subject"] for finding in findings}
    assert {"Python", "packages", "processors", "memory", "disk", "platform Reference", "GPUs"} <= subjects
    assert "the fastest here" in " ".join(succeed("doctor", tmp_path).split())


# -- explaining --------------------------------------------------------------------------------------------------------

QUICK = ("--generations", 5, "--workers", 1)


def explained(*arguments):
    """Return what ``explain --json`` prints, checked against the contract."""
    found = json.loads(succeed("explain", *arguments, "--json"), parse_constant=pytest.fail)
    for row in found["relevance"]:
        assert [type(row[name]) for name in ("name", "group", "mean", "std")] == [str, str, float, float]
    for row in found["expressions"]:
        assert [type(row[name]) for name in ("expression", "latex", "complexity")] == [str, str, int]
        assert [type(row[name]) for name in ("training_loss", "validation_loss")] == [float, float]
    return found


@pytest.fixture(scope="module")
def hummer_szabo(tmp_path_factory):
    """Return a finished run on the Hummer-Szabo landscape, to be looked at only."""
    path = tmp_path_factory.mktemp("explained") / "run"
    Session.create(path, {"system": {"kind": "hummer-szabo"}}).run(300, workers=0, platform="Reference", progress=False)
    return path


def test_explain_ranks_the_inputs_and_writes_formulas_that_give_their_losses(hummer_szabo, tmp_path):
    path = shutil.copytree(hummer_szabo, tmp_path / "run")
    found = explained(path, *QUICK, "--seed", 3)
    assert Reader(path).result("mechanism") == found
    assert [row["name"] for row in found["relevance"]] == ["x", "y"]
    assert [row["mean"] for row in found["relevance"]] == sorted((r["mean"] for r in found["relevance"]), reverse=True)
    first, *others = found["expressions"]
    assert (first["complexity"], first["symbols"]) == (0, {})
    assert len(others) > 0
    # Losses again from the shots, by sympy alone; every fourth shot or so judges, the others were fitted.
    run = Reader(path)
    shots, points = run.shots, run.frames.sel(frame=run.frames["offset"].values == 0)
    assert points["shot"].values.tolist() == list(range(300))
    q_names = [str(name) for name in points["feature"].values]
    columns = points["features"].values.astype(float).T
    trained = held_out = 0.0
    judging = held_out_by(np.arange(300), 1, run.config.committor.held_out)[0]
    for row in found["expressions"]:
        assert row["symbols"].items() <= dict(zip(q_names, q_names, strict=True)).items()
        q = sympy.lambdify(sympy.symbols(q_names), sympy.sympify(row["expression"]), "numpy")(*columns)
        loss = shots["n_A"].values * np.logaddexp(0, q) + shots["n_B"].values * np.logaddexp(0, -q)
        counts = shots["n_A"].values + shots["n_B"].values
        trained, held_out = (loss[rows].sum() / counts[rows].sum() for rows in (~judging, judging))
        assert (row["training_loss"], row["validation_loss"]) == pytest.approx((trained, held_out), rel=1e-9)
    assert held_out < 0.66 < first["validation_loss"]
    assert found["recommended"] in [row["expression"] for row in found["expressions"]]


def test_a_seed_gives_the_same_mechanism_whatever_the_number_of_threads(hummer_szabo, tmp_path):
    path = shutil.copytree(hummer_szabo, tmp_path / "run")
    brief = ("--generations", 2, "--inputs", 1)
    first = explained(path, *brief, "--workers", 1)
    assert first == explained(path, *brief, "--workers", 3)
    other = explained(path, *brief, "--seed", 1)
    assert [row["mean"] for row in other["relevance"]] != [row["mean"] for row in first["relevance"]]


def test_explain_prints_tables_that_fit(hummer_szabo, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = shutil.copytree(hummer_szabo, tmp_path / "run")
    result = run_cli("explain", path, *QUICK, "--inputs", 1)
    assert result.code == 0
    assert re.search(
        r"^searching formulas|^writing formulas: 100%, best loss 0\.\d{4}, .* formulas/s", result.err, re.MULTILINE
    )
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    for pattern in (
        r"^x +0\.\d{4} ± 0\.\d{4} +0\.\d\d ± ",
        r"^y +0\.",
        r"of 2 are above the noise, 0\.",
        r"^ +0 +-?0\.\d+ +0\.\d",
    ):
        assert re.search(pattern, result.out, re.MULTILINE), f"{pattern} is not in\n{result.out}"
    mechanism = Reader(path).result("mechanism")
    assert mechanism["inputs"] == ["x"]
    assert "recommended: q = " + mechanism["recommended"] in " ".join(result.out.split())


def test_a_run_can_be_explained_while_it_samples(tmp_path):
    path = tmp_path / "run"
    session = Session.create(path, {"system": {"kind": "hummer-szabo"}})
    session.start(10**6, workers=0, platform="Reference")
    try:
        deadline = time.monotonic() + 60
        while summary(path)["steps"] < 60 or not session.reader.model_versions:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        found = explained(path, *QUICK)
        assert found["n_shots"] >= 50
        assert found["complete"] is True
        assert summary(path)["state"] == "running"
    finally:
        session.stop()
    assert summary(path)["steps"] > found["n_shots"]
    assert Reader(path).result("mechanism") == found


def test_ctrl_c_ends_a_search_and_keeps_what_was_found(hummer_szabo, tmp_path):
    path = shutil.copytree(hummer_szabo, tmp_path / "run")
    command = [sys.executable, "-c", "from separatrix.cli import main; main()", "explain", path, "--json"]
    command += ["--generations", "1000000", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()  # the search is on
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert line.startswith("searching formulas: 0%")
    assert process.returncode == 130
    assert "ended early" in err
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["complete"] is False
    assert len(found["expressions"]) >= 1
    assert Reader(path).result("mechanism") == found


UNEXPLAINED = {
    "no inputs": (["--inputs", 0], ["--inputs", "1 or more", "got 0"]),
    "more inputs than there are": (["--inputs", 3], ["inputs", "2 at most", "got 3"]),
    "negative seed": (["--seed", -1], ["--seed", "0 or more", "got -1"]),
    "no generations": (["--generations", 0], ["--generations", "1 or more", "got 0"]),
    "no workers": (["--workers", 0], ["--workers", "1 or more", "got 0"]),
    "no number": (["--inputs", "all"], ["--inputs", "integer", "separatrix explain --help"]),
}


@pytest.mark.parametrize("mistake", UNEXPLAINED)
def test_what_cannot_be_explained_is_told_in_one_line(finished, mistake):
    arguments, says = UNEXPLAINED[mistake]
    before = files(finished)
    refuse("explain", finished, *arguments, says=says)
    assert files(finished) == before


def test_a_run_without_a_trained_model_is_not_explained(tmp_path):
    path = tmp_path / "run"
    succeed("new", path, "--system", "hummer-szabo")
    refuse("explain", path, says=[str(path), "trained committor", "after ten shots", "separatrix run"])
    assert Reader(path).result("mechanism") is None


# -- processes of their own --------------------------------------------------------------------------------------------

PROGRAM = [sys.executable, "-c", "from separatrix import preparing, cli; preparing._MEASURE_SECONDS = 0.1; cli.main()"]


def test_new_and_run_in_one_with_pipes(tmp_path):
    path = tmp_path / "run"
    command = [*PROGRAM, "run", path, "--system", "hummer-szabo", "--steps", "12", *map(str, SERIAL)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert all(re.match(r"[a-z ]+: [\d,]+ of 12 steps", line) for line in done.stderr.splitlines()), done.stderr
    assert summary(path)["steps"] == 12


def test_a_mistake_costs_one_line_and_no_torch(tmp_path):
    program = "import sys; from separatrix import cli\ntry: cli.main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, "run", tmp_path / "run", "--steps", "-1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: --steps: expected 0 or more, got -1\n"
    assert done.stdout == "False\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_terminal_of_80_columns_is_kept(tmp_path):
    here, there = os.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    command = [*PROGRAM, "run", tmp_path / "run", "--system", "hummer-szabo", "--steps", "8", "--workers", "0"]
    with subprocess.Popen(command, stdout=there, stderr=there, stdin=there, env=environment) as process:
        os.close(there)
        text = b""
        try:
            while part := os.read(here, 65536):
                text += part
        except OSError:  # the other end was closed
            pass
    os.close(here)
    assert process.returncode == 0, text
    *drawn, last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.decode()).replace("\r", "\n").strip().split("\n")
    assert last.endswith(f"separatrix show {tmp_path / 'run'}")
    assert max(map(len, drawn)) <= 80
    for words in ("preparing", "finding a first path", "finished", "8 of 8 steps", "MD speed", "steps/s"):
        assert any(words in line for line in drawn), (words, drawn)


# -- the display -------------------------------------------------------------------------------------------------------

BUSY = Status(
    state=RunState.RUNNING,
    steps=98_765,
    target=123_456,
    transitions=34_567,
    expected_transitions=40_123.4,
    accepted=12_345,
    failures=12,
    md_steps=10**11,
    seconds=98_765.4,
    raw_steps_per_second=900_000.0,
    platform="Reference",
    workers=16,
    model_version=1234,
    validation_loss=0.512,
)


def draw(status, width):
    """Return the lines of the live display."""
    config = resolve({"system": {"kind": "hummer-szabo"}})
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    display = ProgressDisplay(lambda: status, config, console)
    with console.capture() as capture:
        console.print(display._render())
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(50, 9), (80, 5), (120, 4), (250, 4)])
def test_large_numbers_fit(width, height):
    lines = draw(BUSY, width)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in (
        "98,765 of 123,456 steps",
        "1 d 3:26:05",
        "40,123 expected",
        "0.350 ± 0.002 (ideal 0.42)",
        "1,012,500 steps/s",
    ):
        assert (part in text) or width < 80
        assert "…" not in text


def test_what_a_run_is_doing_is_said_in_words():
    lines = draw(Status(state=RunState.RUNNING, target=10, message="measuring [the] platforms"), 80)
    assert len(lines) == 2
    assert lines[0].startswith("preparing")
    assert lines[1].rstrip() == "measuring [the] platforms"
    assert draw(Status(state=RunState.SEEDING, target=10), 80)[0].startswith("finding a first path")
    assert draw(Status(state=RunState.SEEDING, target=10, steps=3, seconds=9.0), 80)[0].startswith("preparing")
    assert draw(BUSY, 80)[0].startswith("sampling")
    for state in (RunState.PAUSED, RunState.FINISHED, RunState.STOPPED, RunState.FAILED):
        line = draw(Status(state=state, steps=3, target=10, seconds=9.0), 80)[0]
        assert line.startswith(state.value)
        assert "left" not in line


def test_the_time_left_follows_the_latest_pace():
    pace = progress.Pace()

    def left(steps, seconds):
        return pace.seconds_left(Status(state=RunState.RUNNING, steps=steps, target=1000, seconds=seconds))

    assert left(500, 1000.0) is None  # a run that goes on: its past says nothing about this machine
    assert left(510, 1010.0) == pytest.approx(490)
    assert left(700, 1090.0) == pytest.approx(300 * 80 / 190)  # over the last minute, or a little more
    assert pace.seconds_left(Status(state=RunState.PAUSED, steps=700, target=1000, seconds=1100.0)) is None
    assert clock(3725) == "1:02:05"


def drawn_search(stop, *moments, display=SearchDisplay):
    """Return the lines of the display of a search in a terminal of 80 columns, after each moment."""
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    display, lines = display(stop, console), []
    for moment in moments:
        if moment is not None:
            display.report(moment)
        with console.capture() as capture:
            console.print(display._render())
        lines.append(re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).rstrip("\n"))
    return lines


def test_a_search_shows_its_best_loss_its_speed_and_the_time_left():
    begun = SearchProgress(share=0.0, n_fitted=0, seconds=1.0, best_loss=math.inf)
    busy = SearchProgress(share=0.25, n_fitted=123_456, seconds=100.0, best_loss=0.56789)
    stop = threading.Event()
    lines = drawn_search(stop, None, begun, busy)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("ranking the inputs")
    assert re.match(r"searching formulas .* 0:00:01 *$", lines[1])
    assert re.match(r"searching formulas .*best loss 0\.5679, 1,235 formulas/s, 0:01:40, 0:05:00 left", lines[2])
    done = replace(busy, share=1.0)
    stop_early = threading.Event()
    stop_early.set()
    for line in drawn_search(stop, done) + drawn_search(stop_early, busy):
        assert line.startswith("writing formulas")
        assert "left" not in line


def test_committor_shooting_shows_its_trajectories_and_the_time_left():
    begun = ShootingProgress(done=500, total=2000)
    busy = ShootingProgress(done=1000, total=2000, made=500, seconds=100.0)
    stop = threading.Event()
    lines = drawn_search(stop, None, begun, busy, display=ShootingDisplay)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("preparing")
    assert re.match(r"shooting .* 500 of 2,000 trajectories, 0:00:00 *$", lines[1])
    # What an earlier command made says nothing about the pace of this one.
    assert re.match(r"shooting .* 1,000 of 2,000 trajectories, 0:01:40, 0:03:20 left", lines[2])
    stop.set()
    (line,) = drawn_search(stop, busy, display=ShootingDisplay)
    assert line.startswith("stopping")
    assert "left" not in line
    (line,) = drawn_search(stop, replace(busy, done=2000), display=ShootingDisplay)
    assert line.startswith("validated")


def test_without_a_terminal_a_search_has_a_line_when_it_begins_and_one_when_it_ends():
    begun = SearchProgress(share=0.1, n_fitted=10, seconds=1.0, best_loss=0.6)
    for moments, expected in (
        (
            [begun, replace(begun, share=0.5), replace(begun, share=1.0)],
            ["searching formulas: 10%", "writing formulas: 100%"],
        ),
        ([replace(begun, share=1.0)], ["writing formulas: 100%"]),
        ([], []),
    ):
        text = io.StringIO()
        with SearchDisplay(threading.Event(), Console(file=text)) as display:
            for moment in moments:
                display.report(moment)
        assert [line.partition(",")[0] for line in text.getvalue().splitlines()] == expected


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.01)
    config, text = resolve({"system": {"kind": "hummer-szabo"}}), io.StringIO()
    states = [Status(state=RunState.SEEDING, target=10, message="hot run")] * 5 + [BUSY] * 10**6
    moments = iter(states)
    with ProgressDisplay(lambda: next(moments), config, Console(file=text)):
        time.sleep(0.5)
    lines = text.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["finding a first path", "sampling", "sampling"]
    assert lines[0].endswith("hot run")
    assert lines[-1] == status_line(BUSY)


# -- what is refused ---------------------------------------------------------------------------------------------------

MISTAKES = {
    "unknown system": (
        ["--system", "alanine-peptide"],
        ["system.kind", "'alanine-peptide'", "did you mean 'alanine-dipeptide'"],
    ),
    "unknown key": (["--system", "hummer-szabo", "--set", "sampling.chain=3"], ["sampling.chain", "'chains'"]),
    "unknown table": (["--system", "hummer-szabo", "--set", "samplin.chains=3"], ["samplin", "'sampling'"]),
    "table named as a kind of system": (["--system", "hummer-szabo", "--set", "table.x=1"], ["table: unknown key"]),
    "key named as a type": (["--system", "hummer-szabo", "--set", "str=1"], ["str: unknown key"]),
    "date": (["--system", "hummer-szabo", "--set", "made=2026-11-27"], ["made: unknown key"]),
    "wrong type": (
        ["--system", "hummer-szabo", "--set", "sampling.chains=two"],
        ["sampling.chains", "integer", "'two'"],
    ),
    "out of range": (["--system", "hummer-szabo", "--set", "sampling.chains=0"], ["sampling.chains", "1", "got 0"]),
    "not finite": (["--system", "hummer-szabo", "--set", "seeding.time_limit=nan"], ["seeding.time_limit", "finite"]),
    "no assignment": (["--system", "hummer-szabo", "--set", "sampling.chains"], ["--set", "section.key=value"]),
    "unknown solvent": (
        ["--system", "alanine-dipeptide", "--set", "system.solvent=water"],
        ["'water'", "vacuum, obc2"],
    ),
    "no solvent": (["--system", "hummer-szabo", "--set", "system.solvent=water"], ["system.solvent", "remove it"]),
    "unknown variable": (
        ["--system", "alanine-dipeptide", "--set", "states.C7eq=between(phy, 0, 10)", "--set", "states.B=phi > 100"],
        ["state 'C7eq'", "unknown name 'phy'", "did you mean 'phi'"],
    ),
    "number as state": (
        ["--system", "hummer-szabo", "--set", "states.A='x + 1'", "--set", "states.B='x > 1'"],
        ["state 'A'", "condition", "'x + 1'"],
    ),
    "one state": (["--system", "hummer-szabo", "--set", "states.A='x < 0'"], ["states: expected 2", "got 1"]),
    "code as state": (
        ["--system", "hummer-szabo", "--set", "states.A='__import__(\"os\")'", "--set", "states.B='x > 1'"],
        ["state 'A'"],
    ),
    "states overlap": (
        ["--system", "hummer-szabo", "--set", "states.A='x < 0.2'", "--set", "states.B='x > 0.1'"],
        ["'A' and 'B' overlap", "at x = 0.1", "nm, y = ", "exclude"],
    ),
    "no start in any state": (
        ["--system", "hummer-szabo", "--set", "states.A='x < -3'", "--set", "states.B='x > 3'"],
        ["states: expected a start", "(A, B)", "x = -1 nm, y = -1 nm; x = 1 nm, y = 1 nm", "seeding.trajectory"],
    ),
    "no such atom": (
        ["--system", "alanine-dipeptide", "--set", "descriptors.columns=['distance(0, 22)']"],
        ["distance(0, 22)", "22"],
    ),
    "unknown column": (["--system", "hummer-szabo", "--set", "descriptors.columns=['w']"], ["'w'", "known: x, y"]),
    "missing file": (["--config", "nowhere.toml"], ["nowhere.toml", "no such file", "TOML"]),
    "file as folder": (["--config", f"{__file__}/b.toml"], ["b.toml", "cannot be read", "Not a directory", "TOML"]),
    "folder as file": (["--config", "."], ["cannot be read", "TOML"]),
    "system twice": (["--config", "nowhere.toml", "--system", "hummer-szabo"], ["--system or --config", "both"]),
    "nothing given": ([], ["no run there", "--system NAME or --config FILE.toml"]),
    "set alone": (["--set", "sampling.chains=3"], ["no run there", "--system NAME or --config FILE.toml"]),
    "no such option": (["--systm", "hummer-szabo"], ["--systm", "--help"]),
}


_SELECTED = ("--system", "alanine-dipeptide", "--set")
MISTAKES |= {
    "selection of several atoms": (
        (*_SELECTED, "collective_variables.phi=\"distance('name C', 3)\""),
        [
            "collective variable 'phi'",
            "expected one atom, but 'name C' selects 3 (ACE1-C, ALA2-C, NME3-C)",
            "narrow it",
        ],
    ),
    "selection of nothing": (
        (*_SELECTED, "collective_variables.phi=\"distance('resid 4', 3)\""),
        ["collective variable 'phi'", "'resid 4'", "selects no atom", "resid counts them from 0 to 2"],
    ),
    "hostile selection": (
        (*_SELECTED, "collective_variables.phi=\"distance('name (lambda: 1)()', 3)\""),
        ["collective variable 'phi'", "is not allowed"],
    ),
    "selection as a column": (
        (*_SELECTED, "descriptors.columns=[\"distance('protein', 3)\"]"),
        ["descriptors.columns", "expected one atom, but 'protein' selects 22 (ACE1-CH3, ACE1-H1, ACE1-H2, ...)"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", ["new", "run"])
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, command, mistake):
    monkeypatch.chdir(tmp_path)
    arguments, says = MISTAKES[mistake]
    refuse(command, "run", *arguments, says=says)
    assert list(tmp_path.iterdir()) == []


FILE_MISTAKES = {
    "start outside": (
        {"system": {"start": {"A": [0.0, 0.0, 0.0], "B": [1.0, 1.0, 0.0]}}},
        ["system.start.A", "outside every state (x = 0 nm, y = 0 nm)", "(x + 1)^2 + (y + 1)^2 < 0.0625"],
    ),
    "starts exchanged": (
        {"system": {"start": {"A": [1.0, 1.0, 0.0], "B": [-1.0, -1.0, 0.0]}}},
        ["system.start.A", "in state 'B'"],
    ),
    "start missing": ({"system": {"start": {"A": [-1.0, -1.0, 0.0]}}}, ["system.start", "'B'", "in nm"]),
    "start of no state": (
        {"system": {"start": {**LANDSCAPE["system"]["start"], "C": [0.0, 0.0, 0.0]}}},
        ["system.start", "'C'", "known: A, B"],
    ),
    "start in two dimensions": ({"system": {"start": {"A": [-1.0, -1.0], "B": [1.0, 1.0]}}}, ["[x, y, z] in nm"]),
    "bad potential": ({"system": {"expression": "4*(x^2 - 1"}}, ["'4*(x^2 - 1'", "OpenMM"]),
    "unknown key": ({"system": {"presure": 1.0}}, ["landscape.toml", "system.presure", "unknown key"]),
    **{
        f"table named {kind}": ({kind: {"x": 1}}, ["landscape.toml", f"{kind}: unknown key; known here: system"])
        for kind in ("potential", "files", "catalogue", "table")
    },
    "key named as the kind": ({"system": {"potential": 1}}, ["landscape.toml", "system.potential: unknown key"]),
    "date as unknown key": ({"system": {"made": date(2026, 11, 27)}}, ["landscape.toml", "system.made: unknown key"]),
    "date as number": (
        {"sampling": {"chains": date(2026, 11, 27)}},
        ["landscape.toml", "sampling.chains", "integer", "got 2026-11-27"],
    ),
    "date as text": (
        {"seeding": {"trajectory": date(2026, 11, 27)}},
        ["landscape.toml", "seeding.trajectory", "string", "got 2026-11-27"],
    ),
    "wrong type": ({"sampling": {"chains": 2.5}}, ["landscape.toml", "sampling.chains", "integer", "2.5"]),
    "no such trajectory": ({"seeding": {"trajectory": "away.xtc"}}, ["seeding.trajectory", "away.xtc", "no file"]),
}


@pytest.mark.parametrize("mistake", FILE_MISTAKES)
def test_a_mistake_in_a_file_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    changes, says = FILE_MISTAKES[mistake]
    config = write_config(tmp_path / "landscape.toml", **changes)
    refuse("run", "run", "--config", config, says=says)
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.skipif(bool(GPU_PLATFORMS & set(platform_names())), reason="there is a GPU platform on this machine")
@pytest.mark.parametrize("option", [("--devices", "0"), ("--workers-per-device", 2), ("--precision", "single")])
def test_what_needs_a_gpu_is_refused_without_one(tmp_path, option):
    says = ["expected a GPU platform (CUDA, OpenCL or HIP)", "found Reference, CPU", "separatrix doctor"]
    refuse("run", tmp_path / "run", "--system", "hummer-szabo", *option, says=says)
    assert list(tmp_path.iterdir()) == []


def test_malformed_toml_is_refused(tmp_path):
    config = tmp_path / "landscape.toml"
    config.write_text("[system\nkind = 1")
    refuse("new", tmp_path / "run", "--config", config, says=[str(config), "not valid TOML", "line 1"])
    config.write_bytes(b"\xff\xfe")
    refuse("new", tmp_path / "run", "--config", config, says=[str(config), "not valid TOML"])
    assert list(tmp_path.iterdir()) == [config]


def test_options_are_checked_before_a_run_is_made(tmp_path):
    new = ("run", tmp_path / "run", "--system", "hummer-szabo")
    refuse(*new, "--steps", -1, says=["--steps", "0 or more", "got -1"])
    refuse(*new, "--workers", -2, says=["--workers", "0 or more", "got -2"])
    refuse(*new, "--steps", "many", says=["--steps", "integer", "separatrix run --help"])
    refuse(*new, "--platform", "reference", says=["'reference'", "did you mean 'Reference'", "auto"])
    refuse(*new, "--devices", "first", says=["devices", "such as 0,1", "'first'"])
    refuse(*new, "--workers-per-device", 2, "--workers", 4, says=["workers-per-device", "got both"])
    refuse(*new, "--precision", "double", "--platform", "CPU", says=["CUDA", "'CPU'", "leave them out"])
    refuse(*new, "--shot-time-limit", 0, says=["shot-time-limit", "more than 0 seconds", "got 0"])
    refuse(*new, "--shot-time-limit", 9, *SERIAL, says=["shot-time-limit", "workers = 0", "leave it out"])
    refuse(*new, "--learner-device", "gpu", says=["learner-device", "cpu, cuda or cuda:N", "'gpu'"])
    refuse(*new, "--descriptor-device", "gpu", says=["descriptor-device", "auto, cpu or cuda", "'gpu'"])
    refuse(*new, "--learner-device", "cuda:96", says=["learner-device", "PyTorch", "sees", "cuda:96"])
    assert list(tmp_path.iterdir()) == []
    refuse("runn", says=["runn", "--help"])
    refuse("show", says=["RUN", "separatrix show --help"])


def test_what_is_no_run_is_refused_and_left_alone(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "precious").write_text("mine")
    refuse("show", tmp_path / "nowhere", says=["no run at", "nowhere"])
    refuse("explain", tmp_path / "nowhere", says=["no run at", "nowhere"])
    refuse("run", tmp_path / "nowhere", says=["nowhere", "no run there"])
    for path in (file, folder):
        refuse("show", path, says=["no run at", str(path)])
        refuse("explain", path, says=["no run at", str(path)])
        refuse("run", path, says=[str(path)])
        refuse("new", path, "--system", "hummer-szabo", says=[str(path), "new or an empty folder"])
        refuse("run", path, "--system", "hummer-szabo", says=[str(path), "new or an empty folder"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "precious"]
    assert file.read_text() == (folder / "precious").read_text() == "mine"


def test_an_empty_folder_becomes_a_run(tmp_path):
    refuse("show", tmp_path, says=["no run at"])
    succeed("new", tmp_path, "--system", "hummer-szabo")
    assert summary(tmp_path)["state"] == "new"


def files(folder):
    """Return what lies in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_exists_is_not_changed(run, tmp_path):
    before = files(run)
    refuse("new", run, "--system", "hummer-szabo", says=[str(run), "choose another name"])
    refuse("run", run, "--set", "sampling.chains=9", says=["fixed", "leave --set out"])
    refuse("run", run, "--system", "hummer-szabo", "--set", "sampling.chains=9", says=["config.toml", "another one"])
    config = write_config(tmp_path / "other.toml", sampling={"chains": 3})
    refuse("run", run, "--config", config, says=["config.toml", "another one"])
    refuse("run", run, "--platform", "Abacus", says=["'Abacus'", "Reference"])
    assert files(run) == before


def edit_root(change):
    """Return a function that changes the metadata of a run."""

    def edit(run):
        file = run / "run.zarr" / "zarr.json"
        root = json.loads(file.read_text())
        change(root)
        file.write_text(json.dumps(root))

    return edit


def replace_states(run):
    file = run / "config.toml"
    file.write_text(file.read_text().replace("[states]\nA", "[states]\nC"))


DAMAGES = {
    "metadata empty": (lambda run: (run / "run.zarr" / "zarr.json").write_text(""), ["damaged", "zarr.json", "copy"]),
    "metadata cut": (lambda run: (run / "run.zarr" / "zarr.json").write_text('{"a": '), ["damaged", "zarr.json"]),
    "metadata strange": (lambda run: (run / "run.zarr" / "zarr.json").write_text("{}"), ["damaged", "zarr.json"]),
    "metadata missing": (lambda run: (run / "run.zarr" / "zarr.json").unlink(), ["no run at", "run.zarr"]),
    "other format": (
        edit_root(lambda r: r["attributes"].update(separatrix_format=99)),
        ["format 2", "found 99", "version"],
    ),
    "no counts": (edit_root(lambda r: r["attributes"].pop("committed")), ["damaged", "committed", "zarr.json"]),
    "no attributes": (edit_root(lambda r: r.update(attributes=None)), ["damaged", "zarr.json"]),
    "column missing": (lambda run: shutil.rmtree(run / "run.zarr" / "shots" / "q"), ["damaged", "shots/q"]),
    "column damaged": (lambda run: (run / "run.zarr/shots/q/zarr.json").write_text("{}"), ["damaged", "shots/q"]),
    "rows missing": (lambda run: (run / "run.zarr/shots/q/c.0").unlink(), ["damaged", "shots/q/c.0"]),
    "configuration damaged": (
        lambda run: (run / "config.toml").write_text("[system"),
        ["damaged", "config.toml", "TOML"],
    ),
    "configuration missing": (lambda run: (run / "config.toml").unlink(), ["config.toml", "no such file", "copy"]),
    "configuration emptied": (lambda run: (run / "config.toml").write_text(""), ["config.toml", "system", "missing"]),
    "configuration changed": (replace_states, ["config.toml", "states", "(A, B)", "found C, B", "fixed"]),
    "topology damaged": (lambda run: (run / "system" / "topology.pdb").write_text("x"), ["damaged", "topology.pdb"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_and_not_made_worse(run, damage):
    spoil, says = DAMAGES[damage]
    spoil(run)
    before = files(run)
    refuse("show", run, says=says)
    refuse("show", run, "--json", says=says)
    refuse("explain", run, says=says)
    refuse("run", run, "--steps", STEPS + 2, *SERIAL, says=says)
    after = files(run)
    assert {path: after.get(path) for path in before} == before
    assert {path.name for path in set(after) - set(before)} <= {"lock"}


def test_a_missing_system_ends_the_run_with_one_line(run):
    (run / "system" / "system.xml").unlink()
    result = run_cli("run", run, "--steps", STEPS + 2, *SERIAL)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("error: the run is damaged")
    assert "system.xml" in result.err
    assert "Traceback" not in result.err
    assert np.array_equal(Reader(run).shots["step"], Reader(run).shots["step"])
