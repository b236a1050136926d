"""``TlsTransport`` in any schedule of sends, receives and KeyUpdates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

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
from tests.support.tls_peers import (
    RECORD,
    Client,
    connected,
    local_pair,
)
from tests.support.tls_transports import LONG, any_version
from tests.support.wire import BINARY, CLOSE, PING, PONG, split_frames


@dataclass
class Exchange:
    """A connection on which, as in the outbox, bytes that were not taken are offered again with others after them.

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
    """Follow a schedule, then complete all transfers and close. Both sides must agree."""
    async with connected(version, pair=local_pair, own_records=own_records) as (transport, client):
        talk = Exchange(transport, client)
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


async def take_step(talk: Exchange, kind: str, size: int) -> None:
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
    """The client decrypts exactly what was taken, and the server receives exactly what the client has sent.

    Buffers are tiny, ciphertext travels in any pieces, and reads and writes are interleaved in any way.
    """

    async def main() -> None:
        await follow(schedule, version, own_records=False)

    trio.run(main)


@settings(max_examples=40, deadline=None)
@given(schedule=st.lists(steps | key_updates, max_size=40))
def test_any_schedule_with_key_updates(schedule: list[Step]) -> None:
    """The same holds with KeyUpdates of the client at any place."""

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
def test_outbox_over_tls(script: list[Frame]) -> None:
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
            final = outbox.final_frames(encode_close(1001))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.send_all, final)
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
