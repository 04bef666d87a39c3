"""Questions and answers of a contender: one JSON object a line, on standard input and output."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class Line:
    """The contender's end; whatever else is printed goes to standard error."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def tell(self, **answer: Any) -> None:
        """Send one answer."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for the next question; when nobody asks any more, the contender ends."""
        question = sys.stdin.readline()
        if not question:
            raise SystemExit
        return json.loads(question)
