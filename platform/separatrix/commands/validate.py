"""``separatrix validate``: how good the committor of a run and its formulas are."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from separatrix.commands.options import (
    DevicesOption,
    PlatformOption,
    PrecisionOption,
    WorkersOption,
    WorkersPerDeviceOption,
)
from separatrix.errors import ConfigError
from separatrix.preparing import check_resources
from separatrix.progress import clock, told_apart
from separatrix.resources import Resources, parse_devices

if TYPE_CHECKING:
    from separatrix.estimates import Bounds, Estimate, Scores
    from separatrix.prediction import CrossPrediction, Prediction
    from separatrix.validation import Validation


def validate(  # noqa: PLR0913 - a command has as many parameters as options
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.", show_default=False)],
    configurations: Annotated[
        int | None,
        typer.Option("--configurations", help="Configurations, spread over predicted p_B.", show_default="40"),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", help="Trajectories from each configuration, in total.", show_default="50"),
    ] = None,
    workers: WorkersOption = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Another seed draws other configurations.", show_default="0")
    ] = None,
    platform: PlatformOption = None,
    devices: DevicesOption = None,
    workers_per_device: WorkersPerDeviceOption = None,
    precision: PrecisionOption = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="OTHER", help="Let both runs predict each other's shots; nothing is shot."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold the committor and its formulas against new trajectories; Ctrl-C commits, the same command goes on."""
    numbers = {"configurations": configurations, "shots": shots, "seed": seed}
    for name, number in {**numbers, "workers": workers}.items():
        least = 1 if name in ("configurations", "shots") else 0
        if number is not None and number < least:
            raise ConfigError(f"--{name}: expected {least} or more, got {number}")
    allowed = _given(
        workers=workers,
        platform=platform,
        devices=None if devices is None else parse_devices(devices),
        workers_per_device=workers_per_device,
        precision=precision,
    )
    given = _given(**numbers) | allowed
    if against is not None:
        if given:
            names = (name.replace("_", "-") for name in given)
            raise ConfigError(f"--against: nothing is shot with it; leave --{', --'.join(names)} out")
        from separatrix.prediction import cross_predict  # noqa: PLC0415

        found = cross_predict(run, against)
        if as_json:
            print(json.dumps([each.as_dict() for each in found], indent=2, allow_nan=False))
        else:
            _print_cross_predictions(found)
        return
    check_resources(Resources(**allowed))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from separatrix.session import Session  # noqa: PLC0415

        validation = Session.open(run).validate(**given)
    except KeyboardInterrupt:
        print("stopped; what was committed is stored, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(validation.as_dict(), indent=2, allow_nan=False))
    else:
        _print_validation(run, validation)
    if not validation.complete:
        print("stopped; these trajectories are stored, the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _print_validation(run: Path, validation: Validation) -> None:
    """Print how well the network and the formulas of a run foretold where trajectories end."""
    console = Console()
    n_ends, bounds = validation.n_ends, validation.bounds
    console.print(_scores_table(validation.scores, bounds, "Against new trajectories"))
    limits = f"{bounds.null_loss:.4f} for a constant, {bounds.saturated_loss:.4f} for the observed frequencies"
    notes = [
        f"loss: {limits}",
        "RMSE: of p_B, the noise of counting taken off; R^2: 1 - residual / spread of the observed frequencies",
    ]
    notes.append(
        f"{len(n_ends)} configurations drawn with model {validation.drawn_with}; {int(n_ends.sum()):,} trajectories "
        f"ended in a state, {int(validation.n_neither.sum()):,} in neither within max_frames, "
        f"{int(validation.n_failed.sum()):,} failed; {validation.md_steps:,} MD steps in "
        f"{clock(validation.seconds)} of workers"
    )
    notes.append(f"stored in {run} as validation {validation.number}")
    console.print(Text("\n".join(notes), style="dim"))


def _print_cross_predictions(found: Sequence[CrossPrediction]) -> None:
    """Print how well two runs predict each other's shots."""
    console = Console()
    for each in found:
        title = f"{each.predicting} on the shots of {each.predicted}"
        console.print(_scores_table(each.scores, each.bounds, title, frequencies=False))
        bounds = each.bounds
        counted = f"{bounds.n_points:,} shots, {bounds.n_trials:,} trajectories"
        limits = f"loss of a constant {bounds.null_loss:.4f}, of every shot's own outcome {bounds.saturated_loss:.4f}"
        notes = [f"{counted}; {limits}", "entropy: the loss if every predicted probability were right"]
        if not each.same_system:
            notes.append("the runs differ in their systems: [system] of their config.toml")
        console.print(Text("\n".join(notes) + "\n", style="dim"))


def _scores_table(
    scores: Iterable[tuple[Prediction, Scores]], bounds: Bounds, title: str, *, frequencies: bool = True
) -> Table:
    """Return a table with a row for each predictor, formulas by their complexity, as ``separatrix explain`` lists them.

    A shot has too few trajectories to compare frequencies.
    """
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("predictor", no_wrap=True)
    names = ("R^2", "RMSE", "loss", "slope") if frequencies else ("loss", "entropy", "slope", "intercept")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    scores = tuple(scores)
    labels = told_apart(
        [each.name if each.expression is None else f"formula of complexity {each.complexity}" for each, _ in scores]
    )
    for label, (prediction, score) in zip(labels, scores, strict=True):
        slope = _with_error(score.slope, 2)
        if frequencies:
            cells = [_with_error(score.r_squared, 2), _with_error(score.rmse, 3), _number(score.loss.value, 4), slope]
        else:
            cells = [_with_error(score.loss, 4), _number(score.entropy, 4), slope, _with_error(score.intercept, 2)]
        table.add_row(label, *cells, style="bold" if prediction.recommended else None)
    if frequencies:
        table.add_row("perfect (noise ceiling)", _with_error(bounds.ceiling, 2), "0", "", "1", style="dim")
    return table


def _with_error(estimate: Estimate, digits: int) -> str:
    value = _number(estimate.value, digits)
    return f"{value} ± {estimate.error:.{digits}f}" if math.isfinite(estimate.value + estimate.error) else value


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
