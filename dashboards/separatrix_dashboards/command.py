"""The command ``separatrix serve``; what it runs is imported when it runs, or every other command would wait for it."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from separatrix.commands.options import examples
from separatrix.errors import ConfigError
from separatrix.resources import usable_cores
from separatrix_dashboards.access import EVERYBODY, Role, add_user


def serve(  # noqa: PLR0913 - a command has as many parameters as options
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of runs; made if it is not there.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes any that is free.")] = 5006,
    address: Annotated[
        str,
        typer.Option("--address", help="Address to listen at; any but this machine's own demands a login, or --demo."),
    ] = "127.0.0.1",
    auth: Annotated[
        Path | None, typer.Option("--auth", metavar="FILE", help="Users who may sign in, made by --add-user.")
    ] = None,
    oauth_provider: Annotated[
        str | None,
        typer.Option("--oauth-provider", envvar="PANEL_OAUTH_PROVIDER", help="Sign in there: github, okta, ..."),
    ] = None,
    oauth_key: Annotated[
        str | None, typer.Option("--oauth-key", envvar="PANEL_OAUTH_KEY", help="Name of the OAuth client.")
    ] = None,
    oauth_secret: Annotated[
        str | None,
        typer.Option("--oauth-secret", envvar="PANEL_OAUTH_SECRET", help="Its secret; better in the environment."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Everybody may look, nobody may control.")] = False,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="For everybody, without a login, at any address: the runs in DIR to look at, and for each visitor a "
            "session of a landscape to try, with limits; --max-workers of them at once.",
        ),
    ] = False,
    max_workers: Annotated[
        int | None,
        typer.Option("--max-workers", help="Workers that all runs share. Default: one per core.", show_default=False),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="SYSTEM", help="Sample a system of the catalogue at once, in DIR/SYSTEM."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="Address of a proxy before this server; repeatable."),
    ] = None,
    add: Annotated[
        str | None, typer.Option("--add-user", metavar="NAME", help="Write a user into --auth FILE, and leave.")
    ] = None,
    role: Annotated[Role, typer.Option("--role", help="What the user of --add-user may do.")] = Role.VIEWER,
) -> None:
    """Serve live pages of the runs in a folder, and start, pause and stop them from there."""
    if add is not None:
        _add_user(auth, add, role, oauth=oauth_provider is not None)
        return
    if folder is None:
        raise ConfigError("expected a folder of runs: separatrix serve DIR")
    from separatrix_dashboards import server  # noqa: PLC0415

    oauth = None
    if oauth_provider is not None:
        if not oauth_key or not oauth_secret:
            raise ConfigError(
                "--oauth-provider: expected --oauth-key and --oauth-secret of the client you registered there, or "
                "PANEL_OAUTH_KEY and PANEL_OAUTH_SECRET in the environment"
            )
        oauth = server.OAuth(provider=oauth_provider, key=oauth_key, secret=oauth_secret)
    workers = usable_cores() if max_workers is None else max_workers
    if workers < 1:
        raise ConfigError(f"--max-workers: expected 1 or more, got {workers}")
    options = server.Options(
        folder=folder,
        port=port,
        address=address,
        auth=auth,
        oauth=oauth,
        read_only=read_only,
        demo=demo,
        max_workers=workers,
        origins=tuple(allow_origin or ()),
        start=start,
    )
    users = server.check_options(options)
    raise typer.Exit(server.serve(options, users))


serve.epilog = examples(
    "separatrix serve runs",
    "separatrix serve runs --start alanine-dipeptide",
    "separatrix serve --add-user ada --role operator --auth users.toml",
    "separatrix serve runs --address 0.0.0.0 --auth users.toml",
    "separatrix serve runs --demo --address 0.0.0.0",
)


def _add_user(file: Path | None, name: str, role: Role, *, oauth: bool) -> None:
    if file is None:
        raise ConfigError(f"--add-user {name}: expected --auth FILE to write the user into")
    password = None if oauth or name == EVERYBODY else _ask_password(name)
    known = add_user(file, name, role, password)
    how = "signs in through OAuth" if password is None else "signs in with a password"
    print(f"{'changed' if known else 'added'} {name} in {file}: {role.value}, {how}")  # noqa: T201


def _ask_password(name: str) -> str:
    """Return a password typed twice, unseen, or the first line of standard input when that is no terminal."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"password for {name}: ")
    if getpass.getpass("once more: ") != password:
        raise ConfigError("the two passwords differ; nothing was written")
    return password
