"""``separatrix export``: what a run found, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from separatrix.commands.options import examples
from separatrix.errors import ConfigError

app = typer.Typer(
    name="export",
    help="Write formulas, the network, paths and shots for other programs; the ending of the file names the form.",
    no_args_is_help=True,
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.", show_default=False)]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


@app.command(
    epilog=examples(
        "separatrix export formula runs/ala committor.dat",
        "separatrix export formula runs/ala committor.py --formula 5",
    )
)
def formula(
    run: RunPath,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help=".dat PLUMED input, .xml OpenMM CustomCVForce, .py Python with numpy alone, .tex LaTeX.",
            show_default=False,
        ),
    ],
    number: Annotated[
        int | None,
        typer.Option(
            "--formula", metavar="N", help="The one of complexity N. Default: the recommended one.", show_default=False
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write a formula that `separatrix explain` found for the logit q of the committor.

    PLUMED input computes q and p_B from positions, in PLUMED's own units, nm and radians, with atoms counted from 1.
    The energy of the OpenMM force, in kJ/mol, is q. Python source and LaTeX take the columns as `explain` names them;
    of a run made from a table there is nothing else.
    """
    from separatrix.export import write_formula  # noqa: PLC0415
    from separatrix.reader import Reader  # noqa: PLC0415

    written = write_formula(Reader(run), file, complexity=number, force=force)
    print(f"wrote {file}: q = {written.expression}")


@app.command(
    epilog=examples(
        "separatrix export network runs/ala committor.pt2",
    )
)
def network(
    run: RunPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".pt2, a torch.export program.", show_default=False)],
    version: Annotated[
        int | None, typer.Option("--version", help="Of the model. Default: the newest.", show_default=False)
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write the committor network as a program that needs PyTorch alone.

    It takes descriptors (n, d) float32 as they are, scales them itself, and gives the mean over the ensemble: q and
    p_B, (n,). The file holds separatrix.json as well: columns in order with their units, states, model version. Load it
    with torch.export.load(FILE, extra_files={"separatrix.json": ""}).
    """
    from separatrix.export import write_network  # noqa: PLC0415
    from separatrix.reader import Reader  # noqa: PLC0415

    if version is not None and version < 1:
        raise ConfigError(f"--version: expected 1 or more, got {version}")
    model = write_network(Reader(run), file, version=version, force=force)
    print(f"wrote {file}: model {model.version}, {len(model.columns)} descriptors, {model.members} networks")


@app.command(
    epilog=examples(
        "separatrix export paths runs/ala paths.xtc",
    )
)
def paths(
    run: RunPath,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help=".xtc (rounded to 0.001 nm), .dcd, or .h5 (needs PyTables).", show_default=False
        ),
    ],
    force: ForceOption = False,
) -> None:
    """Write all accepted paths, one after another, each from the first state to the second, or to a later one.

    Beside FILE come the topology, .pdb, and a table, .csv, of where in FILE each path begins, with its shot, its chain
    and its weight: how often the chain stood on it. Of more than two states it also tells which ones a path connects.
    """
    from separatrix.export import write_paths  # noqa: PLC0415
    from separatrix.reader import Reader  # noqa: PLC0415

    topology, table, n_paths = write_paths(Reader(run), file, force=force)
    print(f"wrote {file}: {n_paths:,} paths; topology {topology}, where each begins {table}")


@app.command(
    epilog=examples(
        "separatrix export shots runs/ala shots.csv",
    )
)
def shots(
    run: RunPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".csv, .parquet or .npz.", show_default=False)],
    force: ForceOption = False,
) -> None:
    """Write the shots as a table: descriptors of every shooting point, and where its shots ended.

    `separatrix learn` reads it back.
    """
    from separatrix.export import write_shots  # noqa: PLC0415
    from separatrix.reader import Reader  # noqa: PLC0415

    written = write_shots(Reader(run), file, force=force)
    left_out = f"; {written.n_left_out:,} that ended in no state were left out" if written.n_left_out else ""
    groups = "" if written.groups is None else f" --groups {written.groups}"
    print(f"wrote {file}: {written.n_rows:,} shots{left_out}")
    print(f"read it: separatrix learn {file} NEW_RUN --counts {','.join(written.counts)}{groups}")
