"""A real GPU: workers are pinned to it, its energies are right, and when it is lost, shots are made again."""

from __future__ import annotations

import time

import numpy as np
import openmm
import pytest
import torch
from openmm import app
from tests.conformance import faulty_devices
from tests.gpu import PLATFORM, needs_gpu

from separatrix import gpus, workers
from separatrix.engine import Engine, devices_of, platform_properties, serialize
from separatrix.errors import ConfigError
from separatrix.learner import Learner
from separatrix.reader import Reader
from separatrix.records import RunState, Snapshot
from separatrix.resources import Resources
from separatrix.session import Session
from separatrix.shooting import Shooter
from separatrix.store import Store
from separatrix.systems import build_system, resolve
from separatrix.workers import worker_specs

pytestmark = [pytest.mark.slow, *needs_gpu]

SYSTEM = {"system": {"kind": "hummer-szabo"}, "sampling": {"chains": 4}}
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"PyTorch {torch.__version__} sees no CUDA device")


@pytest.fixture
def path(tmp_path):
    """Return a new run."""
    return Session.create(tmp_path / "run", SYSTEM).path


def test_workers_are_pinned_to_their_device_in_their_precision(path):
    last = len(devices_of(PLATFORM)) - 1
    resources = Resources(devices=(last,), precision="double", workers=1)
    (spec,) = worker_specs(path, PLATFORM, resources, n_atoms=1, most=4)
    context = Shooter.build(spec).engine._context
    values = {name: context.getPlatform().getPropertyValue(context, name) for name in ("DeviceIndex", "Precision")}
    assert values == {"DeviceIndex": str(last), "Precision": "double"}


def test_devices_that_are_not_there_are_refused(path):
    with pytest.raises(ConfigError, match=rf"devices: .* there \(.*of {PLATFORM}.*\), got 96"):
        Session.open(path).start(10, platform=PLATFORM, devices=(96,))


def test_a_run_samples_on_the_gpu_with_the_workers_asked_for(path):
    status = Session.open(path).run(80, platform=PLATFORM, devices=(0,), workers_per_device=2, progress=False)
    assert (status.state, status.platform, status.workers, status.devices) == (RunState.FINISHED, PLATFORM, 2, 1)
    assert status.failures == 0
    assert status.model_version > 0


@pytest.mark.parametrize(("precision", "tolerance"), [("single", 2e-5), ("mixed", 2e-5), ("double", 1e-6)])
@pytest.mark.parametrize("solvent", ["vacuum", "obc2"])
def test_energies_are_those_of_the_reference_platform(solvent, precision, tolerance):
    config = resolve({"system": {"kind": "alanine-dipeptide", "solvent": solvent}})
    system = build_system(config)
    start = next(iter(system.starts.values()))
    xml, _ = serialize(system.openmm_system, system.topology, start)
    expected = Engine(xml, config, "Reference").potential_energy(start)
    properties = platform_properties(PLATFORM, device=0, precision=precision)
    assert Engine(xml, config, PLATFORM, properties).potential_energy(start) == pytest.approx(expected, rel=tolerance)


# -- losses ------------------------------------------------------------------------------------------------------------


class BrokenEngine(faulty_devices.FaultyEngine):
    """An engine whose device is brought to a real fault: an index out of bounds, which ends a CUDA context."""

    def _follow(self, *args):
        if faulty_devices.take_one(self.faults) is not None:
            try:
                torch.zeros(1, device="cuda")[torch.tensor([7], device="cuda")]
                torch.cuda.synchronize()
            except RuntimeError:
                (self.faults.parent / "faulted").touch()
        return Engine._follow(self, *args)


def start_broken_worker(spec):
    faulty_devices.start_worker(spec)
    faulty_devices.shooting._here.shooter.engine.__class__ = BrokenEngine


@cuda
@pytest.mark.skipif(PLATFORM != "CUDA", reason="a fault of CUDA")
def test_shots_go_on_after_a_fault_of_the_device(path, monkeypatch):
    monkeypatch.setattr(workers, "start_worker", start_broken_worker)
    (path / "faults").mkdir()
    (path / "faults" / "0").touch()
    status = Session.open(path).run(60, platform="CUDA", workers=2, progress=False)
    assert status.state is RunState.FINISHED
    assert (path / "faulted").exists()
    errors = [event["error"] for event in Reader(path).log() if event["event"] == "failure"]
    print(f"\nafter an index out of bounds in the worker: {errors or 'the context of OpenMM was not touched'}")
    # OpenMM may end the process itself: giving back memory of a broken device is an error, where nobody can catch one.
    told = ("DeviceLostError: CUDA device 0 can no longer be used", "the worker process ended by SIGABRT")
    assert all(error.startswith(told) for error in errors)
    assert len(errors) == status.failures


@cuda
@pytest.mark.skipif(PLATFORM != "CUDA", reason="memory of CUDA")
def test_a_device_without_memory_is_waited_for(path):
    """All memory is taken, workers die, and cannot start until some is given back: nothing but time is lost."""
    session = Session.open(path)
    session.start(10**6, platform="CUDA", workers=1)
    try:
        deadline = time.monotonic() + 90
        while session.status.steps < 10 and time.monotonic() < deadline:
            time.sleep(0.1)
        hog = take_all_memory()
        session._loop._shooters._workers[0]._process.kill()
        time.sleep(3.0)
        steps = session.status.steps
        del hog
        torch.cuda.empty_cache()
        while session.status.steps < steps + 20 and session.running and time.monotonic() < deadline:
            time.sleep(0.1)
        assert session.status.steps >= steps + 20
        print(f"\nwithout memory: {session.status.message!r}, {session.status.failures} failures")
    finally:
        session.stop()


def take_all_memory():
    """Take the memory of the device in ever smaller pieces."""
    pieces, size = [], torch.cuda.mem_get_info()[0]
    while size > 2**22:
        try:
            pieces.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    return pieces


# -- learning and looking ----------------------------------------------------------------------------------------------


@cuda
def test_a_committor_trained_on_the_gpu_is_as_good(tmp_path):
    path = Session.create(tmp_path / "run", SYSTEM).path
    Session.open(path).run(400, workers=2, platform="Reference", progress=False)
    lessons = {device: Learner(path, device).learn(400, 1) for device in ("cpu", "cuda", "cuda:0")}
    reports = {device: lesson.report for device, lesson in lessons.items()}
    losses = {device: report["validation_loss"] for device, report in reports.items()}
    print(f"\nheld-out losses {losses}, seconds { {device: report['seconds'] for device, report in reports.items()} }")
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=5e-3)
    q = {device: report["held_out_q"] for device, report in reports.items()}
    assert np.corrcoef(q["cuda"], q["cpu"])[0, 1] > 0.99
    before = len(Reader(path).model_versions)
    status = Session.open(path).run(460, workers=2, platform="Reference", learner_device="cuda", progress=False)
    assert status.model_version > before
    assert not [event for event in Reader(path).log() if event["event"] == "training failed"]


@cuda
@pytest.mark.skipif(PLATFORM != "CUDA", reason="PyTorch cannot use the devices of others")
def test_symmetry_functions_are_computed_on_the_gpu_unless_told_otherwise(tmp_path):
    data = {"system": {"kind": "lithium-chloride", "equilibration": 2.0}, "seeding": {"time_limit": 120.0}}
    path = Session.create(tmp_path / "run", data).path
    start = next(iter(Store.open(path).starts().values()))
    values = {}
    for where in ("auto", "cpu"):
        (spec,) = worker_specs(path, "CUDA", Resources(workers=1, descriptor_device=where), n_atoms=1_112, most=1)
        torch.cuda.reset_peak_memory_stats()
        taken = torch.cuda.memory_allocated()
        values[where] = Shooter.build(spec).observables.features(start.positions[None], start.box[None])
        assert (torch.cuda.max_memory_allocated() > taken) == (where == "auto")
    np.testing.assert_allclose(values["auto"], values["cpu"], rtol=1e-3, atol=1e-4)
    status = Session.open(path).run(20, platform="CUDA", workers=2, progress=False)
    print(f"\n{status.md_steps_per_second:,.0f} MD steps per second, raw {status.raw_steps_per_second:,.0f}")
    assert (status.state, status.failures) == (RunState.FINISHED, 0)


def test_devices_and_their_load_are_seen():
    found = gpus.Monitor().read()
    print(f"\n{found}")
    if PLATFORM == "CUDA":
        assert found
        assert all(0 <= gpu.utilisation <= 100 and 0 < gpu.memory_used <= gpu.memory_total for gpu in found)


def test_frames_in_a_triclinic_box_are_those_of_the_reference_platform():
    """A truncated octahedron of water: energy and forces of its frames, and the box they come with."""
    modeller = app.Modeller(app.Topology(), [] * openmm.unit.nanometer)
    field = app.ForceField("amber14/tip3p.xml")
    modeller.addSolvent(field, numAdded=500, boxShape="octahedron")
    system = field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * openmm.unit.nanometer, rigidWater=True
    )
    positions = np.array(modeller.positions.value_in_unit(openmm.unit.nanometer), np.float32)
    box = np.array([[*vector._value] for vector in system.getDefaultPeriodicBoxVectors()], np.float32)
    assert abs(box[1, 0]) > 0.5
    xml = openmm.XmlSerializer.serialize(system)
    config = resolve({"system": {"kind": "alanine-dipeptide"}})
    engine = Engine(xml, config, PLATFORM, platform_properties(PLATFORM, device=0))
    reference = Engine(xml, config, "Reference")
    engine.place(Snapshot(positions=positions, box=box))
    openmm.LocalEnergyMinimizer.minimize(engine._context, 100.0, 50)
    for _ in range(3):
        frame = engine.advance()
        np.testing.assert_array_equal(frame.box, box)
        energies = [each.potential_energy(frame) for each in (engine, reference)]
        assert energies[0] == pytest.approx(energies[1], rel=3e-4)
        forces = [each._context.getState(forces=True).getForces(asNumpy=True)._value for each in (engine, reference)]
        difference = np.linalg.norm(forces[0] - forces[1]) / np.linalg.norm(forces[1])
        assert difference < 3e-3  # PME is as exact as asked for, 5e-4, on each platform in its own way
