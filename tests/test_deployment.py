"""docs/deployment.md: its configurations of proxies, and its restarts under load."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from humphrey_trio import App, ConnectionClosed
from humphrey_trio._cli._served_app import open_app
from humphrey_trio.testing import http_client, open_websocket
from tests.support import PATIENCE
from tests.support.caddy import needs_caddy, running_caddy
from tests.support.clients import RawClient, Reply
from tests.support.command_line import Server, serving
from tests.support.documentation import block_with, indented_block_with, replaced
from tests.support.nginx import needs_nginx, running_nginx
from tests.support.programs import free_port, running
from tests.support.wire import request_bytes


def program_with(text: str) -> str:
    """The program of the page that contains a text."""
    return block_with(text).source


async def ask(stream: trio.abc.Stream, host: str = "shop.example") -> Reply:
    """The response to a request of a client behind another proxy, as it pretends."""
    client = RawClient(stream)
    await client.send(request_bytes("GET / HTTP/1.1", [("Host", host), ("X-Forwarded-For", "192.0.2.9")]))
    return await client.reply()


async def test_the_factory_of_the_page() -> None:
    """The program with a context manager serves its state."""
    namespace: dict[str, Any] = {}
    exec(program_with("class Prices"), namespace)
    async with open_app(namespace["app"], "shop:app") as app, http_client(app) as client:
        assert (await client.get("/price")).text == "1.00\n"


async def test_the_factory_with_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory with an app for metrics runs it while the other one is served."""
    namespace: dict[str, Any] = {}
    running: list[tuple[App[Any], str]] = []

    async def run(app: App[Any], address: str) -> None:
        running.append((app, address))
        await trio.sleep_forever()

    monkeypatch.setattr(App, "run", run)
    exec(program_with("serve_metrics(shop)"), namespace)
    async with open_app(namespace["app"], "shop:app") as app:
        await trio.testing.wait_all_tasks_blocked()
        ((metrics, address),) = running
        async with http_client(app) as client, http_client(metrics) as scraper:
            assert (await client.get("/")).text == "Hello world!\n"
            page = (await scraper.get("/metrics")).text
    assert address == "127.0.0.1:9090"
    assert 'humphrey_trio_http_requests_total{code="2xx"} 1' in page


# --------------------------------------------------------------------------------------------- proxies

SHOP = (
    program_with("over {request.scheme}")
    + """
from humphrey_trio import AsyncWebsocketApp


async def greet(stream, state):
    await stream.send(f"{stream.client.host} {stream.request.scheme}")


app.with_websocket_app("/ws", AsyncWebsocketApp.new_unlinked().with_connect_handler(greet))
"""
)


@asynccontextmanager
async def shop(folder: Path) -> AsyncGenerator[Path]:
    """Run the program of the page on a Unix socket. Yields its path."""
    path = folder / "shop.sock"
    with (
        trio.fail_after(PATIENCE),
        serving(folder, "site1:app", "--bind", f"unix:{path}", "--unix-mode", "660", site=SHOP) as server,
    ):
        await trio.to_thread.run_sync(server.read_address)
        yield path


@needs_nginx
async def test_nginx(tmp_path: Path) -> None:
    """nginx as on the page serves HTTPS and WebSockets, and the app knows the client and the scheme."""
    authority = trustme.CA()
    certificate = authority.issue_cert("shop.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    port = free_port()
    async with shop(tmp_path) as path:
        configuration = replaced(
            indented_block_with("deployment", "unix:/run/shop/shop.sock;"),
            **{
                "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
                "/run/shop/shop.sock": str(path),
                "/etc/ssl/shop.example/cert.pem": str(cert),
                "/etc/ssl/shop.example/key.pem": str(key),
            },
        )
        async with running_nginx(configuration, tmp_path):

            @asynccontextmanager
            async def connected() -> AsyncGenerator[trio.abc.Stream]:
                tcp = await trio.open_tcp_stream("127.0.0.1", port)
                async with trio.SSLStream(tcp, tls, server_hostname="shop.example") as stream:
                    yield stream

            async with connected() as stream:
                assert (await ask(stream)).content == b"Hello 127.0.0.1, over https\n"
            fields = [("Host", "shop.example"), ("Origin", "https://shop.example")]
            async with connected() as stream:
                client = await open_websocket(stream, "/ws", headers=fields)
                assert (await client.receive()).text == "127.0.0.1 https"
                await client.close()


def caddy_of_the_page(port: int, path: Path) -> str:
    """The configuration of the page for plain HTTP on a port."""
    changes = {"shop.example {": f"http://shop.example:{port} {{", "/run/shop/shop.sock": str(path)}
    return replaced(indented_block_with("deployment", "reverse_proxy unix"), **changes)


@needs_caddy
async def test_caddy(tmp_path: Path) -> None:
    """Caddy as on the page serves HTTP and WebSockets, and ignores what a client pretends."""
    port = free_port()
    async with shop(tmp_path) as path, running_caddy(caddy_of_the_page(port, path), tmp_path):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert (await ask(stream)).content == b"Hello 127.0.0.1, over http\n"
        fields = [("Host", "shop.example"), ("Origin", "http://shop.example")]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            client = await open_websocket(stream, "/ws", headers=fields)
            assert (await client.receive()).text == "127.0.0.1 http"
            await client.close()


@needs_caddy
async def test_caddy_waits_for_a_restart(tmp_path: Path) -> None:
    """A request that Caddy gets before the server runs is answered when it does."""
    port, answered = free_port(), trio.Event()

    async def get() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert (await ask(stream)).status == 200
        answered.set()

    site = caddy_of_the_page(port, tmp_path / "shop.sock")
    async with running_caddy(site, tmp_path), trio.open_nursery() as nursery:
        nursery.start_soon(get)
        async with shop(tmp_path):
            await answered.wait()


def test_the_units_of_systemd(tmp_path: Path) -> None:
    """The service of the page runs the command line without ``--bind``, in time for the default drain."""
    service = indented_block_with("deployment", "ExecStart=")
    (command,) = re.findall(r"ExecStart=\S+/python -m (.*)", service)
    assert command == "humphrey_trio shop:app"
    (seconds,) = re.findall(r"TimeoutStopSec=(\d+)", service)
    assert int(seconds) > 30


# -------------------------------------------------------------------------------------------- restarts

LOAD_SITE = """
import os
from humphrey_trio import App, AsyncWebsocketApp, Response

app = App().with_stateless_route("/", lambda _: Response(200, str(os.getpid())))
app.with_websocket_app("/ws", AsyncWebsocketApp.new_unlinked())
print("loaded", flush=True)
"""


class Load:
    """Clients that send requests all the time, and count the responses of each server process.

    Attributes:
        pids: the process ids, in the order in which they were seen first.
        codes: the close codes of WebSockets.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.pids: dict[int, int] = {}
        self.codes: list[int] = []
        self._noted = trio.Event()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self._port)

    def note(self, reply: Reply) -> None:
        assert reply.status == 200
        pid = int(reply.content)
        self.pids[pid] = self.pids.get(pid, 0) + 1
        self._wake()

    def _wake(self) -> None:
        self._noted.set()
        self._noted = trio.Event()

    async def request_on_new_connections(self) -> None:
        """Each request has a connection of its own. Every one must be answered."""
        while True:
            async with await self.connect() as stream:
                client = RawClient(stream)
                await client.send(request_bytes("GET / HTTP/1.1", [("Host", "a")]))
                self.note(await client.reply())

    async def request_on_one_connection(self) -> None:
        """Requests on one connection, and on a new one when the server closes it.

        As all clients of HTTP, it sends a request again to which it gets no byte of a response, if it was not the
        first of its connection.
        """
        while True:
            async with await self.connect() as stream:
                client, is_first = RawClient(stream), True
                while True:
                    try:
                        await client.send(request_bytes("GET / HTTP/1.1", [("Host", "a")]))
                        reply = await client.reply()
                    except (EOFError, trio.BrokenResourceError):
                        assert not is_first
                        break
                    self.note(reply)
                    is_first = False
                    if reply.headers.get("Connection") == "close":
                        break

    async def keep_websocket(self) -> None:
        """A WebSocket, and a new one when it is closed."""
        while True:
            async with await self.connect() as stream:
                client = await open_websocket(stream, "/ws")
                try:
                    await client.receive()
                except ConnectionClosed as closed:
                    self.codes.append(closed.code)
                    self._wake()

    async def wait_for_servers(self, count: int) -> None:
        """Wait until so many servers have answered 20 requests, and one less has closed a WebSocket."""
        while len(self.pids) < count or min(self.pids.values()) < 20 or len(self.codes) < count - 1:
            await self._noted.wait()


async def restart_under_load(port: int, restart: Callable[[], Awaitable[None]]) -> None:
    """Restart a server twice while clients send requests."""
    load = Load(port)
    async with trio.open_nursery() as nursery:
        for client in (load.request_on_new_connections, load.request_on_one_connection):
            for _ in range(4):
                nursery.start_soon(client)
        nursery.start_soon(load.keep_websocket)
        await load.wait_for_servers(1)
        for servers in (2, 3):
            await restart()
            await load.wait_for_servers(servers)
        nursery.cancel_scope.cancel()
    assert load.codes == [1001, 1001]


async def test_a_parent_that_keeps_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the page replaces the server under load, and every request is answered."""
    (tmp_path / "shop.py").write_text(LOAD_SITE)
    port = free_port()
    program = replaced(program_with("successor"), **{'("127.0.0.1", 8080)': f'("127.0.0.1", {port})'})
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(PATIENCE), running("-c", program) as parent:
        assert await trio.to_thread.run_sync(parent.read_line) == "loaded\n"

        async def restart() -> None:
            parent.send_signal(signal.SIGHUP)
            assert await trio.to_thread.run_sync(parent.read_line) == "loaded\n"

        await restart_under_load(port, restart)
        parent.send_signal(signal.SIGTERM)
        ending = await trio.to_thread.run_sync(parent.finish)
    assert ending.status == 0
    assert "Traceback" not in ending.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux is described")
def test_reuseport_is_not_free_of_loss() -> None:
    """Of two sockets on one port, the one that is closed takes the connections of its backlog with it."""
    if Path("/proc/sys/net/ipv4/tcp_migrate_req").read_text() != "0\n":
        pytest.skip("net.ipv4.tcp_migrate_req is set")
    with ExitStack() as opened:
        old = opened.enter_context(reusable(("127.0.0.1", 0)))
        opened.enter_context(reusable(old.getsockname()))
        clients = [opened.enter_context(socket.create_connection(old.getsockname())) for _ in range(40)]
        old.close()
        reset = 0
        for client in clients:
            client.setblocking(False)
            try:
                client.recv(1)
            except ConnectionResetError:
                reset += 1
            except BlockingIOError:
                pass
        assert 0 < reset < len(clients)


def reusable(address: tuple[str, int]) -> socket.socket:
    """A socket that listens on a port together with others."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    listener.listen(100)
    return listener


async def test_a_socket_that_stays_open(tmp_path: Path) -> None:
    """A server that is stopped, and then started on the same socket, as by systemd, loses no request."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, trio.fail_after(PATIENCE):
        file = listener.fileno()

        async def run(*, task_status: trio.TaskStatus[Server]) -> None:
            bind = ("--bind", f"fd:{file}")
            with serving(tmp_path, "site1:app", *bind, descriptors=[file], site=LOAD_SITE) as server:
                task_status.started(server)
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            running_server: list[Server] = [await nursery.start(run)]

            async def restart() -> None:
                server = running_server.pop()
                server.send_signal(signal.SIGTERM)
                status, _ = await trio.to_thread.run_sync(server.finish)
                assert status == 0
                running_server.append(await nursery.start(run))

            await restart_under_load(listener.getsockname()[1], restart)
            nursery.cancel_scope.cancel()
