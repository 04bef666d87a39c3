"""Laws of access: passwords, the file of users, roles, and how guessing is slowed down."""

from __future__ import annotations

import os
import stat
import tempfile
import tomllib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from separatrix.errors import ConfigError, SeparatrixError
from separatrix_dashboards import access
from separatrix_dashboards.access import (
    MIN_PASSWORD,
    PermissionDeniedError,
    Role,
    Throttle,
    Users,
    add_user,
    exposure,
    hash_password,
    permit,
    verify_password,
)

CHEAP = (2, 8, 1)
PASSWORD = "correct horse"  # noqa: S105
passwords = st.text(min_size=MIN_PASSWORD, max_size=40)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    """Hash quickly."""
    monkeypatch.setattr(access, "_COST", CHEAP)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "users.toml"


def write(file, *entries):
    file.write_text("\n".join(entries))
    return file


def entry(name, role="viewer", password=PASSWORD):
    given = "" if password is None else f'password = "{hash_password(password, CHEAP)}"\n'
    return f'[users."{name}"]\n{given}role = "{role}"\n'


# -- roles -------------------------------------------------------------------------------------------------------------


def test_only_operators_may_control():
    permit(Role.OPERATOR, "stop runs")
    for role in set(Role) - {Role.OPERATOR}:
        with pytest.raises(PermissionDeniedError, match="only operators may stop runs"):
            permit(role, "stop runs")
    for forged in (None, "admin", "", True, 1):
        with pytest.raises(PermissionDeniedError):
            permit(forged, "stop runs")
    assert issubclass(PermissionDeniedError, (SeparatrixError, PermissionError))


# -- passwords ---------------------------------------------------------------------------------------------------------


@given(passwords, passwords)
@example("p\u00e4ssw\u00f6rter", "passworter")
def test_the_password_and_no_other_is_right(password, other):
    stored = hash_password(password, CHEAP)
    assert verify_password(password, stored)
    assume(unicodedata.normalize("NFKC", password) != unicodedata.normalize("NFKC", other))
    assert not verify_password(other, stored)


@given(passwords)
@example("p\u00e4ssw\u00f6rter")
def test_a_password_is_right_however_its_letters_are_composed(password):
    composed, decomposed = (unicodedata.normalize(form, password) + "." * MIN_PASSWORD for form in ("NFC", "NFD"))
    assert verify_password(decomposed, hash_password(composed, CHEAP))


def test_equal_passwords_are_stored_differently():
    assert hash_password(PASSWORD) != hash_password(PASSWORD)
    assert PASSWORD not in hash_password(PASSWORD)


def test_guesses_are_made_dear(monkeypatch):
    monkeypatch.undo()
    n, r, p = access._COST
    assert 128 * n * r >= 2**25, "memory for each guess"
    assert n * r * p >= 2**19, "work for each guess"
    stored = hash_password(PASSWORD)
    assert stored.startswith(f"scrypt${n}${r}${p}$")
    assert verify_password(PASSWORD, stored)


@pytest.mark.parametrize("short", ["", "1234567"])
def test_short_passwords_are_refused(short):
    with pytest.raises(ConfigError, match=f"expected {MIN_PASSWORD} characters or more, got {len(short)}"):
        hash_password(short)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_users_are_added_and_changed(file):
    assert add_user(file, "anna", Role.OPERATOR, PASSWORD) is False
    assert add_user(file, "ben", Role.VIEWER, PASSWORD) is False
    users = Users(file)
    assert (users.find("anna").role, users.find("ben").role) == (Role.OPERATOR, Role.VIEWER)
    assert users.find("carl") is None
    assert users.verify("anna", PASSWORD).name == "anna"
    assert users.verify("anna", PASSWORD + "!") is None
    before = users.find("anna")
    assert add_user(file, "anna", Role.VIEWER, "another password") is True
    assert users.find("anna").role is Role.VIEWER, "the file is followed while the server runs"
    assert users.verify("anna", PASSWORD) is None
    assert users.verify("anna", "another password") is not None
    assert users.find("anna").stamp != before.stamp
    assert len(users) == 2


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_the_file_is_for_its_owner_alone(file):
    add_user(file, "anna", Role.OPERATOR, PASSWORD)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert exposure(file) is None
    file.chmod(0o640)
    assert "chmod 600" in exposure(file)
    add_user(file, "ben", Role.VIEWER, PASSWORD)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing is left behind"


@given(st.text(max_size=12))
@example("*")
@example('a"]\nrole')
@example("a.b c")
def test_a_name_is_refused_or_found_again(name):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "users.toml"
        try:
            add_user(file, name, Role.OPERATOR, PASSWORD)
        except ConfigError:
            assert not file.exists()
            return
        assert list(tomllib.loads(file.read_text(encoding="utf-8"))["users"]) == [name]
        assert Users(file).verify(name, PASSWORD).role is Role.OPERATOR


def test_nobody_comes_in_without_a_name_or_with_a_strange_one(file):
    users = Users(write(file, entry("anna", "operator")))
    for name in (None, "", "*", "Anna", "anna ", "guest", "default_user"):
        assert users.find(name) is None
        assert users.verify(name or "", PASSWORD) is None


def test_with_oauth_users_need_no_password_and_a_star_stands_for_the_rest(file):
    write(file, entry("anna@example.org", "operator", None), entry("*", "viewer", None))
    users = Users(file, oauth=True)
    assert users.find("anna@example.org").role is Role.OPERATOR
    assert users.find("whoever@example.org").role is Role.VIEWER
    assert users.find(None) is None
    assert users.verify("anna@example.org", "") is None
    with pytest.raises(ConfigError, match=r"expected a password for 'anna@example\.org', found none"):
        Users(file)


def test_a_file_that_breaks_while_the_server_runs_changes_nothing(file, caplog):
    users = Users(write(file, entry("anna", "operator")))
    for broken in ("[users", "", '[users.anna]\nrole = "boss"'):
        write(file, broken)
        assert users.find("anna").role is Role.OPERATOR
    file.unlink()
    assert users.find("anna").role is Role.OPERATOR
    assert len(caplog.records) == 4
    write(file, entry("ben", "operator"))
    assert users.find("anna") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "expected a file of users, found nothing; make one: separatrix serve --add-user"),
        ("", "expected users, found none"),
        ("[users", "expected TOML"),
        ("[user.anna]\nrole = 'viewer'", r"expected tables \[users.NAME\] and nothing else, found user"),
        ("users = 3", r"expected tables \[users.NAME\]"),
        ("[users]\nanna = 'viewer'", "users.anna: expected password and role, found 'viewer'"),
        ("[users.anna]\nrole = 'viewer'\nadmin = true", "users.anna: expected password and role"),
        ("[users.anna]\npassword = 'x'", "users.anna.role: expected operator or viewer, found None"),
        ("[users.anna]\nrole = 'boss'", "users.anna.role: expected operator or viewer, found 'boss'"),
        ("[users.anna]\nrole = 'viewer'", "expected a password for 'anna', found none"),
        ("[users.anna]\nrole = 'viewer'\npassword = 3", "users.anna.password: expected scrypt"),
        ("[users.anna]\nrole = 'viewer'\npassword = 'scrypt$2$8$1$a'", "users.anna.password: expected scrypt"),
        ("[users.anna]\nrole = 'viewer'\npassword = 'scrypt$3$8$1$YQ==$YQ=='", "users.anna.password: expected scrypt"),
    ],
)
def test_a_wrong_file_is_refused_in_one_clear_line(file, text, says):
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=says) as refused:
        Users(file)
    assert str(refused.value).startswith(str(file))


def test_a_password_in_the_clear_is_refused_and_not_repeated(file):
    file.write_text(f'[users.anna]\nrole = "viewer"\npassword = "{PASSWORD}"')
    with pytest.raises(ConfigError, match="expected scrypt") as refused:
        Users(file)
    assert PASSWORD not in str(refused.value)


# -- guessing ----------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def guess(throttle, clock, seconds):
    """Guess as fast as allowed; return the number of guesses."""
    made, end = 0, clock.now + seconds
    while (wait := throttle.wait("key")) + clock.now < end:
        clock.now += wait
        throttle.begin("key")
        made += 1
    clock.now = end
    return made


@given(longest=st.floats(1.0, 60.0), free=st.integers(1, 5), seconds=st.floats(10.0, 2000.0))
def test_guessing_goes_on_at_the_slowest_pace_and_never_waits_longer(longest, free, seconds):
    clock = Clock()
    throttle = Throttle(longest, free=free, clock=clock)
    made = guess(throttle, clock, seconds)
    assert made <= free + 1 + 7 + seconds / longest
    assert throttle.wait("key") <= longest
    assert throttle.wait("another") == 0.0


def test_many_at_once_get_no_further_than_one_after_the_other():
    throttle = Throttle(30.0, free=3, clock=Clock())
    begun = 0
    for _ in range(100):
        if throttle.wait("key") == 0:
            throttle.begin("key")
            begun += 1
    assert begun == 3


def test_waits_double_up_to_the_longest_and_are_forgotten():
    clock = Clock()
    throttle = Throttle(5.0, free=2, forget=100.0, clock=clock)
    waits = []
    for _ in range(6):
        throttle.begin("key")
        waits.append(throttle.wait("key"))
        clock.now += waits[-1]
    assert waits == [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]
    clock.now += 101.0
    throttle.begin("another")
    throttle.begin("key")
    assert throttle.wait("key") == 0.0


def test_a_right_attempt_is_not_held_against_anybody_and_wipes_no_slate():
    clock = Clock()
    throttle = Throttle(30.0, free=3, clock=clock)
    for _ in range(20):  # many people behind one address
        assert throttle.wait("address") == 0
        throttle.begin("address")
        throttle.take_back("address")
    made = 0
    for _ in range(20):  # a guesser with an account of his own
        for right in (False, True):
            if throttle.wait("address") == 0:
                throttle.begin("address")
                made += not right
                if right:
                    throttle.take_back("address")
    assert made <= 3
    throttle.clear("address")
    assert throttle.wait("address") == 0


def test_names_without_end_take_no_memory_without_end(monkeypatch):
    monkeypatch.setattr(access, "_MOST_KEYS", 50)
    throttle = Throttle(30.0, clock=Clock())
    for name in range(1000):
        throttle.begin(str(name))
    assert len(throttle._attempts) <= 50
