"""``separatrix learn``: a run from shots that exist already."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from separatrix.errors import ConfigError, TableError
from separatrix.training_data import end_counts

if TYPE_CHECKING:
    from separatrix.reader import Reader
    from separatrix.table_run import Evaluation


def learn(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="CSV, Parquet or npz with a row for every configuration.", show_default=False
        ),
    ],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.", show_default=False)],
    counts: Annotated[
        str,
        typer.Option(
            "--counts",
            metavar="n_A,n_B",
            help="The columns that count shots which ended in A and in B; one for each state where there are more.",
        ),
    ] = "n_A,n_B",
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="COLUMN",
            help="Rows with the same value there, such as those of a chain or a trajectory, are held out together.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(
            "--test",
            metavar="TABLE2",
            help="Hold the network, and the formulas that explain found, against an independent table of shots.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed and table give the same run.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a run from shots that exist already, whatever simulated them, and train its committor.

    TABLE has a row for every configuration: two columns count the shots from it that ended in A and in B, any number of
    them; all others describe it. More states have a column each: --counts n_A,n_B,n_C. Everything that follows sampling
    then works: explain, show, serve, export.

    With --test the network is held against shots it has nothing to do with: log-loss between its bounds, and
    calibration. Formulas come with `separatrix explain RUN`; give the same command again after it, and they are judged,
    too: a run that was made from this very table is not made anew then.
    """
    if seed < 0:
        raise ConfigError(f"--seed: expected 0 or more, got {seed}")
    names = [name.strip() for name in counts.split(",")]
    if test is not None and not test.is_file():  # before minutes of training
        raise TableError(f"--test: {test}: expected a table, found no file there")
    from separatrix.reader import Reader  # noqa: PLC0415
    from separatrix.table_run import evaluate, is_made_from  # noqa: PLC0415
    from separatrix.table_run import learn as make  # noqa: PLC0415

    again = test is not None and is_made_from(run, table, counts=names, groups=groups, seed=seed)
    notes: list[str] = []
    try:
        reader = Reader(run) if again else make(table, run, counts=names, groups=groups, seed=seed, tell=notes.append)
        _say(notes)
        found = None if test is None else evaluate(run, test, counts=names)
    except KeyboardInterrupt:
        print("stopped; nothing was stored", file=sys.stderr)
        raise typer.Exit(130) from None
    if found is not None:
        _say([f"{test}: {note}" for note in found.notes])
    if as_json:
        summary: dict[str, Any] = {
            **reader.summary(),
            "notes": notes,
            "test": None if found is None else found.as_dict(),
        }
        print(json.dumps(summary, indent=2, allow_nan=False))
        return
    _print_run(run, reader, made=not again)
    if found is not None:
        _print_test(run, found)


def _say(notes: list[str]) -> None:
    for note in notes:
        print("note:", note, file=sys.stderr)


def _print_run(run: Path, reader: Reader, *, made: bool) -> None:
    counts, loss = end_counts(reader.columns("shots")), reader.summary()["validation_loss"]
    ends = ", ".join(
        f"{n:,} to {name}" for n, name in zip(counts.sum(axis=0).tolist(), reader.state_names, strict=True)
    )
    print(
        f"{'made' if made else 'known'}: {run}, {len(counts):,} configurations with {int(counts.sum()):,} shots "
        f"({ends}), {len(reader.observables.descriptors.names)} columns, "
        f"held-out loss {'-' if loss is None else f'{loss:.4f}'}"
    )
    print(f"go on: separatrix explain {run}")


def _slope_in_words(state: str, fit: Mapping[str, Any]) -> str:
    slope = "-" if fit["slope"] is None else f"{fit['slope']:.2f} ± {fit['slope_error']:.2f}"
    return f"{state} {slope}".strip()


def _print_test(run: Path, found: Evaluation) -> None:
    console = Console()
    console.print(
        f"\nOn {found.table}: {found.n_rows:,} configurations, {found.n_shots:,} shots", style="dim", highlight=False
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("log-loss per shot", justify="right", no_wrap=True)
    table.add_column("calibration slope", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_row(f"{found.null_loss:.4f}", "-", Text("null: the best constant"), style="dim")
    for verdict in (found.network, *found.formulas):
        loss = "-" if verdict.loss is None else f"{verdict.loss:.4f}"
        name = f"network, version {found.model_version}" if verdict is found.network else f"q = {verdict.name}"
        if verdict.without_value:
            name += f" (no value in {verdict.without_value} rows)"
        fits = verdict.calibration.get("states", {"": verdict.calibration})
        table.add_row(loss, "\n".join(_slope_in_words(state, fit) for state, fit in fits.items()), Text(name))
    table.add_row(f"{found.saturated_loss:.4f}", "-", Text("saturated: the best value for every row"), style="dim")
    console.print(table)
    if not found.formulas and "states" not in found.network.calibration:
        more = f"no formulas yet: separatrix explain {run}, then this command again"
        console.print(Text(more, style="dim"))
