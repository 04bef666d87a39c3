"""What the documents tell readers to type works: commands, configurations, Python; and their links lead somewhere."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import nbformat
import pytest
import typer
from nbclient import NotebookClient
from openmm import Platform
from pydantic import BaseModel

import separatrix
import separatrix.export
import separatrix_dashboards
from separatrix import cli
from separatrix.cluster import ClusterFile
from separatrix.config import RunConfig
from separatrix.systems import resolve

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "platform/separatrix/README.md",
        "dashboards/separatrix_dashboards/README.md",
        "notebooks/README.md",
    )
]
WITH_BLOCKS = DOCUMENTS[:1] + DOCUMENTS[2:4]
LANGUAGES = {"", "console", "python", "toml"}
SCRIPTS = Path(sys.executable).parent
PATIENCE = 600

REFUSALS = {
    "--devices": r"CUDA|OpenCL|GPU",
    "--platform CUDA": "CUDA",
    "--cluster": "sbatch|SLURM",
    "--scheduler": "tcp://node1:8786",
}
"""What a command needs that is not everywhere, and what its one line of error then names."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks_of(document, *languages):
    """Return the fenced blocks of a document in these languages, in order."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(document, line, match[1], match[2]))
    return [block for block in found if not languages or block.language in languages]


def all_blocks(*languages):
    return [block for document in WITH_BLOCKS for block in blocks_of(document, *languages)]


def commands_of(block):
    """Return the command lines of a block, without what is told about them."""
    lines = [re.split(r"\s+#\s", line)[0].strip() for line in block.text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def parse(line):
    """Parse a command line of ours as far as the command that it runs."""
    cli._plug_in([])
    context, command, arguments = None, typer.main.get_command(cli.app), shlex.split(line)
    assert arguments.pop(0) == "separatrix"
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, f"{line}: no command {name}"
        command = command.commands[name]
    context = command.make_context(command.name, arguments)
    return context.params


def commands():
    return [pytest.param(line, id=f"{block}-{line}") for block in all_blocks("console") for line in commands_of(block)]


# -- at a glance -------------------------------------------------------------------------------------------------------


def test_blocks_are_of_known_languages():
    assert {block.language for block in all_blocks()} <= LANGUAGES
    assert {block.language for block in all_blocks()} >= LANGUAGES - {""}


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_documents_is_one(line):
    if line.startswith("make "):
        subprocess.run([which("make"), "-n", *shlex.split(line)[1:]], cwd=ROOT, check=True, capture_output=True)
    else:
        parse(line)


def test_the_check_of_commands_can_fail():
    with pytest.raises(typer.TyperException):
        parse("separatrix run runs/ala --step 5000")
    with pytest.raises(AssertionError):
        parse("separatrix serves runs")


def help_examples():
    cli._plug_in([])
    root = typer.main.get_command(cli.app)
    pending, found = [("separatrix", root)], []
    while pending:
        name, command = pending.pop()
        lines = (command.epilog or "").split("\n\n")[1:]
        found.append((name, command, lines))
        pending += [(f"{name} {sub}", each) for sub, each in getattr(command, "commands", {}).items()]
    return found


def test_every_command_has_help_with_examples_that_parse():
    for name, command, lines in help_examples():
        assert command.help, name
        if not hasattr(command, "commands"):
            assert lines, f"{name}: no examples"
            assert all(line.startswith(name) for line in lines), name
        for line in lines:
            parse(line)
        for parameter in command.params:
            assert parameter.help or parameter.name == "help", f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_a_configuration_of_the_documents_is_one(block, tmp_path):
    if "[cluster]" in block.text:
        file = tmp_path / "cluster.toml"
        file.write_text(block.text)
        assert ClusterFile.read(file).cluster.workers.max > 1
        return
    if "[" in block.text.split("\n", 1)[0] or block.text.startswith("#"):
        data = tomllib.loads(block.text)
        whole = data if "system" in data else {"system": {"kind": "lithium-chloride"}, **data}
        assert isinstance(resolve(whole) if whole["system"]["kind"] != "files" else checked(whole), RunConfig)
        return
    for part in block.text.strip().split("\n\n"):  # other forms of one table
        checked({"system": {"kind": "files", **tomllib.loads(part)}})


def checked(data):
    """Return a configuration of a molecule in files that are not there."""
    states = {"A": "d < 0.3", "B": "d > 0.5"}
    return RunConfig.model_validate({"collective_variables": {"d": "distance(0, 1)"}, "states": states, **data})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{document}: {target}"


PACKAGES = (separatrix, separatrix_dashboards, separatrix.export)


def public_functions():
    """Return the functions, classes and methods that the packages offer, by their names."""
    found = {}
    for package in PACKAGES:
        for name in package.__all__:
            item = getattr(package, name)
            if inspect.isclass(item):
                found[name] = item
                for method, member in vars(item).items():
                    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                    if not method.startswith("_") and inspect.isfunction(function):
                        found[f"{name}.{method}"] = function
            elif callable(item):
                found[name] = item
    return found


@pytest.mark.parametrize("name", public_functions())
def test_a_public_name_tells_all_its_parameters(name):
    item = public_functions()[name]
    documented = inspect.getdoc(item)
    assert documented
    if inspect.isclass(item) and issubclass(item, BaseModel):
        assert all(field.description for field in item.model_fields.values())
        return
    section = re.search(r"^Parameters\n-+\n(.*?)(?=\n\n\w+\n---|\Z)", documented, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^([\w, *]+?) ?:", section[1], re.MULTILINE) if section else []
    told = {each.strip(" *") for names in listed for each in names.split(",")}
    function = item.__init__ if inspect.isclass(item) else item
    assert set(inspect.signature(function).parameters) - {"self", "cls"} == told


# -- for real ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("document", WITH_BLOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_document_run_one_after_another(document, tmp_path):
    for block in blocks_of(document, "toml"):
        if named := re.match(r"# (\w+\.toml)\n", block.text):
            (tmp_path / named[1]).write_text(block.text)
    for block in blocks_of(document, "console"):
        for line in commands_of(block):
            run(line, tmp_path)


def run(line, folder):
    """Run a command line for real; where it needs what is not here, it must say so in one line."""
    if line.startswith("make "):
        return  # this very suite, and the demonstration, which is tried by test_cli
    environment = os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", "SCRATCH": str(folder)}
    if line.startswith("separatrix serve") and "--add-user" not in line:
        serve(line, folder, environment)
        return
    done = subprocess.run(
        ["/bin/bash", "-c", line],
        cwd=folder,
        env=environment,
        input="a long password\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    refusal = next((pattern for option, pattern in REFUSALS.items() if option in line), None)
    if done.returncode == 2 and refusal and not has_gpu():
        told = done.stderr.strip().splitlines()[-1]  # after what it got to
        assert told.startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr
        assert re.search(refusal, told), f"{line}: {done.stderr}"
    elif line == "separatrix doctor cluster.toml" and not which("sbatch"):
        assert done.returncode == 1, done.stderr
        assert "sbatch" in done.stdout
    else:
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


def has_gpu():
    return "CUDA" in {Platform.getPlatform(index).getName() for index in range(Platform.getNumPlatforms())}


def serve(line, folder, environment):
    """Start a server, and end it when it has told its address."""
    command = shlex.split(line)
    with subprocess.Popen(
        [*command, "--port", "0"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            told = next(text for text in server.stdout if "http://" in text)
            assert re.search(r"http://[\w.\[\]:]+:\d+", told), told
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("document", WITH_BLOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_a_document_runs_in_one_notebook(document, tmp_path):
    cells = [nbformat.v4.new_code_cell(block.text) for block in blocks_of(document, "python")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
