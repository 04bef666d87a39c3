"""A run in the terminal: one progress bar and the numbers that matter, from status snapshots."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from separatrix.records import RunState, Status


class ProgressDisplay:
    """Shows the status of a running session until the ``with`` block ends.

    Parameters
    ----------
    status : called several times a second
    console : where to draw; a terminal gets a live display, anything else a line now and then
    """

    def __init__(self, status: Callable[[], Status], console: Console | None = None) -> None:
        self._status = status
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the last state and leave it standing."""
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._console.print(status_line(self._status()), highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        status = self._status()
        total = status.target if status.state is not RunState.SEEDING else None
        self._bar.update(self._task, description=status.state.value, completed=status.steps, total=total)
        return Group(self._bar, status_table(status), f"[dim]{status.message}[/dim]")


def status_table(status: Status) -> Table:
    """Return the numbers of a status as a borderless table of two rows."""
    table = Table.grid(padding=(0, 3))
    pairs = status_numbers(status)
    for _ in pairs:
        table.add_column(justify="left")
    table.add_row(*(f"[dim]{name}[/dim]" for name in pairs))
    table.add_row(*pairs.values())
    return table


def status_numbers(status: Status) -> dict[str, str]:
    """Return what the display shows: name to text with units."""
    speed = f"{status.md_steps_per_second:,.0f}/s"
    if status.raw_steps_per_second and status.workers:
        share = status.md_steps_per_second / (status.raw_steps_per_second * status.workers)
        speed += f" ({share:.0%} of raw)"
    loss = "-" if status.validation_loss is None else f"{status.validation_loss:.3f} (chance 0.693)"
    return {
        "transitions": f"{status.transitions} (expected {status.expected_transitions:.1f})",
        "yield": f"{status.yield_:.3f} (limit 0.422)",
        "accepted": str(status.accepted),
        "MD steps": speed,
        "held-out loss": loss,
        "model": f"version {status.model_version}",
        "failures": str(status.failures),
    }


def status_line(status: Status) -> str:
    """Return a status in one line, for logs and pipes."""
    numbers = ", ".join(f"{name} {text}" for name, text in status_numbers(status).items())
    return f"{status.state.value}: {status.steps} of {status.target} steps, {numbers}"
