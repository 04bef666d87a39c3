"""What jupyter-server-proxy asks for: how `separatrix serve` is started from JupyterLab, and reached through it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any, Final

RUNS: Final = "SEPARATRIX_RUNS"
"""Environment variable with the folder of runs that JupyterLab's launcher shows; ``runs`` where it works by default."""

START_SECONDS: Final = 120.0
"""A shared machine may take a minute to load the pages for the first time."""


def proxied_server() -> dict[str, Any]:
    """Return the server of the pages as jupyter-server-proxy wants servers described.

    It listens to this machine alone, at a port of its own, and whoever is signed in to Jupyter reaches it as
    ``separatrix/`` below Jupyter's own address.

    References
    ----------
    jupyter-server-proxy documentation, "Server Process options".
    """
    folder = os.environ.get(RUNS) or "runs"
    return {
        "command": [_command(), "serve", folder.replace("{", "{{").replace("}", "}}"), "--port", "{port}"],
        "timeout": START_SECONDS,
        # Jupyter has compared the origin of a websocket with its own address when it hands the websocket on; the server
        # behind it knows nothing of that address, and checks the name by which Jupyter reaches it.
        "request_headers_override": {"Origin": "http://localhost:{port}"},
        "launcher_entry": {
            "title": "Separatrix",
            "icon_path": str(Path(__file__).with_name("icon.svg")),
            "category": "Notebook",
        },
    }


def _command() -> str:
    """Return the path of ``separatrix`` beside this Python, which need not be on the path of Jupyter."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    return shutil.which("separatrix", path=os.pathsep.join(places)) or "separatrix"
