"""The outbox of a stream, compared with a model: any frames, policies, and partial writes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._server._transport import CHUNK
from humphrey_trio._websocket._counters import Counters
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._encoder import encode_close, encode_message, encode_ping, encode_pong
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio.websocket import KeepLatest, WhenFull
from tests.support.outboxes import HEAD, NORMAL_CLOSE, ScriptedTransport, arrived, flush, opened
from tests.support.wire import BINARY, CLOSE, PING, PONG, split_frames

#: What is done with an outbox: a message of some size, or the name of something else.
steps = st.one_of(
    st.integers(0, 300),
    st.sampled_from([CHUNK, 3 * CHUNK]),
    st.sampled_from(["ping", "pong", "flush"]),
)
script = st.lists(st.one_of(st.integers(0, 20), st.integers(0, CHUNK)), max_size=60)


async def perform(outbox: Outbox, plan: list[int | str]) -> dict[int, list[bytes]]:
    """Carry out a plan. Returns the payloads that were put, by opcode."""
    put: dict[int, list[bytes]] = {BINARY: [], PING: [], PONG: []}
    for i, step in enumerate(plan):
        number = i.to_bytes(2, "big")
        if isinstance(step, int):
            put[BINARY].append(number + bytes(step))
            outbox.put(encode_message(put[BINARY][-1]))
        elif step == "ping":
            put[PING].append(number)
            outbox.put_control(encode_ping(number))
        elif step == "pong":
            put[PONG].append(number)
            outbox.put_control(encode_pong(number))
        elif outbox.pending:
            await outbox.flush_some()
    return put


def is_subsequence(part: list[bytes], whole: list[bytes]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


@settings(deadline=None, max_examples=150)
@given(plan=st.lists(steps, max_size=25), takes=script)
async def test_frames_arrive_whole_and_in_order(plan: list[int | str], takes: list[int]) -> None:
    """However little a transport takes, frames arrive whole and in order, with the latest ping and pong."""
    transport = ScriptedTransport(takes)
    outbox = opened(transport)
    put = await perform(outbox, plan)
    outbox.end(NORMAL_CLOSE)
    await flush(outbox)

    *frames, last = transport.frames()
    assert last == (CLOSE, b"\x03\xe8")
    assert arrived(frames, CLOSE) == []
    assert arrived(frames, BINARY) == put[BINARY]
    for opcode in (PING, PONG):
        assert is_subsequence(arrived(frames, opcode), put[opcode])
        assert arrived(frames, opcode)[-1:] == put[opcode][-1:]
    assert outbox.queued_bytes == 0


@settings(deadline=None, max_examples=100)
@given(plan=st.lists(steps, max_size=25), takes=script)
async def test_close_that_drops_the_queue_cuts_no_frame(plan: list[int | str], takes: list[int]) -> None:
    """A Close that drops the queue follows whole frames, which are the first that were put."""
    transport = ScriptedTransport(takes)
    outbox = opened(transport)
    put = await perform(outbox, plan)
    outbox.end(NORMAL_CLOSE, drop_queue=True)
    await flush(outbox)

    *frames, last = transport.frames()
    received = arrived(frames, BINARY)
    assert last == (CLOSE, b"\x03\xe8")
    assert received == put[BINARY][: len(received)]
    assert outbox.queued_bytes == 0


@settings(deadline=None, max_examples=100)
@given(plan=st.lists(steps, max_size=25), takes=script, ended=st.booleans())
async def test_final_frames_complete_the_stream(plan: list[int | str], takes: list[int], ended: bool) -> None:
    """The bytes on the wire and the final frames are whole frames: every message, and one Close."""
    transport = ScriptedTransport(takes)
    outbox = opened(transport)
    put = await perform(outbox, plan)
    if ended:
        outbox.end(NORMAL_CLOSE)
    transport.wire += outbox.final_frames(encode_close(1001))

    *frames, last = transport.frames()
    assert last == (CLOSE, (1000 if ended else 1001).to_bytes(2, "big"))
    assert arrived(frames, CLOSE) == []
    assert arrived(frames, BINARY) == put[BINARY]


Policy = WhenFull | KeepLatest


@dataclass(eq=False)
class QueuedMessage:
    """A message in the queue: its frame, and its policy if it may be dropped."""

    frame: bytes
    policy: Policy | None


class Model:
    """A simple outbox: a list of queued messages, and the bytes left of frames that were sent in part."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self.waiting: list[QueuedMessage] = []
        self.lane: dict[int, bytes] = {}
        self.keys: list[Hashable] = []  # of which messages wait, in the order in which each began to
        self.begun = self.begun_messages = 0
        self.put = self.dropped = 0
        self.sent: list[bytes] = []  # frames of messages that have begun, or are gone

    @property
    def queued_bytes(self) -> int:
        return self.begun + sum(len(one.frame) for one in self.waiting)

    @property
    def queued_messages(self) -> int:
        return self.begun_messages + len(self.waiting)

    def fits(self, size: int, without: list[QueuedMessage] | None = None) -> bool:
        """Whether there is room for so many bytes, after some queued messages are dropped."""
        rest = [one for one in self.waiting if one not in (without or [])]
        queued = self.begun + sum(len(one.frame) for one in rest)
        return queued == 0 or (
            queued + size <= self._limits.max_outbox_bytes and len(rest) < self._limits.max_outbox_messages
        )

    def victims(self, size: int, policy: Policy) -> list[QueuedMessage] | None:
        """The messages that are dropped to make room for so many bytes; None if there would be no room."""
        return next((some for some in self._choices(policy) if self.fits(size, some)), None)

    def _choices(self, policy: Policy) -> Iterator[list[QueuedMessage]]:
        """The sets of messages that may be dropped, the smallest first."""
        if isinstance(policy, KeepLatest):
            outdated = self._of_key(policy.key)
            if outdated:
                yield outdated
            for key in self.keys:
                if key != policy.key and (older := self._of_key(key)[:-1]):
                    outdated = outdated + older
                    yield outdated
        elif policy is WhenFull.DROP_OLDEST:
            mine = [one for one in self.waiting if one.policy is policy]
            for count in range(1, len(mine) + 1):
                yield mine[:count]

    def _of_key(self, key: Hashable) -> list[QueuedMessage]:
        return [one for one in self.waiting if one.policy == KeepLatest(key)]

    def remove(self, some: list[QueuedMessage]) -> None:
        self.waiting = [one for one in self.waiting if one not in some]
        self.keys = [key for key in self.keys if self._of_key(key)]

    def drop(self, some: list[QueuedMessage]) -> None:
        self.remove(some)
        self.dropped += len(some)

    def wait(self, frame: bytes, policy: Policy | None) -> None:
        self.waiting.append(QueuedMessage(frame, policy))
        if isinstance(policy, KeepLatest) and policy.key not in self.keys:
            self.keys.append(policy.key)


class OutboxAndModel:
    """An outbox and its model, to which all calls go. ``check`` compares them."""

    def __init__(self, limits: StreamLimits, takes: list[int]) -> None:
        self.transport = ScriptedTransport(takes)
        self.counters = Counters()
        self.outbox = Outbox(self.transport, limits, self.counters)
        self.head_left = len(HEAD)
        self.limits = limits
        self.model = Model(limits)
        self._number = 0
        self._longest = 0  # frame

    def uncork(self) -> None:
        self.outbox.uncork(HEAD)
        self.head_left -= len(self.transport.wire)

    def frame(self, size: int) -> bytes:
        """A frame with unique content."""
        self._number += 1
        return encode_message(self._number.to_bytes(3, "big") + bytes(size))

    def put(self, frame: bytes, policy: Policy | None, put: Callable[[bytes], None]) -> None:
        """Put a frame for which there is room."""
        model, transport = self.model, self.transport
        transport.offered = None
        before = len(transport.wire)
        put(frame)
        model.put += 1
        self._longest = max(self._longest, len(frame))
        if transport.offered is None:
            model.wait(frame, policy)
            return
        assert (transport.offered, model.queued_bytes, model.lane) == (frame, 0, {})
        model.begun = len(frame) - (len(transport.wire) - before)
        model.begun_messages = bool(model.begun)
        model.sent.append(frame)

    def send(self, size: int, *, later: bool) -> None:
        """Do what ``send`` does, but do not wait."""
        frame = self.frame(size)
        assert self.outbox.has_room(len(frame)) == self.model.fits(len(frame))
        if self.model.fits(len(frame)):
            self.put(frame, None, self.outbox.put_later if later else self.outbox.put)

    def broadcast(self, size: int, policy: Policy) -> None:
        """Do what a broadcast does, but close nothing."""
        outbox, model, frame = self.outbox, self.model, self.frame(size)
        assert outbox.has_room(len(frame)) == model.fits(len(frame))
        if not model.fits(len(frame)):
            victims = model.victims(len(frame), policy)
            assert outbox.make_room(len(frame), policy) == (victims is not None)
            if victims is None:
                return
            model.drop(victims)
        self.put(frame, policy, lambda frame: outbox.put_droppable(frame, policy))

    def control(self, frame: bytes) -> None:
        self.transport.offered = None
        before = len(self.transport.wire)
        self.outbox.put_control(frame)
        if self.transport.offered is None:
            self.model.lane[frame[0]] = frame
        else:
            assert (self.model.queued_bytes, self.model.queued_messages) == (0, 0)
            self.model.begun = len(frame) - (len(self.transport.wire) - before)

    async def flush(self) -> None:
        """One step of the writer."""
        if self.outbox.corked:
            assert not self.outbox.pending
            return
        if not self.outbox.pending:
            assert (self.head_left, self.model.queued_bytes, self.model.lane) == (0, 0, {})
            return
        model, before = self.model, len(self.transport.wire)
        self.transport.offered = None
        await self.outbox.flush_some()
        if self.transport.offered is None:  # nothing was left to write
            assert (model.queued_bytes, model.lane) == (0, {})
            return
        if self.head_left:
            assert self.transport.offered == HEAD[-self.head_left :]
            self.head_left -= len(self.transport.wire) - before
            return
        if not model.begun:
            self._begin(self.transport.offered)
        assert len(self.transport.offered) == model.begun
        model.begun -= len(self.transport.wire) - before
        if not model.begun:
            model.begun_messages = 0

    def _begin(self, batch: bytes) -> None:
        """Whole frames go to the transport: all control frames, and then the first queued messages."""
        model = self.model
        head = b"".join(model.lane.values())
        taken: list[QueuedMessage] = []
        while len(head) + sum(len(one.frame) for one in taken) < len(batch) and len(taken) < len(model.waiting):
            taken.append(model.waiting[len(taken)])
        frames = [one.frame for one in taken]
        assert batch in (head + b"".join(frames), head + b"".join(frames) + NORMAL_CLOSE)
        assert taken or head or self.outbox.ended
        model.lane.clear()
        model.sent += frames
        model.begun, model.begun_messages = len(batch), len(taken)
        model.remove(taken)

    def check(self) -> None:
        """Assert that the counts are equal, and that the limits hold."""
        outbox, model = self.outbox, self.model
        assert outbox.queued_bytes == model.queued_bytes
        assert outbox.queued_messages == model.queued_messages
        assert outbox.messages_put == model.put - model.dropped
        assert self.counters.dropped == model.dropped
        assert outbox.bytes_sent == len(self.transport.wire) - len(HEAD) + self.head_left
        assert len(model.waiting) <= self.limits.max_outbox_messages
        # Control frames and a Close come on top; one message of any size fits alone.
        assert outbox.queued_bytes <= max(self.limits.max_outbox_bytes, self._longest) + 12


sizes = st.one_of(st.integers(0, 12), st.integers(0, 120), st.sampled_from([CHUNK // 2, CHUNK]))
policies = st.one_of(
    st.sampled_from([WhenFull.DROP_NEWEST, WhenFull.CLOSE]),
    st.just(WhenFull.DROP_OLDEST),
    st.sampled_from("abc").map(KeepLatest),
)
#: What is done with an outbox that drops.
dropping_steps = st.one_of(
    st.tuples(st.just("send"), sizes, st.booleans()),
    st.tuples(st.just("broadcast"), sizes, policies),
    st.tuples(st.just("broadcast"), st.integers(0, 12), policies),
    st.tuples(st.just("broadcast"), st.just(0), policies),
    st.sampled_from([("ping",), ("pong",)]),
    st.just(("flush",)),
)
bounds = st.builds(
    StreamLimits,
    max_outbox_bytes=st.sampled_from([1, 40, 100, 2 * CHUNK, 2**20]),
    max_outbox_messages=st.sampled_from([1, 3, 5, 8, 1000]),
)


async def do(pair: OutboxAndModel, plan: list[tuple[Any, ...]]) -> None:
    for what, *how in plan:
        match what:
            case "send":
                pair.send(how[0], later=how[1])
            case "broadcast":
                pair.broadcast(*how)
            case "flush":
                await pair.flush()
            case _:
                pair.control(encode_ping(b"x") if what == "ping" else encode_pong(b"y"))
        pair.check()


@settings(deadline=None, max_examples=150)
@given(
    plan=st.lists(dropping_steps, min_size=15, max_size=60),
    takes=st.lists(st.one_of(st.just(0), st.integers(0, 20), st.integers(0, CHUNK)), max_size=60),
    limits=bounds,
    corked=st.sampled_from([0, 0, 5, 10]),
    slow=st.booleans(),
    end=st.sampled_from(["flush", "close", "close at once", "abandon", "final frames"]),
)
async def test_policies_agree_with_the_model(
    plan: list[tuple[Any, ...]], takes: list[int], limits: StreamLimits, corked: int, slow: bool, end: str
) -> None:
    """After any puts, drops and writes, the wire, the room and all counts are those of a simple model."""
    pair = OutboxAndModel(limits, takes)
    outbox, model, transport = pair.outbox, pair.model, pair.transport
    transport.blocked = slow
    await do(pair, plan[:corked])
    pair.uncork()
    await do(pair, plan[corked:])

    if end in ("close", "close at once"):
        outbox.end(NORMAL_CLOSE, drop_queue=end != "close")
        if end == "close at once":
            model.drop(model.waiting)
    elif end == "abandon":
        outbox.abandon()
        model.drop(model.waiting)
        model.begun = model.begun_messages = 0
        pair.check()
        assert not outbox.pending
        received, _ = split_frames(transport.wire[len(HEAD) :])
        sent, _ = split_frames(b"".join(model.sent))
        payloads = arrived(received, BINARY)
        assert payloads == arrived(sent, BINARY)[: len(payloads)]
        return
    elif end == "final frames":
        final = outbox.final_frames(NORMAL_CLOSE)
        transport.wire += final
        outbox.count_final_frames(len(final))
        outbox.abandon()
        model.sent += [one.frame for one in model.waiting]
    if end != "final frames":
        while outbox.pending:
            if end == "flush":
                await pair.flush()
                pair.check()
            else:
                await outbox.flush_some()
        model.sent += [one.frame for one in model.waiting]

    frames = transport.frames()
    closed = end != "flush"
    assert frames[len(frames) - closed :] == ([(CLOSE, b"\x03\xe8")] if closed else [])
    assert arrived(frames, BINARY) == arrived(split_frames(b"".join(model.sent))[0], BINARY)
    assert (outbox.queued_bytes, outbox.queued_messages, outbox.pending) == (0, 0, False)
    assert outbox.messages_put == model.put - model.dropped == len(model.sent)
    assert pair.counters.dropped == model.dropped
    assert not outbox.queue.drop_for(WhenFull.DROP_OLDEST, lambda size, count: True)
