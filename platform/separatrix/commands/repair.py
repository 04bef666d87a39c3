"""``separatrix repair``: what of a damaged run is whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from separatrix.progress import display_console
from separatrix.store import Repair
from separatrix.store import examine as examine_run
from separatrix.store import repair as repair_run

_MOST_LISTED = 10


def repair(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.", show_default=False)],
    apply: Annotated[bool, typer.Option("--apply", help="Do it, after a look at what it gives up.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what of a damaged run is whole, as after a power cut, and with --apply cut the run back to that.

    A run cut back to its first shots is what it was when it held so many, and sampling goes on from there. Paths of
    earlier shots and earlier models that are spoiled are moved to RUN/damaged; their shots stay. So are validations and
    results, which can be made anew. Without --apply nothing is changed.
    """
    console = display_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading", total=None)
        work = repair_run if apply else examine_run
        found = work(run, lambda done, total: progress.update(bar, completed=done, total=total))
    if as_json:
        print(json.dumps({**asdict(found), "applied": apply and found.is_needed}, indent=2))
    else:
        print("\n".join(_told(run, found, applied=apply)))
    if found.is_needed and not apply:
        raise typer.Exit(1)


def _told(run: Path, found: Repair, *, applied: bool) -> list[str]:
    """Return what was found, and what is next, a line each."""
    before, after = found.before, found.after
    if not found.is_needed:
        return [f"{run}: all of it is whole, {after.shots:,} shots, {after.models and after.models - 1} models"]
    lines = [f"damaged: {text}" for text in found.damage[:_MOST_LISTED]]
    if len(found.damage) > _MOST_LISTED:
        lines.append(f"and {len(found.damage) - _MOST_LISTED} more, see --json")
    held = "an unknown number of" if before is None else f"{before.shots:,}"
    lines.append(
        f"{'kept' if applied else 'whole'}: the first {after.shots:,} of {held} shots, {_newest(after.models)}"
    )
    for what, lost in (
        ("paths of shots", found.lost_paths),
        ("models", found.lost_models),
        ("validations", found.lost_validations),
        ("results", found.lost_results),
    ):
        if lost:
            listed = ", ".join(map(str, lost[:_MOST_LISTED])) + (", ..." if len(lost) > _MOST_LISTED else "")
            lines.append(f"{'moved to' if applied else 'to be moved to'} {run / 'damaged'}: {what} {listed}")
    if applied:
        return [*lines, f"go on: separatrix run {run}"]
    return [*lines, f"nothing was changed; cut the run back to that: separatrix repair {run} --apply"]


def _newest(models: int) -> str:
    return f"the newest model is {models - 1}" if models else "no model"
