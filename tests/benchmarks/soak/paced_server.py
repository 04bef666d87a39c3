"""`separatrix serve`, whose sessions keep a pace: the first argument in shots per second, the rest is the command's.

What pages offer has no pace but that of the machine, at which two hours would make a million shots.
"""

from __future__ import annotations

import sys
from functools import partialmethod

from separatrix.cli import main
from separatrix_dashboards.sessions import SessionPool


def serve(pace, arguments):
    """Serve until told to stop."""
    SessionPool.start = partialmethod(SessionPool.start, pace=pace)
    main(["serve", *arguments])


if __name__ == "__main__":
    serve(float(sys.argv[1]), sys.argv[2:])
