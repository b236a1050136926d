"""How a TLS connection ends: close_notify, end of file, reset, and a client that still sends."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio
import trio.testing

from humphrey_trio._server._tls import TlsTransport
from humphrey_trio._server._transport import CHUNK, Incoming
from tests.support.tls_peers import (
    HOST,
    PEER,
    client_context,
    connected,
    local_pair,
    reset,
    server_context,
    tcp_pair,
)
from tests.support.tls_transports import LONG, any_version, discard_to_end, read_to_end


@any_version
async def test_content_before_close_notify(version: ssl.TLSVersion) -> None:
    """Content before close_notify is received first, and then the end, without an end of file."""
    async with connected(version) as (transport, client):
        await client.send_all(
            client.records.encrypt(b"a") + client.records.encrypt(LONG[:30_000]) + client.records.end()
        )
        assert await read_to_end(transport) == b"a" + LONG[:30_000]
        for _ in range(3):
            assert await transport.receive_some() == b""
        assert transport.incoming is Incoming.ENDED


@any_version
@pytest.mark.parametrize("part", [b"", b"\x17\x03\x03\x00\x20abc"], ids=["between records", "in a record"])
async def test_end_of_file_without_close_notify(version: ssl.TLSVersion, part: bytes) -> None:
    """An end of file without close_notify is an end of file."""
    async with connected(version) as (transport, client):
        await client.send(b"content")
        await client.send_all(part)
        client.socket.shutdown(socket.SHUT_WR)
        assert await read_to_end(transport) == b"content"
        assert await transport.receive_some() == b""
        assert transport.incoming is Incoming.ENDED
        assert transport.send_now(b"reply") == 5
        assert await client.read(5) == b"reply"


@any_version
async def test_bad_record_after_content(version: ssl.TLSVersion) -> None:
    """Content before a bad record is received first; then the connection is broken."""
    async with connected(version) as (transport, client):
        await client.send_all(client.records.encrypt(b"content") + b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await transport.receive_some() == b"content"
        for _ in range(3):
            with pytest.raises(trio.BrokenResourceError):
                await transport.receive_some()
        assert transport.incoming is Incoming.BROKEN
        await transport.close()
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            await client.read_to_end()


@any_version
async def test_reset(version: ssl.TLSVersion) -> None:
    """A reset breaks both directions, and ``hung_up`` reports it before a receive does."""
    async with connected(version, pair=tcp_pair) as (transport, client):
        assert not transport.hung_up()
        reset(client.socket)
        assert transport.hung_up()
        with pytest.raises(trio.BrokenResourceError):
            await transport.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            transport.send_now(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await transport.send_some(b"x")
        assert transport.incoming is Incoming.BROKEN
        await transport.close()


@any_version
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_closed_transport_raises(version: ssl.TLSVersion, end: str) -> None:
    """After ``close`` or ``abort``, all methods but these raise ClosedResourceError."""
    async with connected(version) as (transport, _):
        if end == "close":
            await transport.close()
        else:
            transport.abort()
        with pytest.raises(trio.ClosedResourceError):
            await transport.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            transport.send_now(b"x")
        with pytest.raises(trio.ClosedResourceError):
            transport.send_now(LONG)
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_some(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_all(LONG)
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await transport.discard_some()
        assert transport.hung_up()
        transport.interrupt()
        transport.abort()
        await transport.close()


@any_version
async def test_close_sends_close_notify(version: ssl.TLSVersion) -> None:
    """``close`` sends close_notify after all content, without waiting for that of the client."""
    async with connected(version) as (transport, client):
        transport.send_now(LONG[:1000])
        await transport.close()
        assert await client.read_to_end() == LONG[:1000]
        assert client.records.ended


@any_version
async def test_no_close_notify_after_an_incomplete_record(version: ssl.TLSVersion) -> None:
    """``close`` in the middle of a record sends no close_notify."""
    async with connected(version, pair=local_pair) as (transport, client):
        sent = 0
        while taken := transport.send_now(bytes(100)):
            sent += taken
        assert await client.read(sent) == bytes(sent)  # now there is room
        await transport.send_eof()
        await transport.close()
        assert await client.read_to_end() == b""
        assert not client.records.ended


@any_version
async def test_no_send_after_eof(version: ssl.TLSVersion) -> None:
    """After ``send_eof`` nothing can be sent, and the client receives close_notify at once."""
    async with connected(version) as (transport, client):
        await client.send_all(client.records.end())
        assert await transport.receive_some() == b""
        await transport.send_eof()
        for data in (b"plain text", LONG):
            with pytest.raises(trio.ClosedResourceError):
                transport.send_now(data)
        assert await client.read_to_end() == b""
        assert client.records.ended


@any_version
@pytest.mark.parametrize("unread", [0, 1, 200_000])
async def test_lingering_over_tls(version: ssl.TLSVersion, unread: int) -> None:
    """A client that still sends receives everything and close_notify; the server discards what it sends."""
    async with connected(version, pair=tcp_pair) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, LONG[:unread])
        await transport.send_all(LONG[:100_000])
        await transport.send_eof()

        nursery.start_soon(discard_to_end, transport)
        assert await client.read(100_001) == LONG[:100_000]
        assert client.records.ended
        await client.send(LONG)
        client.socket.shutdown(socket.SHUT_WR)
    assert transport.incoming is Incoming.ENDED


@any_version
async def test_discard_of_incomplete_records(version: ssl.TLSVersion) -> None:
    """``discard_some`` discards any bytes, including incomplete records, and reports a reset."""
    async with connected(version, pair=tcp_pair) as (transport, client):
        await client.send_all(client.records.encrypt(b"content") + b"\x17\x03\x03\x40\x00")
        assert await transport.receive_some() == b"content"
        await transport.send_eof()
        await client.send_all(b"no TLS")
        assert await transport.discard_some()
        reset(client.socket)
        with pytest.raises(trio.BrokenResourceError):
            await discard_to_end(transport)
        assert transport.incoming is Incoming.BROKEN


@any_version
async def test_close_notify_waits_for_room(version: ssl.TLSVersion) -> None:
    """close_notify is sent as soon as there is room, while the input is discarded."""
    async with connected(version, pair=local_pair) as (transport, client):
        sent = 0
        while taken := transport.send_now(b"x"):
            sent += taken
        # Make the begun record whole, but no more room than that.
        while not transport.send_now(b"x"):
            client.pull(1)
        await transport.send_eof()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discard_to_end, transport)
            await client.send(LONG)
            assert await client.read_to_end() == b"x" * (sent + 1)
            assert client.records.ended
            client.socket.shutdown(socket.SHUT_WR)


@any_version
async def test_close_notify_during_constant_input(version: ssl.TLSVersion) -> None:
    """close_notify and the end of file are sent as soon as there is room, even if there is always input."""
    async with connected(version, pair=local_pair) as (transport, client):
        while transport.send_now(b"x"):
            pass
        while not transport.send_now(b"x"):
            client.pull(1)
        await transport.send_eof()
        for _ in range(10):
            client.pull(CHUNK)
            await client.send(b"more")
            assert await transport.discard_some()
        with trio.fail_after(1):
            await client.read_to_end()
        assert client.records.ended


def blocking_exchange(sock: socket.socket, context: ssl.SSLContext, upload: bytes) -> bytes:
    """Upload and download with a client that accepts only close_notify as an end."""
    sock.setblocking(True)
    with context.wrap_socket(sock, server_hostname=HOST, suppress_ragged_eofs=False) as tls:
        tls.sendall(upload)
        received = b""
        while data := tls.recv(CHUNK):
            received += data
        return received


@any_version
@pytest.mark.parametrize("upload", [b"request", LONG * 4], ids=["short", "long"])
async def test_client_that_requires_close_notify(version: ssl.TLSVersion, upload: bytes) -> None:
    """A client that requires close_notify receives everything, even if its request was not read."""
    ours, theirs = tcp_pair()
    transport = TlsTransport(ours, PEER, server_context())
    received: list[bytes] = []

    async def run_client() -> None:
        context = client_context(version)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        received.append(await trio.to_thread.run_sync(blocking_exchange, theirs, context, upload))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_client)
            await transport.handshake()
            assert upload.startswith(await transport.receive_some())
            await transport.send_all(LONG)
            await transport.send_eof()
            await discard_to_end(transport)
            await transport.close()
    assert received == [LONG]
