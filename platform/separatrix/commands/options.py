"""What several commands have: options that say what they may use of a machine, and examples below their help."""

from __future__ import annotations

from typing import Annotated

import typer

WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Worker processes; 0 works in this process. Default: one per core."),
]
PlatformOption = Annotated[
    str | None,
    typer.Option("--platform", help="auto, Reference, CPU, CUDA or OpenCL.", show_default="auto"),
]
DevicesOption = Annotated[
    str | None,
    typer.Option("--devices", metavar="N,...", help="GPUs to use, counted from 0.", show_default="all"),
]
WorkersPerDeviceOption = Annotated[
    int | None,
    typer.Option("--workers-per-device", help="Worker processes on each GPU. Default: by the size of the system."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="On GPUs: single, mixed or double.", show_default="mixed"),
]


def examples(*lines: str) -> str:
    """Return the end of a command's help: one example on each line.

    Examples
    --------
    >>> examples("separatrix doctor", "separatrix doctor mine.toml").splitlines()[2:]
    ['separatrix doctor', '', 'separatrix doctor mine.toml']
    """
    return "\n\n".join(("Examples:", *lines))  # Typer joins the lines of a paragraph
