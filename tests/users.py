"""A file of users, as `separatrix serve --auth` takes it."""

from __future__ import annotations

from separatrix_dashboards.access import hash_password

PASSWORD = "correct horse"  # noqa: S105
"""Of everybody."""


def write_users(file, **roles):
    """Write users with their roles, whose password is verified quickly; return the file."""
    password = hash_password(PASSWORD, (2, 8, 1))
    entries = [f'[users.{name}]\npassword = "{password}"\nrole = "{role}"\n' for name, role in roles.items()]
    file.write_text("".join(entries))
    file.chmod(0o600)
    return file
