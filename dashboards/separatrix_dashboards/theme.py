"""The look of every page: colours that colour-blind people tell apart, on light and on dark."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

import panel as pn

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#AA6FA8"
YELLOW: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#8A8F98"

SERIES: Final = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY)
"""Colours of lines in the order in which they are used (after Okabe & Ito)."""

STATE_COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY)
"""Colours of the states, A first: those at the two ends of `COMMITTOR_MAP`."""

COMMITTOR_MAP: Final = (
    "#0b5a8f",
    "#2b7fb8",
    "#6baed0",
    "#a9cfe4",
    "#dde9f0",
    "#f3f1ee",
    "#f7dfd0",
    "#f2b993",
    "#e38c57",
    "#cd5f22",
    "#a54109",
)
"""Diverging colours of p_B, blue in A, orange in B and pale at one half; differs in lightness as well as in hue."""

DENSITY_MAP: Final = ("#ffffff", "#e3e5e8", "#c3c8cf", "#9fa6b1", "#7a8391", "#566072", "#364053")

ACCENT: Final = "#0b5a8f"

STATE_CHIPS: Final = {
    "new": ("new", GREY),
    "queued": ("queued", PURPLE),
    "seeding": ("finding a first path", YELLOW),
    "running": ("running", GREEN),
    "paused": ("paused", YELLOW),
    "stopped": ("stopped", GREY),
    "interrupted": ("interrupted", ORANGE),
    "finished": ("finished", BLUE),
    "failed": ("failed", "#B3261E"),
}
"""What a run is doing, as pages write it, and its colour."""

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

DARK_BAR: Final = {"backgroundColor": "#222a33", "backgroundImage": "none", "color": "#e9edf1"}

_LOW_BAR: Final[dict[str, Any]] = {"MuiToolbar": {"styleOverrides": {"root": {"&&": {"minHeight": 48}}}}}
"""A low bar leaves a map and its key in one sight on a small screen."""

MATERIAL: Final[dict[str, Any]] = {
    "palette": {"primary": {"main": ACCENT}, "secondary": {"main": ORANGE}},
    "typography": {"fontFamily": FONT, "fontSize": 13},
    "shape": {"borderRadius": 8},
    "components": _LOW_BAR,
}
"""Theme of the Material components, light."""

MATERIAL_DARK: Final[dict[str, Any]] = MATERIAL | {
    "palette": {
        "primary": {"main": SKY},
        "secondary": {"main": "#f2b993"},
        "background": {"default": "#1c2127", "paper": "#1c2127"},
    },
    "components": _LOW_BAR | {"MuiAppBar": {"styleOverrides": {"root": {"&&": DARK_BAR}}}},
}
"""Theme of the Material components, dark."""

THEME_CONFIG: Final = {"light": MATERIAL, "dark": MATERIAL_DARK}

CSS: Final = (files("separatrix_dashboards") / "style.css").read_text(encoding="utf-8")
"""Style sheet of the panes; shadow roots take no other."""


class Html(pn.pane.HTML):
    """A pane whose new text is all that is sent when it changes; Panel goes through its whole look each time."""

    def _update(self, ref: str, model: Any) -> None:
        del ref
        model.text = self._transform_object(self.object)["object"]


def html(text: str, **options: Any) -> Html:
    """Return a pane with HTML in the house style; ``text`` is escaped where it comes from outside."""
    return Html(text, **({"sizing_mode": "stretch_width", "margin": 0, "stylesheets": [CSS]} | options))


def empty(text: str) -> pn.pane.HTML:
    """Return what stands where there is nothing to see yet, and says how to get it."""
    return html(f'<div class="sx-empty">{text}</div>')
