"""The view of the paths: its parts, and how they follow each other."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import panel as pn

from separatrix.records import RunState
from separatrix_dashboards.charts import Drawing
from separatrix_dashboards.feeds import Feed, RunSnapshot
from separatrix_dashboards.hub import Failure, Query
from separatrix_dashboards.theme import empty, html
from separatrix_dashboards.views.base import View, beside, fact
from separatrix_dashboards.views.paths.choice import (
    AcceptedPaths,
    Choice,
    ChosenPath,
    accepted_paths,
    chosen_path,
    frame_time,
)
from separatrix_dashboards.views.paths.ensemble import Density, Times
from separatrix_dashboards.views.paths.logits import Logits, draw_logits
from separatrix_dashboards.views.paths.marks import Marks
from separatrix_dashboards.views.paths.movie import movie_of
from separatrix_dashboards.views.paths.table import Paths, headings, joined, path_rows, paths_csv
from separatrix_dashboards.views.paths.tree import Tree
from separatrix_dashboards.widgets import checkbox, download
from separatrix_dashboards.words import escaped

DWELL = 5.0
"""Seconds for which a path stays before a newer one takes its place while the run goes on."""


class PathsView(View):
    """Where paths go, how long they take, how they descend from each other, and one of them moving."""

    id: ClassVar[str] = "paths"
    title: ClassVar[str] = "Paths"

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page's tab; it has parts from the first accepted path on."""
        self._choice, self._marks = Choice(), Marks()
        self._queries: tuple[Query, ...] = ()
        self._chosen_at = 0.0
        self._built = False
        self._files: dict[str, pn.widgets.FileDownload] = {}
        self._empty = empty("")
        self._place = pn.Column(self._empty, sizing_mode="stretch_width", margin=0)
        self._paths: AcceptedPaths | None = None
        self._choice.param.watch(lambda event: self._follow(at_once=True), "follow")
        self._choice.param.watch(lambda event: self._ask(event.new), "shot")
        self.scope.add(PATHS, self._look)
        return self._place

    def _look(self, result: Any) -> None:
        """Take what is known of all paths."""
        if isinstance(result, Failure):
            self._say_empty(escaped(result.message))
            return
        self._paths, rows = result
        if self._paths.newest < 0:
            self._say_empty(empty_words(self.feed.snapshot))
            return
        if not self._built:
            self._built = True
            self._build()
        self._follow()
        self._density.count(self._paths)
        self._table.show(rows, len(self._paths.shots))
        self._say()

    def _say_empty(self, words: str) -> None:
        self._empty.object = f'<div class="sx-empty">{words}</div>'

    def _build(self) -> None:
        self._facts = html("", min_width=380)
        follow = checkbox("follow the newest path", value=True, margin=(6, 6, 0, 6), width=180)
        follow.link(self._choice, value="follow", bidirectional=True)
        self._files = {
            suffix: download(suffix.upper(), partial(self._file, suffix), f"path.{suffix}", width=80)
            for suffix in ("pdb", "xtc")
        }
        table = download("All as CSV", self._csv, f"{self.feed.path.name}-paths.csv", width=110)
        self._density, self._table = Density(self.scope, self._marks), Paths(self._choice, headings(self.feed.snapshot))
        self._movie = movie_of(self.scope, self._marks)
        self._logits = Logits(self._marks, self._jump, self.feed.snapshot.state_names)
        head = pn.Row(
            self._facts,
            pn.Column(follow, pn.Row(*self._files.values(), table, margin=0), margin=0, width=330),
            sizing_mode="stretch_width",
            margin=(0, 0, 12, 0),
        )
        self._place[:] = [
            head,
            beside(self._density.__panel__(), self._movie.__panel__(), least=520),
            beside(self._logits.__panel__(), self._soon(self._make_tree, 480), least=520),
            self._soon(self._make_times, 330),
            self._table.__panel__(),
        ]

    def _soon(self, make: Callable[[], pn.viewable.Viewable], height: int) -> pn.Column:
        """Return the place of what is made once the rest is on its way."""
        place = pn.Column(min_height=height, sizing_mode="stretch_width", margin=0)
        self.scope.soon(lambda: place.append(make()))
        return place

    def _make_tree(self) -> pn.Column:
        tree = Tree(self.scope, self._choice).__panel__()
        tree.styles = {"height": "auto", "flex": "1 1 auto"}
        return tree

    def _make_times(self) -> pn.Row:
        return beside(*Times(self.scope).cards(), least=520)

    # -- choosing --------------------------------------------------------------------------------------------------

    def _follow(self, *, at_once: bool = False) -> None:
        choice = self._choice
        newest = -1 if self._paths is None else self._paths.newest
        if not choice.follow or choice.shot == newest:
            return
        running = self.feed.snapshot.status.state == RunState.RUNNING
        if at_once or choice.shot < 0 or not running or time.monotonic() - self._chosen_at > DWELL:
            choice.shot = newest

    def _say(self) -> None:
        if self._paths is not None and self._choice.shot >= 0:
            self._facts.object = path_words(self.feed.snapshot, self._paths, self._choice.shot)

    def _ask(self, shot: int) -> None:
        """Ask for what is known of a path, quickly, and for its positions, which may take a moment."""
        self._chosen_at = time.monotonic()
        for suffix, button in self._files.items():
            button.filename = f"{self.feed.path.name}-shot-{shot}.{suffix}"
        known, positions = path_query(shot), positions_query(shot)
        before = self._queries or (None, None)
        self._queries = known, positions
        self.scope.add(known, partial(self._show, shot), replacing=before[0])
        self.scope.add(positions, partial(self._move, shot), replacing=before[1])
        self._say()

    def _show(self, shot: int, result: Any) -> None:
        if shot != self._choice.shot or isinstance(result, Failure):
            return
        path, drawing, members = result
        self._choice.path = path
        self._marks.show(path)
        self._logits.show(path, drawing, members)

    def _move(self, shot: int, positions: Any) -> None:
        path = self._choice.path
        if path is not None and path.shot == shot == self._choice.shot and not isinstance(positions, Failure):
            self._movie.show(path, positions)

    def _jump(self, frame: int) -> None:
        self._choice.follow = False
        self._movie.jump(frame)

    # -- files -----------------------------------------------------------------------------------------------------

    def _file(self, suffix: str) -> io.BytesIO:
        shot = self._choice.shot
        trajectory = self.feed.reader.path_trajectory(*self.feed.positions(shot))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"path.{suffix}"
            trajectory.save(str(file))
            return io.BytesIO(file.read_bytes())

    def _csv(self) -> io.BytesIO:
        return io.BytesIO(paths_csv(self.feed, self.feed.snapshot).encode())


def _all_paths(feed: Feed, snapshot: RunSnapshot) -> tuple[AcceptedPaths, str]:
    paths = accepted_paths(feed, snapshot)
    return paths, joined(path_rows(snapshot, paths))


PATHS = Query(
    key=("paths", "all"), compute=_all_paths, depends=lambda snapshot: (snapshot.n_shots, snapshot.status.state)
)
"""What is known of all paths, and the newest of them as rows of a table."""


def path_query(shot: int) -> Query:
    """Return the query of a path, its drawing and the number of members of the model."""

    def compute(feed: Feed, snapshot: RunSnapshot) -> tuple[ChosenPath, Drawing, int]:
        path = chosen_path(feed, snapshot, shot)
        return path, Drawing(draw_logits(path)), feed.model(snapshot.model_version).members

    return Query(key=("paths", "path", shot), compute=compute, depends=lambda snapshot: snapshot.model_version)


def positions_query(shot: int) -> Query:
    """Return the query of the positions of a path, (n_frames, n_solute, 3) nm; reading water takes a moment."""
    return Query(
        key=("paths", "positions", shot),
        compute=lambda feed, snapshot: feed.solute_positions(shot),
        depends=lambda snapshot: 0,
        slow=True,
    )


def path_words(snapshot: RunSnapshot, paths: AcceptedPaths, shot: int) -> str:
    """Return what is known of the chosen path, as HTML."""
    shots = snapshot.shots
    count = paths.count(shot)
    n_frames = int(shots["n_frames"][shot])
    names = snapshot.state_names
    between = " to ".join(names[state] for state in shots["ends"][shot]) if len(names) > 2 else ""
    use = "the chain stands on it" if shot in paths.in_use else "left behind"
    counts = f"{count} step{'' if count == 1 else 's'}" if count else "burn-in"
    facts = (
        fact("chosen path", f"shot {shot}", f"chain {shots['chain'][shot]}, step {shots['step'][shot]}"),
        fact(
            "transition time",
            f"{(n_frames - 1) * frame_time(snapshot):.4g} ps",
            f"{n_frames} frames{f', {escaped(between)}' if between else ''}",
        ),
        fact("acceptance", f"{shots['p_acc'][shot]:.2f}", "probability"),
        fact("counts", counts, use),
    )
    return f'<div class="sx-facts">{"".join(facts)}</div>'


def empty_words(snapshot: RunSnapshot) -> str:
    """Return why there is no path yet, as HTML."""
    if snapshot.config.table is not None:
        return (
            f"No paths: this run was made from {escaped(snapshot.config.table.file)}, which holds configurations and "
            "where shots from them ended, and no trajectories."
        )
    first, *between, last = snapshot.state_names
    what = f"a path that leads from {escaped(first)} to {escaped(last)}"
    if between:
        what = f"a path that leads from one of {escaped(', '.join(snapshot.state_names))} to another"
    if snapshot.n_shots == 0:
        return (
            f"No transition yet: this run holds no shots.<br>Each accepted shot gives {what}; the first one appears "
            "here by itself, soon after the run is started."
        )
    return (
        f"No transition accepted yet in {snapshot.n_shots} shots.<br>A shot is a transition when its two halves end in "
        f"different states; accepted, it is {what}. Until then a chain stands on its seed path, which is not shown: it "
        "is no equilibrium path."
    )
