"""What marks the chosen path in the charts, and the frame that is on screen.

These are sources of the document's own, drawn into figures whose other data all documents share. The mark of the frame
moves in the browser alone: a movie makes no traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, Plot
from numpy.typing import NDArray
from panel.custom import ReactiveESM

from separatrix_dashboards.theme import GREEN
from separatrix_dashboards.views.paths.choice import ChosenPath

CHOSEN = GREEN
"""Colour of the chosen path wherever it is drawn."""

_COLUMNS = ("time", "q", "x", "y", "u", "v")

_MOVE = """
const columns = frames.data;
const frame = cb_obj.shown;
if (!(frame < columns.time.length)) return;
const data = {};
for (const name of Object.keys(columns)) data[name] = [columns[name][frame]];
here.setv({data}, {sync: false});
"""


class Marks:
    """The chosen path as columns: time, q, collective variables along two axes, and particle 0 in its plane."""

    def __init__(self) -> None:
        nothing: dict[str, list[float]] = {name: [] for name in _COLUMNS}
        self.frames = ColumnDataSource(data=dict(nothing))
        self.here = ColumnDataSource(data=dict(nothing))
        self.course = ColumnDataSource(data={"x": [], "y": []})
        self.shot = ColumnDataSource(data=dict(nothing))
        self._places: Sequence[int] = (0,)
        self._periodic: Sequence[bool] = (False,)
        self._path: ChosenPath | None = None
        self._plane: NDArray[Any] | None = None

    def look_along(self, places: Sequence[int], periodic: Sequence[bool]) -> None:
        """Set which collective variables the course is drawn over."""
        self._places, self._periodic = places, periodic
        self._draw()
        self.jump(0)

    def show(self, path: ChosenPath, plane: NDArray[Any] | None = None) -> None:
        """Mark a path; the mark of the frame goes to its beginning if it is another one than before.

        Parameters
        ----------
        plane : (n_frames, 2) nm, where particle 0 of a landscape is; for the same path as before it may be left out
        """
        same = self._path is not None and self._path.shot == path.shot
        if plane is None and same:
            plane = self._plane
        self._path, self._plane = path, plane
        self._draw()
        if not same:
            self.jump(0)

    def _draw(self) -> None:
        path = self._path
        if path is None:
            return
        x = path.cvs[:, self._places[0]]
        y = path.cvs[:, self._places[1]] if len(self._places) > 1 else np.zeros(len(x))
        u, v = np.full((2, len(x)), np.nan) if self._plane is None else self._plane.T
        columns = dict(zip(_COLUMNS, (path.times, path.q, x, y, u, v), strict=True))
        self.frames.data = columns
        self.course.data = _course(x, y, self._periodic)
        self.shot.data = {name: column[path.shooting_frame :][:1] for name, column in columns.items()}

    def follow(self, player: ReactiveESM) -> None:
        """Mark the frame that a player shows: its ``shown`` in the browser, its ``frame`` in Python."""
        if "shown" in player.param:
            player.jscallback(args={"frames": self.frames, "here": self.here}, shown=_MOVE)
        player.param.watch(lambda event: self.jump(event.new), "frame")

    def jump(self, frame: int) -> None:
        """Mark a frame."""
        self.here.data = {name: np.asarray(column)[frame : frame + 1] for name, column in self.frames.data.items()}

    def draw_course(self, figure: Plot) -> None:
        """Draw the chosen path over collective variables."""
        figure.line("x", "y", source=self.course, color=CHOSEN, line_width=1.6, level="annotation")
        self._draw_points(figure, "x", "y")

    def draw_plane(self, figure: Plot) -> None:
        """Draw particle 0 in its plane."""
        figure.line("u", "v", source=self.frames, color=CHOSEN, line_width=1.6, level="annotation")
        self._draw_points(figure, "u", "v")

    def draw_time(self, figure: Plot) -> None:
        """Draw the frame on screen at its time and logit."""
        self._draw_points(figure, "time", "q")

    def _draw_points(self, figure: Plot, x: str, y: str) -> None:
        figure.scatter(
            x,
            y,
            source=self.shot,
            marker="star",
            size=15,
            fill_color="#ffffff",
            line_color=CHOSEN,
            line_width=2,
            level="annotation",
        )
        figure.scatter(
            x, y, source=self.here, size=12, fill_color=CHOSEN, line_color="#ffffff", line_width=2, level="annotation"
        )


def _course(x: NDArray[Any], y: NDArray[Any], periodic: Sequence[bool]) -> dict[str, NDArray[Any]]:
    """Return a line that is broken where an angle goes round."""
    jumps = np.zeros(max(len(x) - 1, 0), dtype=bool)
    for column, around in zip((x, y), periodic, strict=False):
        if around:
            jumps |= np.abs(np.diff(column)) > 180.0
    at = np.flatnonzero(jumps) + 1
    return {"x": np.insert(x.astype(float), at, np.nan), "y": np.insert(y.astype(float), at, np.nan)}
