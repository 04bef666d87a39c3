"""The command line: ``separatrix systems | new | run | show | doctor``."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from separatrix.config import apply_overrides, read_toml
from separatrix.diagnosis import diagnose
from separatrix.errors import ConfigError, RunExistsError, SeparatrixError
from separatrix.progress import status_line
from separatrix.reader import Reader
from separatrix.session import Session
from separatrix.systems import CATALOGUE

app = typer.Typer(
    name="separatrix",
    help="AI-guided transition path sampling: catch rare events, learn the committor, see the mechanism.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.", show_default=False)]
SystemOption = Annotated[str | None, typer.Option("--system", help="A system of the catalogue (`separatrix systems`).")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML configuration.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value, e.g. sampling.chains=2; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def systems(as_json: JsonOption = False) -> None:
    """List the systems of the catalogue."""
    if as_json:
        entries = [{"name": e.name, "title": e.title, "description": e.description} for e in CATALOGUE.values()]
        print(json.dumps(entries, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("what it is")
    for entry in CATALOGUE.values():
        table.add_row(entry.name, f"{entry.title}. {entry.description}")
    console = Console()
    console.print(table)
    console.print("\nStart one: separatrix run runs/first --system NAME", style="dim", highlight=False)


@app.command()
def new(run: RunPath, system: SystemOption = None, config: ConfigOption = None, sets: SetOption = None) -> None:
    """Make a run; nothing is simulated yet."""
    session = _create(run, system, config, sets)
    print(f"created {run}: {session.config.system.kind}, states {', '.join(session.config.states)}")
    print(f"sample it: separatrix run {run}")


@app.command("run")
def run_(
    run: RunPath,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=0, help="Monte Carlo steps the run should hold in total. Default: sampling.steps."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Worker processes; 0 samples in this process. Default: one per core."),
    ] = None,
    platform: Annotated[
        str, typer.Option("--platform", help="auto, Reference, CPU, CUDA or OpenCL.", show_default=True)
    ] = "auto",
    system: SystemOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
) -> None:
    """Sample until the run holds the wanted number of steps; makes the run first with --system or --config."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if (run / "run.zarr").exists():
        session = Session.open(run)
        if system or config or sets:
            _check_same(session, run, system, config, sets)
    else:
        session = _create(run, system, config, sets)
    try:
        status = session.run(steps, workers=workers, platform=platform)
    except KeyboardInterrupt:
        print("stopped; everything is stored, the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    print(status_line(status))


@app.command()
def show(run: RunPath, as_json: JsonOption = False) -> None:
    """Show how a run stands."""
    summary = Reader(run).summary()
    if as_json:
        print(json.dumps(summary, indent=2, allow_nan=False))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in summary.items():
        table.add_row(name.replace("_", " "), _in_words(value))
    Console().print(table)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="Where runs would be stored.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Check this machine: platforms and their speed, GPUs, versions, disk, and what to do about problems."""
    findings = diagnose(folder)
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        marks = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "problem": "[red]problem[/red]"}
        for finding in findings:
            advice = f"\n[dim]{finding.advice}[/dim]" if finding.advice else ""
            table.add_row(marks[finding.level], finding.subject, finding.found + advice)
        Console().print(table)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; every deliberate error is one line on stderr and exit code 2."""
    try:
        app()
    except SeparatrixError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def _create(run: Path, system: str | None, config: Path | None, sets: list[str] | None) -> Session:
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunExistsError(f"{run}: expected a new or an empty folder, found something there; choose another name")
    data, where = _data(system, config, sets)
    if not data:
        raise ConfigError(f"{run}: no run there; make one with --system NAME or --config FILE.toml")
    return Session.create(run, data, where=where)


def _check_same(session: Session, run: Path, system: str | None, config: Path | None, sets: list[str] | None) -> None:
    """Refuse to go on with a run under a configuration other than its own."""
    data, where = _data(system, config, sets)
    if not data:
        raise ConfigError(f"{run}: a run's configuration is fixed when it is made; leave --set out, or make a new run")
    if Session.resolve(data, where=where).content_hash != session.config.content_hash:
        raise ConfigError(
            f"{run}: expected the configuration this run was made with ({run / 'config.toml'}), "
            "got another one; leave --system, --config and --set out to go on, or choose another folder"
        )


def _data(system: str | None, config: Path | None, sets: list[str] | None) -> tuple[dict[str, Any], str]:
    if system and config:
        raise ConfigError("expected --system or --config, got both; name the system in the file as system.kind")
    where = str(config) if config else "configuration"
    data = read_toml(config) if config else {}
    if system:
        data = {"system": {"kind": system}}
    return (apply_overrides(data, sets or []) if data else {}), where


def _in_words(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:,.4g}"
        case int():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items() if not isinstance(part, list))
    return str(value)
