"""OpenPathSampling's netCDF storage: transition paths written one by one, and read again."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import mdtraj
import numpy as np
import openpathsampling as paths
from lines import Line
from openpathsampling.engines import openmm as ops_openmm


def main() -> None:
    """Tell seconds to write and to read, bytes, and the greatest deviation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="paths.npz and topology.pdb; the file is written here")
    arguments = parser.parse_args()
    line = Line()
    pdb = str(arguments.folder / "topology.pdb")
    template, topology = ops_openmm.snapshot_from_pdb(pdb), mdtraj.load_topology(pdb)
    with np.load(arguments.folder / "paths.npz") as stored:
        positions = [stored[name] for name in stored.files]
    line.tell(ready=True)
    while True:
        line.hear()
        made = [ops_openmm.trajectory_from_mdtraj(mdtraj.Trajectory(path, topology)) for path in positions]
        file = arguments.folder / "paths.nc"
        begin = time.perf_counter()
        storage = paths.Storage(str(file), "w", template=template)
        for trajectory in made:
            storage.save(trajectory)
        storage.close()
        written = time.perf_counter()
        storage = paths.Storage(str(file), "r")
        found = [storage.trajectories[number].xyz for number in range(len(made))]
        read = time.perf_counter()
        storage.close()
        deviation = max(float(np.abs(a - b).max()) for a, b in zip(found, positions, strict=True))
        line.tell(write=written - begin, read=read - written, size=file.stat().st_size, deviation=deviation)
        file.unlink()


if __name__ == "__main__":
    main()
