"""The pages of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix_dashboards.workspace import Workspace


def routes(workspace: Workspace) -> dict[str, Callable[[], Any]]:
    """Return what is served under which address; every page asks anew who is looking."""
    from separatrix_dashboards.pages.compare import compare_page  # noqa: PLC0415
    from separatrix_dashboards.pages.home import home_page  # noqa: PLC0415
    from separatrix_dashboards.pages.new import new_page  # noqa: PLC0415
    from separatrix_dashboards.pages.run import run_page  # noqa: PLC0415
    from separatrix_dashboards.pages.visit import visit_page  # noqa: PLC0415

    pages = {"/": home_page, "/run": run_page, "/compare": compare_page}
    pages |= {"/new": new_page} if workspace.sandbox is None else {"/try": visit_page}
    return {address: (lambda page=page: page(workspace, workspace.role())) for address, page in pages.items()}
