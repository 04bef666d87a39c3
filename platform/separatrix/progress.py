"""Runs, searches and validations in the terminal: a progress bar and the numbers that matter, from values."""

from __future__ import annotations

import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from separatrix.config import RunConfig
from separatrix.equilibration import EquilibrationProgress
from separatrix.estimates import perfect_yield
from separatrix.records import RunState, ShootingProgress, Status

if TYPE_CHECKING:
    from separatrix.symbolic import Progress  # brings sympy and Numba, which a mistyped option must not wait for

_P = TypeVar("_P")

LINE_INTERVAL = 30.0
"""Seconds between lines where there is no terminal; a line also tells when the run begins something else."""

_POLL_SECONDS = 0.5
_PACE_SECONDS = 60.0
_VALUE_WIDTH = 24
_WIDE, _NARROW = 116, 80
"""From these widths of the terminal on, the numbers stand in three columns and in two."""


def display_console() -> Console:
    """Return where displays are drawn: standard error, live on a terminal alone.

    Rich takes FORCE_COLOR for a terminal, too, and JupyterLab sets it for the
    programs that cells run, whose output cannot be drawn over.
    """
    return Console(stderr=True, force_terminal=None if sys.stderr.isatty() else False)


class ProgressDisplay:
    """Shows the status of a running session until the ``with`` block ends.

    Parameters
    ----------
    status : called several times a second
    config : of the run
    console : where to draw; a terminal gets a live display, anything else a line now and then
    """

    def __init__(self, status: Callable[[], Status], config: RunConfig, console: Console | None = None) -> None:
        self._status, self._config = status, config
        self._console = console or display_console()
        self._pace = Pace()
        self._error: type[BaseException] | None = None
        self._ended = threading.Event()
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render)
        self._lines = threading.Thread(target=self._print_lines, name="progress", daemon=True)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._console.is_terminal:
            self._live.start(refresh=True)
        else:
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the last state and leave it standing."""
        self._error = kind
        self._ended.set()
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._lines.join()
            self._print_line(self._last_status())

    def _last_status(self) -> Status:
        """Return the status that is left standing; the message of an error belongs to whoever catches it."""
        status = self._status()
        return status if self._error is None else replace(status, message="")

    def _render(self) -> Group:
        status = self._last_status() if self._ended.is_set() else self._status()
        left = self._pace.seconds_left(status)
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        head.add_column(no_wrap=True)
        searching = activity(status) in _WITHOUT_STEPS
        bar = ProgressBar(total=max(status.target, 1), completed=min(status.steps, status.target), pulse=searching)
        if self._error is KeyboardInterrupt:
            head.add_row("stopping", bar, steps_in_words(status), clock(status.seconds))
        else:
            head.add_row(activity(status), bar, steps_in_words(status), _times(status, left))
        numbers = [self._numbers(status)] if status.steps else []
        message = [Text(status.message, style="dim", overflow="fold")] if status.message else []
        return Group(head, *numbers, *message)

    def _numbers(self, status: Status) -> Table:
        """Return the numbers in as many columns as the terminal has room for."""
        width = self._console.width
        n_columns = 3 if width >= _WIDE else 2 if width >= _NARROW else 1
        table = Table.grid(padding=(0, 2))
        for column in range(n_columns):  # widths that numbers do not change, except in the last column
            table.add_column(no_wrap=True)
            table.add_column(no_wrap=True, min_width=_VALUE_WIDTH if column < n_columns - 1 else None)
        cells = [
            cell for name, text in status_numbers(status, self._config).items() for cell in (Text(name, "dim"), text)
        ]
        for start in range(0, len(cells), 2 * n_columns):
            table.add_row(*cells[start : start + 2 * n_columns])
        return table

    def _print_lines(self) -> None:
        shown, printed = "", -math.inf
        while not self._ended.wait(_POLL_SECONDS):
            status = self._status()
            left = self._pace.seconds_left(status)
            now = time.monotonic()
            if activity(status) != shown or now - printed >= LINE_INTERVAL:
                self._print_line(status, left)
                shown, printed = activity(status), now

    def _print_line(self, status: Status, left: float | None = None) -> None:
        self._console.print(status_line(status, left), highlight=False, markup=False, soft_wrap=True)


class WorkDisplay(ABC, Generic[_P]):
    """Shows how far a piece of work is until the ``with`` block ends.

    Parameters
    ----------
    stop : set when the work is to end early
    console : where to draw; a terminal gets a live display, anything else a line now and then
    """

    def __init__(self, stop: threading.Event, console: Console | None = None) -> None:
        self._stop = stop
        self._console = console or display_console()
        self._progress: _P | None = None
        self._last_printed: _P | None = None
        self._printed = -math.inf
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._console.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state standing."""
        if self._console.is_terminal:
            self._live.stop()
        elif self._progress is not self._last_printed and self._progress is not None:
            self._print_line(self._progress)

    def report(self, progress: _P) -> None:
        """Take in how far the work is."""
        self._progress = progress
        if not self._console.is_terminal and time.monotonic() - self._printed >= LINE_INTERVAL:
            self._printed = time.monotonic()
            self._last_printed = progress
            self._print_line(progress)

    @abstractmethod
    def _activity(self) -> str:
        """Return what is being done."""

    @abstractmethod
    def _share(self, progress: _P) -> float:
        """Return how much of it is done, 0 to 1."""

    @abstractmethod
    def _words(self, progress: _P) -> str:
        """Return the numbers that matter, and the time left."""

    def _ended(self, progress: _P) -> bool:
        return self._stop.is_set() or self._share(progress) >= 1.0

    def _render(self) -> Table:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        share = 0.0 if self._progress is None else self._share(self._progress)
        bar = ProgressBar(total=1.0, completed=share, pulse=self._progress is None)
        grid.add_row(self._activity(), bar, "" if self._progress is None else self._words(self._progress))
        return grid

    def _print_line(self, progress: _P) -> None:
        line = f"{self._activity()}: {self._share(progress):.0%}, {self._words(progress)}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class SearchDisplay(WorkDisplay["Progress"]):
    """Shows a search for formulas."""

    def _activity(self) -> str:
        if self._progress is None:
            return "ranking the inputs"
        return "writing formulas" if self._ended(self._progress) else "searching formulas"

    def _share(self, progress: Progress) -> float:
        return progress.share

    def _words(self, progress: Progress) -> str:
        return search_in_words(progress, self._ended(progress))


class EquilibrationDisplay(WorkDisplay[EquilibrationProgress]):
    """Shows an equilibration of water from its first report on, so nothing where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(threading.Event(), console)

    def __enter__(self) -> Self:
        """Draw nothing yet."""
        return self

    def report(self, progress: EquilibrationProgress) -> None:
        """Take in how far the work is, and draw it."""
        super().report(progress)
        if self._console.is_terminal:
            self._live.start(refresh=True)

    def _activity(self) -> str:
        return "preparing" if self._progress is None else self._progress.activity

    def _share(self, progress: EquilibrationProgress) -> float:
        return progress.done / progress.total

    def _words(self, progress: EquilibrationProgress) -> str:
        return equilibration_in_words(progress)


class ShootingDisplay(WorkDisplay[ShootingProgress]):
    """Shows committor shooting."""

    def _activity(self) -> str:
        if self._progress is None:
            return "stopping" if self._stop.is_set() else "preparing"
        if self._share(self._progress) >= 1.0:
            return "validated"
        return "stopping" if self._stop.is_set() else "shooting"

    def _share(self, progress: ShootingProgress) -> float:
        return progress.done / progress.total

    def _words(self, progress: ShootingProgress) -> str:
        parts = [f"{progress.done:,} of {progress.total:,} trajectories", clock(progress.seconds)]
        if progress.made and not self._ended(progress):
            left = (progress.total - progress.done) * progress.seconds / progress.made
            parts.append(f"{clock(left)} left")
        return ", ".join(parts)


def search_in_words(progress: Progress, ended: bool = False) -> str:
    """Return the best loss, the speed and the times of a search; none is left to one that has ended."""
    parts = [f"best loss {progress.best_loss:.4f}"] if math.isfinite(progress.best_loss) else []
    if progress.n_fitted and progress.seconds > 0:
        parts.append(f"{progress.n_fitted / progress.seconds:,.0f} formulas/s")
    parts.append(clock(progress.seconds))
    if progress.share > 0.0 and not ended:
        parts.append(f"{clock(progress.seconds * (1.0 - progress.share) / progress.share)} left")
    return ", ".join(parts)


def equilibration_in_words(progress: EquilibrationProgress) -> str:
    """Return how much of an equilibration is done, and its times."""
    parts = [f"{progress.done:.1f} of {progress.total:.1f} ps", clock(progress.seconds)]
    if progress.done > 0.0:
        parts.append(f"{clock(progress.seconds * (progress.total - progress.done) / progress.done)} left")
    return ", ".join(parts)


class Pace:
    """How fast steps came lately: trials of a run differ in length, and a run that goes on starts with many."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def seconds_left(self, status: Status) -> float | None:
        """Take in a status and return the seconds to its target; None while that cannot be told."""
        if activity(status) != _SAMPLING:
            self._seen.clear()
            return None
        now = status.seconds
        self._seen.append((now, status.steps))
        while len(self._seen) > 1 and now - self._seen[1][0] >= _PACE_SECONDS:
            self._seen.popleft()
        begun, steps = self._seen[0]
        if status.steps == steps:
            return None
        return (status.target - status.steps) * (now - begun) / (status.steps - steps)


_PREPARING, _SEEDING, _SAMPLING, _FINISHING = "preparing", "finding a first path", "sampling", "finishing"
_WITHOUT_STEPS = (_PREPARING, _SEEDING)


def activity(status: Status) -> str:
    """Return in words what a run is doing."""
    match status.state:
        case RunState.SEEDING:
            return _PREPARING if status.steps else _SEEDING  # a run that goes on has its first paths
        case RunState.RUNNING if status.seconds == 0:
            return _PREPARING
        case RunState.RUNNING:
            return _SAMPLING if status.steps < status.target else _FINISHING
    return status.state.value


def _times(status: Status, left: float | None) -> str:
    return clock(status.seconds) + (f", {clock(left)} left" if left is not None else "")


def steps_in_words(status: Status) -> str:
    """Return the steps made and wanted."""
    if status.steps > status.target:
        return f"{status.steps:,} steps ({status.target:,} wanted)"
    return f"{status.steps:,} of {status.target:,} steps"


def status_numbers(status: Status, config: RunConfig, yield_error: float | None = None) -> dict[str, str]:
    """Return the numbers of a status: name to text with units, of 25 characters at most in ordinary runs.

    Parameters
    ----------
    yield_error : standard error of the yield; without it that of independent trials
    """
    steps, n_states = status.steps, len(config.states)
    yield_text = "-"
    if steps:
        p = (status.transitions + 1) / (steps + 2)  # no transition in few shots is no certainty
        error = math.sqrt(p * (1 - p) / steps) if yield_error is None else yield_error
        yield_text = f"{status.yield_:.3f} ± {error:.3f}"
        if config.sampling.selector == "lorentzian" and config.sampling.density_correction and n_states == 2:
            yield_text += f" (ideal {perfect_yield(config.sampling.scale):.2f})"
    loss = "-" if status.validation_loss is None else f"{status.validation_loss:.3f} (chance {math.log(n_states):.3f})"
    share = "-"
    if status.raw_steps_per_second and status.seconds:
        share = f"{status.md_steps_per_second / status.all_raw_steps_per_second:.0%}"
        share += f" on {status.workers} x {status.platform}" if status.workers > 1 else f" on {status.platform}"
    return {
        "transitions": f"{status.transitions:,} ({_expected(status)} expected)",
        "yield": yield_text,
        "accepted": f"{status.accepted:,} ({status.accepted / steps:.0%} of steps)" if steps else "0",
        "held-out loss": loss,
        "MD speed": f"{status.md_steps_per_second:,.0f} steps/s",
        "MD efficiency": share,
        "model": f"version {status.model_version}" if status.model_version else "untrained",
        "failures": f"{status.failures:,}",
    }


def _expected(status: Status) -> str:
    return f"{status.expected_transitions:,.{1 if status.expected_transitions < 100 else 0}f}"


def status_line(status: Status, seconds_left: float | None = None) -> str:
    """Return a status in one line, for logs and pipes."""
    parts = [steps_in_words(status)]
    if status.steps:
        parts += [
            f"{status.transitions:,} transitions ({_expected(status)} expected)",
            f"{status.accepted:,} accepted",
            f"{status.md_steps_per_second:,.0f} MD steps/s",
        ]
    if status.model_version:
        parts.append(f"model {status.model_version}")
    if status.failures:
        parts.append(f"{status.failures:,} failed attempts")
    parts.append(_times(status, seconds_left))
    if status.message:
        parts.append(status.message)
    return f"{activity(status)}: {', '.join(parts)}"


def clock(seconds: float) -> str:
    """Return a duration for people.

    >>> clock(75.4), clock(3 * 86400 + 7205)
    ('0:01:15', '3 d 2:00:05')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour}:{minute:02}:{second:02}"


def told_apart(names: Sequence[str]) -> list[str]:
    """Return names, those that repeat an earlier one with a number: formulas of one length, for one.

    >>> told_apart(["network", "formula of 4", "formula of 4"])
    ['network', 'formula of 4', 'formula of 4, no. 2']
    """
    seen: Counter[str] = Counter()
    apart = []
    for name in names:
        seen[name] += 1
        apart.append(name if seen[name] == 1 else f"{name}, no. {seen[name]}")
    return apart
