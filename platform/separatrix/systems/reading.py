"""Files of other people, read with care: limited in size, plain text, no archives, and nothing in them can run.

OpenMM executes Python from force fields (``<Script>``, and ``useDispersionCorrection``, which it hands to ``eval``) and
unpickles functions from serialized systems (``PythonForce``); it follows ``#include`` wherever that leads. What comes
from outside is therefore checked before OpenMM sees it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NoReturn
from xml.parsers import expat
from xml.sax.saxutils import escape

from separatrix.errors import SystemBuildError

MAX_BYTES: Final = 256 * 2**20
"""Of any file that is read whole; trajectories are not."""
MAX_XML_BYTES: Final = 64 * 2**20
MAX_XML_ELEMENTS: Final = 3_000_000
MAX_XML_DEPTH: Final = 32
MAX_INCLUDES: Final = 200

_ARCHIVES: Final = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".rar")
_BEGINNINGS: Final = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_INCLUDE: Final = re.compile(r"""^\s*#\s*include\s+["<]?([^">\s]+)[">]?\s*$""")

FORCES: Final = frozenset(
    {
        *("AmoebaGeneralizedKirkwoodForce", "AmoebaMultipoleForce", "AmoebaTorsionTorsionForce", "AmoebaVdwForce"),
        *("AmoebaWcaDispersionForce", "CMAPTorsionForce", "CMMotionRemover", "CustomAngleForce", "CustomBondForce"),
        *("CustomCVForce", "CustomCentroidBondForce", "CustomCompoundBondForce", "CustomExternalForce"),
        *("CustomGBForce", "CustomHbondForce", "CustomManyParticleForce", "CustomNonbondedForce", "CustomTorsionForce"),
        *("GBSAOBCForce", "GayBerneForce", "HarmonicAngleForce", "HarmonicBondForce", "HippoNonbondedForce"),
        *("LCPOForce", "NonbondedForce", "PeriodicTorsionForce", "RBTorsionForce", "RGForce", "RMSDForce"),
    }
)
"""Forces of OpenMM that are functions of positions alone, and the remover of motion, which is taken out."""


def existing(file: Path, where: str) -> Path:
    """Return a file that can be read and is no archive.

    Raises
    ------
    SystemBuildError
        If it is missing, no file, cannot be read, or packed.
    """
    if not file.exists():
        raise SystemBuildError(
            f"{where}: there is no file {file.absolute()}; relative paths begin at the folder of the configuration"
        )
    if not file.is_file():
        raise SystemBuildError(f"{where}: expected a file, found a folder or a device at {file}")
    try:
        with file.open("rb") as stream:
            beginning = stream.read(8)
    except OSError as error:
        raise SystemBuildError(f"{where}: {file} cannot be read: {error.strerror}") from None
    packed = next((name for mark, name in _BEGINNINGS.items() if beginning.startswith(mark)), None)
    if packed or file.suffix.lower() in _ARCHIVES:
        raise SystemBuildError(
            f"{where}: {file} is packed ({packed or file.suffix}); unpack it and name what was in it"
        )
    if not beginning:
        raise SystemBuildError(f"{where}: {file} is empty")
    return file


def read_text(file: Path, where: str, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a file.

    Raises
    ------
    SystemBuildError
        As for `existing`, and if it is too large or no text.
    """
    with existing(file, where).open("rb") as stream:
        octets = stream.read(max_bytes + 1)
    if len(octets) > max_bytes:
        raise SystemBuildError(f"{where}: {file} is too large; at most {max_bytes // 2**20} MiB are read")
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = octets.decode("latin-1")  # comments in any encoding do no harm
    if "\0" in text:
        raise SystemBuildError(f"{where}: expected text in {file}, found binary data")
    return text


def sha256(file: Path, where: str) -> str:
    """Return the SHA-256 of a file, in hex."""
    with existing(file, where).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def force_field_xml(file: Path, where: str) -> str:
    """Return a force field in OpenMM's XML in which nothing can run.

    Raises
    ------
    SystemBuildError
        If it is no such XML, too large, or has scripts, includes or declarations of its own.
    """

    def check(name: str, attributes: dict[str, str]) -> str | None:
        if name.lower() in ("script", "initializationscript"):
            return f"<{name}> holds Python, which is never run; remove it"
        if name.lower() == "include":
            return "<Include> is not followed; name both files in system.force_field"
        value = attributes.get("useDispersionCorrection", "True")
        if value not in ("True", "False", "1", "0"):
            return f'expected useDispersionCorrection="True" or "False", found {value[:40]!r}'
        return None

    return _checked_xml(file, where, "ForceField", check)


def system_xml(file: Path, where: str) -> str:
    """Return a serialized OpenMM System whose forces are those of OpenMM that cannot run anything.

    Raises
    ------
    SystemBuildError
        If it is no such XML, too large, or has other forces.
    """

    def check(name: str, attributes: dict[str, str]) -> str | None:
        kind = attributes.get("type", "")
        if name != "Force" or kind in FORCES:
            return None
        if "Barostat" in kind:
            return f"it has a {kind}; remove it there, and set system.pressure"
        return f"a force of type {kind[:40]!r} cannot be used; expected functions of the positions, of OpenMM itself"

    return _checked_xml(file, where, "System", check)


def _checked_xml(file: Path, where: str, root: str, check: Callable[[str, dict[str, str]], str | None]) -> str:
    """Return the elements and attributes of an XML file, written anew: what is read next has no corners to hide in."""
    text = read_text(file, where, MAX_XML_BYTES)
    path: list[str] = []
    parts: list[str] = []

    def fail(problem: str) -> NoReturn:
        raise SystemBuildError(f"{where}: {file}, line {parser.CurrentLineNumber}: {problem}")

    def start(name: str, attributes: dict[str, str]) -> None:
        if not path and name != root:
            fail(f"expected <{root}> as OpenMM writes it, found <{name[:40]}>")
        path.append(name)
        if len(parts) > 2 * MAX_XML_ELEMENTS or len(path) > MAX_XML_DEPTH:
            fail(f"more than {MAX_XML_ELEMENTS:,} elements, or nested deeper than {MAX_XML_DEPTH} levels")
        if (problem := check(name, attributes)) is not None:
            fail(problem)
        parts.append(f"<{name}{''.join(map(_attribute, attributes, attributes.values()))}>")

    def end(name: str) -> None:
        path.pop()
        parts.append(f"</{name}>\n")

    def declare(*_: object) -> None:
        fail("declarations (<!DOCTYPE>, entities) are not allowed; remove them")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declare
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise SystemBuildError(f"{where}: {file} is no XML: {error}") from None
    return "".join(parts)


def _attribute(name: str, value: str) -> str:
    return f' {name}="{escape(value, {chr(34): "&quot;", chr(10): " ", chr(9): " ", chr(13): " "})}"'


def gromacs_text(file: Path, folders: Iterable[Path], where: str) -> tuple[str, list[Path]]:
    """Return a Gromacs topology with its includes put in, and the files that were read.

    Includes are looked for beside the file that names them, beside the topology and in ``folders``, and nowhere else.
    One that is not there stays as it is: it may stand where a condition hides it.

    Raises
    ------
    SystemBuildError
        If an include leads out of these folders, or there are too many.
    """
    roots = [file.parent.resolve(), *(folder.resolve() for folder in folders)]
    read: list[Path] = []

    def lines(source: Path) -> Iterator[str]:
        read.append(source)
        if len(read) > MAX_INCLUDES:
            raise SystemBuildError(f"{where}: {file}: more than {MAX_INCLUDES} includes, or includes in a circle")
        for line in read_text(source, where).splitlines():
            include = _INCLUDE.match(line)
            if include is None:
                yield line
            elif (found := _included(include[1], source, roots, where)) is not None:
                yield from lines(found)
            else:
                yield f'#include "{MISSING}{Path(include[1]).name}"'

    text = "\n".join(lines(file)) + "\n"
    return text, list(dict.fromkeys(read))


MISSING: Final = "not-there-"
"""What the names of includes that are missing begin with."""


def _included(name: str, source: Path, roots: list[Path], where: str) -> Path | None:
    candidates = [(folder / name).resolve() for folder in (source.parent, *roots)]
    allowed = [file for file in candidates if any(file.is_relative_to(root) for root in roots)]
    if not allowed:
        raise SystemBuildError(
            f"{where}: {source}: #include {name!r} leads out of {', '.join(map(str, roots))}; put the file there, or "
            "name its folder as system.include_folder"
        )
    return next((file for file in allowed if file.is_file()), None)
