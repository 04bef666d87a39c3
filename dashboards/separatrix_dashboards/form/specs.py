"""The values of a configuration as a form shows them, from its JSON schema; and values as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_LABELS: Final = {
    "system.kind": "System",
    "system.timestep": "Time step",
    "system.start": "Start of each state",
    "system.extra": "Further particles",
    "system.topology": "File with the atoms",
    "system.force_field": "Force fields, one per line",
    "system.system_xml": "System in XML",
    "system.starts": "Files to start from, one per line",
    "collective_variables": "Collective variables",
    "states": "States",
    "descriptors.columns": "Descriptors, one per line",
    "centers": "Centre atoms",
    "neighbors": "Neighbours",
    "r_s": "Distances",
    "r_cutoff": "Cut-off",
    "sampling.steps": "Monte Carlo steps",
    "sampling.selector": "Selection of shooting points",
    "sampling.scale": "Width of the selection",
    "sampling.stride": "Steps between frames",
    "sampling.max_frames": "Longest half-trajectory",
    "sampling.density_correction": "Density correction",
    "sampling.seed": "Random seed",
    "sampling.stored_paths": "Kept of paths left behind",
    "committor.members": "Networks in the ensemble",
    "committor.window": "Efficiency window",
    "committor.held_out": "Held-out fraction",
    "committor.frames": "Train on frames",
    "seeding.trajectory": "A transition of your own",
    "seeding.temperature": "Temperature of the hot runs",
}


_HELP: Final = {
    "seeding.trajectory": "Path on the server of a file with a transition, in any format that MDTraj reads.",
    "descriptors.columns": "What the network sees: collective variables, by name or definition. Empty without internal "
    "coordinates: all of them.",
}
"""Where the words of the schema would mislead on a page."""

_KINDS: Final = {"boolean": "check", "integer": "integer", "number": "number", "object": "table"}
_LISTS: Final = {"string": "lines", "number": "numbers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """One value of the configuration, as a form shows it.

    Attributes
    ----------
    key : path in the configuration, such as ("sampling", "steps")
    kind : a key of `FIELDS`
    label, unit, help : in plain words
    options : what may be chosen
    limits : of a number, in words
    columns : of a table
    required : whether an empty field is a mistake
    default : what an absent value means
    """

    key: tuple[str, ...]
    kind: str
    label: str
    unit: str = ""
    help: str = ""
    options: tuple[Any, ...] = ()
    limits: str = ""
    columns: tuple[FieldSpec, ...] = ()
    required: bool = False
    default: Any = None


_SYSTEMS: Final = {"potential": "PotentialSystem", "files": "FilesSystem"}
"""Kinds of systems that are all the user's own; the others are those of the catalogue."""

_WORKED_OUT: Final = (("system", "sha256"),)
"""What nobody chooses."""


def is_own(kind: str) -> bool:
    """Return whether a kind of system has no defaults but those of the schema."""
    return kind in _SYSTEMS


def field_specs(schema: Mapping[str, Any], kind: str) -> tuple[FieldSpec, ...]:
    """Return every value of a configuration, in the order of its schema.

    Parameters
    ----------
    schema : ``RunConfig.model_json_schema()``
    kind : of the system
    """
    definitions = schema["$defs"]
    system = definitions[_SYSTEMS.get(kind, "CatalogueSystem")]
    specs = _section_specs(("system",), system, definitions)
    for name, entry in schema["properties"].items():
        if "$ref" in entry:
            specs += _section_specs((name,), _referred(entry, definitions), definitions)
        elif name != "system":
            specs.append(_spec((name,), entry, definitions, required=False))
    return tuple(spec for spec in specs if spec.key not in _WORKED_OUT)


def _section_specs(
    prefix: tuple[str, ...], section: Mapping[str, Any], definitions: Mapping[str, Any]
) -> list[FieldSpec]:
    required = section.get("required", [])
    return [
        _spec((*prefix, name), entry, definitions, required=name in required)
        for name, entry in section["properties"].items()
    ]


def _spec(
    key: tuple[str, ...], entry: Mapping[str, Any], definitions: Mapping[str, Any], *, required: bool
) -> FieldSpec:
    options = [option for option in entry.get("anyOf", ()) if option.get("type") != "null"]
    inner = options[0] if options else entry
    # Text or a list of numbers: a selection of atoms.
    kind = "atoms" if len(options) > 1 else _kind(key, inner, optional="anyOf" in entry)
    columns: tuple[FieldSpec, ...] = ()
    if kind == "records":
        columns = tuple(_section_specs((), _referred(inner["items"], definitions), definitions))
    elif kind == "table":
        columns = _table_columns(key, inner)
    return FieldSpec(
        key=key,
        kind=kind,
        label=_LABELS.get(".".join(key), key[-1].replace("_", " ").capitalize()),
        unit=entry.get("unit", ""),
        help=_HELP.get(".".join(key), entry.get("description", "")),
        options=tuple(inner.get("enum", ())),
        limits=_limits(inner),
        columns=columns,
        required=required,
        default=entry.get("default"),
    )


def _kind(key: tuple[str, ...], entry: Mapping[str, Any], *, optional: bool) -> str:
    """Return which field shows a value, by the JSON type of the value."""
    if "enum" in entry or (optional and entry.get("type") == "boolean"):
        return "choice"
    if entry.get("type") == "array":
        return "records" if "$ref" in entry["items"] else _LISTS[entry["items"]["type"]]
    if entry.get("type") == "string":
        return {"kind": "fixed", "expression": "expression"}.get(key[-1], "text")
    return _KINDS[entry["type"]]


def _table_columns(key: tuple[str, ...], entry: Mapping[str, Any]) -> tuple[FieldSpec, ...]:
    """Return the two columns of a table from names to values."""
    points = entry["additionalProperties"].get("type") != "string"
    owner = {"collective_variables": "Name", "states": "State", "start": "State"}.get(key[-1], "Name")
    value = {"collective_variables": "Definition", "states": "Condition", "start": "x, y, z in nm"}.get(
        key[-1], "Value"
    )
    return (
        FieldSpec(key=("name",), kind="text", label=owner, required=True),
        FieldSpec(key=("value",), kind="points" if points else "expression", label=value, required=True),
    )


def _referred(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = definitions[entry["$ref"].rpartition("/")[2]]
    return found


def _limits(entry: Mapping[str, Any]) -> str:
    """Return the limits of a number in words.

    >>> _limits({"minimum": 1, "maximum": 64}), _limits({"exclusiveMinimum": 0}), _limits({})
    ('1 to 64', 'above 0', '')
    """
    low, above = entry.get("minimum"), entry.get("exclusiveMinimum")
    high, below = entry.get("maximum"), entry.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    if above is not None and below is not None:
        return f"between {above} and {below}"
    if above is not None:
        return f"above {above:g}"
    return "" if low is None else f"{low:,} or more"


def parse_cell(kind: str, text: str) -> Any:
    """Return what a text stands for; None for nothing, and the text itself when it stands for nothing of its kind.

    >>> parse_cell("integer", " 1e3 "), parse_cell("number", "0,5"), parse_cell("points", "1, 0, 0")
    (1000, '0,5', [1, 0, 0])
    >>> parse_cell("atoms", "0, 1"), parse_cell("atoms", "element Li"), parse_cell("numbers", "0.25, 0.4")
    ([0, 1], 'element Li', [0.25, 0.4])
    """
    stripped = text.strip()
    if not stripped:
        return None
    if kind == "points":
        return _points(stripped)
    if kind in ("atoms", "numbers"):
        values = [_number("integer" if kind == "atoms" else "number", part.strip()) for part in stripped.split(",")]
        return stripped if any(isinstance(value, str) for value in values) else values
    return _number(kind, stripped) if kind in ("integer", "number") else stripped


def _points(text: str) -> Any:
    try:
        points = json.loads(f"[{text}]")
    except json.JSONDecodeError:
        return text
    return points[0] if len(points) == 1 and isinstance(points[0], list) else points


def _number(kind: str, text: str) -> Any:
    try:
        value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text  # nan and infinity are no JSON, and no numbers of a configuration
    return int(value) if kind == "integer" and value == int(value) else value


def show_cell(kind: str, value: Any) -> str:
    """Return a value as the text that `parse_cell` reads; numbers may lose digits beyond the eighth."""
    if value is None:
        return ""
    if kind == "points" and isinstance(value, list | tuple):
        return json.dumps(value)[1:-1]
    if isinstance(value, list | tuple):
        return ", ".join(show_cell(kind, item) for item in value)
    if isinstance(value, float):
        return f"{value:.8g}"
    return str(value)
