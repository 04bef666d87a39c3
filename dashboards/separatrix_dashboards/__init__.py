"""Live pages over Separatrix runs: in the browser by ``separatrix serve``, in JupyterLab by `dashboard` and `view`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix_dashboards.notebook import dashboard, extension, view

__all__ = ["dashboard", "extension", "view"]


def __getattr__(name: str) -> Any:
    # The command line imports this package, and must not wait for Panel.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from separatrix_dashboards import notebook  # noqa: PLC0415

    return getattr(notebook, name)
