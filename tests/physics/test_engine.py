"""The engine against physics: velocities, constraints, time reversal, reproducible shots, blow-ups."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
import pytest
from scipy import stats

from separatrix.config import RunConfig
from separatrix.engine import Engine, atoms_of, measure_platforms, platform_names, platform_properties, serialize
from separatrix.errors import EngineError
from separatrix.expressions import program
from separatrix.kernels import Measure
from separatrix.observables import Observables
from separatrix.records import NO_STATE, ShotOutcome, ShotTask, Snapshot
from separatrix.shooting import Shooter
from separatrix.systems import build_system, resolve
from separatrix.systems.base import System
from separatrix.units import thermal_energy

pytestmark = pytest.mark.physics

ALANINE: dict[str, Any] = {"system": {"kind": "alanine-dipeptide"}}
WELL: dict[str, Any] = {
    "system": {
        "kind": "potential",
        "expression": "20*(x^2 + y^2 + z^2)",
        "mass": 12.0,
        "particles": 50,
        "start": {"A": [-1, 0, 0], "B": [1, 0, 0]},
        "integrator": "langevin",
        "timestep": 5.0,
    },
    "collective_variables": {"x": "x(0)"},
    "states": {"A": "x < -0.9", "B": "x > 0.9"},
    "descriptors": {"columns": ["x"]},
}


def made(data: dict[str, Any], **sampling: Any) -> tuple[RunConfig, System, str, Observables]:
    """Return configuration, system, serialized system and observables."""
    config = resolve({**data, "sampling": {**data.get("sampling", {}), **sampling}})
    system = build_system(config)
    first = next(iter(system.starts.values()))
    xml, _ = serialize(system.openmm_system, system.topology, first)
    return config, system, xml, Observables(config, atoms_of(system.topology))


def first_start(system: System) -> Snapshot:
    """Return the configuration inside the first state."""
    return next(iter(system.starts.values()))


def shooter(data: dict[str, Any], **sampling: Any) -> tuple[Shooter, Snapshot]:
    """Return a shooter on the Reference platform and a configuration between the states."""
    config, system, xml, observables = made(data, **sampling)
    engine = Engine(xml, config, "Reference")
    starts = [start.positions for start in system.starts.values()]
    middle = Snapshot(positions=((starts[0] + starts[1]) / 2).astype(np.float32))
    return Shooter(engine, observables, config.sampling.max_frames, None), middle


def without_states(observables: Observables) -> Measure:
    """Return a measure by which no frame lies in a state."""
    return observables.measure._replace(states=program([]))


def constraints(system: System) -> list[tuple[int, int, float]]:
    """Return the constraints of a system: two atoms and a distance in nm."""
    parameters = (
        system.openmm_system.getConstraintParameters(i) for i in range(system.openmm_system.getNumConstraints())
    )
    return [(i, j, length._value) for i, j, length in parameters]


def test_velocities_are_maxwell_boltzmann() -> None:
    config, system, xml, _ = made(WELL)
    engine = Engine(xml, config, "Reference")
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(300):
        forward, backward = engine.draw_velocities(first_start(system), rng)
        draws.append((forward - backward) / 2)  # the half-kick cancels
    width = np.sqrt(thermal_energy(config.system.temperature) / 12.0)
    samples = np.concatenate(draws).ravel() / width
    assert stats.kstest(samples, "norm").pvalue > 1e-3
    assert stats.kstest(1.05 * samples, "norm").pvalue < 1e-3  # the test can tell 5 % apart


def test_kinetic_energy_has_the_degrees_of_freedom_that_constraints_leave() -> None:
    config, system, xml, _ = made(ALANINE)
    engine = Engine(xml, config, "Reference")
    masses = np.array([system.openmm_system.getParticleMass(i)._value for i in range(engine.n_atoms)])
    bonds = constraints(system)
    rng = np.random.default_rng(2)
    start = first_start(system)
    energies, along = [], []
    for _ in range(2_000):
        forward, backward = engine.draw_velocities(start, rng)
        engine.set_velocities((forward - backward) / 2)
        velocities = engine.velocities()
        energies.append(0.5 * (masses[:, None] * velocities**2).sum())
        along += [
            abs((velocities[i] - velocities[j]) @ (start.positions[i] - start.positions[j])) / length
            for i, j, length in bonds
        ]
    n_free = 3 * engine.n_atoms - len(bonds)
    in_kt = 2 * np.array(energies) / thermal_energy(config.system.temperature)
    assert stats.kstest(in_kt, stats.chi2(n_free).cdf).pvalue > 1e-3
    assert stats.kstest(in_kt, stats.chi2(3 * engine.n_atoms).cdf).pvalue < 1e-3
    assert max(along) < 1e-4  # nm/ps; atoms move at about 1 nm/ps


def test_constraints_hold_after_a_shot() -> None:
    config, system, xml, observables = made(ALANINE, max_frames=200)
    made_by = Shooter(Engine(xml, config, "Reference"), observables, 200, None)
    start = first_start(system)
    task = ShotTask(chain=0, step=0, snapshot=start, seed=3, model=0, frame=1)
    forward, _ = made_by.engine.draw_velocities(task.snapshot, np.random.default_rng(3))
    half = made_by.engine.half(task.snapshot, forward, without_states(observables), 200)
    for i, j, length in constraints(system):
        found = np.linalg.norm(half.positions[:, i] - half.positions[:, j], axis=1)
        np.testing.assert_allclose(found, length, rtol=2e-5)


@pytest.mark.parametrize("shift_by_half_a_step", [True, False])
def test_the_two_halves_are_one_trajectory_run_both_ways(shift_by_half_a_step: bool) -> None:
    """Without friction, x(+dt) - 2 x(0) + x(-dt) = dt^2 F/m across the shooting point; unshifted halves miss it."""
    data = {**ALANINE, "system": {"kind": "alanine-dipeptide", "friction": 1e-9}}
    config, system, xml, observables = made(data, stride=1)
    stripped = system.openmm_system
    while stripped.getNumConstraints():
        stripped.removeConstraint(0)
    xml, _ = serialize(stripped, system.topology, first_start(system))
    engine = Engine(xml, config, "Reference")
    start, rng = first_start(system), np.random.default_rng(4)
    engine.reseed(1)
    forward, backward = engine.draw_velocities(start, rng)
    kick = -(forward + backward) / 2
    if not shift_by_half_a_step:
        forward, backward = forward + kick, backward + kick

    ahead = engine.half(start, forward, without_states(observables), 2).positions[0].astype(float)
    behind = engine.half(start, backward, without_states(observables), 2).positions[0].astype(float)
    dt = config.system.timestep / 1000
    residual = ahead - 2 * start.positions + behind - 2 * dt * kick
    if shift_by_half_a_step:
        assert np.abs(residual).max() < 2e-6
    else:
        assert np.abs(residual).max() > 2e-5


@pytest.mark.parametrize("data", [ALANINE, {"system": {"kind": "hummer-szabo"}}], ids=["alanine", "hummer-szabo"])
def test_the_same_task_gives_the_same_shot(data: dict[str, Any]) -> None:
    config, system, xml, observables = made(data, max_frames=300)
    makers = [Shooter(Engine(xml, config, "Reference"), observables, 300, None) for _ in range(2)]
    start = first_start(system)
    nudged = Snapshot(positions=start.positions)
    tasks = [ShotTask(chain=0, step=0, snapshot=nudged, seed=seed, model=0, frame=1) for seed in (11, 12, 11)]
    first, other, repeated = (makers[0].shoot(task) for task in tasks)
    elsewhere = makers[1].shoot(tasks[0])
    np.testing.assert_array_equal(first.features, repeated.features)
    np.testing.assert_array_equal(first.features, elsewhere.features)
    assert first.features.shape != other.features.shape or not np.array_equal(first.features, other.features)


@pytest.mark.skipif("CPU" not in platform_names(), reason="OpenMM's CPU platform is not on this machine")
def test_the_same_task_gives_the_same_noise_on_the_cpu_platform() -> None:
    config, system, xml, _ = made(WELL)
    engine = Engine(xml, config, "CPU", {"Threads": "1"})
    ends = []
    for seed in (5, 6, 5):
        engine.reseed(seed)
        engine.place(first_start(system))
        engine.set_velocities(np.zeros((engine.n_atoms, 3)))
        ends.append(engine.advance().positions)
    np.testing.assert_array_equal(ends[0], ends[2])
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_a_half_that_reaches_no_state_ends_at_the_limit() -> None:
    maker, middle = shooter(WELL, max_frames=7)
    outcome = maker.shoot(ShotTask(chain=0, step=0, snapshot=middle, seed=1, model=0, frame=1))
    assert outcome.ends == (NO_STATE, NO_STATE)
    assert outcome.n_frames == 2 * 7 + 1
    assert outcome.md_steps == 2 * 7 * 10
    assert outcome.positions is None


def test_halves_end_at_the_first_frame_in_a_state_and_transitions_are_oriented() -> None:
    maker, middle = shooter({"system": {"kind": "hummer-szabo"}})
    states = maker.observables.states
    seen = set()
    for seed in range(60):
        outcome: ShotOutcome = maker.shoot(ShotTask(chain=0, step=0, snapshot=middle, seed=seed, model=0, frame=1))
        found = states.array(outcome.cvs)
        assert (found[1:-1] == NO_STATE).all()
        assert (found[0], found[-1]) == outcome.ends
        assert outcome.ends[0] <= outcome.ends[1] or not outcome.is_transition
        assert (outcome.kept[0], outcome.kept[-1]) == (0, outcome.n_frames - 1)
        middle_row = np.flatnonzero(outcome.kept == outcome.shooting_frame)
        np.testing.assert_allclose(outcome.cvs[middle_row], [[0, 0]], atol=1e-6)
        if outcome.positions is not None:
            np.testing.assert_allclose(maker.observables.cvs(outcome.positions, None), outcome.cvs, atol=1e-6)
        seen.add(outcome.ends)
    assert {(0, 0), (0, 1), (1, 1)} <= seen


@pytest.mark.parametrize(
    "data", [ALANINE, {"system": {"kind": "hummer-szabo"}}, WELL], ids=["alanine", "plane", "well"]
)
def test_the_compiled_loop_gives_what_steps_from_python_give(data: dict[str, Any]) -> None:
    config, system, xml, observables = made(data)
    engines = [Engine(xml, config, "Reference") for _ in range(2)]
    assert all(engine._compiled for engine in engines)
    engines[1]._compiled = False
    starts = [start.positions for start in system.starts.values()]
    middle = Snapshot(positions=((starts[0] + 2 * starts[1]) / 3).astype(np.float32))
    lengths = set()
    for seed in range(5):
        halves = []
        for engine in engines:
            engine.reseed(seed)
            forward, _ = engine.draw_velocities(middle, np.random.default_rng(seed))
            halves.append(engine.half(middle, forward, observables.measure, 150))
        np.testing.assert_array_equal(halves[0].positions, halves[1].positions)
        assert halves[0].state == halves[1].state
        assert halves[0].box is halves[1].box is None
        lengths.add(len(halves[0].positions))
    assert len(lengths) > 1 or lengths == {150}


def test_only_what_cannot_raise_is_stepped_by_the_compiled_loop() -> None:
    """An exception of OpenMM would end the process there."""
    config, _, xml, _ = made(ALANINE)
    assert Engine(xml, config, "Reference")._compiled
    if "CPU" in platform_names():
        assert not Engine(xml, config, "CPU")._compiled
    boxed, loud = openmm.XmlSerializer.deserialize(xml), openmm.XmlSerializer.deserialize(xml)
    boxed.addForce(force := openmm.CustomExternalForce("1e-3*periodicdistance(x, y, z, 0, 0, 0)^2"))
    force.addParticle(0)
    assert boxed.usesPeriodicBoundaryConditions()
    loud.addForce(openmm.CustomCVForce("0"))
    for other in (boxed, loud):
        assert not Engine(openmm.XmlSerializer.serialize(other), config, "Reference")._compiled


def test_paths_in_a_box_carry_it_and_see_nearest_images() -> None:
    """One particle diffuses out of the box; its distance from another one is that of images, its position is not."""
    data = {**WELL, "system": {**WELL["system"], "expression": "0*x", "particles": 2, "mass": 1.0, "friction": 0.1}}
    config, system, xml, _ = made(
        {**data, "collective_variables": {"x": "x(0)", "r": "distance(0, 1)"}, "states": {"A": "r > 9", "B": "x < -99"}}
    )
    observables = Observables(config, atoms_of(system.topology))
    walled = openmm.XmlSerializer.deserialize(xml)
    walled.setDefaultPeriodicBoxVectors(*(np.eye(3) * 2.0))
    walled.addForce(force := openmm.CustomExternalForce("0*periodicdistance(x, y, z, 0, 0, 0)"))
    force.addParticle(0)
    engine = Engine(openmm.XmlSerializer.serialize(walled), config, "Reference")
    start = Snapshot(positions=first_start(system).positions, box=np.eye(3, dtype=np.float32) * 2.0)
    forward, _ = engine.draw_velocities(start, np.random.default_rng(1))
    half = engine.half(start, 5 * forward, observables.measure, 200)
    assert half.box is not None
    assert half.box.shape == (200, 3, 3)
    x, r = observables.cvs(half.positions, half.box).T
    assert np.ptp(x) > 2.0
    assert r.max() <= np.sqrt(3.0) + 1e-5
    far = np.linalg.norm(half.positions[:, 1] - half.positions[:, 0], axis=1)
    assert far.max() > np.sqrt(3.0)


def test_a_blow_up_comes_back_as_a_failure() -> None:
    stiff = [{"expression": "1e10*(x^2 + y^2 + z^2)"}]
    maker, middle = shooter({**WELL, "system": {**WELL["system"], "extra": stiff}}, max_frames=2_000)
    with pytest.raises(EngineError, match=r"not numbers|NaN"):
        maker.shoot(ShotTask(chain=0, step=0, snapshot=middle, seed=1, model=0, frame=1))


def test_a_configuration_of_another_system_is_refused() -> None:
    maker, _ = shooter(WELL)
    wrong = Snapshot(positions=np.zeros((3, 3), np.float32))
    with pytest.raises(EngineError, match=r"expected positions of shape \(50, 3\) nm, got \(3, 3\)"):
        maker.engine.place(wrong)


def test_unknown_platforms_are_named() -> None:
    config, _, xml, _ = made(WELL)
    with pytest.raises(EngineError, match=r"'Abacus' is not on this machine; there is .*Reference"):
        Engine(xml, config, "Abacus")


def test_platforms_are_timed_and_sorted() -> None:
    config, system, xml, _ = made({"system": {"kind": "hummer-szabo"}})
    platforms = {name: platform_properties(name) for name in platform_names()}
    speeds = measure_platforms(xml, config, first_start(system), platforms, seconds=0.1)
    assert {speed.platform for speed in speeds} == set(platform_names())
    assert [speed.steps_per_second for speed in speeds] == sorted((s.steps_per_second for s in speeds), reverse=True)
    assert speeds[0].steps_per_second > 0
