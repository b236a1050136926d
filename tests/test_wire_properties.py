"""WebSockets through the whole server: any bytes in any reads, and any mix of frames, compared with a model."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import trio
import trio.testing
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.websocket import Deflate
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import served_in_memory
from tests.support.links import Link
from tests.support.reads import cut
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HANDSHAKE_FIELDS,
    PING,
    PONG,
    TEXT,
    client_frame,
    request_bytes,
    split_frames,
)

MAX_SIZE, MAX_FRAGMENTS = 40, 5
LIMITS: Any = {"max_message_size": MAX_SIZE, "max_fragments": MAX_FRAGMENTS, "max_read_ahead": 2}
TAIL = b"\x00\x00\xff\xff"
HEAD = request_bytes(
    "GET / HTTP/1.1",
    [*HANDSHAKE_FIELDS, ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")],
)
CORRUPT = "the message cannot be inflated"

Part = TypeVar("Part", bytes, list["Sent"])

# ------------------------------------------------------------------------------- the app and its client


class Setup(NamedTuple):
    """How the frames of a client reach a handler.

    Attributes:
        hook: whether a hook passes the stream to an app; otherwise a coroutine handles it.
        link: the kind of socket; None for memory.
        takeover: whether the client has context takeover; None without compression.
    """

    hook: bool
    link: Link | None
    takeover: bool | None

    @property
    def deflate(self) -> Deflate | None:
        # Replies are not compressed here; tests of compression cover that.
        return None if self.takeover is None else Deflate(min_size=2**20, client_context_takeover=self.takeover)


class Received(NamedTuple):
    """What one read or several reads result in: messages at the handler, frames at the client."""

    messages: list[str | bytes]
    frames: list[tuple[int, bytes]]

    def of_kind(self, opcode: int) -> list[bytes]:
        """The payloads of the frames with an opcode."""
        return [payload for found, payload in self.frames if found == opcode]

    @property
    def echoes(self) -> list[str | bytes]:
        """The messages that were echoed."""
        return [
            payload.decode() if opcode == TEXT else payload
            for opcode, payload in self.frames
            if opcode in (TEXT, BINARY)
        ]


class Outcome(NamedTuple):
    """What the reads of a connection result in.

    Attributes:
        turns: the results of each read.
        end: the close code and reason at both sides; None while the connection is open.
    """

    turns: list[Received]
    end: tuple[int, str] | None

    @property
    def whole(self) -> Received:
        """The results of all reads together."""
        return Received(
            [message for turn in self.turns for message in turn.messages],
            [frame for turn in self.turns for frame in turn.frames],
        )


class Echo:
    """An app that echoes.

    Attributes:
        messages: the messages that it has received.
        end: the close code and reason in its disconnect handler.
    """

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.end: tuple[int, str] | None = None

    @asynccontextmanager
    async def serve(self, setup: Setup) -> AsyncGenerator[trio.abc.Stream]:
        """Serve one connection. Yields the client's end."""
        async with trio.open_nursery() as nursery:
            if setup.hook:
                websocket_app = AsyncWebsocketApp.new_unlinked(**LIMITS)
                websocket_app.with_message_handler(self._on_message).with_disconnect_handler(self._on_disconnect)
                await nursery.start(websocket_app.run)
                route: Any = async_websocket_handler(websocket_app.connect_hook(), deflate=setup.deflate)
            else:
                route = websocket_handler(self._run, deflate=setup.deflate, **LIMITS)
            app = App().with_websocket_route("/", route)
            if setup.link is not None:
                (address,) = await nursery.start(setup.link.run(app), ANY_PORT)
                async with await setup.link.connect(address) as stream:
                    yield stream
            else:
                async with served_in_memory(app) as connect, connect() as stream:
                    yield stream
            nursery.cancel_scope.cancel()

    async def _on_message(self, stream: AsyncStream | WebsocketStream, message: Message, state: None) -> None:
        self.messages.append(message.data)
        with suppress(ConnectionClosed):
            await stream.send(message)

    async def _on_disconnect(self, stream: AsyncStream | WebsocketStream, state: None) -> None:
        assert stream.close_code is not None
        assert stream.close_reason is not None
        self.end = (stream.close_code, stream.close_reason)

    async def _run(self, stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await self._on_message(stream, message, state)
        await self._on_disconnect(stream, state)


async def exchange(setup: Setup, reads: Iterable[bytes]) -> Outcome:
    """Send bytes, the handshake first, and wait after each read until all tasks are blocked.

    It asserts that both sides have the same close code and reason, and that nothing follows the Close.
    """
    echo, turns, received, ended = Echo(), list[Received](), bytearray(), False

    async def receive_all(stream: trio.abc.Stream) -> None:
        nonlocal ended
        async for data in stream:
            received.extend(data)
        ended = True

    with trio.fail_after(PATIENCE):
        async with echo.serve(setup) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(receive_all, stream)
            for data in reads:
                with suppress(trio.BrokenResourceError):  # the server has ended the connection
                    await stream.send_all(data)
                await trio.testing.wait_all_tasks_blocked()
                if received.startswith(b"HTTP/1.1 101 "):
                    del received[: received.index(b"\r\n\r\n") + 4]
                frames, rest = split_frames(bytes(received))
                assert rest == b""
                turns.append(Received(echo.messages[:], frames))
                echo.messages.clear()
                received.clear()
            end = echo.end
            nursery.cancel_scope.cancel()

    outcome = Outcome(turns, end)
    assert ended == (end is not None)
    if end is None:
        assert outcome.whole.of_kind(CLOSE) == []
    else:
        code, reason = end
        assert outcome.whole.of_kind(CLOSE) == [b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode()]
        assert outcome.whole.frames[-1][0] == CLOSE
    return outcome


def run(setup: Setup, reads: Iterable[bytes]) -> Outcome:
    """``exchange``, in virtual time."""
    return trio.run(exchange, setup, reads, clock=trio.testing.MockClock(autojump_threshold=0))


# ------------------------------------------------------------------------------------- generated frames


class Sent(NamedTuple):
    """A frame of a client."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    compressed: bool = False

    @property
    def wire(self) -> bytes:
        return client_frame(self.opcode, self.payload, fin=self.fin, rsv=self.compressed << 2)


def wire_of(frames: Iterable[Sent]) -> bytes:
    return b"".join(frame.wire for frame in frames)


def message_frames(opcode: int, parts: Sequence[bytes], *, compressed: bool, fin: bool = True) -> list[Sent]:
    """The frames of a message, or of its beginning if the last one is not final."""
    return [
        Sent(CONTINUATION if i else opcode, part, fin and i == len(parts) - 1, compressed and not i)
        for i, part in enumerate(parts)
    ]


class Compressor:
    """The compressor of a client, which uses only zlib."""

    def __init__(self, *, takeover: bool) -> None:
        self._takeover = takeover
        self._begin()

    def _begin(self) -> None:
        self._stream = zlib.compressobj(wbits=-9)

    def compress(self, pieces: Iterable[bytes], *, ends: bool) -> bytes:
        """The payload of a compressed message, flushed after each of its pieces, or a complete stream."""
        if not self._takeover:
            self._begin()
        payload = b""
        for piece in filter(None, pieces):
            payload += self._stream.compress(piece) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        if ends:
            payload += self._stream.flush()
            self._begin()
        return payload.removesuffix(TAIL) or b"\x00"


def places(most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 2**12), max_size=most)


def once_in(times: int) -> st.SearchStrategy[bool]:
    """True occasionally. (The ends of a range would be generated more often.)"""
    return st.integers(0, times).map(lambda number: number == times // 2)


setups = st.builds(Setup, st.booleans(), st.sampled_from([None, *Link]), st.sampled_from([None, True, False]))
texts = st.one_of(st.text(max_size=8), st.text("a€𝄞é", min_size=2, max_size=8)).map(str.encode)
#: Bytes that are not UTF-8, or not with most bytes after them.
not_utf8 = st.sampled_from(
    [b"\xff", b"\x80", b"\xc0\xaf", b"\xe2\x82", b"\xe0\x80", b"\xf4\x90", b"\xed\xa0\x80", b"\xf0\x90\x80"]
)
long = st.integers(MAX_SIZE - 2, MAX_SIZE + 2).map(bytes)
#: The payloads of messages: valid ones, and those that are not UTF-8, too long, or both.
valid = st.one_of(texts, texts, st.just(bytes(MAX_SIZE)))
invalid = st.one_of(st.binary(max_size=20), long, st.tuples(texts | long, not_utf8, texts | long).map(b"".join))
control_payloads = st.one_of(st.binary(max_size=3), st.sampled_from([b"", b"there?", b"x" * 125]))
pings, pongs = control_payloads.map(partial(Sent, PING)), control_payloads.map(partial(Sent, PONG))
between = st.lists(st.one_of(pings, pings, pongs), max_size=1)
codes = st.sampled_from([1000, 1001, 1011, 3000, 4999, 0, 1005, 1006, 2999])
closes = st.one_of(
    st.tuples(codes.map(lambda code: code.to_bytes(2, "big")), st.one_of(texts, texts, not_utf8)).map(b"".join),
    st.binary(max_size=1),
)
data_frames = st.sampled_from([TEXT, BINARY, CONTINUATION])
#: Frames that close a connection, or are a protocol error at some places.
endings = st.one_of(
    closes.map(partial(Sent, CLOSE)),
    closes.map(partial(Sent, CLOSE)),
    st.builds(Sent, data_frames, st.binary(max_size=5), st.booleans(), st.just(False)),
    st.builds(Sent, data_frames | st.just(PING), st.binary(max_size=9), st.booleans(), st.just(True)),
    st.sampled_from([Sent(PING, b"x" * 126), Sent(PONG, fin=False), Sent(CLOSE, b"\x03\xe8", fin=False), Sent(3)]),
)


@st.composite
def frame_sequences(draw: st.DrawFn, setup: Setup) -> list[Sent]:
    """Messages in any fragmentation, with other frames in between; sometimes a frame is missing."""
    frames: list[Sent] = []
    # A client may use context takeover although it has agreed not to.
    compressor = Compressor(takeover=bool(setup.takeover) ^ draw(once_in(6)))
    for _ in range(draw(st.integers(1, 4))):
        payload = draw(invalid if draw(once_in(4)) else valid)
        compressed = setup.takeover is not None and draw(st.sampled_from([False, True, True]))
        if compressed:
            payload = compressor.compress(cut(payload, draw(places(1))), ends=draw(once_in(8)))
        parts = cut(payload, draw(places(MAX_FRAGMENTS if draw(once_in(6)) else 3)))
        message = message_frames(draw(st.sampled_from([TEXT, TEXT, BINARY])), parts, compressed=compressed)
        if draw(once_in(5)):
            del message[draw(st.sampled_from([0, -1, -1]))]
        for frame in message:
            frames += draw(between)
            if draw(once_in(20)):
                frames.append(draw(endings))
            frames.append(frame)
    frames += draw(between)
    if draw(st.booleans()):
        frames.append(draw(endings))
    return frames


#: Changes of bytes: the place, how many are removed, and the bytes that are inserted.
mutations = st.lists(st.tuples(st.integers(0, 2**12), st.integers(0, 3), st.binary(max_size=3)), max_size=3)


@st.composite
def traffic(draw: st.DrawFn, setup: Setup) -> bytes:
    """Any bytes: valid frames, modified frames, and random bytes."""
    data = b"" if draw(once_in(10)) else wire_of(draw(frame_sequences(setup)))
    for place, removed, inserted in draw(mutations):
        place %= len(data) + 1
        data = data[:place] + inserted + data[place + removed :]
    return data + draw(st.binary(max_size=8))


@st.composite
def invalid_texts(draw: st.DrawFn, setup: Setup) -> list[Sent]:
    """A text that is mostly not UTF-8, in any fragmentation, with pings in between."""
    payload = draw(texts) + draw(not_utf8) + draw(st.binary(max_size=5))
    compressed = setup.takeover is not None and draw(st.booleans())
    if compressed:
        pieces = cut(payload, draw(places(2)))
        payload = Compressor(takeover=False).compress(pieces, ends=draw(st.booleans()))
    parts = cut(payload, draw(places(MAX_FRAGMENTS - 1)))
    first, *more = message_frames(TEXT, parts, compressed=compressed, fin=draw(st.booleans()))
    return [first, *(sent for frame in more for sent in (*draw(between), frame))]


# -------------------------------------------------------------------------------------------- the model


class Closed(Exception):
    """The connection has to be closed with a code, and with a reason; None is any reason."""

    def __init__(self, code: int, reason: str | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


#: The incomplete characters of UTF-8.
BEGINNINGS = {
    encoded[:size]
    for encoded in (chr(code).encode() for code in range(0, 0x110000, 64) if not 0xD800 <= code < 0xE000)
    for size in range(1, len(encoded))
}


class Model:
    """The meaning of frames by RFC 6455 and RFC 7692, byte by byte: the first error decides."""

    def __init__(self, setup: Setup) -> None:
        self._takeover = setup.takeover
        self._inflater: zlib._Decompress | None = None
        # The current message:
        self._opcode: int | None = None
        self._compressed = False
        self._content = self._character = b""
        self._fragments = 0

    def receive(self, frame: Sent) -> str | bytes | Sent | None:
        """The message that a frame completes, the frame that answers it, or None.

        Raises:
            Closed: the connection has to be closed.
        """
        if frame.opcode in (CLOSE, PING, PONG):
            if not frame.fin or frame.compressed or len(frame.payload) > 125:
                raise Closed(1002)
            if frame.opcode == CLOSE:
                raise self._end(frame.payload)
            return Sent(PONG, frame.payload) if frame.opcode == PING else None
        if frame.opcode not in (TEXT, BINARY, CONTINUATION):
            raise Closed(1002)
        self._begin(frame)
        self._take(frame.payload)
        return self._message() if frame.fin else None

    def _end(self, payload: bytes) -> Closed:
        if not payload:
            return Closed(1005, "")
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code < 5000):
            return Closed(1002)
        try:
            return Closed(code, payload[2:].decode())
        except UnicodeDecodeError:
            return Closed(1007)

    def _begin(self, frame: Sent) -> None:
        """A fragment's header, by which it can be refused."""
        first = frame.opcode != CONTINUATION
        if first != (self._opcode is None) or (frame.compressed and (not first or self._takeover is None)):
            raise Closed(1002)
        if first:
            self._opcode, self._compressed = frame.opcode, frame.compressed
            self._content = self._character = b""
            self._fragments = 0
        self._fragments += 1
        if self._fragments > MAX_FRAGMENTS:
            raise Closed(1009)
        if not self._compressed and len(self._content) + len(frame.payload) > MAX_SIZE:
            raise Closed(1009)

    def _take(self, payload: bytes) -> None:
        for i in range(len(payload)):
            byte = payload[i : i + 1]
            inflated = self._inflate(byte) if self._compressed else byte
            for j in range(len(inflated)):
                self._add(inflated[j : j + 1])

    def _add(self, byte: bytes) -> None:
        self._content += byte
        if self._opcode == TEXT:
            self._check(byte)
        if len(self._content) > MAX_SIZE:
            raise Closed(1009)

    def _check(self, byte: bytes) -> None:
        self._character += byte
        try:
            self._character.decode()
            self._character = b""
        except UnicodeDecodeError:
            if self._character not in BEGINNINGS:
                raise Closed(1007) from None

    def _inflate(self, data: bytes) -> bytes:
        self._inflater = self._inflater or zlib.decompressobj(-12)
        try:
            inflated = self._inflater.decompress(data)
        except zlib.error:
            raise Closed(1007, CORRUPT) from None
        if self._inflater.eof:  # another stream may follow
            self._inflater = None
        return inflated

    def _message(self) -> str | bytes:
        if self._compressed and self._inflater is not None:
            self._take(TAIL)  # as a whole: the rest after the end of a stream does not begin another
        if not self._takeover:
            self._inflater = None
        if self._character:
            raise Closed(1007)
        is_text, self._opcode = self._opcode == TEXT, None
        return self._content.decode() if is_text else self._content


def predict(setup: Setup, turns: Iterable[Iterable[Sent]]) -> tuple[list[Received], Closed | None]:
    """The results of frames, turn by turn until the close, if every ping is answered; and the close."""
    model, results = Model(setup), list[Received]()
    try:
        for turn in turns:
            results.append(Received([], []))
            for frame in turn:
                what = model.receive(frame)
                if isinstance(what, Sent):
                    results[-1].frames.append((what.opcode, what.payload))
                elif what is not None:
                    results[-1].messages.append(what)
    except Closed as end:
        return results, end
    return results, None


# ------------------------------------------------------------------------------------------------ tests


def assert_received(results: Received, expected: Received, *, all_echoes: bool) -> None:
    """Assert that the messages are as expected and echoed, and that pongs answer the expected pings."""
    assert results.messages == expected.messages
    echoes = results.echoes
    assert echoes == expected.messages[: None if all_echoes else len(echoes)]
    # Of several pings in a read only the last has to be answered (RFC 6455, section 5.5.3).
    pings, pongs = expected.of_kind(PONG), results.of_kind(PONG)
    left = iter(pings)
    assert all(pong in left for pong in pongs)
    assert pongs[-1:] == pings[-1:]


def is_same_close(one: tuple[int, str] | None, other: tuple[int, str] | None) -> bool:
    """Whether two closes are the same.

    Corrupt data may also be invalid UTF-8 or too long directly before the corruption. Which error zlib reports
    first then depends on the reads.
    """
    if one is None or other is None:
        return one is other
    return one == other or (CORRUPT in (one[1], other[1]) and {one[0], other[0]} <= {1007, 1009})


@settings(deadline=None, max_examples=100)
@given(data=st.data(), setup=setups, at=places(12))
def test_any_bytes_in_any_reads(data: st.DataObject, setup: Setup, at: list[int]) -> None:
    """Any bytes have the same result in any reads: messages, replies, close code and reason."""
    sent = data.draw(traffic(setup), "sent")
    byte_by_byte = run(setup, [HEAD, *(sent[i : i + 1] for i in range(len(sent)))])
    assert_received(byte_by_byte.whole, byte_by_byte.whole, all_echoes=True)

    for reads in ([HEAD + sent], cut(HEAD + sent, at)):
        outcome = run(setup, reads)
        # The replies of a coroutine may be missing if the connection has closed already.
        assert_received(outcome.whole, byte_by_byte.whole, all_echoes=setup.hook or outcome.end is None)
        assert is_same_close(outcome.end, byte_by_byte.end)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), setup=setups, at=places(6))
def test_any_mix_of_frames(data: st.DataObject, setup: Setup, at: list[int]) -> None:
    """Any mix of frames is delivered, answered and refused as the RFCs say, as soon as it arrives."""
    turns = cut(data.draw(frame_sequences(setup), "frames"), at)
    expected, end = predict(setup, turns)
    outcome = run(setup, [HEAD, *map(wire_of, turns)])

    for i, results in enumerate(outcome.turns[1:]):
        ends = end is not None and i == len(expected) - 1
        if i < len(expected):
            assert_received(results, expected[i], all_echoes=setup.hook or not ends)
            assert len(results.of_kind(CLOSE)) == ends
        else:
            assert results == Received([], [])
    if end is None:
        assert outcome.end is None
    else:
        assert outcome.end is not None
        reason = outcome.end[1]
        assert reason or end.reason == ""
        assert is_same_close(outcome.end, (end.code, reason if end.reason is None else end.reason))


def needed(setup: Setup, frames: list[Sent]) -> int | None:
    """The number of bytes of a message that make its text invalid; None if it is valid."""
    size = 0
    for i, frame in enumerate(frames):
        for end in range(len(frame.payload) + 1) if frame.opcode in (TEXT, CONTINUATION) else ():
            cut_off = frame._replace(payload=frame.payload[:end], fin=False)
            _, failure = predict(setup, [[*frames[:i], frame if end == len(frame.payload) else cut_off]])
            if failure is not None:
                assert failure.code == 1007
                return size + len(frame.wire) - len(frame.payload) + end
        size += len(frame.wire)
    return None


@settings(deadline=None, max_examples=100)
@given(data=st.data(), setup=setups, at=places(6))
def test_invalid_utf8_is_refused_at_its_first_byte(data: st.DataObject, setup: Setup, at: list[int]) -> None:
    """A text that is not UTF-8 is closed with 1007 at its first invalid byte."""
    frames = data.draw(invalid_texts(setup), "frames")
    size = needed(setup, frames)
    if size is None:
        reject()
    wire = wire_of(frames)
    outcome = run(setup, [HEAD, *cut(wire[: size - 1], at), wire[size - 1 : size]])

    *before, last = outcome.turns
    assert not any(turn.of_kind(CLOSE) for turn in before)
    assert len(last.of_kind(CLOSE)) == 1
    assert outcome.whole.messages == []
    assert outcome.end is not None
    assert outcome.end[0] == 1007
