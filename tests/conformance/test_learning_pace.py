"""Where shots take milliseconds, sampling waits for the committor, and never for one that does not come."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from separatrix import learner, loop, preparing
from separatrix.reader import Reader
from separatrix.session import Session

IN_FLIGHT = 4
"""Trials of two workers, and one waiting for each."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Time platforms briefly."""
    monkeypatch.setattr(preparing, "_MEASURE_SECONDS", 0.02)


def learn_slowly(n_shots, version):
    """Learn as ever, a while later. Called by learner processes."""
    time.sleep(1.0)
    return learner.learn(n_shots, version)


def learn_never(_n_shots, _version):
    """Hang. Called by learner processes."""
    time.sleep(3600.0)


def make(folder, selector):
    return Session.create(
        folder / selector,
        {
            "system": {"kind": "hummer-szabo"},
            "sampling": {"chains": 4, "selector": selector},
            "committor": {"members": 1},
            "analysis": {"every": 0},
        },
    ).path


@pytest.mark.parametrize(("selector", "waits"), [("lorentzian", True), ("uniform", False)])
def test_a_run_waits_for_a_model_that_knows_half_its_shots(monkeypatch, tmp_path, selector, waits):
    monkeypatch.setattr(loop, "learn", learn_slowly)
    path = make(tmp_path, selector)
    Session.open(path).run(700, workers=2, platform="Reference", progress=False)
    reader = Reader(path)
    known = [reader.model_report(version)["n_shots"] for version in reader.model_versions]
    in_time = [later <= max(50, 2 * early) + IN_FLIGHT for early, later in pairwise([0, *known])]
    assert known[-1] == 700
    assert all(in_time) == waits, f"trained on {known} shots"
    if waits:
        assert len(known) >= 5


def test_a_training_that_never_ends_is_not_waited_for_for_ever(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "learn", learn_never)
    monkeypatch.setattr(loop, "_PATIENCE", 2.0)
    session = Session.open(make(tmp_path, "lorentzian"))
    session.start(10**6, workers=2, platform="Reference")
    try:
        seen, deadline = set(), time.monotonic() + 60.0
        while session.status.steps < 500 and time.monotonic() < deadline:
            seen.add(session.status.steps)
            time.sleep(0.1)
        assert session.status.steps >= 500
        assert any(50 <= steps <= 50 + IN_FLIGHT for steps in seen), "it did not wait at all"
    finally:
        session.stop()
    assert session.status.model_version == 0
