"""The key of a committor map: what its lines and marks mean, each beside a drawing of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from separatrix_dashboards.theme import GREY, PURPLE
from separatrix_dashboards.views.committor_axes import Choice
from separatrix_dashboards.views.committor_figure import (
    CASING,
    ENERGY_INK,
    INK,
    PATHS_INK,
    SHARES,
    colours_of,
    layer_name,
    outcomes,
)
from separatrix_dashboards.words import escaped


def key_html(choice: Choice, state_names: Sequence[str], overlays: Sequence[str], holds: Collection[str]) -> str:
    """Return what the lines and marks of a figure mean, each beside a drawing of it.

    Parameters
    ----------
    overlays : those shown
    holds : what the figure has beside them: ``model``, ``exact``, ``veil``, ``energy``, ``given`` for shots of a table,
        ``others`` for the separatrices of more than two states
    """
    on_map = choice.y is not None
    entries = []
    if on_map:
        p = "p_B" if len(state_names) == 2 else f"p of {escaped(state_names[choice.state])}"
        which = "exact " if choice.layer == "exact" else ""
        if "model" in holds or ("exact" in holds and choice.layer == "exact"):
            entries.append((_ramp(choice.layer), escaped(layer_name(choice, state_names))))
            entries.append((_cased(3.0), f"separatrix, {which}{p} = ½"))
        if "others" in holds and choice.layer != "exact":
            entries.append((_stroke(INK, 1.2, "4 3"), "p = ½ of each other state"))
        if "exact" in holds and choice.layer != "exact":
            entries.append((_cased(2.0, "2 3"), "exact separatrix"))
        if "veil" in holds:
            entries.append((_stroke(GREY, 11.0, "", 0.6), "no frame sampled there"))
        if "energy" in holds and "energy" in overlays:
            entries.append((_stroke(ENERGY_INK, 1.2), "energy, a line every kT"))
    else:
        entries += [(_stroke(PURPLE, 3.0), "mean"), (_stroke(GREY, 9.0, "", 0.4), "standard deviation within the bin")]
    if "paths" in overlays:
        inside = ", ".join(f"{100 * share:.0f}" for share in SHARES)
        words = f"accepted paths: {inside} % of their frames inside" if on_map else "density of accepted paths, scaled"
        entries.append((_stroke(PATHS_INK, 1.6), words))
    looks = outcomes(state_names, given="given" in holds)
    if "shooting points" in overlays:
        entries += [(_mark(colour, marker), escaped(name)) for name, colour, marker in looks]
    items = "".join(
        f'<span style="white-space:nowrap"><svg width="26" height="13" style="vertical-align:-2px">{drawing}</svg> '
        f"{words}</span>"
        for drawing, words in entries
    )
    return f'<div class="sx-note" style="display:flex;flex-wrap:wrap;gap:3px 16px;margin-top:6px">{items}</div>'


def _stroke(colour: str, width: float, dashes: str = "", opacity: float = 1.0) -> str:
    return (
        f'<line x1="1" y1="6.5" x2="25" y2="6.5" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}" '
        f'stroke-opacity="{opacity}"/>'
    )


def _ramp(layer: str) -> str:
    colours = colours_of(layer)[0]
    chosen = [colours[round(i * (len(colours) - 1) / 12)] for i in range(13)]
    return "".join(
        f'<rect x="{2 * i}" y="1" width="2" height="11" fill="{colour}"/>' for i, colour in enumerate(chosen)
    )


def _cased(width: float, dashes: str = "") -> str:
    return _stroke(CASING, width + 3.0) + _stroke(INK, width, dashes)


def _mark(colour: str, marker: str) -> str:
    shapes = {
        "triangle": '<polygon points="13,1 19,12 7,12"',
        "inverted_triangle": '<polygon points="13,12 19,1 7,1"',
        "square": '<rect x="8" y="1.5" width="10" height="10"',
        "diamond": '<polygon points="13,0.5 18,6.5 13,12.5 8,6.5"',
    }
    shape = shapes.get(marker, '<circle cx="13" cy="6.5" r="5"')
    return f'{shape} fill="{colour}" stroke="{CASING}" stroke-width="0.9"/>'
