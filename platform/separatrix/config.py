"""The configuration of a run: frozen, strict, TOML in and out. Every field carries its unit and a description."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from separatrix.errors import ConfigError, quoted

MAX_TOML_BYTES: Final = 8 * 2**20

MAX_CHAINS: Final = 10_000
"""Of a run that samples; in one from a table they are groups of rows, of which there may be any number."""

_DATES: Final = (date, time)

_MAX_PARTS: Final = 32
# Python's parser takes the square of the time for a key of many parts: a.a.a.a
_LONG_KEY: Final = re.compile(
    rf"""(?<![\w.'"-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_MAX_PARTS - 1}}}"""
)

Point = tuple[float, float, float]
_Model = TypeVar("_Model", bound=BaseModel)


def _field(default: Any, unit: str, description: str, **limits: Any) -> Any:
    """Return a pydantic field with its unit in the JSON schema (the web form is built from it)."""
    return Field(default, description=description, json_schema_extra={"unit": unit}, **limits)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Dynamics(_Section):
    temperature: float = _field(300.0, "K", "Temperature of the heat bath.", gt=0)
    integrator: Literal["langevin", "brownian"] = _field(
        "langevin", "", "langevin: Langevin middle scheme with inertia; brownian: overdamped."
    )
    friction: float = _field(1.0, "1/ps", "Friction coefficient.", gt=0)
    timestep: float = _field(2.0, "fs", "Integration time step.", gt=0)


class ExtraParticles(_Section):
    """Further particles of a custom landscape, each in a potential of its own kind."""

    expression: str = _field(..., "kJ/mol", "Potential energy of one particle in x, y, z (nm); OpenMM syntax.")
    particles: int = _field(1, "", "How many such particles.", ge=1, le=100_000)
    mass: float = _field(1.0, "amu", "Mass of each particle.", gt=0)


class PotentialSystem(_Dynamics):
    """A custom landscape."""

    kind: Literal["potential"] = _field("potential", "", "A landscape given by its potential energy.")
    expression: str = _field(..., "kJ/mol", "Potential energy of one particle in x, y, z (nm); OpenMM syntax.")
    particles: int = _field(1, "", "How many particles move in it, independently.", ge=1, le=100_000)
    mass: float = _field(1.0, "amu", "Mass of each particle.", gt=0)
    start: dict[str, Point | list[Point]] = _field(
        ..., "nm", "For each state a configuration inside it: the first particle (others at the origin) or all."
    )
    extra: list[ExtraParticles] = _field([], "", "Further particles in other potentials.")


class CatalogueSystem(_Dynamics):
    """A system from the catalogue; `separatrix systems` lists them."""

    kind: str = _field(..., "", "Name in the catalogue.")
    solvent: str | None = _field(None, "", "Solvent model, for systems that offer a choice.")
    pressure: float | None = _field(
        None,
        "bar",
        "In explicit water: a Monte Carlo barostat keeps this pressure (NPT). Absent: the volume is constant (NVT), at "
        "the density of water, which for barriers and rates comes to the same and is simpler.",
    )
    equilibration: float | None = _field(
        None,
        "ps",
        "In explicit water: how long the water is equilibrated around each start when a run is made. Absent: as long "
        "as the system needs.",
        gt=0,
        le=1e5,
    )


class FilesSystem(_Dynamics):
    """A system from files of one's own; relative paths begin at the folder of the configuration."""

    kind: Literal["files"] = _field("files", "", "Your own molecule, from files.")
    topology: str = _field(
        ..., "", "File with the atoms: PDB, mmCIF, an Amber topology (.prmtop, .parm7) or one of Gromacs (.top)."
    )
    force_field: list[str] = _field(
        [],
        "",
        "For PDB and mmCIF: force fields of OpenMM by name, such as amber14-all.xml and implicit/obc2.xml, or XML "
        "files of your own.",
    )
    system_xml: str | None = _field(
        None, "", "For PDB and mmCIF in place of a force field: an OpenMM System in XML, used as it is."
    )
    include_folder: str | None = _field(
        None, "", "For Gromacs: folder of the force fields that the .top includes, such as /usr/share/gromacs/top."
    )
    starts: list[str] = _field(
        [],
        "",
        "Files to start from, of any format MDTraj reads: every frame is a start; one inside one of the states is "
        "enough. Absent: the coordinates of a PDB or mmCIF topology.",
    )
    constraints: Literal["none", "h-bonds", "all-bonds"] | None = _field(
        None, "", "Bonds of fixed length; water is always rigid. Absent: h-bonds. A System in XML has its own."
    )
    nonbonded: Literal["no-cutoff", "cutoff", "pme"] | None = _field(
        None, "", "Long-range forces. Absent: pme in a periodic box, else no-cutoff. A System in XML has its own."
    )
    cutoff: float | None = _field(None, "nm", "Of nonbonded forces. Absent: 1 nm.", gt=0)
    hydrogen_mass: float | None = _field(
        None, "amu", "Mass of hydrogens, taken from their neighbours: 4 allows longer time steps.", ge=1, le=5
    )
    pressure: float | None = _field(
        None, "bar", "In a periodic box: a Monte Carlo barostat keeps this pressure. Absent: the volume is constant."
    )
    implicit_solvent: Literal["hct", "obc1", "obc2", "gbn", "gbn2"] | None = _field(
        None, "", "For Amber topologies; with force fields of OpenMM, name implicit/obc2.xml and the like among them."
    )
    sha256: dict[str, str] = _field({}, "", "SHA-256 of every file, filled in when a run is made.")


class TableSystem(_Section):
    """A table of shots that exist already; `separatrix learn` makes such a run. Nothing can be simulated in it."""

    kind: Literal["table"] = _field("table", "", "Shots that exist already.")
    file: str = _field(..., "", "Name of the file the shots were read from.")
    sha256: str = _field(..., "", "SHA-256 of that file, in hex.")
    groups: str | None = _field(None, "", "Column whose values name groups of rows that are held out together.")


def _system_tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return str(kind) if kind in ("potential", "files", "table") else "catalogue"


SystemConfig = Annotated[
    Annotated[PotentialSystem, Tag("potential")]
    | Annotated[FilesSystem, Tag("files")]
    | Annotated[CatalogueSystem, Tag("catalogue")]
    | Annotated[TableSystem, Tag("table")],
    Discriminator(_system_tag),
]


DynamicSystem = PotentialSystem | FilesSystem | CatalogueSystem
"""What moves."""

_SYSTEMS: Mapping[str, type[_Section]] = {
    "potential": PotentialSystem,
    "files": FilesSystem,
    "catalogue": CatalogueSystem,
    "table": TableSystem,
}

NOTHING_MOVES = (
    "a run made from a table of shots (separatrix learn) has no system to simulate; "
    "make a run with --system or --config for that"
)


class SymmetryFunctionsConfig(_Section):
    """How the solvent is arranged around some atoms: symmetry functions G2 and G5 for each element of the solvent."""

    centers: str | list[int] = _field(
        ..., "", "Atoms in the middle: a selection in MDTraj's language, such as element Li, or atoms counted from 0."
    )
    neighbors: str | list[int] = _field(
        "water", "", "Atoms around them, a selection or a list too; each element has functions of its own."
    )
    r_s: list[Annotated[float, Field(ge=0)]] = _field(
        [0.25, 0.4, 0.55, 0.7, 0.85], "nm", "Distances from the centre that are looked at.", min_length=1
    )
    r_cutoff: float = _field(
        1.0, "nm", "Distance beyond which nothing is seen; at most half the shortest width of the box.", ge=0.2
    )


class DescriptorsConfig(_Section):
    """What the committor network sees."""

    columns: list[str] = _field(
        [], "", "Collective variables, by name or definition; a dihedral becomes its sine and cosine."
    )
    internal_coordinates: Literal["none", "rotatable", "all"] = _field(
        "none", "", "Distances, angles and dihedrals over the bond graph: one dihedral per rotatable bond, or all."
    )
    atoms: str | None = _field(
        None,
        "",
        "Atoms that internal coordinates are laid over, a selection in MDTraj's language, such as protein. Absent: all "
        "but water and salt.",
    )
    symmetry_functions: list[SymmetryFunctionsConfig] = _field(
        [], "", "How the solvent is arranged around some atoms: symmetry functions G2 and G5."
    )


class SamplingConfig(_Section):
    """Transition path sampling."""

    stride: int = _field(10, "MD steps", "Integration steps between saved frames.", ge=1)
    max_frames: int = _field(5000, "frames", "Longest half-trajectory; a longer one makes the trial a rejection.", ge=2)
    chains: int = Field(
        default=2,
        description="Independent Monte Carlo chains that share one committor model.",
        json_schema_extra={"unit": "", "maximum": MAX_CHAINS},
        ge=1,
    )
    steps: int = _field(1000, "trials", "Monte Carlo steps in total, summed over chains.", ge=0)
    stored_paths: Literal["whole", "solute"] = _field(
        "whole",
        "",
        "What is kept of a transition path on which no chain stands any more: all atoms, or the solute alone, which "
        "takes a small part of the disk. Validation shoots from whole paths only.",
    )
    selector: Literal["lorentzian", "gaussian", "uniform"] = _field(
        "lorentzian", "", "How shooting points are chosen from the committor; uniform is standard TPS."
    )
    scale: float = _field(1.0, "logits", "Width of the selection around q = 0.", gt=0)
    density_correction: bool = _field(
        True, "", "Divide the weights by the density of the sampled frames along the committor (not for uniform)."
    )
    seed: int = _field(1, "", "Seed of every random number of the run.", ge=0, lt=2**63)


class CommittorConfig(_Section):
    """The committor network and its training."""

    members: int = _field(4, "", "Networks in the ensemble, each with a held-out part of its own.", ge=1, le=64)
    learning_rate: float = _field(
        1e-2, "", "Learning rate of Adam before it is scaled by the expected efficiency.", gt=0
    )
    minimum_learning_rate: float = _field(3e-3, "", "The scaled rate never falls below it: no model grows stale.", gt=0)
    window: int = _field(100, "shots", "Window of the expected-efficiency factor.", ge=10)
    held_out: float = _field(0.25, "", "Fraction of the shots each member never trains on.", gt=0, lt=1)
    frames: bool | None = _field(
        None,
        "",
        "Train on the labelled frames of every half-trajectory too, not on shooting points alone. By default with "
        "Brownian dynamics only: with inertia a frame's label also carries its velocity.",
    )


class SeedingConfig(_Section):
    """How the first transition path is found."""

    trajectory: str | None = _field(
        None,
        "",
        "File with a transition of your own, in any format MDTraj reads; relative to the configuration's folder.",
    )
    temperature: float | None = _field(None, "K", "Temperature of the hot runs; chosen by itself when absent.", gt=0)
    time_limit: float = _field(120.0, "s", "Wall time allowed for finding a first path.", gt=0)


class AnalysisConfig(_Section):
    """What is found out about the mechanism while a run samples with worker processes; it slows nothing."""

    every: int = _field(
        250, "shots", "New shots after which relevance and a short formula are found anew; 0 for never.", ge=0
    )
    generations: int = _field(60, "", "Length of the search for a formula.", ge=1)


class RunConfig(_Section):
    """Everything that defines a run."""

    system: SystemConfig = Field(..., description="What moves.")
    collective_variables: dict[str, str] = _field(
        {},
        "",
        'Named columns, such as phi = "dihedral(4, 6, 8, 14)"; nm and degrees. Atoms are counted from 0, or selected: '
        "distance('resid 0 and name CA', 'resid 9 and name CA').",
    )
    states: dict[str, str] = _field(
        {},
        "",
        "For each state an expression over the collective variables; the order is the order of indices. "
        "In a run made from a table, the column that counts the shots which ended there.",
    )
    descriptors: DescriptorsConfig = Field(DescriptorsConfig(), description="What the network sees.")
    sampling: SamplingConfig = Field(SamplingConfig(), description="Transition path sampling.")
    committor: CommittorConfig = Field(CommittorConfig(), description="The committor network.")
    seeding: SeedingConfig = Field(SeedingConfig(), description="The first transition path.")
    analysis: AnalysisConfig = Field(AnalysisConfig(), description="The mechanism while the run samples.")

    @classmethod
    def from_data(cls, data: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Build from plain data such as parsed TOML.

        Parameters
        ----------
        data : nested tables, complete
        where : the data are from, to begin an error

        Raises
        ------
        ConfigError
            With one line: where, what was expected and what was found.
        """
        config = validated(cls, data, where=where)
        if config.table is None and config.sampling.chains > MAX_CHAINS:
            raise ConfigError(
                f"{where}: sampling.chains: input should be less than or equal to {MAX_CHAINS}, got "
                f"{config.sampling.chains}"
            )
        return config

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a complete configuration, such as that of a run.

        Parameters
        ----------
        file : TOML

        Raises
        ------
        ConfigError
            It is missing, no TOML, or wrong.
        """
        return cls.from_data(read_toml(file), where=str(file))

    @property
    def dynamics(self) -> DynamicSystem:
        """What moves, and how.

        Raises
        ------
        ConfigError
            If nothing does: the run was made from a table of shots.
        """
        if isinstance(self.system, TableSystem):
            raise ConfigError(NOTHING_MOVES)
        return self.system

    @property
    def table(self) -> TableSystem | None:
        """The table of shots that the run was made from; None for a run that samples."""
        return self.system if isinstance(self.system, TableSystem) else None

    @property
    def holds_out_groups(self) -> bool:
        """Whether rows of one group, stored as one chain, are held out together."""
        return self.table is not None and self.table.groups is not None

    @property
    def content_hash(self) -> str:
        """SHA-256 of the content (order of states and columns included), in hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def to_toml(self) -> str:
        """Return the whole configuration as TOML; reading it back gives an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


_RECORDS: Mapping[str, type[_Section]] = {"extra": ExtraParticles, "symmetry_functions": SymmetryFunctionsConfig}
"""Lists of tables."""

_EITHER = frozenset({"centers", "neighbors"})
"""Keys whose values are of one of several types."""


_PATHS: Mapping[str, tuple[str, ...]] = {
    "seeding": ("trajectory",),
    "system": ("topology", "force_field", "system_xml", "include_folder", "starts"),
}
"""What names files."""


def validated(model: type[_Model], data: Mapping[str, Any], *, where: str) -> _Model:
    """Return plain data such as parsed TOML as a model.

    Raises
    ------
    ConfigError
        With one line: where, what was expected and what was found.
    """
    try:
        # JSON mode is strict about types and still takes arrays for tuples.
        return model.model_validate_json(json.dumps(data, default=_refused))
    except ValidationError as error:
        raise ConfigError(_first_problem(model, data, error, where)) from None
    except TypeError as error:
        raise ConfigError(f"{where}: expected plain TOML values, got {error}") from None


def _refused(value: object) -> float:
    """Return for a date of TOML, which JSON has none of, what no key takes either."""
    if isinstance(value, _DATES):
        return math.nan
    raise TypeError(f"an object of type {type(value).__name__}")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into plain data.

    Raises
    ------
    ConfigError
        If the file is missing or is not TOML.
    """
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_TOML_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected a TOML configuration") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a TOML configuration") from None
    if len(octets) > MAX_TOML_BYTES:
        raise ConfigError(f"{path}: expected a TOML configuration of {MAX_TOML_BYTES // 2**20} MiB at most, found more")
    try:
        return parse_toml(octets.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def parse_toml(text: str, where: str = "configuration") -> dict[str, Any]:
    """Return TOML as plain data.

    Raises
    ------
    ConfigError
        If it is none, or nested so deeply that it would take the parser's time or stack.

    Examples
    --------
    >>> parse_toml("sampling.chains = 2")
    {'sampling': {'chains': 2}}
    """
    if _LONG_KEY.search(text):
        raise ConfigError(f"{where}: not valid TOML: expected keys of fewer than {_MAX_PARTS} parts, found one of more")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: not valid TOML: it is nested too deeply") from None
    except ValueError as error:  # beside the parser's own, that of a number with thousands of digits
        raise ConfigError(f"{where}: not valid TOML: {error}") from None


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of ``data`` that means the same files wherever it is used.

    Parameters
    ----------
    data : plain data such as parsed TOML
    folder : where relative paths of files begin
    """
    result = dict(data)
    for table, names in _PATHS.items():
        values = data.get(table)
        if not isinstance(values, Mapping) or (table == "system" and values.get("kind") != "files"):
            continue
        result[table] = dict(values)
        for name in names:
            if name in values:
                result[table][name] = _anchored(values[name], folder, only_files=name == "force_field")
    return result


def _anchored(value: Any, folder: Path, *, only_files: bool) -> Any:
    """Return a path, or a list of paths, from a folder on; names of which there is no file may mean something else."""
    if isinstance(value, list):
        return [_anchored(item, folder, only_files=only_files) for item in value]
    if not isinstance(value, str):
        return value
    path = (folder / value).absolute()
    return value if only_files and not path.is_file() else str(path)


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of ``data`` with ``section.key=value`` overrides applied.

    Values are TOML literals; anything that is none is taken as a string.
    """
    result = copy.deepcopy(dict(data))
    for override in overrides:
        key, separator, text = override.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not separator or not all(names) or len(names) > _MAX_PARTS:
            raise ConfigError(f"--set {override[:80]!r}: expected section.key=value, such as sampling.chains=2")
        table = result
        for name in names[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {override[:80]!r}: {name[:80]!r} is a value, not a section")
        table[names[-1]] = _literal(text.strip())
    return result


def _literal(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ConfigError:
        return text


def _first_problem(model: type[BaseModel], data: Any, error: ValidationError, where: str) -> str:
    problem = error.errors(include_url=False)[0]
    place = _written(problem["loc"])
    names = [str(part) for part in place]
    key = ".".join(name if name.isprintable() and len(name) <= 40 else quoted(name) for name in names)
    match problem["type"]:
        case "extra_forbidden":
            known = _known_keys(model, data, names[:-1])
            close = difflib.get_close_matches(names[-1], known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
            return f"{where}: {key}: unknown key; {hint}"
        case "missing":
            return f"{where}: {key}: missing; it has no default"
        case _:
            found = _given(data, place)
            text = str(found) if isinstance(found, _DATES) else repr(found)
            shown = text if len(text) < 80 else type(found).__name__
            message = problem["msg"][0].lower() + problem["msg"][1:]
            return f"{where}: {key}: {message}, got {shown}"


def _written(loc: Sequence[int | str]) -> list[int | str]:
    """Return the place of an error without what pydantic puts in where several types are allowed."""
    tags = {("system", kind) for kind in _SYSTEMS}
    either = {(key, kind) for key in _EITHER for kind in ("str", "list[int]")}
    pairs = zip((None, *loc), loc, strict=False)
    return [part for i, (before, part) in enumerate(pairs) if (before, part) not in (tags if i == 1 else either)]


def _given(data: Any, place: Sequence[int | str]) -> Any:
    """Return what stands at a place in plain data."""
    for part in place:
        inside = range(len(data)) if isinstance(data, list) else data
        if isinstance(inside, Mapping | range) and part in inside:
            data = data[part]
    return data


def _known_keys(model: type[BaseModel], data: Any, names: list[str]) -> list[str]:
    current: Any = model
    for name in names:
        if name == "system" and current is RunConfig:
            current = _SYSTEMS[_system_tag(data.get("system", {}))]
        elif name in _RECORDS:
            current = _RECORDS[name]
        elif not name.isdigit():
            current = current.model_fields[name].annotation
    return list(current.model_fields)
