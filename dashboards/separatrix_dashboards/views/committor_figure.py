"""How a committor map is drawn: as an image over two collective variables, or as a curve over one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import holoviews as hv
import holoviews.plotting.bokeh  # elements know their options once it is loaded
import numpy as np
from bokeh.models import ColorBar, CustomJS, DataRange1d, FixedTicker, GlyphRenderer, HoverTool, Plot
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from separatrix.estimates import enclosing_levels, near_frames
from separatrix.records import NO_STATE
from separatrix_dashboards.charts import Drawing, Element, Templates
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.theme import COMMITTOR_MAP, GREEN, GREY, PURPLE, STATE_COLOURS
from separatrix_dashboards.views.committor_axes import Axis, Choice
from separatrix_dashboards.views.committor_map import CommittorMap

Array = NDArray[Any]
Line = tuple[Array, Array]
"""x and y of points; nan ends one line and begins the next."""

# Lines over a map are dark in a pale casing: they show on every colour of the map, and beside it on light and dark.
INK: Final = "#11151a"
CASING: Final = "#ffffff"
PATHS_INK: Final = "#8450c0"
ENERGY_INK: Final = "#4b535e"

SPREAD_MAP: Final = ("#f8f5fa", "#e4d9ec", "#cdb8dd", "#b394c9", "#966db3", "#774899", "#57267c", "#3b0f5c")
DIFFERENCE_MAP: Final = (
    "#40004b",
    "#762a83",
    "#9970ab",
    "#c2a5cf",
    "#e7d4e8",
    "#f5f4f5",
    "#d9f0d3",
    "#a6dba0",
    "#5aae61",
    "#1b7837",
    "#00441b",
)

OVERLAYS: Final = ("shooting points", "paths", "energy")

SHARES: Final = (0.25, 0.5, 0.75, 0.95)
"""Path density is drawn as contours that enclose these shares of the frames."""

_ENERGY_LEVELS: Final = 20
_RETURNS: Final = tuple(colour for colour in STATE_COLOURS if colour != GREEN)
_MARKERS: Final = ("circle", "triangle", "inverted_triangle", "square", "diamond")
_ONLY_NUMBERS: Final = "export default (args, tool, {value}) => Number.isFinite(value)"
_NOTHING: Final[Line] = (np.empty(0), np.empty(0))


def outcomes(state_names: Sequence[str], *, given: bool = False) -> tuple[tuple[str, str, str], ...]:
    """Return what a shot can come to, with colour and marker: a transition, both halves in one state, or neither.

    Parameters
    ----------
    given : whether a table says what several shots came to
    """
    same = [
        (
            f"all to {name}" if given else f"{name} to {name}",
            _RETURNS[index % len(_RETURNS)],
            _MARKERS[1 + index % (len(_MARKERS) - 2)],
        )
        for index, name in enumerate(state_names)
    ]
    if given:
        return ("to both states" if len(same) == 2 else "to several states", GREEN, _MARKERS[0]), *same
    return (("transition", GREEN, _MARKERS[0]), *same, ("a half without end", GREY, _MARKERS[-1]))


def outcome_of(ends: Array, n_states: int) -> Array:
    """Return the place in `outcomes` of every shot, (n_shots,), from its ends (n_shots, 2)."""
    first, second = ends[:, 0].astype(int), ends[:, 1].astype(int)
    ended = (first != NO_STATE) & (second != NO_STATE)
    return np.where(ended, np.where(first == second, 1 + first, 0), 1 + n_states)


def layer_name(choice: Choice, state_names: Sequence[str]) -> str:
    """Return what a layer shows, in words for an axis."""
    p = "p_B" if len(state_names) == 2 else f"p of {state_names[choice.state]}"
    return {
        "learned": p,
        "exact": f"exact {p}",
        "difference": f"learned less exact {p}",
        "spread": f"spread of {p} over the ensemble",
    }[choice.layer]


def colours_of(layer: str) -> tuple[list[str], tuple[float, float]]:
    """Return the colours of a layer and the values at their ends."""
    if layer == "spread":
        return list(_shades(SPREAD_MAP)), (0.0, 0.2)
    if layer == "difference":
        return list(_shades(DIFFERENCE_MAP)), (-0.2, 0.2)
    return list(_shades(COMMITTOR_MAP)), (0.0, 1.0)


def _shades(colours: Sequence[str], between: int = 8) -> Iterator[str]:
    """Yield the colours of a map and those between them."""
    channels = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]).T
    places = np.linspace(0, len(colours) - 1, (len(colours) - 1) * between + 1)
    for red, green, blue in zip(*(np.interp(places, range(len(colours)), c) for c in channels), strict=True):
        yield f"#{round(red):02x}{round(green):02x}{round(blue):02x}"


def drawing_of(feed: Feed, found: CommittorMap, choice: Choice, state_names: Sequence[str]) -> Drawing:
    """Return a map or a curve, drawn in this thread; documents of the same look share its figure."""
    draw = draw_curve if choice.y is None else draw_map
    look = choice.names, choice.layer, choice.state, found.model.on_grid
    return Drawing(draw(found, choice, state_names), feed.shared(("committor figure", *look), Templates)).ready()


# -- two variables -----------------------------------------------------------------------------------------------------


def draw_map(found: CommittorMap, choice: Choice, state_names: Sequence[str]) -> Element:
    """Return the map over two collective variables."""
    x, y = (_dimension(name, axis) for name, axis in zip("xy", found.axes, strict=True))
    exact = contours(found.axes, found.exact, (0.5,))
    separatrix = exact if choice.layer == "exact" else contours(found.axes, found.model.smooth, (0.5,))
    reference = _NOTHING if choice.layer == "exact" else exact
    others = (
        joined([contours(found.axes, p, (0.5,)) for p in found.model.others]) if choice.layer != "exact" else _NOTHING
    )
    outlines = joined([_outline(found.axes, mask) for mask in found.masks.values()])
    density = contours(found.axes, found.density, enclosing_levels(found.density, SHARES))
    leaves = [
        _image(found, choice, state_names, x, y),
        _veil(found, choice, x, y),
        _curve(_energy_lines(found), x, y, ENERGY_INK, 0.8, alpha=0.5),
        _curve(density, x, y, PATHS_INK, 1.5),
        _curve(joined([outlines, reference, separatrix]), x, y, CASING, 5.0, alpha=0.8),
        _curve(outlines, x, y, INK, 1.5),
        _curve(reference, x, y, INK, 2.0, line_dash="dotted"),
        _curve(separatrix, x, y, INK, 3.0),
        *([_curve(others, x, y, INK, 1.2, line_dash="dashed")] if len(state_names) > 2 else []),
        _shots(found, state_names, x, y),
        _names(found, x, y),
    ]
    return hv.Overlay(leaves).opts(show_legend=False, padding=0)


def _dimension(name: str, axis: Axis) -> hv.Dimension:
    # Named by hand, labelled as it is called: a collective variable may have any name.
    return hv.Dimension((f"map_{name}", axis.name), unit=axis.unit or None)


def _image(
    found: CommittorMap, choice: Choice, state_names: Sequence[str], x: hv.Dimension, y: hv.Dimension
) -> hv.Image:
    name = layer_name(choice, state_names)
    layers = (found.layer(choice.layer), found.model.p, found.model.spread, found.model.within, found.count)
    table = np.stack([np.asarray(layer, dtype=np.float32)[::-1] for layer in layers], axis=-1)
    p = layer_name(Choice(x=choice.x, y=choice.y, state=choice.state), state_names)
    tips = [(axis.name, f"${key}{{0.[00]}} {axis.unit}".rstrip()) for axis, key in zip(found.axes, "xy", strict=True)]
    tips += [] if choice.layer in ("learned", "spread") else [(name, "@image{0.000}")]
    tips += [(p, "@learned{0.000}"), ("ensemble spread", "@spread{0.000}")]
    tips += [] if found.model.on_grid else [("scatter in the cell", "@within{0.000}")]
    tips += [("frames", "@frames{0,0}")]
    cmap, clim = colours_of(choice.layer)
    # With a range of their own HoloViews does not look for one, where everything may be nan.
    vdims = [hv.Dimension(("layer", name), range=clim)]
    vdims += [hv.Dimension(other, range=(0, 1)) for other in ("learned", "spread", "within", "frames")]
    return hv.Image(table, [x, y], vdims, bounds=_bounds(found)).opts(
        cmap=cmap,
        clim=clim,
        colorbar=True,
        colorbar_opts={"width": 14},
        tools=["hover"],
        hover_tooltips=tips,
        show_legend=False,
    )


def _veil(found: CommittorMap, choice: Choice, x: hv.Dimension, y: hv.Dimension) -> hv.Image:
    """Return what dims a model on a grid of positions where nothing was sampled: it only guesses there."""
    hidden = found.model.on_grid and choice.layer != "exact"
    veil = np.where(near_frames(found.count, periodic=found.periodic) | (not hidden), np.nan, 1.0)
    return hv.Image(
        veil[::-1].astype(np.float32), [x, y], hv.Dimension("veil", range=(0, 1)), bounds=_bounds(found)
    ).opts(cmap=[GREY], clim=(0, 1), alpha=0.5, show_legend=False)


def _bounds(found: CommittorMap) -> tuple[float, ...]:
    return (*(float(axis.edges[0]) for axis in found.axes), *(float(axis.edges[-1]) for axis in found.axes))


def _curve(line: Line, x: hv.Dimension, y: hv.Dimension, colour: str, width: float, **style: Any) -> hv.Curve:
    return hv.Curve(line, x, y).opts(color=colour, line_width=width, show_legend=False, **style)


def _shots(found: CommittorMap, state_names: Sequence[str], x: hv.Dimension, y: hv.Dimension) -> hv.Points:
    """Return the shooting points; over one variable they lie at their p."""
    shots = found.shots
    looks = outcomes(state_names, given=shots.given)
    outcome = outcome_of(shots.ends, len(state_names))
    order = np.argsort(-outcome, kind="stable")  # transitions on top
    height = () if len(found.axes) == 2 else (shots.p,)
    numbers = [array[order].astype(float) for array in (*shots.place.T, *height, shots.shot, shots.foretold)]
    words = [np.array([look[i] for look in looks], dtype=object)[outcome[order]] for i in range(3)]
    # A point of every look that is nowhere: HoloViews takes a column that holds one value for that value, for ever.
    numbers = [np.append(column, np.full(len(looks), np.nan)) for column in numbers]
    words = [np.append(column, [look[i] for look in looks]) for i, column in enumerate(words)]
    return hv.Points((*numbers, *words), [x, y], ["shot", "q", "outcome", "look", "mark"]).opts(
        color="look",
        marker="mark",
        size=7.5,
        line_color=CASING,
        line_width=0.9,
        tools=["hover"],
        hover_tooltips=[
            ("shot", "@shot{0}"),
            ("it gave", "@outcome"),
            ("q foretold" if len(state_names) == 2 else "p(transition) foretold", "@q{0.00}"),
        ],
        show_legend=False,
    )


def _names(found: CommittorMap, x: hv.Dimension, y: hv.Dimension) -> hv.Labels:
    height = () if len(found.axes) == 2 else (0.94,)
    places = [(*place, *height, name) for name, place in found.labels.items()]
    columns = tuple(zip(*places, strict=True)) if places else ([], [], [])
    return hv.Labels(columns, [x, y], "state_name").opts(
        text_color=INK, text_font_size="10.5pt", text_font_style="bold", show_legend=False
    )


# -- one variable ------------------------------------------------------------------------------------------------------


def draw_curve(found: CommittorMap, choice: Choice, state_names: Sequence[str]) -> Element:
    """Return the curve over one collective variable, with the scatter of p within each bin as a band."""
    axis = found.axes[0]
    name = layer_name(choice, state_names)
    x, y = _dimension("x", axis), hv.Dimension(("map_y", name))
    value = found.layer(choice.layer)
    within = found.model.within if choice.layer == "learned" else np.zeros_like(value)
    low, high = np.clip(value - within, 0, 1), np.clip(value + within, 0, 1)
    ends = axis.edges[[0, -1]]
    density = found.density / max(float(found.density.max()), 1e-300)
    leaves = [
        hv.Area((axis.fine, found.masks[state] * 1.0) if state in found.masks else ([], []), x, y).opts(
            color=STATE_COLOURS[index % len(STATE_COLOURS)], alpha=0.18, line_alpha=0, show_legend=False
        )
        for index, state in enumerate(state_names)
    ]
    leaves += [
        _curve((axis.centres, density), x, y, PATHS_INK, 1.5),
        hv.Area((axis.centres, low, high), x, [y, "map_high"]).opts(
            color=GREY, alpha=0.35, line_alpha=0, show_legend=False
        ),
        _curve((ends, np.full(2, 0.5)), x, y, GREY, 1.4, line_dash="dashed"),
        _curve((axis.centres, value), x, y, PURPLE, 3.0),
        _shots(found, state_names, x, y),
        _names(found, x, y),
    ]
    return hv.Overlay(leaves).opts(show_legend=False, padding=0, ylim=(0, 1))


# -- finishing ---------------------------------------------------------------------------------------------------------


def finish(figure: Plot, *, on_map: bool) -> None:
    """Do to the figure of a map or a curve what HoloViews has no words for."""
    renderers = glyphs(figure)
    figure.toolbar.active_scroll = None  # the wheel scrolls the page
    names = renderers[-1].glyph
    names.update(background_fill_color=CASING, background_fill_alpha=0.88, border_radius=6, padding=4)
    for tool in figure.select(HoverTool):
        # One point at a time, above the pointer; what is below it, below.
        over_image = renderers[0] in tool.renderers and on_map
        tool.update(limit=1, attachment="below" if over_image else "above")
        if over_image:
            tool.filters = {"@image": CustomJS(code=_ONLY_NUMBERS)}
    if on_map:
        for bar in figure.select(ColorBar):
            ends = bar.color_mapper.low, bar.color_mapper.high
            # No title, it stands in the key: Bokeh writes it upright into the map.
            bar.update(title=None, ticker=FixedTicker(ticks=np.linspace(*ends, 5).tolist()))
        # The image alone sets the ranges, without a margin.
        figure.x_range = DataRange1d(range_padding=0, renderers=renderers[:1])
        figure.y_range = DataRange1d(range_padding=0, renderers=renderers[:1])


def glyphs(figure: Plot) -> list[GlyphRenderer]:
    """Return what draws the leaves of a chart, in order."""
    return [renderer for renderer in figure.renderers if isinstance(renderer, GlyphRenderer)]


def show_overlays(figure: Plot, shown: Sequence[str], *, n_states: int, on_map: bool) -> None:
    """Show or hide what lies over a map or a curve, without drawing anything anew."""
    renderers = glyphs(figure)
    members = {"shooting points": renderers[-2:-1]}
    if on_map:
        members |= {"energy": renderers[2:3], "paths": renderers[3:4]}
    else:
        members |= {"paths": renderers[n_states : n_states + 1]}
    for name, group in members.items():
        for renderer in group:
            renderer.visible = name in shown


# -- lines -------------------------------------------------------------------------------------------------------------


def contours(axes: Sequence[Axis], values: Array, levels: Sequence[float]) -> Line:
    """Return the contours of values in the bins of two axes; where they are nan there are none."""
    return _traced(axes, [axis.centres for axis in axes], values, levels)


def joined(lines: Sequence[Line]) -> Line:
    """Return several lines as one, with nan between them."""
    lines = [line for line in lines if len(line[0])]
    if not lines:
        return _NOTHING
    x, y = (np.concatenate([np.append(line[axis], np.nan) for line in lines])[:-1] for axis in (0, 1))
    return x, y


def _outline(axes: Sequence[Axis], mask: Array) -> Line:
    modes = ["wrap" if axis.periodic else "nearest" for axis in reversed(axes)]
    smooth = gaussian_filter(mask.astype(float), 1.2, mode=modes)  # else circles have steps
    return _traced(axes, [axis.fine for axis in axes], smooth, (0.5,))


def _energy_lines(found: CommittorMap) -> Line:
    """Return contours of the potential energy, one every kT from the lowest point up."""
    if found.energy is None or not np.isfinite(found.energy).any():
        return _NOTHING
    low = float(found.energy[np.isfinite(found.energy)].min())
    energy = np.nan_to_num(found.energy, nan=np.inf)
    levels = math.floor(low) + np.arange(1, _ENERGY_LEVELS + 1)
    return _traced(found.axes, [axis.fine for axis in found.axes], np.minimum(energy, levels[-1] + 5.0), levels)


def _traced(axes: Sequence[Axis], places: Sequence[Array], values: Array, levels: Sequence[float]) -> Line:
    """Return contours of values at places along two axes; lines go on where the ends of an axis meet."""
    if not np.isfinite(values).any():
        return _NOTHING
    width = [(1, 1) if axis.periodic else (0, 0) for axis in reversed(axes)]
    x, y = (_beyond(place) if axis.periodic else place for axis, place in zip(axes, places, strict=True))
    generator = contour_generator(x, y, np.ma.masked_invalid(np.pad(values, width, mode="wrap")))
    return joined([(line[:, 0], line[:, 1]) for level in levels for line in generator.lines(level)])


def _beyond(places: Array) -> Array:
    step = places[1] - places[0]
    return np.concatenate([[places[0] - step], places, [places[-1] + step]])
