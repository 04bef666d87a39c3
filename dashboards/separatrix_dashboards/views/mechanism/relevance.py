"""Which inputs matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv

from separatrix_dashboards.theme import BLUE, GREY

_MOST_BARS = 20


def relevance_note(result: Mapping[str, Any]) -> str:
    """Return what the bars mean."""
    line = result.get("noise_line")
    noise = "" if line is None else f" What stays below {line:.2g} is noise."
    return f"Rise of the held-out loss when inputs are shuffled.{noise}"


def draw_relevance(result: Mapping[str, Any]) -> hv.Overlay:
    """Return bars with errors, the most relevant inputs on top; inputs that belong together are one bar."""
    rows = sorted(result.get("groups") or result.get("relevance", []), key=lambda row: -row["mean"])[:_MOST_BARS]
    rows.reverse()  # the axis runs upwards
    names = [str(row["name"]) for row in rows]
    means, errors = [float(row["mean"]) for row in rows], [float(row["std"]) for row in rows]
    rise = hv.Dimension("relevance", label="rise of the held-out loss per shot")
    bars = hv.Bars((names, means), "input", rise).opts(color=BLUE, line_width=0, invert_axes=True)
    return bars * hv.ErrorBars((names, means, errors), "input", [rise, "error"]).opts(
        invert_axes=True, line_color=GREY, upper_head=None, lower_head=None
    )
