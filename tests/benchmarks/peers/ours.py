"""Separatrix: a session that samples, learns and commits, held by pauses between the questions."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil
from lines import Line

from separatrix.records import RunState
from separatrix.session import Session

POLL = 0.002
QUIET = 0.05
"""Seconds without processor time after which nothing is at work, a training that outlasts the shots neither."""


def main() -> None:
    """Make as many Monte Carlo steps as are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    line = Line()
    session = Session.open(arguments.run)
    session.start(10**9, workers=arguments.workers, platform="Reference")
    hold(session)
    line.tell(ready=True)
    try:
        while True:
            question = line.hear()
            before = session.status
            session.resume()
            while session.status.steps < before.steps + question["steps"]:
                session.wait(POLL)
            hold(session)
            after = session.status
            line.tell(
                steps=after.steps - before.steps,
                md_steps=after.md_steps - before.md_steps,
                transitions=after.transitions - before.transitions,
            )
    finally:
        session.stop()


def hold(session: Session) -> None:
    """Pause a session, and wait until its processes rest."""
    session.pause()
    while session.status.state is not RunState.PAUSED:
        session.wait(POLL)
    children = psutil.Process().children(recursive=True)
    spent = -1.0
    while (now := sum(sum(child.cpu_times()[:2]) for child in children)) != spent:
        spent = now
        time.sleep(QUIET)


if __name__ == "__main__":
    main()
