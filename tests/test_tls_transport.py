"""``TlsTransport``: content in both directions, what counts as sent, interrupts, and cancellation."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._server._tls import TlsTransport
from humphrey_trio._server._transport import CHUNK
from tests.support.steps import cancelled_at
from tests.support.tls_peers import (
    RECORD,
    Client,
    connected,
    local_pair,
    tcp_pair,
)
from tests.support.tls_transports import LONG, any_version, fill, read, read_to_end


def nothing_to_receive(client: Client) -> bool:
    """Whether no ciphertext has come that the client has not received."""
    try:
        client.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


# ---------------------------------------------------------------------------------------------- content


@any_version
async def test_both_directions(version: ssl.TLSVersion) -> None:
    """Short content arrives in both directions, repeatedly."""
    async with connected(version) as (transport, client):
        for number in range(20):
            message = b"%d" % number * (number + 1)
            await client.send(message)
            assert await transport.receive_some() == message
            assert transport.send_now(message) == len(message)
            assert await client.read(len(message)) == message


@any_version
@pytest.mark.parametrize("size", [1, RECORD, RECORD + 1, CHUNK, CHUNK + 1, len(LONG)])
async def test_long_content(version: ssl.TLSVersion, size: int) -> None:
    """Content of any length arrives in both directions through small buffers."""
    data = LONG[:size]
    async with connected(version, pair=local_pair) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(transport.send_all, data)
        assert await client.read(size) == data
        nursery.start_soon(client.send, data)
        assert await read(transport, size) == data


@any_version
async def test_request_in_the_same_packet_as_finished(version: ssl.TLSVersion) -> None:
    """Content that arrives together with the last message of the handshake is received without waiting."""
    async with connected(version, then=b"request") as (transport, _):
        assert await transport.receive_some() == b"request"


async def test_session_tickets_are_sent_with_the_first_response() -> None:
    """TLS 1.3 session tickets need no send of their own if a request has arrived with the end of the handshake."""
    async with connected(ssl.TLSVersion.TLSv1_3, then=b"request") as (transport, client):
        assert await transport.receive_some() == b"request"
        assert nothing_to_receive(client)
        transport.send_now(b"response")
        assert await client.read(8) == b"response"
        assert client.tls.session is not None
        assert client.tls.session.has_ticket


@pytest.mark.parametrize("part", [0, 1, -1], ids=["nothing", "a byte", "all but a byte"])
async def test_session_tickets_are_sent_without_a_request(part: int) -> None:
    """Without a whole request, session tickets are sent before the server waits for it."""
    async with connected(ssl.TLSVersion.TLSv1_3) as (transport, client), trio.open_nursery() as nursery:
        record = client.records.encrypt(b"request")
        await client.send_all(record[:part])
        nursery.start_soon(transport.receive_some)
        await trio.lowlevel.wait_readable(client.socket)
        client.pull(65536)
        assert client.tls.session is not None
        assert client.tls.session.has_ticket
        await client.send_all(record[part:])


@any_version
async def test_records_in_one_read(version: ssl.TLSVersion) -> None:
    """Records that arrive together are received without waiting, in pieces of at most CHUNK bytes."""
    pieces = [LONG[:size] for size in (*range(1, 300, 7), RECORD, RECORD - 1, 5, RECORD, RECORD, RECORD)]
    data = b"".join(pieces)
    async with connected(version) as (transport, client):
        await client.send_all(b"".join(map(client.records.encrypt, pieces)))
        received = b""
        while len(received) < len(data):
            with trio.fail_after(5):
                piece = await transport.receive_some()
            assert 0 < len(piece) <= CHUNK
            received += piece
        assert received == data


async def test_a_receive_is_a_checkpoint() -> None:
    """Each receive is a checkpoint, even if the peer sends without a pause."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with connected(pair=tcp_pair) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, LONG)
        nursery.start_soon(take_turns)
        pieces = received = 0
        while received < len(LONG):
            piece = await transport.receive_some()
            assert 0 < len(piece) <= CHUNK
            pieces, received = pieces + 1, received + len(piece)
        assert turns >= pieces
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------ sends


@any_version
@pytest.mark.parametrize("behind", [b"", b"x", LONG], ids=["nothing", "a byte", "much"])
async def test_refused_bytes_are_offered_again(version: ssl.TLSVersion, behind: bytes) -> None:
    """Bytes that were not taken may be offered again with others after them, and arrive once."""
    async with connected(version, pair=local_pair) as (transport, client):
        sent = fill(transport)
        data = LONG + behind
        while sent < len(data):
            sent += transport.send_now(data[sent:])
            client.pull(5000)
        assert await client.read(len(data)) == data
        assert not transport.torn


@any_version
@pytest.mark.parametrize("other", [b"x" * len(LONG), LONG[:100], b""], ids=["others", "fewer", "none"])
async def test_other_bytes_than_those_refused(version: ssl.TLSVersion, other: bytes) -> None:
    """Other bytes than those that were not taken are an error, and the client gets only the bytes before."""
    begun = b"b" * RECORD
    async with connected(version, pair=local_pair) as (transport, client):
        sent = 0
        while taken := transport.send_now(begun):
            sent += taken
        with pytest.raises(trio.ClosedResourceError, match="in its place"):
            transport.send_now(other)
        assert transport.torn
        with pytest.raises(trio.ClosedResourceError):
            transport.send_now(begun)
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_some(begun)
        await transport.close()
        assert await client.read_to_end() == b"b" * sent
        assert not client.records.ended


async def test_sending_no_bytes() -> None:
    """Sending no bytes sends no record."""
    async with connected() as (transport, client):
        assert transport.send_now(b"") == 0
        assert transport.send_now(b"x") == 1
        assert await client.read(1) == b"x"


@any_version
async def test_cancelled_send(version: ssl.TLSVersion) -> None:
    """A cancelled send has sent nothing that the next send does not include."""
    async with connected(version, pair=local_pair) as (transport, client):
        sent = fill(transport)
        for _ in range(5):
            with trio.move_on_after(0) as scope:
                await transport.send_some(LONG[sent:])
            assert scope.cancelled_caught
            assert not transport.torn
            client.pull(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.send_all, LONG[sent:])
            assert await client.read(len(LONG)) == LONG


class PartialSocket(socket.socket):
    """A socket that takes only a part of each send.

    Attributes:
        left: how many bytes it leaves, send for send; if that has ended, none.
    """

    left: Iterator[int] = iter(())

    def send(self, data: Any, flags: int = 0) -> int:
        taken = max(0, len(data) - next(self.left, 0))
        if not taken:
            raise BlockingIOError
        return super().send(data[:taken], flags)


@any_version
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 100, RECORD, RECORD + 1, CHUNK, CHUNK + 1, 3 * CHUNK]), max_size=6),
    left=st.lists(st.integers(0, 60) | st.integers(RECORD, RECORD + 60) | st.integers(0, 80_000), max_size=20),
)
def test_sent_content_can_be_decrypted(version: ssl.TLSVersion, sizes: list[int], left: list[int]) -> None:
    """Content counts as sent if and only if the client can decrypt it, wherever the kernel cuts a record."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        stingy = PartialSocket(fileno=ours.detach())
        async with connected(version, pair=lambda: (stingy, theirs)) as (transport, client):
            stingy.left = iter(left)
            offered, taken = b"", 0
            for size in sizes:
                offered += LONG[:size]
                taken += transport.send_now(memoryview(offered)[taken:])
                while select.select([client.socket], [], [], 0)[0]:
                    client.pull(CHUNK)
                assert offered[:taken] == client.received
            stingy.left = iter(())
            await transport.send_all(memoryview(offered)[taken:])
            assert await client.read(len(offered)) == offered

    trio.run(main)


@any_version
async def test_send_last(version: ssl.TLSVersion) -> None:
    """``send_last`` counts bytes in whole records, and they reach a client that still sends."""
    async with connected(version, pair=tcp_pair) as (transport, client):
        await client.send(LONG[:CHUNK])
        assert await transport.send_last(b"last bytes") == 10
        await transport.close()
        assert await client.read_to_end() == b"last bytes"
        assert client.records.ended


# ------------------------------------------------------------------------------- interrupts and cancellation


async def wait_for_room(transport: TlsTransport) -> None:
    data = b"x" * RECORD
    while transport.send_now(data):
        pass
    await transport.send_some(data)


async def discard_after_the_end(transport: TlsTransport) -> None:
    await transport.send_eof()
    await transport.discard_some()


async def discard_without_room(transport: TlsTransport) -> None:
    while transport.send_now(b"x"):
        pass
    with trio.move_on_after(0):
        await transport.send_some(b"x")
    await transport.send_eof()
    await transport.discard_some()


@pytest.mark.parametrize(
    "wait", [TlsTransport.receive_some, wait_for_room, discard_after_the_end, discard_without_room]
)
@pytest.mark.parametrize("end", ["interrupt", "abort"])
async def test_interrupt_and_abort_end_waits(wait: Callable[[TlsTransport], Awaitable[object]], end: str) -> None:
    """An interrupt or an abort ends each wait with ClosedResourceError."""
    async with connected(pair=local_pair) as (transport, _), trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await wait(transport)

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        getattr(transport, end)()


async def test_transport_works_after_an_interrupt() -> None:
    """After an interrupt the transport still works."""
    async with connected() as (transport, client):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await transport.receive_some()

            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            transport.interrupt()
        await client.send(b"content")
        assert await transport.receive_some() == b"content"
        assert transport.send_now(b"reply") == 5
        assert await client.read(5) == b"reply"


@any_version
async def test_cancelled_at_every_checkpoint(version: ssl.TLSVersion) -> None:
    """Cancelled at any checkpoint, a receive or a send loses, repeats and tears nothing."""
    for step in range(1, 100):
        async with connected(version, pair=local_pair) as (transport, client), trio.open_nursery() as nursery:
            sent = received = 0

            async def echo() -> None:
                nonlocal sent, received
                while received < 60_000:
                    received += len(await transport.receive_some())
                while sent < 60_000:
                    sent += await transport.send_some(LONG[sent:60_000])

            async def talk() -> None:
                await client.send(LONG[:60_000])
                assert await client.read(60_000) == LONG[:60_000]

            nursery.start_soon(talk)
            reached = await cancelled_at(step, echo)
            await echo()
            assert not transport.torn
        if not reached:
            return
    raise AssertionError("it has no end")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=200), at=st.integers(0, 300))
def test_any_bytes_after_a_handshake(data: bytes, at: int) -> None:
    """Any bytes between records end the receive with an end of file or BrokenResourceError."""

    async def main() -> None:
        async with connected() as (transport, client):
            records = client.records.encrypt(b"a" * 100) + client.records.encrypt(b"b" * 100)
            await client.send_all(records[:at] + data + records[at:])
            client.socket.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(trio.BrokenResourceError):
                received = await read_to_end(transport)
            assert (b"a" * 100 + b"b" * 100).startswith(received)
            await transport.close()

    trio.run(main)
