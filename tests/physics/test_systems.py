"""The catalogue: what is built has the energies, constraints and states it claims, and samples Boltzmann's law."""

from __future__ import annotations

import tomllib

import mdtraj
import numpy as np
import openmm
import pytest
from openmm import app, unit
from scipy import stats

from separatrix.errors import ConfigError, SystemBuildError
from separatrix.estimates import clopper_pearson, landscape_committor, landscape_committors, landscape_energy
from separatrix.expressions import compile_expression
from separatrix.systems import CATALOGUE, build_system, resolve
from separatrix.units import thermal_energy

pytestmark = pytest.mark.physics

LANDSCAPES = ("two-gaussians", "hummer-szabo", "mueller-brown")
CHOICES = [{"kind": kind} for kind in LANDSCAPES] + [
    {"kind": "alanine-dipeptide", "solvent": solvent} for solvent in ("vacuum", "obc2")
]

BLUEPRINT = """
[system]
kind = "potential"                     # or a catalogue name, or "files"
expression = "10*((x^2-1)^2 + (x-y)^2) + 5*z^2"   # OpenMM expression per particle, kJ/mol
particles = 1                          # further ones are given by [[system.extra]]
mass = 1.0
start = { A = [-1,-1,0], B = [1,1,0] }
temperature = 300.0
integrator = "brownian"                # or "langevin"
friction = 10.0
timestep = 1.0
[collective_variables]
x = "x(0)"
y = "y(0)"
[states]
A = "(x+1)^2 + (y+1)^2 < 0.0625"
B = "(x-1)^2 + (y-1)^2 < 0.0625"
[descriptors]
columns = ["x", "y"]
[sampling]
stride = 10        # MD steps per saved frame
max_frames = 5000
chains = 2
steps = 1000
selector = "lorentzian"                # uniform = standard TPS
scale = 1.0
seed = 1
"""


def landscape(**system):
    """Return configuration data of a custom landscape, two wells unless told otherwise."""
    table = {
        "kind": "potential",
        "expression": "4*((x^2 - 1)^2 + (x - y)^2) + 2*z^2",
        "start": {"A": [-1, -1, 0], "B": [1, 1, 0]},
    }
    return {
        "system": table | system,
        "collective_variables": {"x": "x(0)", "y": "y(0)"},
        "states": {"A": "(x+1)^2 + (y+1)^2 < 0.0625", "B": "(x-1)^2 + (y-1)^2 < 0.0625"},
    }


def make_context(system, settings, seed=1):
    """Return a context on the Reference platform with the integrator the configuration asks for."""
    brownian = settings.integrator == "brownian"
    make = openmm.BrownianIntegrator if brownian else openmm.LangevinMiddleIntegrator
    integrator = make(settings.temperature, settings.friction, settings.timestep / 1000)
    integrator.setRandomNumberSeed(seed)
    return openmm.Context(system.openmm_system, integrator, openmm.Platform.getPlatformByName("Reference"))


def energy_of(context, positions):
    context.setPositions(np.asarray(positions, dtype=float))
    return context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def positions_of(context):
    return context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def two_gaussians(x, y, z):
    wells = -0.7 * np.exp(-12 * ((x + 0.75) ** 2 + (y + 0.5) ** 2)) - 0.7 * np.exp(
        -12 * ((x - 0.75) ** 2 + (y - 0.5) ** 2)
    )
    return 0.2 * x**6 + y**6 + wells + 0.5 * z**2


def hummer_szabo(x, y, z):
    return 4 * ((x**2 - 1) ** 2 + (x - y) ** 2) + 2 * z**2


def mueller_brown(x, y, z):
    amplitude = 0.05 * np.array([-200, -100, -170, 15])
    a, b, c = np.array([-1, -1, -6.5, 0.7]), np.array([0, 0, 11, 0.6]), np.array([-10, -10, -6.5, 0.7])
    dx, dy = x - np.array([1, 0, -0.5, -1]), y - np.array([0, 0.5, 1.5, 1])
    return float(np.sum(amplitude * np.exp(a * dx**2 + b * dx * dy + c * dy**2))) + 5 * z**2


def three_basins(x, y, z):
    r, theta = np.hypot(x, y), np.arctan2(y, x)
    wells = 2.4 * (3 * r**4 - 2 * r**3 * np.cos(3 * theta) - 3 * r**2)
    return float(wells) + 0.5 * x + 0.25 * y + 2 * z**2


FORMULAS = {
    "two-gaussians": two_gaussians,
    "hummer-szabo": hummer_szabo,
    "mueller-brown": mueller_brown,
    "three-basins": three_basins,
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_energies_are_those_of_the_formula(kind):
    config = resolve({"system": {"kind": kind}})
    system = build_system(config)
    context = make_context(system, config.system)
    rng = np.random.default_rng(7)
    n_particles = system.openmm_system.getNumParticles()
    for _ in range(20):
        positions = rng.uniform(-1.2, 1.2, (n_particles, 3))
        x, y, z = positions[0]
        nuisance = 0.5 * float((positions[1:] ** 2).sum())
        found = energy_of(context, positions)
        assert found == pytest.approx(FORMULAS[kind](x, y, z) + nuisance, rel=1e-9)
        assert landscape_energy(system.landscape, [x], [y], z)[0, 0] + nuisance == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "thermal", "barrier"),
    [("two-gaussians", 0.1, 6.5), ("hummer-szabo", 1.0, 4.0), ("mueller-brown", 1.0, 5.3)],
)
def test_the_barrier_in_kt_is_as_published(kind, thermal, barrier):
    config = resolve({"system": {"kind": kind}})
    assert thermal_energy(config.system.temperature) == pytest.approx(thermal)
    saddle = {"mueller-brown": (-0.822, 0.624)}.get(kind, (0.0, 0.0))
    well = build_system(config).starts["A"].positions[0]
    heights = [landscape_energy(build_system(config).landscape, [x], [y])[0, 0] for x, y in (saddle, well[:2])]
    assert (heights[0] - heights[1]) / thermal == pytest.approx(barrier, abs=0.05)


def test_two_gaussians_shows_the_network_twenty_two_coordinates():
    config = resolve({"system": {"kind": "two-gaussians"}})
    columns = [config.collective_variables.get(column, column) for column in config.descriptors.columns]
    assert len(set(columns)) == 22
    assert columns[:3] == ["x(0)", "y(0)", "z(0)"]
    assert build_system(config).openmm_system.getNumParticles() * 3 >= 22


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(choice.values()))
def test_starts_lie_in_their_states_and_in_no_other(choice):
    config = resolve({"system": choice})
    system = build_system(config)
    assert set(system.starts) == set(config.states)
    names = tuple(config.collective_variables)
    for state, snapshot in system.starts.items():
        if choice["kind"] == "alanine-dipeptide":
            topology = mdtraj.Topology.from_openmm(system.topology)
            path = mdtraj.Trajectory(snapshot.positions[None], topology)
            values = np.degrees(mdtraj.compute_dihedrals(path, [(4, 6, 8, 14), (6, 8, 14, 16)]))[0]
        else:
            values = snapshot.positions[0, :2]
        inside = [
            name for name, text in config.states.items() if compile_expression(text, names).scalar(values.tolist())
        ]
        assert inside == [state]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(choice.values()))
def test_topology_survives_the_pdb_format(choice, tmp_path):
    system = build_system(resolve({"system": choice}))
    snapshot = next(iter(system.starts.values()))
    target = tmp_path / "topology.pdb"
    with target.open("w") as file:
        app.PDBFile.writeFile(system.topology, snapshot.positions * 10, file, keepIds=True)
    loaded = mdtraj.load(str(target))
    assert loaded.n_atoms == system.openmm_system.getNumParticles()
    assert np.abs(loaded.xyz[0] - snapshot.positions).max() < 1e-3
    again = app.PDBFile(str(target)).topology
    assert [atom.name for atom in again.atoms()] == [atom.name for atom in system.topology.atoms()]
    assert again.getNumBonds() == system.topology.getNumBonds()


def test_many_pseudo_atoms_survive_the_pdb_format(tmp_path):
    system = build_system(resolve(landscape(particles=10_100)))
    target = tmp_path / "topology.pdb"
    with target.open("w") as file:
        app.PDBFile.writeFile(system.topology, system.starts["A"].positions * 10, file, keepIds=True)
    assert mdtraj.load(str(target)).n_atoms == 10_100


def test_alanine_dipeptide_has_the_numbers_of_its_force_field():
    system = build_system(resolve({"system": {"kind": "alanine-dipeptide"}})).openmm_system
    masses = [system.getParticleMass(i).value_in_unit(unit.amu) for i in range(system.getNumParticles())]
    assert len(masses) == 22
    assert sum(masses) == pytest.approx(144.17, abs=0.02)  # C6 H12 N2 O2
    hydrogens = {i for i, mass in enumerate(masses) if mass < 1.5}
    constraints = [system.getConstraintParameters(i) for i in range(system.getNumConstraints())]
    assert len(constraints) == len(hydrogens) == 12
    assert all(len(hydrogens & {i, j}) == 1 for i, j, _ in constraints)
    forces = {type(force).__name__: force for force in system.getForces()}
    assert "CMMotionRemover" not in forces
    nonbonded = forces["NonbondedForce"]
    charges = [nonbonded.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge) for i in range(22)]
    assert sum(charges) == pytest.approx(0.0, abs=1e-6)
    # N, CA, C and O of alanine: Cornell et al., J. Am. Chem. Soc. 117, 5179 (1995).
    assert [charges[i] for i in (6, 8, 14, 15)] == pytest.approx([-0.4157, 0.0337, 0.5973, -0.5679])


@pytest.mark.parametrize("solvent", ["vacuum", "obc2"])
def test_starts_of_alanine_dipeptide_are_minima_on_their_constraints(solvent):
    config = resolve({"system": {"kind": "alanine-dipeptide", "solvent": solvent}})
    system = build_system(config)
    assert not system.periodic
    context = make_context(system, config.system)
    for snapshot in system.starts.values():
        before = energy_of(context, snapshot.positions)
        for i in range(system.openmm_system.getNumConstraints()):
            first, second, length = system.openmm_system.getConstraintParameters(i)
            distance = np.linalg.norm(snapshot.positions[first] - snapshot.positions[second])
            assert distance == pytest.approx(length.value_in_unit(unit.nanometer), abs=1e-6)
        openmm.LocalEnergyMinimizer.minimize(context, 1.0, 50)
        after = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        assert after == pytest.approx(before, abs=0.01)


def test_the_implicit_solvent_is_that_of_the_published_force_field():
    config = resolve({"system": {"kind": "alanine-dipeptide", "solvent": "obc2"}})
    system = build_system(config)
    context = make_context(system, config.system)
    energies = {}
    for files in (["amber99sbildn.xml", "implicit/obc2.xml"], ["amber99sbildn.xml"]):
        field = app.ForceField(*files).createSystem(system.topology, constraints=app.HBonds)
        integrator = openmm.VerletIntegrator(0.001)
        other = openmm.Context(field, integrator, openmm.Platform.getPlatformByName("Reference"))
        energies[len(files)] = [energy_of(other, snapshot.positions) for snapshot in system.starts.values()]
    found = [energy_of(context, snapshot.positions) for snapshot in system.starts.values()]
    assert found == pytest.approx(energies[2], abs=0.005)
    assert np.all(np.array(energies[1]) - found > 30)  # control: without solvent it would be told apart


def marginal(potential, thermal, grid):
    """Return the cumulative distribution of x from exp(-V(x)/kT), on the grid."""
    density = np.exp(-potential(grid) / thermal)
    cumulative = np.cumsum(density)
    return cumulative / cumulative[-1]


def test_a_landscape_samples_the_law_of_boltzmann():
    # One potential, 400 independent particles: V = 2 (x^2 - 1)^2 + 3 (x - y)^2 + 5 z^2, so x keeps its own marginal.
    data = landscape(
        expression="2*(x^2 - 1)^2 + 3*(x - y)^2 + 5*z^2",
        particles=400,
        temperature=120.0,
        integrator="langevin",
        friction=2.0,
        timestep=20.0,
    )
    config = resolve(data)
    system = build_system(config)
    context = make_context(system, config.system)
    context.setPositions(system.starts["A"].positions.astype(float))
    context.setVelocitiesToTemperature(120.0, 1)
    context.getIntegrator().step(1500)
    frames = []
    for _ in range(8):
        context.getIntegrator().step(300)
        frames.append(positions_of(context))
    x, y, z = np.concatenate(frames).T
    grid = np.linspace(-3, 3, 6001)
    thermal = thermal_energy(120.0)

    def p_value(kt):
        cumulative = marginal(lambda s: 2 * (s**2 - 1) ** 2, kt, grid)
        return stats.kstest(x, lambda s: np.interp(s, grid, cumulative)).pvalue

    assert p_value(thermal) > 0.005
    assert p_value(1.3 * thermal) < 1e-4  # control: another temperature is told apart
    assert stats.kstest(z, stats.norm(scale=np.sqrt(thermal / 10)).cdf).pvalue > 0.005
    assert stats.kstest(y - x, stats.norm(scale=np.sqrt(thermal / 6)).cdf).pvalue > 0.005


@pytest.mark.parametrize(
    ("kind", "point", "limits"),
    [
        ("hummer-szabo", (-0.15, 0.0), (-2.0, 2.0, -2.2, 2.2)),
        ("mueller-brown", (-0.75, 0.62), (-1.7, 1.3, -0.6, 2.2)),
    ],
)
def test_shots_end_as_the_exact_map_says(kind, point, limits):
    # Many particles at one point are as many halves at once; only their first saved frame in a state counts.
    n_halves = 800
    config = resolve({"system": {"kind": kind}})
    expression = build_system(config).landscape
    system = build_system(resolve(landscape(expression=expression, particles=n_halves)))
    context = make_context(system, config.system, seed=3)
    context.setPositions(np.tile([*point, 0.0], (n_halves, 1)))
    tests = [compile_expression(text, ("x", "y")) for text in config.states.values()]
    ends = np.full(n_halves, -1)
    for _ in range(config.sampling.max_frames):
        context.getIntegrator().step(config.sampling.stride)
        positions = positions_of(context)[:, :2]
        for state, test in enumerate(tests):
            ends[(ends < 0) & test.array(positions)] = state
        if (ends >= 0).all():
            break
    assert (ends >= 0).all()
    thermal = thermal_energy(config.system.temperature)
    x, y = np.linspace(*limits[:2], 150), np.linspace(*limits[2:], 150)
    tables = config.collective_variables, config.states
    low, high = clopper_pearson((ends == 1).sum(), n_halves, 0.999)
    exact = landscape_committor(expression, thermal, *tables, x, y).at(point)[0]
    assert low < exact < high
    assert 0.1 < exact < 0.9
    elsewhere = landscape_committor(expression, thermal, *tables, x, y).at((point[0] + 0.15, point[1]))[0]
    assert not low < elsewhere < high  # control: 0.15 nm away the map says something else


def test_shots_on_three_basins_end_as_the_exact_maps_say():
    config, point, n_halves = resolve({"system": {"kind": "three-basins"}}), (0.1, 0.3), 800
    expression = build_system(config).landscape
    context = make_context(
        build_system(resolve(landscape(expression=expression, particles=n_halves))), config.system, seed=4
    )
    context.setPositions(np.tile([*point, 0.0], (n_halves, 1)))
    tests = [compile_expression(text, ("x", "y")) for text in config.states.values()]
    ends = np.full(n_halves, -1)
    while (ends < 0).any():
        context.getIntegrator().step(config.sampling.stride)
        for state, test in enumerate(tests):
            ends[(ends < 0) & test.array(positions_of(context)[:, :2])] = state
    mesh = [np.linspace(-1.7, 1.7, 171)] * 2
    tables = config.collective_variables, config.states
    maps = landscape_committors(expression, thermal_energy(config.system.temperature), *tables, *mesh)
    found = np.bincount(ends, minlength=3)
    expected = n_halves * np.array([grid.at(point)[0] for grid in maps])
    assert expected.min() > 50
    assert stats.chisquare(found, expected).pvalue > 1e-3
    other = n_halves * np.array([grid.at((point[0] + 0.15, point[1]))[0] for grid in maps])
    assert stats.chisquare(found, other).pvalue < 1e-3  # control: 0.15 nm away the maps say something else


def test_the_landscape_of_the_blueprint_works_verbatim():
    config = resolve(tomllib.loads(BLUEPRINT))
    system = build_system(config)
    assert system.openmm_system.getNumParticles() == 1
    assert config.descriptors.columns == ["x", "y"]
    context = make_context(system, config.system)
    assert energy_of(context, [[0.0, 0.0, 0.0]]) == pytest.approx(10.0)


def test_extra_particles_move_in_potentials_of_their_own():
    extra = [{"expression": "x^2", "particles": 2, "mass": 5.0}, {"expression": "3*z^2"}]
    config = resolve(landscape(particles=2, extra=extra, start={"A": [-1, -1, 0], "B": [[1, 1, 0]] * 5}))
    system = build_system(config)
    assert [system.openmm_system.getParticleMass(i).value_in_unit(unit.amu) for i in range(5)] == [1, 1, 5, 5, 1]
    assert np.array_equal(system.starts["A"].positions[1:], np.zeros((4, 3)))
    # Two particles in a minimum of the wells, two at x = 1, one at z = 0.
    assert energy_of(make_context(system, config.system), system.starts["B"].positions) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (landscape(expression="10*(x^^2)"), SystemBuildError, ["10*(x^^2)", "unexpected token"]),
        (landscape(expression="k*x^2"), SystemBuildError, ["k*x^2", "Unknown variable", "x, y and z"]),
        (landscape(extra=[{"expression": "sin(x"}]), SystemBuildError, ["sin(x", "parentheses"]),
        (landscape(expression="1/(x+1)"), SystemBuildError, ["system.start.A", "finite"]),
        (
            landscape(start={"A": [[0, 0, 0]] * 2, "B": [1, 1, 0]}),
            SystemBuildError,
            ["system.start.A", "1 point", "got 2"],
        ),
        (landscape(start={"A": [0, 0], "B": [1, 1, 0]}), ConfigError, ["system.start.A", "[x, y, z]"]),
        (landscape(start={"A": [], "B": [1, 1, 0]}), ConfigError, ["system.start.A", "[x, y, z]"]),
        (landscape(start={"A": [0, 0, 0]}), ConfigError, ["system.start", "'B'"]),
        (landscape(start={"A": [0, 0, 0], "B": [1, 1, 0], "C": [2, 2, 0]}), ConfigError, ["system.start", "'C'"]),
    ],
)
def test_a_landscape_that_cannot_be_built_says_why_in_one_line(data, error, words):
    with pytest.raises(error) as raised:
        build_system(resolve(data))
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words)


@pytest.mark.parametrize("kind", CATALOGUE)
def test_every_entry_says_what_it_is(kind):
    entry = CATALOGUE[kind]
    assert entry.name == kind
    assert entry.title
    assert entry.description.endswith(".")
    assert build_system(resolve({"system": {"kind": kind}})).name == kind
