"""Apps over TLS: both apps of a linked pair, invalid certificates, and clients without TLS."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trio
import trio.testing
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Limits,
    Message,
    Request,
    Response,
    Timeouts,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.http import Address, TlsInfo
from tests.support.certificates import trusting_in_threads
from tests.support.wire import request_bytes

HOST = "127.0.0.1"
PATIENCE = 60


class Files(NamedTuple):
    """A certificate and its key, as files."""

    cert: Path
    key: Path


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(authority, tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the server."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def write_files(authority: trustme.CA, folder: Path) -> Files:
    issued = authority.issue_cert(HOST, "localhost")
    found = Files(folder / "cert.pem", folder / "key.pem")
    found.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    found.key.write_bytes(issued.private_key_pem.bytes())
    return found


def hello_app(files: Files, **options: Any) -> App:
    app = App(**options).with_stateless_route("/", lambda _: Response(200, "Hello world!"))
    return app.with_cert(files.cert, files.key)


@asynccontextmanager
async def serving(app: App) -> AsyncGenerator[Address]:
    """Run an app over TLS, until the end of the block."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run_tls, f"{HOST}:0")
            yield address
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_pair(files: Files) -> AsyncGenerator[tuple[Address, Callable[[], None]]]:
    """Run a linked pair over TLS. Yields its address and a function that cancels it."""

    async def echo(stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)
    app = hello_app(files).with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket_app.run)
            (address,) = await nursery.start(app.run_tls, f"{HOST}:0")
            yield address, nursery.cancel_scope.cancel
            nursery.cancel_scope.cancel()


async def get(address: Address, trusting: ssl.SSLContext) -> httpx.Response:
    async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
        return await client.get(f"https://{address}/")


def open_websocket(address: Address, trusting: ssl.SSLContext) -> ClientConnection:
    return connect(f"wss://{address}/ws", ssl=trusting, proxy=None, max_size=2**21)


@asynccontextmanager
async def raw_client(address: Address, trusting: ssl.SSLContext) -> AsyncGenerator[trio.abc.Stream]:
    """A TLS connection, for a client that is no HTTP client."""
    stream = await trio.open_ssl_over_tcp_stream(*address, ssl_context=trusting, https_compatible=True)
    async with stream:
        yield stream


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


# ------------------------------------------------------------------------------------- the linked pair


async def test_http(files: Files, trusting: ssl.SSLContext) -> None:
    """The HTTP app of a linked pair serves several requests of a connection over TLS."""
    async with serving_pair(files) as (address, _), httpx.AsyncClient(verify=trusting, trust_env=False) as client:
        for _ in range(3):
            assert (await client.get(f"https://{address}/")).text == "Hello world!"


async def test_websockets(files: Files, authority: trustme.CA) -> None:
    """The WebSocket app of a linked pair echoes messages up to 1 MiB over TLS."""

    def converse(address: Address) -> None:
        with open_websocket(address, trusting_in_threads(authority)) as client:
            for size in (0, 1, 65536, 2**20):
                for message in ("x" * size, b"y" * size):
                    client.send(message)
                    assert client.recv(timeout=PATIENCE) == message

    async with serving_pair(files) as (address, _):
        await trio.to_thread.run_sync(converse, address)


async def test_cancelling_closes_with_1001(files: Files, authority: trustme.CA) -> None:
    """A client receives Close 1001 over TLS when the pair is cancelled."""

    def converse(address: Address, cancel: Callable[[], None]) -> int | None:
        with open_websocket(address, trusting_in_threads(authority)) as client:
            client.send("text")
            assert client.recv(timeout=PATIENCE) == "text"
            trio.from_thread.run_sync(cancel)
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=PATIENCE)
            return caught.value.rcvd and caught.value.rcvd.code

    async with serving_pair(files) as (address, cancel):
        code = await trio.to_thread.run_sync(converse, address, cancel)
    assert code == 1001


async def test_cancelled_while_a_client_does_not_read(
    autojump_clock: trio.testing.MockClock, files: Files, trusting: ssl.SSLContext
) -> None:
    """An app that is cancelled while it sends to a client that does not read ends within two seconds."""
    blocked = trio.Event()

    async def flood(stream: WebsocketStream, state: None) -> None:
        with trio.move_on_after(1):
            while True:
                await stream.send(bytes(2**20))
        blocked.set()
        await trio.sleep_forever()

    app = hello_app(files).with_websocket_route("/", websocket_handler(flood))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run_tls, f"{HOST}:0")
        client = await trio.open_ssl_over_tcp_stream(*address, ssl_context=trusting, https_compatible=True)
        await client.send_all(request_bytes("GET / HTTP/1.1"))
        await blocked.wait()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(client)
    assert trio.current_time() - began < 2


# ------------------------------------------------------------------------------------------ certificates


@pytest.mark.parametrize(
    ("cert", "key", "named"),
    [
        ("missing.pem", "key.pem", "missing.pem"),
        ("cert.pem", "missing.pem", "missing.pem"),
        (".", "key.pem", "."),
        ("empty.pem", "key.pem", "empty.pem"),
        ("text.pem", "key.pem", "text.pem"),
        ("cert.pem", "text.pem", "text.pem"),
        ("cert.pem", "other/key.pem", "other/key.pem"),
        ("key.pem", "cert.pem", "cert.pem"),
        ("cert.pem", None, "cert.pem"),
    ],
)
def test_invalid_certificate_files(
    authority: trustme.CA, tmp_path: Path, cert: str, key: str | None, named: str
) -> None:
    """Files that are missing, not PEM or do not match are a ValueError that names one of them."""
    (tmp_path / "other").mkdir()
    write_files(authority, tmp_path)
    write_files(authority, tmp_path / "other")
    (tmp_path / "empty.pem").touch()
    (tmp_path / "text.pem").write_text("This is no certificate.")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / named))):
        App().with_cert(tmp_path / cert, tmp_path / key if key is not None else None)


async def test_run_tls_without_a_certificate(tmp_path: Path) -> None:
    """``run_tls`` without a certificate says what to do, and does not listen."""
    address = tmp_path / "socket"
    with pytest.raises(RuntimeError, match=r"with_cert\(cert, key\)"):
        await App().run_tls(f"unix:{address}")
    assert not address.exists()


def test_client_context_is_refused() -> None:
    """A context for clients is refused, because every handshake with it would fail."""
    with pytest.raises(ValueError, match="this SSLContext is for clients"):
        App().with_cert(ssl.create_default_context())


async def test_server_context_is_used(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """An SSLContext for servers is used as it is."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert(HOST).configure_cert(context)
    app = App().with_stateless_route("/", lambda _: Response(200, "Hello world!")).with_cert(context)
    async with serving(app) as address:
        assert (await get(address, trusting)).text == "Hello world!"
        async with raw_client(address, trusting) as stream:
            assert isinstance(stream, trio.SSLStream)
            await stream.do_handshake()
            assert stream.version() == "TLSv1.2"


async def test_one_file_for_certificate_and_key(files: Files, trusting: ssl.SSLContext, tmp_path: Path) -> None:
    """The certificate and the key may be in one file."""
    both = tmp_path / "both.pem"
    both.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    app = App().with_stateless_route("/", lambda _: Response(200, "Hello world!")).with_cert(str(both))
    async with serving(app) as address:
        assert (await get(address, trusting)).text == "Hello world!"


# ------------------------------------------------------------------------------------ failed handshakes


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01"], ids=["nothing", "the start of a handshake"])
async def test_handshake_timeout(autojump_clock: trio.testing.MockClock, files: Files, beginning: bytes) -> None:
    """A client that does not complete the handshake is closed at ``Timeouts.handshake``."""
    app = hello_app(files, timeouts=Timeouts(handshake=7))
    async with serving(app) as address, await trio.open_tcp_stream(*address) as stream:
        began = trio.current_time()
        await stream.send_all(beginning)
        assert await read_to_end(stream) == b""
        assert 7 <= trio.current_time() - began < 8


async def leave(stream: trio.SocketStream) -> None:
    """Send an end of file."""
    await stream.send_eof()


async def reset(stream: trio.SocketStream) -> None:
    """Reset the connection."""
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))


async def noise(stream: trio.SocketStream) -> None:
    """Send many random bytes."""
    await stream.send_all(bytes(range(256)) * 16)
    await assert_no_http(stream)


async def distrust(stream: trio.SocketStream) -> None:
    """Send a handshake of a client that does not trust the authority."""
    tls = trio.SSLStream(stream, ssl.create_default_context(), server_hostname=HOST)
    with pytest.raises(trio.BrokenResourceError):
        await tls.do_handshake()


async def assert_no_http(stream: trio.SocketStream) -> None:
    """Assert that the server sends nothing but an alert."""
    with contextlib.suppress(trio.BrokenResourceError):
        assert b"HTTP" not in await read_to_end(stream)


@pytest.mark.parametrize("misbehave", [leave, reset, noise, distrust])
async def test_clients_without_tls(
    files: Files,
    trusting: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    misbehave: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    """Bytes that are not TLS are not logged above DEBUG, and the next client is served."""
    caplog.set_level(logging.INFO, "humphrey_trio.http")
    async with serving(hello_app(files)) as address:
        caplog.clear()  # the line about the listener
        for _ in range(3):
            async with await trio.open_tcp_stream(*address) as stream:
                await misbehave(stream)
        assert (await get(address, trusting)).text == "Hello world!"
    assert not caplog.records


async def test_plain_http_on_the_port_for_tls(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """A request without TLS is answered with 400 in plain text, and logged with its first bytes."""
    caplog.set_level(logging.INFO, "humphrey_trio")
    async with serving(hello_app(files)) as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"GET /secret HTTP/1.1\r\nHost: example.com\r\n\r\n" + bytes(100_000))
        answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"This port accepts only HTTPS: use https:// instead of http://.\n")
    _, line = caplog.messages  # the first is about the listener
    assert line.startswith("plain HTTP from 127.0.0.1:")
    assert "'GET /secret HTTP/1.1'" in line


def tls_info_app(seen: list[TlsInfo | None]) -> App:
    """An app that records the ``tls`` attribute of its requests."""

    def look(request: Request) -> Response:
        seen.append(request.tls)
        return Response(200, "fine")

    return App().with_stateless_route("/", look)


async def test_request_tls(files: Files, trusting: ssl.SSLContext) -> None:
    """``request.tls`` has the negotiated parameters; it is None over a plain connection."""
    seen: list[TlsInfo | None] = []
    app = tls_info_app(seen).with_cert(files.cert, files.key)
    async with serving(app) as address, httpx.AsyncClient(verify=trusting, trust_env=False) as client:
        assert (await client.get(f"https://localhost:{address.port}/")).text == "fine"
    await app.handle(Request())
    tls, plain = seen
    assert plain is None
    assert tls is not None
    assert tls.version == "TLSv1.3"
    assert tls.cipher.startswith("TLS_")
    assert (tls.server_name, tls.alpn_protocol) == ("localhost", "http/1.1")
    assert (tls.peer_certificate, tls.peer_certificate_fields) == (None, {})


async def test_client_certificates(files: Files, authority: trustme.CA) -> None:
    """With client certificates required, handlers get them, and a client without one gets an alert."""
    seen: list[TlsInfo | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(tls_info_app(seen).with_cert(context)) as address:
        async with raw_client(address, trusting) as stream:
            with pytest.raises(trio.BrokenResourceError) as refused:
                await ask(stream)
            assert "certificate required" in str(refused.value.__cause__).lower().replace("_", " ")
        authority.issue_cert("someone@example.com").configure_cert(trusting)
        assert (await get(address, trusting)).text == "fine"
    (tls,) = seen
    assert tls is not None
    assert ("email", "someone@example.com") in tls.peer_certificate_fields["subjectAltName"]
    assert tls.peer_certificate


async def test_reload(files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With ``reload=True`` new connections get a replaced certificate; an invalid pair changes nothing."""
    other, trusting_other = trustme.CA(), ssl.create_default_context()
    other.configure_trust(trusting_other)
    identity = other.issue_cert(HOST)
    cert, key = tmp_path / "live.pem", tmp_path / "live.key"
    shutil.copy(files.cert, cert)
    shutil.copy(files.key, key)
    app = App().with_stateless_route("/", lambda _: Response(200, "fine")).with_cert(cert, key, reload=True)
    async with serving(app) as address:
        identity.private_key_pem.write_to_path(key)
        await wait_until_logged(caplog)
        with pytest.raises(httpx.ConnectError):
            await get(address, trusting_other)
        identity.cert_chain_pems[0].write_to_path(cert)
        assert await text_at_last(address, trusting_other) == "fine"
    (line,) = caplog.messages
    assert line.startswith("the certificate files have changed and cannot be used")


async def test_reload_without_threads(
    autojump_clock: trio.testing.MockClock,
    files: Files,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If no thread can be started, the server logs one warning, continues, and checks again later."""
    failures = iter([RuntimeError("can't start new thread")] * 3)
    checked = trio.Event()

    async def run_sync(*_: object, **options: object) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        checked.set()

    app = hello_app(files).with_cert(files.cert, files.key, reload=True)
    async with serving(app) as address:
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", run_sync)
            await checked.wait()
        async with raw_client(address, trusting) as stream:
            await ask(stream)
    assert caplog.messages == ["the certificate files cannot be checked: can't start new thread"]


async def ask(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.receive_some()


async def wait_until_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Wait for a line of the log. The files are checked once a second."""
    while True:
        await trio.sleep(0.05)
        if caplog.records:
            return


async def text_at_last(address: Address, trusting: ssl.SSLContext) -> str:
    """The text at ``/``, as soon as the client trusts the server."""
    while True:
        with contextlib.suppress(httpx.ConnectError):
            return (await get(address, trusting)).text
        await trio.sleep(0.05)


def test_reload_of_a_context() -> None:
    """``reload=True`` with a context raises an error that says that only files can be reloaded."""
    with pytest.raises(ValueError, match="only files can be reloaded"):
        App().with_cert(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), reload=True)


# -------------------------------------------------------------------------------------- error responses


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000), 413),
        (b"POST /unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000), 404),
    ],
    ids=["no HTTP", "a long head", "a long body", "an unread body"],
)
async def test_error_responses_are_complete_over_tls(
    autojump_clock: trio.testing.MockClock,
    files: Files,
    trusting: ssl.SSLContext,
    sent: bytes,
    status: int,
) -> None:
    """A client gets the whole error response, even if the server has not read all of the request."""
    app = hello_app(files, limits=Limits(body=1000))
    async with serving(app) as address, raw_client(address, trusting) as stream:
        await stream.send_all(sent)
        answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(b"\n")
