"""Files written whole or not at all, and never over others unless that is asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from separatrix.errors import ExportError


def check_ending(file: Path, endings: Sequence[str]) -> str:
    """Return the ending of a file, in small letters.

    Raises
    ------
    ExportError
        If it is another one than those given.
    """
    ending = file.suffix.lower()
    if ending not in endings:
        raise ExportError(f"{file}: expected a file that ends in {', '.join(endings)}, got {ending or 'no ending'}")
    return ending


@contextmanager
def whole(*files: Path, force: bool) -> Iterator[Path]:
    """Give a folder to write files in, by their names; they come to their places together, at the end.

    Parameters
    ----------
    files : all in one folder
    force : whether those that are there may be replaced

    Raises
    ------
    ExportError
        If there is no such folder, one of the files is there already, or the disk cannot be written.
    """
    parent = files[0].absolute().parent
    if not parent.is_dir():
        raise ExportError(f"{files[0]}: there is no folder {parent}; make it first")
    for file in files:
        if file.is_dir() or (file.exists() and not force):
            what = "it is a folder" if file.is_dir() else "--force replaces it"
            raise ExportError(f"{file}: expected nothing there yet, found something; choose another name, or {what}")
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{files[0].stem}-", dir=parent))
        try:
            yield draft
            for file in files:
                (draft / file.name).replace(file)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"{files[0]}: cannot be written: {error.strerror or error}") from error
