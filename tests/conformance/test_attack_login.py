"""Guessing passwords is slow, whoever guesses and from wherever, and keeps nobody else waiting for long."""

from __future__ import annotations

import threading
import time

import pytest
from tests.attacked import PATIENCE, Attacked
from tests.users import PASSWORD, write_users

pytestmark = pytest.mark.slow

SECONDS = 25.0
"""Of guessing."""


@pytest.fixture
def server(tmp_path):
    """Return a server with logins, whose passwords are verified quickly: the waits alone slow guessing here."""
    (tmp_path / "runs").mkdir()
    users = write_users(tmp_path / "users.toml", anna="viewer", ben="viewer")
    with Attacked(tmp_path / "runs", "--auth", users) as made:
        yield made
    assert "Traceback" not in made.text


class Guesser:
    """Guesses as fast as it can, on two connections at once.

    Attributes
    ----------
    codes : of all answers
    """

    def __init__(self, server, name, headers=lambda number: {}):
        self.codes, self._end = [], threading.Event()

        def guess(first):
            number = first
            while not self._end.is_set():
                user = name if isinstance(name, str) else name(number)
                self.codes.append(server.sign_in(user, f"guess {number}", **headers(number))[0])
                number += 2

        self._threads = [threading.Thread(target=guess, args=(first,), daemon=True) for first in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    @property
    def tried(self):
        """How many guesses were held against a password."""
        return self.codes.count(401)


def waited(server, name, headers=None):
    """Sign in as people do, trying again each second; return the seconds it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        if server.sign_in(name, PASSWORD, **(headers or {}))[0] == 302:
            return time.monotonic() - begun
        time.sleep(1.0)
    return PATIENCE


def test_a_name_is_guessed_slowly_and_others_come_in_meanwhile(server):
    with Guesser(server, "anna") as guesser:
        time.sleep(SECONDS)
        other = waited(server, "ben")
    print(f"{guesser.tried} guesses of {len(guesser.codes):,} in {SECONDS:.0f} s; another user waited {other:.1f} s")  # noqa: T201
    assert guesser.tried <= 3 + SECONDS / 4 + 5
    assert len(guesser.codes) > 3 * guesser.tried
    assert set(guesser.codes) == {401, 429}
    assert other < 5


def test_an_address_behind_a_proxy_is_slowed_whatever_names_it_guesses_and_keeps_nobody_waiting(server):
    attacker = lambda number: {"X-Forwarded-For": f"10.0.0.{number % 200}, 203.0.113.9"}  # noqa: E731 - the last hop counts
    with Guesser(server, lambda number: f"user {number}", attacker) as guesser:
        time.sleep(SECONDS)
    print(f"{guesser.tried} guesses of {len(guesser.codes):,} in {SECONDS:.0f} s from one address")  # noqa: T201
    assert guesser.tried <= 8
    with Guesser(server, "anna", attacker) as guesser:
        time.sleep(2)
        owner = waited(server, "anna", {"X-Forwarded-For": "198.51.100.7"})
    print(f"the owner, elsewhere, waited {owner:.1f} s")  # noqa: T201
    assert owner < 15


def test_a_network_of_addresses_is_one_guesser(server):
    attacker = lambda number: {"X-Forwarded-For": f"2001:db8:1:2:{number % 65536:x}::{number % 7}"}  # noqa: E731
    with Guesser(server, lambda number: f"user {number}", attacker) as guesser:
        time.sleep(SECONDS)
    assert guesser.tried <= 8


def test_a_browser_that_knows_the_user_is_not_kept_out_by_guessers_everywhere(server):
    known = server.sign_in("anna", PASSWORD)[1]
    everywhere = lambda number: {"X-Forwarded-For": f"198.18.{number // 250 % 250}.{number % 250}"}  # noqa: E731
    with Guesser(server, "anna", everywhere) as guesser:
        time.sleep(5)
        waits = [waited(server, "anna", {"Cookie": known}) for _ in range(3)]
    print(f"{guesser.tried} guesses from everywhere; the owner waited {max(waits):.1f} s at most")  # noqa: T201
    assert max(waits) < 5
    guesses = [server.sign_in("anna", f"guess {number}", Cookie=known)[0] for number in range(8)]
    assert guesses[-1] == 429, "a browser that was stolen guesses no faster"
    assert server.sign_in("ben", "guess", Cookie=known)[0] == 401, "and is known for one user alone"


def test_guesses_without_end_take_no_memory_without_end(server):
    before = server.peak()
    names = lambda number: f"{number}" + "x" * 900  # noqa: E731
    everywhere = lambda number: {"X-Forwarded-For": f"198.{number // 62500 % 250}.{number // 250 % 250}.{number % 250}"}  # noqa: E731
    with Guesser(server, names, everywhere) as guesser:
        time.sleep(SECONDS)
    print(f"{len(guesser.codes):,} names; memory {(server.peak() - before) / 2**20:.0f} MiB")  # noqa: T201
    assert server.peak() - before < 60 * 2**20
