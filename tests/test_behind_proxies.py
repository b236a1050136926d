"""Apps behind trusted proxies: what the forwarding fields decide, in memory and with nginx in front."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.http import Address, Forwarded, SubApp, TrustedProxies, Write, https_redirect
from humphrey_trio.layers import cross_origin_guard
from humphrey_trio.monitor import Event, EventType, MonitorConfig
from humphrey_trio.testing import memory_connection, open_websocket
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import linked
from tests.support.clients import RawClient
from tests.support.nginx import needs_nginx, running_nginx
from tests.support.programs import ROOT, free_port
from tests.support.streamed import StreamClient
from tests.support.wire import HANDSHAKE_FIELDS

PROXY = Address("10.0.0.1", 5000)
CLIENT = "192.0.2.7"
#: Linux has the whole network 127.0.0.0/8.
NGINX_CLIENT = "127.0.0.2"
PROXIES = TrustedProxies("10.0.0.0/8")
FORWARDED = (f"X-Forwarded-For: {CLIENT}", "X-Forwarded-Proto: https", "X-Forwarded-Host: Site.Example")

Connect = Callable[[], trio.abc.Stream]


@asynccontextmanager
async def behind(app: App[Any], peer: Address = PROXY) -> AsyncGenerator[Connect]:
    """Serve an app. Yields a function that connects from the address of a peer."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(app.run, ANY_PORT)

            def connect() -> trio.abc.Stream:
                ours, theirs = memory_connection()
                nursery.start_soon(partial(app.serve_stream, theirs, peer=peer))
                return ours

            yield connect
            nursery.cancel_scope.cancel()


def tell(request: Request) -> Response:
    """Tell who asked, and how."""
    return Response(200, f"{request.client} {request.scheme} {request.host} {request.address}")


def handshake(origin: str, host: str, *lines: str) -> bytes:
    """A handshake for ``/ws`` that a page sends."""
    fields = [f"{name}: {value}" for name, value in HANDSHAKE_FIELDS[1:]]
    lines = ("GET /ws HTTP/1.1", f"Host: {host}", f"Origin: {origin}", *fields, *lines)
    return "\r\n".join([*lines, "", ""]).encode()


async def told(app: App[Any], *lines: str, peer: Address = PROXY) -> str:
    """What the app tells about a request with some header lines."""
    async with behind(app, peer) as connect:
        client = StreamClient(connect())
        await client.get("/", *lines)
        status, content = await client.reply()
    assert status == 200
    return content.decode()


def telling(proxies: TrustedProxies | None = PROXIES) -> App:
    return App(proxies=proxies).with_stateless_route("/", tell)


# ---------------------------------------------------------------------------------------- requests


async def test_a_request() -> None:
    """The client, the scheme and the host are those that the proxy tells. The address is that of the proxy."""
    assert await told(telling(), *FORWARDED) == f"{CLIENT}:0 https site.example {PROXY}"


async def test_the_forwarded_field() -> None:
    """With ``header="forwarded"``, the field of RFC 7239 is used, and not the others."""
    app = telling(TrustedProxies("10.0.0.0/8", header="forwarded"))
    line = 'Forwarded: for="[2001:db8::7]:4711";proto=https;host=site.example'
    assert await told(app, line, "X-Forwarded-For: 192.0.2.1") == f"[2001:db8::7]:4711 https site.example {PROXY}"


async def test_off_by_default() -> None:
    """Without ``proxies``, the fields are ignored, and ``forwarded`` is None."""
    app = telling(None).with_stateless_route("/none", lambda request: Response(200, repr(request.forwarded)))
    assert await told(app, *FORWARDED) == f"{PROXY} http a {PROXY}"
    async with behind(app) as connect:
        client = StreamClient(connect())
        await client.get("/none", *FORWARDED)
        assert await client.reply() == (200, b"None")


async def test_a_peer_that_is_not_trusted() -> None:
    """The fields of a peer that is not a proxy are ignored."""
    peer = Address("192.0.2.1", 1)
    assert await told(telling(), *FORWARDED, peer=peer) == f"{peer} http a {peer}"


async def test_clients_of_one_connection() -> None:
    """Each request of a connection has its own client, because a proxy uses it for many."""
    async with behind(telling()) as connect:
        client = StreamClient(connect())
        for number in range(1, 4):
            await client.get("/", f"X-Forwarded-For: 192.0.2.{number}")
        await client.get("/")
        clients = [(await client.reply())[1].split()[0].decode() for _ in range(4)]
    assert clients == ["192.0.2.1:0", "192.0.2.2:0", "192.0.2.3:0", str(PROXY)]


async def test_a_body_and_an_upload() -> None:
    """Requests with a body, read before the handler or by it, have their client, too."""

    async def read(request: Request, state: None) -> Response:
        return Response(200, f"{request.client.host} {len(await request.read(limit=100))}")

    app = App(proxies=PROXIES).with_route("/whole", read).with_route("/stream", read, stream=True)
    async with behind(app) as connect:
        client = StreamClient(connect())
        for path in ("/whole", "/stream"):
            await client.post(path, b"12345", *FORWARDED)
            assert await client.reply() == (200, f"{CLIENT} 5".encode())


async def test_the_argument() -> None:
    """Anything but ``TrustedProxies`` is an error that says what to write."""
    wrong: Any = ["10.0.0.0/8"]
    with pytest.raises(TypeError, match=r"write proxies=TrustedProxies\('10.0.0.0/8'\)"):
        App(proxies=wrong)
    with pytest.raises(TypeError, match=r"write proxies=TrustedProxies\('10.0.0.0/8'\)"):
        https_redirect(proxies=wrong)


# --------------------------------------------------------------------------------- what follows hosts


async def test_hosts() -> None:
    """The forwarded host selects the SubApp and its layers."""

    async def layer(request: Request, state: None, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response.with_header("X-Layer", "of the site")

    site = SubApp().with_stateless_route("/", lambda _: Response(200, "site")).with_layer(layer)
    app = telling().with_host("site.example", site)
    async with behind(app) as connect:
        client = RawClient(connect())
        fields = "".join(f"{line}\r\n" for line in FORWARDED)
        await client.send(f"GET / HTTP/1.1\r\nHost: backend\r\n{fields}\r\n".encode())
        reply = await client.reply()
        assert (reply.content, reply.headers.get("X-Layer")) == (b"site", "of the site")
        await client.send(b"GET / HTTP/1.1\r\nHost: backend\r\n\r\n")
        reply = await client.reply()
        assert "X-Layer" not in reply.headers


async def test_layers_of_an_absolute_target() -> None:
    """The layers of a host are those of the host that was asked for, also in an absolute target."""

    async def layer(request: Request, state: None, call_next: Any) -> Response:
        return Response(200, "layer")

    app = App().with_host("site.example", SubApp().with_layer(layer))
    async with behind(app) as connect:
        client = StreamClient(connect())
        await client.send(b"GET http://site.example/ HTTP/1.1\r\nHost: other\r\n\r\n")
        assert await client.reply() == (200, b"layer")


@pytest.mark.parametrize(
    ("lines", "status", "location"),
    [
        (("X-Forwarded-Proto: http", "X-Forwarded-Host: site.example:80"), 308, "https://site.example/x?y"),
        (("X-Forwarded-Host: evil.example",), 400, None),
        (("X-Forwarded-Proto: https", "X-Forwarded-Host: site.example"), 421, None),
    ],
)
async def test_https_redirect(lines: tuple[str, ...], status: int, location: str | None) -> None:
    """The redirect leads to the forwarded host, and never to itself."""
    redirect = https_redirect(hosts=["site.example"], proxies=PROXIES)
    async with behind(redirect) as connect:
        client = StreamClient(connect())
        await client.get("/x?y", *lines)
        head = await client.head()
    assert (head.status, head.headers.get("Location")) == (status, location)


@pytest.mark.parametrize(("origin", "status"), [("https://site.example", 200), ("https://backend", 403)])
async def test_cross_origin_guard(origin: str, status: int) -> None:
    """The guard compares pages with the forwarded host."""
    app = App(proxies=PROXIES).with_route("/", lambda _, __: Response(200)).with_layer(cross_origin_guard())
    async with behind(app) as connect:
        client = StreamClient(connect())
        await client.post("/", b"", *FORWARDED, f"Origin: {origin}")
        assert (await client.reply())[0] == status


@pytest.mark.parametrize(
    ("origin", "lines", "status"),
    [
        ("https://site.example", FORWARDED, 101),
        ("HTTPS://SITE.example", FORWARDED, 101),
        ("http://site.example", FORWARDED, 403),
        ("https://testserver", FORWARDED, 403),
        ("https://site.example:8443", FORWARDED, 403),
        # The proxy does not tell the scheme or the host.
        ("http://site.example", FORWARDED[2:], 101),
        ("https://site.example", FORWARDED[2:], 101),
        ("https://testserver", FORWARDED[:2], 101),
        ("http://testserver", FORWARDED[:2], 403),
        ("https://testserver", (), 101),
        ("https://site.example", (), 403),
    ],
)
async def test_the_origin_of_a_websocket(origin: str, lines: tuple[str, ...], status: int) -> None:
    """Without ``origins``, a page must have the forwarded host, and the forwarded scheme if it is told."""

    async def handler(stream: WebsocketStream, state: None) -> None:
        await stream.close()

    app = App(proxies=PROXIES).with_websocket_route("/ws", websocket_handler(handler))
    async with behind(app) as connect:
        client = StreamClient(connect())
        await client.send(handshake(origin, "testserver", *lines))
        assert (await client.head()).status == status


# ------------------------------------------------------------------------------------- logs and streams


async def test_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    """The access log has the client; the proxy for a request that could not be read."""
    caplog.set_level(logging.INFO, "humphrey_trio.access")
    async with behind(telling()) as connect:
        client = StreamClient(connect())
        await client.get("/", *FORWARDED)
        await client.reply()
        await client.send(b"nonsense\r\n\r\n")
        await client.reply()
    records: list[Any] = [record for record in caplog.records if record.name == "humphrey_trio.access"]
    assert [record.client for record in records] == [f"{CLIENT}:0", str(PROXY)]
    assert [record.tls for record in records] == [False, False]


async def test_a_stream_of_a_route(caplog: pytest.LogCaptureFixture) -> None:
    """``stream.client`` and the close record name the client, and ``peer_addr`` the proxy."""
    seen: list[object] = []

    async def handler(stream: WebsocketStream, state: None) -> None:
        seen.extend((stream.client, stream.peer_addr, repr(stream)))

    caplog.set_level(logging.INFO, "humphrey_trio.websocket")
    send_channel, receive_channel = trio.open_memory_channel[Event](10)
    wanted = EventType.WEBSOCKET_CONNECTION_REQUESTED | EventType.WEBSOCKET_CONNECTION_CLOSED
    monitor = MonitorConfig(send_channel).with_subscription_to(wanted)
    app = App(proxies=PROXIES).with_websocket_route("/", websocket_handler(handler)).with_monitor(monitor)
    async with behind(app) as connect:
        client = await open_websocket(connect(), "/", headers=[("X-Forwarded-For", CLIENT)])
        assert [message async for message in client] == []
    assert seen[:2] == [Address(CLIENT), PROXY]
    assert f" with {CLIENT}:0, open" in str(seen[2])
    (record,) = caplog.records
    assert f" with {CLIENT}:0 closed " in record.getMessage()
    assert (vars(record)["client"], vars(record)["peer_addr"]) == (f"{CLIENT}:0", str(PROXY))
    events = [receive_channel.receive_nowait() for _ in range(2)]
    assert [event.peer for event in events] == [Address(CLIENT), Address(CLIENT)]


async def test_every_line_about_a_request_names_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """No line about a request or a WebSocket has the address of the proxy in its text, also about a refusal."""
    caplog.set_level(logging.DEBUG, "humphrey_trio")

    async def fail(stream: WebsocketStream, state: None) -> None:
        raise ValueError

    app = App(proxies=PROXIES).with_layer(cross_origin_guard()).with_stateless_route("/", tell)
    app.with_websocket_route("/ws", websocket_handler(fail))
    async with behind(app) as connect:
        for page in ("https://evil.example", "https://site.example"):
            client = RawClient(connect())
            await client.send(handshake(page, "a", *FORWARDED))
            await client.reply()
            await client.stream.aclose()
        other = StreamClient(connect())
        await other.get("/", *FORWARDED, "Origin: https://evil.example", method="POST")
        assert (await other.reply())[0] == 403
        await trio.testing.wait_all_tasks_blocked()
    texts = [record.getMessage() for record in caplog.records]
    assert sum(CLIENT in text for text in texts) == 7, texts
    assert [text for text in texts if PROXY.host in text] == []
    refused = [text for text in texts if text.startswith("refused")]
    assert refused[0] == f"refused {CLIENT}:0: pages of 'https://evil.example' may not connect to 'site.example'"
    assert len(refused) == 2


async def test_a_stream_of_an_app() -> None:
    """Handlers of a WebSocket app see the client as well."""
    seen: list[Address] = []

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        seen.extend((stream.client, stream.peer_addr))
        await stream.close()

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(on_message)
    async with linked(websocket_app):
        app = App(proxies=PROXIES)
        app.with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
        async with behind(app) as connect:
            client = await open_websocket(connect(), "/", headers=[("X-Forwarded-For", CLIENT)])
            await client.send("hello")
            assert [message async for message in client] == []
    assert seen == [Address(CLIENT), PROXY]


def test_forwarded_of_a_handmade_request() -> None:
    """A request that was not received may have any ``forwarded``."""
    request = Request(headers=[("Host", "backend")], forwarded=Forwarded(Address(CLIENT), "https", "Site.Example"))
    assert (request.client.host, request.scheme, request.host) == (CLIENT, "https", "site.example")


# ----------------------------------------------------------------------------------------------- nginx


def nginx_of_the_page(listener: int, upstream: str, buffering: str) -> str:
    """The configuration of docs/proxies.md, for other addresses."""
    page = (ROOT / "docs" / "proxies.md").read_text()
    (block,) = re.findall(r"^    map .*?^    server \{\n.*?^    \}\n", page, re.DOTALL | re.MULTILINE)
    changes = {
        "server 127.0.0.1:8080;": f"server {upstream};",
        "listen 80;": f"listen 127.0.0.1:{listener};",
        "proxy_http_version 1.1;": f"proxy_http_version 1.1; proxy_buffering {buffering};"
        f" proxy_request_buffering {buffering};",
    }
    for old, new in changes.items():
        assert block.count(old) == 1
        block = block.replace(old, new)
    return block


async def first_then_wait(write: Write) -> None:
    await write(b"first")
    await trio.sleep_forever()


async def read_all(request: Request, state: None) -> Response:
    return Response(200, f"{len(await request.read(limit=2**30))} {request.client.host}")


async def echo(stream: WebsocketStream, state: None) -> None:
    await stream.send(f"{stream.client.host} {stream.request.scheme} {stream.request.host}")
    async for message in stream:
        await stream.send(message)


@asynccontextmanager
async def behind_nginx(over: str, buffering: str, folder: Path) -> AsyncGenerator[int]:
    """Run an app behind nginx, over TCP or a Unix socket. Yields the port of nginx."""
    app = App(proxies=TrustedProxies("127.0.0.1", "unix")).with_stateless_route("/", tell)
    app.with_route("/upload", read_all, stream=True).with_websocket_route("/ws", websocket_handler(echo))
    at_once = {"X-Accel-Buffering": "no"}
    app.with_stateless_route("/events", lambda _: Response.stream(first_then_wait, headers=at_once))
    socket = folder / "app.sock"
    port = free_port()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, ANY_PORT if over == "tcp" else f"unix:{socket}")
            upstream = str(address) if over == "tcp" else f"unix:{socket}"
            async with running_nginx(nginx_of_the_page(port, upstream, buffering), folder):
                yield port
            nursery.cancel_scope.cancel()


each_nginx = pytest.mark.parametrize(
    ("over", "buffering"), [("tcp", "on"), ("tcp", "off"), ("unix", "on"), ("unix", "off")]
)


@asynccontextmanager
async def connected(port: int) -> AsyncGenerator[StreamClient]:
    """A client of nginx, with another address than nginx has."""
    async with await trio.open_tcp_stream("127.0.0.1", port, local_address=NGINX_CLIENT) as stream:
        yield StreamClient(stream)


@needs_nginx
@each_nginx
async def test_requests_behind_nginx(over: str, buffering: str, tmp_path: Path) -> None:
    """nginx tells the client and the host, and replaces what a client pretends."""
    async with behind_nginx(over, buffering, tmp_path) as port, connected(port) as client:
        for lines in ((), ("X-Forwarded-For: 192.0.2.9", *FORWARDED[1:])):
            await client.get("/", *lines)
            status, content = await client.reply()
            who, scheme, host, peer = content.decode().split()
            assert (status, who, scheme, host) == (200, f"{NGINX_CLIENT}:0", "http", "a")
            assert peer == "unix:" if over == "unix" else peer.startswith("127.0.0.1:")


@needs_nginx
@each_nginx
async def test_streams_behind_nginx(over: str, buffering: str, tmp_path: Path) -> None:
    """An upload arrives as a whole, and the first piece of a response at once."""
    async with behind_nginx(over, buffering, tmp_path) as port, connected(port) as client:
        await client.post("/upload", bytes(500_000))
        assert await client.reply() == (200, f"500000 {NGINX_CLIENT}".encode())
        await client.get("/events")
        assert (await client.head()).status == 200
        assert await client.chunk() == b"first"


@needs_nginx
@each_nginx
async def test_websockets_behind_nginx(over: str, buffering: str, tmp_path: Path) -> None:
    """A WebSocket opens through nginx, for pages of the host and the scheme that the client used."""
    async with behind_nginx(over, buffering, tmp_path) as port:
        fields = [("Host", "site.example"), ("Origin", "http://site.example")]
        async with connected(port) as opened:
            client = await open_websocket(opened.stream, "/ws", headers=fields)
            assert await client.receive() == Message(f"{NGINX_CLIENT} http site.example")
            await client.send("x" * 100_000)
            assert await client.receive() == Message("x" * 100_000)
        for origin in ("https://site.example", "http://other.example"):
            async with connected(port) as refused:
                await refused.send(handshake(origin, "site.example"))
                assert (await refused.head()).status == 403
