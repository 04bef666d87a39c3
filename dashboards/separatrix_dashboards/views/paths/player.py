"""Plays frames in the browser alone: for paths that are drawn in a chart."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import param
from panel.custom import AnyWidgetComponent

from separatrix_dashboards.theme import CSS

_STYLE = """
.bar { display: flex; align-items: center; gap: 8px; outline: none; font-size: 13px; }
.bar button { display: inline-flex; align-items: center; justify-content: center; width: 32px; height: 32px; padding: 0;
  color: inherit; background: none; border: 1px solid transparent; border-radius: 6px; cursor: pointer; }
.bar button:hover:enabled { background: var(--sx-faint); }
.bar:focus-visible, .bar :focus-visible { outline: 2px solid var(--sx-accent); border-radius: 6px; }
.bar svg { fill: currentColor; }
.bar input { flex: 1 1 120px; min-width: 90px; accent-color: var(--sx-accent); cursor: pointer; }
.bar output { font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


class Player(AnyWidgetComponent):
    """A button, a slider and keys that go through the frames of a path.

    Parameters
    ----------
    n_frames : of the path
    frame : where Python last sent it
    shown : the frame on screen, known to the browser alone
    frame_time : ps between frames
    jumps : counts what Python asked for
    playing : whether it starts to play when it is shown a path
    """

    n_frames = param.Integer(default=0)
    frame = param.Integer(default=0)
    shown = param.Integer(default=0)
    frame_time = param.Number(default=1.0)
    jumps = param.Integer(default=0)
    playing = param.Boolean(default=True)

    _stylesheets: ClassVar[list[str]] = [CSS, _STYLE]
    _esm: ClassVar[Path] = Path(__file__).parent / "player.js"

    def show(self, n_frames: int, frame_time_ps: float) -> None:
        """Play a path from its first frame on."""
        self.param.update(n_frames=n_frames, frame_time=frame_time_ps, frame=0, playing=True, jumps=self.jumps + 1)

    def jump(self, frame: int) -> None:
        """Stop at a frame."""
        if 0 <= frame < self.n_frames:
            self.param.update(frame=frame, playing=False, jumps=self.jumps + 1)
