"""The head of a run's page: what it is doing, the numbers that matter, and its controls."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import panel as pn

from separatrix.errors import SeparatrixError
from separatrix.estimates import perfect_yield, transition_yield
from separatrix.gpus import Gpu
from separatrix.progress import Pace, activity
from separatrix.records import RunState
from separatrix.resources import GPU_PLATFORMS
from separatrix.rows import are_transitions
from separatrix.store import lock_holder
from separatrix_dashboards.access import Role
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.sessions import SessionPool
from separatrix_dashboards.theme import STATE_CHIPS, html
from separatrix_dashboards.views.base import Scope, bar, fact
from separatrix_dashboards.widgets import button, integer, number_in
from separatrix_dashboards.words import escaped, lasting, with_error

_LIVE = (RunState.RUNNING, RunState.SEEDING)
_GIB = 2**30


class Head:
    """What stays in sight on a run's page.

    Parameters
    ----------
    scope : of the run and the document
    pool : the server's sessions; None where nothing can be controlled
    role : tells what whoever looks may do now; viewers get no controls, and every control asks again
    refresh : has the hub look at once
    """

    def __init__(
        self, scope: Scope, pool: SessionPool | None, role: Callable[[], Role], refresh: Callable[[], None]
    ) -> None:
        self._scope, self._pool, self._role, self._refresh = scope, pool, role, refresh
        self._pace = Pace()
        self._name = html("", sizing_mode=None, styles={"flex": "1 1 320px"})
        self._progress, self._numbers = html(""), html("", margin=(6, 0, 0, 0))
        self._gpus, self._problem = html(""), html("")
        sampled = scope.feed.snapshot.config.table is None
        self._controls = self._make_controls() if sampled and pool is not None and role() == Role.OPERATOR else None

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the head."""
        self._scope.follow(self._show)
        controls = [] if self._controls is None else [self._controls]
        return pn.Column(
            pn.FlexBox(self._name, *controls, align_items="center", gap="2px 18px", sizing_mode="stretch_width"),
            self._progress,
            self._numbers,
            self._gpus,
            self._problem,
            sizing_mode="stretch_width",
            margin=(4, 0, 8, 0),
        )

    def _show(self, snapshot: RunSnapshot) -> None:
        self._name.object = name_html(snapshot)
        self._progress.object = progress_html(snapshot, self._pace.seconds_left(snapshot.status))
        self._numbers.object = facts_html(snapshot)
        self._gpus.object = gpus_html(self._scope.hub.gpus.read()) if computes_here(snapshot) else ""
        problem = snapshot.problem or ""
        self._problem.object = f'<div class="sx-problem">{escaped(problem)}</div>' if problem else ""
        if self._controls is not None:
            self._enable(snapshot)

    # -- controls --------------------------------------------------------------------------------------------------

    def _make_controls(self) -> pn.Row:
        snapshot = self._scope.feed.snapshot
        target = max(snapshot.status.target, snapshot.config.sampling.steps)
        self._target = integer("target steps", target, least=1, step=100)
        self._workers = integer("workers", self._default_workers(), width=80)
        place = {"margin": (4, 4), "align": "end"}
        self._start = button("Start", self._on_start, primary=True, **place)
        self._pause = button("Pause", self._on_pause, **place)
        self._stop = button("Stop", self._on_stop, **place)
        return pn.Row(self._target, self._workers, self._start, self._pause, self._stop, margin=0)

    def _default_workers(self) -> int:
        pool = self._pool
        chains = self._scope.feed.snapshot.config.sampling.chains
        return max(1, min(chains, pool.max_workers if pool is not None else 1))

    def _enable(self, snapshot: RunSnapshot) -> None:
        state = snapshot.status.state
        elsewhere = state in (*_LIVE, RunState.PAUSED) and not snapshot.owned
        busy = snapshot.owned and state in (*_LIVE, RunState.PAUSED, RunState.NEW)
        queued = snapshot.queue is not None
        self._start.disabled = busy or queued or elsewhere
        self._start.label = "Continue" if snapshot.n_shots else "Start"
        self._pause.label = "Resume" if state == RunState.PAUSED else "Pause"
        self._pause.disabled = not snapshot.owned or state not in (*_LIVE, RunState.PAUSED)
        self._stop.disabled = not (busy or queued)
        self._target.disabled = self._workers.disabled = busy or queued or elsewhere

    def _on_start(self, _: Any) -> None:
        self._start.disabled = True  # seen at once; what comes of it, when it comes
        self._do(lambda pool: pool.start(self._scope.feed.path, **self._wanted(), role=self._role()))

    def _wanted(self) -> dict[str, int]:
        return {"steps": number_in(self._target), "workers": number_in(self._workers)}

    def _on_pause(self, _: Any) -> None:
        path = self._scope.feed.path
        paused = self._scope.feed.snapshot.status.state == RunState.PAUSED
        self._pause.disabled = True
        self._do(lambda pool: (pool.resume if paused else pool.pause)(path, role=self._role()))

    def _on_stop(self, _: Any) -> None:
        self._stop.disabled = True
        self._do(lambda pool: pool.stop(self._scope.feed.path, role=self._role()))

    def _do(self, control: Callable[[SessionPool], None]) -> None:
        try:
            if self._pool is not None:
                control(self._pool)
        except SeparatrixError as error:
            self._enable(self._scope.feed.snapshot)
            self._problem.object = f'<div class="sx-problem">{escaped(error)}</div>'
        self._refresh()


def first_html(snapshot: RunSnapshot) -> str:
    """Return the head as HTML without controls, for the moment until the browser has made the page."""
    return name_html(snapshot) + progress_html(snapshot, None) + facts_html(snapshot)


def name_html(snapshot: RunSnapshot) -> str:
    """Return the name and what the run is doing, as HTML."""
    status = snapshot.status
    word, colour = STATE_CHIPS["queued" if snapshot.queue is not None else status.state.value]
    if status.state in _LIVE:
        word = activity(status)
    if snapshot.queue is not None:
        word = f"queued, {'next' if snapshot.queue == 1 else f'{snapshot.queue - 1} before it'}"
    return (
        f'<div class="sx-head"><span class="sx-name">{escaped(snapshot.name)}</span>'
        f'<span class="sx-chip" style="--chip:{colour}" data-state="{status.state.value}">{escaped(word)}</span></div>'
    )


def progress_html(snapshot: RunSnapshot, seconds_left: float | None) -> str:
    """Return the progress bar, steps, time left, and what the run says of itself, as HTML."""
    status = snapshot.status
    if snapshot.config.table is not None:
        return f'<div class="sx-note">{escaped(table_words(snapshot))}</div>'
    share = min(1.0, status.steps / status.target) if status.target else 0.0
    left = f" · {lasting(seconds_left)} left" if seconds_left is not None else ""
    message = f'<div class="sx-note">{escaped(status.message)}</div>' if status.message and not snapshot.problem else ""
    steps = f'<span data-steps="{status.steps}">{status.steps:,}</span> of {status.target:,} steps{left}'
    return bar(share, steps) + message


def table_words(snapshot: RunSnapshot) -> str:
    """Return what a run that was made from a table is, in a sentence."""
    table = snapshot.config.table
    file = "a table" if table is None else table.file
    groups = "" if table is None or table.groups is None else f", held out in groups by {table.groups}"
    return (
        f"Made from {file}: {snapshot.n_shots:,} configurations with the shots from each{groups}. "
        "Nothing is simulated here."
    )


@lru_cache(maxsize=4)
def facts_html(snapshot: RunSnapshot) -> str:
    """Return the numbers that matter, as HTML: written once for all documents."""
    return f'<div class="sx-facts">{"".join(fact(*each) for each in facts(snapshot))}</div>'


def facts(snapshot: RunSnapshot) -> list[tuple[str, str, str]]:
    """Return (name, number, what to hold it against) of the numbers that matter."""
    status, config = snapshot.status, snapshot.config
    if config.table is not None:
        return table_facts(snapshot)
    share = transition_yield(are_transitions(snapshot.shots["ends"]))
    ideal = ""
    if config.sampling.selector == "lorentzian" and config.sampling.density_correction and len(config.states) == 2:
        ideal = f"ideal {perfect_yield(config.sampling.scale):.3f}"
    loss, chance = status.validation_loss, math.log(len(config.states))
    model = _model_words(snapshot)
    speed = status.md_steps_per_second
    raw = status.all_raw_steps_per_second
    alone = "in its session" if status.steps and status.state is RunState.RUNNING else "none yet"
    busy = f"{min(status.busy, status.workers)} of {status.workers}" if status.workers else alone
    return [
        ("transitions", f"{status.transitions:,}", f"{status.expected_transitions:,.0f} expected"),
        ("yield", with_error(share.value, share.error), ideal or f"{config.sampling.selector} selection"),
        ("accepted", f"{status.accepted:,}", f"{status.accepted / status.steps:.0%} of steps" if status.steps else ""),
        ("held-out loss", with_error(loss, None), f"chance {chance:.3f}, {model}"),
        (
            "MD speed",
            f"{speed:,.0f} steps/s" if speed else "-",
            f"{speed / raw:.0%} of raw {status.platform}" if raw and speed else "",
        ),
        ("workers busy", busy if status.state in _LIVE else "none", f"{status.failures:,} failures"),
        (
            "sampled for",
            lasting(status.seconds or None),
            f"{status.md_steps * config.dynamics.timestep * 1e-6:,.3g} ns of MD",
        ),
    ]


def computes_here(snapshot: RunSnapshot) -> bool:
    """Return whether a run computes on GPUs of this very machine now."""
    status = snapshot.status
    if status.state not in _LIVE or status.platform not in GPU_PLATFORMS:
        return False
    return snapshot.owned or lock_holder(snapshot.path).endswith(f" on {socket.gethostname()}")


def gpus_html(gpus: Sequence[Gpu]) -> str:
    """Return the load of GPUs, all that runs on them together, as HTML; nothing without any."""
    words = []
    for gpu in gpus:
        busy = "-" if gpu.utilisation is None else f"{gpu.utilisation} %"
        warm = "" if gpu.temperature is None else f", {gpu.temperature} °C"
        memory = f"{gpu.memory_used / _GIB:.1f} of {gpu.memory_total / _GIB:.0f} GiB{warm}"
        words.append(fact(f"GPU {gpu.index} busy", busy, memory))
    return f'<div class="sx-facts">{"".join(words)}</div>' if words else ""


def table_facts(snapshot: RunSnapshot) -> list[tuple[str, str, str]]:
    """Return the numbers of a run that was made from a table, as `facts` does."""
    counts = dict(zip(snapshot.state_names, snapshot.n_ends.sum(axis=0).tolist(), strict=True))
    n_shots = sum(counts.values())
    chance = -sum(n / n_shots * math.log(n / n_shots) for n in counts.values() if n)
    loss = with_error(snapshot.status.validation_loss, None)
    fit = snapshot.reports[snapshot.model_version].get("calibration") if snapshot.model_version else None
    slopes = {f" of {name}": each for name, each in fit["states"].items()} if fit and "states" in fit else {"": fit}
    return [
        ("configurations", f"{snapshot.n_shots:,}", f"{len(snapshot.feature_names):,} columns"),
        ("shots", f"{n_shots:,}", f"{n_shots / max(snapshot.n_shots, 1):.3g} per configuration"),
        *((f"ended in {name}", f"{n:,}", f"{n / n_shots:.0%} of shots") for name, n in counts.items()),
        ("held-out loss", loss, f"best constant {chance:.3f}, {_model_words(snapshot)}"),
        *(
            (f"calibration slope{of}", slope_words(each), "1 is right, below 1 over-confident")
            for of, each in slopes.items()
        ),
    ]


def slope_words(fit: Mapping[str, Any] | None) -> str:
    """Return the slope of a calibration with its error."""
    return "-" if not fit or fit["slope"] is None else with_error(fit["slope"], fit["slope_error"], 2)


def _model_words(snapshot: RunSnapshot) -> str:
    return f"model {snapshot.status.model_version}" if snapshot.status.model_version else "no model yet"
