"""OpenPathSampling, alone, with its netCDF storage, or with aimmd besides: two-way shooting of alanine dipeptide.

States, force field, integrator, stride and first path are those of the session. A simulation runs for ever; a hook
after each step, the last one, lets it wait for the next question.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import aimmd
import mdtraj
import numpy as np
import openmm
import openpathsampling as paths
import torch
from aimmd_model import PRODUCTION, make_model
from lines import Line
from openmm import unit
from openpathsampling.beta.hooks import PathSimulatorHook
from openpathsampling.engines import openmm as ops_openmm


class Turnstile(PathSimulatorHook):
    """Answers after as many Monte Carlo steps as were asked for."""

    implemented_for = ("before_simulation", "after_step")

    def __init__(self, line: Line, engine: Any, states: list[Any]) -> None:
        self._line, self._engine, self._states = line, engine, states
        self._asked = self._done = self._md_steps = self._transitions = 0

    def before_simulation(self, *_: Any, **__: Any) -> None:
        """Say that all is ready."""
        self._line.tell(ready=True, openpathsampling=paths.version.full_version, aimmd=aimmd.__version__)
        self._wait()

    def after_step(self, *_: Any, results: Any, **__: Any) -> None:
        """Count a step."""
        trial = results.change.canonical.trials[0].trajectory
        self._transitions += sum(state(trial[0]) + state(trial[-1]) == 1 for state in self._states) == 2
        self._done += 1
        if self._done == self._asked:
            md_steps = self._engine.simulation.context.getStepCount() - self._md_steps
            self._line.tell(steps=self._done, md_steps=md_steps, transitions=self._transitions)
            self._wait()

    def _wait(self) -> None:
        self._asked, self._done, self._transitions = self._line.hear()["steps"], 0, 0
        self._md_steps = self._engine.simulation.context.getStepCount()


def dihedral(snapshot: Any, atoms: list[int]) -> float:
    """Return a dihedral angle of a snapshot, rad."""
    import math  # noqa: PLC0415 - OpenPathSampling stores the code of a function without what is around it

    (ax, ay, az), (bx, by, bz), (cx, cy, cz), (dx, dy, dz) = snapshot.xyz[atoms].tolist()
    ux, uy, uz = bx - ax, by - ay, bz - az
    vx, vy, vz = cx - bx, cy - by, cz - bz
    wx, wy, wz = dx - cx, dy - cy, dz - cz
    mx, my, mz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    nx, ny, nz = vy * wz - vz * wy, vz * wx - vx * wz, vx * wy - vy * wx
    length = math.sqrt(vx * vx + vy * vy + vz * vz)
    return math.atan2(length * (ux * nx + uy * ny + uz * nz), mx * nx + my * ny + mz * nz)


def make_engine(folder: Path, template: Any, stored: Any) -> Any:
    """Return OpenPathSampling's OpenMM engine on the Reference platform."""
    settings = (float(stored[name]) for name in ("temperature", "friction", "timestep"))
    integrator = openmm.LangevinMiddleIntegrator(*settings)
    integrator.setConstraintTolerance(1e-6)
    engine = ops_openmm.Engine(
        template.topology,
        openmm.XmlSerializer.deserialize((folder / "system.xml").read_text()),
        integrator,
        options={"n_steps_per_frame": int(stored["stride"]), "n_frames_max": 2 * int(stored["max_frames"])},
    )
    engine.initialize("Reference")
    return engine


def make_column(name: str, atoms: list[int], topology: Any, dihedrals: str) -> Any:
    """Return a collective variable: MDTraj's, as in the examples of OpenPathSampling, or the plain and faster one."""
    if dihedrals == "mdtraj":
        return paths.MDTrajFunctionCV(name, mdtraj.compute_dihedrals, topology, indices=[atoms])
    return paths.CoordinateFunctionCV(name, dihedral, atoms=atoms)


def make_states(stored: Any, topology: Any, dihedrals: str) -> list[Any]:
    """Return a rectangle of (phi, psi) for each state."""
    columns = [make_column(name, stored[f"{name}_atoms"].tolist(), topology, dihedrals) for name in ("phi", "psi")]
    states = []
    for number, corners in enumerate(np.deg2rad(stored["states"])):
        sides = [
            paths.PeriodicCVDefinedVolume(column, float(low), float(high), -np.pi, np.pi)
            for column, (low, high) in zip(columns, corners, strict=True)
        ]
        states.append((sides[0] & sides[1]).named(f"state {number}"))
    return states


def make_transform(topology: Any) -> Any:
    """Return aimmd's internal coordinates of the molecule as a collective variable."""
    pairs, triples, quadruples = aimmd.coords.internal.generate_indices(topology.mdtraj, source_idx=0)
    return paths.MDTrajFunctionCV(
        "descriptors",
        aimmd.coords.internal.transform,
        topology,
        cv_scalarize_numpy_singletons=False,
        pairs=pairs,
        triples=triples,
        quadruples=quadruples,
    ).with_diskcache()


def make_scheme(engine: Any, states: list[Any], selector: Any) -> Any:
    """Return a move scheme of two-way shooting with fresh velocities, in either direction."""
    beta = 1 / (engine.integrator.getTemperature() * unit.BOLTZMANN_CONSTANT_kB)
    scheme = paths.MoveScheme(network=paths.TPSNetwork.from_states_all_to_all(states))
    scheme.append(
        paths.strategies.TwoWayShootingStrategy(
            modifier=paths.RandomVelocities(beta=beta, engine=engine),
            selector=selector,
            engine=engine,
            group="TwoWayShooting",
        )
    )
    scheme.append(paths.strategies.OrganizeByMoveGroupStrategy())
    scheme.build_move_decision_tree()
    return scheme


def main() -> None:
    """Make as many Monte Carlo steps as are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="system.xml, topology.pdb and path.npz")
    parser.add_argument("--with", dest="extra", choices=("nothing", "storage", "aimmd"), required=True)
    parser.add_argument("--dihedrals", choices=("plain", "mdtraj"), default="plain")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    line = Line()
    stored = np.load(arguments.folder / "path.npz")
    pdb = str(arguments.folder / "topology.pdb")
    template = ops_openmm.snapshot_from_pdb(pdb)
    engine = make_engine(arguments.folder, template, stored)
    states = make_states(stored, template.topology, arguments.dihedrals)
    hooks, selector = [], paths.UniformSelector()
    if arguments.extra == "aimmd":
        transform = make_transform(template.topology)
        model = make_model(transform(template).shape[-1], states, PRODUCTION, transform)
        trainset = aimmd.TrainSet(n_states=2)
        density = aimmd.ops.DensityCollectionHook(model, interval=20, first_collection=100)
        store = aimmd.Storage(str(arguments.folder / "aimmd.h5"), "w")
        hooks = [
            aimmd.ops.TrainingHook(model, trainset),
            aimmd.ops.AimmdStorageHook(store, model, trainset),
            density,
        ]
        selector = aimmd.ops.RCModelSelector(model, states, density_collection_hook=density)
    scheme = make_scheme(engine, states, selector)
    path = ops_openmm.trajectory_from_mdtraj(mdtraj.Trajectory(stored["positions"], mdtraj.load_topology(pdb)))
    storage = None
    if arguments.extra != "nothing":
        storage = paths.Storage(str(arguments.folder / f"ops-{arguments.extra}.nc"), "w", template=template)
    sampler = paths.PathSampling(
        storage=storage, move_scheme=scheme, sample_set=scheme.initial_conditions_from_trajectories(path)
    )
    with Path(os.devnull).open("w") as nowhere:
        sampler.output_stream, sampler.allow_refresh = nowhere, False
        for hook in (*hooks, Turnstile(line, engine, states)):
            sampler.attach_hook(hook)
        sampler.run(10**9)


if __name__ == "__main__":
    main()
