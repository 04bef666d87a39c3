"""What is wrong with a configuration, and at which field to say so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from separatrix.config import RunConfig
from separatrix.engine import atoms_of
from separatrix.observables import Observables
from separatrix.session import Session
from separatrix.systems import build_system

Key = tuple[str, ...]

_TAGS: Final = ("potential", "files", "catalogue")


def check(data: Mapping[str, Any]) -> RunConfig:
    """Check a configuration as a whole, as making a run would: its columns, states and starts.

    Raises
    ------
    SeparatrixError
        Naming what is wrong.
    """
    config = Session.resolve(data)
    system = build_system(config)
    Observables(config, atoms_of(system.topology)).check_starts(system.starts)
    return config


def plain_error(error: Exception) -> str:
    """Return what an error of a configuration says, without saying that it is one."""
    return re.sub(r"^configuration: ", "", str(error))


def value_problems(data: Mapping[str, Any], keys: tuple[Key, ...]) -> list[tuple[Key, Key, str]]:
    """Return what is wrong with single values: the field, where inside it, and what, in pydantic's words.

    Parameters
    ----------
    data : the whole configuration
    keys : of the fields
    """
    try:
        RunConfig.model_validate_json(json.dumps(data))
    except ValidationError as error:
        found: list[tuple[Key, Key, str]] = []
        for problem in error.errors(include_url=False):
            parts = tuple(part for i, part in enumerate(problem["loc"]) if not (i == 1 and part in _TAGS))
            key = next((parts[:n] for n in range(len(parts), 0, -1) if parts[:n] in keys), None)
            if key is not None and not any(known[:2] == (key, parts[len(key) :]) for known in found):
                found.append((key, parts[len(key) :], _in_words(problem["type"], problem["msg"])))
        return found
    return []


def place_of(message: str, keys: tuple[Key, ...]) -> tuple[Key, Key] | None:
    """Return the field that an error of the whole configuration names, and where inside it; None if it names none.

    >>> place_of("state 'A': unknown name 'zeta'", (("states",), ("system", "start")))
    (('states',), ('A',))
    >>> place_of("potential: system.start.B: expected a point", (("states",), ("system", "start")))
    (('system', 'start'), ('B',))
    """
    for table, noun in ((("states",), "state"), (("collective_variables",), "collective variable")):
        if match := re.match(rf"{noun} '([^']*)':", message):
            return table, (match[1],)
    if "OpenMM cannot use the expression" in message:
        return ("system", "expression"), ()
    found: list[tuple[int, Key, Key]] = []
    for key in keys:
        for name in dict.fromkeys((".".join(key), key[0])):
            if match := re.search(rf"(?:^|\s){re.escape(name)}((?:\.\w+)*):", message):
                rest = tuple(match[1].split(".")[1:])
                found.append((match.start() - 1000 * (name == ".".join(key)), key, rest))
    if not found:
        return None
    _, key, rest = min(found, key=lambda item: item[0])
    return key, rest


def _in_words(kind: str, message: str) -> str:
    if kind == "missing":
        return "Needs a value"
    return re.sub(r"^Input should", "Should", message)
