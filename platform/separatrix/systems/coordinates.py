"""Configurations in files, through the readers of OpenMM and MDTraj; whatever these raise becomes one line."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from openmm import app, unit

from separatrix.errors import SeparatrixError, SystemBuildError
from separatrix.records import Float32Array, Snapshot
from separatrix.systems import reading
from separatrix.trajectory import read_trajectory, reduced_boxes

PDB: Final = (".pdb", ".ent")
CIF: Final = (".cif", ".mmcif", ".pdbx")

_RESTART: Final = (".inpcrd", ".rst7", ".rst", ".crd", ".restrt")


def read_frames(file: Path, topology: app.Topology, where: str) -> tuple[Snapshot, ...]:
    """Return every configuration in a file, recognised by its ending, with its box if it has one.

    Raises
    ------
    SystemBuildError
        If the file is missing, cannot be read, or has other atoms or coordinates that are not finite.
    """
    reading.existing(file, where)
    match file.suffix.lower():
        case ending if ending in _RESTART:
            content = parsed(where, file, lambda: app.AmberInpcrdFile(str(file)))
            frames: tuple[Snapshot, ...] = (Snapshot(positions=_nm(content.positions), box=box_of(content.boxVectors)),)
        case ".gro":
            content = parsed(where, file, lambda: app.GromacsGroFile(str(file)))
            frames = frames_of(content)
        case ending if ending in PDB + CIF:
            content = read_structure(file, where)
            frames = frames_of(content)
        case _:
            frames = _read_trajectory(file, topology, where)
    _check(file, frames, topology.getNumAtoms(), where)
    return frames


def read_structure(file: Path, where: str) -> Any:
    """Return what OpenMM reads from a PDB or mmCIF file."""
    reader = app.PDBFile if file.suffix.lower() in PDB else app.PDBxFile
    text = reading.read_text(file, where)
    if "ATOM" not in text and "HETATM" not in text:
        not_read(where, file, "there is no atom in it")
    return parsed(where, file, lambda: reader(io.StringIO(text)))


def frames_of(content: Any) -> tuple[Snapshot, ...]:
    """Return the frames of what a reader of OpenMM made of a file: of a .gro each has its box, else all have one.

    Parameters
    ----------
    content : what the reader made
    """
    frames = range(content.getNumFrames())
    if isinstance(content, app.GromacsGroFile):
        boxes = [box_of(content.getPeriodicBoxVectors(frame=i)) for i in frames]
    else:
        boxes = [box_of(content.topology.getPeriodicBoxVectors())] * len(frames)
    return tuple(Snapshot(positions=_nm(content.getPositions(asNumpy=True, frame=i)), box=boxes[i]) for i in frames)


def box_of(vectors: Any) -> Float32Array | None:
    """Return box vectors (3, 3) nm in reduced form; None without any, or of no size."""
    if vectors is None:
        return None
    given = vectors.value_in_unit(unit.nanometer) if unit.is_quantity(vectors) else vectors
    boxes = reduced_boxes(np.array([[[float(part) for part in vector] for vector in given]]))
    return None if boxes is None else boxes[0]


def parsed(where: str, file: Path, read: Callable[[], Any]) -> Any:
    """Return what a reader of OpenMM makes of a file.

    Raises
    ------
    SystemBuildError
        If it raises anything.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # some leave it to the interpreter to close files
            return read()
    except SeparatrixError:
        raise
    except Exception as error:  # noqa: BLE001 - these readers raise whatever their parsing runs into
        message = one_line(error)
        if reading.MISSING in message:
            name = message.partition(reading.MISSING)[2]
            raise SystemBuildError(
                f"{where}: {file} includes {name}, which is neither beside it nor in system.include_folder"
            ) from None
        not_read(where, file, message)


def not_read(where: str, file: Path, message: str) -> NoReturn:
    """Refuse a file that is not what its name says."""
    raise SystemBuildError(f"{where}: {file} cannot be read as {file.suffix}: {message}") from None


def one_line(error: Exception) -> str:
    """Return what an error says, on one line of a sensible length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _read_trajectory(file: Path, topology: app.Topology, where: str) -> tuple[Snapshot, ...]:
    try:
        positions, boxes = read_trajectory(file, topology, where=where)
    except SeparatrixError as error:
        raise SystemBuildError(str(error)) from None
    return tuple(
        Snapshot(positions=frame, box=None if boxes is None else boxes[i]) for i, frame in enumerate(positions)
    )


def _check(file: Path, frames: Iterable[Snapshot], n_atoms: int, where: str) -> None:
    for number, frame in enumerate(frames):
        if len(frame.positions) != n_atoms:
            raise SystemBuildError(
                f"{where}: {file}: expected the {n_atoms} atoms of the topology, found {len(frame.positions)}; write "
                "the same atoms in the same order"
            )
        if not np.isfinite(frame.positions).all():
            raise SystemBuildError(f"{where}: {file}: expected finite coordinates, found others in frame {number}")


def _nm(positions: Any) -> Float32Array:
    return np.asarray(positions.value_in_unit(unit.nanometer), dtype=np.float32).reshape(-1, 3)
