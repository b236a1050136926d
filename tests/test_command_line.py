"""The command line in processes of its own: what it serves, where, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trustme
from websockets.sync.client import connect, unix_connect

from humphrey_trio.http import Address
from tests.support.command_line import SITE, Server, activated, serving
from tests.support.programs import running

ANY = ("--bind", "127.0.0.1:0")


def get(address: Address, path: str = "/", tls: ssl.SSLContext | bool = True) -> str:
    """The response to a request at an address."""
    if address.host.startswith("unix:"):
        transport = httpx.HTTPTransport(uds=address.host.removeprefix("unix:"))
        with httpx.Client(transport=transport) as client:
            return client.get(f"http://a{path}").text
    scheme = "http" if tls is True else "https"
    with httpx.Client(trust_env=False, verify=tls) as client:
        return client.get(f"{scheme}://{address}{path}").text


def assert_ends(server: Server, number: signal.Signals = signal.SIGTERM) -> None:
    """A signal shuts the server down gracefully, with the status 0 and without a traceback."""
    server.send_signal(number)
    status, output = server.finish()
    assert status == 0, output
    assert f"INFO {number.name}: shutting down gracefully; a second signal ends at once\n" in output
    assert re.search(r"INFO the graceful shutdown of [^\n]+ has ended after ", output)
    assert "Traceback" not in output
    assert "Warning" not in output


# --------------------------------------------------------------------------------------- what is served


@pytest.mark.parametrize("target", ["app", "factory", "async_factory"])
def test_an_app(target: str, tmp_path: Path) -> None:
    """An app, and factories that return it, are served until SIGTERM."""
    with serving(tmp_path, f"site1:{target}", *ANY) as server:
        assert get(server.read_address()) == "fine"
        assert_ends(server)


def test_a_context_manager(tmp_path: Path) -> None:
    """A factory that returns an async context manager is entered before the app is served, and left after it."""
    with serving(tmp_path, "site1:with_state", *ANY) as server:
        server.read_until("begin")
        assert get(server.read_address()) == "fine"
        server.send_signal(signal.SIGINT)
        status, output = server.finish()
    assert (status, output.splitlines()[-1]) == (0, "end")


@pytest.mark.parametrize("target", ["websocket_app", "unlinked_app"])
def test_a_websocket_app(target: str, tmp_path: Path) -> None:
    """A WebSocket app, linked internally or not, is served at every path."""
    with serving(tmp_path, f"site1:{target}", *ANY) as server:
        url = server.read_until("listening on ws://").split()[-1]
        with connect(f"{url}/any/path", proxy=None) as client:
            client.send("text")
            assert client.recv(timeout=30) == "text"
        assert_ends(server)


OWN_EVENT = (
    SITE
    + """
event = trio.Event()
app.with_shutdown(event).with_stateless_route("/stop", lambda _: Response(200, event.set()))
websocket_app.with_shutdown(trio.Event())
"""
)


@pytest.mark.parametrize("target", ["app", "websocket_app"])
def test_an_app_with_an_event(target: str, tmp_path: Path) -> None:
    """A signal sets the event of an app that has a ``with_shutdown``."""
    with serving(tmp_path, f"site1:{target}", *ANY, site=OWN_EVENT) as server:
        server.read_address()
        assert_ends(server, signal.SIGINT)


def test_an_app_that_ends_by_itself(tmp_path: Path) -> None:
    """If the program sets the event of the app, the command ends with 0."""
    with serving(tmp_path, "site1:app", *ANY, site=OWN_EVENT) as server:
        get(server.read_address(), "/stop")
        assert server.finish()[0] == 0


# ------------------------------------------------------------------------------------------- addresses


def test_several_addresses(tmp_path: Path) -> None:
    """``--bind`` may be repeated. The mode of a Unix socket is that of ``--unix-mode``."""
    path = tmp_path / "socket"
    binds = ("--bind", f"unix:{path}", "--bind", "127.0.0.1:0", "--unix-mode", "606")
    with serving(tmp_path, "site1:app", *binds) as server:
        unix, tcp = server.read_address(), server.read_address()
        assert unix == Address(f"unix:{path}")
        assert [get(address) for address in (unix, tcp)] == ["fine", "fine"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o606
        assert_ends(server)
    assert not path.exists()


def test_a_websocket_over_a_unix_socket(tmp_path: Path) -> None:
    """A WebSocket app is served over a Unix socket, too."""
    path = tmp_path / "socket"
    with serving(tmp_path, "site1:websocket_app", "--bind", f"unix:{path}") as server:
        server.read_address()
        with unix_connect(str(path), "ws://a/") as client:
            client.send("text")
            assert client.recv(timeout=30) == "text"


def test_an_inherited_socket(tmp_path: Path) -> None:
    """``--bind fd:N`` serves a socket that the parent has opened. It stays open in the parent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        for _ in range(2):
            with serving(tmp_path, "site1:app", "--bind", f"fd:{number}", descriptors=[number]) as server:
                assert server.read_address() == Address(*listener.getsockname())
                assert get(Address(*listener.getsockname())) == "fine"
                assert_ends(server)


def test_socket_activation(tmp_path: Path) -> None:
    """Without ``--bind``, the sockets of systemd are served."""
    with activated(tmp_path, 2) as (server, addresses):
        assert [server.read_address(), server.read_address()] == addresses
        assert [get(address) for address in addresses] == ["fine", "fine"]
        assert_ends(server)


def test_a_named_socket_of_systemd(tmp_path: Path) -> None:
    """``--bind fd:NAME`` is the socket with this name, and a socket that is not named is a WARNING."""
    with activated(tmp_path, 2, "--bind", "fd:admin", "--bind", "127.0.0.1:0") as (server, (_, admin)):
        server.read_until("WARNING systemd has passed the socket fd:3 (web), and no --bind names it")
        assert server.read_address() == admin
        assert get(server.read_address()) == "fine"
        assert_ends(server)


def test_an_unknown_name(tmp_path: Path) -> None:
    """A name that no socket of systemd has is an error with the names, and the status 2."""
    with activated(tmp_path, 2, "--bind", "fd:wbe") as (server, _):
        status, output = server.finish()
    assert status == 2
    assert "--bind fd:wbe: there is no socket of this name; the names are admin, web" in output


def test_sockets_for_another_process(tmp_path: Path) -> None:
    """The variables of systemd are ignored if they are meant for another process."""
    variables = {"LISTEN_PID": "1", "LISTEN_FDS": "7"}
    with serving(tmp_path, "site1:app", *ANY, environment=variables) as server:
        assert get(server.read_address()) == "fine"


def test_tls(tmp_path: Path) -> None:
    """``--tls-cert`` and ``--tls-key`` serve HTTPS."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(tmp_path, "site1:app", *ANY, "--tls-cert", "cert.pem", "--tls-key", "key.pem") as server:
        line = server.read_until("listening on")
        assert "listening on https://127.0.0.1:" in line
        assert get(Address.parse(line.split("//")[1].strip()), tls=context) == "fine"
        assert_ends(server)


# ----------------------------------------------------------------------------------------------- the log


def test_the_access_log(tmp_path: Path) -> None:
    """Responses are logged with ``--access-log``, and not without it."""
    with serving(tmp_path, "site1:app", *ANY, "--access-log") as server:
        get(server.read_address())
        assert "INFO 127.0.0.1:" in server.read_until('"GET /" 200 4')
    with serving(tmp_path, "site1:app", *ANY) as server:
        get(server.read_address())
        server.send_signal(signal.SIGTERM)
        assert '"GET /"' not in server.finish()[1]


OWN_LOG = (
    SITE
    + """
import logging
logging.basicConfig(level=logging.INFO, format="my format: %(message)s")
logging.getLogger("humphrey_trio.access").setLevel(logging.INFO)
"""
)


def test_a_log_of_the_application(tmp_path: Path) -> None:
    """What the module has configured is kept."""
    with serving(tmp_path, "site1:app", *ANY, site=OWN_LOG) as server:
        assert server.read_until("listening on").startswith("my format: listening on http://")
        server.process.send_signal(signal.SIGTERM)


# ------------------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """A second signal ends the server at once, with the exit status of shells."""
    with serving(tmp_path, "site1:app", *ANY) as server:
        address = server.read_address()
        with socket.create_connection(address) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            server.read_until("slow")
            server.send_signal(signal.SIGTERM)
            server.read_until(" begins: open connections: 1")
            server.send_signal(number)
            assert server.finish() == (status, "")


BLOCKS = (
    SITE
    + """
import time


def block(request=None):
    print("blocked", flush=True)
    time.sleep(60)
    return Response(200)


async def thread(request):
    return await trio.to_thread.run_sync(block)


app.with_stateless_route("/block", block).with_stateless_route("/thread", thread)
"""
)


@contextmanager
def blocked(folder: Path, path: str) -> Iterator[Server]:
    """Run a server with a handler that blocks."""
    with (
        serving(folder, "site1:app", *ANY, site=BLOCKS) as server,
        socket.create_connection(server.read_address()) as client,
    ):
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        server.read_until("blocked")
        yield server


@pytest.mark.parametrize("path", ["/block", "/thread"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_while_a_handler_blocks(
    path: str, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """If a handler blocks the loop or waits for a thread, the second signal kills the process soon.

    The log says why, and the traceback shows where.
    """
    with blocked(tmp_path, path) as server:
        server.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # two signals that are sent too fast are one, and a blocked loop logs nothing
        server.send_signal(number)
        begun = time.monotonic()
        ended_with, output = server.finish()
    assert ended_with == status
    assert time.monotonic() - begun < 30
    assert f"ERROR {number.name}: the process has not ended 1 s after it was cancelled, and is killed" in output
    assert " in block\n" in output


def test_a_third_signal(tmp_path: Path) -> None:
    """The third signal kills a process whose handler blocks, without a wait."""
    with blocked(tmp_path, "/block") as server:
        while server.process.poll() is None:  # signals that are sent too fast are one
            server.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(0.1)
        status, output = server.finish()
    assert status == 130
    assert " in block\n" in output


def test_a_signal_while_a_factory_waits(tmp_path: Path) -> None:
    """Before the app is there, the first signal ends the command. The cleanup of the factory runs."""
    site = """
import trio

async def app():
    try:
        print("waiting", flush=True)
        await trio.sleep_forever()
    finally:
        print("cleanup", flush=True)
"""
    with serving(tmp_path, "site1:app", site=site) as server:
        server.read_until("waiting")
        server.send_signal(signal.SIGTERM)
        assert server.finish() == (143, "cleanup\n")


def test_ctrl_c_while_the_module_is_imported(tmp_path: Path) -> None:
    """Ctrl-C during the import ends the command with 130 and without a traceback."""
    site = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    with serving(tmp_path, "site1:app", site=site) as server:
        server.read_until("importing")
        server.send_signal(signal.SIGINT)
        assert server.finish() == (130, "")


def test_an_address_in_use(tmp_path: Path) -> None:
    """An address that cannot be listened on is one line, and the status is 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with serving(tmp_path, "site1:app", "--bind", bind) as server:
            status, output = server.finish()
    assert status == 1
    assert output == f"python -m humphrey_trio: cannot listen on {bind}: Address already in use\n"


IN_A_NURSERY = (
    SITE
    + """
@asynccontextmanager
async def with_nursery():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        yield app
        nursery.cancel_scope.cancel()
"""
)


def test_an_error_in_a_nursery_of_a_factory(tmp_path: Path) -> None:
    """A nursery of a factory, which puts exceptions into groups, does not change the message."""
    with serving(tmp_path, "site1:with_nursery", "--bind", "192.0.2.1:80", site=IN_A_NURSERY) as server:
        status, output = server.finish()
    assert status == 1
    assert output.startswith("python -m humphrey_trio: cannot listen on 192.0.2.1:80: ")
    assert output.count("\n") == 1


def test_a_nursery_of_a_factory(tmp_path: Path) -> None:
    """A factory may have a nursery, whose tasks run beside the server. A signal ends both."""
    with serving(tmp_path, "site1:with_nursery", *ANY, site=IN_A_NURSERY) as server:
        assert get(server.read_address()) == "fine"
        assert_ends(server)


def test_a_factory_that_fails(tmp_path: Path) -> None:
    """An exception of a factory is printed with its traceback, and the status is 1."""
    site = "async def app():\n    raise OSError('no database')\n"
    with serving(tmp_path, "site1:app", site=site) as server:
        status, output = server.finish()
    assert status == 1
    assert output.endswith("OSError: no database\n")
    assert "site1.py" in output


LIFESPAN = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def broken(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    raise OSError("no database")
"""


def test_a_lifespan_that_fails(tmp_path: Path) -> None:
    """A lifespan that fails is a message, after the traceback of its app if there is one. The status is 1."""
    with serving(tmp_path, "site1:app", *ANY, site=LIFESPAN) as server:
        status, output = server.finish()
    assert (status, output.count("\n")) == (1, 1)
    assert "the lifespan of the ASGI app site1.app has failed: its startup has failed: no database\n" in output
    with serving(tmp_path, "site1:broken", *ANY, site=LIFESPAN) as server:
        status, output = server.finish()
    assert status == 1
    assert "OSError: no database\n" in output
    assert output.endswith("the lifespan of the ASGI app site1.broken has failed: it has raised an exception\n")


def test_a_certificate_that_is_missing(tmp_path: Path) -> None:
    """A certificate that cannot be loaded is one line, and the status is 2."""
    with serving(tmp_path, "site1:app", "--tls-cert", "none.pem") as server:
        assert server.finish() == (2, "python -m humphrey_trio: there is no certificate file 'none.pem'\n")


def test_a_certificate_without_a_key(tmp_path: Path) -> None:
    """A certificate without a key is an error that names the options of the command line."""
    trustme.CA().issue_cert("localhost").cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with serving(tmp_path, "site1:app", "--tls-cert", "cert.pem") as server:
        status, output = server.finish()
    assert status == 2
    assert output.endswith("'cert.pem' contains no private key: pass --tls-cert CERT --tls-key KEY\n")


def test_the_script(tmp_path: Path) -> None:
    """The function of the script ``humphrey-trio`` finds modules in the current directory, too."""
    (tmp_path / "site1.py").write_text(SITE)
    # As in a script, the current directory is not in the path.
    program = (
        f"import os, sys; os.dup2(1, 2); os.chdir({str(tmp_path)!r}); sys.path.remove('')\n"
        "from humphrey_trio._cli._main import main\n"
        "sys.exit(main(['site1:app', '--bind', '127.0.0.1:0']))"
    )
    with running("-c", program) as started:
        assert "listening on" in started.read_line()
        assert started.interrupt().status == 0


def test_the_environment_of_other_programs(tmp_path: Path) -> None:
    """Programs that the application starts do not get the variables of systemd."""
    site = SITE + "\napp.with_stateless_route('/env', lambda _: Response(200, ' '.join(os.environ)))\n"
    with activated(tmp_path, 1, site=site) as (server, (address,)):
        server.read_address()
        names = get(address, "/env").split()
        assert "PYTHONPATH" in names
        assert not [name for name in names if name.startswith("LISTEN_")]
