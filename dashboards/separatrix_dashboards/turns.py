"""Turns: documents are updated one after the other, and between two of them the server does what else there is.

Twenty updates that wait in the event loop are done in one go, and a click that comes meanwhile waits for all of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

PAUSE = 0.003
"""Seconds between two turns. Reading a message takes the event loop several rounds; an idle one does them all."""

LONGEST = 0.5
"""Seconds after which others go on: a document may be locked while one of its controls works."""


@dataclass(eq=False, slots=True)
class Turn:
    """An update of one document.

    Attributes
    ----------
    begin : has the document update itself, soon; called in the event loop
    rank : the highest is next, of equal ones the oldest; asked when a turn is free
    timer : ends the turn when it takes too long
    """

    begin: Callable[[Turn], None]
    rank: Callable[[], float]
    timer: asyncio.TimerHandle | None = None


class Turns:
    """Who is updated when, in one event loop.

    Parameters
    ----------
    pause, longest : seconds
    """

    def __init__(self, pause: float = PAUSE, longest: float = LONGEST) -> None:
        self._pause, self._longest = pause, longest
        self._lock = threading.Lock()
        self._waiting: list[Turn] = []
        self._current: Turn | None = None
        self._going = False

    def ask(self, loop: asyncio.AbstractEventLoop, turn: Turn) -> None:
        """Ask for a turn, from any thread.

        Parameters
        ----------
        loop : the same for all
        """
        with self._lock:
            self._waiting.append(turn)
            if self._going:
                return
            self._going = True
        loop.call_soon_threadsafe(self._next, loop, context=Context())

    def over(self, turn: Turn) -> None:
        """End a turn, in the event loop; if it is not the current one, it was ended before."""
        if self._current is not turn:
            return
        self._current = None
        if turn.timer is not None:
            turn.timer.cancel()
        loop = asyncio.get_running_loop()
        # With an empty context: that of a document would keep the document.
        loop.call_later(self._pause, self._next, loop, context=Context())

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if not self._waiting:
                self._going = False
                return
            turn = self._current = max(self._waiting, key=lambda each: each.rank())
            self._waiting.remove(turn)
        turn.timer = loop.call_later(self._longest, self.over, turn, context=Context())
        turn.begin(turn)
