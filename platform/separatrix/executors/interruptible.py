"""Work that Ctrl-C ends early without losing what there is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def until_interrupted(work: Callable[[], _Result], stop: threading.Event) -> _Result:
    """Work in a thread of its own; Ctrl-C sets ``stop`` and waits for what there is, a second one is raised."""
    ended = threading.Event()
    found: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="interruptible work", daemon=True).start()
    try:
        ended.wait()
    except KeyboardInterrupt:
        stop.set()
        ended.wait()
    if errors:
        raise errors[0]
    return found[0]
