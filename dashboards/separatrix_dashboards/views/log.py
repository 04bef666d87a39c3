"""What happened: failures with their cause, events, and the configuration to copy."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import panel as pn

from separatrix_dashboards.feeds import RunSnapshot
from separatrix_dashboards.theme import html
from separatrix_dashboards.views.base import View, card
from separatrix_dashboards.widgets import CopyText, download
from separatrix_dashboards.words import ago, escaped

_MOST = 200
_QUIET = ("event", "time", "traceback")
_COUNTS = {"n_frames": ("", " frames"), "steps": ("", " steps"), "target": ("up to ", " steps")}
_NAMES = {"config": "configuration", "pid": "process"}


class LogView(View):
    """Failures, events and configuration."""

    id = "log"
    title = "Log"

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab."""
        failures, events = html(""), html("")

        def show(snapshot: RunSnapshot) -> None:
            failures.object = failures_html(snapshot)
            events.object = events_html(snapshot)

        self.scope.follow(show)
        return pn.Column(
            card("Failures", failures, note="Attempts that a machine could not finish, with their cause."),
            card("Events", events, note="Newest first."),
            self._configuration(),
            sizing_mode="stretch_width",
        )

    def _configuration(self) -> pn.Column:
        toml = self.feed.snapshot.config.to_toml()
        save = download("Save as file", lambda: io.BytesIO(toml.encode()), f"{self.feed.path.name}.toml")
        return card(
            "Configuration",
            CopyText(text=toml, sizing_mode="stretch_width", margin=(8, 0)),
            save,
            note="With all defaults; <code>separatrix run RUN --config FILE.toml</code> makes the same run again."
            if self.feed.snapshot.config.table is None
            else "Written by <code>separatrix learn</code>, which makes the same run from the same table again.",
        )


def failures_html(snapshot: RunSnapshot) -> str:
    """Return the failures of a run, newest first, tracebacks folded."""
    failures = [event for event in snapshot.events if event.get("event") in ("failure", "training failed", "failed")]
    rows = []
    if snapshot.problem:
        rows.append(f'<div class="sx-problem">{escaped(snapshot.problem)}</div>')
    if snapshot.status.state == "failed" and snapshot.status.message:
        rows.append(f'<div class="sx-problem">The run ended: {escaped(snapshot.status.message)}</div>')
    if not failures:
        return "".join(rows) or '<div class="sx-note">None so far.</div>'
    rows.append(f'<div class="sx-note">{len(failures)} recorded{_cut(len(failures))}.</div>')
    rows.append('<table class="sx-table"><tr><th>when</th><th>what</th><th>cause</th></tr>')
    for event in reversed(failures[-_MOST:]):
        cause = escaped(event.get("error", ""))
        if event.get("traceback"):
            cause = (
                f"<details><summary>{cause}</summary><pre class='sx-toml'>{escaped(event['traceback'])}</pre></details>"
            )
        rows.append(f"<tr><td>{_when(event)}</td><td>{escaped(_what(event))}</td><td class='sx-wrap'>{cause}</td></tr>")
    return "".join([*rows, "</table>"])


def events_html(snapshot: RunSnapshot) -> str:
    """Return the events of a run, newest first."""
    events = [event for event in snapshot.events if event.get("event") != "failure"]
    head = f"<tr><th>when</th><th>event</th><th>details{_cut(len(events))}</th></tr>"
    rows = [f'<div class="sx-scroll"><table class="sx-table">{head}']
    for event in reversed(events[-_MOST:]):
        details = ", ".join(_detail(name, value) for name, value in event.items() if name not in _QUIET)
        rows.append(
            f"<tr><td>{_when(event)}</td><td>{escaped(event.get('event', ''))}</td>"
            f"<td class='sx-wrap'>{escaped(details)}</td></tr>"
        )
    return "".join([*rows, "</table></div>"])


def _what(event: Mapping[str, Any]) -> str:
    if "chain" in event:
        return f"shot of chain {event['chain']}, step {event['step']}, attempt {event['attempt']} of 4"
    if "configuration" in event:
        place = f"configuration {event['configuration']}, trajectory {event['trajectory']}"
        return f"committor shooting from {place}, attempt {event['attempt']} of 4"
    return str(event.get("event", ""))


def _when(event: Mapping[str, Any]) -> str:
    moment = event.get("time")
    return escaped(ago(float(moment)) if isinstance(moment, int | float) else moment or "")


def _detail(name: str, value: Any) -> str:
    """Return one of the things an event says, in words; what is not known here as it stands in the log.

    >>> _detail("steps_per_second", {"Reference": 53323.1, "CPU": 5823.2}), _detail("n_frames", 29)
    ('Reference 53,323 MD steps/s, CPU 5,823 MD steps/s', '29 frames')
    """
    if name == "steps_per_second" and isinstance(value, Mapping):
        return ", ".join(f"{platform} {speed:,.0f} MD steps/s" for platform, speed in value.items())
    if name in _COUNTS and isinstance(value, int):
        return f"{_COUNTS[name][0]}{value:,}{_COUNTS[name][1]}"
    return f"{_NAMES.get(name, name)} {_plain(value)}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cut(n: int) -> str:
    return f", the newest {_MOST} shown" if n > _MOST else ""
