"""A lost device is a failure of a machine: its shot is made again by a new worker, and the other devices go on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import openmm
import pytest
from tests.conformance import faulty_devices

from separatrix import loop, workers
from separatrix.engine import Engine, platform_names, serialize
from separatrix.errors import DeviceLostError, EngineError, WorkersLostError
from separatrix.reader import Reader
from separatrix.records import Reason, RunState, Snapshot
from separatrix.session import Session
from separatrix.systems import build_system, resolve
from separatrix.workers import worker_specs

SYSTEM = {"system": {"kind": "hummer-szabo"}, "sampling": {"chains": 3}}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Return a run whose two workers have devices of their own, 0 and 1, and fail as its files say."""
    Session.create(tmp_path / "run", SYSTEM)
    (tmp_path / "run" / "faults").mkdir()

    def specs(*args, **options):
        return tuple(replace(spec, device=device) for device, spec in enumerate(worker_specs(*args, **options)))

    monkeypatch.setattr(workers, "start_worker", faulty_devices.start_worker)
    monkeypatch.setattr(loop, "worker_specs", specs)
    return tmp_path / "run"


def events(path, kind):
    return [event for event in Reader(path).log() if event["event"] == kind]


LOST = "DeviceLostError: the Reference platform can no longer be used: "
CAUSES = {
    "": (f"{LOST}Error launching", "OpenMMException"),
    "memory": ("DeviceLostError: out of memory: no more is to be had", "MemoryError"),
    "allocation": (f"{LOST}std::bad_alloc", "OpenMMException"),
    "device memory": (f"{LOST}Error creating array posq: CUDA_ERROR_OUT_OF_MEMORY", "OpenMMException"),
}
SLOW = [pytest.param(2, kind, marks=pytest.mark.slow) for kind in CAUSES if kind]


@pytest.mark.parametrize(("n_workers", "kind"), [(0, ""), (2, ""), (0, "memory"), *SLOW])
def test_a_shot_whose_device_or_memory_is_lost_is_made_again(path, n_workers, kind):
    for fault in range(3):
        (path / "faults" / str(fault)).write_text(kind)
    n_losses = 3 if n_workers else 1  # the context that replaces a lost one in this process has no faults
    status = Session.open(path).run(150, workers=n_workers, platform="Reference", progress=False)
    assert status.state is RunState.FINISHED
    failures = events(path, "failure")
    assert len(failures) == n_losses == status.failures
    shots = Reader(path).columns("shots")
    assert len(shots["chain"]) == 150
    for event in failures:
        error, cause = CAUSES[kind]
        assert event["error"].startswith(error)
        assert cause in event["traceback"]
        (row,) = np.flatnonzero((shots["chain"] == event["chain"]) & (shots["step"] == event["step"]))
        assert shots["seed"][row] == event["seed"]
        assert shots["reason"][row] != Reason.FAILURE
        assert shots["retries"][row] >= event["attempt"]
    started = (path / "starts").read_text().split("\n")[:-1]
    assert (len(set(started)) > 2) is (n_workers > 0), "a loss costs a process, unless there is none"


@pytest.mark.slow
def test_a_device_that_stays_lost_is_given_up_and_the_others_go_on(path):
    (path / "gone-1").touch()
    session = Session.open(path)
    session.start(10**6, workers=2, platform="Reference")
    deadline = time.monotonic() + 60
    while not events(path, "worker lost") and time.monotonic() < deadline:
        time.sleep(0.1)
    steps = session.status.steps
    time.sleep(0.3)
    session.stop()
    assert (session.status.state, session.status.failures) == (RunState.STOPPED, 0)
    assert session.status.steps > steps > 0
    (event,) = events(path, "worker lost")
    assert (event["worker"], event["device"], event["error"]) == (1, 1, f"could not start: {faulty_devices.GONE}")
    assert {line.split()[1] for line in (path / "starts").read_text().splitlines()} == {"0"}


@pytest.mark.slow
def test_without_any_device_left_the_run_ends_with_one_line_and_keeps_its_shots(path):
    session = Session.open(path)
    assert session.run(20, workers=2, platform="Reference", progress=False).steps == 20
    for device in range(2):
        (path / f"gone-{device}").touch()
    with pytest.raises(
        WorkersLostError, match=r"no worker is left: .* 5 times in a row, .*No compatible CUDA device"
    ) as end:
        session.run(60, workers=2, platform="Reference", progress=False)
    assert "\n" not in str(end.value)
    status = Reader(path).status()
    assert (status.state, status.steps, status.message) == (RunState.FAILED, 20, str(end.value))
    for device in range(2):
        (path / f"gone-{device}").unlink()
    assert session.run(60, workers=2, platform="Reference", progress=False).steps == 60


@pytest.mark.slow
def test_a_validation_goes_on_after_a_loss(path):
    session = Session.open(path)
    session.run(60, workers=2, platform="Reference", progress=False)
    for fault in range(3):
        (path / "faults" / str(fault)).touch()
    validation = session.validate(configurations=5, shots=20, workers=2, platform="Reference", progress=False)
    assert validation.complete
    assert int(validation.n_ends.sum()) == 100
    assert len(events(path, "failure")) == 3


def made(data, platform="Reference"):
    config = resolve(data)
    system = build_system(config)
    start = next(iter(system.starts.values()))
    return Engine(serialize(system.openmm_system, system.topology, start)[0], config, platform), start


def test_blow_ups_are_no_losses():
    engine, start = made({"system": {"kind": "alanine-dipeptide"}}, "CPU" if "CPU" in platform_names() else "Reference")
    bad = Snapshot(positions=np.full_like(start.positions, np.nan))
    with pytest.raises(EngineError) as blown_up:
        engine.half(bad, np.zeros((22, 3)), None, 2)
    assert not isinstance(blown_up.value, DeviceLostError)


class Lost:
    """Stands for a method of OpenMM on a lost device."""

    def __init__(self, text):
        self.text = text

    def __getattr__(self, name):
        def fail(*_args, **_options):
            raise openmm.OpenMMException(self.text)

        return fail


@pytest.mark.parametrize("name", ["reseed", "place", "draw_velocities", "half", "advance", "step", "potential_energy"])
def test_every_method_of_the_engine_tells_a_loss(name, monkeypatch):
    engine, start = made({"system": {"kind": "alanine-dipeptide"}})
    engine._compiled, engine._reseeder = False, None
    monkeypatch.setattr(engine, "_context", Lost(faulty_devices.FAULT))
    monkeypatch.setattr(engine, "_integrator", Lost(faulty_devices.FAULT))
    arguments = {
        "reseed": (5,),
        "place": (start,),
        "draw_velocities": (start, np.random.default_rng(1)),
        "half": (start, np.zeros((22, 3)), None, 2),
        "advance": (),
        "step": (3,),
        "potential_energy": (start,),
    }[name]
    with pytest.raises(DeviceLostError, match="the Reference platform can no longer be used: Error launching CUDA"):
        getattr(engine, name)(*arguments)
