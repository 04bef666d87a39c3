"""The tutorials, as somebody goes through them: opened in JupyterLab, every cell run, every picture drawn."""

from __future__ import annotations

import shutil

import pytest
from tests.browser.lab import PATIENCE, WIDTH, Notebook
from tests.notebooks.tutorials import TUTORIALS

pytestmark = pytest.mark.browser


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def tutorial(request, lab, page):
    """Return a tutorial that is open in JupyterLab, in a folder of its own, with its name and that folder."""
    file = request.param
    folder = lab.folder / file.stem
    folder.mkdir()
    shutil.copy(file, folder)

    def opened():
        page.set_default_timeout(PATIENCE * 1000)
        page.set_viewport_size({"width": WIDTH, "height": 1000})
        return Notebook(page, lab.address(f"{folder.name}/{file.name}"))

    yield file.stem, folder, opened
    lab.end_kernels()


def test_a_tutorial_runs_and_its_pictures_are_drawn(tutorial, screenshots):
    name, folder, opened = tutorial
    notebook = opened()
    notebook.run_to_end()
    notebook.catch_up()
    notebook.figures()
    notebook.photograph(screenshots, name)
    left = {path.name for path in folder.iterdir()} - {f"{name}.ipynb", ".ipynb_checkpoints"}
    assert not left, "files left beside the notebook"
