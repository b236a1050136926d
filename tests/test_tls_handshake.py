"""The TLS handshake: failures, peers without TLS, and negotiated parameters."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio import App
from humphrey_trio._server._client_hello import server_name_of
from humphrey_trio._server._tls_handshake import PlainHttpError, TlsHandshakeError
from humphrey_trio._server._transport import Incoming
from humphrey_trio.http import TlsInfo
from tests.support import ANY_PORT, PATIENCE
from tests.support.certificates import authority
from tests.support.steps import cancelled_at
from tests.support.tls_peers import (
    HOST,
    VERSIONS,
    Client,
    client_context,
    connection,
    local_pair,
    reset,
    server_context,
    shake_hands,
    tcp_pair,
)

any_version = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


# ----------------------------------------------------------------------------------------- the handshake


async def test_handshake_byte_by_byte() -> None:
    """A handshake succeeds byte by byte, with small send buffers."""
    async with connection(pair=local_pair) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
            await drip(client, outgoing.read())
            await trio.lowlevel.wait_readable(client.socket)
            incoming.write(client.socket.recv(1))
        await drip(client, outgoing.read())
    assert transport.tls_info().server_name == HOST


async def drip(client: Client, data: bytes) -> None:
    for byte in data:
        await client.send_all(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("end", ["interrupt", "abort"])
@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01"], ids=["nothing", "a beginning"])
async def test_interrupted_handshake(end: str, beginning: bytes) -> None:
    """An interrupt or an abort ends a handshake, before and after its first byte."""
    async with connection() as (transport, client), trio.open_nursery() as nursery:
        await client.send_all(beginning)

        async def run() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await transport.handshake()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        getattr(transport, end)()


def waiting_to_write() -> int:
    """The number of tasks that wait for room, on systems with epoll."""
    statistics = trio.lowlevel.current_statistics().io_statistics
    return getattr(statistics, "tasks_waiting_write", 1)


async def test_interrupted_handshake_that_waits_for_room(tmp_path: Path) -> None:
    """A handshake is interrupted even if its client does not read."""
    issued = authority().issue_cert(HOST)
    chain = issued.private_key_and_cert_chain_pem.bytes() + 100 * authority().cert_pem.bytes()
    (tmp_path / "long.pem").write_bytes(chain)
    context = server_context()
    context.load_cert_chain(tmp_path / "long.pem")
    async with connection(context, local_pair) as (transport, client), trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await transport.handshake()

        nursery.start_soon(run)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            client_context().wrap_bio(incoming, outgoing, server_hostname=HOST).do_handshake()
        await client.send_all(outgoing.read())
        await trio.testing.wait_all_tasks_blocked()
        assert waiting_to_write() == 1
        transport.interrupt()


async def test_cancelled_handshake() -> None:
    """A transport can be closed wherever its handshake was cancelled."""
    for step in range(1, 20):
        async with connection() as (transport, client), trio.open_nursery() as nursery:
            nursery.start_soon(_shake_hands_in_vain, client)
            reached = await cancelled_at(step, transport.handshake)
            await transport.close()
        if not reached:
            return
    raise AssertionError("it has no end")


async def _shake_hands_in_vain(client: Client) -> None:
    with contextlib.suppress(EOFError, OSError, ssl.SSLError):
        await client.shake_hands(client_context())


class HandshakeCounter:
    """Counts handshakes: all, and the most between two turns of another task."""

    def __init__(self) -> None:
        self.all = self.most = 0

    def __call__(
        self, tls: object, direction: str, version: object, content: object, kind: object, _: bytes
    ) -> None:
        self.all += direction == "write" and kind is ssl._TLSMessageType.SERVER_HELLO  # type: ignore[attr-defined]

    async def watch(self) -> None:
        before = 0
        while True:
            await trio.lowlevel.checkpoint()
            self.most = max(self.most, self.all - before)
            before = self.all


async def test_many_handshakes_at_once() -> None:
    """The number of handshakes between two turns of another task is bounded, and all complete in time."""
    replies = HandshakeCounter()
    context = server_context()
    context._msg_callback = replies  # type: ignore[attr-defined]  # the only way to look at it
    hello = hello_for(HOST)
    turns = trio.Semaphore(3)
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        nursery.start_soon(replies.watch)
        for _ in range(50):
            transport, client = await stack.enter_async_context(connection(context))
            await client.send_all(hello)
            nursery.start_soon(transport.handshake, turns)
        while replies.all < 50:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert 0 < replies.most <= 6
    assert turns.value == 3


async def test_burst_of_connections() -> None:
    """A server completes all handshakes of a burst, and other tasks run in between."""
    replies = HandshakeCounter()
    context = server_context()
    context._msg_callback = replies  # type: ignore[attr-defined]
    app = App().with_cert(context)
    hello = hello_for(HOST)
    most = 0
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run_tls, ANY_PORT)
            for _ in range(400):
                client = stack.enter_context(socket.create_connection(address))
                client.sendall(hello)
            nursery.start_soon(replies.watch)
            with trio.fail_after(PATIENCE):
                while replies.all < 400:
                    await trio.lowlevel.checkpoint()
                    most = max(most, app.statistics().connections - replies.all)
            nursery.cancel_scope.cancel()
    assert 0 < replies.most <= 32
    assert most <= 200


async def failed_handshake(
    behave: Callable[[Client], Awaitable[object]], context: ssl.SSLContext | None = None
) -> TlsHandshakeError:
    """The reason of the failure of a handshake with a client."""
    async with connection(context, tcp_pair) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(behave, client)
        with pytest.raises(TlsHandshakeError) as caught:
            await transport.handshake()
        await transport.close()
    ended = {"the peer closed the connection": Incoming.ENDED, "Connection reset by peer": Incoming.BROKEN}
    assert transport.incoming is ended.get(str(caught.value), Incoming.OPEN)
    return caught.value


async def _leave(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)


async def _leave_in_the_middle(client: Client) -> None:
    await client.send_all(b"\x16\x03\x01\x02\x00\x01")
    await _leave(client)


async def _reset(client: Client) -> None:
    await client.send_all(b"\x16\x03\x01")
    reset(client.socket)


async def _make_noise(client: Client) -> None:
    await client.send_all(b"\x00" * 100)


async def _distrust(client: Client) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.shake_hands(ssl.create_default_context())


async def _be_old(client: Client) -> None:
    context = client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    # The alert depends on the security level with which OpenSSL was built.
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version|internal.error"):
        await client.shake_hands(context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (_leave, "the peer closed the connection"),
        (_leave_in_the_middle, "the peer closed the connection"),
        (_reset, "Connection reset by peer"),
        (_make_noise, "wrong version number"),
        (_distrust, "tlsv1 alert unknown ca"),
        # The second is that of an OpenSSL which is built to speak TLS 1.1, but not to sign for it.
        (_be_old, "unsupported protocol|no suitable signature algorithm"),
    ],
)
async def test_reasons_of_failed_handshakes(behave: Callable[[Client], Awaitable[object]], reason: str) -> None:
    """A failed handshake has a short reason, and the client gets an alert if there is one."""
    assert re.fullmatch(reason, str(await failed_handshake(behave)))


async def test_required_client_certificate() -> None:
    """A client without the required certificate is refused with that reason."""
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED

    async def have_none(client: Client) -> None:
        await client.shake_hands(client_context())
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            await client.read(1)

    assert str(await failed_handshake(have_none, context)) == "peer did not return a certificate"


@pytest.mark.parametrize("failing", ["sni", "keylog"])
async def test_failing_callbacks_of_the_context(failing: str) -> None:
    """A callback of the context that fails ends one handshake and nothing else."""
    context = server_context()

    def fail(*_: object) -> Any:
        raise ZeroDivisionError

    if failing == "sni":
        context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    else:
        context._msg_callback = fail  # type: ignore[attr-defined]

    async def try_in_vain(client: Client) -> None:
        with contextlib.suppress(ssl.SSLError, EOFError):
            await client.shake_hands(client_context())

    reason = str(await failed_handshake(try_in_vain, context))
    assert reason == ("callback failed" if failing == "sni" else "ZeroDivisionError: ")


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.binary(max_size=60), max_size=6), begun=st.booleans(), flipped=st.integers(0, 10_000))
def test_any_bytes_in_a_handshake(pieces: list[bytes], begun: bool, flipped: int) -> None:
    """Any bytes instead of a handshake fail with TlsHandshakeError."""

    async def main() -> None:
        async with connection() as (transport, client), trio.open_nursery() as nursery:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            if begun:
                with pytest.raises(ssl.SSLWantReadError):
                    client_context().wrap_bio(incoming, outgoing, server_hostname=HOST).do_handshake()
            hello = bytearray(outgoing.read())
            if hello:
                hello[flipped % len(hello)] ^= 1 << flipped % 8
            await client.send_all(bytes(hello) + b"".join(pieces))
            client.socket.shutdown(socket.SHUT_WR)
            nursery.start_soon(_read_away, client)
            with pytest.raises(TlsHandshakeError):
                await transport.handshake()
            await transport.close()

    trio.run(main)


async def _read_away(client: Client) -> None:
    try:
        while True:
            await client.receive()
    except (EOFError, ConnectionResetError):
        pass


# --------------------------------------------------------------------------------------------- plain HTTP


@pytest.mark.parametrize(
    ("request_", "quoted"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "'GET / HTTP/1.1'"),
        (b"options * HTTP/1.0\r\n\r\n", "'options * HTTP/1.0'"),
        (b"P", "'P'"),
        (b"GET /\x1b[31m\xff\n HTTP/1.1\r\n", r"'GET /\x1b[31m\xff\n HTTP/1.1'"),
        (b"GET /" + b"x" * 1000, "'GET /" + "x" * 55 + "'..."),
    ],
)
async def test_plain_http_instead_of_a_handshake(request_: bytes, quoted: str) -> None:
    """A request without TLS is recognised and quoted in the reason, and can be answered without TLS."""
    async with connection(pair=tcp_pair) as (transport, client):
        await client.send_all(request_)
        with pytest.raises(PlainHttpError, match=f"not TLS: begins with {re.escape(quoted)}$") as caught:
            await transport.handshake()
        assert caught.value.received == request_
        plain = transport.without_tls()
        await transport.close()
        await plain.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await plain.send_eof()
        assert await client.receive() == b"HTTP/1.1 400 Bad Request\r\n\r\n"
        client.socket.shutdown(socket.SHUT_WR)
        assert not await plain.discard_some()
        await plain.close()
        with pytest.raises(trio.ClosedResourceError):
            transport.without_tls()


# -------------------------------------------------------------------------------- negotiated parameters


@any_version
async def test_tls_info(version: ssl.TLSVersion) -> None:
    """Version, cipher, server name and ALPN are known, also after the end of the connection."""
    context = server_context()
    context.set_alpn_protocols(["http/1.1"])
    wanted = client_context(version)
    wanted.set_alpn_protocols(["h2", "http/1.1"])
    async with connection(context) as (transport, client):
        await shake_hands(transport, client, wanted)
        await client.send_all(client.records.end())
        assert await transport.receive_some() == b""
        await transport.close()
        info = transport.tls_info()
        cipher = client.tls.cipher()
        assert cipher is not None
        assert info == TlsInfo(str(client.tls.version()), cipher[0], HOST, "http/1.1")
        assert info.version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert info.peer_certificate_fields == {}
        assert transport.tls_info() is info


async def test_tls_info_without_sni_and_alpn() -> None:
    """A client without SNI and ALPN has no server name and no protocol."""
    context = client_context()
    context.check_hostname = False
    async with connection() as (transport, client):
        await shake_hands(transport, client, context, server_name=None)
    assert transport.tls_info().server_name is None
    assert transport.tls_info().alpn_protocol is None


@any_version
async def test_tls_info_with_a_client_certificate(version: ssl.TLSVersion) -> None:
    """A client certificate is there in DER and with its fields."""
    context = server_context()
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    issued = authority().issue_cert("client@example.com")
    wanted = client_context(version)
    issued.configure_cert(wanted)
    async with connection(context) as (transport, client):
        await shake_hands(transport, client, wanted)
    info = transport.tls_info()
    assert info.peer_certificate == ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    assert info.peer_certificate_fields["subjectAltName"] == (("email", "client@example.com"),)


@any_version
async def test_resumed_session_has_the_server_name(version: ssl.TLSVersion) -> None:
    """A resumed session has the server name."""
    context, wanted = server_context(), client_context(version)
    session = None
    for resumed in (False, True):
        async with connection(context) as (transport, client):
            await shake_hands(transport, client, wanted, session=session)
            transport.send_now(b"x")
            assert await client.read(1) == b"x"
            session = client.tls.session
            assert client.tls.session_reused is resumed
            assert transport.tls_info().server_name == HOST


async def test_sni_callback_of_the_context() -> None:
    """The sni_callback of a context may select another context, and the server name is known."""
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("other.example").configure_cert(other)
    context = server_context()

    def choose(tls: ssl.SSLObject | ssl.SSLSocket, name: str, _: ssl.SSLContext) -> None:
        if name == "other.example":
            tls.context = other

    context.sni_callback = choose
    async with connection(context) as (transport, client):
        await shake_hands(transport, client, client_context(), server_name="other.example")
    assert transport.tls_info().server_name == "other.example"


def hello_for(name: str | None) -> bytes:
    """A ClientHello of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def in_records(message: bytes, sizes: list[int]) -> bytes:
    """A handshake message, split into records of some sizes."""
    records = b""
    for size in [*sizes, len(message)]:
        part, message = message[:size], message[size:]
        records += b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
    return records


# They begin with letters: 192.0.2.1 would be an address, which clients do not send (RFC 6066, section 3).
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(
    name=st.lists(labels, min_size=1, max_size=5).map(".".join), sizes=st.lists(st.integers(1, 200), max_size=4)
)
def test_server_name_in_any_records(name: str, sizes: list[int]) -> None:
    """The server name is read from any ClientHello, however it is split into records."""
    hello = hello_for(name)
    assert server_name_of(hello) == name
    assert server_name_of(in_records(hello[5:], sizes)) == name


@given(data=st.binary(max_size=100), at=st.integers(0, 600), end=st.integers(0, 600))
def test_server_name_of_malformed_client_hellos(data: bytes, at: int, end: int) -> None:
    """A ClientHello that is cut or malformed has some name or none, and raises nothing."""
    hello = hello_for("name.example")
    for changed in (hello[:end], hello[:at] + data + hello[end:], data, b"\x16\x03\x01\x00\x64\x01" + data):
        found = server_name_of(changed)
        assert found is None or found.isascii()


def test_missing_and_invalid_server_names() -> None:
    """There is no server name if none was sent, or if it is not ASCII."""
    assert server_name_of(hello_for(None)) is None
    hello = hello_for("name.example")
    assert server_name_of(hello.replace(b"name.example", b"n\xc3\xa4me.exampl")) is None
    assert server_name_of(b"") is None


async def test_client_with_an_invalid_server_name() -> None:
    """A client with a server name that is not ASCII is served, and nothing is logged."""
    async with connection() as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        await client.send_all(hello_for("name.example").replace(b"name.example", b"n\xc3\xa4me.exampl"))
        assert (await client.receive()).startswith(b"\x16\x03\x03")
        nursery.cancel_scope.cancel()
