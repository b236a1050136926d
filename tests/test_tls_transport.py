"""The transport of TLS: what the peer decrypts, what counts as sent, how it ends, and what a peer may cost."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from humphrey_trio._server._tls import TlsTransport
from humphrey_trio._server._transport import CHUNK, Incoming
from humphrey_trio._websocket._counters import Counters
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._encoder import encode_close, encode_message, encode_ping, encode_pong
from humphrey_trio._websocket._stream._outbox import Outbox
from tests.support.steps import cancelled_at
from tests.support.tls_peers import (
    HOST,
    PEER,
    RECORD,
    VERSIONS,
    Client,
    client_context,
    connected,
    local_pair,
    reset,
    server_context,
    tcp_pair,
)
from tests.support.wire import BINARY, CLOSE, PING, PONG, split_frames

any_version = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])

LOCALHOST = "127.0.0.1"
LONG = bytes(range(256)) * 4096  # 1 MiB


async def read(transport: TlsTransport, size: int) -> bytes:
    """So much content from the client."""
    received = b""
    while len(received) < size:
        data = await transport.receive_some()
        assert data
        received += data
    return received


async def read_to_end(transport: TlsTransport) -> bytes:
    received = b""
    while data := await transport.receive_some():
        received += data
    return received


async def discard_to_end(transport: TlsTransport) -> None:
    while await transport.discard_some():
        pass


def nothing_to_receive(client: Client) -> bool:
    """Whether no ciphertext has come that the client has not received."""
    try:
        client.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def fill(transport: TlsTransport, data: bytes = LONG) -> int:
    """Send until the kernel refuses a record; how much it took."""
    sent = 0
    while sent < len(data):
        taken = transport.send_now(data[sent:])
        sent += taken
        if not taken:
            break
    assert sent < len(data)
    return sent


# ---------------------------------------------------------------------------------------- both directions


@any_version
async def test_both_directions(version: ssl.TLSVersion) -> None:
    """Short content arrives in both directions, again and again."""
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
    """Content of any length arrives in both directions, although buffers are small."""
    data = LONG[:size]
    async with connected(version, pair=local_pair) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(transport.send_all, data)
        assert await client.read(size) == data
        nursery.start_soon(client.send, data)
        assert await read(transport, size) == data


@any_version
async def test_a_request_that_comes_with_the_end_of_the_handshake(version: ssl.TLSVersion) -> None:
    """Content that arrived together with the handshake's last message is received without waiting for more."""
    async with connected(version, then=b"request") as (transport, _):
        assert await transport.receive_some() == b"request"


async def test_session_tickets_go_out_with_the_first_response() -> None:
    """Session tickets of TLS 1.3 cost no send of their own if a request has come with the end of the handshake."""
    async with connected(ssl.TLSVersion.TLSv1_3, then=b"request") as (transport, client):
        assert await transport.receive_some() == b"request"
        assert nothing_to_receive(client)
        transport.send_now(b"response")
        assert await client.read(8) == b"response"
        assert client.tls.session is not None
        assert client.tls.session.has_ticket


@pytest.mark.parametrize("part", [0, 1, -1], ids=["nothing", "a byte", "all but a byte"])
async def test_session_tickets_go_out_without_a_request(part: int) -> None:
    """A client that sends the rest of its request after an acknowledgement receives the tickets before that."""
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
async def test_records_that_come_together(version: ssl.TLSVersion) -> None:
    """Many records that arrive together are received, without waiting for more, in pieces of at most a CHUNK."""
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
    """A peer that sends without end lets other tasks run between any two pieces, of which none is long."""
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


# ------------------------------------------------------------------------------------- what counts as sent


@any_version
@pytest.mark.parametrize("behind", [b"", b"x", LONG], ids=["nothing", "a byte", "much"])
async def test_what_is_offered_after_a_refusal(version: ssl.TLSVersion, behind: bytes) -> None:
    """The bytes that were refused may be offered again with others behind them; all arrive, once."""
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
async def test_other_bytes_after_a_refusal(version: ssl.TLSVersion, other: bytes) -> None:
    """Bytes in the place of those that were refused are an error; the client gets only what was begun."""
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


async def test_nothing_is_sent_for_no_bytes() -> None:
    """Sending no bytes sends nothing."""
    async with connected() as (transport, client):
        assert transport.send_now(b"") == 0
        assert transport.send_now(b"x") == 1
        assert await client.read(1) == b"x"


@any_version
async def test_a_cancelled_send_has_sent_nothing(version: ssl.TLSVersion) -> None:
    """A send that is cancelled while it waits has sent nothing that is not sent when it is tried again."""
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


class StingySocket(socket.socket):
    """A socket that takes only a part of what it is given.

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
def test_what_counts_as_sent(version: ssl.TLSVersion, sizes: list[int], left: list[int]) -> None:
    """Content counts as sent if the client can decrypt it, whatever part of a record the kernel leaves."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        stingy = StingySocket(fileno=ours.detach())
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
async def test_last_words(version: ssl.TLSVersion) -> None:
    """The last bytes of a cancelled task are counted in whole records, and reach a client that goes on sending."""
    async with connected(version, pair=tcp_pair) as (transport, client):
        await client.send(LONG[:CHUNK])
        assert await transport.send_last(b"last words") == 10
        await transport.close()
        assert await client.read_to_end() == b"last words"
        assert client.records.ended


# -------------------------------------------------------------------------------------------- any schedule


@dataclass
class Talk:
    """A connection whose caller does as the outbox: it offers again what was refused, with more behind it.

    Attributes:
        taken: how much the transport has taken.
        offered: all that the caller has to send.
        received: what it has received.
        sent: the content that the client has sent.
    """

    transport: TlsTransport
    client: Client
    taken: int = 0
    offered: bytes = b""
    received: bytes = b""
    sent: bytes = b""
    at_end: bool = field(default=False)

    async def receive(self) -> None:
        while data := await self.transport.receive_some():
            self.received += data
        self.at_end = True

    def offer(self, size: int) -> None:
        start = len(self.offered) % 251
        self.offered += LONG[start : start + size]
        if self.taken < len(self.offered):
            self.taken += self.transport.send_now(memoryview(self.offered)[self.taken :])
            assert self.taken <= len(self.offered)

    def put(self, size: int) -> None:
        data = LONG[len(self.sent) % 251 :][:size]
        self.sent += data
        self.client.to_send += self.client.records.encrypt(data)

    def update_key(self, *, request: bool) -> None:
        self.client.to_send += self.client.own.key_update(request=request)


Step = tuple[str, int]

sizes = st.integers(1, 200) | st.sampled_from([RECORD - 1, RECORD, RECORD + 1, 50_000, CHUNK, CHUNK + 1, 90_000])
steps = st.tuples(st.sampled_from(["offer", "put"]), sizes) | st.tuples(
    st.sampled_from(["push", "pull"]), st.integers(1, 30_000)
)
key_updates = st.tuples(st.sampled_from(["update", "request"]), st.just(0))


async def follow(schedule: list[Step], version: ssl.TLSVersion | None, *, own_records: bool) -> None:
    """Follow a schedule, then let everything arrive and end; whatever happens, both sides agree."""
    async with connected(version, pair=local_pair, own_records=own_records) as (transport, client):
        talk = Talk(transport, client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.receive)
            for kind, size in schedule:
                await take_step(talk, kind, size)
                assert talk.sent.startswith(talk.received)
                assert talk.offered.startswith(client.received)
            while client.to_send or talk.taken < len(talk.offered) or client.received != talk.offered:
                await take_step(talk, "push", CHUNK)
                await take_step(talk, "offer", 0)
                await take_step(talk, "pull", CHUNK)
            assert talk.received == talk.sent
            client.received = b""
            await transport.send_eof()
            assert await client.read(1) == b""
            assert client.records.ended
            await client.send_all(client.records.end())
        assert talk.at_end
        assert transport.incoming is Incoming.ENDED
        assert not transport.torn


async def take_step(talk: Talk, kind: str, size: int) -> None:
    if kind == "offer":
        talk.offer(size)
    elif kind == "put":
        talk.put(size)
    elif kind == "push":
        talk.client.push(size)
    elif kind == "pull":
        talk.client.pull(size)
    else:
        talk.update_key(request=kind == "request")
    await trio.testing.wait_all_tasks_blocked()


@any_version
@settings(max_examples=40, deadline=None)
@given(schedule=st.lists(steps, max_size=40))
def test_any_schedule(version: ssl.TLSVersion, schedule: list[Step]) -> None:
    """The client decrypts exactly what was handed over, and the server what the client has sent.

    Buffers are tiny, ciphertext travels in any pieces, and reads and writes are interleaved in any way.
    """

    async def main() -> None:
        await follow(schedule, version, own_records=False)

    trio.run(main)


@settings(max_examples=40, deadline=None)
@given(schedule=st.lists(steps | key_updates, max_size=40))
def test_any_schedule_with_key_updates(schedule: list[Step]) -> None:
    """The same with KeyUpdates of the client, which the server may have to answer, wherever they come."""

    async def main() -> None:
        await follow(schedule, None, own_records=True)

    trio.run(main)


Frame = tuple[str, int]


frames = st.tuples(
    st.sampled_from(["message", "ping", "pong", "pull", "flush"]), st.sampled_from([1, 1000, 6000, RECORD, 70_000])
)


@settings(max_examples=60, deadline=None)
@given(script=st.lists(frames, max_size=30))
@example(script=[("message", 50_000), ("ping", 1), ("flush", 0), ("pull", 5_000), ("message", 1), ("flush", 0)])
def test_an_outbox_over_tls(script: list[Frame]) -> None:
    """Frames of an outbox arrive whole, and messages in order, wherever its writer is cancelled."""

    async def main() -> None:
        async with connected(pair=local_pair) as (transport, client):
            outbox = Outbox(transport, StreamLimits(), Counters())
            outbox.uncork(b"")
            messages: list[bytes] = []
            for kind, size in script:
                if kind == "message":
                    messages.append(LONG[:size])
                    outbox.put(encode_message(LONG[:size]))
                elif kind in ("ping", "pong"):
                    encode = encode_ping if kind == "ping" else encode_pong
                    outbox.put_control(encode(b"%d" % size))
                elif kind == "pull":
                    client.pull(size + 1)
                elif outbox.pending:
                    with trio.move_on_after(0):
                        await outbox.flush_some()
            words = outbox.final_frames(encode_close(1001))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.send_all, words)
                frames = await read_to_close(client)
            assert [payload for opcode, payload in frames if opcode == BINARY] == messages
            assert {opcode for opcode, _ in frames} <= {BINARY, PING, PONG, CLOSE}
            assert not transport.torn

    trio.run(main)


async def read_to_close(client: Client) -> list[tuple[int, bytes]]:
    frames: list[tuple[int, bytes]] = []
    while not frames or frames[-1][0] != CLOSE:
        await trio.lowlevel.wait_readable(client.socket)
        assert client.pull(CHUNK)
        more, client.received = split_frames(client.received)
        frames += more
    assert client.received == b""
    return frames


# ------------------------------------------------------------------------------------------ how it ends


@any_version
async def test_content_in_front_of_close_notify(version: ssl.TLSVersion) -> None:
    """Content that comes together with close_notify is received first, then the end, without an end of file."""
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
async def test_an_end_of_file_without_close_notify(version: ssl.TLSVersion, part: bytes) -> None:
    """An unexpected end of file is an end of file."""
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
async def test_a_bad_record_behind_content(version: ssl.TLSVersion) -> None:
    """Content in front of a bad record is received first; then it breaks, without another byte of the peer."""
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
async def test_a_reset(version: ssl.TLSVersion) -> None:
    """After a reset every direction is broken, and it shows before anything is received."""
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
async def test_nothing_works_on_a_closed_transport(version: ssl.TLSVersion, end: str) -> None:
    """Once it is closed or aborted, everything but closing again raises ClosedResourceError."""
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
async def test_closing_sends_close_notify(version: ssl.TLSVersion) -> None:
    """A close ends TLS behind everything that was sent, without waiting for the client's end."""
    async with connected(version) as (transport, client):
        transport.send_now(LONG[:1000])
        await transport.close()
        assert await client.read_to_end() == LONG[:1000]
        assert client.records.ended


@any_version
async def test_no_close_notify_behind_half_a_record(version: ssl.TLSVersion) -> None:
    """A close in the middle of a record does not look as if all had been sent."""
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
async def test_nothing_is_sent_behind_the_end(version: ssl.TLSVersion) -> None:
    """After send_eof nothing more can be sent, least of all without TLS; the client sees a clean end at once."""
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
async def test_lingering(version: ssl.TLSVersion, unread: int) -> None:
    """A client that goes on sending gets everything and a clean end; what it sends is discarded up to its end."""
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
async def test_discarding_needs_no_whole_records(version: ssl.TLSVersion) -> None:
    """What is discarded is ciphertext: any bytes, also behind half a record, and a reset shows."""
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
async def test_close_notify_that_the_kernel_has_no_room_for(version: ssl.TLSVersion) -> None:
    """A clean end follows as soon as there is room, while what the client still sends is discarded."""
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
async def test_close_notify_to_a_client_that_sends_without_a_pause(version: ssl.TLSVersion) -> None:
    """close_notify and the end of file are sent as soon as there is room, although there is always input."""
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
    """What an ordinary client does that takes nothing but close_notify for an end."""
    sock.setblocking(True)
    with context.wrap_socket(sock, server_hostname=HOST, suppress_ragged_eofs=False) as tls:
        tls.sendall(upload)
        received = b""
        while data := tls.recv(CHUNK):
            received += data
        return received


@any_version
@pytest.mark.parametrize("upload", [b"request", LONG * 4], ids=["short", "long"])
async def test_a_client_that_insists_on_a_clean_end(version: ssl.TLSVersion, upload: bytes) -> None:
    """Python's client without tolerance for ragged ends gets everything, also if its request was not read."""
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
async def test_interrupting_a_wait(wait: Callable[[TlsTransport], Awaitable[object]], end: str) -> None:
    """An interrupt or an abort ends whatever waits, with ClosedResourceError."""
    async with connected(pair=local_pair) as (transport, _), trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await wait(transport)

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        getattr(transport, end)()


async def test_an_interrupted_transport_stays_open() -> None:
    """After an interrupt everything still works."""
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
async def test_cancelling_at_every_checkpoint(version: ssl.TLSVersion) -> None:
    """Wherever a task is cancelled that receives or sends, nothing is lost, repeated or torn."""
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
def test_any_bytes_behind_a_handshake(data: bytes, at: int) -> None:
    """Whatever comes between records, receiving ends or breaks, in no other way."""

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


# -------------------------------------------------------------------------------- what TLS alone may cost


async def test_key_updates() -> None:
    """A client may change its keys as often as it likes, as long as it sends content, and may ask us to do so."""
    async with connected(own_records=True) as (transport, client):
        for number in range(3000):
            await client.send_all(client.own.key_update(request=number % 2 == 0) + client.records.encrypt(b"x"))
            assert await transport.receive_some() == b"x"
            assert transport.send_now(b"y") == 1
            assert await client.read(1) == b"y"
        assert client.own.key_updates == 1500


async def test_key_updates_without_content_in_between() -> None:
    """What came without content counts only until there is some."""
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


class Counter:
    """Counts the KeyUpdates that OpenSSL handles, in all and between two turns of another task."""

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


async def send_in_vain(client: Client) -> None:
    with contextlib.suppress(OSError):
        await client.send_all(b"")


@pytest.mark.parametrize("request_", [False, True], ids=["silent", "with replies"])
async def test_a_flood_of_key_updates(request_: bool) -> None:
    """A client that sends nothing but KeyUpdates is cut off soon, and other tasks run in between."""
    counter = Counter()
    context = server_context()
    context._msg_callback = counter  # type: ignore[attr-defined]  # the only way to look at it
    async with connected(context=context, pair=tcp_pair, own_records=True) as (transport, client):
        client.to_send = b"".join([client.own.key_update(request=request_) for _ in range(20_000)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_in_vain, client)
            nursery.start_soon(counter.watch)
            with pytest.raises(trio.BrokenResourceError) as caught:
                await transport.receive_some()
            nursery.cancel_scope.cancel()
    assert "too many TLS messages" in str(caught.value.__cause__)
    assert counter.all <= 5000
    assert 0 < counter.most <= 2500


async def test_key_updates_with_a_little_content() -> None:
    """A client that mixes a little content into a flood of KeyUpdates does not hold up other tasks for long."""
    counter = Counter()
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


async def test_half_a_key_update() -> None:
    """The TLS parameters are known while half a KeyUpdate has arrived; what is sent then ends the connection."""
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
async def test_a_record_in_two_parts(version: ssl.TLSVersion) -> None:
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
async def test_key_updates_that_end_with_content(pieces: int) -> None:
    """KeyUpdates that end with one byte of content make the next receive smaller, in one piece or in two."""
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


async def test_replies_to_key_updates_that_are_not_read() -> None:
    """A client that asks for KeyUpdates, sends content, and does not read is cut off before much has gathered."""
    async with connected(pair=local_pair, own_records=True) as (transport, client), trio.open_nursery() as nursery:
        turn = b"".join(client.own.key_update(request=True) for _ in range(10))
        turns = [turn + client.records.encrypt(b"x")]
        for _ in range(1000):
            turn = b"".join(client.own.key_update(request=True) for _ in range(10))
            turns.append(turn + client.records.encrypt(b"x"))
        client.to_send = b"".join(turns)
        nursery.start_soon(send_in_vain, client)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await read(transport, 400)
        assert "does not read" in str(caught.value.__cause__)
        nursery.cancel_scope.cancel()


async def test_key_updates_while_a_record_waits() -> None:
    """Content and KeyUpdates are received while a record waits for room, and neither side waits for the other."""
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
    """A client of TLS 1.2 that wants to negotiate anew is refused, and what it sent before has arrived."""
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
