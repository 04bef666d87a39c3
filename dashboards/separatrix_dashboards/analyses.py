"""Analyses started from pages: each in a process of its own that yields to those that sample, with progress."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from separatrix.errors import ConfigError, SeparatrixError
from separatrix.executors import yield_to_workers
from separatrix_dashboards.access import Role, permit

_ENDING: Final = "ending"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """How an analysis stands.

    Attributes
    ----------
    share : done, 0 to 1
    words : what it is doing
    running : whether it goes on
    problem : what ended it, if that was an error
    """

    share: float = 0.0
    words: str = "starting"
    running: bool = True
    problem: str = ""


class Analyses:
    """Starts and cancels analyses of runs, one of each kind for each run; any thread may ask, and nothing waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, str], Analysis] = {}
        self._processes: dict[tuple[Path, str], subprocess.Popen[str]] = {}

    def of(self, path: Path | str) -> Mapping[str, Analysis]:
        """Return the analyses of a run since the server started, by kind."""
        folder = Path(path).absolute()
        with self._lock:
            return {kind: analysis for (run, kind), analysis in self._known.items() if run == folder}

    def start(self, path: Path | str, kind: str, options: Mapping[str, Any], *, role: Role) -> None:
        """Begin an analysis; its result appears in the run.

        Parameters
        ----------
        kind : one of ``KINDS``
        options : of the function of that kind

        Raises
        ------
        PermissionDeniedError
            For a viewer.
        ConfigError
            If there is no such kind.
        SeparatrixError
            If this run is being analysed so already.
        """
        permit(role, "analyse runs")
        if kind not in KINDS:
            raise ConfigError(f"expected an analysis out of {', '.join(KINDS)}, got {kind!r}")
        place = Path(path).absolute(), kind
        with self._lock:
            if place in self._processes:
                raise SeparatrixError(f"{place[0].name}: {kind} is under way already; cancel it first")
            request = json.dumps({"run": str(place[0]), "kind": kind, "options": dict(options)})
            command = [sys.executable, "-c", f"from {__name__} import work; work()", request]
            process = subprocess.Popen(  # noqa: S603 - this very program
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            self._processes[place] = process
            self._known[place] = Analysis()
        threading.Thread(target=self._follow, args=(place, process), daemon=True, name=kind).start()

    def cancel(self, path: Path | str, kind: str, *, role: Role) -> None:
        """End an analysis early and keep what it found.

        Raises
        ------
        PermissionDeniedError
            For a viewer.
        """
        permit(role, "cancel analyses")
        place = Path(path).absolute(), kind
        with self._lock:
            process = self._processes.get(place)
            if process is not None:
                self._known[place] = replace(self._known[place], words=_ENDING)
                process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End them all."""
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            process.kill()

    def _follow(self, place: tuple[Path, str], process: subprocess.Popen[str]) -> None:
        """Take what a process tells until it ends."""
        began = False
        with process:
            for line in process.stdout or ():
                began = True
                with self._lock:
                    self._known[place] = replace(self._known[place], **json.loads(line))
        code = process.returncode
        with self._lock:
            known = self._known[place]
            # Python that is interrupted while it starts ends with any code.
            cancelled = code in (130, -signal.SIGINT) or (known.words == _ENDING and not began)
            unexpected = code != 0 and not cancelled and not known.problem
            problem = (
                f"it ended with exit code {code}; the log of the server tells more" if unexpected else known.problem
            )
            self._known[place] = replace(known, running=False, problem=problem)
            del self._processes[place]


# -- in the process ----------------------------------------------------------------------------------------------------

Tell = Callable[[float, str], None]


def work() -> None:
    """Do what the command line asks for, and tell how it goes on standard output, a line of JSON each time."""
    out, sys.stdout = sys.stdout, sys.stderr
    yield_to_workers()
    request = json.loads(sys.argv[1])

    def tell(share: float, words: str) -> None:
        _say(out, share=round(share, 3), words=words)

    try:
        KINDS[request["kind"]](Path(request["run"]), tell, **request["options"])
    except SeparatrixError as error:
        _say(out, problem=str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    _say(out, share=1.0, words="done")


def _say(out: IO[str], **what: Any) -> None:
    with contextlib.suppress(OSError):  # the server is gone; the result is worth having all the same
        print(json.dumps(what), file=out, flush=True)


def _explain(run: Path, tell: Tell, **options: Any) -> None:
    from separatrix.mechanism import explain  # noqa: PLC0415 - seconds of imports

    tell(0.0, "ranking the inputs")
    explain(
        run,
        report=lambda progress: tell(
            progress.share, f"{progress.n_fitted:,} formulas fitted, best loss {progress.best_loss:.4f}"
        ),
        **options,
    )


def _validate(run: Path, tell: Tell, **options: Any) -> None:
    from separatrix.validation import validate  # noqa: PLC0415 - seconds of imports

    tell(0.0, "preparing")
    validate(
        run,
        report=lambda progress: tell(
            progress.done / progress.total, f"{progress.done:,} of {progress.total:,} trajectories"
        ),
        **options,
    )


KINDS: Final[Mapping[str, Callable[..., None]]] = {"explain": _explain, "validate": _validate}
