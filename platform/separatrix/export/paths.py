"""Transition paths as a trajectory, with their topology and a table of which frames are whose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from separatrix.errors import ExportError
from separatrix.estimates import path_multiplicities
from separatrix.export.files import check_ending, whole
from separatrix.reader import Reader
from separatrix.rows import are_transitions
from separatrix.store import TOPOLOGY
from separatrix.tables import write_table
from separatrix.trajectory import PATH_ENDINGS, write_frames, write_topology


def write_paths(reader: Reader, file: Path | str, *, force: bool = False) -> tuple[Path, Path, int]:
    """Write the accepted paths of a run one after another, each from the lower-indexed to the higher-indexed state.

    Beside the trajectory come ``.pdb``, its topology, and ``.csv``: for every path its shot, chain, weight (how often
    its chain stood on it), first frame and number of frames, and of more than two states which ones it connects. Frames
    are counted from 0; their times go on from path to path, by the time between saved frames. In a periodic
    box the solute is in the middle; where a run keeps the solute of some paths alone, the solute of all is written.

    Parameters
    ----------
    reader : of the run
    file : ``.xtc`` (coordinates rounded to 0.001 nm), ``.dcd`` or ``.h5`` (which needs PyTables)
    force : whether files that are there may be replaced

    Returns
    -------
    The topology, the table, and the number of paths.

    Raises
    ------
    ExportError
        If the run holds no accepted path or no positions, the ending is unknown, or there is a file already.
    """
    file = Path(file)
    check_ending(file, PATH_ENDINGS)
    if reader.config.table is not None:
        raise ExportError(f"{reader.folder} was made from a table and holds no paths; export shots instead")
    shots = reader.columns("shots")
    weight = path_multiplicities(shots["chain"], shots["accepted"])
    rows = np.flatnonzero((weight > 0) & are_transitions(shots["ends"]))
    if not len(rows):
        raise ExportError(
            f"{reader.folder}: expected accepted paths, found none in {len(weight):,} shots; "
            f"sample more with separatrix run {reader.folder}"
        )
    topology, table = file.with_suffix(".pdb"), file.with_suffix(".csv")
    spacing = reader.config.sampling.stride * reader.config.dynamics.timestep / 1000.0
    with whole(file, topology, table, force=force) as folder:
        reduced = not all(reader.has_whole_path(int(row)) for row in rows)
        source = reader.folder / TOPOLOGY
        write_topology(folder / topology.name, source, reader.solute if reduced else None)
        paths = (reader.path_frames(int(row), solute=reduced) for row in rows)
        lengths = np.array(write_frames(folder / file.name, folder / topology.name, paths, spacing=spacing))
        columns = {
            "shot": rows,
            "chain": shots["chain"][rows],
            "weight": weight[rows],
            "first_frame": np.cumsum(lengths) - lengths,
            "n_frames": lengths,
        }
        if len(reader.state_names) > 2:
            columns |= dict(zip(("from", "to"), np.array(reader.state_names)[shots["ends"][rows]].T, strict=True))
        write_table(folder / table.name, columns)
    return topology, table, len(rows)
