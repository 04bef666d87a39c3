"""Bare OpenMM: integrator steps in blocks of a given length, and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openmm
from lines import Line


def main() -> None:
    """Make as many MD steps as are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="system.xml, path.npz and settings of the contest")
    parser.add_argument("--block", type=int, required=True)
    arguments = parser.parse_args()
    line = Line()
    stored = np.load(arguments.folder / "path.npz")
    system = openmm.XmlSerializer.deserialize((arguments.folder / "system.xml").read_text())
    integrator = openmm.LangevinMiddleIntegrator(*(float(stored[n]) for n in ("temperature", "friction", "timestep")))
    integrator.setConstraintTolerance(1e-6)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(stored["positions"][len(stored["positions"]) // 2].astype(float))
    context.setVelocitiesToTemperature(float(stored["temperature"]), 1)
    line.tell(ready=True, openmm=openmm.version.version)
    while True:
        n_blocks = max(1, line.hear()["steps"] // arguments.block)
        for _ in range(n_blocks):
            integrator.step(arguments.block)
        line.tell(steps=n_blocks * arguments.block, md_steps=n_blocks * arguments.block)


if __name__ == "__main__":
    main()
