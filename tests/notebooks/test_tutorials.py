"""The tutorials as they are committed. That every cell runs is tested by nbmake, how they look in the browser."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from tests.notebooks.tutorials import FOLDER, TUTORIALS

LONGEST_CELL = 18
"""Lines of code: a newcomer reads one thought at a time."""


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def tutorial(request):
    """Return a tutorial."""
    return nbformat.read(request.param, as_version=4)


def code_cells(tutorial):
    return [cell for cell in tutorial.cells if cell.cell_type == "code"]


def test_there_are_tutorials():
    assert TUTORIALS


def test_outputs_are_stripped(tutorial):
    nbformat.validate(tutorial)
    assert not [cell.source for cell in code_cells(tutorial) if cell.outputs or cell.execution_count is not None]
    assert not [cell.source for cell in tutorial.cells if cell.metadata]


def test_any_python_runs_it(tutorial):
    assert tutorial.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}


def test_it_begins_with_what_it_is_and_takes_and_ends_with_two_exercises(tutorial):
    first, last = tutorial.cells[0], tutorial.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert re.match(r"# \S", first.source)
    assert re.search(r"\*Takes about \d+ minutes", first.source)
    assert re.match(r"## Exercises\n", last.source)
    assert re.findall(r"^(\d)\. \S", last.source, re.MULTILINE) == ["1", "2"]


def test_its_cells_are_short(tutorial):
    assert not [cell.source for cell in code_cells(tutorial) if len(cell.source.splitlines()) > LONGEST_CELL]


def test_tutorials_leave_nothing_beside_them():
    if not (FOLDER.parent / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--others", "."]  # ignored files, too
    listing = subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, text=True).stdout
    left = [Path(name) for name in listing.split("\0") if name]
    assert not [path for path in left if path.suffix != ".ipynb" and ".ipynb_checkpoints" not in path.parts]


def test_the_table_names_every_tutorial_and_its_time():
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    for file in TUTORIALS:
        first = nbformat.read(file, as_version=4).cells[0].source
        title, minutes = re.search(r"# (.+)", first).group(1), re.search(r"about (\d+) minutes", first).group(1)
        assert f"| [{title}]({file.name}) |" in table
        assert re.search(rf"{re.escape(file.name)}\) \|.*\| {minutes} minutes \|", table)
