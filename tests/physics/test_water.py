"""Systems in explicit water: what they are made of, and what equilibration leaves of them."""

from __future__ import annotations

import threading

import numpy as np
import openmm
import pytest
from openmm import unit

from separatrix.engine import Engine, atoms_of, platform_properties, serialize
from separatrix.equilibration import equilibrate
from separatrix.errors import EngineError, EquilibrationStoppedError
from separatrix.observables import Observables
from separatrix.records import ShotTask
from separatrix.shooting import Shooter
from separatrix.systems import build_sketch, build_system, resolve
from separatrix.units import thermal_energy

pytestmark = pytest.mark.physics

AVOGADRO = 6.02214076e23
KINDS = {
    "lithium-chloride": {"kind": "lithium-chloride"},
    "alanine-dipeptide": {"kind": "alanine-dipeptide", "solvent": "tip3p"},
}


def config_of(name, **system):
    return resolve({"system": {**KINDS[name], **system}})


@pytest.fixture(scope="session")
def lithium_chloride():
    """Return the configuration and the equilibrated system of LiCl, equilibrated for a tenth of its time."""
    config = config_of("lithium-chloride", equilibration=1.0)
    return config, equilibrate(build_system(config), config)


def masses_of(system):
    return np.array(
        [system.openmm_system.getParticleMass(i)._value for i in range(system.openmm_system.getNumParticles())]
    )


def constraints_of(system):
    parameters = (
        system.openmm_system.getConstraintParameters(i) for i in range(system.openmm_system.getNumConstraints())
    )
    return [(i, j, length._value) for i, j, length in parameters]


def volume(snapshot):
    return abs(float(np.linalg.det(snapshot.box.astype(float))))


def force_of(system, kind):
    return next(force for force in system.openmm_system.getForces() if isinstance(force, kind))


def engine_of(config, system):
    xml, _ = serialize(system.openmm_system, system.topology, next(iter(system.starts.values())))
    return Engine(xml, config, "CPU", platform_properties("CPU", threads=1))


@pytest.mark.parametrize(
    ("name", "n_atoms", "n_waters", "density"),
    [("lithium-chloride", 1112, 370, 0.998), ("alanine-dipeptide", 1651, 543, 0.985)],
)
def test_a_box_holds_what_is_published_at_the_density_of_water(name, n_atoms, n_waters, density):
    config = config_of(name)
    system = build_system(config)
    residues = [residue.name for residue in system.topology.residues()]
    assert system.openmm_system.getNumParticles() == n_atoms
    assert residues.count("HOH") == n_waters
    assert system.periodic
    for start in system.starts.values():
        grams = masses_of(system).sum() / AVOGADRO
        assert grams / (volume(start) * 1e-21) == pytest.approx(density, abs=0.001)
    nonbonded = force_of(system, openmm.NonbondedForce)
    assert nonbonded.getNonbondedMethod() == openmm.NonbondedForce.PME
    assert nonbonded.getCutoffDistance() == 1.0 * unit.nanometer
    assert 2 * nonbonded.getCutoffDistance()._value < start.box[0, 0]
    assert not {"CMMotionRemover", "MonteCarloBarostat"} & {
        type(force).__name__ for force in system.openmm_system.getForces()
    }
    hydrogens = n_atoms - n_waters - {"lithium-chloride": 2, "alanine-dipeptide": 10}[name]
    assert len(constraints_of(system)) == hydrogens + n_waters  # every bond to hydrogen, and H-H of rigid water


def test_the_ions_have_the_parameters_of_joung_and_cheatham():
    # J. Phys. Chem. B 112, 9020 (2008), table 5, TIP3P: R_min/2 in angstroms, epsilon in kcal/mol.
    system = build_system(config_of("lithium-chloride"))
    nonbonded = force_of(system, openmm.NonbondedForce)
    for atom, element, charge, half_rmin, epsilon in ((0, "Li", 1, 1.025, 0.0279896), (1, "Cl", -1, 2.513, 0.0355910)):
        assert list(system.topology.atoms())[atom].element.symbol == element
        q, sigma, depth = nonbonded.getParticleParameters(atom)
        assert q.value_in_unit(unit.elementary_charge) == charge
        assert sigma.value_in_unit(unit.angstrom) == pytest.approx(2 * half_rmin / 2 ** (1 / 6), rel=1e-4)
        assert depth.value_in_unit(unit.kilocalorie_per_mole) == pytest.approx(epsilon, rel=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_the_sketch_for_pictures_has_the_solute_and_little_water(name):
    config = config_of(name)
    sketch, whole = build_sketch(config), build_system(config)
    solute = atoms_of(sketch.topology).solute
    assert solute == atoms_of(whole.topology).solute == tuple(range({"lithium-chloride": 2}.get(name, 22)))
    names = [atom.name for atom in whole.topology.atoms()]
    assert [atom.name for atom in sketch.topology.atoms()][: len(solute)] == names[: len(solute)]
    assert sketch.topology.getNumAtoms() < 50
    assert set(whole.starts) == set(config.states)


def test_equilibrated_starts_lie_in_their_states_with_constraints_kept_and_a_finite_energy(lithium_chloride):
    config, system = lithium_chloride
    assert system.equilibration is None
    observables = Observables(config, atoms_of(system.topology))
    engine = engine_of(config, system)
    for state, start in system.starts.items():
        assert observables.states.names[observables.state_of(start)] == state
        assert np.isfinite(engine.potential_energy(start))
        for i, j, length in constraints_of(system):
            assert np.linalg.norm(start.positions[i] - start.positions[j]) == pytest.approx(length, abs=2e-5)
    per_water = engine.potential_energy(start) / 370
    assert -48 < per_water < -36  # kJ/mol: TIP3P has -41 at 300 K, ions add some; placed water is far above


def test_the_same_seed_gives_the_same_starts_and_another_one_others():
    def starts(seed):
        config = resolve({"system": {**KINDS["lithium-chloride"], "equilibration": 0.1}, "sampling": {"seed": seed}})
        return equilibrate(build_system(config), config).starts

    first, again, other = starts(1), starts(1), starts(2)
    for state, start in first.items():
        assert np.array_equal(start.positions, again[state].positions)
        assert not np.allclose(start.positions, other[state].positions, atol=1e-3)


def test_temperature_after_equilibration(lithium_chloride):
    config, system = lithium_chloride
    engine = engine_of(config, system)
    start = system.starts["unbound"]
    engine.reseed(7)
    velocities, _ = engine.draw_velocities(start, np.random.default_rng(7))
    engine.place(start)
    engine.set_velocities(velocities)
    n_free = 3 * engine.n_atoms - len(constraints_of(system))
    kinetic = []
    for _ in range(40):  # 0.8 ps
        engine.step(10)
        # Velocities lag half a step behind: the energy they give is that of the middle of a step.
        kinetic.append(0.5 * float((masses_of(system)[:, None] * engine.velocities() ** 2).sum()))
    temperature = 2 * np.mean(kinetic[10:]) / (n_free * thermal_energy(1.0))
    assert temperature == pytest.approx(300.0, abs=15.0)  # 2.5 % of noise in one such mean would be 7 K


def test_a_barostat_changes_the_box_and_heat_does_not():
    config = config_of("lithium-chloride", pressure=1.0, equilibration=0.1)
    system = build_system(config)
    assert force_of(system, openmm.MonteCarloBarostat).getDefaultPressure()._value == 1.0
    xml, _ = serialize(system.openmm_system, system.topology, system.starts["bound"])

    def edges(**settings):
        engine = Engine(xml, config, "CPU", platform_properties("CPU", threads=1), **settings)
        engine.reseed(3)
        engine.minimize(system.starts["bound"], 10)
        return {float(engine.advance().box[0, 0]) for _ in range(8)}

    found = edges()
    assert len(found) > 1
    assert edges() == found  # the barostat is seeded, too
    assert edges(temperature=450.0) == {float(system.starts["bound"].box[0, 0])}


def test_equilibration_ends_early_when_told_and_says_so():
    config = config_of("lithium-chloride")
    stop, told = threading.Event(), []

    def report(progress):
        told.append(progress)
        if progress.done > 0.05:
            stop.set()

    with pytest.raises(EquilibrationStoppedError, match="nothing was stored"):
        equilibrate(build_system(config), config, report=report, stop=stop)
    assert told[0].activity == "placing the water"
    assert told[-1].total == 16.0
    assert [p.done for p in told] == sorted(p.done for p in told)


def test_a_time_step_that_water_does_not_bear_is_told_in_one_line():
    config = config_of("lithium-chloride", timestep=40.0, equilibration=1.0)
    with pytest.raises(EngineError, match="blew up") as raised:
        equilibrate(build_system(config), config)
    assert "\n" not in str(raised.value)


def test_a_system_without_water_is_left_as_it_is():
    config = resolve({"system": {"kind": "alanine-dipeptide"}})
    system = build_system(config)
    assert equilibrate(system, config) is system


def test_a_shot_in_water_is_the_same_when_it_is_repeated(lithium_chloride):
    config, system = lithium_chloride
    # Wider states end it soon: what counts is that both halves run and join.
    config = config.model_copy(update={"states": {"bound": "r < 0.58", "unbound": "r > 0.62"}})
    config = config.model_copy(update={"descriptors": config.descriptors.model_copy(update={"symmetry_functions": []})})
    observables = Observables(config, atoms_of(system.topology))
    task = ShotTask(chain=0, step=0, snapshot=system.starts["unbound"], seed=5, model=0, frame=1)
    shots = [Shooter(engine_of(config, system), observables, 20, None).shoot(task) for _ in range(2)]
    assert shots[0].n_frames == shots[1].n_frames
    assert shots[0].md_steps == shots[1].md_steps
    assert np.array_equal(shots[0].cvs, shots[1].cvs)


@pytest.mark.slow
def test_alanine_dipeptide_is_equilibrated_into_both_states():
    config = config_of("alanine-dipeptide", equilibration=1.0)
    system = equilibrate(build_system(config), config)
    observables = Observables(config, atoms_of(system.topology))
    found = {state: observables.states.names[observables.state_of(start)] for state, start in system.starts.items()}
    assert found == {"C7eq": "C7eq", "alpha_R": "alpha_R"}
    assert len(observables.descriptors.names) == 1452 + 55
