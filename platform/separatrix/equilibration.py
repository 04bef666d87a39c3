"""Water brought to equilibrium around every start of a system, once, when a run is made.

The solute is held by its collective variables. Around the first start the water relaxes from where it was placed; from
there the solute is drawn into each other start, and the water follows. Velocities are drawn anew every picosecond,
which takes out the heat of relaxation faster than the thermostat does.

The CPU platform sums its forces in a fixed order and everything random comes from the run's seed: the same seed and
version give the same starts on the same machine. Between machines the last bits differ, and so do molecules in time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from separatrix.collective_variables import Columns, parse_definition
from separatrix.config import RunConfig
from separatrix.engine import Engine, Restraint, boxed_in, platform_properties, serialize
from separatrix.errors import EngineError, EquilibrationStoppedError
from separatrix.records import FloatArray, Snapshot
from separatrix.systems.base import Equilibration, System
from separatrix.units import FS_PER_PS, thermal_energy

_PROPERTIES: Final = platform_properties("CPU", threads=1)
"""One thread, beside those of the mesh: with more, the order of neighbours and so the last bits are left to chance."""
_ITERATIONS: Final = 50
"""Of the minimiser: what overlaps is to part; the rest is left to dynamics."""
_SHARE_OF_DRAWING: Final = 0.25
_LONGER: Final = 3.0
"""Times as long as planned, until the solute is where it is held."""
_REPORTS_PER_PS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EquilibrationProgress:
    """How far an equilibration is: what is being done, in words, and how much of it.

    Attributes
    ----------
    activity : in words
    done, total : ps
    seconds : wall time so far
    """

    activity: str
    done: float
    total: float
    seconds: float


Report = Callable[[EquilibrationProgress], None]


def equilibrate(
    system: System,
    config: RunConfig,
    *,
    report: Report = lambda progress: None,
    stop: threading.Event | None = None,
) -> System:
    """Return a system whose starts are equilibrated; one that needs nothing is returned as it is.

    Parameters
    ----------
    config : temperature, time step and the run's seed
    report : called some times a second
    stop : set when the work is to end early

    Raises
    ------
    EquilibrationStoppedError
        If ``stop`` was set; nothing is kept.
    EngineError
        If the integration blows up, or the solute does not stay where it is held.
    """
    if system.equilibration is None:
        return system
    work = _Work(system, system.equilibration, config, report, stop or threading.Event())
    starts = work.starts()
    boxed_in(system.openmm_system, system.topology, next(iter(starts.values())))
    return replace(system, starts=starts, equilibration=None)


class _Work:
    """One equilibration: its engine, its clock and where the solute is to be."""

    def __init__(
        self, system: System, plan: Equilibration, config: RunConfig, report: Report, stop: threading.Event
    ) -> None:
        self._system, self._plan, self._report, self._stop = system, plan, report, stop
        n_atoms = system.openmm_system.getNumParticles()
        held = [parse_definition(text, n_atoms) for text in plan.hold]
        kt = thermal_energy(config.dynamics.temperature)
        restraints = tuple(
            Restraint(kind=one.name, atoms=one.terms[0], strength=strength * kt)
            for one, strength in zip(held, plan.strength, strict=True)
        )
        self._columns = Columns({f"q{i}": text for i, text in enumerate(plan.hold)}, n_atoms)
        self._periodic = np.array([one.kind.periodic for one in held])
        self._scale = np.array([np.pi / 180 if one.kind.unit == "degrees" else 1.0 for one in held])
        xml, _ = serialize(system.openmm_system, system.topology, next(iter(system.starts.values())))
        self._engine = Engine(xml, config, "CPU", _PROPERTIES, restraints=restraints)
        self._rng = np.random.default_rng((config.sampling.seed, 0xE0))
        self._frame_ps = self._engine.stride * config.dynamics.timestep / FS_PER_PS
        self._begun = time.monotonic()
        self._done = 0.0

    def starts(self) -> dict[str, Snapshot]:
        """Return the equilibrated start of every state."""
        engine, starts = self._engine, self._system.starts
        engine.reseed(int(self._rng.integers(2**63)))
        found: dict[str, Snapshot] = {}
        first, *_ = starts.values()
        here, value = first, self._values(first)
        self._tell("placing the water")
        here = engine.minimize(here, _ITERATIONS, value * self._scale)
        for state, start in starts.items():
            target = self._values(start)
            way = np.where(self._periodic, (target - value + 180.0) % 360.0 - 180.0, target - value)
            here = self._hold(state, here, value, way)
            found[state], value = here, target
        return found

    def _hold(self, state: str, here: Snapshot, begin: FloatArray, way: FloatArray) -> Snapshot:
        """Draw the solute along ``way``, hold it there, and return the first frame after the time with it in place."""
        drawing = _SHARE_OF_DRAWING * self._plan.picoseconds
        activity, before = f"equilibrating the water around {state}", self._done
        redrawn = told = -1
        while (spent := self._done - before) < _LONGER * self._plan.picoseconds:
            if self._stop.is_set():
                raise EquilibrationStoppedError("stopped while equilibrating the water; nothing was stored")
            if int(spent) > redrawn:
                redrawn = int(spent)
                self._draw_velocities(here)
            if int(spent * _REPORTS_PER_PS) > told:
                told = int(spent * _REPORTS_PER_PS)
                self._tell(activity)
            here = self._engine.advance((begin + min(1.0, spent / drawing) * way) * self._scale)
            self._done += self._frame_ps
            if spent >= self._plan.picoseconds and self._in_place(here, begin + way):
                return here
        raise EngineError(
            f"{self._system.name}: expected {', '.join(self._plan.hold)} held at {(begin + way).round(3).tolist()} in "
            f"the start of {state!r}, found {self._values(here).round(3).tolist()} after {spent:.1f} ps; raise "
            "system.equilibration, or lower system.timestep"
        )

    def _draw_velocities(self, here: Snapshot) -> None:
        velocities, _ = self._engine.draw_velocities(here, self._rng)
        self._engine.set_velocities(velocities)

    def _values(self, snapshot: Snapshot) -> FloatArray:
        return np.asarray(self._columns.scalar(snapshot.positions, snapshot.box))

    def _in_place(self, snapshot: Snapshot, target: FloatArray) -> bool:
        off = self._values(snapshot) - target
        off = np.where(self._periodic, (off + 180.0) % 360.0 - 180.0, off)
        return bool((np.abs(off) <= np.array(self._plan.tolerance)).all())

    def _tell(self, activity: str) -> None:
        total = self._plan.picoseconds * len(self._system.starts)
        seconds = time.monotonic() - self._begun
        self._report(
            EquilibrationProgress(activity=activity, done=min(self._done, total), total=total, seconds=seconds)
        )
