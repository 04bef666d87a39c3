"""The controls of views: plain Panel widgets in the house style.

Material components are for the frame of served pages alone: in a notebook without internet each of them would carry its
whole library into the cell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import panel as pn
import param
from panel.custom import AnyWidgetComponent

from separatrix.errors import ConfigError
from separatrix_dashboards.theme import CSS

WIDGET_CSS: Final = (files("separatrix_dashboards") / "widgets.css").read_text(encoding="utf-8")

_COMMON: Final[Mapping[str, Any]] = {"stylesheets": [WIDGET_CSS], "margin": (4, 6)}


def button(
    label: str, clicked: Callable[[Any], None] | None = None, *, primary: bool = False, **options: Any
) -> pn.widgets.Button:
    """Return a button."""
    kind = "primary" if primary else "default"
    return pn.widgets.Button(label=label, on_click=clicked, color=kind, **{**_COMMON, **options})


def select(label: str, options: Sequence[Any] | Mapping[str, Any], value: Any = None, **more: Any) -> pn.widgets.Select:
    """Return a choice of one."""
    known = dict(options) if isinstance(options, Mapping) else list(options)
    values = list(known.values()) if isinstance(known, dict) else known
    first = value if value in values else (values[0] if values else None)
    return pn.widgets.Select(label=label, options=known, value=first, **{**_COMMON, "width": 150, **more})


def choices(
    label: str, options: Sequence[str] | Mapping[str, Any], value: Sequence[Any] = (), **more: Any
) -> pn.widgets.CheckButtonGroup:
    """Return buttons of which any number may be pressed."""
    known = dict(options) if isinstance(options, Mapping) else list(options)
    return pn.widgets.CheckButtonGroup(label=label, options=known, value=list(value), **{**_COMMON, **more})


def one_of(
    label: str, options: Sequence[str] | Mapping[str, Any], value: Any = None, **more: Any
) -> pn.widgets.RadioButtonGroup:
    """Return buttons of which one is pressed."""
    known = dict(options) if isinstance(options, Mapping) else list(options)
    values = list(known.values()) if isinstance(known, dict) else known
    return pn.widgets.RadioButtonGroup(
        label=label, options=known, value=values[0] if value is None else value, **{**_COMMON, **more}
    )


def integer(label: str, value: int, *, least: int = 0, step: int = 1, **more: Any) -> pn.widgets.IntInput:
    """Return a field for a whole number."""
    return pn.widgets.IntInput(label=label, value=value, start=least, step=step, **{**_COMMON, "width": 110, **more})


def number_in(field: pn.widgets.IntInput) -> int:
    """Return what stands in a field for a whole number.

    Raises
    ------
    ConfigError
        If it was left empty.
    """
    if field.value is None:
        raise ConfigError(f"{field.label}: expected a number, the field is empty")
    return int(field.value)


def checkbox(label: str, value: bool = False, **more: Any) -> pn.widgets.Checkbox:
    """Return a box to tick."""
    return pn.widgets.Checkbox(label=label, value=value, **{**_COMMON, **more})


def slider(label: str, **more: Any) -> pn.widgets.IntSlider:
    """Return a slider over positions; one over values is built anew by Panel whenever there is another value."""
    return pn.widgets.IntSlider(label=label, start=0, end=1, value=0, **{**_COMMON, **more})


def download(label: str, content: Callable[[], Any], filename: str, **more: Any) -> pn.widgets.FileDownload:
    """Return a button that makes a file when it is clicked, in a thread: meanwhile the other pages go on."""

    async def made() -> Any:
        return await asyncio.to_thread(content)

    return pn.widgets.FileDownload(
        callback=made, filename=filename, label=label, color="default", **{**_COMMON, "width": 170, **more}
    )


def tabs(*named: tuple[str, Any], **more: Any) -> pn.Tabs:
    """Return tabs."""
    return pn.Tabs(*named, **{"stylesheets": [WIDGET_CSS], "sizing_mode": "stretch_width", **more})


class CopyText(AnyWidgetComponent):
    """A text in a box, and a button that copies it."""

    # No JSComponent: Panel 1.9 hands the model of the first kind of component that a window loads to those of the other
    # kind, too, and neither the viewer beside this text nor the text would know what to do with it.
    text = param.String()

    _stylesheets = [  # noqa: RUF012 - Panel's own way
        CSS,
        """
        .copy-text { display: block; width: 100%; position: relative; }
        pre { max-height: 320px; }
        button { position: absolute; right: 8px; top: 8px; font: inherit; font-size: 12.5px; padding: 3px 10px;
          border-radius: 6px; border: 1px solid var(--sx-line); background: var(--sx-paper); color: var(--sx-ink);
          cursor: pointer; }
        button:hover { border-color: var(--sx-accent); }
        """,
    ]
    _esm = """
    function select(node) {
      const range = document.createRange()
      range.selectNodeContents(node)
      const selection = node.getRootNode().getSelection?.() ?? window.getSelection()
      selection.removeAllRanges()
      selection.addRange(range)
    }
    async function copy(text, node) {
      // Browsers give pages the clipboard over HTTPS and on their own machine only.
      if (navigator.clipboard && window.isSecureContext) {
        try { await navigator.clipboard.writeText(text); return true } catch { /* refused: the other way */ }
      }
      const area = document.createElement("textarea")
      area.value = text
      area.style.position = "fixed"
      area.style.opacity = "0"
      document.body.append(area)
      area.select()
      const done = document.execCommand("copy")
      area.remove()
      if (!done) select(node)
      return done
    }
    function render({ model, el }) {
      const pre = document.createElement("pre")
      pre.className = "sx-toml"
      const button = document.createElement("button")
      button.type = "button"
      button.textContent = "Copy"
      const show = () => { pre.textContent = model.get("text") }
      button.addEventListener("click", async () => {
        button.textContent = (await copy(model.get("text"), pre)) ? "Copied" : "Press Ctrl-C"
        setTimeout(() => { button.textContent = "Copy" }, 1800)
      })
      model.on("change:text", show)
      show()
      el.append(pre, button)
      return () => {}
    }
    export default { render }
    """
