"""A run as a card of the gallery: what it says, and its HTML. Pure, and computed once for all pages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from separatrix.estimates import expected_transitions, perfect_yield, transition_yield
from separatrix.progress import activity
from separatrix.records import RunState
from separatrix.rows import are_transitions
from separatrix.systems import KINDS
from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.hub import UnreadableRun
from separatrix_dashboards.theme import STATE_CHIPS
from separatrix_dashboards.views.base import fact
from separatrix_dashboards.words import ago, escaped, with_error

UNREADABLE: Final = "unreadable"
LIVE: Final = (RunState.RUNNING.value, RunState.SEEDING.value)

_CURVE_POINTS: Final = 60
_CURVE_WIDTH, _CURVE_HEIGHT = 132, 46
_AGE_STEP: Final = 10.0
"""Seconds: an age in words is no older than this, and no card is sent again for less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card says of a run.

    Attributes
    ----------
    state : a key of `STATE_CHIPS`, or "unreadable"
    word, colour : of its chip
    share : of the steps wanted, 0 to 1
    rate, rate_error : transitions per shot; None before the first shot
    ideal : what a perfect committor would give; None where there is no such number
    seen, foretold : cumulative transitions along the run, thinned
    modified : seconds since 1970
    about : of a run that was made from a table, what it holds, in place of what sampling gave
    note : what is going on, or what went wrong
    failed : whether the note is a problem
    """

    name: str
    state: str
    word: str
    colour: str
    modified: float
    kind: str = ""
    system: str = ""
    states: tuple[str, ...] = ()
    selector: str = ""
    steps: int = 0
    target: int = 0
    share: float = 0.0
    transitions: int = 0
    expected: float = 0.0
    rate: float | None = None
    rate_error: float | None = None
    ideal: float | None = None
    seen: tuple[float, ...] = ()
    foretold: tuple[float, ...] = ()
    about: tuple[tuple[str, str, str], ...] = ()
    note: str = ""
    failed: bool = False

    @property
    def words(self) -> str:
        """Everything a search looks through, in small letters."""
        return " ".join((self.name, self.kind, self.system, *self.states, self.word, self.selector)).lower()


def card_facts(run: RunSnapshot | UnreadableRun) -> CardFacts:
    """Return what a card says of a run, or of a folder that holds one which cannot be read."""
    if isinstance(run, UnreadableRun):
        return CardFacts(
            name=run.name,
            state=UNREADABLE,
            word="cannot be read",
            colour=STATE_CHIPS["failed"][1],
            modified=run.modified,
            note=run.error,
            failed=True,
        )
    status, config = run.status, run.config
    state, word, colour = _chip(run)
    share = transition_yield(are_transitions(run.shots["ends"]))
    guided = config.sampling.selector == "lorentzian" and config.sampling.density_correction
    seen, foretold = _curves(run)
    kind = config.system.kind
    if config.table is not None:
        return _table_facts(run, CardFacts(name=run.name, state=state, word=word, colour=colour, modified=run.modified))
    return CardFacts(
        name=run.name,
        state=state,
        word=word,
        colour=colour,
        modified=run.modified,
        kind=kind,
        system=_system_words(kind, getattr(config.system, "solvent", None)),
        states=run.state_names,
        selector=config.sampling.selector,
        steps=status.steps,
        target=status.target,
        share=min(1.0, status.steps / status.target) if status.target else 0.0,
        transitions=status.transitions,
        expected=status.expected_transitions,
        rate=share.value if math.isfinite(share.value) else None,
        rate_error=share.error if math.isfinite(share.error) else None,
        ideal=perfect_yield(config.sampling.scale) if guided and len(config.states) == 2 else None,
        seen=seen,
        foretold=foretold,
        note=run.problem or status.message,
        failed=run.problem is not None or status.state is RunState.FAILED,
    )


def _table_facts(run: RunSnapshot, facts: CardFacts) -> CardFacts:
    """Return what a card says of a run that was made from a table."""
    n_shots = int(run.n_ends.sum())
    return replace(
        facts,
        kind="table",
        system=f"Shots from {'' if run.config.table is None else run.config.table.file}",
        states=run.state_names,
        selector="a table of shots",
        steps=run.n_shots,
        target=run.n_shots,
        share=1.0,
        about=(
            ("shots", f"{n_shots:,}", f"from {run.n_shots:,} configurations"),
            ("held-out loss", with_error(run.status.validation_loss, None), f"model {run.model_version}"),
        ),
        note=run.problem or "",
        failed=run.problem is not None,
    )


def _chip(run: RunSnapshot) -> tuple[str, str, str]:
    """Return what a run is doing: the key, the word and the colour of its chip."""
    if run.queue is not None:
        word, colour = STATE_CHIPS["queued"]
        return "queued", f"{word}, {'next' if run.queue == 1 else f'{run.queue - 1} before it'}", colour
    state = run.status.state.value
    word, colour = STATE_CHIPS[state]
    return state, activity(run.status) if state in LIVE else word, colour


def _system_words(kind: str, solvent: str | None) -> str:
    title = KINDS[kind].title if kind in KINDS else kind
    return title if solvent is None else f"{title}, {solvent}"


def _curves(run: RunSnapshot) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the cumulative transitions, seen and foretold, at evenly spaced shots."""
    seen = np.cumsum(are_transitions(run.shots["ends"]))
    if not len(seen):
        return (), ()
    rows = np.unique(np.linspace(0, len(seen) - 1, min(_CURVE_POINTS, len(seen))).round().astype(int))
    foretold = expected_transitions(run.shots["p_transition"]).value
    return _plain(seen[rows]), _plain(foretold[rows])


def _plain(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(round(float(value), 2) for value in values)


# -- HTML ----------------------------------------------------------------------------------------------------------


def run_address(name: str) -> str:
    """Return the address of a run's page, relative to that of the gallery."""
    return f"run?name={quote(name, safe='')}"


def compare_address(names: tuple[str, ...]) -> str:
    """Return the address of the page that compares runs."""
    return f"compare?runs={','.join(quote(name, safe='') for name in names)}"


def age_words(modified: float, now: float) -> str:
    """Return how long ago a run changed; the words change every ten seconds at most.

    >>> age_words(100.0, 124.0), age_words(100.0, 129.9), age_words(100.0, 300.0)
    ('20 seconds ago', '20 seconds ago', '3 minutes ago')
    """
    age = max(0.0, now - modified)
    return ago(modified, modified + _AGE_STEP * (age // _AGE_STEP))


def card_html(facts: CardFacts, now: float) -> str:
    """Return the text of a card as HTML; every word from outside is escaped.

    Parameters
    ----------
    now : seconds since 1970
    """
    changed = f'<span class="age">{f"changed {age_words(facts.modified, now)}" if facts.modified > 0 else ""}</span>'
    note = ""
    if facts.note:
        kind = "note bad" if facts.failed else "note"
        note = f'<div class="{kind}" title="{escaped(facts.note)}">{escaped(facts.note)}</div>'
    if facts.state == UNREADABLE:
        return (
            f'{_head(facts)}<div class="body">{note}<div class="foot"><span class="about"></span>{changed}</div></div>'
        )
    about = escaped(f"{', '.join(facts.states)} · {facts.selector}")
    foot = f'<div class="foot"><span class="about" title="{about}">{about}</span>{changed}</div>'
    return f'{_head(facts)}<div class="body">{_numbers(facts)}{note}{foot}</div>'


def _head(facts: CardFacts) -> str:
    """Return name, system and progress, which stand beside the picture."""
    chip = (
        f'<span class="sx-chip" style="--chip:{facts.colour}" data-state="{escaped(facts.state)}">'
        f"{escaped(facts.word)}</span>"
    )
    name = f'<div class="name" title="{escaped(facts.name)}">{escaped(facts.name)}</div>'
    if facts.state == UNREADABLE:
        return f'<div class="head">{name}<div class="progress">{chip}</div></div>'
    steps = f'<span data-steps="{facts.steps}">{facts.steps:,}</span> of {facts.target:,} steps'
    if facts.about:
        steps = f'<span data-steps="{facts.steps}">{facts.steps:,}</span> configurations'
    return (
        f'<div class="head">{name}<div class="system">{escaped(facts.system)}</div>'
        f'<div class="progress">{chip}<span class="sx-bar-words">{steps}</span></div>'
        f'<div class="sx-bar" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * facts.share:.0f}" aria-label="steps made">'
        f'<div style="width:{facts.share:.1%}"></div></div></div>'
    )


def _numbers(facts: CardFacts) -> str:
    if facts.about:
        return f'<div class="numbers">{"".join(fact(*each) for each in facts.about)}</div>'
    if facts.rate is None:
        return "" if facts.note else '<div class="note">No shots yet.</div>'
    ideal = "transitions per shot" if facts.ideal is None else f"ideal {facts.ideal:.3f}"
    return (
        f'<div class="numbers"><div><div class="sx-fact-name">yield</div>'
        f'<div class="sx-number">{with_error(facts.rate, facts.rate_error)}</div>'
        f'<div class="sx-fact-more">{ideal}</div></div>'
        f'<div class="learning">{_sparkline(facts)}<div class="sx-fact-more"><span><i class="line seen"></i>'
        f'{facts.transitions:,} transitions</span> <span><i class="line foretold"></i>{facts.expected:,.0f} expected'
        "</span></div>"
        "</div></div>"
    )


def _sparkline(facts: CardFacts) -> str:
    """Return transitions seen and foretold along the run, as SVG."""
    size = f'viewBox="0 0 {_CURVE_WIDTH} {_CURVE_HEIGHT}" preserveAspectRatio="none"'
    if len(facts.seen) < 2:
        return f'<svg class="curve" {size} aria-hidden="true"></svg>'
    top = max(facts.seen[-1], facts.foretold[-1], 1.0)
    label = f"{facts.transitions} transitions seen, {facts.expected:.0f} expected"
    lines = "".join(
        f'<polyline class="{name}" points="{_points(values, top)}" vector-effect="non-scaling-stroke"/>'
        for name, values in (("foretold", facts.foretold), ("seen", facts.seen))
    )
    return f'<svg class="curve" {size} role="img" aria-label="{label}">{lines}</svg>'


def _points(values: tuple[float, ...], top: float) -> str:
    last, margin = len(values) - 1, 2.0
    height = _CURVE_HEIGHT - 2 * margin
    return " ".join(
        f"{i / last * _CURVE_WIDTH:.1f},{_CURVE_HEIGHT - margin - value / top * height:.1f}"
        for i, value in enumerate(values)
    )
