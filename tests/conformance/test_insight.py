"""The mechanism of a run is found anew while it samples, and never in its way."""

from __future__ import annotations

import time

import pytest

from separatrix import Session
from separatrix.analyst import Analyst
from separatrix.insight import insights

PATIENCE = 240.0
"""Seconds for analyses, which take fifteen, and yield to whatever else the machine does."""
MOLECULE = {"system": {"kind": "alanine-dipeptide"}, "seeding": {"temperature": 1200.0}}


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_session_finds_formulas_while_it_samples_and_goes_on_from_them(tmp_path):
    session = Session.create(tmp_path / "run", MOLECULE | {"analysis": {"every": 40, "generations": 5}})
    session.start(1_000_000, workers=1, shots_per_second=20.0)  # it leaves the processor to the analyses
    wait_for(lambda: len(insights(session.path)) >= 2)
    session.stop()
    first, second = insights(session.path)[:2]
    assert 40 <= first["n_shots"] <= second["n_shots"] - 40
    assert 1 <= first["model_version"] <= second["model_version"]
    assert set(first["symbols"]) <= {"_".join(name.replace("-", " ").split()) for name in first["symbols"].values()}
    assert first["groups"][0]["mean"] >= first["groups"][-1]["mean"]
    assert 0 < second["validation_loss"] < 1
    held = session.status.steps
    assert session._analyst()._seen == insights(session.path)[-1]["n_shots"] <= held
    assert not [event for event in session.reader.log() if event["event"] == "analysis failed"]


@pytest.mark.parametrize("change", [{"analysis": {"every": 0}}, {"analysis": {"every": 20, "generations": 5}}])
def test_without_workers_or_when_not_wanted_nothing_is_analysed(tmp_path, change):
    session = Session.create(tmp_path / "run", {"system": {"kind": "hummer-szabo"}} | change)
    session.run(60, workers=0, progress=False)
    assert insights(session.path) == []
    assert (session._analyst() is None) == (change["analysis"]["every"] == 0)


def test_an_analysis_that_fails_is_told_once_and_tried_again():
    analyst = Analyst(10, int, 0)
    assert analyst.look(9) is None
    assert analyst._executor is None
    analyst._analysis = _fails
    assert analyst.look(10) is None
    wait_for(analyst._pending.done)
    assert isinstance(analyst.look(12), ZeroDivisionError)
    assert analyst.look(13) is None
    assert analyst._pending is None
    analyst._analysis = int
    analyst.look(20)
    wait_for(analyst._pending.done)
    assert analyst.look(21) is None
    analyst.close()


class _Fails:
    """A task that fails in the worker, whatever modules that knows."""

    def __call__(self):
        raise AssertionError("it runs in the worker only")

    def __reduce__(self):
        return eval, ("lambda: 1 // 0",)


_fails = _Fails()
