"""The frame of every page: bar with navigation, theme and user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui
from bokeh.document import Document
from bokeh.events import ConnectionLost
from bokeh.models import Checkbox, CustomJS
from panel.util import edit_readonly

from separatrix_dashboards.access import LIGHTS
from separatrix_dashboards.theme import ACCENT, CSS, DARK_BAR, FONT, SKY, THEME_CONFIG, html
from separatrix_dashboards.words import escaped

if TYPE_CHECKING:
    from separatrix_dashboards.access import Role
    from separatrix_dashboards.workspace import Workspace

LINKS = (("Runs", "./"), ("New session", "new"), ("Compare", "compare"))

_REMEMBER = f"""
const are = cb_obj.dark_theme ? "dark" : "light"
document.cookie = `{LIGHTS}=${{are}}; path=/; max-age=31536000; SameSite=Lax`
"""
_AS_BEFORE = f"""
const chosen = /(?:^|; ){LIGHTS}=(\\w+)/.exec(document.cookie)?.[1]
const others = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"
if ((chosen ?? others) === "dark") lights.active = true
"""

_TEMPLATE = Path(__file__).with_name("page.html")

_BAR = """
:host { color: inherit; }
nav { display: flex; gap: 18px; padding-left: 28px; align-items: center; font-size: 14px; }
nav a { color: inherit; text-decoration: none; opacity: 0.82; padding: 4px 2px; border-bottom: 2px solid transparent; }
nav a:hover, nav a:focus-visible { opacity: 1; border-bottom-color: currentColor; }
nav a[aria-current] { opacity: 1; border-bottom-color: currentColor; }
nav .who { opacity: 0.8; margin-left: auto; }
"""


def shell(
    workspace: Workspace, role: Role, title: str, *main: Any, head: Any = None, first: str = "", first_css: str = ""
) -> pmui.Page:
    """Return a whole page.

    Parameters
    ----------
    title : of the browser's tab, and which navigation link is the current one
    main : what the page shows
    head : stays in sight while the rest scrolls
    first : HTML that is seen at once, until the browser has made the page
    first_css : style sheet of it, besides that of all panes
    """
    links = _links(role, title)
    document = pn.state.curdoc
    if document is not None:
        document.on_event(ConnectionLost, lambda event: _let_go(document))
        document.template_variables.update(
            first=first,
            links=links,
            css=CSS + first_css,
            accent=ACCENT,
            sky=SKY,
            dark_bar=DARK_BAR["backgroundColor"],
            font=FONT,
        )
    content = [] if head is None else [_sticky(head)]
    lights = _lights()
    page = pmui.Page(
        title="Separatrix",
        meta_title=f"{title} · Separatrix" if title else "Separatrix",
        header=[_bar(workspace, role, links)],
        main=[
            pn.Column(
                *content, *main, pn.pane.Bokeh(lights, margin=0), sizing_mode="stretch_width", margin=(0, 18, 24, 18)
            )
        ],
        main_width=1560,
        sidebar_variant="temporary",
        theme_config=THEME_CONFIG,
        dark_theme=lights.active,
        busy_indicator=None,
        stylesheets=[CSS],
        template=_TEMPLATE,
    )
    page.jscallback(dark_theme=_REMEMBER)  # in the browser: whoever leaves at once is quicker than the server
    lights.on_change("active", lambda attribute, old, new: setattr(page, "dark_theme", new))
    page.param.watch(lambda event: setattr(lights, "active", event.new), "dark_theme")
    with edit_readonly(page):
        page.busy = pn.rx(False)  # else the server's own state, which all pages share, keeps every page for ever
    return page


def _let_go(document: Document) -> None:
    """Have the server give up a page that was closed at its next look, not 15 s later: browsers do not come back."""
    if document.session_context is not None:
        document.session_context.session.request_expiration()


def _lights() -> Checkbox:
    """Return a box in nobody's sight that is ticked on dark pages.

    A server that hands cookies to its pages makes them dark from the start. Otherwise, and until somebody chose,
    the browser says it once it has made the page: it is as light or dark as the other windows of the machine.
    """
    chosen = (pn.state.cookies or {}).get(LIGHTS)
    lights = Checkbox(active=chosen == "dark", visible=False)
    if chosen is None and pn.state.curdoc is not None:
        pn.state.curdoc.js_on_event("document_ready", CustomJS(args={"lights": lights}, code=_AS_BEFORE))
    return lights


def _links(role: Role, title: str) -> str:
    return "".join(
        f'<a href="{address}"{" aria-current=page" if name == title else ""}>{name}</a>'
        for name, address in LINKS
        if role == "operator" or name != "New session"
    )


def _bar(workspace: Workspace, role: Role, links: str) -> pn.pane.HTML:
    user = pn.state.user if pn.state.user not in (None, "guest") else None
    may = "" if role == "operator" else "read-only"
    out = "" if user is None else f'{escaped(user)} · <a href="logout">log out</a>'
    place = f"runs in {escaped(workspace.folder.name or workspace.folder)}"
    if workspace.sandbox is not None:  # visitors know no folder of the server
        place, may = "demo", ""
    who = f'<span class="who">{" · ".join(filter(None, (place, may, out)))}</span>'
    return html(f"<nav>{links}{who}</nav>", stylesheets=[_BAR])


def _sticky(head: Any) -> pn.Column:
    return pn.Column(
        head,
        sizing_mode="stretch_width",
        margin=0,
        styles={"position": "sticky", "top": "0", "z-index": "5", "background": "var(--panel-background-color, #fff)"},
    )
