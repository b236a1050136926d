"""The codec of WebSocket frames: the events of the decoder, and the bytes of the encoders."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._testing._websocket_codec import ClientEncoder
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._message import Sendable
from humphrey_trio._websocket._protocol._decoder import Close, Decoder, Event, Failure, Ping, Pong
from humphrey_trio._websocket._protocol._encoder import (
    EMPTY_CLOSE,
    encode_close,
    encode_message,
    encode_ping,
    encode_pong,
    payload_of,
)
from humphrey_trio.websocket import Message
from tests.support.reads import cut, events_of, failure_code, one_by_one
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    split_frames,
)


def decode(*reads: bytes, limits: StreamLimits | None = None) -> list[Event]:
    """The events of a new decoder for some reads."""
    return events_of(Decoder(limits or StreamLimits()), *reads)


# ---------------------------------------------------------------------------------------------- messages

MASK = "69 69 69 69"
#: Frames that a client has sent, and what they say.
VECTORS = {
    "text": (f"81 85 {MASK} 01 0C 05 05 06", Message("hello")),
    "two fragments": (f"01 86 {MASK} 01 0C 05 05 06 49  80 85 {MASK} 1E 06 1B 05 0D", Message("hello world")),
    "256 bytes": (f"81 FE 01 00 {MASK}" + "11" * 256, Message("x" * 256)),
    "65536 bytes": (f"81 FF 00 00 00 00 00 01 00 00 {MASK}" + "11" * 65536, Message("x" * 65536)),
    "empty text": (f"81 80 {MASK}", Message("")),
    "binary": (f"82 82 {MASK} 68 96", Message(b"\x01\xff")),
    "empty binary": (f"82 80 {MASK}", Message(b"")),
    # RFC 6455, section 5.7.
    "text of the RFC": ("81 85 37 fa 21 3d 7f 9f 4d 51 58", Message("Hello")),
    "ping": (f"89 83 {MASK} 08 0B 0A", Ping(b"abc")),
    "empty ping": (f"89 80 {MASK}", Ping(b"")),
    "pong": (f"8A 83 {MASK} 08 0B 0A", Pong(b"abc")),
    "close": (f"88 85 {MASK} 6A 81 0B 10 0C", Close(1000, "bye")),
    "close without a code": (f"88 80 {MASK}", Close(1005, "")),
}


@pytest.mark.parametrize(("frames", "event"), VECTORS.values(), ids=VECTORS)
def test_frames_of_the_rfc(frames: str, event: Event) -> None:
    """Frames of a client are decoded as in RFC 6455, in one read and byte by byte."""
    data = bytes.fromhex(frames)

    assert decode(data) == [event]
    assert decode(*one_by_one(data)) == [event]


def test_decoder_of_a_client() -> None:
    """The decoder of a client accepts frames without a mask, and refuses masked ones."""
    limits = StreamLimits()
    fragments = bytes.fromhex("01 03 48 65 6c  80 02 6c 6f")  # RFC 6455, section 5.7

    assert events_of(Decoder(limits, client=True), fragments) == [Message("Hello")]
    assert failure_code(events_of(Decoder(limits, client=True), client_frame(TEXT, b"Hello"))) == 1002


def test_control_frames_between_fragments() -> None:
    """Control frames between the fragments of a message are events, and do not change the message."""
    data = (
        client_frame(TEXT, b"hel", fin=False)
        + client_frame(PING, b"P")
        + client_frame(CONTINUATION, b"", fin=False)
        + client_frame(PONG, b"Q")
        + client_frame(CONTINUATION, b"lo")
    )

    assert decode(data) == [Ping(b"P"), Pong(b"Q"), Message("hello")]


def test_close_between_fragments() -> None:
    """A Close between fragments ends the connection; the message is not delivered."""
    data = client_frame(TEXT, b"hel", fin=False) + close_frame(1001) + client_frame(CONTINUATION, b"lo")

    assert decode(data) == [Close(1001, "")]


@pytest.mark.parametrize("kind", [TEXT, BINARY])
@pytest.mark.parametrize(
    "fragments", [(b"", b"hello"), (b"hel", b"", b"lo"), (b"hello", b""), (b"", b"", b""), (b"h", b"e", b"y")]
)
def test_opcode_of_a_fragmented_message(kind: int, fragments: tuple[bytes, ...]) -> None:
    """A fragmented message has the opcode of its first frame, even if fragments are empty."""
    *first, last = fragments
    frames = [client_frame(CONTINUATION if i else kind, part, fin=False) for i, part in enumerate(first)]
    whole = b"".join(fragments)

    events = decode(*frames, client_frame(CONTINUATION, last))

    assert events == [Message(whole.decode() if kind == TEXT else whole)]


@pytest.mark.parametrize("text", ["€", "a€b", "𝄞𝄞", "é" * 100])
def test_code_point_split_between_fragments(text: str) -> None:
    """A code point may be split between fragments and reads."""
    payload = text.encode()
    single = [
        client_frame(CONTINUATION if i else TEXT, bytes((byte,)), fin=False) for i, byte in enumerate(payload)
    ]

    assert decode(*single, client_frame(CONTINUATION)) == [Message(text)]
    assert decode(*one_by_one(client_frame(TEXT, payload))) == [Message(text)]


def test_two_fragmented_messages() -> None:
    """A fragmented message does not change the next one."""
    first = client_frame(BINARY, b"\xff", fin=False) + client_frame(CONTINUATION, b"\xff")
    second = client_frame(TEXT, b"a", fin=False) + client_frame(CONTINUATION, b"b")

    assert decode((first + second) * 2) == [Message(b"\xff\xff"), Message("ab")] * 2


# -------------------------------------------------------------------------------- text that is not UTF-8

#: What was good so far, and the byte at which it cannot become UTF-8 any more.
BAD_UTF8 = [
    (b"", b"\xff"),
    (b"", b"\xc0"),
    (b"", b"\x80"),
    (b"good \xe2\x82", b"\x28"),
    (b"\xe0", b"\x80"),
    (b"\xf4", b"\x90"),
    (b"\xf0\x90\x80", b"a"),
    (b"\xed", b"\xa0"),
]


@pytest.mark.parametrize(("good", "bad"), BAD_UTF8)
def test_invalid_utf8_is_refused_at_its_byte(good: bytes, bad: bytes) -> None:
    """A text that is not UTF-8 is refused with 1007 at its first invalid byte, before the rest of the frame."""
    frame = client_frame(TEXT, good + bad + b"more" * 10)
    header = len(frame) - len(good + bad) - 40
    decoder = Decoder(StreamLimits())

    assert events_of(decoder, frame[: header + len(good)]) == []
    assert failure_code(events_of(decoder, frame[header + len(good) :][:1])) == 1007


@pytest.mark.parametrize(("good", "bad"), BAD_UTF8)
def test_invalid_utf8_in_fragments(good: bytes, bad: bytes) -> None:
    """A fragmented text is refused at its first invalid fragment, wherever it is split."""
    decoder = Decoder(StreamLimits())

    assert events_of(decoder, client_frame(TEXT, good, fin=False)) == []
    assert failure_code(events_of(decoder, client_frame(CONTINUATION, bad, fin=False))) == 1007


@pytest.mark.parametrize("fragments", [(b"\xe2\x82",), (b"\xe2", b"\x82"), (b"ok\xf0\x90\x80", b"")])
def test_text_that_ends_in_a_code_point(fragments: tuple[bytes, ...]) -> None:
    """A text message that ends within a code point is refused with 1007."""
    frames = [
        client_frame(CONTINUATION if i else TEXT, part, fin=i == len(fragments) - 1)
        for i, part in enumerate(fragments)
    ]

    assert failure_code(decode(b"".join(frames))) == 1007


def test_binary_messages_are_not_validated() -> None:
    """A binary message may contain any bytes."""
    assert decode(client_frame(BINARY, b"\xff\xc0")) == [Message(b"\xff\xc0")]


# --------------------------------------------------------------------------------------- invalid frames

BROKEN = {
    "no mask": b"\x81\x02hi",
    "no mask, empty": b"\x81\x00",
    "first reserved bit": client_frame(TEXT, b"hi", rsv=0b100),
    "second reserved bit": client_frame(TEXT, b"hi", rsv=0b010),
    "third reserved bit": client_frame(TEXT, b"hi", rsv=0b001),
    "reserved bit of a ping": client_frame(PING, rsv=0b100),
    **{
        f"reserved opcode {opcode:#x}": client_frame(opcode) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)
    },
    "fragmented ping": client_frame(PING, b"P", fin=False),
    "fragmented close": client_frame(CLOSE, fin=False),
    "ping of 126 bytes": client_frame(PING, b"P" * 126),
    "pong of 70000 bytes": client_frame(PONG, b"P" * 70000),
    "close of 126 bytes": close_frame(1000, "x" * 124),
    "lone continuation": client_frame(CONTINUATION, b"hi"),
    "lone continuation, not final": client_frame(CONTINUATION, b"hi", fin=False),
    "second continuation behind the last": client_frame(TEXT, b"", fin=False)
    + client_frame(CONTINUATION, b"", fin=False)
    + client_frame(TEXT),
    "message inside a message": client_frame(TEXT, b"hel", fin=False) + client_frame(BINARY, b"lo"),
    "125 bytes in a length of 16 bits": b"\x81\xfe\x00\x7d" + bytes(4 + 125),
    "65535 bytes in a length of 64 bits": b"\x81\xff" + (65535).to_bytes(8, "big") + bytes(4),
    "length beyond 63 bits": b"\x81\xff" + b"\xff" * 8 + bytes(4),
    "junk": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_protocol_errors(data: bytes) -> None:
    """Frames that violate the protocol are refused with 1002, and nothing of them is delivered."""
    assert failure_code(decode(data)) == 1002
    assert failure_code(decode(*one_by_one(data))) == 1002


@pytest.mark.parametrize("bad", [b"\x81\x02hi", client_frame(TEXT, b"\xff"), client_frame(CLOSE, b"\x03")])
def test_messages_before_a_protocol_error(bad: bytes) -> None:
    """Messages before an invalid frame are delivered, even if they arrive in the same read."""
    good = client_frame(TEXT, b"one") + client_frame(PING, b"two") + client_frame(BINARY, b"three")

    *events, failure = decode(good + bad)

    assert events == [Message("one"), Ping(b"two"), Message(b"three")]
    assert isinstance(failure, Failure)


# ------------------------------------------------------------------------------------------------ Close

VALID_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3001, 3999, 4000, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", VALID_CODES)
def test_valid_close_codes(code: int) -> None:
    """A Close may have a code of the RFC, of its registry, or from 3000 to 4999, in both directions."""
    assert decode(close_frame(code, "why")) == [Close(code, "why")]
    assert split_frames(encode_close(code, "why")) == ([(CLOSE, code.to_bytes(2, "big") + b"why")], b"")


@pytest.mark.parametrize("reason", ["", "why"])
@pytest.mark.parametrize("code", INVALID_CODES)
def test_invalid_close_codes(code: int, reason: str) -> None:
    """Any other close code is refused with 1002, and sending it is a ValueError that says what to use."""
    assert failure_code(decode(close_frame(code, reason))) == 1002
    with pytest.raises(ValueError, match="3000 to 4999"):
        encode_close(code, reason)


def test_close_of_one_byte() -> None:
    """A Close with a payload of one byte is refused with 1002."""
    assert failure_code(decode(client_frame(CLOSE, b"\x03"))) == 1002


@pytest.mark.parametrize("reason", [b"\xff", b"bye \xe2\x82"])
def test_close_reason_that_is_not_utf8(reason: bytes) -> None:
    """A Close whose reason is not UTF-8 is refused with 1007."""
    assert failure_code(decode(client_frame(CLOSE, b"\x03\xe8" + reason))) == 1007


ENDS = {
    "close": close_frame(1000),
    "bad close": close_frame(999),
    "bad frame": b"\x81\x00",
    "bad text": client_frame(TEXT, b"\xff"),
    "oversized": b"\x82\xff" + (2**62).to_bytes(8, "big") + bytes(4),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_no_event_after_the_end(end: bytes) -> None:
    """After a Close or a failure there are no events, in the same read and in later ones."""
    decoder = Decoder(StreamLimits())
    (last,) = events_of(decoder, end + client_frame(TEXT, b"more"))

    assert isinstance(last, (Close, Failure))
    assert events_of(decoder, client_frame(TEXT, b"more"), b"\x81\x00", close_frame(1001)) == []


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_bytes_after_the_end_are_discarded(end: bytes) -> None:
    """Bytes after a Close or a failure are discarded: 16 MiB of them use no memory."""
    decoder = Decoder(StreamLimits())
    events_of(decoder, end)
    mebibyte = bytes(2**20)
    tracemalloc.start()
    try:
        for _ in range(16):
            decoder.receive(mebibyte)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 2**16


# ----------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("size", [2**20 + 1, 2**62, 2**63 - 1])
def test_declared_length_above_the_limit(size: int) -> None:
    """A frame that declares more than the limit is refused with 1009 from its header alone."""
    header = b"\x82\xff" + size.to_bytes(8, "big") + bytes(4)

    assert decode(header[:-1]) == []
    assert failure_code(decode(header)) == 1009


def test_declared_length_includes_earlier_fragments() -> None:
    """A fragment that declares more than is left of the limit is refused from its header alone."""
    limits = StreamLimits(max_message_size=10)
    header = client_frame(CONTINUATION, b"x" * 5)[:6]

    assert failure_code(decode(client_frame(TEXT, b"x" * 6, fin=False), header, limits=limits)) == 1009


@pytest.mark.parametrize("sizes", [(11,), (10, 1), (4, 4, 3), (0, 11)], ids=str)
def test_message_limit(sizes: tuple[int, ...]) -> None:
    """A message is refused with 1009 if its fragments together are longer than the limit."""
    frames = [client_frame(CONTINUATION if i else BINARY, bytes(n), fin=False) for i, n in enumerate(sizes)]

    assert failure_code(decode(*frames, limits=StreamLimits(max_message_size=10))) == 1009


@pytest.mark.parametrize("sizes", [(10,), (5, 5), (0, 10, 0)], ids=str)
def test_message_at_the_limit(sizes: tuple[int, ...]) -> None:
    """A message of exactly the limit is accepted, and the next one counts from zero."""
    frames = [client_frame(CONTINUATION if i else BINARY, bytes(n), fin=False) for i, n in enumerate(sizes)]
    message = b"".join([*frames, client_frame(CONTINUATION)])

    assert decode(message * 2, limits=StreamLimits(max_message_size=10)) == [Message(bytes(10))] * 2


def test_text_limit_is_in_bytes() -> None:
    """The limit of a text counts bytes, not characters."""
    limits = StreamLimits(max_message_size=5)

    assert failure_code(decode(client_frame(TEXT, "€€".encode()), limits=limits)) == 1009


def test_fragment_limit() -> None:
    """A message of more fragments than the limit is refused with 1009, even if they are empty."""
    limits = StreamLimits(max_fragments=3)
    begin, more = client_frame(TEXT, fin=False), client_frame(CONTINUATION, fin=False)

    assert decode((begin + more + client_frame(CONTINUATION)) * 2, limits=limits) == [Message("")] * 2
    assert failure_code(decode(begin + more * 2 + client_frame(CONTINUATION), limits=limits)) == 1009


def test_limits_exclude_control_frames() -> None:
    """Control frames between fragments count neither as fragments nor as size."""
    limits = StreamLimits(max_message_size=2, max_fragments=2)
    pings = client_frame(PING, b"x" * 125) * 10
    data = client_frame(TEXT, b"a", fin=False) + pings + client_frame(CONTINUATION, b"b")

    assert decode(data, limits=limits) == [*[Ping(b"x" * 125)] * 10, Message("ab")]


def test_limits_set_before_the_first_frame() -> None:
    """Limits that are set before the first frame apply to it."""
    decoder = Decoder(StreamLimits())
    decoder.receive(client_frame(TEXT, b"hello"))
    decoder.limit(StreamLimits(max_message_size=4))

    assert failure_code(events_of(decoder, b"")) == 1009


# -------------------------------------------------------------------------------------------- any reads

payloads = st.one_of(
    st.binary(max_size=30),
    st.text(max_size=10).map(str.encode),
    st.sampled_from([b"\xff", b"\xe2\x82", b"\xac", b"\x03\xe8", b"\x03\xe8bye", b"\x03", b"x" * 126]),
)
#: Frames of any opcode, with and without their last bit, some of them bad.
frames = st.builds(
    client_frame,
    st.sampled_from([TEXT, CONTINUATION, CONTINUATION, BINARY, PING, PONG, CLOSE, 3]),
    payloads,
    fin=st.booleans(),
    rsv=st.sampled_from([0] * 20 + [4]),
)
#: What a peer may send: frames, with junk here and there.
traffic = st.lists(st.one_of(frames, frames, frames, st.binary(max_size=6)), max_size=8).map(b"".join)


@settings(deadline=None)
@given(data=traffic, places=st.lists(st.integers(0, 2**16), max_size=12))
def test_any_bytes_in_any_reads(data: bytes, places: list[int]) -> None:
    """Any bytes, valid or not, result in the same events in any reads."""
    limits = StreamLimits(max_message_size=40, max_fragments=3)
    events = decode(data, limits=limits)

    assert decode(*cut(data, places), limits=limits) == events
    assert decode(*one_by_one(data), limits=limits) == events


controls = st.one_of(st.builds(Ping, st.binary(max_size=125)), st.builds(Pong, st.binary(max_size=125)))


@st.composite
def messages_and_events(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """Valid messages in any fragmentation, with control frames in between, and their events."""
    data, events = b"", list[Event]()
    for message in draw(st.lists(st.one_of(st.text(), st.binary()), max_size=4)):
        whole = message if isinstance(message, bytes) else message.encode()
        parts = cut(whole, draw(st.lists(st.integers(0, 2**16), max_size=4)))
        for i, part in enumerate(parts):
            kind = CONTINUATION if i else TEXT if isinstance(message, str) else BINARY
            data += client_frame(kind, part, fin=i == len(parts) - 1)
            if i < len(parts) - 1 and draw(st.booleans()):
                control = draw(controls)
                data += client_frame(PING if isinstance(control, Ping) else PONG, control.payload)
                events.append(control)
        events.append(Message(message))
    return data, events


@settings(deadline=None)
@given(conversation=messages_and_events(), places=st.lists(st.integers(0, 2**16), max_size=12))
def test_any_fragmentation(conversation: tuple[bytes, list[Event]], places: list[int]) -> None:
    """Valid messages are decoded in any fragmentation and any reads."""
    data, events = conversation

    assert decode(*cut(data, places)) == events


# ---------------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize(
    ("encoded", "frame"),
    [
        (encode_message("hello world"), "81 0B" + b"hello world".hex()),
        (encode_message("€"), "81 03 e2 82 ac"),
        (encode_message(b"\x00\xff"), "82 02 00 ff"),
        (encode_message(""), "81 00"),
        (encode_message(b""), "82 00"),
        (encode_message(b"x" * 125), "82 7d" + "78" * 125),
        (encode_message(b"x" * 126), "82 7e 00 7e" + "78" * 126),
        (encode_message(b"x" * 256), "82 7e 01 00" + "78" * 256),
        (encode_message(b"x" * 65535), "82 7e ff ff" + "78" * 65535),
        (encode_message("x" * 65536), "81 7f 00 00 00 00 00 01 00 00" + "78" * 65536),
        (encode_ping(b""), "89 00"),
        (encode_ping(b"abc"), "89 03 61 62 63"),
        (encode_ping(b"x" * 125), "89 7d" + "78" * 125),
        (encode_pong(b"abc"), "8A 03 61 62 63"),
        (encode_close(1000), "88 02 03 e8"),
        (encode_close(1000, "bye"), "88 05 03 e8 62 79 65"),
        (encode_close(1000, "é" * 61 + "x"), "88 7d 03 e8" + "c3a9" * 61 + "78"),
        (EMPTY_CLOSE, "88 00"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_server_frames(encoded: bytes, frame: str) -> None:
    """Frames of a server have no mask and the shortest length."""
    assert encoded == bytes.fromhex(frame)


@pytest.mark.parametrize(
    "sendable", ["text", b"bytes", Message("text"), Message(b"bytes"), bytearray(b"bytes"), memoryview(b"bytes")]
)
def test_types_that_can_be_sent(sendable: Sendable) -> None:
    """A message and its data are encoded to the same frame."""
    message = sendable if isinstance(sendable, Message) else Message(sendable)

    assert encode_message(sendable) == encode_message(message)


def test_other_types_raise() -> None:
    """Other types are a TypeError."""
    with pytest.raises(TypeError, match="str or bytes, not int"):
        encode_message(5)  # type: ignore[arg-type]


def test_lone_surrogate_raises() -> None:
    """A lone surrogate, which has no UTF-8, is a ValueError."""
    with pytest.raises(ValueError, match="surrogates"):
        encode_message("\ud800")


@pytest.mark.parametrize("reason", ["x" * 124, "é" * 62])
def test_long_close_reason_raises(reason: str) -> None:
    """A close reason of more than 123 bytes of UTF-8 is a ValueError with both numbers."""
    with pytest.raises(ValueError, match="123 bytes of UTF-8, not 124"):
        encode_close(1000, reason)


def test_long_ping_raises() -> None:
    """A ping of more than 125 bytes is a ValueError with both numbers."""
    with pytest.raises(ValueError, match="125 bytes, not 126"):
        encode_ping(b"x" * 126)


@settings(deadline=None)
@given(data=st.one_of(st.text(), st.binary(), st.binary(min_size=1, max_size=3).map(lambda part: part * 30000)))
def test_round_trip(data: str | bytes) -> None:
    """A message that one side encodes is decoded by the other side."""
    limits = StreamLimits()

    assert events_of(Decoder(limits, client=True), encode_message(data)) == [Message(data)]
    assert decode(ClientEncoder().message(data)) == [Message(data)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("data", ["é", b"\xff"])
def test_payload_that_is_compressed(data: str | bytes, size: int) -> None:
    """The payload that is compressed is that of the uncompressed frame, for each length of its header."""
    payload = (data if isinstance(data, bytes) else data.encode()) * size
    assert payload_of(encode_message(data * size)) == payload
