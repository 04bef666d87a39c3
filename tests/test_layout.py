"""Guards of the repository's layout: what may lie where, and what no committed file may contain."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
BUILD_HOOK = Path(SETTINGS["tool"]["hatch"]["build"]["hooks"]["custom"]["path"])

FOLDERS = {".ci", "binder", "dashboards", "notebooks", "platform", "tests"}
FILES = {
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "pyproject.toml",
}
SOURCE_ROOTS = {"platform": "separatrix", "dashboards": "separatrix_dashboards"}
LARGEST_FILE = 300_000
LONGEST_LINE = 2_000
BUILT = {".7z", ".bz2", ".dll", ".egg", ".gz", ".jar", ".map", ".pkl", ".pickle", ".pt", ".pyc", ".so", ".whl", ".zip"}

MACHINE_PATH = re.compile(r"(?<![\w./~$}-])/(?:home|root|work|opt|farm|Users|mnt|scratch)/\w|\b[A-Z]:\\Users\\")
REGISTRY_HOST = re.compile(
    r"(?:pypi|pythonhosted|npmjs|yarnpkg|anaconda|conda-forge|debian)\.(?:org|com)\b|pytorch\.org/whl|\bfile:///"
)


@cache
def committed_files() -> tuple[Path, ...]:
    """Return every file that is committed or would be, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(path for name in listing.split("\0") if name and (ROOT / (path := Path(name))).is_file())


@cache
def texts() -> dict[Path, str]:
    """Return the committed text files with their contents."""
    contents = {path: (ROOT / path).read_bytes() for path in committed_files()}
    return {path: data.decode("utf-8", "replace") for path, data in contents.items() if b"\0" not in data}


def found(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match and match.group()


def test_the_top_level_is_fixed():
    folders = {path.parts[0] for path in committed_files() if len(path.parts) > 1}
    files = {path.name for path in committed_files() if len(path.parts) == 1}
    assert folders == FOLDERS
    assert files == FILES


@pytest.mark.parametrize(("root", "package"), SOURCE_ROOTS.items())
def test_a_source_root_holds_its_package_and_nothing_else(root, package):
    # Asked of the disk: an ignored or forgotten file would shadow the standard library just as well.
    assert [path.name for path in (ROOT / root).iterdir()] == [package]
    assert (ROOT / root / package / "__init__.py").is_file()


@pytest.mark.parametrize("arguments", [["-c"], ["-P", "-c"]])
@pytest.mark.parametrize("python_path", ["", "platform", "."])
def test_the_standard_library_keeps_its_platform_module(arguments, python_path):
    code = "import platform; platform.system(); import separatrix; print(platform.__file__)"
    run = subprocess.run(
        [sys.executable, *arguments, code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path and str(ROOT / python_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(run.stdout.strip()).parent.samefile(sysconfig.get_path("stdlib"))


def test_importing_the_package_loads_no_torch():
    # Worker processes import submodules, and with them the package root.
    code = "import sys, separatrix; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tests_live_in_tests_only():
    names = re.compile(r"test_.*\.py|.*_test\.py|conftest\.py|tests?")
    stray = [p for p in committed_files() if p.parts[0] != "tests" and any(names.fullmatch(part) for part in p.parts)]
    assert not stray


def test_tests_are_no_package():
    assert not [path for path in committed_files() if path.parts[0] == "tests" and path.name == "__init__.py"]


def test_nothing_built_or_bundled_is_committed():
    folders = {"node_modules", "vendor", "third_party", "_vendor"}
    assert not [path for path in committed_files() if path.suffix in BUILT or ".min." in path.name]
    assert not [path for path in committed_files() if folders & set(path.parts)]
    assert not [path for path in committed_files() if (ROOT / path).stat().st_size > LARGEST_FILE]
    code = {path: text for path, text in texts().items() if path.suffix in {".py", ".js", ".mjs", ".css", ".html"}}
    assert not [path for path, text in code.items() if max(map(len, text.splitlines()), default=0) > LONGEST_LINE]


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "registry host"])
def test_committed_text_names_no_machine(pattern):
    assert not {path: hit for path, text in texts().items() if (hit := found(pattern, text))}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "see |home|me|run"),
        (MACHINE_PATH, "'|opt|wheels'"),
        (REGISTRY_HOST, "https:||files.pythonhosted!org|simple"),
        (REGISTRY_HOST, "file:|||wheels"),
    ],
)
def test_the_guards_against_machine_names_can_fail(pattern, text):
    # Written with stand-ins, so that this file passes them itself.
    assert found(pattern, text.replace("|", "/").replace("!", "."))


@pytest.mark.parametrize("text", ["platform/work/x", "runs/opt/x", "./home/x", "https://example.org/home/page"])
def test_the_guard_against_machine_paths_lets_relative_paths_pass(text):
    assert found(MACHINE_PATH, text) is None


def test_constraints_are_exact_and_plain():
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]


def distributions(requirements: list[str]) -> set[str]:
    """Return the normalised names of the distributions that these requirements name."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~;\[ ]", text)[0]).lower() for text in requirements}


def test_every_dependency_is_pinned():
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    pinned = distributions((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    assert distributions([*PROJECT["dependencies"], *extras]) <= pinned


def imported(path: Path) -> set[str]:
    """Return the top-level names of the modules that a file of Python or a notebook imports."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        # A cell that begins with %% is a file or a script of the shell.
        lines = [line for cell in cells if not cell[0].startswith("%%") for line in cell]
        text = "".join(line.rstrip("\n") + "\n" for line in lines if line[:1] not in ("!", "%"))
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


def test_everything_imported_is_declared():
    # What comes along with a dependency today may be gone with its next version.
    providers = metadata.packages_distributions()
    extras = PROJECT["optional-dependencies"]
    for_users = [requirement for name, extra in extras.items() if name not in ("test", "lint") for requirement in extra]
    installed = distributions(PROJECT["dependencies"] + for_users)
    building = distributions(SETTINGS["build-system"]["requires"])
    known = sys.stdlib_module_names | set(SOURCE_ROOTS.values())
    undeclared = {
        (str(path), name)
        for path in committed_files()
        if (path.parts[0] in SOURCE_ROOTS and path.suffix == ".py") or path.suffix == ".ipynb"
        for name in imported(path) - known
        if not distributions(providers.get(name, [name])) & (building if path == BUILD_HOOK else installed)
    }
    assert not undeclared


def test_the_installed_version_is_the_declared_one_and_in_the_changelog():
    assert metadata.version("separatrix") == PROJECT["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == len(set(headings))
