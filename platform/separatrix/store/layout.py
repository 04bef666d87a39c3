"""What lies where in ``run.zarr``: the columns of its tables, its paths, and the counts of what exists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from separatrix.errors import RunFormatError, RunNotFoundError, StoreError
from separatrix.records import Float32Array, IntArray, Reason, Snapshot
from separatrix.store.arrays import (
    create_checksums,
    create_column,
    create_group,
    read_group,
    read_json,
    read_unchecked,
    write_array,
)
from separatrix.store.checksums import REPAIR, RESTORE, Json, opened

FORMAT: Final = 2
"""Version of the layout."""

FORMATS: Final = (1, FORMAT)
"""Versions that can be read and gone on with; 1 has no checksums. Others are refused."""

SHOT_COLUMNS: Final[dict[str, tuple[str, str, str]]] = {
    "chain": ("<i4", "", "Monte Carlo chain"),
    "step": ("<i4", "", "step of the chain"),
    "model": ("<i4", "", "version of the model that selected the shooting point"),
    "frame": ("<i4", "", "index of the shooting point in the path shot from"),
    "parent": ("<i4", "", "shot that made the path shot from, -1 for the seed path"),
    "q": ("<f4", "", "logit of the committor predicted at the shooting point"),
    "p_transition": ("<f4", "", "predicted probability that the shot gives a transition"),
    "n_A": ("<i4", "", "trajectories that ended in state 0"),
    "n_B": ("<i4", "", "trajectories that ended in state 1"),
    "ends": ("<i1", "", "states of the first and the last frame, -1 for none"),
    "accepted": ("|b1", "", "whether the chain moved on to the new path"),
    "reason": ("<i1", "", "why the trial ended as it did"),
    "p_acc": ("<f8", "", "acceptance probability"),
    "burn_in": ("|b1", "", "whether the chain still descended from its seed path"),
    "n_frames": ("<i4", "", "saved frames of the trial"),
    "shooting_frame": ("<i4", "", "index of the shooting point in the trial"),
    "md_steps": ("<i8", "", "integration steps of the trial"),
    "seconds": ("<f8", "s", "wall time of the trial in the worker"),
    "seed": ("<i8", "", "seed of the trial"),
    "retries": ("<i2", "", "attempts that a machine failed before this one"),
    "time": ("<f8", "seconds since 1970-01-01", "when the trial was told"),
}
"""Columns of ``shots`` of two states: numpy type, CF units and meaning; each is 1-D except ``ends`` (n_shots, 2)."""

_COUNTS: Final = ("n_A", "n_B")
_ENDS_IN_STATES: Final = ("<i4", "", "trajectories that ended in each state, in the order of the states")

REPAIRED: Final = "repaired"
"""Attribute of ``run.zarr``: another text after each repair; there is none before the first."""

FRAME_COLUMNS: Final = ("features", "cvs", "shot", "offset")

_SHOTS_PER_CHUNK: Final = 4096
_FRAMES_PER_CHUNK: Final = 1 << 14
_FRAMES_CHUNK_BYTES: Final = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What exists: rows of shots and of frames, and one more than the newest model version (0 without models)."""

    shots: int = 0
    frames: int = 0
    models: int = 0

    def continues(self, before: Committed) -> bool:
        """Return whether nothing of what there was before is missing."""
        return self.shots >= before.shots and self.frames >= before.frames and self.models >= before.models


def shot_columns(n_states: int) -> dict[str, tuple[str, str, str]]:
    """Return the columns of ``shots``: for more than two states ``n_ends`` (n_shots, n_states) counts what n_A, n_B do.

    >>> set(shot_columns(2)) ^ set(shot_columns(3)) == {"n_A", "n_B", "n_ends"}
    True
    """
    if n_states == 2:
        return dict(SHOT_COLUMNS)
    columns: dict[str, tuple[str, str, str]] = {}
    for name, column in SHOT_COLUMNS.items():
        columns |= {"n_ends": _ENDS_IN_STATES} if name in _COUNTS else {name: column}
    return columns


def shot_shape(name: str, n_states: int) -> tuple[int, ...]:
    """Return the shape of one row of a column of ``shots``."""
    return {"ends": (2,), "n_ends": (n_states,)}.get(name, ())


def shot_dimensions(name: str) -> tuple[str, ...]:
    """Return the names of the axes of a column of ``shots`` beside that of the shots."""
    return {"ends": ("end",), "n_ends": ("state",)}.get(name, ())


def create_arrays(folder: Path, features: list[str], cvs: list[str], states: list[str]) -> None:
    """Make the empty ``run.zarr``."""
    create_group(folder, {"separatrix_format": FORMAT, "committed": asdict(Committed()), "notes": {}})
    for kind in ("trajectories", "seeds", "models"):
        create_group(folder / kind, {})
    create_group(folder / "shots", {"states": states})
    for name, (dtype, units, meaning) in shot_columns(len(states)).items():
        shape, dimensions = (0, *shot_shape(name, len(states))), ("shot", *shot_dimensions(name))
        attributes: Json = {"long_name": meaning} | ({"units": units} if units else {})
        if name == "reason":
            labels = " ".join(reason.name.lower() for reason in Reason)
            attributes |= {"flag_values": [int(reason) for reason in Reason], "flag_meanings": labels}
        create_column(folder / "shots" / name, dtype, shape, _SHOTS_PER_CHUNK, dimensions, attributes)
    create_checksums(folder / "shots", _SHOTS_PER_CHUNK, "shot")
    create_group(folder / "frames", {"features": features, "cvs": cvs, "states": states})
    rows = min(max(_FRAMES_CHUNK_BYTES // (4 * max(len(features), len(cvs), 1)), 16), _FRAMES_PER_CHUNK)
    for name, dtype, shape, dimensions, meaning in (
        ("features", "<f4", (0, len(features)), ("frame", "feature"), "descriptors, named in the group's attributes"),
        ("cvs", "<f4", (0, len(cvs)), ("frame", "cv"), "collective variables, named in the group's attributes"),
        ("shot", "<i4", (0,), ("frame",), "the shot that saved the frame"),
        ("offset", "<i4", (0,), ("frame",), "index of the frame relative to the shooting point"),
    ):
        create_column(folder / "frames" / name, dtype, shape, rows, dimensions, {"long_name": meaning})
    create_checksums(folder / "frames", rows, "frame")


def write_path(folder: Path, positions: Float32Array, box: Float32Array | None, attributes: Json | None = None) -> None:
    """Write positions (n_frames, n_atoms, 3) nm and, with periodic boundaries, box (n_frames, 3, 3) nm as a group."""
    create_group(folder, attributes or {}, ["positions"] if box is None else ["positions", "box"])
    units = {"units": "nm"}
    write_array(folder / "positions", np.asarray(positions, "<f4"), ("frame", "atom", "axis"), units)
    if box is not None:
        write_array(folder / "box", np.asarray(box, "<f4"), ("frame", "vector", "axis"), units)


def read_path(folder: Path) -> tuple[Float32Array, Float32Array | None]:
    """Return positions (n_frames, n_atoms, 3) nm, and box (n_frames, 3, 3) nm or None, of a group.

    Of a reduced path the atoms are those of the solute alone.
    """
    reduced = {"positions": "solute"}
    try:
        arrays, _ = read_group(folder, reduced)
    except StoreError:
        arrays, _ = read_group(folder, reduced)  # it was being reduced
    return _member(arrays, "positions" if "positions" in arrays else "solute", folder), arrays.get("box")


def _member(arrays: Mapping[str, Float32Array], name: str, folder: Path) -> Float32Array:
    if name not in arrays:  # a run of before did not say what it holds
        raise StoreError(f"the run is damaged: there is no array positions in {folder}; {REPAIR}")
    return arrays[name]


def is_whole(folder: Path) -> bool:
    """Return whether a path holds all atoms."""
    return (folder / "positions").is_dir()


def reduce_path(folder: Path, solute: IntArray, scratch: Path) -> None:
    """Keep the solute of a whole path alone; a kill at any moment leaves one of the two, or both.

    Parameters
    ----------
    folder : of the path
    solute : indices of the atoms to keep
    scratch : folder on the same disk that is not there yet, for what comes and goes
    """
    positions, _ = read_path(folder)
    scratch.mkdir()
    write_array(scratch / "solute", positions[:, solute], ("frame", "atom", "axis"), {"units": "nm"})
    if (folder / "solute").is_dir():  # from a process killed between the two steps
        shutil.rmtree(folder / "solute")
    (scratch / "solute").rename(folder / "solute")
    (folder / "positions").rename(scratch / "positions")
    shutil.rmtree(scratch)


def write_starts(folder: Path, starts: Mapping[str, Snapshot]) -> None:
    """Write named configurations, all with a box or all without, as a group like that of a path."""
    boxes = [start.box for start in starts.values() if start.box is not None]
    positions = np.stack([start.positions for start in starts.values()])
    write_path(folder, positions, np.stack(boxes) if boxes else None, {"names": list(starts)})


def read_starts(folder: Path) -> dict[str, Snapshot]:
    """Return what `write_starts` wrote."""
    arrays, attributes = read_group(folder)
    all_positions = _member(arrays, "positions", folder)
    boxes = arrays.get("box", [None] * len(all_positions))
    return {
        name: Snapshot(positions=positions, box=box)
        for name, positions, box in zip(attributes["names"], all_positions, boxes, strict=True)
    }


def read_root(path: Path) -> Json:
    """Return the metadata of ``run.zarr``, which change with every commit.

    Raises
    ------
    RunNotFoundError
        There is no run at this path.
    StoreError
        The run is damaged or was written by another version.
    """
    if not (path / "run.zarr" / "zarr.json").is_file():
        raise RunNotFoundError(f"no run at {path}: expected a folder that holds run.zarr")
    file = path / "run.zarr" / "zarr.json"
    root = read_unchecked(file)
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or "separatrix_format" not in attributes:
        raise StoreError(f"the run is damaged: expected the attributes of a run in {file}; {REPAIR}")
    found = attributes["separatrix_format"]
    if found not in FORMATS:  # first of all: what else there is, that version alone knows
        raise RunFormatError(
            f"expected format {FORMAT} of the run at {path}, found {found}: use the version that wrote it"
        )
    counts = attributes.get("committed")
    if not isinstance(counts, dict) or set(counts) != set(Committed.__slots__):
        raise StoreError(
            f"the run is damaged: expected counts of {', '.join(Committed.__slots__)} as attribute committed in "
            f"{file}, found {counts}; {REPAIR}"
        )
    return opened(root, file)


def read_states(shots: Path) -> tuple[str, ...]:
    """Return the names of the states, which the group of the shots holds.

    Raises
    ------
    StoreError
        The run is damaged.
    """
    metadata = read_json(shots / "zarr.json")
    attributes = metadata.get("attributes")
    states = attributes.get("states") if isinstance(attributes, dict) else None
    if not isinstance(states, list):
        raise StoreError(f"the run is damaged: {shots / 'zarr.json'} lacks what it should hold ('states'); {RESTORE}")
    return tuple(states)


def read_committed(root: Json) -> Committed:
    """Return what exists according to the metadata of ``run.zarr``."""
    return Committed(**root["attributes"]["committed"])


def numbers(folder: Path) -> list[int]:
    """Return the members of a group whose names are numbers."""
    try:
        return sorted(int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal())
    except FileNotFoundError:
        raise StoreError(f"the run is damaged: there is no folder {folder}; {RESTORE}") from None
