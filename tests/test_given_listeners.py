"""Listening sockets that an application passes to ``run``, and the modes of Unix sockets."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Message, Response
from humphrey_trio.http import Address, ListenTarget
from humphrey_trio.testing import open_websocket
from tests.support import PATIENCE
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, is_refused
from tests.support.wire import request_bytes

GET = request_bytes("GET / HTTP/1.1", [("Host", "a")])


def fine() -> App:
    return App().with_stateless_route("/", lambda _: Response(200, "fine"))


async def get_text(address: Address, link: Link = Link.PLAIN) -> str:
    """The response of the app at an address."""
    async with await link.connect(address) as stream:
        client = RawClient(stream)
        await client.send(GET)
        return (await client.reply()).content.decode()


@asynccontextmanager
async def served(
    *targets: ListenTarget, link: Link = Link.PLAIN, app: App | None = None, **options: Any
) -> AsyncGenerator[tuple[Address, ...]]:
    """Run an app on targets until the end of the block. Yields its addresses."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            run = link.run(fine() if app is None else app)

            async def run_with_options(*, task_status: Any) -> None:
                await run(*targets, **options, task_status=task_status)

            yield await nursery.start(run_with_options)
            nursery.cancel_scope.cancel()


def tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


# ------------------------------------------------------------------------------------------ sockets


@each_link
async def test_a_socket(link: Link) -> None:
    """An app serves a socket that listens, with and without TLS, and closes it at the end."""
    with tcp() as sock:
        async with served(sock, link=link) as (address,):
            assert address == Address(*sock.getsockname())
            assert await get_text(address, link) == "fine"
        assert sock.fileno() == -1
        assert await is_refused(address)


async def test_a_trio_listener() -> None:
    """An app serves a ``trio.SocketListener``, and has closed it at the end."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with served(listener) as (address,):
        assert await get_text(address) == "fine"
    assert listener.socket.fileno() == -1
    await listener.aclose()  # does nothing
    assert await is_refused(address)


async def test_several_targets(tmp_path: Path) -> None:
    """Sockets and addresses are served together, in the order of the arguments."""
    path = tmp_path / "socket"
    with tcp() as sock, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        name = sock.getsockname()
        async with served("127.0.0.1:0", unix, sock) as addresses:
            assert addresses[1:] == (Address(f"unix:{path}"), Address(*name))
            assert [await get_text(address) for address in addresses] == ["fine"] * 3
    assert path.is_socket()  # the app has not created it


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
async def test_a_socket_for_ipv4_and_ipv6() -> None:
    """A socket that accepts both has one address, and serves clients of both."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no socket accepts both here")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        async with served(sock) as (address,):
            assert address.host == "::"
            for host in ("127.0.0.1", "::1"):
                assert await get_text(Address(host, address.port)) == "fine"


async def test_an_abstract_socket() -> None:
    """The address of an abstract socket has an ``@`` in place of its NUL."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.bind(f"\0humphrey_trio.{os.getpid()}")
        except OSError:
            pytest.skip("only Linux has abstract sockets")
        sock.listen()
        async with served(sock) as (address,):
            assert address.host == f"unix:@humphrey_trio.{os.getpid()}"
            async with await trio.open_unix_socket(f"\0humphrey_trio.{os.getpid()}") as stream:
                await stream.send_all(GET)
                assert (await stream.receive_some()).endswith(b"fine")


async def test_a_drain_closes_the_socket() -> None:
    """A graceful shutdown closes a socket as it begins, and a copy of it listens on."""
    shutdown, release = trio.Event(), trio.Event()

    async def slow(request: object) -> Response:
        shutdown.set()
        await release.wait()
        return Response(200, "slow")

    with tcp() as sock, sock.dup() as copy, trio.fail_after(PATIENCE):
        app = App().with_stateless_route("/", slow).with_shutdown(shutdown)
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, sock)
            async with await Link.PLAIN.connect(address) as stream:
                client = RawClient(stream)
                await client.send(GET)
                while sock.fileno() != -1:
                    await trio.lowlevel.checkpoint()
                async with served(copy) as (again,):
                    assert (again, await get_text(address)) == (address, "fine")
                    release.set()
                    assert (await client.reply()).content == b"slow"


async def test_apps_in_turn_on_one_socket() -> None:
    """Clients that connect between two runs on copies of a socket are served by the second."""
    with tcp() as sock, trio.fail_after(PATIENCE):
        async with served(sock.dup()) as (address,):
            pass
        async with await Link.PLAIN.connect(address) as stream:
            client = RawClient(stream)
            await client.send(GET)
            async with served(sock.dup()):
                assert (await client.reply()).content == b"fine"


async def test_a_websocket_app() -> None:
    """An internally linked WebSocket app serves a socket of ``with_address``."""

    async def echo(stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    with tcp() as sock, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            app = AsyncWebsocketApp().with_message_handler(echo).with_address(sock)
            (address,) = await nursery.start(app.run)
            async with await Link.PLAIN.connect(address) as stream:
                client = await open_websocket(stream)
                await client.send("text")
                assert (await client.receive()).text == "text"
            nursery.cancel_scope.cancel()
        assert sock.fileno() == -1


# --------------------------------------------------------------------------------- what is refused


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def closed() -> socket.socket:
    sock = tcp()
    sock.close()
    return sock


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (bound, "does not listen: call its listen"),
        (closed, "a socket that is closed"),
        (lambda: socket.socket(type=socket.SOCK_DGRAM), "listens on stream sockets"),
    ],
    ids=["bound", "closed", "datagrams"],
)
async def test_sockets_that_are_refused(make: Callable[[], socket.socket], said: str) -> None:
    """A socket that does not listen, is closed or has no streams is a ValueError; all sockets are closed."""
    with make() as sock, tcp() as other:
        with pytest.raises(ValueError, match=said):
            await fine().run(other, "127.0.0.1:0", sock)
        assert (sock.fileno(), other.fileno()) == (-1, -1)
    with make() as sock, pytest.raises(ValueError, match=said):
        AsyncWebsocketApp().with_address(sock)


@pytest.mark.parametrize("target", [8080, None, b"127.0.0.1:0", ("127.0.0.1", 0)])
async def test_targets_of_other_types(target: Any) -> None:
    """Anything but an address or a socket is a TypeError that says what to pass."""
    with pytest.raises(TypeError, match=r"listens on an address such as '127\.0\.0\.1:8080', or a socket"):
        await fine().run(target)


async def test_a_tls_listener() -> None:
    """For a ``trio.SSLListener``, the error names ``run_tls``."""
    (listener,) = await trio.open_ssl_over_tcp_listeners(0, ssl.create_default_context(), host="127.0.0.1")
    async with listener:
        with pytest.raises(TypeError, match=r"SSLListener.*: for TLS, call with_cert and run_tls"):
            await fine().run(listener)  # type: ignore[arg-type]  # the test is about this


async def test_sockets_are_closed_with_an_address_that_fails() -> None:
    """If one address cannot be listened on, the sockets are closed as well."""
    with tcp() as sock, tcp() as taken:
        with pytest.raises(OSError, match="cannot listen on"):
            await fine().run(sock, f"127.0.0.1:{taken.getsockname()[1]}")
        assert sock.fileno() == -1


# ---------------------------------------------------------------------------------------- unix_mode


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_mode_of_a_unix_socket(mode: int, tmp_path: Path) -> None:
    """With ``unix_mode``, the file has that mode, and the umask does not matter."""
    path = tmp_path / "socket"
    umask = os.umask(0o027)
    try:
        async with served(f"unix:{path}", "127.0.0.1:0", unix_mode=mode) as (address, _):
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert await get_text(address) == "fine"
    finally:
        os.umask(umask)
    assert os.listdir(tmp_path) == []


async def test_the_mode_is_set_before_the_socket_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the file has another mode, nothing can connect."""
    path, modes = tmp_path / "socket", list[int]()
    listen = socket.socket.listen

    class Listening(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            modes.append(stat.S_IMODE(path.stat().st_mode))
            listen(self, backlog)

    monkeypatch.setattr(socket, "socket", Listening)
    async with served(f"unix:{path}", unix_mode=0o600):
        assert modes == [0o600]


@pytest.mark.parametrize("mode", [660, -1, "660", 0o1777])
async def test_modes_that_are_refused(mode: Any, tmp_path: Path) -> None:
    """A number that is not a mode, such as the decimal 660, is a ValueError, and no file is created."""
    with pytest.raises(ValueError, match=r"unix_mode is a mode from 0 to 0o777, such as 0o660"):
        await fine().run(f"unix:{tmp_path}/socket", unix_mode=mode)
    assert os.listdir(tmp_path) == []


async def test_a_mode_without_a_unix_socket() -> None:
    """A mode for addresses that have no file is a ValueError."""
    with pytest.raises(ValueError, match="no address is one: write 'unix:/path'"):
        await fine().run("127.0.0.1:0", unix_mode=0o660)


async def test_the_mode_of_a_websocket_app(tmp_path: Path) -> None:
    """``with_address`` has the same option."""
    path = tmp_path / "socket"
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(AsyncWebsocketApp().with_address(f"unix:{path}", unix_mode=0o606).run)
            assert stat.S_IMODE(path.stat().st_mode) == 0o606
            nursery.cancel_scope.cancel()
