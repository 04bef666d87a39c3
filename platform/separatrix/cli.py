"""The command line: ``separatrix systems | new | run | learn | show | explain | validate | export | doctor``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from separatrix.commands import export
from separatrix.commands.learn import learn
from separatrix.commands.options import (
    DevicesOption,
    PlatformOption,
    PrecisionOption,
    WorkersOption,
    WorkersPerDeviceOption,
    examples,
)
from separatrix.commands.repair import repair
from separatrix.commands.validate import validate
from separatrix.config import TableSystem, anchored, apply_overrides, read_toml
from separatrix.diagnosis import Finding, diagnose
from separatrix.errors import ConfigError, RunExistsError, SeparatrixError
from separatrix.preparing import check_resources
from separatrix.progress import activity, clock, display_console, status_numbers, steps_in_words
from separatrix.resources import Resources, parse_devices
from separatrix.systems import CATALOGUE
from separatrix.training_data import end_counts

if TYPE_CHECKING:
    from separatrix.mechanism import Mechanism
    from separatrix.reader import Reader
    from separatrix.session import Session

# Session and reader are imported where they are used: they load torch, which takes seconds, and a mistyped option, a
# list of systems or Ctrl-C must not wait for it.

_MOST_GROUPS = 10

app = typer.Typer(
    name="separatrix",
    help="AI-guided transition path sampling: catch rare events, learn the committor, see the mechanism.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=examples(
        "separatrix run runs/first --system alanine-dipeptide",
        "separatrix serve runs",
        "separatrix explain runs/first",
    ),
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.", show_default=False)]
SystemOption = Annotated[
    str | None,
    typer.Option(
        "--system", help="A system of the catalogue (`separatrix systems`).", autocompletion=lambda: sorted(CATALOGUE)
    ),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML configuration.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value, e.g. sampling.chains=2; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    epilog=examples(
        "separatrix systems",
        "separatrix systems --json",
    )
)
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


@app.command(
    epilog=examples(
        "separatrix new runs/ala --system alanine-dipeptide",
        "separatrix new runs/ala --system alanine-dipeptide --set system.solvent=obc2",
        "separatrix new runs/mine --config mine.toml --set sampling.chains=8",
    )
)
def new(run: RunPath, system: SystemOption = None, config: ConfigOption = None, sets: SetOption = None) -> None:
    """Make a run; water is equilibrated, which takes a minute, and nothing else is simulated yet."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    session = _create(run, system, config, sets)
    print(f"created {run}: {session.config.system.kind}, states {', '.join(session.config.states)}")
    print(f"sample it: separatrix run {run}")


@app.command(
    "run",
    epilog=examples(
        "separatrix run runs/ala --system alanine-dipeptide",
        "separatrix run runs/ala --steps 5000",
        "separatrix run runs/ala --workers 8 --devices 0,1",
        "separatrix run runs/ala --executor dask --scheduler tcp://node1:8786",
    ),
)
def run_(  # noqa: PLR0913 - a command has as many parameters as options
    run: RunPath,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Monte Carlo steps the run should hold in total. Default: sampling.steps."),
    ] = None,
    workers: WorkersOption = None,
    platform: PlatformOption = None,
    devices: DevicesOption = None,
    workers_per_device: WorkersPerDeviceOption = None,
    precision: PrecisionOption = None,
    learner_device: Annotated[
        str, typer.Option("--learner-device", help="Where the committor is trained: cpu, cuda or cuda:N.")
    ] = "cpu",
    descriptor_device: Annotated[
        str,
        typer.Option(
            "--descriptor-device",
            help="Where workers compute symmetry functions: cpu, cuda for the GPU that each simulates on, or auto, "
            "for that GPU where it can be.",
        ),
    ] = "auto",
    executor: Annotated[
        str, typer.Option("--executor", help="processes of this machine, or dask: the workers of a Dask cluster.")
    ] = "processes",
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786.")
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="TOML file that tells how to ask SLURM for workers.")
    ] = None,
    shot_time_limit: Annotated[
        float | None,
        typer.Option(
            "--shot-time-limit",
            metavar="SECONDS",
            help="A shot that takes longer is ended and made again. Default: by the longest possible.",
        ),
    ] = None,
    system: SystemOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
) -> None:
    """Sample until the run holds the wanted number of steps; makes the run first with --system or --config."""
    for name, number in (("--steps", steps), ("--workers", workers)):
        if number is not None and number < 0:
            raise ConfigError(f"{name}: expected 0 or more, got {number}")
    resources = Resources(
        workers=workers,
        platform=platform or "auto",
        devices=None if devices is None else parse_devices(devices),
        workers_per_device=workers_per_device,
        precision=precision,
        learner_device=learner_device,
        descriptor_device=descriptor_device,
        executor=executor,
        scheduler=scheduler,
        cluster=cluster,
        shot_time_limit=shot_time_limit,
    )
    check_resources(resources)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    session = _open_or_create(run, system, config, sets)
    try:
        status = session.run(steps, **asdict(resources))
    except KeyboardInterrupt:
        for interrupt in (signal.SIGINT, signal.SIGTERM):  # all is stored; a second one would only garble the way out
            signal.signal(interrupt, signal.SIG_IGN)
        held = steps_in_words(session.status)
        print(f"stopped at {held}; they are stored, the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"{run}: {activity(status)}, {steps_in_words(status)}; look at it: separatrix show {run}")


app.command(
    epilog=examples(
        "separatrix learn shots.csv runs/mine --counts n_A,n_B",
        "separatrix learn shots.csv runs/mine --groups chain --test more.csv",
    )
)(learn)
app.command(
    epilog=examples(
        "separatrix validate runs/ala",
        "separatrix validate runs/ala --configurations 20 --shots 100",
        "separatrix validate runs/ala --against runs/ala2",
    )
)(validate)
app.command(
    epilog=examples(
        "separatrix repair runs/ala",
        "separatrix repair runs/ala --apply",
    )
)(repair)
app.add_typer(export.app)


@app.command(
    epilog=examples(
        "separatrix show runs/ala",
        "separatrix show runs/ala --json",
    )
)
def show(run: RunPath, as_json: JsonOption = False) -> None:
    """Show how a run stands."""
    from separatrix.reader import Reader  # noqa: PLC0415

    reader = Reader(run)
    if as_json:
        print(json.dumps(reader.summary(), indent=2, allow_nan=False))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _in_words(run, reader).items():
        table.add_row(name, Text(text))
    Console().print(table)


@app.command(
    epilog=examples(
        "separatrix explain runs/ala",
        "separatrix explain runs/ala --inputs 3 --json",
    )
)
def explain(
    run: RunPath,
    inputs: Annotated[
        int | None,
        typer.Option("--inputs", help="Columns that formulas may be made of. Default: the relevant ones, 5 at most."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same result.")] = 0,
    generations: Annotated[int, typer.Option("--generations", help="How long to search for formulas, at most.")] = 5000,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Threads of the search. Default: one per core.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the inputs of the committor and find formulas for it; Ctrl-C ends the search and keeps what was found."""
    for name, number, least in (
        ("--inputs", inputs, 1),
        ("--seed", seed, 0),
        ("--generations", generations, 1),
        ("--workers", workers, 1),
    ):
        if number is not None and number < least:
            raise ConfigError(f"{name}: expected {least} or more, got {number}")
    try:
        from separatrix.session import Session  # noqa: PLC0415

        mechanism = Session.open(run).explain(inputs=inputs, seed=seed, generations=generations, workers=workers)
    except KeyboardInterrupt:
        print("stopped; nothing was stored", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(mechanism.as_dict(), indent=2, allow_nan=False))
    else:
        _print_mechanism(run, mechanism)
    if not mechanism.complete:
        print("the search was ended early; what it found by then is stored", file=sys.stderr)
        raise typer.Exit(130)


@app.command(
    epilog=examples(
        "separatrix doctor",
        "separatrix doctor mine.toml",
    )
)
def doctor(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="[FOLDER|FILE.toml]", help="Where runs would be stored, a configuration, or a file for --cluster."
        ),
    ] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Check this machine (platforms, GPUs, versions, disk), or a configuration: what a run of it needs, and costs.

    Of a file for `separatrix run --cluster` it shows the job that would be submitted.
    """
    if target.is_file() or (target.suffix == ".toml" and not target.is_dir()):
        findings = _check_file(target)
    else:
        findings = diagnose(target)
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        marks = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "problem": "[red]problem[/red]"}
        for finding in findings:
            found = Text(finding.found).append(f"\n{finding.advice}" if finding.advice else "", "dim")
            table.add_row(marks[finding.level], finding.subject, found)
        Console().print(table)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def _check_file(file: Path) -> tuple[Finding, ...]:
    if "cluster" in read_toml(file):
        from separatrix.cluster_check import check_cluster  # noqa: PLC0415

        return check_cluster(file)
    from separatrix.config_check import check_config  # noqa: PLC0415 - loads what shooting needs

    with display_console().status("reading the configuration") as status:
        return check_config(file, status.update)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every deliberate error is one line on stderr and exit code 2.

    Parameters
    ----------
    arguments : in place of those of this process
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    _plug_in(given)
    try:
        code = app(args=given or ["--help"], prog_name="separatrix", standalone_mode=False)
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "separatrix")
        _fail(f"{error.format_message().rstrip('.')}; see {command} --help")
    except SeparatrixError as error:
        _fail(str(error))
    sys.exit(code or 0)


def _plug_in(given: Sequence[str]) -> None:
    """Add the commands of other packages, such as ``serve``, unless one of our own is asked for.

    A package declares them in its entry points of the group ``separatrix.commands``, as functions for Typer in modules
    that load quickly. An attribute ``epilog`` of such a function ends its help.
    """
    own = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    own |= {group.typer_instance.info.name for group in app.registered_groups if group.typer_instance is not None}
    if given and given[0] in own:
        return
    for entry in entry_points(group="separatrix.commands"):
        if entry.name not in own:
            command = entry.load()
            app.command(entry.name, epilog=getattr(command, "epilog", None))(command)


def _fail(message: str) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _open_or_create(run: Path, system: str | None, config: Path | None, sets: list[str] | None) -> Session:
    from separatrix.session import Session  # noqa: PLC0415

    if not (run / "run.zarr").exists():
        return _create(run, system, config, sets)
    session = Session.open(run)
    if system or config or sets:
        _check_same(session, run, system, config, sets)
    return session


def _create(run: Path, system: str | None, config: Path | None, sets: list[str] | None) -> Session:
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunExistsError(f"{run}: expected a new or an empty folder, found something there; choose another name")
    data, where = _data(system, config, sets)
    if not data:
        raise ConfigError(f"{run}: no run there; make one with --system NAME or --config FILE.toml")
    from separatrix.session import Session  # noqa: PLC0415

    try:
        return Session.create(run, data, where=where)
    except KeyboardInterrupt:
        print(f"stopped; {run} was not made", file=sys.stderr)
        raise typer.Exit(130) from None


def _check_same(session: Session, run: Path, system: str | None, config: Path | None, sets: list[str] | None) -> None:
    """Refuse to go on with a run under a configuration other than its own."""
    data, where = _data(system, config, sets)
    if not data:
        raise ConfigError(f"{run}: a run's configuration is fixed when it is made; leave --set out, or make a new run")
    if session.resolve(data, where=where).content_hash != session.config.content_hash:
        raise ConfigError(
            f"{run}: expected the configuration this run was made with ({run / 'config.toml'}), "
            "got another one; leave --system, --config and --set out to go on, or choose another folder"
        )


def _data(system: str | None, config: Path | None, sets: list[str] | None) -> tuple[dict[str, Any], str]:
    if system and config:
        raise ConfigError("expected --system or --config, got both; name the system in the file as system.kind")
    where = str(config) if config else "configuration"
    data = anchored(read_toml(config), config.parent) if config else {}
    if system:
        data = {"system": {"kind": system}}
    return (apply_overrides(data, sets or []) if data else {}), where


def _print_mechanism(run: Path, mechanism: Mechanism) -> None:
    """Print the most relevant groups of inputs, and the formulas."""
    console = Console()
    relevance = Table(box=None, pad_edge=False, title="Relevance", title_justify="left")
    relevance.add_column("inputs shuffled together", overflow="fold")
    relevance.add_column("rise of the loss", justify="right", no_wrap=True)
    relevance.add_column("share along paths", justify="right", no_wrap=True)
    for row in mechanism.groups[:_MOST_GROUPS]:
        share = "-" if row.gradient is None else f"{row.gradient:.2f} ± {row.gradient_std:.2f}"
        style = None if row.significant else "dim"
        relevance.add_row(Text(row.name), f"{row.mean:.4f} ± {row.std:.4f}", share, style=style)
    console.print(relevance)
    n_above, n_groups = sum(row.significant for row in mechanism.groups), len(mechanism.groups)
    console.print(
        f"{n_above} of {n_groups} are above the noise, {mechanism.noise_line:.4f}\n", style="dim", highlight=False
    )
    if mechanism.recommended is None:
        console.print(
            Text(f"formulas are for two states so far; stored in {run}: separatrix explain {run} --json", "dim")
        )
        return
    formulas = Table(box=None, pad_edge=False, title="Formulas", title_justify="left")
    formulas.add_column("complexity", justify="right")
    formulas.add_column("logit q of the committor to B", overflow="fold")
    formulas.add_column("training loss", justify="right")
    formulas.add_column("held-out loss", justify="right")
    for formula in mechanism.formulas:
        style = "bold" if formula.expression == mechanism.recommended else None
        losses = (f"{formula.training_loss:.4f}", f"{formula.validation_loss:.4f}")
        formulas.add_row(str(formula.complexity), Text(formula.expression), *losses, style=style)
    console.print(formulas)
    notes = [f"recommended: q = {mechanism.recommended}; longer ones gain less than their constants cost"]
    notes.append(f"the network's held-out loss on the same shots: {mechanism.network_loss:.4f}")
    notes.append(f"stored in {run}, with everything else: separatrix explain {run} --json")
    console.print(Text("\n".join(notes), style="dim"))


def _in_words(run: Path, reader: Reader) -> dict[str, str]:
    """Return what `show` tells people: name to text with units."""
    config, status, summary = reader.config, reader.status(), reader.summary()
    if config.table is not None:
        return _table_in_words(run, reader, config.table)
    nanoseconds = status.md_steps * config.dynamics.timestep * 1e-6
    numbers = status_numbers(status, config, summary["yield_error"])
    words = {
        "run": str(run),
        "system": f"{config.system.kind}, states {', '.join(config.states)}",
        "state": status.state.value,
        "steps": f"{steps_in_words(status)} in {config.sampling.chains} chains, {config.sampling.selector} selection",
        **numbers,
        **_pairs_in_words(summary),
        "MD done": f"{status.md_steps:,} steps ({nanoseconds:,.3g} ns) in {clock(status.seconds)} of sampling",
        "calibration": _calibration_in_words(summary["calibration"]),
        "message": status.message,
    }
    return {name: text for name, text in words.items() if text}


def _table_in_words(run: Path, reader: Reader, table: TableSystem) -> dict[str, str]:
    """Return what `show` tells people of a run that was made from a table."""
    config, counts, summary = reader.config, end_counts(reader.columns("shots")), reader.summary()
    numbers = status_numbers(reader.status(), config)
    groups = f", in {config.sampling.chains:,} groups by {table.groups}" if table.groups else ""
    ends = (f"{n:,} to {name}" for n, name in zip(counts.sum(axis=0).tolist(), reader.state_names, strict=True))
    return {
        "run": str(run),
        "made from": f"{table.file}, a table of shots; nothing is simulated",
        "configurations": f"{len(counts):,}{groups}",
        "shots": ", ".join(ends),
        "columns": f"{len(reader.observables.descriptors.names):,}",
        "held-out loss": numbers["held-out loss"],
        "model": numbers["model"],
        "calibration": _calibration_in_words(summary["calibration"]),
    }


def _pairs_in_words(summary: dict[str, Any]) -> dict[str, str]:
    """Return the transitions of every pair of more than two states."""
    if len(summary["pairs"]) < 2 or not summary["steps"]:
        return {}
    words = [
        f"{'-'.join(pair['states'])} {pair['transitions']:,} (yield {pair['yield']:.3f} ± {pair['yield_error']:.3f})"
        for pair in summary["pairs"]
    ]
    return {"by pair": ", ".join(words)}


def _calibration_in_words(calibration: dict[str, Any] | None) -> str:
    if calibration is not None and "states" in calibration:
        return "; ".join(f"{name}: {_calibration_in_words(fit)}" for name, fit in calibration["states"].items())
    if calibration is None or calibration["slope"] is None:
        return "-"
    slope, intercept = (
        f"{calibration[name]:.2f} ± {calibration[name + '_error']:.2f}" for name in ("slope", "intercept")
    )
    return f"slope {slope} (ideal 1), intercept {intercept} (ideal 0), on {calibration['n_shots']:,} held-out shots"
