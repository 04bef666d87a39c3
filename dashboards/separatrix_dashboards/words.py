"""Numbers and times as pages write them."""

from __future__ import annotations

import html
import math
import time


def ago(seconds_since_1970: float, now: float | None = None) -> str:
    """Return how long ago something was.

    >>> ago(100.0, now=280.0), ago(100.0, now=103.0)
    ('3 minutes ago', 'just now')
    """
    if seconds_since_1970 <= 0:
        return "never"
    seconds = max(0.0, (time.time() if now is None else now) - seconds_since_1970)
    if seconds < 10:
        return "just now"
    for size, unit in ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return "just now"


def lasting(seconds: float | None) -> str:
    """Return a duration in words, to two units.

    >>> lasting(75.4), lasting(3 * 3600 + 120), lasting(0.4)
    ('1 min 15 s', '3 h 2 min', 'less than 1 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 1:
        return "less than 1 s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next(i for i, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def with_error(value: float | None, error: float | None, digits: int = 3) -> str:
    """Return a number with its standard error.

    >>> with_error(0.4216, 0.0123), with_error(None, None)
    ('0.422 ± 0.012', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    if error is None or not math.isfinite(error):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def escaped(text: object) -> str:
    """Return text that HTML shows as it is."""
    return html.escape(str(text), quote=True)


def in_a_line(error: BaseException) -> str:
    r"""Return what an error says as part of a line of the log, whatever a stranger made it say.

    >>> in_a_line(ValueError("no\n\x1b number"))
    'ValueError: no ? number'
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(error).split())[:160])
    return f"{type(error).__name__}: {text}"
