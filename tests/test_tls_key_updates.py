"""What KeyUpdates, renegotiation and small records may cost."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from functools import partial

import pytest
import trio
import trio.testing

from humphrey_trio._server._tls import TlsTransport
from humphrey_trio._server._transport import CHUNK
from tests.support.tls_peers import (
    PEER,
    RECORD,
    Client,
    connected,
    local_pair,
    server_context,
    tcp_pair,
)
from tests.support.tls_transports import LONG, any_version, read, send_until_closed

LOCALHOST = "127.0.0.1"


async def test_key_updates_with_content() -> None:
    """A client may update its keys, and request that of the server, as often as it sends content."""
    async with connected(own_records=True) as (transport, client):
        for number in range(3000):
            await client.send_all(client.own.key_update(request=number % 2 == 0) + client.records.encrypt(b"x"))
            assert await transport.receive_some() == b"x"
            assert transport.send_now(b"y") == 1
            assert await client.read(1) == b"y"
        assert client.own.key_updates == 1500


async def test_key_updates_are_counted_until_content_arrives() -> None:
    """The limit of TLS messages without content starts again after each content."""
    async with connected(own_records=True) as (transport, client), trio.open_nursery() as nursery:
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await transport.receive_some())

        for _ in range(100):
            nursery.start_soon(receive)
            await client.send_all(b"".join(client.own.key_update() for _ in range(100)))
            await trio.testing.wait_all_tasks_blocked()
            await client.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
        assert received == [b"x"] * 100


class KeyUpdateCounter:
    """Counts the KeyUpdates that OpenSSL handles: all, and the most between two turns of another task."""

    def __init__(self) -> None:
        self.all = self.most = 0
        self._at_last_turn = 0

    def __call__(
        self, tls: object, direction: str, version: object, content: object, kind: object, _: bytes
    ) -> None:
        self.all += direction == "read" and kind is ssl._TLSMessageType.KEY_UPDATE  # type: ignore[attr-defined]

    async def watch(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.most = max(self.most, self.all - self._at_last_turn)
            self._at_last_turn = self.all


@pytest.mark.parametrize("request_", [False, True], ids=["silent", "with replies"])
async def test_flood_of_key_updates(request_: bool) -> None:
    """A client that sends only KeyUpdates is disconnected, and other tasks run in between."""
    counter = KeyUpdateCounter()
    context = server_context()
    context._msg_callback = counter  # type: ignore[attr-defined]  # the only way to look at it
    async with connected(context=context, pair=tcp_pair, own_records=True) as (transport, client):
        client.to_send = b"".join([client.own.key_update(request=request_) for _ in range(20_000)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until_closed, client)
            nursery.start_soon(counter.watch)
            with pytest.raises(trio.BrokenResourceError) as caught:
                await transport.receive_some()
            nursery.cancel_scope.cancel()
    assert "too many TLS messages" in str(caught.value.__cause__)
    assert counter.all <= 5000
    assert 0 < counter.most <= 2500


async def test_flood_of_key_updates_with_little_content() -> None:
    """A flood of KeyUpdates with a little content does not block other tasks for long."""
    counter = KeyUpdateCounter()
    context = server_context()
    context._msg_callback = counter  # type: ignore[attr-defined]
    async with connected(context=context, pair=tcp_pair, own_records=True) as (transport, client):
        turn = [
            b"".join(client.own.key_update() for _ in range(500)) + client.records.encrypt(b"x") for _ in range(20)
        ]
        client.to_send = b"".join(turn)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"")
            nursery.start_soon(counter.watch)
            assert await read(transport, 3) == b"xxx"
            counter.most = 0
            assert await read(transport, 17) == b"x" * 17
            nursery.cancel_scope.cancel()
        assert counter.all == 10_000
        assert 0 < counter.most <= 400
        # Content without KeyUpdates is received in large pieces again.
        await client.send(LONG[:CHUNK])
        await trio.testing.wait_all_tasks_blocked()
        await read(transport, RECORD)
        assert len(await transport.receive_some()) >= RECORD


async def test_incomplete_key_update() -> None:
    """``tls_info`` works while half a KeyUpdate has arrived; a send then ends the connection."""
    async with connected(own_records=True) as (transport, client):
        await client.send_all(client.records.encrypt(b"x") + client.own.half_key_update())
        assert await transport.receive_some() == b"x"
        tls = transport.tls_info()
        assert tls.version == "TLSv1.3"
        assert tls.cipher.startswith("TLS_")
        assert tls.peer_certificate is None
        assert tls.peer_certificate_fields == {}
        with pytest.raises(trio.BrokenResourceError):
            transport.send_now(b"y")


class RecordingSocket(socket.socket):
    """A socket that records its receives.

    Attributes:
        requested: the size that each receive has requested.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.requested: list[int] = []

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.requested.append(size)
        return super().recv(size, flags)


def recording_pair() -> tuple[RecordingSocket, socket.socket]:
    ours, theirs = tcp_pair()
    return RecordingSocket(ours), theirs


async def next_receive(transport: TlsTransport, client: Client, sock: RecordingSocket) -> int:
    """The number of bytes that the next receive requests."""
    sock.requested.clear()
    await client.send(b"next")
    assert await read(transport, 4) == b"next"
    return sock.requested[0]


@any_version
async def test_record_in_two_parts(version: ssl.TLSVersion) -> None:
    """A record that arrives in two parts does not make later receives smaller."""
    ours, theirs = recording_pair()
    async with connected(version, pair=lambda: (ours, theirs)) as (transport, client):
        largest = await next_receive(transport, client, ours)
        record = client.records.encrypt(LONG[:12_000])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, transport, 12_000)
            await client.send_all(record[:6000])
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(record[6000:])
        assert await next_receive(transport, client, ours) == largest


@pytest.mark.parametrize("pieces", [1, 2])
async def test_key_updates_before_content_make_receives_smaller(pieces: int) -> None:
    """KeyUpdates before one byte of content make the next receive smaller."""
    ours, theirs = recording_pair()
    async with connected(pair=lambda: (ours, theirs), own_records=True) as (transport, client):
        largest = await next_receive(transport, client, ours)
        updates = b"".join(client.own.key_update() for _ in range(100))
        block = updates + client.records.encrypt(b"x")
        size = len(block) if pieces == 1 else len(updates)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, transport, 1)
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(block[:size])
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(block[size:])
        assert await next_receive(transport, client, ours) < largest
        # Content with little overhead makes it large again.
        assert await next_receive(transport, client, ours) == largest


async def test_unread_replies_to_key_updates() -> None:
    """A client that requests KeyUpdates and does not read them is disconnected before many are queued."""
    async with connected(pair=local_pair, own_records=True) as (transport, client), trio.open_nursery() as nursery:
        turn = b"".join(client.own.key_update(request=True) for _ in range(10))
        turns = [turn + client.records.encrypt(b"x")]
        for _ in range(1000):
            turn = b"".join(client.own.key_update(request=True) for _ in range(10))
            turns.append(turn + client.records.encrypt(b"x"))
        client.to_send = b"".join(turns)
        nursery.start_soon(send_until_closed, client)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await read(transport, 400)
        assert "does not read" in str(caught.value.__cause__)
        nursery.cancel_scope.cancel()


async def test_key_updates_while_a_record_waits() -> None:
    """Content and KeyUpdates are received while a record waits for room."""
    async with connected(pair=local_pair, own_records=True) as (transport, client), trio.open_nursery() as nursery:
        received: list[bytes] = []

        async def receive() -> None:
            while data := await transport.receive_some():
                received.append(data)

        nursery.start_soon(transport.send_all, LONG)
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()  # it would not come to that if one of them was spinning
        for number in range(100):
            await client.send_all(client.own.key_update(request=True) + client.records.encrypt(b"%d," % number))
            await trio.testing.wait_all_tasks_blocked()
        assert b"".join(received) == b"".join(b"%d," % number for number in range(100))
        assert await client.read(len(LONG)) == LONG
        assert 0 < client.own.key_updates <= 100
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program to renegotiate with")
@pytest.mark.parametrize("forbidden", [True, False], ids=["by the context", "by OpenSSL"])
async def test_renegotiation_is_refused(forbidden: bool) -> None:
    """Renegotiation in TLS 1.2 is refused, after the content before it was received."""
    context = server_context()
    if forbidden:
        context.options |= ssl.OP_NO_RENEGOTIATION
    with socket.create_server((LOCALHOST, 0)) as listener:
        listener.setblocking(False)
        address = f"{LOCALHOST}:{listener.getsockname()[1]}"
        command = ["openssl", "s_client", "-connect", address, "-tls1_2", "-brief"]
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process, command, stdin=subprocess.PIPE, capture_stderr=True, capture_stdout=True
            )
            process: trio.Process = await nursery.start(partial(run, check=False))
            assert process.stdin is not None
            with trio.fail_after(30):
                await trio.lowlevel.wait_readable(listener)
                transport = TlsTransport(listener.accept()[0], PEER, context)
                await transport.handshake()
                await process.stdin.send_all(b"content\n")
                assert await read(transport, 8) == b"content\n"
                await process.stdin.send_all(b"R\n")
                with pytest.raises(trio.BrokenResourceError):
                    await transport.receive_some()
                await transport.close()
