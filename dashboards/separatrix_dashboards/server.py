"""The server of the pages: one process with the sessions started from it, for this machine alone or behind a login."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psutil

from separatrix.errors import ConfigError
from separatrix.expressions import suggestion
from separatrix.memory import settle
from separatrix.systems import CATALOGUE
from separatrix_dashboards.access import LIGHTS, VISITOR, Role, Users, exposure

if TYPE_CHECKING:
    from panel.io.server import Server
    from panel.viewable import Viewable

    from separatrix_dashboards.workspace import Workspace

# Panel, and the pages with it, is imported where it is used: a mistyped option must not wait for it.

Routes = Mapping[str, Callable[[], "Viewable"]]

CHECK_MS: Final = 2_000
"""Between looks for pages that were closed."""

STOP_SECONDS: Final = 10.0
"""Sessions get this long to end in order when the server is stopped; what is committed is stored in any case."""

STARTED_STEPS: Final = 10_000
"""Steps that ``--start`` adds to a run: some minutes of a small molecule."""

EXAMPLE: Final = "three-basins"
"""What ``--demo`` shows to those who come first when there is nothing prepared."""

EXAMPLE_STEPS: Final = 1_000

_EXIT_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """An OAuth client; what else a provider needs is taken from Panel's environment variables ``PANEL_OAUTH_...``."""

    provider: str
    key: str
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says.

    Attributes
    ----------
    demo : whether everybody may look, and sample a landscape in a session of their own
    origins : further addresses at which browsers see this server, such as that of a proxy
    start : a system of the catalogue to sample at once, in a run of its name
    """

    folder: Path
    port: int = 5006
    address: str = "127.0.0.1"
    auth: Path | None = None
    oauth: OAuth | None = None
    read_only: bool = False
    demo: bool = False
    max_workers: int = 1
    origins: tuple[str, ...] = ()
    start: str | None = None


# -- before anything slow ----------------------------------------------------------------------------------------------


def check_options(options: Options) -> Users | None:
    """Refuse what cannot work or would let in anybody, before anything slow happens; return the users.

    Raises
    ------
    ConfigError
        In one line, with the command that would be right where there is one.
    """
    command = f"separatrix serve {options.folder} --address {options.address}"
    new_user = "separatrix serve --add-user NAME --role operator --auth users.toml"
    if options.demo:
        _check_demo(options)
    if options.oauth is not None and options.auth is None:
        raise ConfigError(
            "--oauth-provider: expected --auth FILE with the users who may come in, or anybody with an account there "
            f"could; make it: {new_user} --oauth-provider {options.oauth.provider} (NAME '*' for everybody)"
        )
    if options.auth is None and not is_loopback(options.address) and not options.demo:
        raise ConfigError(
            f"--address {options.address}: expected a login, since others can reach this address; "
            f"make a user: {new_user}; then: {command} --auth users.toml; or serve this machine alone: leave --address "
            "out, and come from afar through ssh -L"
        )
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port: expected 0 to 65535, got {options.port}")
    for origin in options.origins:
        _host_of(origin)
    if options.start is not None and options.start not in CATALOGUE:
        raise ConfigError(f"--start: there is no system {options.start!r}{suggestion(options.start, CATALOGUE)}")
    users = None if options.auth is None else Users(options.auth, oauth=options.oauth is not None)
    _make_folder(options.folder)
    with _address_errors(options):
        _try_address(options.address, options.port)
    return users


def _check_demo(options: Options) -> None:
    """Refuse what does not go together with a server for everybody."""
    reasons = {
        "--auth": (options.auth is not None, "everybody may look and nobody signs in"),
        "--oauth-provider": (options.oauth is not None, "everybody may look and nobody signs in"),
        "--read-only": (
            options.read_only,
            "nobody may control the runs in DIR anyway; without --demo, there is nothing to try",
        ),
        "--start": (
            options.start is not None,
            "its workers are for visitors; sample beforehand: separatrix run DIR/NAME --system NAME",
        ),
    }
    for option, (given, reason) in reasons.items():
        if given:
            raise ConfigError(f"--demo does not go together with {option}: {reason}; leave one of them out")


def is_loopback(address: str) -> bool:
    """Return whether only programs of this machine can reach an address.

    >>> [is_loopback(address) for address in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.1.5", "")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def own_hosts(address: str) -> set[str]:
    """Return the names by which browsers may know this server, without the port."""
    hosts = {address}
    everywhere = address in ("0.0.0.0", "::")  # noqa: S104 - is compared, not bound
    if everywhere or is_loopback(address):
        hosts |= {"localhost", "127.0.0.1", "::1"}
    if not is_loopback(address):
        hosts.add(socket.gethostname())
    if everywhere:
        hosts |= {
            found.address.split("%")[0]
            for addresses in psutil.net_if_addrs().values()
            for found in addresses
            if found.family in (socket.AF_INET, socket.AF_INET6)
        }
    return hosts


def own_origins(address: str, port: int, further: Collection[str] = ()) -> set[str]:
    """Return the origins, as ``host:port``, whose pages may open a websocket: another site must not drive this one."""
    own = {f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in own_hosts(address)}
    return {origin.lower() for origin in own} | {_host_of(origin) for origin in further}


def _host_of(origin: str) -> str:
    """Return ``host:port`` of an origin such as https://runs.example.org; where there is no port, Bokeh says 80."""
    host = (urlsplit(origin).netloc if "//" in origin else origin).lower().rstrip("/")
    if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[\da-f:]+\](:\d+)?", host):
        raise ConfigError(f"--allow-origin: expected an address such as https://runs.example.org, got {origin!r}")
    return host if re.search(r":\d+$", host) else f"{host}:80"


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder with runs, found a file")
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise ConfigError(f"{folder}: expected a folder with runs, or a new name in a folder that is there") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error


def _try_address(address: str, port: int) -> None:
    """Listen for a moment: loading the pages takes seconds, and a port that is taken should be known before."""
    for family, kind, protocol, _, where in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM):
        if family == socket.AF_INET6 and address == "localhost":
            continue  # names both addresses even where there is no IPv6
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)


@contextlib.contextmanager
def _address_errors(options: Options) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = f"{options.address}:{options.port}"
        if error.errno == errno.EADDRINUSE:
            problem = f"port {options.port} of {options.address} is taken; choose another: --port {options.port + 1}"
        elif error.errno in (errno.EACCES, errno.EPERM):
            problem = f"{place}: this port is not for everybody; choose one above 1023: --port 5006"
        elif error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            problem = f"--address {options.address}: this machine has no such address; 127.0.0.1 is there always"
        else:
            problem = f"cannot listen at {place}: {error.strerror}"
        raise ConfigError(problem) from error


# -- the server --------------------------------------------------------------------------------------------------------


def make_workspace(options: Options, users: Users | None) -> Workspace:
    """Return the folder with the hub that watches it and the pool of its sessions."""
    from separatrix_dashboards.hub import Hub  # noqa: PLC0415
    from separatrix_dashboards.sandbox import Sandbox  # noqa: PLC0415
    from separatrix_dashboards.sessions import SessionPool  # noqa: PLC0415
    from separatrix_dashboards.workspace import Workspace  # noqa: PLC0415

    folder = options.folder.absolute()
    pool = SessionPool(options.max_workers)
    hub = Hub(folder, pool)
    return Workspace(
        folder=folder,
        hub=hub,
        pool=pool,
        users=users,
        read_only=options.read_only or options.demo,
        sandbox=Sandbox(hub, pool) if options.demo else None,
    )


def make_server(workspace: Workspace, routes: Routes, options: Options) -> Server:
    """Return a Bokeh server that listens, and serves once its event loop runs.

    Parameters
    ----------
    routes : address -> function that makes a page for one document

    Raises
    ------
    ConfigError
        If it cannot listen where it should, or there is no such OAuth provider.
    """
    from bokeh.settings import settings  # noqa: PLC0415
    from panel.io.resources import COMPONENT_PATH  # noqa: PLC0415
    from panel.io.server import get_server  # noqa: PLC0415

    from separatrix_dashboards import doors  # noqa: PLC0415
    from separatrix_dashboards.documents import contain_errors, log_errors  # noqa: PLC0415

    contain_errors()
    log_errors()
    settings.simple_ids = True  # said once: Bokeh else looks into the environment for every array it sends
    settings.resources = "server"  # whatever the environment says: no page may ask another host for anything
    cookies, transforms = ["user", LIGHTS], [_safe_headers(options)]
    if workspace.sandbox is not None:
        from separatrix_dashboards.visitors import VisitorCookie  # noqa: PLC0415

        cookies.append(VISITOR)
        transforms.append(VisitorCookie)
    access: dict[str, Any] = {}
    patterns: list[Any] = [(f"/{COMPONENT_PATH}(.*)", _component_handler(), {})]
    if workspace.users is not None:
        provider = _provider(workspace.users, options.oauth)
        patterns += provider.patterns()
        access = {"auth_provider": provider, "cookie_secret": _cookie_secret()}
    with _address_errors(options), _own_interrupts(), doors.narrow_doors():
        server = get_server(
            dict(routes),
            port=options.port,
            address=options.address,
            title=dict.fromkeys(routes, ""),  # pages have titles of their own
            extra_patterns=patterns,
            transforms=transforms,
            secret_key=secrets.token_bytes(32),
            sign_sessions=True,  # what a page's token says of its user, nobody else can have written
            include_cookies=cookies,  # other cookies, such as those of OAuth, have no business in a page
            exclude_headers=["Authorization", "Cookie"],
            check_unused_sessions_milliseconds=CHECK_MS,
            websocket_max_message_size=doors.MAX_MESSAGE,
            http_server_kwargs={
                "max_body_size": doors.MAX_BODY,
                "idle_connection_timeout": doors.SILENT_SECONDS,
                "body_timeout": doors.SILENT_SECONDS,
            },
            **access,
        )
    origins = server._tornado.websocket_origins  # noqa: SLF001 - the port is known only now
    origins.clear()
    origins.update(own_origins(options.address, server.port, options.origins))
    return server


def _safe_headers(options: Options) -> type[Any]:
    """Return what adds to every answer how browsers should be careful with it."""
    from tornado.web import OutputTransform  # noqa: PLC0415

    framers = " ".join(["'self'", *(urlsplit(origin).netloc or origin for origin in options.origins)])
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        # Nobody is led to press our buttons in a frame of another site; JupyterLab's proxy is the same site.
        # Of scripts nothing can be said: Panel's own stand in its pages, and its components are made of text.
        "Content-Security-Policy": f"frame-ancestors {framers}; base-uri 'self'; form-action 'self'; object-src 'none'",
    }

    class SafeHeaders(OutputTransform):
        def transform_first_chunk(self, status: int, found: Any, chunk: bytes, finishing: bool) -> Any:  # noqa: ARG002
            for name, value in headers.items():
                found[name] = value
            return status, found, chunk

    return SafeHeaders


@contextlib.contextmanager
def _own_interrupts() -> Iterator[None]:
    """Keep Panel from deciding what Ctrl-C does in whoever makes a server."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _component_handler() -> type[Any]:
    from panel.io.server import ComponentResourceHandler  # noqa: PLC0415
    from tornado.web import HTTPError  # noqa: PLC0415

    class LoadedComponents(ComponentResourceHandler):
        """Panel's own handler imports any module that an address names, for anybody; this one only looks."""

        def parse_url_path(self, path: str) -> str:
            if path.partition("/")[0] not in sys.modules:
                raise HTTPError(404)
            try:
                return super().parse_url_path(path)
            except HTTPError:
                raise
            except Exception:  # noqa: BLE001 - what a module holds need not be a component
                raise HTTPError(404) from None

    return LoadedComponents


def _provider(users: Users, oauth: OAuth | None) -> Any:
    from panel import config  # noqa: PLC0415
    from panel.auth import AUTH_PROVIDERS  # noqa: PLC0415

    from separatrix_dashboards.login import SIGNED_IN_DAYS, ListedOAuthProvider, PasswordProvider  # noqa: PLC0415

    config.oauth_expiry = SIGNED_IN_DAYS
    if oauth is None:
        return PasswordProvider(users)
    known = sorted(set(AUTH_PROVIDERS) - {"pam", "password"})  # these two ask for passwords on pages of Panel's own
    if oauth.provider not in known:
        raise ConfigError(f"--oauth-provider: expected one of {', '.join(known)}, got {oauth.provider!r}")
    config.oauth_provider, config.oauth_key, config.oauth_secret = oauth.provider, oauth.key, oauth.secret
    return ListedOAuthProvider(users)


def _cookie_secret() -> str:
    from panel import config  # noqa: PLC0415

    return config.cookie_secret or secrets.token_hex(32)


# -- running -----------------------------------------------------------------------------------------------------------


def serve(options: Options, users: Users | None) -> int:
    """Serve until interrupted; return the exit code: 130 after Ctrl-C, 0 after a polite request to terminate.

    Raises
    ------
    ConfigError
        If it cannot start.
    """
    from separatrix_dashboards.pages import routes  # noqa: PLC0415

    _quiet_logs()
    workspace = make_workspace(options, users)
    try:
        server = make_server(workspace, routes(workspace), options)
        if options.start is not None:
            start_session(workspace, options.start)
        if options.demo and not workspace.hub.runs():
            start_session(workspace, EXAMPLE, EXAMPLE_STEPS, workers=1)
        return _run(server, workspace, options)
    finally:
        workspace.pool.close(0)
        workspace.hub.close()
        if workspace.sandbox is not None:
            workspace.sandbox.close()


def start_session(workspace: Workspace, system: str, steps: int = STARTED_STEPS, workers: int | None = None) -> None:
    """Sample a system of the catalogue in the run of its name; a run that is there gets as many steps again.

    Parameters
    ----------
    steps : that are added
    workers : one for each chain by default, as far as the budget goes

    Raises
    ------
    SeparatrixError
        If the run cannot be made or read.
    """
    path = workspace.folder / system
    if not (path / "run.zarr").exists():
        workspace.pool.create(path, {"system": {"kind": system}}, role=Role.OPERATOR)
    held = workspace.hub.feed(path).snapshot.n_shots
    workspace.pool.start(path, steps=held + steps, workers=workers, role=Role.OPERATOR)


def _run(server: Server, workspace: Workspace, options: Options) -> int:
    loop, received = server.io_loop, []

    def stop() -> None:
        _say_what_stops(workspace)
        threading.Thread(target=close, name="stopping", daemon=True).start()

    def close() -> None:
        late = workspace.pool.close(STOP_SECONDS)  # pages go on meanwhile and show it
        if late:
            names = ", ".join(path.name for path in late)
            print(f"did not wait longer for {names}: stored up to the last commit", file=sys.stderr)  # noqa: T201
        if workspace.sandbox is not None:
            workspace.sandbox.close()
        loop.add_callback(loop.stop)

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) == 1:  # a second one does not make it faster
            loop.asyncio_loop.call_soon_threadsafe(stop)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and (name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN):  # nohup
            signal.signal(number, interrupt)
    settle()
    server.start()
    _announce(server, options)
    loop.start()
    server.stop(wait=False)
    code = 130 if received and received[0] == signal.SIGINT else 0
    # Python waits for threads at its end; those that still compute for pages nobody sees are not worth it.
    watchdog = threading.Timer(_EXIT_SECONDS, os._exit, (code,))
    watchdog.daemon = True
    watchdog.start()
    return code


def _announce(server: Server, options: Options) -> None:
    host = socket.gethostname() if options.address in ("0.0.0.0", "::") else options.address  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    if options.auth is not None and (warning := exposure(options.auth)):
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    if options.demo:
        print(  # noqa: T201
            f"for everybody who can reach it: the runs in {options.folder} to look at, and {options.max_workers} "
            f"session{'' if options.max_workers == 1 else 's'} of visitors at once",
            file=sys.stderr,
        )
    elif not is_loopback(options.address):
        print(  # noqa: T201
            "warning: passwords and pages travel unencrypted; use it in a network you trust, or behind a proxy with "
            "HTTPS: --address 127.0.0.1 --allow-origin https://NAME",
            file=sys.stderr,
        )
    print(f"serving {options.folder} at http://{host}:{server.port}  (stop with Ctrl-C)", flush=True)  # noqa: T201
    if options.start is not None:
        print(f"watch {options.start} at http://{host}:{server.port}/run?name={options.start}", flush=True)  # noqa: T201


def _say_what_stops(workspace: Workspace) -> None:
    paths = workspace.pool.sessions()
    names = sorted(path.name for path in paths if path.is_relative_to(workspace.folder))
    if visits := len(paths) - len(names):
        print(f"removing {visits} session{'' if visits == 1 else 's'} of visitors", file=sys.stderr)  # noqa: T201
    if names:
        print(f"stopping {', '.join(names)}: committing what is there", file=sys.stderr)  # noqa: T201


def _quiet_logs() -> None:
    """Say what concerns the one who serves, and in the words of this command."""
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # else a line for each request answered with 4xx
    websockets = logging.getLogger("bokeh.server.views.ws")
    websockets.setLevel(logging.ERROR)  # else a line for each page that is closed while it is written to
    websockets.addFilter(_rephrase)
    logging.getLogger("bokeh.protocol").setLevel(logging.CRITICAL)  # else all that somebody sends in place of a header
    logging.getLogger("asyncio").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out that a page was closed while it was being written to."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ not in ("WebSocketClosedError", "StreamClosedError")


def _rephrase(record: logging.LogRecord) -> bool:
    if "allow-websocket-origin" in record.msg:
        record.msg = (
            "refused a websocket from a page of %s: not an address of this server; if it is one, say --allow-origin %s"
        )
        record.args = (record.args or ("?", "?"))[:2]  # type: ignore[index]
    return True
