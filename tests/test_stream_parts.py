"""The parts of one WebSocket, each alone: phases, deadlines, send queue, inbox, liveness, graceful end."""

from __future__ import annotations

from math import inf

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from humphrey_trio._server._clock import SweepClock
from humphrey_trio._server._control import ConnectionControl
from humphrey_trio._server._fairness import Fairness
from humphrey_trio._server._transport import StreamTransport
from humphrey_trio._websocket._app._sessions import Sessions
from humphrey_trio._websocket._close_record import Ending
from humphrey_trio._websocket._counters import Counters
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._decoder import Close, Event, Ping
from humphrey_trio._websocket._stream._deadline_table import Deadline, DeadlineTable
from humphrey_trio._websocket._stream._graceful_end import CLOSE_IN_SPREAD, AppEnd
from humphrey_trio._websocket._stream._inbox import Inbox, Reader
from humphrey_trio._websocket._stream._liveness import Liveness, Need
from humphrey_trio._websocket._stream._phase import TRANSITIONS, Lifecycle, Phase, Step
from humphrey_trio._websocket._stream._send_queue import SendQueue
from humphrey_trio.http import Address, Drain, Timeouts
from humphrey_trio.websocket import Heartbeat, KeepLatest, WhenFull
from tests.support.steps import cancelled_at
from tests.support.wire import CLOSE, PING, TEXT, client_frame, close_frame

# ------------------------------------------------------------------------------------------------ phases


def test_every_phase_is_in_the_table() -> None:
    """Each phase has its row, and each but the last can end."""
    assert set(TRANSITIONS) == set(Phase)
    assert all(Step.END in row for phase, row in TRANSITIONS.items() if phase is not Phase.CLOSED)


@given(steps=st.lists(st.sampled_from(Step)))
def test_a_stream_never_opens_again(steps: list[Step]) -> None:
    """Whatever happens in whichever order, what was closed stays closed, and what is not read stays unread."""
    lifecycle = Lifecycle(0)
    for step in steps:
        before = lifecycle.phase
        moved = lifecycle.move(step)
        after = lifecycle.phase
        assert moved == (after is not before)
        assert after.is_open <= before.is_open
        assert after.reads <= before.reads
        assert not (after.is_open and after.awaits_close)


def ending(code: int) -> Ending:
    return Ending("server", code, "", "", None, 0.0, 0, 0)


def test_the_first_to_close_decides() -> None:
    """A later note of an end changes nothing."""
    lifecycle = Lifecycle(0)
    lifecycle.note_ending(ending(4001))
    lifecycle.note_ending(ending(4002))
    assert lifecycle.ending is not None
    assert lifecycle.ending.code == 4001


def test_the_end_is_told_once() -> None:
    """The latest function that was given is called, and only the first time."""
    told: list[str] = []
    lifecycle = Lifecycle(0)
    lifecycle.when_over(lambda: told.append("route"))
    lifecycle.when_over(lambda: told.append("session"))
    lifecycle.tell_over()
    lifecycle.tell_over()
    assert told == ["session"]


# --------------------------------------------------------------------------------------------- deadlines


async def test_the_sweep_sees_the_earliest_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Of all deadlines that are set, the sweep looks at the earliest; without one there is none."""
    control, clock = ConnectionControl(False), SweepClock()
    deadlines = DeadlineTable(control, clock, Timeouts())
    now = clock.now()
    assert control.at == inf
    deadlines.set(Deadline.USER, 20)
    deadlines.set(Deadline.WRITE, 5)
    assert control.at == now + 5
    deadlines.clear(Deadline.WRITE)
    assert control.at == now + 20
    deadlines.set_earlier(Deadline.USER, 30)
    assert control.at == now + 20
    deadlines.set_earlier(Deadline.USER, 10)
    assert control.at == now + 10
    deadlines.set(Deadline.USER, inf)
    assert control.at == inf


async def test_a_deadline_passes(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline has passed from its moment on; taken, it is cleared, and no other is."""
    deadlines = DeadlineTable(ConnectionControl(False), SweepClock(), Timeouts())
    assert not deadlines.has_passed(Deadline.DRAIN)
    deadlines.set(Deadline.DRAIN, 5)
    deadlines.set(Deadline.CLOSE, 5)
    assert not deadlines.take_passed(Deadline.DRAIN)
    await trio.sleep(5)
    assert deadlines.take_passed(Deadline.DRAIN)
    assert not deadlines.has_passed(Deadline.DRAIN)
    assert deadlines.has_passed(Deadline.CLOSE)


# -------------------------------------------------------------------------------------------- send queue


def filled(*frames: bytes) -> SendQueue:
    queue = SendQueue()
    for frame in frames:
        queue.put(frame)
    return queue


def test_control_frames_leave_first_and_the_close_last() -> None:
    """The latest frame of each kind is sent before the messages, and the Close after the last of them."""
    queue = filled(b"\x82message", b"\x82more")
    queue.put_close(b"\x88")
    for frame in (b"\x89old", b"\x8apong", b"\x89new"):
        queue.put_control(frame)
    assert queue.take_batch(14) == (b"\x89new\x8apong", 0)
    assert queue.take_batch(8) == (b"\x82message", 1)
    assert queue
    assert queue.take_batch(8) == (b"\x82more\x88", 1)
    assert not queue
    assert queue.take_batch(8) == (b"", 0)


def test_a_batch_has_one_frame_at_least() -> None:
    """A frame that is longer than a batch leaves alone."""
    queue = filled(b"\x82" * 10, b"\x82")
    assert queue.take_batch(5) == (b"\x82" * 10, 1)
    assert (queue.message_bytes, len(queue)) == (1, 1)


def test_as_few_messages_as_possible_are_dropped() -> None:
    """The oldest that may be dropped go, until the other fits; none goes if that would not be enough."""
    queue = filled(b"kept")
    for frame in (b"first", b"second", b"third"):
        queue.put_droppable(frame, WhenFull.DROP_OLDEST)
    assert queue.drop_for(WhenFull.DROP_OLDEST, lambda size, count: size <= 3) == 0
    assert queue.drop_for(WhenFull.CLOSE, lambda size, count: True) == 0
    assert len(queue) == 4
    assert queue.drop_for(WhenFull.DROP_OLDEST, lambda size, count: count <= 2) == 2
    assert list(queue.messages.values()) == [b"kept", b"third"]
    assert queue.message_bytes == 9


def test_messages_with_one_key_go_together() -> None:
    """A message with a key drops all with the same key that wait, before the outdated ones of others."""
    queue = SendQueue()
    for frame, key in ((b"a1", "a"), (b"b1", "b"), (b"a2", "a"), (b"b2", "b")):
        queue.put_droppable(frame, KeepLatest(key))
    assert queue.drop_for(KeepLatest("a"), lambda size, count: count <= 2) == 2
    assert list(queue.messages.values()) == [b"b1", b"b2"]
    assert queue.drop_for(KeepLatest("a"), lambda size, count: count <= 1) == 1
    assert list(queue.messages.values()) == [b"b2"]


@given(sizes=st.lists(st.integers(1, 9), max_size=9), sent=st.integers(-5, 90))
def test_sent_final_frames_are_removed(sizes: list[int], sent: int) -> None:
    """The messages that were sent whole are removed, and the count of bytes is that of the others."""
    queue = filled(*(bytes(size) for size in sizes))
    queue.put_droppable(b"last", WhenFull.DROP_OLDEST)
    assert queue.final_frames(b"C") == bytes(sum(sizes)) + b"lastC"
    queue.remove_sent(sent)
    left = [size for number, size in enumerate([*sizes, 4]) if sum([*sizes, 4][: number + 1]) > sent]
    assert [len(frame) for frame in queue.messages.values()] == left
    assert queue.message_bytes == sum(left)
    assert queue.drop_for(WhenFull.DROP_OLDEST, lambda size, count: True) == bool(left)  # the last one


# ------------------------------------------------------------------------------------------------- inbox


class Connection:
    """What an inbox needs of its connection; it notes what it is told."""

    def __init__(self) -> None:
        self.lifecycle = Lifecycle(0)
        self.lifecycle.move(Step.ANSWER)
        self.events: list[Event] = []
        self.looks = 0

    def handle_control(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Close):
            self.lifecycle.move(Step.PEER_CLOSE)

    def end_without_close(self, cause: str) -> None:
        self.lifecycle.move(Step.END)

    def detect_disconnect(self) -> None:
        self.looks += 1


class Ends:
    """An inbox with its connection, and the peer's end of the transport."""

    def __init__(self, **limits: int) -> None:
        self.peer, ours = trio.testing.memory_stream_pair()
        self.counters = Counters()
        transport = StreamTransport(ours, Address("memory"))
        self.inbox = Inbox(transport, Fairness(), StreamLimits(**limits), None, self.counters)
        self.connection = Connection()

    async def texts(self, *texts: str) -> None:
        """Send messages, all in one read."""
        await self.peer.send_all(b"".join(client_frame(TEXT, text.encode()) for text in texts))

    async def next(self, *, include_buffered: bool = False) -> str | None:
        message = await self.inbox.next(self.connection, include_buffered=include_buffered)
        return None if message is None else message.text


async def test_messages_come_in_order_and_control_frames_apart() -> None:
    """Messages are given in order; what else the peer sends goes to the connection, up to its Close."""
    ends = Ends()
    await ends.texts("first")
    await ends.peer.send_all(client_frame(PING, b"?") + client_frame(TEXT, b"second") + close_frame(1000))
    assert [await ends.next(), await ends.next(), await ends.next()] == ["first", "second", None]
    assert ends.connection.events == [Ping(b"?"), Close(1000, "")]
    assert (ends.inbox.messages_received, ends.inbox.reader) == (2, Reader.NONE)


@pytest.mark.parametrize("step", [Step.ANSWER, Step.CLOSE])
async def test_a_reader_waits_for_the_handshake(step: Step) -> None:
    """Before the 101 nothing is read; a stream whose handshake is refused has no message."""
    ends = Ends()
    ends.connection.lifecycle = Lifecycle(0)
    await ends.texts("early")
    received: list[str | None] = []

    async def read() -> None:
        received.append(await ends.next())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert (received, ends.inbox.bytes_received) == ([], 0)
        ends.connection.lifecycle.move(step)
        ends.inbox.tell_change()
    assert received == ["early" if step is Step.ANSWER else None]


async def test_messages_behind_our_close_are_discarded() -> None:
    """While the peer's Close is awaited its messages are not given; their bytes are counted."""
    ends = Ends()
    ends.connection.lifecycle.move(Step.CLOSE)
    await ends.texts("late")
    await ends.peer.send_all(close_frame(1000))
    assert await ends.next() is None
    assert ends.connection.events == [Close(1000, "")]
    assert ends.inbox.messages_received == 0
    assert ends.inbox.bytes_received == len(client_frame(TEXT, b"late") + close_frame(1000))


@pytest.mark.parametrize("include_buffered", [True, False])
async def test_buffered_messages_of_a_broken_connection(include_buffered: bool) -> None:
    """Messages that had arrived, but were not decoded, are given if they are asked for; nothing else is."""
    ends = Ends()
    await ends.texts("first", "second")
    await ends.peer.send_all(client_frame(PING) + client_frame(TEXT, b"third"))
    assert await ends.next() == "first"
    ends.connection.end_without_close("a send has failed")
    assert await ends.next() is None
    received = [await ends.next(include_buffered=include_buffered) for _ in range(3)]
    assert received == (["second", "third", None] if include_buffered else [None] * 3)
    assert ends.connection.events == []


async def test_reading_ahead_pauses(autojump_clock: trio.testing.MockClock) -> None:
    """As many messages as allowed are read ahead; then reading pauses, is counted once, and goes on with room."""
    ends = Ends(max_read_ahead=2)
    ends.inbox.give_to(Reader.TASK)
    await ends.texts("1", "2", "3", "4")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ends.inbox.read_ahead(ends.connection, detect_disconnect=True))
        await trio.sleep(0.6)
        assert (ends.inbox.read_ahead_count, ends.counters.pauses, ends.connection.looks) == (2, 1, 2)
        assert [await ends.next() for _ in range(4)] == ["1", "2", "3", "4"]
        await trio.testing.wait_all_tasks_blocked()
        await ends.peer.send_all(client_frame(CLOSE))
        assert await ends.next() is None


async def test_a_message_that_is_put_back_comes_first() -> None:
    """A message that has to wait goes in front of those that are read ahead, and is dropped with them."""
    ends = Ends()
    await ends.texts("1", "2")
    first = await ends.inbox.next(ends.connection)
    assert first is not None
    with trio.move_on_after(0):
        await ends.inbox.read_ahead(ends.connection, detect_disconnect=False)
    ends.inbox.put_back(first)
    assert [await ends.next(), ends.inbox.read_ahead_count] == ["1", 1]
    ends.inbox.put_back(first)
    ends.inbox.drop_ahead()
    assert (ends.inbox.read_ahead_count, ends.counters.unhandled) == (0, 2)


@pytest.mark.parametrize("reader", [Reader.SESSION, Reader.TASK])
@pytest.mark.parametrize("resumed", [False, True])
async def test_a_cancelled_read_loses_no_message(
    reader: Reader, resumed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Cancelled at any checkpoint, ``next`` has either given a message or left it for the next call."""
    step, under_way = 1, True
    while under_way:
        ends = Ends(max_read_ahead=1)
        ends.inbox.give_to(reader)
        received: list[str | None] = []

        async def read(ends: Ends = ends, received: list[str | None] = received) -> None:
            for _ in range(2):
                received.append(await ends.next())

        async with trio.open_nursery() as nursery:
            if reader is Reader.TASK:
                nursery.start_soon(
                    lambda ends=ends: ends.inbox.read_ahead(ends.connection, detect_disconnect=False)
                )
            nursery.start_soon(ends.texts, "1", "2", "3")
            under_way = await cancelled_at(step, read, resumed=resumed)
            while len(received) < 3:
                received.append(await ends.next())
            nursery.cancel_scope.cancel()
        assert received == ["1", "2", "3"]
        step += 1
    assert step > 2


# ------------------------------------------------------------------------------------- liveness and slots


def test_only_silence_is_pinged() -> None:
    """Bytes, and times in which no task reads, are no silence; a ping without an answer ends the connection."""
    liveness, heartbeat = Liveness(), Heartbeat(interval=5, timeout=10)

    def check(now: float, bytes_received: int, *, reading: bool = True) -> Need | None:
        return liveness.check(now, heartbeat, bytes_received=bytes_received, reading=reading)

    assert [check(0, 0), check(4, 0), check(6, 7), check(10, 7)] == [None] * 4
    assert check(15, 7, reading=False) is None
    assert check(20, 7) is Need.PING
    liveness.note_ping(20)
    assert check(29, 7) is None
    assert check(30, 7) is Need.CUT
    liveness.note_pong(30.5)
    assert liveness.latency == 10.5
    assert check(31, 9) is None


class Member:
    """A session of which only the id is asked for."""

    def __init__(self, number: int) -> None:
        self.id = number


async def test_slots_are_waited_for() -> None:
    """With as many sessions as allowed, a slot is waited for until one of them is removed."""
    sessions = Sessions[Member](2)
    members = [Member(1), Member(2)]
    for member in members:
        await sessions.wait_for_slot()
        sessions.add(member)
    with trio.move_on_after(0) as scope:
        await sessions.wait_for_slot()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.wait_for_slot)
        await trio.testing.wait_all_tasks_blocked()
        sessions.remove(members[0])
    assert sessions.all() == (members[1],)


# -------------------------------------------------------------------------------------- the graceful end


class Drained:
    """A stream that notes how it is drained."""

    closed = False

    def __init__(self) -> None:
        self.drains: list[tuple[float, Drain]] = []

    def drain(self, drain: Drain, seconds: float | None = None) -> None:
        self.drains.append((trio.current_time() if seconds is None else seconds, drain))


@pytest.mark.parametrize("ends_itself", [True, False])
async def test_an_app_that_ends_closes_its_streams_itself(ends_itself: bool) -> None:
    """The end of a server closes the streams of an app within its spread, unless the app ends as well."""
    shutdown, stream, drain = trio.Event(), Drained(), Drain(spread=3)
    CLOSE_IN_SPREAD.on_server_end(stream, drain)
    end = AppEnd(shutdown, Drain(code=1012))
    if ends_itself:
        shutdown.set()
    end.on_server_end(stream, drain)
    AppEnd().on_server_end(stream, drain)
    assert len(stream.drains) == (2 if ends_itself else 3)
    assert all(0 <= seconds <= 3 and given is drain for seconds, given in stream.drains)


async def test_an_app_closes_its_streams_one_by_one(autojump_clock: trio.testing.MockClock) -> None:
    """The streams of an app are closed at even distances of its spread; a closed one waits for none."""
    end = AppEnd(trio.Event(), Drain(spread=4))
    began = trio.current_time()
    assert end.begin(Timeouts(drain=30, disconnect=2)) == began + 28
    assert (end.begun, end.deadline) == (True, began + 30)
    streams = [Drained() for _ in range(4)]
    streams[2].closed = True
    await end.close_all(streams)
    assert [moment - began for stream in streams for moment, _ in stream.drains] == [0, 1, 1, 3]


# ------------------------------------------------------------------------------------------- faces and parts
