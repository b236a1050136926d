"""The outbox of a stream: order of frames, limits, control frames, Close, and waiting for room."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from humphrey_trio._server._transport import CHUNK
from humphrey_trio._websocket._counters import Counters
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._encoder import encode_close, encode_message, encode_ping, encode_pong
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio.websocket import WhenFull
from tests.support.outboxes import HEAD, NORMAL_CLOSE, ScriptedTransport, blocked, flush, messages, opened
from tests.support.wire import BINARY, CLOSE, PING, PONG


def test_direct_send() -> None:
    """A frame that the transport takes at once is sent by ``put`` itself; nothing is left for the writer."""
    transport = ScriptedTransport()
    outbox = opened(transport)
    outbox.put(encode_message(b"hi"))

    assert transport.frames() == [(BINARY, b"hi")]
    assert not outbox.pending
    assert outbox.queued_bytes == 0


async def test_direct_send_after_a_partial_write() -> None:
    """Frames wait behind a frame that was taken in part; after it is written, frames are sent directly again."""
    transport = ScriptedTransport([len(HEAD), 3])
    outbox = opened(transport)
    for frame in messages(b"one", b"two"):
        outbox.put(frame)
    assert (len(transport.wire) - len(HEAD), outbox.queued_bytes, outbox.pending) == (3, 7, True)
    await flush(outbox)
    outbox.put(encode_message(b"three"))

    assert transport.frames() == [(BINARY, b"one"), (BINARY, b"two"), (BINARY, b"three")]
    assert not outbox.pending


async def test_queued_frames_are_written_in_chunks() -> None:
    """Queued frames are written in chunks, not one by one."""
    outbox, transport = blocked()
    payloads = [i.to_bytes(2, "big") * 100 for i in range(1000)]
    for frame in messages(*payloads):
        outbox.put(frame)
    transport.sends = 0
    await flush(outbox)

    assert [payload for _, payload in transport.frames()] == payloads
    assert transport.sends == 1 + -(-999 * 204 // CHUNK)  # the first had begun already


# ----------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("direct", [True, False], ids=["nothing ever waited", "all was written"])
async def test_empty_outbox_accepts_a_frame_of_any_size(direct: bool) -> None:
    """An empty outbox accepts one frame of any size, and then none until there is room."""
    outbox, transport = blocked(StreamLimits(max_outbox_bytes=10))
    if not direct:
        outbox.put(encode_message(b"before"))
        await flush(outbox)

    assert outbox.has_room(10**9)
    outbox.put(encode_message(bytes(CHUNK)))
    assert not outbox.has_room(1)
    await flush(outbox)
    assert outbox.has_room(10**9)
    assert transport.frames()[-1] == (BINARY, bytes(CHUNK))


def test_limit_in_bytes() -> None:
    """With queued frames there is room up to the limit in bytes, which includes a frame that was sent in part."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=100))
    outbox.put(bytes(40))
    outbox.put(bytes(40))

    assert outbox.queued_bytes == 80
    assert outbox.has_room(20)
    assert not outbox.has_room(21)


def test_limit_in_messages() -> None:
    """The limit in messages counts the messages after the one that was sent in part."""
    outbox, _ = blocked(StreamLimits(max_outbox_messages=3))
    outbox.put(b"begun")
    for _ in range(3):
        assert outbox.has_room(0)
        outbox.put(b"")

    assert not outbox.has_room(0)


def test_limits_can_be_changed() -> None:
    """New limits apply at once."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=100))
    outbox.put(bytes(40))
    outbox.limit(StreamLimits(max_outbox_bytes=50))

    assert not outbox.has_room(11)


async def test_long_message_replaces_all_droppable_messages() -> None:
    """If no frame was sent in part, a message of any size replaces all messages that may be dropped."""
    outbox = Outbox(ScriptedTransport(), StreamLimits(max_outbox_bytes=30), Counters())
    for _ in range(3):
        outbox.put_droppable(bytes(10), WhenFull.DROP_OLDEST)
    assert outbox.make_room(10**6, WhenFull.DROP_OLDEST)
    assert (outbox.queued_bytes, outbox.messages_put) == (0, 0)

    outbox.put(bytes(1))
    outbox.put_droppable(bytes(10), WhenFull.DROP_OLDEST)
    assert not outbox.make_room(10**6, WhenFull.DROP_OLDEST)
    assert (outbox.queued_bytes, outbox.messages_put) == (11, 2)


# --------------------------------------------------------------------------------------- control frames


async def test_control_frames_overtake_messages() -> None:
    """Pings and pongs are sent after the frame that was sent in part, and before all queued messages."""
    outbox, transport = blocked()
    for frame in messages(b"begun", b"waits", b"waits too"):
        outbox.put(frame)
    outbox.put_control(encode_ping(b"are you there?"))
    outbox.put_control(encode_pong(b"I am"))
    await flush(outbox)

    assert [opcode for opcode, _ in transport.frames()] == [BINARY, PING, PONG, BINARY, BINARY]


async def test_only_the_latest_ping_and_pong_are_queued() -> None:
    """Of pings and pongs that cannot be sent, only the latest of each is kept."""
    outbox, transport = blocked(StreamLimits(max_outbox_bytes=1))
    outbox.put(encode_message(b"begun"))
    for i in range(1000):
        outbox.put_control(encode_pong(b"pong %d" % i))
        outbox.put_control(encode_ping(b"ping %d" % i))
    await flush(outbox)

    assert transport.frames() == [(BINARY, b"begun"), (PONG, b"pong 999"), (PING, b"ping 999")]


@pytest.mark.parametrize("frame", [encode_pong(b"x"), encode_ping(b"x")])
async def test_control_frames_are_completed_first(frame: bytes) -> None:
    """A control frame that was sent in part is completed before anything else."""
    transport = ScriptedTransport([len(HEAD), 1])
    outbox = opened(transport)
    outbox.put_control(frame)
    outbox.put_control(frame)
    outbox.put(encode_message(b"message"))
    await flush(outbox)

    assert [payload for _, payload in transport.frames()] == [b"x", b"x", b"message"]


# ------------------------------------------------------------------------------------------------ Close


async def test_close_is_the_last_frame() -> None:
    """A Close is sent after all queued frames; no control frame and no second Close follows."""
    outbox, transport = blocked()
    for frame in messages(b"one", b"two"):
        outbox.put(frame)
    outbox.end(NORMAL_CLOSE)
    outbox.put_control(encode_pong(b""))
    outbox.put_control(encode_ping(b""))
    outbox.end(encode_close(1001))
    await flush(outbox)
    outbox.put_control(encode_pong(b""))
    outbox.put_control(encode_ping(b""))
    await flush(outbox)

    assert transport.frames() == [(BINARY, b"one"), (BINARY, b"two"), (CLOSE, b"\x03\xe8")]
    assert outbox.ended


async def test_close_that_drops_the_queue() -> None:
    """A Close that drops the queue is sent after the frame that was sent in part, and the rest is dropped."""
    transport = ScriptedTransport([len(HEAD), 3])
    outbox = opened(transport)
    for frame in messages(b"begun", b"dropped", b"dropped too"):
        outbox.put(frame)
    outbox.end(NORMAL_CLOSE, drop_queue=True)
    assert outbox.queued_bytes == 4
    await flush(outbox)

    assert transport.frames() == [(BINARY, b"begun"), (CLOSE, b"\x03\xe8")]


async def test_abandoned_outbox() -> None:
    """An abandoned outbox keeps, writes and accepts nothing."""
    outbox, transport = blocked()
    for frame in messages(b"one", b"two"):
        outbox.put(frame)
    outbox.put_control(encode_pong(b""))
    outbox.abandon()
    outbox.end(NORMAL_CLOSE)
    outbox.put_control(encode_ping(b""))
    await flush(outbox)

    assert transport.wire == HEAD
    assert (outbox.ended, outbox.pending, outbox.queued_bytes) == (True, False, 0)


async def test_outbox_abandoned_during_a_write() -> None:
    """An outbox that is abandoned during a write is empty when the write returns."""
    outbox, transport = blocked()
    for frame in messages(b"one", b"two"):
        outbox.put(frame)
    transport.resume = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.flush_some)
        await trio.testing.wait_all_tasks_blocked()
        outbox.abandon()
        transport.resume.set()

    assert transport.wire == HEAD + encode_message(b"one")
    assert (outbox.pending, outbox.queued_bytes) == (False, 0)


@pytest.mark.parametrize("torn", [False, True], ids=["corked", "torn"])
def test_no_final_frames(torn: bool) -> None:
    """There are no final frames before the response to the handshake, nor after a write of unknown length."""
    transport = ScriptedTransport()
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.put(encode_message(b"waits"))
    if torn:
        outbox.uncork(HEAD)
        transport.tear()

    assert outbox.final_frames(NORMAL_CLOSE) == b""


def test_put_raises_after_the_peer_has_disconnected() -> None:
    """``put`` raises if the peer has disconnected, and the message is not counted."""
    transport = ScriptedTransport()
    outbox = opened(transport)
    transport.gone = True

    with pytest.raises(trio.BrokenResourceError):
        outbox.put(encode_message(b"hi"))
    assert outbox.messages_put == 0


# ------------------------------------------------------------------------------------------------- corks


async def test_corked_frames_follow_the_handshake() -> None:
    """Frames that are put before the response to the handshake are sent after it, control frames included."""
    transport = ScriptedTransport()
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.put(encode_message(b"early"))
    outbox.put_control(encode_ping(b""))
    await flush(outbox)
    assert (transport.wire, outbox.corked, outbox.pending) == (b"", True, False)
    outbox.uncork(HEAD)
    await flush(outbox)

    assert transport.frames() == [(PING, b""), (BINARY, b"early")]
    assert not outbox.corked


async def test_corked_control_frame_alone() -> None:
    """A corked control frame is sent even if it is the only frame."""
    transport = ScriptedTransport()
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.put_control(encode_ping(b""))
    outbox.uncork(HEAD)
    await flush(outbox)

    assert transport.frames() == [(PING, b"")]


async def test_close_does_not_drop_the_response_to_the_handshake() -> None:
    """A Close that drops the queue directly after the cork leaves the response to the handshake."""
    transport = ScriptedTransport()
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.put(encode_message(b"early"))
    outbox.uncork(HEAD)
    outbox.end(NORMAL_CLOSE, drop_queue=True)
    await flush(outbox)

    assert transport.frames() == [(CLOSE, b"\x03\xe8")]


def test_limits_of_a_corked_outbox() -> None:
    """A corked outbox has the same limits."""
    outbox = Outbox(ScriptedTransport(), StreamLimits(max_outbox_bytes=10), Counters())

    assert outbox.has_room(1000)
    outbox.put(bytes(8))
    assert outbox.has_room(2)
    assert not outbox.has_room(3)


# ------------------------------------------------------------------------------------------------ waits


async def test_waits_for_room_are_in_order() -> None:
    """Tasks get room in the order in which they began to wait, even if a later message would fit earlier."""
    outbox, transport = blocked(StreamLimits(max_outbox_bytes=10, max_outbox_messages=1))
    outbox.put(bytes(9))
    order: list[int] = []

    async def wait_and_put(number: int, size: int) -> None:
        await outbox.wait_for_room(size)
        outbox.put(bytes(size))
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number, size in enumerate([8, 1, 7, 2, 5]):
            nursery.start_soon(wait_and_put, number, size)
            await trio.testing.wait_all_tasks_blocked()
        assert order == []
        assert outbox.contended
        while len(order) < 5:
            await outbox.flush_some()
            await trio.testing.wait_all_tasks_blocked()

    assert order == [0, 1, 2, 3, 4]
    assert not outbox.contended
    assert transport.wire


async def test_cancelled_wait_for_room() -> None:
    """After a cancelled wait for room, the next task gets its turn."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=10))
    outbox.put(bytes(10))
    scope = trio.CancelScope()

    async def wait_and_give_up() -> None:
        with scope:
            await outbox.wait_for_room(10)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_and_give_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(outbox.wait_for_room, 1)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await flush(outbox)

    assert scope.cancelled_caught


@pytest.mark.parametrize("end", [lambda outbox: outbox.end(NORMAL_CLOSE), Outbox.abandon], ids=["end", "abandon"])
async def test_end_wakes_all_waits_for_room(end: Callable[[Outbox], None]) -> None:
    """The end of an outbox wakes all tasks that wait for room."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=10))
    outbox.put(bytes(10))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(outbox.wait_for_room, 10)
            await trio.testing.wait_all_tasks_blocked()
            end(outbox)

    assert outbox.ended


@pytest.mark.parametrize(
    "call",
    [
        lambda outbox: outbox.put(encode_message(b"hi")),
        lambda outbox: outbox.put_control(encode_pong(b"")),
        lambda outbox: outbox.put_control(encode_ping(b"")),
        lambda outbox: outbox.end(NORMAL_CLOSE),
        Outbox.abandon,
        Outbox.wake,
    ],
    ids=["message", "pong", "ping", "end", "abandon", "wake"],
)
async def test_writer_is_woken(call: Callable[[Outbox], None]) -> None:
    """A writer that waits for work is woken by each call that concerns it."""
    outbox, _ = blocked()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.wait_for_work)
            await trio.testing.wait_all_tasks_blocked()
            call(outbox)


async def test_cancelled_writer_is_not_woken() -> None:
    """A writer that was cancelled while it waited is not woken later."""
    outbox, _ = blocked()
    with trio.move_on_after(0) as scope:
        await outbox.wait_for_work()
    outbox.put(encode_message(b"hi"))

    assert scope.cancelled_caught
    assert outbox.pending


@pytest.mark.parametrize(("taken", "sent"), [(0, 0), (1, 0), (11, 1), (21, 2), (25, 3), (26, 3)])
def test_final_frames_that_are_cut(taken: int, sent: int) -> None:
    """Of the final frames, messages that were taken whole count as sent, and the others as dropped."""
    counters = Counters()
    outbox = Outbox(ScriptedTransport([]), StreamLimits(), counters)
    outbox.uncork(HEAD)
    outbox.put_later(encode_message("a" * 8))
    outbox.put_later(encode_message("b" * 8))
    outbox.put_later(encode_message("c" * 3))
    final = outbox.final_frames(encode_close(1000))
    assert len(final) == 10 + 10 + 5 + 4
    outbox.count_final_frames(taken)
    outbox.abandon()
    assert outbox.messages_put == sent
    assert counters.dropped == 3 - sent
