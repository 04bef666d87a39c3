"""Command lines run in this process."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from separatrix.cli import main


@dataclass(frozen=True)
class Result:
    """How a command line ended."""

    code: int
    out: str
    err: str


def run_cli(*arguments):
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return Result(end.value.code, out.getvalue(), err.getvalue())
