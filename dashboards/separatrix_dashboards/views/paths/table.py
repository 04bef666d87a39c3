"""The accepted paths as a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, ClassVar

import param
from panel.custom import AnyWidgetComponent

from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.theme import CSS, html
from separatrix_dashboards.views.base import card
from separatrix_dashboards.views.paths.choice import AcceptedPaths, Choice, accepted_paths, frame_time

MOST = 200
"""Newest paths that are listed."""

HEADINGS = ("shot", "chain", "step", "time / ps", "frames", "p_acc", "counts", "")


def headings(snapshot: RunSnapshot) -> list[str]:
    """Return the names of the columns; of more than two states one tells which a path connects."""
    return [*HEADINGS[:1], "between", *HEADINGS[1:]] if len(snapshot.state_names) > 2 else list(HEADINGS)


_STYLE = """
.sx-scroll { max-height: 330px; border-radius: 6px; outline: none; }
.sx-scroll:focus-visible { outline: 2px solid var(--sx-accent); }
.sx-table th { position: sticky; top: 0; background: var(--sx-paper); z-index: 1; }
.sx-table th, .sx-table td { text-align: right; }
.sx-table th:last-child, .sx-table td:last-child { text-align: left; color: var(--sx-dim); }
.sx-table tbody tr { cursor: pointer; }
.sx-table tbody tr:hover { background: var(--sx-faint); }
.sx-table tbody tr[aria-selected=true] { background: color-mix(in srgb, #009E73 22%, transparent); font-weight: 600; }
"""


class Table(AnyWidgetComponent):
    """Rows of which one is chosen, by tapping it or with the arrow keys.

    Parameters
    ----------
    headings : of the columns
    rows : a line for each row, its texts between tabs; the first of them is the row's number
    chosen : number of the chosen row
    """

    headings = param.List(default=list(HEADINGS))
    rows = param.String(default="", doc="One text, since lists of lists are slow to compare.")
    chosen = param.Integer(default=-1)

    _stylesheets: ClassVar[list[str]] = [CSS, _STYLE]
    _esm: ClassVar[Path] = Path(__file__).parent / "table.js"


def path_rows(snapshot: RunSnapshot, paths: AcceptedPaths, most: int = MOST) -> list[list[str]]:
    """Return the newest accepted paths, newest first, as texts under `headings`."""
    columns, spacing, in_use = snapshot.shots, frame_time(snapshot), set(paths.in_use.tolist())
    newest = zip(paths.shots[::-1][:most].tolist(), paths.counts[::-1].tolist(), strict=False)
    names = snapshot.state_names

    def between(shot: int) -> list[str]:
        return ["-".join(names[state] for state in columns["ends"][shot])] if len(names) > 2 else []

    return [
        [
            str(shot),
            *between(shot),
            str(columns["chain"][shot]),
            str(columns["step"][shot]),
            f"{(columns['n_frames'][shot] - 1) * spacing:.4g}",
            str(columns["n_frames"][shot]),
            f"{columns['p_acc'][shot]:.2f}",
            str(count) if count else "-",
            ", ".join(
                words
                for words, true in (("in use", shot in in_use), ("burn-in", columns["burn_in"][shot] and not count))
                if true
            ),
        ]
        for shot, count in newest
    ]


def joined(rows: list[list[str]]) -> str:
    """Return rows as one text."""
    return "\n".join("\t".join(row) for row in rows)


def paths_csv(feed: Feed, snapshot: RunSnapshot) -> str:
    """Return every accepted path as a row of CSV: all columns of its shot, its time and how often it counts."""
    columns, spacing = _flat(snapshot), frame_time(snapshot)
    paths = accepted_paths(feed, snapshot)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["shot", *columns, "time_ps", "multiplicity"])
    for shot, count in zip(paths.shots.tolist(), paths.counts.tolist(), strict=True):
        time = (int(snapshot.shots["n_frames"][shot]) - 1) * spacing
        writer.writerow([shot, *(column[shot].item() for column in columns.values()), f"{time:.6g}", count])
    return text.getvalue()


def _flat(snapshot: RunSnapshot) -> dict[str, Any]:
    """Return the columns of shots, those with several numbers a shot apart; times of the wall clock as stored."""
    flat: dict[str, Any] = {}
    parts = {"ends": ("first_end", "last_end"), "n_ends": tuple(f"n_{name}" for name in snapshot.state_names)}
    for name, column in snapshot.shots.items():
        flat |= dict(zip(parts[name], column.T, strict=True)) if column.ndim > 1 else {name: column}
    return flat


class Paths:
    """The table; a tap chooses a path.

    Parameters
    ----------
    choice : the path that is looked at
    headings : of the columns
    """

    def __init__(self, choice: Choice, headings: list[str]) -> None:
        self._choice = choice
        self._table = Table(headings=headings, sizing_mode="stretch_width", margin=(6, 0, 0, 0))
        self._note = html("")
        self._table.param.watch(lambda event: self._tapped(event.new), "chosen")
        choice.param.watch(lambda event: self._mark(), "shot")
        self._mark()

    def __panel__(self) -> Any:
        """Return the card."""
        return card("Accepted paths", self._note, self._table, margin=0)

    def show(self, rows: str, total: int) -> None:
        """Show the newest of all accepted paths, as `joined` makes them."""
        self._table.rows = rows
        some = f"the newest {MOST} of {total}" if total > MOST else f"{total}"
        self._note.object = (
            f'<div class="sx-note">{some}, newest first. Tap a row to see the path; counts: steps for which its chain '
            "stayed on it.</div>"
        )

    def _mark(self) -> None:
        self._table.chosen = self._choice.shot

    def _tapped(self, shot: int) -> None:
        if shot != self._choice.shot:
            self._choice.choose(shot)
