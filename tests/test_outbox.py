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
from tests.support.outboxes import GOODBYE, HEAD, ScriptedTransport, blocked, flush, messages, opened
from tests.support.wire import BINARY, CLOSE, PING, PONG


def test_the_quick_path() -> None:
    """A frame that the transport takes at once is sent by whoever put it, and the writer has nothing to do."""
    transport = ScriptedTransport()
    outbox = opened(transport)
    outbox.put(encode_message(b"hi"))

    assert transport.frames() == [(BINARY, b"hi")]
    assert not outbox.pending
    assert outbox.queued_bytes == 0


async def test_the_quick_path_comes_back() -> None:
    """A frame that did not go out at once holds back the later ones until it is written; then they go directly."""
    transport = ScriptedTransport([len(HEAD), 3])
    outbox = opened(transport)
    for frame in messages(b"one", b"two"):
        outbox.put(frame)
    assert (len(transport.wire) - len(HEAD), outbox.queued_bytes, outbox.pending) == (3, 7, True)
    await flush(outbox)
    outbox.put(encode_message(b"three"))

    assert transport.frames() == [(BINARY, b"one"), (BINARY, b"two"), (BINARY, b"three")]
    assert not outbox.pending


async def test_small_frames_leave_together() -> None:
    """Frames that wait are written in chunks, not one by one."""
    outbox, transport = blocked()
    payloads = [i.to_bytes(2, "big") * 100 for i in range(1000)]
    for frame in messages(*payloads):
        outbox.put(frame)
    transport.sends = 0
    await flush(outbox)

    assert [payload for _, payload in transport.frames()] == payloads
    assert transport.sends == 1 + -(-999 * 204 // CHUNK)  # the first had begun already


# ----------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("direct", [True, False], ids=["nothing ever waited", "all was written"])
async def test_an_empty_outbox_takes_one_of_any_size(direct: bool) -> None:
    """One frame of any size may be put into an empty outbox, and then none until there is room."""
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
    """Beside frames that wait there is room up to the limit in bytes, what has begun to be sent included."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=100))
    outbox.put(bytes(40))
    outbox.put(bytes(40))

    assert outbox.queued_bytes == 80
    assert outbox.has_room(20)
    assert not outbox.has_room(21)


def test_limit_in_messages() -> None:
    """As many messages may wait as the limit says, behind the one that has begun."""
    outbox, _ = blocked(StreamLimits(max_outbox_messages=3))
    outbox.put(b"begun")
    for _ in range(3):
        assert outbox.has_room(0)
        outbox.put(b"")

    assert not outbox.has_room(0)


def test_other_limits() -> None:
    """Limits that are set later hold at once."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=100))
    outbox.put(bytes(40))
    outbox.limit(StreamLimits(max_outbox_bytes=50))

    assert not outbox.has_room(11)


async def test_a_long_message_takes_the_place_of_all() -> None:
    """Where nothing has begun, all that waits and may go goes for a message of any size."""
    outbox = Outbox(ScriptedTransport(), StreamLimits(max_outbox_bytes=30), Counters())
    for _ in range(3):
        outbox.put_droppable(bytes(10), WhenFull.DROP_OLDEST)
    assert outbox.make_room(10**6, WhenFull.DROP_OLDEST)
    assert (outbox.queued_bytes, outbox.messages_put) == (0, 0)

    outbox.put(bytes(1))
    outbox.put_droppable(bytes(10), WhenFull.DROP_OLDEST)
    assert not outbox.make_room(10**6, WhenFull.DROP_OLDEST)
    assert (outbox.queued_bytes, outbox.messages_put) == (11, 2)


# ------------------------------------------------------------------------------------- the control lane


async def test_control_frames_pass_the_queue() -> None:
    """A pong and a ping go out behind the frame that has begun, and in front of all that waits."""
    outbox, transport = blocked()
    for frame in messages(b"begun", b"waits", b"waits too"):
        outbox.put(frame)
    outbox.put_control(encode_ping(b"are you there?"))
    outbox.put_control(encode_pong(b"I am"))
    await flush(outbox)

    assert [opcode for opcode, _ in transport.frames()] == [BINARY, PING, PONG, BINARY, BINARY]


async def test_only_the_latest_control_frames_wait() -> None:
    """Of pongs and pings that cannot go out only the latest of each is kept, however many there are."""
    outbox, transport = blocked(StreamLimits(max_outbox_bytes=1))
    outbox.put(encode_message(b"begun"))
    for i in range(1000):
        outbox.put_control(encode_pong(b"pong %d" % i))
        outbox.put_control(encode_ping(b"ping %d" % i))
    await flush(outbox)

    assert transport.frames() == [(BINARY, b"begun"), (PONG, b"pong 999"), (PING, b"ping 999")]


@pytest.mark.parametrize("frame", [encode_pong(b"x"), encode_ping(b"x")])
async def test_control_frames_are_never_cut(frame: bytes) -> None:
    """A control frame that goes out in part is finished before anything else."""
    transport = ScriptedTransport([len(HEAD), 1])
    outbox = opened(transport)
    outbox.put_control(frame)
    outbox.put_control(frame)
    outbox.put(encode_message(b"message"))
    await flush(outbox)

    assert [payload for _, payload in transport.frames()] == [b"x", b"x", b"message"]


# ---------------------------------------------------------------------------------------------- the end


async def test_close_is_the_last() -> None:
    """A Close goes out behind all that waits; behind it no control frame goes out, and no second Close."""
    outbox, transport = blocked()
    for frame in messages(b"one", b"two"):
        outbox.put(frame)
    outbox.end(GOODBYE)
    outbox.put_control(encode_pong(b""))
    outbox.put_control(encode_ping(b""))
    outbox.end(encode_close(1001))
    await flush(outbox)
    outbox.put_control(encode_pong(b""))
    outbox.put_control(encode_ping(b""))
    await flush(outbox)

    assert transport.frames() == [(BINARY, b"one"), (BINARY, b"two"), (CLOSE, b"\x03\xe8")]
    assert outbox.ended


async def test_close_in_place_of_the_queue() -> None:
    """A Close that drops the queue goes out behind the frame that has begun, and nothing of the rest is kept."""
    transport = ScriptedTransport([len(HEAD), 3])
    outbox = opened(transport)
    for frame in messages(b"begun", b"dropped", b"dropped too"):
        outbox.put(frame)
    outbox.end(GOODBYE, drop_queue=True)
    assert outbox.queued_bytes == 4
    await flush(outbox)

    assert transport.frames() == [(BINARY, b"begun"), (CLOSE, b"\x03\xe8")]


async def test_abandoned() -> None:
    """An abandoned outbox keeps nothing, writes nothing and takes nothing."""
    outbox, transport = blocked()
    for frame in messages(b"one", b"two"):
        outbox.put(frame)
    outbox.put_control(encode_pong(b""))
    outbox.abandon()
    outbox.end(GOODBYE)
    outbox.put_control(encode_ping(b""))
    await flush(outbox)

    assert transport.wire == HEAD
    assert (outbox.ended, outbox.pending, outbox.queued_bytes) == (True, False, 0)


async def test_abandoned_while_it_is_written() -> None:
    """An outbox that is abandoned during a write stays empty when the write comes back."""
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
def test_no_last_words(torn: bool) -> None:
    """There are no last words before the handshake's answer, nor where nobody knows what was sent."""
    transport = ScriptedTransport()
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.put(encode_message(b"waits"))
    if torn:
        outbox.uncork(HEAD)
        transport.tear()

    assert outbox.final_frames(GOODBYE) == b""


def test_a_peer_that_is_gone() -> None:
    """Putting a frame says so when the peer is gone, and counts for nothing."""
    transport = ScriptedTransport()
    outbox = opened(transport)
    transport.gone = True

    with pytest.raises(trio.BrokenResourceError):
        outbox.put(encode_message(b"hi"))
    assert outbox.messages_put == 0


# ------------------------------------------------------------------------------------------------- corks


async def test_frames_gather_behind_the_cork() -> None:
    """Whatever is put before the handshake's answer goes out behind it, control frames too."""
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


async def test_a_control_frame_alone_behind_the_cork() -> None:
    """A control frame that was put before the handshake's answer is not forgotten if it is the only frame."""
    transport = ScriptedTransport()
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.put_control(encode_ping(b""))
    outbox.uncork(HEAD)
    await flush(outbox)

    assert transport.frames() == [(PING, b"")]


async def test_the_handshakes_answer_is_not_dropped() -> None:
    """A Close that drops the queue right behind the cork leaves the handshake's answer where it is."""
    transport = ScriptedTransport()
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.put(encode_message(b"early"))
    outbox.uncork(HEAD)
    outbox.end(GOODBYE, drop_queue=True)
    await flush(outbox)

    assert transport.frames() == [(CLOSE, b"\x03\xe8")]


def test_limits_behind_the_cork() -> None:
    """A corked outbox has the same bounds."""
    outbox = Outbox(ScriptedTransport(), StreamLimits(max_outbox_bytes=10), Counters())

    assert outbox.has_room(1000)
    outbox.put(bytes(8))
    assert outbox.has_room(2)
    assert not outbox.has_room(3)


# ----------------------------------------------------------------------------------------------- waiting


async def test_room_is_given_in_order() -> None:
    """Whoever waits for room gets it in the order of asking, also where a later one would fit earlier."""
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


async def test_whoever_stops_waiting_lets_the_next_one_in() -> None:
    """A cancelled wait for room takes nobody's turn."""
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


@pytest.mark.parametrize("end", [lambda outbox: outbox.end(GOODBYE), Outbox.abandon], ids=["end", "abandon"])
async def test_nobody_waits_for_room_behind_the_end(end: Callable[[Outbox], None]) -> None:
    """The end of an outbox wakes everybody who waits for room in it."""
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
        lambda outbox: outbox.end(GOODBYE),
        Outbox.abandon,
        Outbox.wake,
    ],
    ids=["message", "pong", "ping", "end", "abandon", "wake"],
)
async def test_the_writer_is_called(call: Callable[[Outbox], None]) -> None:
    """The writer, parked without work, looks up for each thing that concerns it."""
    outbox, _ = blocked()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.wait_for_work)
            await trio.testing.wait_all_tasks_blocked()
            call(outbox)


async def test_a_cancelled_writer() -> None:
    """A writer that was cancelled while it was parked is called no more."""
    outbox, _ = blocked()
    with trio.move_on_after(0) as scope:
        await outbox.wait_for_work()
    outbox.put(encode_message(b"hi"))

    assert scope.cancelled_caught
    assert outbox.pending


@pytest.mark.parametrize(("taken", "sent"), [(0, 0), (1, 0), (11, 1), (21, 2), (25, 3), (26, 3)])
def test_last_words_that_are_cut(taken: int, sent: int) -> None:
    """Of the last words only the messages that were taken whole are sent; the others are dropped, and counted."""
    counters = Counters()
    outbox = Outbox(ScriptedTransport([]), StreamLimits(), counters)
    outbox.uncork(HEAD)
    outbox.put_later(encode_message("a" * 8))
    outbox.put_later(encode_message("b" * 8))
    outbox.put_later(encode_message("c" * 3))
    words = outbox.final_frames(encode_close(1000))
    assert len(words) == 10 + 10 + 5 + 4
    outbox.count_final_frames(taken)
    outbox.abandon()
    assert outbox.messages_put == sent
    assert counters.dropped == 3 - sent
