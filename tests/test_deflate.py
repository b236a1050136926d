"""permessage-deflate: decompression of what a client sends, and its limits."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._websocket._deflate_settings import Deflate
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._decoder import Decoder, Event, Failure, Ping, Pong
from humphrey_trio.websocket import Message
from tests.support.deflate import (
    COMPRESSED,
    FORGETFUL,
    HELLO,
    NO_C,
    NO_S,
    OFFER,
    TAIL,
    WIDE,
    DeflateClient,
    agree,
    compressed_frame,
    compressed_frames,
    contents,
    meet,
    words,
)
from tests.support.reads import bomb, cut, events_of, failure_code, one_by_one
from tests.support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, client_frame

#: RFC 7692, section 7.2.3: the fragments of one message after the other, all of them "Hello" or empty.
VECTORS = {
    "7.2.3.1 one frame": (["f2 48 cd c9 c9 07 00"],),
    "7.2.3.1 two frames": (["f2 48 cd", "c9 c9 07 00"],),
    "7.2.3.2 sharing the window": (["f2 48 cd c9 c9 07 00"], ["f2 00 11 00 00"]),
    "7.2.3.2 not sharing it": (["f2 48 cd c9 c9 07 00"], ["f2 48 cd c9 c9 07 00"]),
    "7.2.3.3 no compression": (["00 05 00 fa ff 48 65 6c 6c 6f 00"],),
    "7.2.3.4 BFINAL": (["f3 48 cd c9 c9 07 00 00"],),
    "7.2.3.5 two blocks": (["f2 48 05 00 00 00 ff ff ca c9 c9 07 00"],),
    "7.2.3.6 empty": (["00"],),
}


@pytest.mark.parametrize(("name", "messages"), VECTORS.items(), ids=VECTORS)
def test_vectors_of_the_rfc(name: str, messages: tuple[list[str], ...]) -> None:
    """The examples of RFC 7692 are decompressed, in one read and byte by byte."""
    frames = b"".join(
        b"".join(compressed_frames(bytes.fromhex(fragment) for fragment in fragments)) for fragments in messages
    )
    said = [Message("" if "empty" in name else "Hello")] * len(messages)

    assert events_of(meet()[1], frames) == said
    assert events_of(meet()[1], *one_by_one(frames)) == said


@pytest.mark.parametrize("settings", [Deflate(), FORGETFUL])
def test_control_frames_between_compressed_fragments(settings: Deflate) -> None:
    """Control frames between the fragments of a compressed message do not change it."""
    client, decoder, _ = meet(settings)

    for text in ("some text, some text", "more text, some text"):
        first, second, third = compressed_frames(cut(client.compress(text.encode()), [3, 9]))
        frames = first + client_frame(PING, HELLO) + second + client_frame(PONG) + third

        assert events_of(decoder, *one_by_one(frames)) == [Ping(HELLO), Pong(b""), Message(text)]


def test_uncompressed_messages_do_not_change_the_window() -> None:
    """Uncompressed messages, short, long or fragmented, do not change the window."""
    client, decoder, _ = meet()
    long = b"x" * 1000
    plain = (
        client_frame(BINARY, b"short")
        + client_frame(BINARY, long)
        + client_frame(BINARY, b"in ", fin=False)
        + client_frame(CONTINUATION, b"two")
    )
    said = [Message("window window"), Message(b"short"), Message(long), Message(b"in two")]

    for _ in range(2):
        assert events_of(decoder, compressed_frame(client.compress(b"window window")) + plain) == said


BROKEN = {
    "continuation": compressed_frame(HELLO[:3], fin=False) + client_frame(CONTINUATION, HELLO[3:], rsv=COMPRESSED),
    "continuation of an uncompressed message": client_frame(TEXT, fin=False)
    + client_frame(CONTINUATION, HELLO, rsv=COMPRESSED),
    "continuation of nothing": client_frame(CONTINUATION, HELLO, rsv=COMPRESSED),
    "ping": client_frame(PING, HELLO, rsv=COMPRESSED),
    "pong": client_frame(PONG, HELLO, rsv=COMPRESSED),
    "close": client_frame(CLOSE, b"\x03\xe8", rsv=COMPRESSED),
    "message in a message": compressed_frame(HELLO[:3], fin=False) + compressed_frame(HELLO),
    "second reserved bit": client_frame(TEXT, HELLO, rsv=0b010),
    "third reserved bit": client_frame(TEXT, HELLO, rsv=0b101),
}


@pytest.mark.parametrize("frames", BROKEN.values(), ids=BROKEN)
def test_rsv1_is_allowed_in_the_first_frame_only(frames: bytes) -> None:
    """RSV1 in a frame that is not the first of a message is a protocol error, 1002."""
    assert failure_code(events_of(meet()[1], frames)) == 1002
    assert failure_code(events_of(meet()[1], *one_by_one(frames))) == 1002


def test_rsv1_without_permessage_deflate() -> None:
    """Without permessage-deflate a compressed message is a protocol error, 1002."""
    assert failure_code(events_of(Decoder(StreamLimits()), compressed_frame(HELLO))) == 1002


CORRUPT = {
    "unknown block": "07",
    "stored block with a wrong length": "00 05 00 00 00",
    "reference to before the beginning": "f2 00 11 00 00",
    "too many codes": "fc ff",
}


@pytest.mark.parametrize("payload", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("fragmented", [False, True])
def test_corrupt_compressed_data(payload: str, fragmented: bool) -> None:
    """Data that is not DEFLATE is refused with 1007, before its message ends."""
    data = bytes.fromhex(payload)
    frames = compressed_frames([b"", data, b""]) if fragmented else [compressed_frame(data + bytes(50))[:-40]]
    _, decoder, _ = meet()

    assert failure_code(events_of(decoder, *frames)) == 1007
    assert events_of(decoder, compressed_frame(HELLO)) == []


def test_reference_to_the_previous_message_without_context_takeover() -> None:
    """Without context takeover, a reference to the previous message is corrupt data."""
    _, decoder, _ = meet(FORGETFUL)
    second = bytes.fromhex("f2 00 11 00 00")

    assert events_of(decoder, compressed_frame(HELLO)) == [Message("Hello")]
    assert failure_code(events_of(decoder, compressed_frame(second))) == 1007


def test_compressed_text_must_be_utf8() -> None:
    """A compressed text that is not UTF-8 is refused with 1007 at its first invalid fragment."""
    client, decoder, _ = meet()
    flushed = client.compress(b"good \xff bad") + TAIL

    assert failure_code(events_of(decoder, compressed_frame(flushed, fin=False))) == 1007


@pytest.mark.parametrize("offered", ["", "=8", "=9", "=15"])
@pytest.mark.parametrize("takeover", [False, True])
def test_all_window_sizes_of_clients(offered: str, takeover: bool) -> None:
    """With each agreed window, messages that use all of it are decompressed."""
    settings = Deflate(client_max_window_bits=15, client_context_takeover=takeover)
    answer, deflate = agree(settings, f"permessage-deflate; client_max_window_bits{offered}")
    # zlib says 8 and takes 9.
    client = DeflateClient(answer.replace("client_max_window_bits=8", "client_max_window_bits=9"))
    decoder = Decoder(StreamLimits(), deflate=deflate)
    chance = random.Random(offered)
    block = chance.randbytes(20_000)

    for text in (block, block[::-1], block + block):
        assert events_of(decoder, compressed_frame(client.compress(text), BINARY)) == [Message(text)]


def test_client_without_client_max_window_bits() -> None:
    """A client that does not offer client_max_window_bits may use the largest window."""
    client, decoder, _ = meet(Deflate(client_max_window_bits=9), "permessage-deflate")
    far = random.Random(1).randbytes(15_000) * 2
    payload = client.compress(far)

    assert len(payload) < 20_000  # so it does refer back that far
    assert events_of(decoder, compressed_frame(payload, BINARY)) == [Message(far)]


# ------------------------------------------------------------------------------------- complete streams


def ended(payload: bytes) -> bytes:
    """A complete DEFLATE stream, of a compressor that does not flush."""
    compressor = zlib.compressobj(wbits=-12)
    return compressor.compress(payload) + compressor.flush()


@pytest.mark.parametrize("settings", [Deflate(), FORGETFUL])
def test_complete_streams_in_a_message(settings: Deflate) -> None:
    """A message may consist of several complete streams, split anywhere, and the next message begins a new one."""
    _, decoder, _ = meet(settings)
    payload = ended(b"one, ") + ended(b"") + ended(b"two") + b"\x00"

    for size in range(1, len(payload) + 1):
        fragments = (payload[i : i + size] for i in range(0, len(payload), size))
        assert events_of(decoder, *compressed_frames(fragments)) == [Message("one, two")]
        assert events_of(decoder, compressed_frame(HELLO)) == [Message("Hello")]


def test_complete_stream_without_an_empty_block() -> None:
    """A complete stream without the empty block at its end is accepted, and so is the next message."""
    _, decoder, _ = meet()

    for _ in range(2):
        assert events_of(decoder, compressed_frame(ended(b"Hello"))) == [Message("Hello")]
        assert events_of(decoder, compressed_frame(HELLO)) == [Message("Hello")]


def test_too_many_complete_streams_in_a_message() -> None:
    """A message of thousands of complete streams is refused with 1007."""
    few, many = ended(b"") * 200 + b"\x00", ended(b"") * 20_000

    assert events_of(meet()[1], compressed_frame(few)) == [Message("")]
    assert failure_code(events_of(meet()[1], compressed_frame(many))) == 1007


# -------------------------------------------------------------------------------------------------- limits

BOMBS = {
    "200 kB": lambda: [compressed_frame(bomb(190), BINARY)],
    "1 GiB": lambda: [compressed_frame(bomb(1024), BINARY)],
    "text": lambda: [compressed_frame(bomb(190))],
    "fragments": lambda: compressed_frames([bomb(1)] * 190, BINARY),
    "tiny fragments": lambda: compressed_frames(one_by_one(bomb(2)), BINARY),
}


@pytest.mark.parametrize("frames", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("limit", [1000, 2**20])
def test_decompression_bombs(frames: Callable[[], list[bytes]], limit: int) -> None:
    """A decompression bomb is refused with 1009 at its first read, within the memory of the message limit."""
    data = b"".join(frames())
    chunk = 2**16
    _, decoder, _ = meet(limits=StreamLimits(max_message_size=limit))
    tracemalloc.start()
    try:
        events = events_of(decoder, data[:chunk])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert failure_code(events) == 1009
    assert peak < 6 * limit + 3 * chunk


@pytest.mark.parametrize("settings", [Deflate(), FORGETFUL])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_message_limit_counts_decompressed_bytes(settings: Deflate, kind: int) -> None:
    """Each message may decompress to exactly the limit, and not to one byte more."""
    client, decoder, _ = meet(settings, limits=StreamLimits(max_message_size=1000))

    for _ in range(3):
        (message,) = events_of(decoder, compressed_frame(client.compress(b"x" * 1000), kind))
        assert message == Message("x" * 1000 if kind == TEXT else b"x" * 1000)
    assert failure_code(events_of(decoder, compressed_frame(client.compress(b"x" * 1001), kind))) == 1009


def test_limit_set_before_the_first_frame() -> None:
    """A limit that is set after the handshake applies to the first message."""
    client, decoder, _ = meet()
    decoder.limit(StreamLimits(max_message_size=4))

    assert failure_code(events_of(decoder, compressed_frame(client.compress(b"Hello")))) == 1009


def test_decompression_needs_a_limit() -> None:
    """With a limit of 0, no more than one byte is decompressed."""
    _, deflate = agree(Deflate())

    decoder = Decoder(StreamLimits(), deflate=deflate)
    deflate.limit(0)

    assert events_of(decoder, compressed_frame(b"\x00")) == [Message("")]
    assert events_of(decoder, compressed_frame(HELLO)) == [Message("H")]  # the byte that tells


@pytest.mark.parametrize("level", [1, 2, 9])
@pytest.mark.parametrize("fragments", [1, 2, 50])
@pytest.mark.parametrize("size", [100, 10_000, 100_000])
def test_incompressible_message_within_the_limit(size: int, fragments: int, level: int) -> None:
    """A message within the limit is accepted even if it is longer on the wire."""
    _, decoder, _ = meet(limits=StreamLimits(max_message_size=size))
    content = random.Random(size).randbytes(size)
    compressor = zlib.compressobj(level, zlib.DEFLATED, -12, 1, zlib.Z_FIXED)
    pieces = [content[i * size // fragments : (i + 1) * size // fragments] for i in range(fragments)]
    parts = [compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    parts[-1] = parts[-1][:-4]

    assert sum(map(len, parts)) > size
    assert events_of(decoder, *compressed_frames(parts, BINARY)) == [Message(content)]


def test_declared_length_of_a_compressed_frame() -> None:
    """A compressed frame is refused by its header if no message within the limit can be so long."""
    header = compressed_frame(bytes(2**21))[:14]

    assert failure_code(events_of(meet()[1], header)) == 1009


def test_empty_blocks_are_limited() -> None:
    """A message of empty blocks is refused when it is longer than any message within the limit can be."""
    nothing = compressed_frame(b"\x00" + TAIL, fin=False) + client_frame(
        CONTINUATION, (b"\x00" + TAIL) * 1000, fin=False
    )

    assert failure_code(events_of(meet(limits=StreamLimits(max_message_size=1000))[1], nothing)) == 1009


# ----------------------------------------------------------------------------------- generated messages

reads_end = st.lists(st.integers(0, 2**16), max_size=12)


agreements = st.sampled_from([Deflate(), FORGETFUL, WIDE, Deflate(client_context_takeover=False)])
offers = st.sampled_from(["permessage-deflate", OFFER, f"{OFFER}=9", f"{OFFER}; {NO_C}", f"{OFFER}; {NO_S}"])


def frames_of(data: str | bytes, fragments: list[bytes], *, compressed: bool) -> list[bytes]:
    """All frames of a message whose payload was cut into fragments."""
    kind = TEXT if isinstance(data, str) else BINARY
    if compressed:
        return compressed_frames(fragments, kind)
    return [
        client_frame(CONTINUATION if i else kind, part, fin=i == len(fragments) - 1)
        for i, part in enumerate(fragments)
    ]


@settings(deadline=None)
@given(data=st.data(), deflate=agreements, offer=offers, places=reads_end)
def test_any_messages_in_any_reads(data: st.DataObject, deflate: Deflate, offer: str, places: list[int]) -> None:
    """Messages are the same, however compressed, fragmented, mixed and split into reads."""
    client, decoder, _ = meet(deflate, offer)
    wire = b""
    said: list[Event] = []
    for content in data.draw(st.lists(contents, max_size=5)):
        compressed = data.draw(st.booleans())
        payload = content if isinstance(content, bytes) else content.encode()
        payload = client.compress(payload) if compressed else payload
        fragments = cut(payload, data.draw(st.lists(st.integers(0, 2**16), max_size=4)))
        for i, frame in enumerate(frames_of(content, fragments, compressed=compressed)):
            if i and data.draw(st.booleans()):
                said.append(Ping(content.encode()[:100] if isinstance(content, str) else content[:100]))
                wire += client_frame(PING, said[-1].payload)
            wire += frame
        said.append(Message(content))

    assert events_of(decoder, *cut(wire, places)) == said


def codes(events: list[Event]) -> list[Event | int]:
    """Events, with the close codes of failures, whose reasons may differ."""
    return [event.code if isinstance(event, Failure) else event for event in events]


@settings(deadline=None)
@given(junk=st.one_of(st.binary(max_size=60), st.builds(bytes.__add__, st.just(HELLO), st.binary(max_size=20))))
def test_any_compressed_payload(junk: bytes) -> None:
    """Any compressed payload becomes a message or is refused with 1007, the same in any reads."""
    for kind in (TEXT, BINARY):
        wire = compressed_frame(junk, kind) + client_frame(PING)
        events = codes(events_of(meet()[1], wire))

        assert events[-1] in (1007, Ping(b""))
        assert codes(events_of(meet()[1], *one_by_one(wire))) == events


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"bad \xff" + bytes(60), 1007),
        (bytes(60) + b"\xff", 1007),
        (bytes(61) + b"\xff", 1009),
        (b"\xe2\x82\xac" * 21, 1009),
    ],
)
def test_first_error_decides_the_code(content: bytes, code: int) -> None:
    """The first invalid byte of a text decides between 1007 and 1009, in one read and byte by byte."""
    limits = StreamLimits(max_message_size=60)
    wire = compressed_frame(DeflateClient("").compress(content))

    assert failure_code(events_of(meet(WIDE, limits=limits)[1], wire)) == code
    assert failure_code(events_of(meet(WIDE, limits=limits)[1], *one_by_one(wire))) == code


@settings(deadline=None)
@given(
    content=st.builds(
        bytes.__add__, words.map(str.encode), st.sampled_from([b"", b"\xff", b"\xe2\x82", "é".encode() * 30])
    ),
    after=st.binary(max_size=20),
    places=reads_end,
)
def test_invalid_or_long_text_in_any_reads(content: bytes, after: bytes, places: list[int]) -> None:
    """A text that is invalid, too long or both is refused with the same code in any reads."""
    limits = StreamLimits(max_message_size=60)
    wire = compressed_frame(DeflateClient("").compress(content + after))
    events = codes(events_of(meet(WIDE, limits=limits)[1], wire))

    assert codes(events_of(meet(WIDE, limits=limits)[1], *cut(wire, places))) == events
    assert codes(events_of(meet(WIDE, limits=limits)[1], *one_by_one(wire))) == events
