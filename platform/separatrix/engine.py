"""The one engine: OpenMM, for molecules and landscapes. A worker builds its Context once and keeps it."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app

from separatrix.config import RunConfig
from separatrix.errors import DeviceLostError, EngineError
from separatrix.kernels import Measure, Simulation, cells_of, follow, load_library, state_of
from separatrix.records import NO_STATE, Atoms, Float32Array, FloatArray, Snapshot
from separatrix.resources import GPU_PLATFORMS
from separatrix.topologies import pdb_text
from separatrix.units import FS_PER_PS, thermal_energy

_QUIET_FORCES: Final = frozenset(
    {
        "CMAPTorsionForce",
        "CMMotionRemover",
        "CustomAngleForce",
        "CustomBondForce",
        "CustomCentroidBondForce",
        "CustomCompoundBondForce",
        "CustomExternalForce",
        "CustomGBForce",
        "CustomHbondForce",
        "CustomNonbondedForce",
        "CustomTorsionForce",
        "GBSAOBCForce",
        "HarmonicAngleForce",
        "HarmonicBondForce",
        "NonbondedForce",
        "PeriodicTorsionForce",
        "RBTorsionForce",
    }
)
"""Forces that raise nothing while the Reference platform integrates without a box, whatever the coordinates."""

_LIBRARIES: Final = {"win32": "OpenMM.dll", "darwin": "libOpenMM.dylib"}
_FRAMES_AT_ONCE = 64
"""Between which an interrupt is heard, and a blow-up noticed."""
_CONSTRAINT_TOLERANCE = 1e-6
_BLOW_UPS = ("NaN", "periodic box size")
"""What OpenMM says when it is the coordinates that are wrong, not the device."""
_FARTHEST = 1e30
"""nm; what is farther away could not be stored in single precision."""


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _tells_losses(
    method: Callable[Concatenate[Engine, _Parameters], _Result],
) -> Callable[Concatenate[Engine, _Parameters], _Result]:
    """Have a method of the engine raise its own errors for those of OpenMM."""

    @functools.wraps(method)
    def telling(self: Engine, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except openmm.OpenMMException as error:
            text = str(error).splitlines()[0]
            if any(part in text for part in _BLOW_UPS):
                raise EngineError(f"the integration blew up: {text}") from error
            raise DeviceLostError(f"{self.device} can no longer be used: {text}") from error

    return telling


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """One half-trajectory, the starting frame not included.

    Attributes
    ----------
    positions : (n_frames, n_atoms, 3) float32, nm
    box : (n_frames, 3, 3) float32, nm, or None
    state : index of the state the last frame lies in, or ``NO_STATE``
    """

    positions: Float32Array
    box: Float32Array | None
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformSpeed:
    """How fast a platform steps a system; ``error`` says why it cannot."""

    platform: str
    steps_per_second: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restraint:
    """A harmonic restraint on one collective variable, its centre set while the simulation runs.

    Attributes
    ----------
    kind : x, y, z, distance, angle or dihedral
    atoms : 0-based atom indices
    strength : kJ/mol/nm^2, or kJ/mol/rad^2 for angles
    """

    kind: str
    atoms: tuple[int, ...]
    strength: float


_RESTRAINTS: Mapping[str, str] = {
    "x": "0.5*k{i}*(x-c{i})^2",
    "y": "0.5*k{i}*(y-c{i})^2",
    "z": "0.5*k{i}*(z-c{i})^2",
    "distance": "0.5*k{i}*(r-c{i})^2",
    "angle": "0.5*k{i}*(theta-c{i})^2",
    "dihedral": "k{i}*(1-cos(theta-c{i}))",
}


def read_atoms(topology_pdb: Path) -> Atoms:
    """Read the atoms of a stored topology."""
    with topology_pdb.open(encoding="utf-8") as file:
        return atoms_of(app.PDBFile(file).topology)


def atoms_of(topology: app.Topology) -> Atoms:
    """Return the atoms of a topology: names, bonds, elements, residues and chains."""
    atoms = list(topology.atoms())
    return Atoms(
        names=tuple(f"{atom.residue.name}{atom.residue.id}-{atom.name}" for atom in atoms),
        bonds=tuple((bond.atom1.index, bond.atom2.index) for bond in topology.bonds()),
        atom_names=tuple(atom.name for atom in atoms),
        elements=tuple("" if atom.element is None else atom.element.symbol for atom in atoms),
        residues=tuple(atom.residue.index for atom in atoms),
        residue_names=tuple(atom.residue.name for atom in atoms),
        residue_numbers=tuple(_number(atom.residue) for atom in atoms),
        chains=tuple(atom.residue.chain.index for atom in atoms),
    )


def _number(residue: app.topology.Residue) -> int:
    try:
        return int(residue.id)
    except ValueError:  # hexadecimal, beyond what the columns of a PDB file hold
        return int(residue.index) + 1


def serialize(system: openmm.System, topology: app.Topology, snapshot: Snapshot) -> tuple[str, str]:
    """Return a system as OpenMM XML, and its topology as PDB text with the coordinates of a snapshot."""
    return openmm.XmlSerializer.serialize(system), pdb_text(topology, snapshot.positions)


def boxed_in(system: openmm.System, topology: app.Topology, snapshot: Snapshot) -> None:
    """Give a system and its topology the box of a configuration, where new contexts and viewers begin."""
    if snapshot.box is not None:
        vectors = snapshot.box.astype(np.float64) * openmm.unit.nanometer
        system.setDefaultPeriodicBoxVectors(*vectors)
        topology.setPeriodicBoxVectors(vectors)


def load_failures() -> tuple[str, ...]:
    """Return why platform plugins could not be loaded, one line each."""
    return tuple(str(failure).splitlines()[0] for failure in openmm.Platform.getPluginLoadFailures())


def platform_names() -> tuple[str, ...]:
    """Return the OpenMM platforms that can be loaded on this machine."""
    return tuple(openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms()))


def devices_of(platform: str) -> tuple[dict[str, str], ...]:
    """Return the properties that select each device of a GPU platform, its ``DeviceName`` among them; others have none.

    Examples
    --------
    >>> devices_of("Reference")
    ()
    """
    if platform not in GPU_PLATFORMS:
        return ()
    try:
        return tuple(dict(device) for device in openmm.Platform.getPlatformByName(platform).getDevices())
    except openmm.OpenMMException:  # a driver without a device
        return ()


def versions() -> dict[str, str]:
    """Return the version of the simulation engine."""
    return {"openmm": openmm.Platform.getOpenMMVersion()}


class Engine:
    """Integrates one system.

    Every method may raise ``DeviceLostError``: the context, and often the process, can then no longer be used.

    Parameters
    ----------
    system_xml : serialized OpenMM System
    config : temperature, integrator, friction and time step are taken from ``config.dynamics``
    platform : OpenMM platform name
    properties : platform properties, such as ``{"DeviceIndex": "0"}``
    temperature : overrides the temperature of the configuration, K; the volume is constant then, or water would boil
    restraints : restraints on collective variables, for steered runs

    Raises
    ------
    EngineError
        If the platform is not there or cannot run this system, or the system cannot be read.
    """

    def __init__(
        self,
        system_xml: str,
        config: RunConfig,
        platform: str,
        properties: Mapping[str, str] | None = None,
        *,
        temperature: float | None = None,
        restraints: tuple[Restraint, ...] = (),
    ) -> None:
        if platform not in platform_names():
            raise EngineError(f"platform {platform!r} is not on this machine; there is {', '.join(platform_names())}")
        try:
            system = openmm.XmlSerializer.deserialize(system_xml)
        except openmm.OpenMMException as error:
            raise EngineError(f"expected an OpenMM System in system.xml, which cannot be read: {error}") from error
        _add_restraints(system, restraints)
        settings = config.dynamics
        self._barostats = [force for force in system.getForces() if hasattr(force, "setDefaultPressure")]
        if temperature is not None:
            for barostat in self._barostats:
                barostat.setFrequency(0)
        self.platform = platform
        index = (properties or {}).get("DeviceIndex")
        self.device = f"the {platform} platform" if index is None else f"{platform} device {index}"
        self.stride = config.sampling.stride
        self._temperature = temperature if temperature is not None else settings.temperature
        self._timestep = settings.timestep / FS_PER_PS
        make = openmm.BrownianIntegrator if settings.integrator == "brownian" else openmm.LangevinMiddleIntegrator
        self._integrator = make(self._temperature, settings.friction, self._timestep)
        self._integrator.setConstraintTolerance(_CONSTRAINT_TOLERANCE)
        self._has_inertia = settings.integrator != "brownian"
        try:
            self._context = openmm.Context(
                system, self._integrator, openmm.Platform.getPlatformByName(platform), dict(properties or {})
            )
        except openmm.OpenMMException as error:
            raise EngineError(f"platform {platform} cannot run this system: {error}") from error
        self.n_atoms: int = system.getNumParticles()
        masses = np.array([system.getParticleMass(i)._value for i in range(self.n_atoms)])
        inverse_masses = np.divide(1.0, masses, out=np.zeros_like(masses), where=masses > 0)[:, None]
        self._thermal_speeds = np.sqrt(thermal_energy(self._temperature) * inverse_masses)
        self._half_steps = 0.5 * self._timestep * inverse_masses
        self._is_constrained = system.getNumConstraints() > 0
        self._periodic = system.usesPeriodicBoundaryConditions()
        self._buffer = np.empty((self.n_atoms, 3))
        self._reseeder = _ReferenceSeeder() if platform == "Reference" else None
        self._seeded = False
        self._placed: Snapshot | None = None
        self.abandoned = False
        """Set from another thread, it ends the half-trajectory being integrated within some frames."""
        self._compiled = platform == "Reference" and not self._periodic and _is_quiet(system) and _library_is_loaded()
        self._simulation = Simulation(int(self._context.this), int(self._integrator.this), self.stride)

    @_tells_losses
    def reseed(self, seed: int) -> None:
        """Seed the thermostat, so that the same task gives the same shot.

        On GPU platforms only the first call takes effect, since they would compile their kernels anew each time: a
        repeated task then draws other noise, with the same statistics.
        """
        openmm_seed = int(seed % (2**31 - 1)) + 1  # 0 would mean "choose one"
        if self._reseeder is not None:
            self._reseeder.seed(openmm_seed)
        elif self.platform not in GPU_PLATFORMS or not self._seeded:
            for source in (self._integrator, *self._barostats):
                source.setRandomNumberSeed(openmm_seed)
            self._context.reinitialize()
            self._placed = None
        self._seeded = True

    @_tells_losses
    def place(self, snapshot: Snapshot) -> None:
        """Put the system at a configuration."""
        if snapshot is self._placed:  # forces are known there
            return
        if snapshot.positions.shape != (self.n_atoms, 3):
            raise EngineError(
                f"expected positions of shape ({self.n_atoms}, 3) nm, got {snapshot.positions.shape}; "
                "the configuration belongs to another system"
            )
        if snapshot.box is not None:
            self._context.setPeriodicBoxVectors(*snapshot.box.astype(np.float64))
        self._context.setPositions(snapshot.positions.astype(np.float64))
        self._placed = snapshot

    @_tells_losses
    def draw_velocities(self, snapshot: Snapshot, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Return the starting velocities of the forward and the backward half, (n_atoms, 3) nm/ps each.

        Velocities v are drawn from the Maxwell-Boltzmann distribution. OpenMM's Langevin middle integrator keeps
        velocities half a step behind the positions, so the halves start from ``+v - (dt/2) F/m`` and
        ``-v - (dt/2) F/m``: only so are they time reversals of each other. The projection onto the constraints is
        linear, and `set_velocities` makes it for both parts at once.
        """
        if not self._has_inertia:
            return np.zeros((self.n_atoms, 3)), np.zeros((self.n_atoms, 3))
        self.place(snapshot)
        velocities = rng.standard_normal((self.n_atoms, 3)) * self._thermal_speeds
        self._context.getState(forces=True)._getVectorAsNumpy(openmm.State.Forces, self._buffer)
        kick = self._half_steps * self._buffer
        return velocities - kick, -velocities - kick

    @_tells_losses
    def half(self, snapshot: Snapshot, velocities: FloatArray, measure: Measure, max_frames: int) -> Half:
        """Integrate from a configuration until a saved frame lies in a state, or ``max_frames`` frames are saved.

        Every frame is looked at as soon as it is there: a look costs less than a frame of overshoot. On the Reference
        platform, where a frame of a small molecule takes 150 us, the whole loop is compiled; elsewhere frames take
        long enough for Python between them.

        Raises
        ------
        EngineError
            If a coordinate is not a number.
        """
        self.place(snapshot)
        self.set_velocities(velocities)
        self._placed = None
        frames = np.empty((min(_FRAMES_AT_ONCE, max_frames), self.n_atoms, 3), dtype=np.float32)
        boxes: list[Float32Array] = []
        state, n_frames = NO_STATE, 0
        with np.errstate(over="ignore"):  # of a blow-up, which is told by what is not finite
            while state == NO_STATE and n_frames < max_frames:
                if self.abandoned:
                    raise EngineError("abandoned: nobody waits for this trajectory any more")
                if n_frames == len(frames):
                    frames = np.concatenate([frames, np.empty_like(frames)])
                part = frames[n_frames : min(n_frames + _FRAMES_AT_ONCE, max_frames)]
                if self._compiled:
                    saved, state = follow(self._simulation, measure, part, self._buffer)
                else:
                    saved, state = self._follow(measure, part, boxes)
                n_frames += saved
                self._check_finite()
        box = np.stack(boxes) if boxes else None
        return Half(positions=frames[:n_frames], box=box, state=state)

    def _follow(self, measure: Measure, frames: Float32Array, boxes: list[Float32Array]) -> tuple[int, int]:
        """Do what `kernels.follow` does, on any platform; appends to ``boxes`` if there is a box."""
        for row, frame in enumerate(frames):
            self.step(self.stride)
            box = self._read_frame()
            frame[:] = self._buffer
            if box is not None:
                boxes.append(box)
            state = state_of(measure, frame, cells_of(None if box is None else box[None], 1)[0])
            if state != NO_STATE:
                return row + 1, state
        return len(frames), NO_STATE

    @_tells_losses
    def advance(self, centres: NDArray[np.floating] | tuple[float, ...] = ()) -> Snapshot:
        """Integrate ``stride`` steps, restraints centred at ``centres`` (nm, rad), and return the frame."""
        self._centre(centres)
        self.step(self.stride)
        return self._frame()

    def minimize(
        self, snapshot: Snapshot, iterations: int, centres: NDArray[np.floating] | tuple[float, ...] = ()
    ) -> Snapshot:
        """Return a configuration downhill in energy, restraints as in `advance`, after at most so many iterations."""
        self._centre(centres)
        self.place(snapshot)
        openmm.LocalEnergyMinimizer.minimize(self._context, maxIterations=iterations)
        self._placed = None
        return self._frame()

    @_tells_losses
    def set_velocities(self, velocities: FloatArray) -> None:
        """Give every atom a velocity, (n_atoms, 3) nm/ps, projected onto the constraints."""
        self._context.setVelocities(velocities)
        if self._is_constrained:
            self._context.applyVelocityConstraints(_CONSTRAINT_TOLERANCE)

    def velocities(self) -> FloatArray:
        """Return the velocities (n_atoms, 3) nm/ps as the integrator keeps them."""
        result = np.empty((self.n_atoms, 3))
        self._context.getState(velocities=True)._getVectorAsNumpy(openmm.State.Velocities, result)
        return result

    @_tells_losses
    def step(self, steps: int) -> None:
        """Integrate without looking: the raw speed everything else is measured against."""
        self._placed = None
        self._integrator.step(steps)

    @_tells_losses
    def potential_energy(self, snapshot: Snapshot) -> float:
        """Return the potential energy of a configuration, kJ/mol."""
        self.place(snapshot)
        energy: float = self._context.getState(energy=True).getPotentialEnergy()._value
        return energy

    def forces(self, snapshot: Snapshot) -> FloatArray:
        """Return the forces (n_atoms, 3) on a configuration, kJ/mol/nm."""
        self.place(snapshot)
        result = np.empty((self.n_atoms, 3))
        self._context.getState(forces=True)._getVectorAsNumpy(openmm.State.Forces, result)
        return result

    def _centre(self, centres: NDArray[np.floating] | tuple[float, ...]) -> None:
        for i, centre in enumerate(centres):
            self._context.setParameter(f"c{i}", float(centre))

    def _frame(self) -> Snapshot:
        box = self._read_frame()
        self._check_finite()
        return Snapshot(positions=self._buffer.astype(np.float32), box=box)

    def _read_frame(self) -> Float32Array | None:
        # State.getPositions spends 40 us on units and attribute look-ups, a fifth of ten steps of a small molecule;
        # the method it calls itself spends 5.
        state = self._context.getState(positions=True)
        state._getVectorAsNumpy(openmm.State.Positions, self._buffer)
        if not self._periodic:
            return None
        return np.array(state.getPeriodicBoxVectors(asNumpy=True)._value, dtype=np.float32)

    def _check_finite(self) -> None:
        if not np.vdot(self._buffer, self._buffer) < _FARTHEST**2:  # a third of the time of a sum; false for nan too
            atom = int(np.argmax(np.nan_to_num(np.abs(self._buffer).max(axis=1), nan=np.inf)))
            raise EngineError(f"the coordinates of atom {atom} are not numbers: the integration blew up")


def _is_quiet(system: openmm.System) -> bool:
    return all(type(force).__name__ in _QUIET_FORCES for force in system.getForces())


@functools.cache
def _library_is_loaded() -> bool:
    name = _LIBRARIES.get(sys.platform, "libOpenMM.so")
    return load_library(Path(openmm.version.openmm_library_path) / name)


class _ReferenceSeeder:
    """Seeds the Reference platform's generator, which is one for the whole process.

    The checkpoint of a freshly seeded context holds the bare seed, so that loading it with another seed written in
    seeds anew in 3 us; a context initialised again does the same in 1 ms, a quarter of a short shot.
    """

    _MARK = 0x12345678

    def __init__(self) -> None:
        system = openmm.System()
        system.addParticle(1.0)
        self._integrator = openmm.BrownianIntegrator(1.0, 1.0, 0.001)
        self._integrator.setRandomNumberSeed(self._MARK)
        self._context = openmm.Context(system, self._integrator, openmm.Platform.getPlatformByName("Reference"))
        parts = self._context.createCheckpoint().split(self._MARK.to_bytes(4, sys.byteorder))
        self._parts = parts if len(parts) == 2 else None

    def seed(self, seed: int) -> None:
        if self._parts is None:  # another layout than that of OpenMM 8
            self._integrator.setRandomNumberSeed(seed)
            self._context.reinitialize()
        else:
            self._context.loadCheckpoint(seed.to_bytes(4, sys.byteorder).join(self._parts))


def _add_restraints(system: openmm.System, restraints: tuple[Restraint, ...]) -> None:
    for i, restraint in enumerate(restraints):
        expression = _RESTRAINTS[restraint.kind].format(i=i)
        atoms = [int(atom) for atom in restraint.atoms]
        match restraint.kind:
            case "distance":
                force = openmm.CustomBondForce(expression)
                force.addBond(*atoms, [])
            case "angle":
                force = openmm.CustomAngleForce(expression)
                force.addAngle(*atoms, [])
            case "dihedral":
                force = openmm.CustomTorsionForce(expression)
                force.addTorsion(*atoms, [])
            case _:
                force = openmm.CustomExternalForce(expression)
                force.addParticle(*atoms, [])
        if hasattr(force, "setUsesPeriodicBoundaryConditions"):
            force.setUsesPeriodicBoundaryConditions(system.usesPeriodicBoundaryConditions())
        force.addGlobalParameter(f"k{i}", restraint.strength)
        force.addGlobalParameter(f"c{i}", 0.0)
        system.addForce(force)


def measure_platforms(
    system_xml: str,
    config: RunConfig,
    snapshot: Snapshot,
    platforms: Mapping[str, Mapping[str, str]],
    *,
    seconds: float = 1.0,
) -> tuple[PlatformSpeed, ...]:
    """Time platforms of this machine on this very system, fastest first; those that cannot run it come last.

    Parameters
    ----------
    platforms : names of platforms, and the OpenMM properties to use them with
    seconds : wall time for each platform
    """
    speeds = [_measure(system_xml, config, snapshot, *platform, seconds) for platform in platforms.items()]
    return tuple(sorted(speeds, key=lambda speed: -speed.steps_per_second))


def platform_properties(
    platform: str, *, threads: int = 1, device: int | None = None, precision: str = "mixed"
) -> dict[str, str]:
    """Return the OpenMM properties of one worker's context.

    Parameters
    ----------
    threads : of the CPU platform
    device : number of the device on a GPU platform; None leaves the choice to OpenMM
    precision : on a GPU platform
    """
    if platform == "CPU":
        return {"Threads": str(threads), "DeterministicForces": "true"}
    if platform not in GPU_PLATFORMS:
        return {}
    return {"Precision": precision} | ({} if device is None else devices_of(platform)[device])


def limit_mesh_threads(threads: int) -> None:
    """Have the mesh of Ewald sums on the CPU platform use so many threads in this process of our own.

    OpenMM asks once, when the first context is made, and takes as many as there are cores: all workers together then
    have the square of that, and lose a fifth of their speed with four threads for each core. A process that others
    started is left as it is.
    """
    if multiprocessing.parent_process() is not None:
        os.environ["OPENMM_CPU_THREADS"] = str(threads)


def _measure(
    system_xml: str, config: RunConfig, snapshot: Snapshot, platform: str, properties: Mapping[str, str], seconds: float
) -> PlatformSpeed:
    try:
        engine = Engine(system_xml, config, platform, properties)
        engine.place(snapshot)
        engine.step(1)  # prepares much that later steps find ready
        steps, chunk, start = 0, 1, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            engine.step(chunk)
            steps += chunk
            chunk = min(chunk * 2, max(1, int(0.1 * seconds * steps / max(elapsed, 1e-3))))
        return PlatformSpeed(platform=platform, steps_per_second=steps / elapsed)
    except (EngineError, openmm.OpenMMException) as error:
        return PlatformSpeed(platform=platform, steps_per_second=0.0, error=str(error).splitlines()[0])
