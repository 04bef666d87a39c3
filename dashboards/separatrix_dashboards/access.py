"""Who may do what: roles, the file of users, and how guessing passwords is slowed down.

A file of users is TOML, made and changed by ``separatrix serve --add-user NAME --role ROLE --auth FILE``::

    [users.anna]
    password = "scrypt$32768$8$3$..."
    role = "operator"

    [users."ben@example.org"]        # comes in through OAuth: no password
    role = "viewer"

    [users."*"]                      # with OAuth only: whoever the provider lets in
    role = "viewer"
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import shlex
import stat
import threading
import time
import tomllib
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import tomli_w

from separatrix.errors import ConfigError, SeparatrixError

LIGHTS = "separatrix-lights"
"""Name of the cookie that says whether pages are dark; besides the user's it is all that pages are told."""

VISITOR = "separatrix-visitor"
"""Name of the cookie by which a server for everybody knows whose session is whose."""

_LOG = logging.getLogger(__name__)

MIN_PASSWORD = 8
"""Characters of the shortest password that is taken."""

EVERYBODY = "*"
"""The entry for all whom an OAuth provider lets in and who have no entry of their own."""

_COST = (2**15, 8, 3)
"""n, r, p of scrypt: 32 MiB and some tenths of a second for each guess."""


class Role(StrEnum):
    """What a user of the pages may do."""

    OPERATOR = "operator"
    """Sees everything; creates, starts, pauses, resumes and stops runs."""
    VIEWER = "viewer"
    """Sees everything."""


class PermissionDeniedError(SeparatrixError, PermissionError):
    """Somebody who may only look tried to control a run."""


def permit(role: Role, action: str) -> None:
    """Refuse a control to everybody but operators.

    Parameters
    ----------
    action : what is controlled, to end "operators may ..."

    Raises
    ------
    PermissionDeniedError
        If the role is another one.

    Examples
    --------
    >>> permit(Role.OPERATOR, "stop runs")
    >>> permit(Role.VIEWER, "stop runs")
    Traceback (most recent call last):
    separatrix_dashboards.access.PermissionDeniedError: only operators may stop runs, and this page is a viewer's...
    """
    if role is not Role.OPERATOR:
        raise PermissionDeniedError(
            f"only operators may {action}, and this page is a viewer's; ask who runs this server for the other role"
        )


# -- passwords ---------------------------------------------------------------------------------------------------------


def hash_password(password: str, cost: tuple[int, int, int] | None = None) -> str:
    """Return what is stored of a password: ``scrypt$n$r$p$salt$hash``.

    Parameters
    ----------
    cost : n, r, p of scrypt; by default dear enough for guessers

    Raises
    ------
    ConfigError
        If the password is too short.
    """
    if len(password) < MIN_PASSWORD:
        raise ConfigError(f"password: expected {MIN_PASSWORD} characters or more, got {len(password)}")
    cost, salt = cost or _COST, secrets.token_bytes(16)
    numbers = "$".join(map(str, cost))
    return f"scrypt${numbers}${_text(salt)}${_text(_scrypt(password, salt, cost))}"


def verify_password(password: str, stored: str) -> bool:
    """Return whether a password is the stored one; slow on purpose, and equally slow for wrong ones."""
    cost, salt, expected = _parse_hash(stored)
    return hmac.compare_digest(_scrypt(password, salt, cost), expected)


def _scrypt(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    # The same letter is typed as one or as two characters on different systems.
    data = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=256 * r * (n + p), dklen=32)


def _parse_hash(stored: str) -> tuple[tuple[int, int, int], bytes, bytes]:
    kind, *numbers, salt, digest = stored.split("$")
    if kind != "scrypt":
        raise ValueError(kind)
    n, r, p = map(int, numbers)
    if not (1 < n <= 2**20 and n & (n - 1) == 0 and 0 < r <= 32 and 0 < p <= 16):
        raise ValueError(numbers)
    return (n, r, p), base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# -- users -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One entry of a file of users.

    Attributes
    ----------
    password : as `hash_password` returns it, or None for who comes in through OAuth
    """

    name: str
    role: Role
    password: str | None = None

    @property
    def stamp(self) -> str:
        """Tell one password from the next, so that a new one ends what the old one opened."""
        return hashlib.sha256((self.password or "").encode()).hexdigest()[:16]


class Users:
    """The users in a file, followed when it is changed.

    Parameters
    ----------
    file : a file of users
    oauth : whether users sign in elsewhere; else each needs a password

    Raises
    ------
    ConfigError
        If the file cannot be read, or holds something else than users.
    """

    def __init__(self, file: Path, *, oauth: bool = False) -> None:
        self.file, self.oauth = Path(file), oauth
        self._lock = threading.Lock()
        self._stamp = _stamp(self.file)
        self._users = self._read()
        # Verified in place of an unknown name's password: how long an answer takes tells nobody which names exist.
        self._decoy = hash_password(secrets.token_hex(8), self._usual_cost())

    def __len__(self) -> int:
        return len(self._users)

    def find(self, name: str | None) -> User | None:
        """Return a user, or None if there is none of that name."""
        if not name:
            return None
        users = self._current()
        return users.get(name, users.get(EVERYBODY))

    def verify(self, name: str, password: str) -> User | None:
        """Return the user if name and password are right; takes some tenths of a second."""
        user = self.find(name)
        stored = self._decoy if user is None or user.password is None else user.password
        right = verify_password(password, stored)
        return user if right and stored is not self._decoy else None

    def _current(self) -> Mapping[str, User]:
        stamp = _stamp(self.file)
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._users = self._read()
                except ConfigError as error:
                    _LOG.warning("%s; the users known so far stay", error)
            return self._users

    def _read(self) -> dict[str, User]:
        entries = _read_entries(self.file)
        users = {name: _user(self.file, name, entry) for name, entry in entries.items()}
        if not users:
            raise ConfigError(f"{self.file}: expected users, found none; {_advice(self.file)}")
        if not self.oauth:
            for user in users.values():
                if user.password is None:
                    raise ConfigError(
                        f"{self.file}: expected a password for {user.name!r}, found none; nobody comes in without, "
                        f"but through OAuth: {_advice(self.file, user.name)}"
                    )
        return users

    def _usual_cost(self) -> tuple[int, int, int]:
        stored = [user.password for user in self._users.values() if user.password is not None]
        return _parse_hash(stored[0])[0] if stored else _COST


def add_user(file: Path, name: str, role: Role, password: str | None) -> bool:
    """Write a user into a file, readable for its owner only; return whether the user was there before.

    Parameters
    ----------
    password : None for who comes in through OAuth

    Raises
    ------
    ConfigError
        If the password is too short, the name is no name, or the file cannot be read or written.
    """
    if not name or name != name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ConfigError(f"user: expected a name of 1 to {_LONGEST_NAME} visible characters, got {name!r}")
    if name == EVERYBODY and password is not None:
        raise ConfigError(f"user: {EVERYBODY!r} stands for all whom an OAuth provider lets in; it has no password")
    entries = _read_entries(file) if file.exists() else {}
    known = name in entries
    hashed = {} if password is None else {"password": hash_password(password)}
    entries[name] = {**hashed, "role": role.value}
    draft = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(tomli_w.dumps({"users": entries}))
        draft.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
    return known


def exposure(file: Path) -> str | None:
    """Return what is wrong with the permissions of a file of users, in one line; None if nothing is."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return None
    if os.name != "posix" or not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return None
    return f"{file}: others on this machine may read or change this file of users; close it: chmod 600 {file}"


_LONGEST_NAME = 100


def _advice(file: Path, name: str = "NAME") -> str:
    return f"separatrix serve --add-user {shlex.quote(name)} --role operator --auth {shlex.quote(str(file))}"


def _read_entries(file: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: expected a file of users, found nothing; make one: {_advice(file)}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: expected TOML, found: {error}") from error
    entries = data.get("users", {})
    if set(data) - {"users"} or not isinstance(entries, dict):
        raise ConfigError(f"{file}: expected tables [users.NAME] and nothing else, found {', '.join(data)}")
    return entries


def _user(file: Path, name: str, entry: Any) -> User:
    where = f"{file}: users.{name}"
    if not isinstance(entry, dict) or set(entry) - {"password", "role"}:
        raise ConfigError(f"{where}: expected password and role, found {entry!r}")
    roles = [role.value for role in Role]
    if entry.get("role") not in roles:
        raise ConfigError(f"{where}.role: expected {' or '.join(roles)}, found {entry.get('role')!r}")
    password = entry.get("password")
    if password is not None:
        try:
            _parse_hash(password)
        except (ValueError, AttributeError, TypeError):
            # What stands there may be the password itself: it is not repeated.
            raise ConfigError(
                f"{where}.password: expected scrypt$n$r$p$salt$hash, found something else; "
                f"make it: {_advice(file, name)}"
            ) from None
        if name == EVERYBODY:
            raise ConfigError(f"{where}: stands for all whom an OAuth provider lets in; it has no password")
    return User(name=name, role=Role(entry["role"]), password=password)


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


# -- guessing ----------------------------------------------------------------------------------------------------------


class Throttle:
    """Slows down guessing: after some free attempts each further one must wait twice as long as the one before.

    An attempt counts when it begins, so that many at once get no further than one after the other. Nobody sleeps:
    who comes too early is told how long to wait, and that costs the server nothing.

    Parameters
    ----------
    longest : seconds, the longest wait; an attacker who keeps guessing keeps the owner waiting as long
    free : attempts without a wait
    forget : seconds of quiet after which all is forgotten
    clock : seconds from anywhere
    """

    def __init__(
        self, longest: float, *, free: int = 3, forget: float = 900.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._longest, self._free, self._forget, self._clock = longest, free, forget, clock
        self._attempts: dict[str, tuple[int, float]] = {}  # key: attempts, and when the next one may come

    def wait(self, key: str) -> float:
        """Return the seconds until the next attempt may come, 0 for now."""
        _, next_time = self._attempts.get(key, (0, 0.0))
        return max(0.0, next_time - self._clock())

    def begin(self, key: str) -> None:
        """Count an attempt that begins now."""
        now = self._clock()
        self._prune(now)
        attempts = self._attempts.pop(key, (0, 0.0))[0] + 1
        delay = 0.0 if attempts < self._free else min(self._longest, 2.0 ** min(attempts - self._free, 60))
        self._attempts[key] = attempts, now + delay

    def take_back(self, key: str) -> None:
        """Uncount an attempt that was right."""
        attempts, _ = self._attempts.pop(key, (1, 0.0))
        if attempts > 1:
            self._attempts[key] = attempts - 1, self._clock()

    def clear(self, key: str) -> None:
        """Forget the attempts: the last one was right."""
        self._attempts.pop(key, None)

    def _prune(self, now: float) -> None:
        """Forget what is old, oldest first, and more if there is too much: names cost a guesser nothing."""
        while self._attempts:
            key = next(iter(self._attempts))
            if self._attempts[key][1] + self._forget > now and len(self._attempts) < _MOST_KEYS:
                return
            del self._attempts[key]


_MOST_KEYS = 10_000
