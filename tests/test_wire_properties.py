"""The wire, through the whole server: what any bytes in any reads come to, and what any mix of frames means."""

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

# ------------------------------------------------------------------------------------- through the server


class Way(NamedTuple):
    """How a client's frames get to a handler.

    Attributes:
        hook: whether an app behind a connect hook handles them, or a coroutine of the route's own.
        link: what they come over, a socket to which the server writes at once what it can; None for memory.
        takeover: whether the client's compressor may remember; None if no compression was agreed on.
    """

    hook: bool
    link: Link | None
    takeover: bool | None

    @property
    def deflate(self) -> Deflate | None:
        # How replies are compressed is shown elsewhere: here none is.
        return None if self.takeover is None else Deflate(min_size=2**20, client_context_takeover=self.takeover)


class Heard(NamedTuple):
    """What came of one read or of many: at the handler, and back at the client."""

    messages: list[str | bytes]
    frames: list[tuple[int, bytes]]

    def of_kind(self, opcode: int) -> list[bytes]:
        """The payloads of the frames of one kind."""
        return [payload for found, payload in self.frames if found == opcode]

    @property
    def echoes(self) -> list[str | bytes]:
        """The messages that came back."""
        return [
            payload.decode() if opcode == TEXT else payload
            for opcode, payload in self.frames
            if opcode in (TEXT, BINARY)
        ]


class Talk(NamedTuple):
    """What came of a connection.

    Attributes:
        turns: what came of each read.
        end: the code and the reason with which it was closed, at both sides; None while it is open.
    """

    turns: list[Heard]
    end: tuple[int, str] | None

    @property
    def whole(self) -> Heard:
        """What came of all reads together."""
        return Heard(
            [message for turn in self.turns for message in turn.messages],
            [frame for turn in self.turns for frame in turn.frames],
        )


class Echo:
    """An app that echoes.

    Attributes:
        messages: those that it got.
        end: the code and the reason that its disconnect handler found.
    """

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.end: tuple[int, str] | None = None

    @asynccontextmanager
    async def serve(self, way: Way) -> AsyncGenerator[trio.abc.Stream]:
        """Serve one connection, and give the client's end of it."""
        async with trio.open_nursery() as nursery:
            if way.hook:
                websocket_app = AsyncWebsocketApp.new_unlinked(**LIMITS)
                websocket_app.with_message_handler(self._on_message).with_disconnect_handler(self._on_disconnect)
                await nursery.start(websocket_app.run)
                route: Any = async_websocket_handler(websocket_app.connect_hook(), deflate=way.deflate)
            else:
                route = websocket_handler(self._converse, deflate=way.deflate, **LIMITS)
            app = App().with_websocket_route("/", route)
            if way.link is not None:
                (address,) = await nursery.start(way.link.run(app), ANY_PORT)
                async with await way.link.connect(address) as stream:
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

    async def _converse(self, stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await self._on_message(stream, message, state)
        await self._on_disconnect(stream, state)


async def converse(way: Way, reads: Iterable[bytes]) -> Talk:
    """Have a client send some bytes, the handshake first, and wait after each read until everything rests.

    It asserts what holds for every connection: what ends it, both sides know, and nothing follows that.
    """
    echo, turns, received, ended = Echo(), list[Heard](), bytearray(), False

    async def listen(stream: trio.abc.Stream) -> None:
        nonlocal ended
        async for data in stream:
            received.extend(data)
        ended = True

    with trio.fail_after(PATIENCE):
        async with echo.serve(way) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(listen, stream)
            for data in reads:
                with suppress(trio.BrokenResourceError):  # the server has ended the connection
                    await stream.send_all(data)
                await trio.testing.wait_all_tasks_blocked()
                if received.startswith(b"HTTP/1.1 101 "):
                    del received[: received.index(b"\r\n\r\n") + 4]
                frames, rest = split_frames(bytes(received))
                assert rest == b""
                turns.append(Heard(echo.messages[:], frames))
                echo.messages.clear()
                received.clear()
            end = echo.end
            nursery.cancel_scope.cancel()

    talk = Talk(turns, end)
    assert ended == (end is not None)
    if end is None:
        assert talk.whole.of_kind(CLOSE) == []
    else:
        code, reason = end
        assert talk.whole.of_kind(CLOSE) == [b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode()]
        assert talk.whole.frames[-1][0] == CLOSE
    return talk


def run(way: Way, reads: Iterable[bytes]) -> Talk:
    """``converse``, in virtual time."""
    return trio.run(converse, way, reads, clock=trio.testing.MockClock(autojump_threshold=0))


# ----------------------------------------------------------------------------------- what a client may send


class Sent(NamedTuple):
    """A frame, as a client sends it."""

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
    """The frames of a message, or, if the last is not final, of its beginning."""
    return [
        Sent(CONTINUATION if i else opcode, part, fin and i == len(parts) - 1, compressed and not i)
        for i, part in enumerate(parts)
    ]


class Compressor:
    """A client's compressor, on zlib alone."""

    def __init__(self, *, takeover: bool) -> None:
        self._takeover = takeover
        self._begin()

    def _begin(self) -> None:
        self._stream = zlib.compressobj(wbits=-9)

    def compress(self, pieces: Iterable[bytes], *, ends: bool) -> bytes:
        """The payload of a compressed message, flushed behind each of its pieces; or the stream ends with it."""
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
    """True now and then. (The ends of a range would come more often.)"""
    return st.integers(0, times).map(lambda number: number == times // 2)


ways = st.builds(Way, st.booleans(), st.sampled_from([None, *Link]), st.sampled_from([None, True, False]))
texts = st.one_of(st.text(max_size=8), st.text("a€𝄞é", min_size=2, max_size=8)).map(str.encode)
#: What is no UTF-8, wherever it stands, or becomes none by most of what may follow.
bad_utf8 = st.sampled_from(
    [b"\xff", b"\x80", b"\xc0\xaf", b"\xe2\x82", b"\xe0\x80", b"\xf4\x90", b"\xed\xa0\x80", b"\xf0\x90\x80"]
)
long = st.integers(MAX_SIZE - 2, MAX_SIZE + 2).map(bytes)
#: The payloads of messages: good ones, and those that are no text, or too long, or both.
good = st.one_of(texts, texts, st.just(bytes(MAX_SIZE)))
doubtful = st.one_of(st.binary(max_size=20), long, st.tuples(texts | long, bad_utf8, texts | long).map(b"".join))
control_payloads = st.one_of(st.binary(max_size=3), st.sampled_from([b"", b"there?", b"x" * 125]))
pings, pongs = control_payloads.map(partial(Sent, PING)), control_payloads.map(partial(Sent, PONG))
between = st.lists(st.one_of(pings, pings, pongs), max_size=1)
codes = st.sampled_from([1000, 1001, 1011, 3000, 4999, 0, 1005, 1006, 2999])
closes = st.one_of(
    st.tuples(codes.map(lambda code: code.to_bytes(2, "big")), st.one_of(texts, texts, bad_utf8)).map(b"".join),
    st.binary(max_size=1),
)
data_frames = st.sampled_from([TEXT, BINARY, CONTINUATION])
#: What ends a conversation, well or badly, or may do so where it stands.
endings = st.one_of(
    closes.map(partial(Sent, CLOSE)),
    closes.map(partial(Sent, CLOSE)),
    st.builds(Sent, data_frames, st.binary(max_size=5), st.booleans(), st.just(False)),
    st.builds(Sent, data_frames | st.just(PING), st.binary(max_size=9), st.booleans(), st.just(True)),
    st.sampled_from([Sent(PING, b"x" * 126), Sent(PONG, fin=False), Sent(CLOSE, b"\x03\xe8", fin=False), Sent(3)]),
)


@st.composite
def conversations(draw: st.DrawFn, way: Way) -> list[Sent]:
    """Messages, fragmented anyhow, with anything in between; now and then a frame is missing."""
    frames: list[Sent] = []
    # A client may remember what it has agreed to forget.
    compressor = Compressor(takeover=bool(way.takeover) ^ draw(once_in(6)))
    for _ in range(draw(st.integers(1, 4))):
        payload = draw(doubtful if draw(once_in(4)) else good)
        compressed = way.takeover is not None and draw(st.sampled_from([False, True, True]))
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


#: Changes of bytes: where, how many go, and what comes in their place.
mutations = st.lists(st.tuples(st.integers(0, 2**12), st.integers(0, 3), st.binary(max_size=3)), max_size=3)


@st.composite
def traffic(draw: st.DrawFn, way: Way) -> bytes:
    """Any bytes: conversations, spoiled here and there or not, and junk."""
    data = b"" if draw(once_in(10)) else wire_of(draw(conversations(way)))
    for place, removed, inserted in draw(mutations):
        place %= len(data) + 1
        data = data[:place] + inserted + data[place + removed :]
    return data + draw(st.binary(max_size=8))


@st.composite
def bad_texts(draw: st.DrawFn, way: Way) -> list[Sent]:
    """A text that hardly is UTF-8, fragmented anyhow, with pings in between; its end may be still to come."""
    payload = draw(texts) + draw(bad_utf8) + draw(st.binary(max_size=5))
    compressed = way.takeover is not None and draw(st.booleans())
    if compressed:
        pieces = cut(payload, draw(places(2)))
        payload = Compressor(takeover=False).compress(pieces, ends=draw(st.booleans()))
    parts = cut(payload, draw(places(MAX_FRAGMENTS - 1)))
    first, *more = message_frames(TEXT, parts, compressed=compressed, fin=draw(st.booleans()))
    return [first, *(sent for frame in more for sent in (*draw(between), frame))]


# ----------------------------------------------------------------------------------------- what it means


class End(Exception):
    """A connection has to be closed with a code, and with a reason; None stands for any."""

    def __init__(self, code: int, reason: str | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


#: What characters of UTF-8 begin with.
BEGINNINGS = {
    encoded[:size]
    for encoded in (chr(code).encode() for code in range(0, 0x110000, 64) if not 0xD800 <= code < 0xE000)
    for size in range(1, len(encoded))
}


class Model:
    """What frames mean by RFC 6455 and RFC 7692, one byte after the other: what is wrong first decides."""

    def __init__(self, way: Way) -> None:
        self._takeover = way.takeover
        self._inflater: zlib._Decompress | None = None
        # The message that is being put together:
        self._opcode: int | None = None
        self._compressed = False
        self._content = self._character = b""
        self._fragments = 0

    def hear(self, frame: Sent) -> str | bytes | Sent | None:
        """The message that a frame completes, or the frame that answers it, or None.

        Raises:
            End: it was the last that counts.
        """
        if frame.opcode in (CLOSE, PING, PONG):
            if not frame.fin or frame.compressed or len(frame.payload) > 125:
                raise End(1002)
            if frame.opcode == CLOSE:
                raise self._end(frame.payload)
            return Sent(PONG, frame.payload) if frame.opcode == PING else None
        if frame.opcode not in (TEXT, BINARY, CONTINUATION):
            raise End(1002)
        self._begin(frame)
        self._take(frame.payload)
        return self._message() if frame.fin else None

    def _end(self, payload: bytes) -> End:
        if not payload:
            return End(1005, "")
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code < 5000):
            return End(1002)
        try:
            return End(code, payload[2:].decode())
        except UnicodeDecodeError:
            return End(1007)

    def _begin(self, frame: Sent) -> None:
        """A fragment's header, by which it can be refused."""
        first = frame.opcode != CONTINUATION
        if first != (self._opcode is None) or (frame.compressed and (not first or self._takeover is None)):
            raise End(1002)
        if first:
            self._opcode, self._compressed = frame.opcode, frame.compressed
            self._content = self._character = b""
            self._fragments = 0
        self._fragments += 1
        if self._fragments > MAX_FRAGMENTS:
            raise End(1009)
        if not self._compressed and len(self._content) + len(frame.payload) > MAX_SIZE:
            raise End(1009)

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
            raise End(1009)

    def _check(self, byte: bytes) -> None:
        self._character += byte
        try:
            self._character.decode()
            self._character = b""
        except UnicodeDecodeError:
            if self._character not in BEGINNINGS:
                raise End(1007) from None

    def _inflate(self, data: bytes) -> bytes:
        self._inflater = self._inflater or zlib.decompressobj(-12)
        try:
            inflated = self._inflater.decompress(data)
        except zlib.error:
            raise End(1007, CORRUPT) from None
        if self._inflater.eof:  # what follows is a stream of its own
            self._inflater = None
        return inflated

    def _message(self) -> str | bytes:
        if self._compressed and self._inflater is not None:
            self._take(TAIL)  # all of it: if the stream ends within, the rest is no beginning of another
        if not self._takeover:
            self._inflater = None
        if self._character:
            raise End(1007)
        is_text, self._opcode = self._opcode == TEXT, None
        return self._content.decode() if is_text else self._content


def predict(way: Way, turns: Iterable[Iterable[Sent]]) -> tuple[list[Heard], End | None]:
    """What comes of frames, turn by turn until the end, if every ping is answered; and that end."""
    model, heard = Model(way), list[Heard]()
    try:
        for turn in turns:
            heard.append(Heard([], []))
            for frame in turn:
                what = model.hear(frame)
                if isinstance(what, Sent):
                    heard[-1].frames.append((what.opcode, what.payload))
                elif what is not None:
                    heard[-1].messages.append(what)
    except End as end:
        return heard, end
    return heard, None


# ------------------------------------------------------------------------------------------ what is promised


def assert_hears(heard: Heard, expected: Heard, *, all_echoes: bool) -> None:
    """The messages are the expected ones and come back; pongs answer the expected pings, the last in any case."""
    assert heard.messages == expected.messages
    echoes = heard.echoes
    assert echoes == expected.messages[: None if all_echoes else len(echoes)]
    # Of pings that came together only the last has to be answered (RFC 6455, section 5.5.3).
    pings, pongs = expected.of_kind(PONG), heard.of_kind(PONG)
    left = iter(pings)
    assert all(pong in left for pong in pongs)
    assert pongs[-1:] == pings[-1:]


def is_same_end(one: tuple[int, str] | None, other: tuple[int, str] | None) -> bool:
    """Whether two ends are the same.

    What is corrupt may be no UTF-8 or too long besides, right in front of where it is corrupt: then zlib tells
    of the one or of the other, as the reads come.
    """
    if one is None or other is None:
        return one is other
    return one == other or (CORRUPT in (one[1], other[1]) and {one[0], other[0]} <= {1007, 1009})


@settings(deadline=None, max_examples=100)
@given(data=st.data(), way=ways, at=places(12))
def test_any_split_of_any_bytes(data: st.DataObject, way: Way, at: list[int]) -> None:
    """However the bytes of a connection are split into reads, both sides hear the same, and the same end."""
    sent = data.draw(traffic(way), "sent")
    slowly = run(way, [HEAD, *(sent[i : i + 1] for i in range(len(sent)))])
    assert_hears(slowly.whole, slowly.whole, all_echoes=True)

    for reads in ([HEAD + sent], cut(HEAD + sent, at)):
        talk = run(way, reads)
        # The replies of a coroutine do not hold up an end that has come already.
        assert_hears(talk.whole, slowly.whole, all_echoes=way.hook or talk.end is None)
        assert is_same_end(talk.end, slowly.end)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), way=ways, at=places(6))
def test_any_mix_of_frames(data: st.DataObject, way: Way, at: list[int]) -> None:
    """Any mix of frames is delivered, answered and refused as the RFCs say, each as soon as it has come."""
    turns = cut(data.draw(conversations(way), "frames"), at)
    expected, end = predict(way, turns)
    talk = run(way, [HEAD, *map(wire_of, turns)])

    for i, heard in enumerate(talk.turns[1:]):
        ends = end is not None and i == len(expected) - 1
        if i < len(expected):
            assert_hears(heard, expected[i], all_echoes=way.hook or not ends)
            assert len(heard.of_kind(CLOSE)) == ends
        else:
            assert heard == Heard([], [])
    if end is None:
        assert talk.end is None
    else:
        assert talk.end is not None
        reason = talk.end[1]
        assert reason or end.reason == ""
        assert is_same_end(talk.end, (end.code, reason if end.reason is None else end.reason))


def needed(way: Way, frames: list[Sent]) -> int | None:
    """How many bytes of a message's frames it takes to know that its text is bad; None if it is not."""
    size = 0
    for i, frame in enumerate(frames):
        for end in range(len(frame.payload) + 1) if frame.opcode in (TEXT, CONTINUATION) else ():
            cut_off = frame._replace(payload=frame.payload[:end], fin=False)
            _, failure = predict(way, [[*frames[:i], frame if end == len(frame.payload) else cut_off]])
            if failure is not None:
                assert failure.code == 1007
                return size + len(frame.wire) - len(frame.payload) + end
        size += len(frame.wire)
    return None


@settings(deadline=None, max_examples=100)
@given(data=st.data(), way=ways, at=places(6))
def test_bad_text_is_refused_as_it_arrives(data: st.DataObject, way: Way, at: list[int]) -> None:
    """A text that is not UTF-8 is closed with 1007 at its first bad byte, whatever was still to come."""
    frames = data.draw(bad_texts(way), "frames")
    size = needed(way, frames)
    if size is None:
        reject()
    wire = wire_of(frames)
    talk = run(way, [HEAD, *cut(wire[: size - 1], at), wire[size - 1 : size]])

    *before, last = talk.turns
    assert not any(turn.of_kind(CLOSE) for turn in before)
    assert len(last.of_kind(CLOSE)) == 1
    assert talk.whole.messages == []
    assert talk.end is not None
    assert talk.end[0] == 1007
