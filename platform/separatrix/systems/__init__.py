"""The catalogue of systems: from configuration data to a resolved configuration, and from that to a system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from separatrix.config import NOTHING_MOVES, CatalogueSystem, FilesSystem, PotentialSystem, RunConfig
from separatrix.errors import ConfigError, quoted
from separatrix.expressions import suggestion
from separatrix.systems.alanine_dipeptide import ALANINE_DIPEPTIDE
from separatrix.systems.base import System, SystemEntry
from separatrix.systems.files import FILES, pinned
from separatrix.systems.hummer_szabo import HUMMER_SZABO
from separatrix.systems.lithium_chloride import LITHIUM_CHLORIDE
from separatrix.systems.mueller_brown import MUELLER_BROWN
from separatrix.systems.potential import POTENTIAL
from separatrix.systems.three_basins import THREE_BASINS
from separatrix.systems.two_gaussians import TWO_GAUSSIANS

CATALOGUE: dict[str, SystemEntry] = {
    entry.name: entry
    for entry in (ALANINE_DIPEPTIDE, LITHIUM_CHLORIDE, TWO_GAUSSIANS, HUMMER_SZABO, MUELLER_BROWN, THREE_BASINS)
}
"""Systems that are complete by name alone."""

KINDS: dict[str, SystemEntry] = {**CATALOGUE, POTENTIAL.name: POTENTIAL, FILES.name: FILES}
"""Everything ``system.kind`` may say."""

_REPLACED_WHOLE = frozenset({"collective_variables", "states"})
"""Tables whose keys are the user's own: a state of the catalogue must not linger beside those given."""


def resolve(data: Mapping[str, Any], *, where: str = "configuration") -> RunConfig:
    """Return the complete configuration of a run: the user's values over the defaults of the system.

    Tables are merged key by key; ``collective_variables`` and ``states`` replace the system's own when given. Without
    any descriptor the collective variables themselves are the descriptors, and frames train the committor where the
    dynamics is overdamped. The result resolves to itself.

    Parameters
    ----------
    data : plain data such as parsed TOML
    where : named in errors

    Raises
    ------
    ConfigError
        If the kind of system or its solvent is unknown, or the configuration is wrong.
    SystemBuildError
        If a file of the user's own system cannot be read.
    """
    system = data.get("system")
    if not isinstance(system, Mapping) or not isinstance(system.get("kind"), str):
        return RunConfig.from_data(data, where=where)  # raises, naming what is missing
    entry = _entry(system["kind"], where)
    _check_solvent(entry, system.get("solvent"), where)
    merged = _merge(entry.defaults(system), data)
    config = RunConfig.from_data(merged, where=where)
    _check_box(entry, config, where)
    changes: dict[str, Any] = {}
    chosen = config.descriptors
    if not (chosen.columns or chosen.symmetry_functions) and chosen.internal_coordinates == "none":
        changes["descriptors"] = chosen.model_copy(update={"columns": list(config.collective_variables)})
    if config.committor.frames is None:
        overdamped = config.dynamics.integrator == "brownian"
        changes["committor"] = config.committor.model_copy(update={"frames": overdamped})
    if isinstance(config.system, FilesSystem):
        changes["system"] = pinned(config.system)
    return config.model_copy(update=changes)


def build_system(config: RunConfig) -> System:
    """Build the system of a resolved configuration.

    Raises
    ------
    ConfigError
        If the kind of system or its solvent is unknown, or a state of a landscape has no start.
    SystemBuildError
        If the system cannot be built.
    """
    settings = config.dynamics
    entry = _entry(settings.kind, "configuration")
    if isinstance(settings, CatalogueSystem):
        _check_solvent(entry, settings.solvent, "configuration")
    elif isinstance(settings, PotentialSystem):
        _check_start_names(settings, config.states)
    return entry.build(settings)


def build_sketch(config: RunConfig) -> System:
    """Build what pictures show of a system, at once: with fewer molecules of solvent, or none.

    Errors are those of `build_system`.
    """
    settings = config.dynamics
    entry = _entry(settings.kind, "configuration")
    return build_system(config) if entry.sketch is None else entry.sketch(settings)


def _merge(defaults: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    result = {**defaults, **data}
    for table, values in defaults.items():
        given = data.get(table)
        if table not in _REPLACED_WHOLE and isinstance(given, Mapping):
            result[table] = {**values, **given}
    return result


def _entry(kind: str, where: str) -> SystemEntry:
    if kind == "table":
        raise ConfigError(f"{where}: {NOTHING_MOVES}")
    if kind not in KINDS:
        raise ConfigError(f"{where}: system.kind: there is no {quoted(str(kind))}{suggestion(kind, KINDS)}")
    return KINDS[kind]


def _check_solvent(entry: SystemEntry, solvent: object, where: str) -> None:
    if solvent is None:
        return
    if not entry.solvents:
        raise ConfigError(f"{where}: system.solvent: {entry.name} has no solvent, got {solvent!r}; remove it")
    if solvent not in entry.solvents:
        hint = suggestion(str(solvent), entry.solvents)
        raise ConfigError(f"{where}: system.solvent: {entry.name} has no solvent model {solvent!r}{hint}")


def _check_box(entry: SystemEntry, config: RunConfig, where: str) -> None:
    settings = config.dynamics
    if not isinstance(settings, CatalogueSystem) or settings.solvent in entry.boxed:
        return
    for name in ("pressure", "equilibration"):
        if (value := getattr(settings, name)) is not None:
            advice = f", or choose solvent = {entry.boxed[0]!r}" if entry.boxed else ""
            what = entry.name if settings.solvent is None else f"{entry.name} in {settings.solvent}"
            raise ConfigError(f"{where}: system.{name}: {what} has no box of water, got {value:g}; remove it{advice}")


def _check_start_names(settings: PotentialSystem, states: Mapping[str, str]) -> None:
    for state in states:
        if state not in settings.start:
            raise ConfigError(f"configuration: system.start: state {state!r} has none; give a point inside it, in nm")
    for state in settings.start:
        if state not in states:
            raise ConfigError(
                f"configuration: system.start: there is no state {quoted(state)}{suggestion(state, states)}"
            )
