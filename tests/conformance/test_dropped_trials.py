"""What a run drops when it is stopped comes again as it was; what could not be learned is told at its end."""

from __future__ import annotations

import time

import pytest

from separatrix import loop, preparing, shooting
from separatrix.reader import Reader
from separatrix.records import RunState
from separatrix.rows import UNTOLD
from separatrix.session import Session
from separatrix.store import Store


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Time platforms briefly."""
    monkeypatch.setattr(preparing, "_MEASURE_SECONDS", 0.02)


def shoot_slowly(task):
    """Shoot as ever, a while later. Called by workers."""
    time.sleep(0.2)
    return shooting.shoot(task)


def learn_nothing(_n_shots, _version):
    """Fail. Called by learner processes."""
    raise MemoryError("no room for the network")


def make(folder):
    config = {
        "system": {"kind": "hummer-szabo"},
        "sampling": {"chains": 4},
        "committor": {"members": 1},
        "analysis": {"every": 0},
    }
    return Session.create(folder / "run", config).path


def test_trials_dropped_by_a_stop_are_made_again_by_the_model_that_chose_them(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "DRAIN_SECONDS", 0.0)
    path = make(tmp_path)
    Session.open(path).run(60, workers=2, platform="Reference", progress=False)
    monkeypatch.setattr(loop, "shoot", shoot_slowly)
    session = Session.open(path)
    session.start(200, workers=2, platform="Reference")
    known, deadline = session.status.model_version, time.monotonic() + 120.0
    while session.status.model_version == known and time.monotonic() < deadline:
        time.sleep(0.01)
    session.stop()  # what is in flight was chosen by the model before
    store = Store.open(path)
    dropped, newest = store.notes[UNTOLD], store.model_versions()[-1]
    assert any(version < newest for _, _, version in dropped)
    monkeypatch.setattr(loop, "shoot", shooting.shoot)
    Session.open(path).run(store.n_shots + 12, workers=2, platform="Reference", progress=False)
    shots = Store.open(path).shots()
    trials = zip(shots["chain"].tolist(), shots["step"].tolist(), strict=True)
    made = dict(zip(trials, shots["model"].tolist(), strict=True))
    assert [made[chain, step] for chain, step, _ in dropped] == [version for _, _, version in dropped]
    assert Store.open(path).notes[UNTOLD] == []


def test_a_run_whose_last_training_failed_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "learn", learn_nothing)
    path = make(tmp_path)
    Session.open(path).run(60, workers=2, platform="Reference", progress=False)
    status = Reader(path).status()
    assert status.state is RunState.FINISHED
    assert status.steps == 60
    assert "training failed" in status.message
    assert "no room for the network" in status.message
