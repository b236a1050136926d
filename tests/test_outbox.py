"""The outbox of a stream: whole frames, in order, within bounds, whatever the transport takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._server._transport import CHUNK, Transport
from humphrey_trio._websocket._counters import Counters
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._encoder import encode_close, encode_message, encode_ping, encode_pong
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio._websocket._stream._writer_turns import give_turns
from humphrey_trio.http import Address
from humphrey_trio.websocket import KeepLatest, WhenFull
from tests.support.wire import BINARY, CLOSE, PING, PONG, split_frames

MIB = 2**20
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
GOODBYE = encode_close(1000)


class ScriptedTransport(Transport):
    """Takes as many bytes at a time as its script says, and everything when that has ended.

    It asserts what TLS needs: bytes that were offered and not taken are the first that are offered next.

    Attributes:
        wire: what it took.
        sends: how often bytes were given to it.
        offered: the bytes that were given to it last, taken or not; whoever looks at them resets them.
        blocked: whether it takes nothing, as a peer that does not read.
        resume: what a write waits for.
        gone: whether there is no peer any more.
    """

    def __init__(self, script: Iterable[int] = ()) -> None:
        super().__init__(Address("script"))
        self.wire = b""
        self.sends = 0
        self.offered: bytes | None = None
        self.blocked = False
        self.resume: trio.Event | None = None
        self.gone = False
        self._torn = False
        self._not_taken = b""
        self.script = iter(script)

    @property
    def torn(self) -> bool:
        return self._torn

    def tear(self) -> None:
        self._torn = True

    def frames(self) -> list[tuple[int, bytes]]:
        """The frames on the wire, which are all whole."""
        assert self.wire.startswith(HEAD)
        frames, rest = split_frames(self.wire[len(HEAD) :])
        assert rest == b""
        return frames

    def send_now(self, data: bytes | memoryview) -> int:
        self.offered = bytes(data)
        return self._take(data, 0)

    async def send_some(self, data: bytes | memoryview) -> int:
        assert data
        await trio.lowlevel.checkpoint()
        if self.resume is not None:
            await self.resume.wait()
        self.offered = bytes(data)
        return self._take(data, 1)

    def _take(self, data: bytes | memoryview, least: int) -> int:
        assert bytes(data).startswith(self._not_taken)
        if self.blocked and not least:
            taken = 0
        elif self.gone:
            raise trio.BrokenResourceError
        else:
            taken = min(len(data), max(least, next(self.script, len(data))))
            self.sends += 1
        self.wire += data[:taken]
        self._not_taken = bytes(data[taken:])
        return taken

    async def receive_some(self) -> bytes:
        raise AssertionError

    async def send_last(self, data: bytes) -> int:
        raise AssertionError

    # What an outbox never calls:

    @property
    def half_closes(self) -> bool:
        raise AssertionError

    async def send_eof(self) -> None:
        raise AssertionError

    async def discard_some(self) -> bool:
        raise AssertionError

    def interruptible(self) -> AbstractContextManager[object]:
        raise AssertionError

    def interrupt(self) -> None:
        raise AssertionError

    def abort(self) -> None:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError


def opened(transport: Transport, limits: StreamLimits | None = None) -> Outbox:
    """An outbox behind its handshake."""
    outbox = Outbox(transport, limits or StreamLimits(), Counters())
    outbox.uncork(HEAD)
    return outbox


def blocked(limits: StreamLimits | None = None) -> tuple[Outbox, ScriptedTransport]:
    """An outbox behind its handshake whose transport takes nothing at once, so that everything waits."""
    transport = ScriptedTransport()
    outbox = opened(transport, limits)
    transport.blocked = True
    return outbox, transport


async def flush(outbox: Outbox) -> None:
    """Write until nothing waits, as the connection task does."""
    while outbox.pending:
        await outbox.flush_some()


def messages(*payloads: bytes) -> list[bytes]:
    return [encode_message(payload) for payload in payloads]


# --------------------------------------------------------------------------------------- whole, in order

#: What is done with an outbox: a message of some size, or the name of something else.
steps = st.one_of(
    st.integers(0, 300),
    st.sampled_from([CHUNK, 3 * CHUNK]),
    st.sampled_from(["ping", "pong", "flush"]),
)
script = st.lists(st.one_of(st.integers(0, 20), st.integers(0, CHUNK)), max_size=60)


async def perform(outbox: Outbox, plan: list[int | str]) -> dict[int, list[bytes]]:
    """Do all that; the payloads that were put, by their frames' opcode."""
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


def arrived(frames: list[tuple[int, bytes]], opcode: int) -> list[bytes]:
    return [payload for found, payload in frames if found == opcode]


@settings(deadline=None, max_examples=150)
@given(plan=st.lists(steps, max_size=25), takes=script)
async def test_everything_arrives_whole_and_in_order(plan: list[int | str], takes: list[int]) -> None:
    """However little a transport takes, frames arrive whole, in order, and with the latest pong and ping."""
    transport = ScriptedTransport(takes)
    outbox = opened(transport)
    put = await perform(outbox, plan)
    outbox.end(GOODBYE)
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
async def test_dropping_the_queue_cuts_no_frame(plan: list[int | str], takes: list[int]) -> None:
    """A Close in the queue's place comes behind whole frames, the first so many of those that were put."""
    transport = ScriptedTransport(takes)
    outbox = opened(transport)
    put = await perform(outbox, plan)
    outbox.end(GOODBYE, drop_queue=True)
    await flush(outbox)

    *frames, last = transport.frames()
    received = arrived(frames, BINARY)
    assert last == (CLOSE, b"\x03\xe8")
    assert received == put[BINARY][: len(received)]
    assert outbox.queued_bytes == 0


@settings(deadline=None, max_examples=100)
@given(plan=st.lists(steps, max_size=25), takes=script, ended=st.booleans())
async def test_last_words_complete_the_wire(plan: list[int | str], takes: list[int], ended: bool) -> None:
    """What is on the wire and the last words behind it are whole frames: every message, and one Close."""
    transport = ScriptedTransport(takes)
    outbox = opened(transport)
    put = await perform(outbox, plan)
    if ended:
        outbox.end(GOODBYE)
    transport.wire += outbox.final_frames(encode_close(1001))

    *frames, last = transport.frames()
    assert last == (CLOSE, (1000 if ended else 1001).to_bytes(2, "big"))
    assert arrived(frames, CLOSE) == []
    assert arrived(frames, BINARY) == put[BINARY]


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


# ------------------------------------------------------------------------------- dropping, beside a model

Policy = WhenFull | KeepLatest


@dataclass(eq=False)
class Waiting:
    """A message that waits: its frame, and with which policy it came, if it may be dropped."""

    frame: bytes
    policy: Policy | None


class Model:
    """What an outbox has to do, said simply: a list of what waits, and a number of bytes that have begun."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self.waiting: list[Waiting] = []
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

    def fits(self, size: int, without: list[Waiting] | None = None) -> bool:
        """Whether there is room for so many bytes, once some that wait are gone."""
        rest = [one for one in self.waiting if one not in (without or [])]
        queued = self.begun + sum(len(one.frame) for one in rest)
        return queued == 0 or (
            queued + size <= self._limits.max_outbox_bytes and len(rest) < self._limits.max_outbox_messages
        )

    def victims(self, size: int, policy: Policy) -> list[Waiting] | None:
        """Which messages make room for so many bytes; None if they cannot."""
        return next((some for some in self._choices(policy) if self.fits(size, some)), None)

    def _choices(self, policy: Policy) -> Iterator[list[Waiting]]:
        """What may be dropped, the least first."""
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

    def _of_key(self, key: Hashable) -> list[Waiting]:
        return [one for one in self.waiting if one.policy == KeepLatest(key)]

    def remove(self, some: list[Waiting]) -> None:
        self.waiting = [one for one in self.waiting if one not in some]
        self.keys = [key for key in self.keys if self._of_key(key)]

    def drop(self, some: list[Waiting]) -> None:
        self.remove(some)
        self.dropped += len(some)

    def wait(self, frame: bytes, policy: Policy | None) -> None:
        self.waiting.append(Waiting(frame, policy))
        if isinstance(policy, KeepLatest) and policy.key not in self.keys:
            self.keys.append(policy.key)


class Pair:
    """An outbox and its model, which do the same; after every step they say the same."""

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
        """A frame that is like no other."""
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
        """What ``send`` does, except that it does not wait."""
        frame = self.frame(size)
        assert self.outbox.has_room(len(frame)) == self.model.fits(len(frame))
        if self.model.fits(len(frame)):
            self.put(frame, None, self.outbox.put_later if later else self.outbox.put)

    def broadcast(self, size: int, policy: Policy) -> None:
        """What a broadcast does, except that it closes nothing."""
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
        """Whole frames go to the transport: all control frames, and behind them the first that wait."""
        model = self.model
        head = b"".join(model.lane.values())
        taken: list[Waiting] = []
        while len(head) + sum(len(one.frame) for one in taken) < len(batch) and len(taken) < len(model.waiting):
            taken.append(model.waiting[len(taken)])
        frames = [one.frame for one in taken]
        assert batch in (head + b"".join(frames), head + b"".join(frames) + GOODBYE)
        assert taken or head or self.outbox.ended
        model.lane.clear()
        model.sent += frames
        model.begun, model.begun_messages = len(batch), len(taken)
        model.remove(taken)

    def check(self) -> None:
        """They say the same, and the bounds hold."""
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


async def do(pair: Pair, plan: list[tuple[Any, ...]]) -> None:
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
    end=st.sampled_from(["flush", "close", "close at once", "abandon", "last words"]),
)
async def test_dropping(
    plan: list[tuple[Any, ...]], takes: list[int], limits: StreamLimits, corked: int, slow: bool, end: str
) -> None:
    """Whatever is put, dropped and written: the wire, the room and every count are those of a simple model."""
    pair = Pair(limits, takes)
    outbox, model, transport = pair.outbox, pair.model, pair.transport
    transport.blocked = slow
    await do(pair, plan[:corked])
    pair.uncork()
    await do(pair, plan[corked:])

    if end in ("close", "close at once"):
        outbox.end(GOODBYE, drop_queue=end != "close")
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
    elif end == "last words":
        words = outbox.final_frames(GOODBYE)
        transport.wire += words
        outbox.count_final_frames(len(words))
        outbox.abandon()
        model.sent += [one.frame for one in model.waiting]
    if end != "last words":
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


# ------------------------------------------------------------------------------------------------- turns


@pytest.fixture
async def passes(nursery: trio.Nursery) -> list[int]:
    """How often the scheduler has let a task of its own run, as the only item."""
    counted = [0]

    async def count() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            counted[0] += 1

    nursery.start_soon(count)
    return counted


def full_outbox(script: Iterable[int], size: int) -> tuple[Outbox, ScriptedTransport]:
    """An outbox that is full with one frame, of which nothing has been taken; from now on the script holds."""
    transport = ScriptedTransport()
    outbox = opened(transport, StreamLimits(max_outbox_bytes=size))
    transport.blocked = True
    outbox.put(bytes(size))
    transport.script = iter(script)
    return outbox, transport


async def write(outbox: Outbox) -> None:
    """Write for ever, as the connection task does."""
    while True:
        await (outbox.flush_some() if outbox.pending else outbox.wait_for_work())


@pytest.mark.parametrize("size", [1, MIB, 10 * MIB])
async def test_turns_last_until_there_is_room(size: int, nursery: trio.Nursery) -> None:
    """However much is missing, a writer gets as many turns as it needs for it if it sends 16 KiB in each."""
    outbox, _ = full_outbox(itertools.repeat(16 * 1024), size)
    nursery.start_soon(write, outbox)
    assert outbox.missing(size) == size
    await give_turns([(outbox, size)])
    assert outbox.missing(size) == 0
    assert outbox.has_room(size)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("drops", [1, 100])
async def test_a_peer_that_drips_holds_nobody_up(drops: int, passes: list[int], nursery: trio.Nursery) -> None:
    """A peer that takes a byte at a time gets as many turns as one that reads; so do many of them, together."""
    outboxes = [full_outbox(itertools.repeat(1), MIB)[0] for _ in range(drops)]
    for outbox in outboxes:
        nursery.start_soon(write, outbox)
    before = passes[0]
    await give_turns([(outbox, 1000) for outbox in outboxes])
    assert passes[0] - before < 2 * 10
    assert all(0 < outbox.missing(1000) < 1000 for outbox in outboxes)
    assert not any(outbox.is_stuck for outbox in outboxes)
    nursery.cancel_scope.cancel()


async def test_a_peer_that_takes_nothing_is_stuck(passes: list[int], nursery: trio.Nursery) -> None:
    """A peer that takes nothing in one turn gets no further one, before it takes something."""
    outbox, transport = full_outbox((), MIB)
    transport.resume = trio.Event()
    nursery.start_soon(write, outbox)
    before = passes[0]
    await give_turns([(outbox, MIB)])
    assert outbox.is_stuck
    after = passes[0]
    assert after - before < 10
    await give_turns([(outbox, MIB)])
    assert passes[0] == after
    transport.resume.set()
    while outbox.pending:
        await trio.lowlevel.checkpoint()
    assert not outbox.is_stuck
    nursery.cancel_scope.cancel()


def test_what_is_missing() -> None:
    """It is the bytes that have to go first: at most all, at least one where the limit is a number of messages."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=100, max_outbox_messages=3))
    assert outbox.missing(1000) == 0  # nothing waits
    for _ in range(3):
        outbox.put(bytes(20))
    assert [outbox.missing(size) for size in (40, 41, 100, 1000)] == [0, 1, 60, 60]
    outbox.put(bytes(20))
    assert [outbox.missing(size) for size in (1, 20, 100, 1000)] == [1, 1, 80, 80]
    outbox.end(GOODBYE)
    assert outbox.missing(1000) == 0
