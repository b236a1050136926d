"""Frames that arrive in any reads: the same messages, within the memory that has arrived, in linear time."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio import App, Message, WebsocketStream, websocket_handler
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol import _mask
from humphrey_trio._websocket._protocol._decoder import (
    Close,
    Decoder,
    Event,
    Failure,
    FrameWithoutMessage,
    Ping,
    Pong,
)
from humphrey_trio.testing import memory_connection
from tests.support import PATIENCE
from tests.support.reads import cut, events_of, failure_code
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
    request_bytes,
    split_frames,
)

MAX_SIZE, MAX_FRAGMENTS = 150_000, 6
LIMITS = StreamLimits(max_message_size=MAX_SIZE, max_fragments=MAX_FRAGMENTS)
MEBIBYTE = 2**20


@pytest.fixture(params=["with the extra", "without the extra"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled code that the tests have, and without."""
    if request.param == "without the extra":
        monkeypatch.setattr(_mask, "compiled", None)


# ------------------------------------------------------------------------------- a model of RFC 6455


class Sent(NamedTuple):
    """A frame of a client, valid or not."""

    opcode: int
    payload: bytes
    fin: bool
    masked: bool = True
    rsv: int = 0

    @property
    def wire(self) -> bytes:
        if self.masked:
            return client_frame(self.opcode, self.payload, fin=self.fin, rsv=self.rsv)
        frame = client_frame(self.opcode, b"", fin=self.fin, rsv=self.rsv)
        return frame[:1] + bytes((min(len(self.payload), 125),)) + self.payload


class Failed(NamedTuple):
    """The connection is failed with this code."""

    code: int


def expected(frames: list[Sent]) -> list[Event | Failed]:
    """The events of some frames, by the rules of RFC 6455 and the limits. It knows nothing of bytes and reads."""
    events: list[Event | Failed] = []
    kind: int | None = None
    content, fragments = b"", 0
    for frame in frames:
        known = frame.opcode in (TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG)
        if not known or frame.rsv or not frame.masked:  # sections 5.1 and 5.2
            return [*events, Failed(1002)]
        if frame.opcode >= CLOSE:
            if not frame.fin or len(frame.payload) > 125:  # section 5.5
                return [*events, Failed(1002)]
            events.append(control_event(frame))
            if isinstance(events[-1], Close | Failed):
                return events
            continue
        if (frame.opcode == CONTINUATION) != (kind is not None):  # section 5.4
            return [*events, Failed(1002)]
        kind = frame.opcode if kind is None else kind
        fragments += 1
        if len(content) + len(frame.payload) > MAX_SIZE or fragments > MAX_FRAGMENTS:
            return [*events, Failed(1009)]
        content += frame.payload
        if kind == TEXT and not is_text(content, complete=frame.fin):  # section 8.1
            return [*events, Failed(1007)]
        if frame.fin:
            events.append(Message(content.decode() if kind == TEXT else content))
            kind, content, fragments = None, b"", 0
    return events


def control_event(frame: Sent) -> Event | Failed:
    if frame.opcode == PING:
        return Ping(frame.payload)
    if frame.opcode == PONG:
        return Pong(frame.payload)
    code = int.from_bytes(frame.payload[:2], "big")
    return Close(code, frame.payload[2:].decode()) if frame.payload else Close(1005, "")


def is_text(data: bytes, *, complete: bool) -> bool:
    """Whether bytes are UTF-8, or its beginning: then some bytes can be added so that they are."""
    endings = (
        [b""] if complete else [b"", *(bytes((first,)) + rest for first in (0x80, 0x90, 0xA0) for rest in TAILS)]
    )
    return any(decodes(data[-8:] if len(data) > 8 and decodes(data[:-8]) else data, ending) for ending in endings)


TAILS = (b"", b"\x80", b"\x80\x80")


def decodes(data: bytes, ending: bytes = b"") -> bool:
    try:
        (data + ending).decode()
    except UnicodeDecodeError:
        return False
    return True


# Around the sizes at which a header, or the way of unmasking, changes.
sizes = st.one_of(
    st.integers(0, 10), st.sampled_from([125, 126, 127, 200, 201, 801, 4096, 65535, 65536, 70_000, MAX_SIZE])
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    unit = draw(st.sampled_from([b"a", b"\r\n", "é".encode(), "€".encode(), "\U0001d11e".encode(), b"\0\xff"]))
    size = draw(sizes)
    return (unit * (size // len(unit) + 1))[:size]


def rarely(strategy: st.SearchStrategy[int], usual: int) -> st.SearchStrategy[int]:
    return st.integers(0, 40).flatmap(lambda chance: strategy if chance == 1 else st.just(usual))


@st.composite
def scripts(draw: st.DrawFn) -> list[Sent]:
    """Frames of a client that mostly follows the rules."""
    frames: list[Sent] = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from([TEXT, BINARY]))
        parts = cut(draw(contents()), draw(st.lists(st.integers(0, MAX_SIZE), max_size=3)))
        for i, part in enumerate(parts):
            if draw(st.integers(0, 4)) == 0:
                opcode = draw(st.sampled_from([PING, PONG, PING, PONG, CLOSE]))
                reason = b"\x03\xe8" + b"bye" if opcode == CLOSE else b"p" * draw(rarely(st.just(126), 3))
                frames.append(Sent(opcode, reason, bool(draw(rarely(st.just(0), 1)))))
            frames.append(
                Sent(
                    draw(rarely(st.integers(0, 15), CONTINUATION if i else kind)),
                    part,
                    i == len(parts) - 1,
                    bool(draw(rarely(st.just(0), 1))),
                    draw(rarely(st.integers(1, 7), 0)),
                )
            )
    return frames


def closes_as(event: Event) -> Event | Failed:
    return Failed(event.code) if isinstance(event, Failure) else event


def decoded(reads: list[bytes]) -> list[Event | Failed]:
    return [closes_as(event) for event in events_of(Decoder(LIMITS), *reads)]


def valid_close(frame: Sent) -> bool:
    return frame.opcode != CLOSE or (decodes(frame.payload[2:]) and frame.payload[:2] in (b"", b"\x03\xe8"))


@given(frames=scripts(), places=st.lists(st.integers(0, 2**20), max_size=12))
@settings(max_examples=400, deadline=None)
def test_any_frames_in_any_reads(frames: list[Sent], places: list[int]) -> None:
    """Any frames in any reads are the messages, control frames and close code that the rules say."""
    frames = [frame for frame in frames if valid_close(frame)]
    wire = b"".join(frame.wire for frame in frames)
    assert decoded(cut(wire, places)) == expected(frames)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 201, 800, 801, 65535, 65536, 70_001])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_each_cut_of_a_frame(size: int, kind: int) -> None:
    """A frame is the same message wherever it is cut in two, and so is the frame after it."""
    payload = "aé€\U0001d11e\n".encode() * (size // 11 + 1)
    payload = payload[:size].decode(errors="ignore").encode()
    wire = client_frame(kind, payload) * 2
    message = Message(payload.decode() if kind == TEXT else payload)
    header = len(wire) // 2 - len(payload)
    for place in (*range(header + 3), len(wire) // 2 - 1, *range(len(wire) // 2, len(wire) // 2 + header + 3)):
        assert events_of(Decoder(LIMITS), wire[:place], wire[place:]) == [message, message]


def headers() -> Iterator[tuple[bytes, int]]:
    """All headers by their first two bytes, with a length that fits; and the code that they fail with, or 0."""
    for first in range(256):
        for second in range(256):
            opcode, size = first & 0x0F, second & 0x7F
            invalid = (
                first & 0x70  # reserved bits
                or opcode not in (TEXT, BINARY, CLOSE, PING, PONG)  # CONTINUATION continues nothing
                or second < 0x80  # not masked
                or (opcode >= CLOSE and (size > 125 or first < 0x80))
            )
            length = {126: (126).to_bytes(2, "big"), 127: (65536).to_bytes(8, "big")}.get(size, b"")
            yield bytes((first, second)) + length + b"mask", 1002 if invalid else 0


def test_all_headers() -> None:
    """Each first two bytes are accepted or refused as RFC 6455, section 5.2, says."""
    for header, code in headers():
        # Its payload does not follow, so a valid frame that has one is no event yet.
        events = [event for event in events_of(Decoder(LIMITS), header) if isinstance(event, Failure)]
        assert [event.code for event in events] == ([code] if code else [])


@pytest.mark.parametrize(
    "header",
    [
        bytes((0x82, 0xFE)) + (125).to_bytes(2, "big"),
        bytes((0x82, 0xFF)) + (65535).to_bytes(8, "big"),
        bytes((0x82, 0xFF)) + (2**63).to_bytes(8, "big"),
    ],
)
def test_lengths_that_are_not_minimal(header: bytes) -> None:
    """A length in more bytes than it needs, or with its first bit set, fails the connection, in any reads."""
    for place in range(len(header) + 5):
        data = header + b"mask"
        assert failure_code(events_of(Decoder(LIMITS), data[:place], data[place:])) == 1002


@pytest.mark.parametrize("size", [1000, 70_000])
def test_text_is_refused_at_its_byte(size: int) -> None:
    """An invalid byte in a long text fails the connection with the read that contains it."""
    for bad in (0, 1, size // 2, size - 1):
        wire = client_frame(TEXT, b"a" * bad + b"\xff" + b"a" * (size - bad - 1))
        decoder, header = Decoder(LIMITS), len(wire) - size
        ends = [0, *range(header, header + bad, 997), header + bad, header + bad + 1]
        *before, last = [events_of(decoder, wire[start:end]) for start, end in pairwise(sorted(set(ends)))]
        assert not any(before)
        assert failure_code(last) == 1007


# ------------------------------------------------------------------------------------------- memory


def peak_of(reads: list[bytes], limits: StreamLimits) -> int:
    """The most memory that a decoder uses for some reads, beside the reads."""
    decoder = Decoder(limits)
    tracemalloc.start()
    try:
        for data in reads:
            decoder.receive(data)
            while decoder.next() is not None:
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_a_header_allocates_nothing(kind: int) -> None:
    """A header that announces 10 MiB, with one byte of them, uses a few hundred bytes of memory."""
    wire = client_frame(kind, bytes(10 * MEBIBYTE))[:15]
    assert peak_of([wire], StreamLimits(max_message_size=16 * MEBIBYTE)) < 20_000


@pytest.mark.parametrize("kind", [TEXT, BINARY])
@pytest.mark.parametrize("read", [1000, 65_536])
def test_memory_is_in_proportion_to_what_has_arrived(kind: int, read: int) -> None:
    """An incomplete message uses at most about twice the memory of the bytes that have arrived."""
    wire = client_frame(kind, b"a" * (10 * MEBIBYTE))[:MEBIBYTE]
    reads = [wire[start : start + read] for start in range(0, len(wire), read)]
    assert peak_of(reads, StreamLimits(max_message_size=16 * MEBIBYTE)) < 2.5 * MEBIBYTE


@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_tiny_parts_use_no_memory_each(kind: int) -> None:
    """A message that arrives two bytes at a time uses no more memory than one that arrives at once."""
    wire = client_frame(kind, "é".encode() * 50_000)
    reads = [wire[start : start + 2] for start in range(0, len(wire), 2)]
    assert peak_of(reads, LIMITS) < 500_000


# -------------------------------------------------------------------------------- what is received at once


async def receive_sizes(payload: bytes) -> list[int]:
    """How many bytes a server asks for in each receive while a client sends a message."""
    asked: list[int] = []

    async def echo(stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await stream.send(message)

    client, server = memory_connection(2 * MEBIBYTE)
    receive = server.receive_nowait

    def receive_nowait(max_bytes: int) -> bytes:
        data = receive(max_bytes)
        asked.append(max_bytes)
        return data

    server.receive_nowait = receive_nowait  # type: ignore[method-assign]
    app = App().with_websocket_route("/", websocket_handler(echo))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.serve_stream, server)
            await client.send_all(request_bytes("GET / HTTP/1.1"))
            received = b""
            while b"\r\n\r\n" not in received:
                received += await client.receive_some()
            asked.clear()
            nursery.start_soon(client.send_all, client_frame(BINARY, payload))
            received = b""
            while split_frames(received)[0] != [(BINARY, payload)]:
                received += await client.receive_some()
            sizes = asked[:]
            await client.aclose()
            nursery.cancel_scope.cancel()
    return sizes


async def test_a_message_of_64_kib_fits_into_one_receive() -> None:
    """A receive has room for 64 KiB and the header of a frame, so such a message needs no second wait."""
    (size,) = await receive_sizes(random.Random(0).randbytes(2**16))
    assert size >= 2**16 + 14


async def test_a_long_frame_is_received_in_larger_pieces() -> None:
    """The server asks for what is missing of a long frame, up to 256 KiB at once."""
    first, *others = await receive_sizes(random.Random(0).randbytes(MEBIBYTE))
    assert first < 2**17
    assert set(others[:-1]) == {2**18}


def test_missing_bytes() -> None:
    """The decoder reports how many bytes of the current frame have not arrived."""
    decoder, wire = Decoder(LIMITS), client_frame(BINARY, bytes(100_000))
    assert decoder.missing == 0
    decoder.receive(wire[:50_014])
    assert isinstance(decoder.next(), FrameWithoutMessage)
    assert decoder.next() is None
    assert decoder.missing == 50_000
    decoder.receive(wire[50_014:])
    assert decoder.next() == Message(bytes(100_000))
    assert decoder.missing == 0
