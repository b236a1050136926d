"""``--reload`` in real processes: restarts, the sockets, the terminal, and how everything ends."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import ssl
import stat
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from humphrey_trio._cli._arguments import Options
from humphrey_trio._cli._errors import CommandError, UsageError
from humphrey_trio._cli._serve_reloading import serve_reloading
from humphrey_trio.http import Address
from tests.support.command_line import Server, activated, serving
from tests.support.programs import ROOT
from tests.support.reloading import APP, SOON, read_to_end

SITE = (
    APP.format(text="first")
    + """
import os, sys, threading
from contextlib import asynccontextmanager


def ask(request):
    breakpoint()
    return Response(200, "first, continued")


app.with_stateless_route("/ask", ask)
app.with_stateless_route("/flags", lambda _: Response(200, str(sys.flags.dont_write_bytecode)))
app.with_stateless_route("/env", lambda _: Response(200, " ".join(os.environ)))
app.with_stateless_route("/threads", lambda _: Response(200, str(threading.enumerate())))


@asynccontextmanager
async def factory():
    print("begin first", flush=True)
    yield app
    print("end first", flush=True)
"""
)
RELOAD = ("--reload", "--bind", "127.0.0.1:0")
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def change(folder: Path, text: str) -> None:
    """Save the source of the app with another text."""
    (folder / "site1.py").write_text(SITE.replace("first", text))


def open_request(address: Address, path: str = "/", fields: str = "Connection: close\r\n") -> socket.socket:
    """Connect, and send a request."""
    if address.host.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(SOON)
        client.connect(address.host.removeprefix("unix:"))
    else:
        client = socket.create_connection(address, timeout=SOON)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
    return client


def get(address: Address, path: str = "/") -> str:
    """The text of a response. The request may wait for the next server process."""
    with open_request(address, path) as client:
        response = read_to_end(client)
    assert response.startswith(b"HTTP/1.1 200 "), response
    return response.partition(b"\r\n\r\n")[2].decode()


def wait_for_text(address: Address, text: str) -> None:
    """Send requests until one is answered with a text."""
    give_up = time.monotonic() + SOON
    while get(address) != text:
        assert time.monotonic() < give_up, "the server was not restarted"
        time.sleep(0.005)


@contextmanager
def reloading(folder: Path, target: str = "site1:app") -> Iterator[tuple[Server, Address]]:
    """Run the command line with ``--reload``. Yields it with its address."""
    with serving(folder, target, *RELOAD, site=SITE) as server:
        yield server, server.read_address()


# ------------------------------------------------------------------------------------------- restarts


def test_a_change(tmp_path: Path) -> None:
    """After a change the new source answers, at the same address. The log names the file."""
    with reloading(tmp_path) as (server, address):
        assert get(address) == "first"
        change(tmp_path, "second")
        server.read_until("INFO restarting, because of changes in site1.py")
        wait_for_text(address, "second")
        assert server.read_address() == address


def test_open_connections(tmp_path: Path) -> None:
    """An open WebSocket and a request that waits do not hold up a restart."""
    with (
        reloading(tmp_path) as (server, address),
        open_request(address, "/wait") as poll,
        open_request(address, "/ws", UPGRADE) as websocket,
    ):
        received = b""
        while not received.endswith(b"\x81\x04open"):
            received += websocket.recv(65536)
        server.read_until("waiting")
        change(tmp_path, "second")
        wait_for_text(address, "second")
        assert b"HTTP/1.1 200" not in read_to_end(poll)
        assert read_to_end(websocket).startswith(b"\x88")  # a Close frame


def test_a_source_with_an_error(tmp_path: Path) -> None:
    """A source that cannot be imported is printed with its line. Clients wait for the change that corrects it."""
    with reloading(tmp_path) as (server, address):
        (tmp_path / "site1.py").write_text("app = (\n")
        server.read_until("site1.py")
        server.read_until("SyntaxError")
        server.read_until("WARNING the server has ended with status 2; it is started again when a file changes")
        with open_request(address) as client:
            change(tmp_path, "second")
            assert read_to_end(client).endswith(b"\r\n\r\nsecond")


def test_a_factory(tmp_path: Path) -> None:
    """The context manager of a factory is left before its successor is entered."""
    with reloading(tmp_path, "site1:factory") as (server, address):
        change(tmp_path, "second")
        server.read_until("end first")
        server.read_until("begin second")
        wait_for_text(address, "second")
        server.send_signal(signal.SIGTERM)
        status, output = server.finish()
    assert status == 0
    assert output.endswith("end second\n")


def test_a_handler_that_blocks(tmp_path: Path) -> None:
    """A handler that blocks the event loop is logged with its stack, and does not hold up a restart."""
    with reloading(tmp_path) as (server, address), open_request(address, "/block"):
        assert " by site1.block (" in server.read_until("WARNING the event loop has been blocked for")
        server.read_until("in block")
        server.read_until("time.sleep(1000)")
        change(tmp_path, "second")
        wait_for_text(address, "second")


def test_no_watchdog_without_reload(tmp_path: Path) -> None:
    """The watchdog runs with ``--reload`` only."""
    with serving(tmp_path, "site1:app", "--bind", "127.0.0.1:0", site=SITE) as server:
        assert "watchdog" not in get(server.read_address(), "/threads")
    with serving(tmp_path, "site1:app", *RELOAD, site=SITE) as server:
        assert "watchdog" in get(server.read_address(), "/threads")


def test_options_of_python(tmp_path: Path) -> None:
    """The server process gets the options of the interpreter, and no variable of its supervisor."""
    launcher = [
        sys.executable,
        "-c",
        "import os, sys; os.environ.pop('PYTHONDONTWRITEBYTECODE', None); "
        "os.execv(sys.executable, [sys.executable, '-B', *sys.argv[2:]])",
    ]
    with serving(tmp_path, "site1:app", *RELOAD, site=SITE, launcher=launcher) as server:
        address = server.read_address()
        assert get(address, "/flags") == "1"
        assert "LIFELINE" not in get(address, "/env")


# ----------------------------------------------------------------------------------------- the terminal

# Makes its standard input, a pseudo terminal, the terminal of a new session, as the window of a shell has it.
_IN_A_TERMINAL = """
import fcntl, os, sys, termios

os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
CTRL_C = b"\x03"


@contextmanager
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    """Open a pseudo terminal. Yields the file of its user, and that of programs."""
    user, terminal = os.openpty()
    try:
        yield user, terminal
    finally:
        os.close(user)
        os.close(terminal)


@contextmanager
def in_a_terminal(folder: Path) -> Iterator[tuple[Server, Address, int]]:
    """Run ``--reload`` in a terminal. Yields it with its address, and a file for what its user types."""
    launcher = [sys.executable, "-c", _IN_A_TERMINAL]
    with (
        pseudo_terminal() as (user, terminal),
        serving(folder, "site1:app", *RELOAD, site=SITE, launcher=launcher, stdin=terminal) as server,
    ):
        yield server, server.read_address(), user


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C in a terminal ends the server gracefully, with the status 0 and without a traceback."""
    with in_a_terminal(tmp_path) as (server, _, user):
        os.write(user, CTRL_C)
        status, output = server.finish()
    assert status == 0, output
    assert "INFO SIGINT: shutting down gracefully; a second signal ends at once\n" in output
    assert output.count("shutting down gracefully") == 1
    assert re.search(r"INFO the graceful shutdown of \S+ has ended after ", output)
    assert "Traceback" not in output
    assert "Warning" not in output


def test_ctrl_c_twice(tmp_path: Path) -> None:
    """The second Ctrl-C kills a server whose handler blocks, with the status 130."""
    with in_a_terminal(tmp_path) as (server, address, user), open_request(address, "/block"):
        server.read_until("blocked")
        os.write(user, CTRL_C)
        server.read_until("SIGINT: shutting down gracefully")
        os.write(user, CTRL_C)
        status, output = server.finish()
    assert (status, "Traceback" in output) == (130, False)


def test_breakpoint(tmp_path: Path) -> None:
    """A debugger in a handler reads the commands that its user types, and the watchdog does not log it."""
    with in_a_terminal(tmp_path) as (server, address, user):
        with open_request(address, "/ask") as client:
            server.read_until("ask()")
            os.write(user, b"p 6 * 7\n")
            server.read_until("42")
            os.write(user, b"continue\n")
            assert read_to_end(client).endswith(b"first, continued")
        os.write(user, CTRL_C)
        status, output = server.finish()
    assert status == 0
    assert "blocked" not in output


class Screen:
    """What a program writes to its terminal.

    Args:
        user: the other end of the pseudo terminal.
    """

    def __init__(self, user: int) -> None:
        self._user = user
        self._text = ""

    def read_until(self, pattern: str) -> str:
        """Read until there is a pattern; the text of its group."""
        while not (found := re.search(pattern, self._text)):
            assert select.select([self._user], [], [], SOON)[0], f"there is no {pattern!r}: {self._text}"
            self._text += os.read(self._user, 65536).decode()
        return found[1]


def test_the_echo_of_the_terminal(tmp_path: Path) -> None:
    """A restart while a debugger reads a line leaves the terminal as it was, so it shows what its user types."""
    pytest.importorskip("readline")
    launcher = [sys.executable, "-c", f"import os; os.dup2(0, 1); os.dup2(0, 2)\n{_IN_A_TERMINAL}"]
    with (
        pseudo_terminal() as (user, terminal),
        serving(tmp_path, "site1:app", *RELOAD, site=SITE, launcher=launcher, stdin=terminal) as server,
    ):
        echo = local_modes(terminal)
        screen = Screen(user)
        address = Address.parse(screen.read_until(r"listening on http://(\S+)"))
        with open_request(address, "/ask"):
            screen.read_until(r"(\(Pdb\) )")
            assert local_modes(terminal) != echo
            change(tmp_path, "second")
            wait_for_text(address, "second")
        assert local_modes(terminal) == echo
        with open_request(address, "/ask"):
            screen.read_until(r"(?s)second.*(\(Pdb\) )")
            os.write(user, CTRL_C)
            screen.read_until("(SIGINT)")
            os.write(user, CTRL_C)
            assert server.process.wait(SOON) == 130
        assert local_modes(terminal) == echo


def local_modes(terminal: int) -> object:
    """Whether a terminal shows what its user types, and other modes."""
    return termios.tcgetattr(terminal)[3]


def test_a_background_job(tmp_path: Path) -> None:
    """A process that ignores SIGINT, as a background job of a shell, is not ended by Ctrl-C for another one."""
    launcher = [
        sys.executable,
        "-c",
        "from signal import *; import os, sys; signal(SIGINT, SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    with serving(tmp_path, "site1:app", *RELOAD, site=SITE, launcher=launcher) as server:
        address = server.read_address()
        server.send_signal(signal.SIGINT)
        change(tmp_path, "second")
        wait_for_text(address, "second")
        server.send_signal(signal.SIGTERM)
        assert server.finish()[0] == 0


@pytest.mark.parametrize("path", ["/wait", "/block"])
def test_a_killed_supervisor(path: str, tmp_path: Path) -> None:
    """If the supervisor is killed, its server ends as well, even a blocked one."""
    with reloading(tmp_path) as (server, address), open_request(address, path) as client:
        server.read_until("waiting" if path == "/wait" else "blocked")
        server.send_signal(signal.SIGKILL)
        read_to_end(client)
        # The server process has the same standard output. This waits for its end.
        assert server.finish()[0] == -signal.SIGKILL


# ------------------------------------------------------------------------------------------ the sockets


def test_a_unix_socket(tmp_path: Path) -> None:
    """A Unix socket keeps its file and its mode during restarts. The file is removed at the end."""
    path = tmp_path / "socket"
    binds = ("--reload", "--bind", f"unix:{path}", "--bind", "127.0.0.1:0", "--unix-mode", "606")
    with serving(tmp_path, "site1:app", *binds, site=SITE) as server:
        unix, tcp = server.read_address(), server.read_address()
        assert unix == Address(f"unix:{path}")
        change(tmp_path, "second")
        for address in (unix, tcp):
            wait_for_text(address, "second")
        assert stat.S_IMODE(path.stat().st_mode) == 0o606
        server.send_signal(signal.SIGTERM)
        assert server.finish()[0] == 0
    assert not path.exists()


def test_tls(tmp_path: Path) -> None:
    """A server with ``--tls-cert`` serves HTTPS after a restart, too."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(tmp_path, "site1:app", *RELOAD, "--tls-cert", "cert.pem", site=SITE) as server:
        address = server.read_address()
        change(tmp_path, "second")
        assert "listening on https://" in server.read_until("listening on")
        with context.wrap_socket(
            socket.create_connection(address, timeout=SOON), server_hostname="127.0.0.1"
        ) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert read_to_end(client).endswith(b"second")


def test_sockets_of_systemd(tmp_path: Path) -> None:
    """The sockets of systemd are served, also after a restart. The application does not get its variables."""
    with activated(tmp_path, 2, "--reload", site=SITE) as (server, addresses):
        assert [server.read_address(), server.read_address()] == addresses
        change(tmp_path, "second")
        for address in addresses:
            wait_for_text(address, "second")
        assert "LISTEN_" not in get(addresses[0], "/env")


# ----------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(target="shop.py"), "'shop.py' is not an app: write a module instead of a file: shop:app"),
        (Options(target="shop:app", tls_cert="none.pem"), "there is no certificate file 'none.pem'"),
        (Options(target="shop:app", binds=("fd:99",)), "fd:99 is not an open socket"),
    ],
)
async def test_errors_at_the_start(options: Options, said: str) -> None:
    """What no change of the source can correct is an error at the start, and nothing is started."""
    with pytest.raises(UsageError, match=said):
        await serve_reloading(options)


async def test_an_address_in_use() -> None:
    """An address that cannot be listened on is an error at the start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CommandError, match=f"^cannot listen on {bind}: Address already in use$"):
            await serve_reloading(Options(target="shop:app", binds=(bind,)))


def test_watchfiles_is_missing(tmp_path: Path) -> None:
    """Without watchfiles, the error says what to install, and the status is 2."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['watchfiles'] = None\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with serving(tmp_path, "site1:app", *RELOAD, environment={"PYTHONPATH": path}) as server:
        status, output = server.finish()
    assert status == 2
    assert output == (
        "python -m humphrey_trio: --reload needs the library watchfiles, which is not installed:"
        " pip install 'humphrey_trio[reload]'\n"
    )
