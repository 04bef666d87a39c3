"""Systems from files of one's own, through OpenMM's readers: PDB and mmCIF, Amber, Gromacs, serialized Systems."""

from __future__ import annotations

import difflib
import io
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openmm
from openmm import app, unit

from separatrix.config import DynamicSystem, FilesSystem
from separatrix.errors import SeparatrixError, SystemBuildError
from separatrix.records import Float32Array, Snapshot
from separatrix.systems import reading
from separatrix.systems.base import System, SystemEntry
from separatrix.systems.coordinates import CIF, PDB, frames_of, not_read, one_line, parsed, read_frames, read_structure
from separatrix.systems.implicit import use_native_obc2
from separatrix.topologies import as_stored

MAX_STARTS: Final = 10_000
"""Configurations that are looked at for starts."""

_AMBER: Final = (".prmtop", ".parm7")
_GROMACS: Final = (".top",)

_CONSTRAINTS: Final = {"none": None, "h-bonds": app.HBonds, "all-bonds": app.AllBonds}
_IMPLICIT: Final = {"hct": app.HCT, "obc1": app.OBC1, "obc2": app.OBC2, "gbn": app.GBn, "gbn2": app.GBn2}
_CUTOFF: Final = 1.0
_BAROSTAT_INTERVAL: Final = 25
_WHERE: Final = "system.topology"

Box = Float32Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """Atoms from a topology file, the frames in it, and how a System is made of it, given the box."""

    topology: app.Topology
    frames: tuple[Snapshot, ...]
    create: Callable[[Box], openmm.System]


def pinned(settings: FilesSystem) -> FilesSystem:
    """Return the settings with the SHA-256 of every file that they name, includes of Gromacs too.

    Raises
    ------
    SystemBuildError
        If a file cannot be read, or is another than when the sums were taken.
    """
    sums = {str(file): reading.sha256(file, where) for file, where in _files(settings)}
    if settings.sha256 and settings.sha256 != sums:
        changed = [file for file in {**settings.sha256, **sums} if settings.sha256.get(file) != sums.get(file)]
        raise SystemBuildError(
            f"system.sha256: expected the files that a run was made with, found others: {', '.join(changed)}; give the "
            "old ones, or leave sha256 out for a new run"
        )
    return settings.model_copy(update={"sha256": sums})


def _files(settings: FilesSystem) -> list[tuple[Path, str]]:
    topology = Path(settings.topology)
    files = [(topology, _WHERE)]
    if _kind(topology) == "gromacs":
        _, included = _gromacs_text(settings)
        files += [(file, _WHERE) for file in included if file != topology]
    files += [(Path(name), "system.force_field") for name in settings.force_field if _own(name)]
    if settings.system_xml is not None:
        files.append((Path(settings.system_xml), "system.system_xml"))
    return files + [(Path(name), "system.starts") for name in settings.starts]


def _build(settings: DynamicSystem) -> System:
    if not isinstance(settings, FilesSystem):
        raise SystemBuildError(f"files: expected the settings of a system from files, got kind {settings.kind!r}")
    _check_settings(settings)
    given = _READERS[_kind(Path(settings.topology))](settings)
    starts = _starts(settings, given)
    box = next(iter(starts.values())).box
    given.topology.setPeriodicBoxVectors(None if box is None else box.astype(float) * unit.nanometer)
    try:
        system = given.create(box)
    except SeparatrixError:
        raise
    except Exception as error:  # noqa: BLE001 - OpenMM's readers raise whatever they run into
        raise SystemBuildError(f"{_WHERE}: {settings.topology}: {_creation_problem(error)}") from None
    _remove_motion_removers(system)
    _check_system(settings, system, given.topology)
    starts = _in_boxes(system, starts)
    if settings.pressure is not None:
        _add_barostat(settings, system)
    topology = as_stored(given.topology)
    return System(
        name=FILES.name,
        description=f"{Path(settings.topology).name}, {system.getNumParticles():,} atoms",
        openmm_system=system,
        topology=topology,
        starts=starts,
    )


# -- what the settings say ---------------------------------------------------------------------------------------------


def _kind(topology: Path) -> str:
    ending = topology.suffix.lower()
    for kind, endings in (("structure", PDB + CIF), ("amber", _AMBER), ("gromacs", _GROMACS)):
        if ending in endings:
            if kind == "gromacs" and topology.is_file() and _begins_with_version(topology):
                return "amber"
            return kind
    reading.existing(topology, _WHERE)  # a missing or packed file is the plainer mistake
    known = ", ".join((*PDB, *CIF, *_AMBER, *_GROMACS))
    raise SystemBuildError(f"{_WHERE}: {topology}: expected a name that ends in one of {known}; rename or convert it")


def _begins_with_version(topology: Path) -> bool:
    with topology.open("rb") as stream:
        return stream.read(8) == b"%VERSION"


def _check_settings(settings: FilesSystem) -> None:
    """Refuse settings that would mean nothing."""
    kind = _kind(Path(settings.topology))
    takes_field = kind == "structure"
    if takes_field and bool(settings.force_field) == (settings.system_xml is not None):
        raise SystemBuildError(
            f'{_WHERE}: {settings.topology}: expected system.force_field (such as ["amber14-all.xml"]) or '
            f"system.system_xml, got {'both' if settings.force_field else 'neither'}"
        )
    owners = {
        "force_field": takes_field,
        "system_xml": takes_field,
        "include_folder": kind == "gromacs",
        "implicit_solvent": kind == "amber",
    }
    of_system = ("constraints", "nonbonded", "cutoff", "hydrogen_mass")
    owners |= dict.fromkeys(of_system, settings.system_xml is None)
    for name, fits in owners.items():
        if getattr(settings, name) not in (None, []) and not fits:
            owner = "a System in XML, which has its own" if name in of_system else Path(settings.topology).name
            raise SystemBuildError(f"system.{name}: does not go with {owner}; remove it")
    if settings.cutoff is not None and settings.nonbonded == "no-cutoff":
        raise SystemBuildError("system.cutoff: does not go with nonbonded = 'no-cutoff'; remove one of them")
    if not settings.starts and not takes_field:
        example = "start.gro" if kind == "gromacs" else "start.inpcrd"
        raise SystemBuildError(f'system.starts: expected files with coordinates, such as ["{example}"], got none')


def _nonbonded(settings: FilesSystem, box: Box) -> dict[str, Any]:
    """Return the arguments of createSystem that say how forces reach.

    Without removal of centre-of-mass motion: it would take three degrees of freedom from the drawn velocities.
    """
    chosen = settings.nonbonded or ("no-cutoff" if box is None else "pme")
    if chosen == "pme" and box is None:
        raise SystemBuildError(
            "system.nonbonded: expected a periodic box for pme, found none in the first start; choose no-cutoff or "
            "cutoff, or give a start with a box"
        )
    cutoff = {"cutoff": app.CutoffNonPeriodic if box is None else app.CutoffPeriodic, "pme": app.PME}
    arguments: dict[str, Any] = {
        "nonbondedMethod": cutoff.get(chosen, app.NoCutoff),
        "constraints": _CONSTRAINTS[settings.constraints or "h-bonds"],
        "removeCMMotion": False,
    }
    if chosen != "no-cutoff":
        arguments["nonbondedCutoff"] = (settings.cutoff or _CUTOFF) * unit.nanometer
    if settings.hydrogen_mass is not None:
        arguments["hydrogenMass"] = settings.hydrogen_mass * unit.amu
    return arguments


# -- topologies --------------------------------------------------------------------------------------------------------


def _read_structure(settings: FilesSystem) -> _Given:
    file = Path(settings.topology)
    content = read_structure(file, _WHERE)

    def create(box: Box) -> openmm.System:
        if settings.system_xml is not None:
            return _deserialized(Path(settings.system_xml))
        fields = [_field(name) for name in settings.force_field]
        system = app.ForceField(*fields).createSystem(content.topology, **_nonbonded(settings, box))
        if "implicit/obc2.xml" in settings.force_field:
            use_native_obc2(system)
        return system

    return _Given(topology=content.topology, frames=frames_of(content), create=create)


def _read_amber(settings: FilesSystem) -> _Given:
    file = reading.existing(Path(settings.topology), _WHERE)
    if file.stat().st_size > reading.MAX_BYTES:
        raise SystemBuildError(f"{_WHERE}: {file} is too large; at most {reading.MAX_BYTES // 2**20} MiB are read")
    topology = parsed(_WHERE, file, lambda: app.AmberPrmtopFile(str(file))).topology

    def create(box: Box) -> openmm.System:
        vectors = None if box is None else box.astype(float) * unit.nanometer
        content = app.AmberPrmtopFile(str(file), periodicBoxVectors=vectors)
        implicit = settings.implicit_solvent
        return content.createSystem(
            **_nonbonded(settings, box), implicitSolvent=None if implicit is None else _IMPLICIT[implicit]
        )

    return _Given(topology=topology, frames=(), create=create)


def _read_gromacs(settings: FilesSystem) -> _Given:
    file = Path(settings.topology)
    text, _ = _gromacs_text(settings)

    def content(box: Box) -> Any:
        vectors = None if box is None else box.astype(float) * unit.nanometer
        with tempfile.TemporaryDirectory() as folder:
            flat = Path(folder) / file.name
            flat.write_text(text, encoding="utf-8")
            return parsed(
                _WHERE, file, lambda: app.GromacsTopFile(str(flat), periodicBoxVectors=vectors, includeDir=folder)
            )

    def create(box: Box) -> openmm.System:
        return content(box).createSystem(**_nonbonded(settings, box))

    return _Given(topology=content(None).topology, frames=(), create=create)


def _gromacs_text(settings: FilesSystem) -> tuple[str, list[Path]]:
    folder = settings.include_folder
    if folder is not None and not Path(folder).is_dir():
        raise SystemBuildError(f"system.include_folder: expected a folder, found none at {folder}")
    return reading.gromacs_text(Path(settings.topology), [] if folder is None else [Path(folder)], _WHERE)


def _deserialized(file: Path) -> openmm.System:
    text = reading.system_xml(file, "system.system_xml")
    system = parsed("system.system_xml", file, lambda: openmm.XmlSerializer.deserialize(text))
    if not isinstance(system, openmm.System):
        not_read("system.system_xml", file, f"expected a System, found a {type(system).__name__}")
    return system


_READERS: Final[Mapping[str, Callable[[FilesSystem], _Given]]] = {
    "structure": _read_structure,
    "amber": _read_amber,
    "gromacs": _read_gromacs,
}


# -- force fields ------------------------------------------------------------------------------------------------------


def _own(name: str) -> bool:
    """Return whether a force field is a file of the user's and not one of OpenMM's."""
    return Path(name).is_absolute()


def _field(name: str) -> str | io.StringIO:
    """Return what OpenMM loads for a force field: a file of its own, or the checked text of the user's."""
    if _own(name):
        return io.StringIO(reading.force_field_xml(Path(name), "system.force_field"))
    data = Path(app.__file__).parent / "data"
    known = sorted(str(file.relative_to(data)) for file in data.rglob("*.xml"))
    if name in known:
        return str(data / name)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "expected one such as 'amber14-all.xml'"
    raise SystemBuildError(f"system.force_field: OpenMM has no force field {name!r}, and there is no such file; {hint}")


def _creation_problem(error: Exception) -> str:
    """Return in one line why OpenMM could make no System, and what to do."""
    message = one_line(error)
    if found := re.match(r"No template found for residue (\d+) \((\w+)\)\.?(.*)", message):
        index, name, reason = found[1], found[2], found[3].partition("For more information")[0]
        reason = reason.partition("You may be able")[0].strip().rstrip(".") or "it has no such residue"
        if "missing" in reason:
            advice = "add what is missing first, with PDBFixer or OpenMM's Modeller.addHydrogens"
        else:
            advice = "add a force field that knows it, remove it, or rename its atoms"
        return f"the force field has no residue like {name} at resid {index} ({reason}); {advice}"
    if "Multiple non-identical matching templates" in message:
        return f"{message.partition('.')[0]}; give it distinct atom names or bonds (CONECT)"
    return f"OpenMM cannot make a System of it: {message}"


# -- starts ------------------------------------------------------------------------------------------------------------


def _starts(settings: FilesSystem, given: _Given) -> dict[str, Snapshot]:
    """Return every configuration of the files of starts, by the name of the file and the number of the frame."""
    batches = [(Path(name).name, read_frames(Path(name), given.topology, "system.starts")) for name in settings.starts]
    starts: dict[str, Snapshot] = {}
    for name, frames in batches or [(Path(settings.topology).name, given.frames)]:
        if any(start.partition("[")[0] == name for start in starts):
            raise SystemBuildError(f"system.starts: two files are called {name}; rename one")
        for number, frame in enumerate(frames):
            starts[f"{name}[{number}]" if len(frames) > 1 else name] = frame
            if len(starts) > MAX_STARTS:
                raise SystemBuildError(f"system.starts: expected {MAX_STARTS:,} frames at most, found more; thin them")
    return starts


# -- the system --------------------------------------------------------------------------------------------------------


def _remove_motion_removers(system: openmm.System) -> None:
    """Take out removers of centre-of-mass motion: they take three degrees of freedom from drawn velocities."""
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)


def _check_system(settings: FilesSystem, system: openmm.System, topology: app.Topology) -> None:
    for force in system.getForces():
        if (kind := type(force).__name__) not in reading.FORCES:
            raise SystemBuildError(
                f"{_WHERE}: {settings.topology}: the force field asks for a {kind}, which shooting cannot use; choose "
                "another force field"
            )
    if system.getNumParticles() != topology.getNumAtoms():
        raise SystemBuildError(
            f"system.system_xml: expected the {topology.getNumAtoms()} atoms of {settings.topology}, found "
            f"{system.getNumParticles()} particles; both must list the same atoms in the same order"
        )


def _add_barostat(settings: FilesSystem, system: openmm.System) -> None:
    if not system.usesPeriodicBoundaryConditions():
        raise SystemBuildError("system.pressure: expected a periodic box, found none; remove it")
    system.addForce(openmm.MonteCarloBarostat(settings.pressure, settings.temperature, _BAROSTAT_INTERVAL))


def _in_boxes(system: openmm.System, starts: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
    """Return the starts with a box where the system is periodic, without where it is not."""
    if not system.usesPeriodicBoundaryConditions():
        return {name: Snapshot(positions=start.positions) for name, start in starts.items()}
    cutoff = _cutoff(system)
    for name, start in starts.items():
        if start.box is None:
            raise SystemBuildError(f"system.starts: {name}: expected a periodic box, found none; the system has one")
        if 2 * cutoff > (width := float(np.diag(start.box).min())):
            raise SystemBuildError(
                f"system.cutoff: {cutoff:g} nm is more than half the width of the box of {name}, {width:.3f} nm; "
                "lower it"
            )
    first = next(iter(starts.values())).box
    assert first is not None  # noqa: S101 - checked above
    system.setDefaultPeriodicBoxVectors(*(first.astype(float) * unit.nanometer))
    return dict(starts)


def _cutoff(system: openmm.System) -> float:
    """Return the longest cut-off of the forces that are periodic, nm."""
    return max(
        (
            force.getCutoffDistance().value_in_unit(unit.nanometer)
            for force in system.getForces()
            if hasattr(force, "getCutoffDistance") and force.usesPeriodicBoundaryConditions()
        ),
        default=0.0,
    )


FILES = SystemEntry(
    name="files",
    title="Your own molecule",
    description="A molecule from files: PDB or mmCIF with a force field, Amber, Gromacs, or a serialized System.",
    defaults=lambda system: {},
    build=_build,
)
