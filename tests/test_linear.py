"""The time for data of a peer is linear in its size. Each parser gets adversarial data of two sizes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
import trio

from humphrey_trio._app._layer_paths import LayerPath, readings_of
from humphrey_trio._app._patterns import decode_values, parse_pattern
from humphrey_trio._http._errors import HttpError
from humphrey_trio._http._form_parser import FormSettings, MultipartForm
from humphrey_trio._http._multipart import MultipartParser
from humphrey_trio._http._parameters import parse_parameters
from humphrey_trio._http._spool import Spool
from humphrey_trio._server._head import BadRequest
from humphrey_trio._server._request_reader import RequestReader
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._decoder import Decoder
from humphrey_trio._websocket._protocol._deflate import PerMessageDeflate, negotiate, parse_offers
from humphrey_trio._websocket._stream._admission import Accept, Admission
from humphrey_trio._wildcards import wildcard_match
from humphrey_trio.http import App, Headers, Limits, Request, Response
from humphrey_trio.websocket import Deflate, HandshakeError, Upgrade, WebsocketStream, websocket_handler
from tests.support import PATIENCE
from tests.support.apps import served_in_memory
from tests.support.growth import assert_linear, made_before
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.wire import BINARY, CONTINUATION, PING, TEXT, client_frame, request_bytes

# Bounds that no data here reaches: with the defaults they would hide quadratic work, not prevent it.
LIMITS = Limits(head=2**24, request_line=2**24, headers=2**24, body=2**30)
STREAM_LIMITS = StreamLimits(max_message_size=2**26, max_fragments=2**24)

with_each_parser = pytest.mark.usefixtures("each_parser")


def at_once(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def test_quadratic_work_is_detected() -> None:
    """Quadratic work fails the comparison, and linear work passes it."""
    assert_linear(lambda size: sum(range(size)), 100_000)
    with pytest.raises(pytest.fail.Exception, match="times as long"):
        assert_linear(lambda size: [sum(range(size)) for _ in range(size)], 300)


# ------------------------------------------------------------------------------------------------- HTTP


def read_requests(reads: Iterable[bytes]) -> None:
    """Read all requests with their bodies, until one is refused."""
    reader = RequestReader(LIMITS)
    head = None
    with suppress(BadRequest):
        for data in reads:
            reader.receive(data)
            while head is not None or (head := reader.next_head()) is not None:
                while head.has_body and (piece := reader.next_body()) != b"":
                    if piece is None:
                        break
                else:
                    len(head.headers)  # they are split and decoded when they are first used
                    head = None
                    continue
                break


START = b"GET / HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def field(name: str, value: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """A head with one field that grows."""
    host = b"" if name == "Host" else HOST
    return lambda size: START + host + name.encode() + b":" + value(size) + b"\r\n\r\n"


VALUES: dict[str, Callable[[int], bytes]] = {
    "blanks inside": lambda size: b"a" + b" " * size + b"b",
    "tabs inside": lambda size: b"a" + b"\t" * size + b"b",
    "blanks around": lambda size: b" " * size + b"a" + b" " * size,
    "nothing but blanks": lambda size: b" \t" * size,
    "blanks in front of a control character": lambda size: b" " * size + b"\0",
    "words": lambda size: b"a \t" * size + b"b",
    "commas": lambda size: b", " * size,
    "members": lambda size: b"a," * size + b"b",
    "colons": lambda size: b"[" + b"1:" * size,
    "digits": lambda size: b"0" * size,
}
NAMES = ("Host", "Connection", "Upgrade", "Expect", "Content-Length", "Transfer-Encoding", "X")


@with_each_parser
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", VALUES)
def test_header_fields(name: str, value: str) -> None:
    """The time for a field is linear in its length."""
    head = field(name, VALUES[value])
    assert_linear(lambda size: read_requests([head(size)]), 4_000)


HEADS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "a target": (50_000, lambda size: b"GET /" + b"a?" * size + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a URL": (50_000, lambda size: b"GET http://" + b"a." * size + b"/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a bad URL": (50_000, lambda size: b"GET http://" + b"a" * size + b"@/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a path": (50_000, lambda size: b"GET /" + b"a" * size + b"#"),
    "a query": (50_000, lambda size: b"GET /?" + b"a?" * size + b"\x7f HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a name": (50_000, lambda size: START + HOST + b"a" * size + b"(:\r\n\r\n"),
    "names": (1_000, lambda size: START + HOST + b"Hos: y\r\n" * size + b"Host : a\r\n\r\n"),
    "many fields and a control character": (1_000, lambda size: START + b"X: y y\r\n" * size + b"Y: \0\r\n\r\n"),
    "a method": (50_000, lambda size: b"A" * size + b"("),
    "a request line without an end": (50_000, lambda size: b"GET /" + b"a " * size + b"\r\n\r\n"),
    "a field without a colon": (50_000, lambda size: START + HOST + b"a" * size + b"\r\n\r\n"),
    "many fields": (1_000, lambda size: START + HOST + b"X: y\r\n" * size + b"\r\n"),
    "many fields that decide": (1_000, lambda size: START + HOST + b"Connection: a\r\n" * size + b"\r\n"),
    "equal lengths": (1_000, lambda size: POST + b"Content-Length: 1\r\n" * size + b"\r\n"),
    "many lines without an end": (5_000, lambda size: START + b"X: y\r\n" * size),
}


@with_each_parser
@pytest.mark.parametrize("deliver", [at_once, byte_by_byte])
@pytest.mark.parametrize("head", HEADS)
def test_heads(head: str, deliver: Callable[[bytes], list[bytes]]) -> None:
    """The time for a head is linear in its length, also if it arrives byte by byte."""
    size, make = HEADS[head]
    assert_linear(lambda size: read_requests(deliver(make(size))), size if deliver is at_once else size // 8)


BODIES: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "a length": (20_000, lambda size: POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size),
    "tiny chunks": (2_000, lambda size: CHUNKED + b"1\r\nx\r\n" * size + b"0\r\n\r\n"),
    "a size line without an end": (20_000, lambda size: CHUNKED + b"1;" + b"a" * size),
    "an extension": (20_000, lambda size: CHUNKED + b"1;" + b" a" * size + b"\r\nx\r\n0\r\n\r\n"),
    "blanks in front of a bare LF": (20_000, lambda size: CHUNKED + b"1;" + b" " * size + b"\n\r\n"),
    "blanks in front of a letter": (20_000, lambda size: CHUNKED + b"1" + b" " * size + b"x\r\n"),
    "digits": (20_000, lambda size: CHUNKED + b"1" * size + b"\r\n"),
    "a trailer": (20_000, lambda size: CHUNKED + b"0\r\nX:" + b"a " * size + b"\r\n\r\n"),
    "a trailer without an end": (20_000, lambda size: CHUNKED + b"0\r\nX:" + b"a " * size),
    "a trailer of blanks": (20_000, lambda size: CHUNKED + b"0\r\nX:" + b" " * size + b"\0\r\n\r\n"),
    "trailers": (5_000, lambda size: CHUNKED + b"0\r\n" + b"X:\r\n" * size + b"\r\n"),
}


@pytest.mark.parametrize("deliver", [at_once, byte_by_byte])
@pytest.mark.parametrize("body", BODIES)
def test_bodies(body: str, deliver: Callable[[bytes], list[bytes]]) -> None:
    """The time for a body is linear in its length, in any framing, also if it arrives byte by byte."""
    size, make = BODIES[body]
    assert_linear(lambda size: read_requests(deliver(make(size))), size if deliver is at_once else size // 4)


PIPELINES: dict[str, bytes] = {
    "without bodies": START + HOST + b"\r\n",
    "with bodies": POST + b"Content-Length: 1\r\n\r\nx",
    "with chunked bodies": CHUNKED + b"1\r\nx\r\n0\r\n\r\n",
    "with empty lines": b"\r\n" + START + HOST + b"\r\n",
}


@with_each_parser
@pytest.mark.parametrize("request_", PIPELINES.values(), ids=PIPELINES)
def test_pipelined_requests_in_one_read(request_: bytes) -> None:
    """The time for a request does not depend on the number of requests after it in the buffer."""
    assert_linear(lambda size: read_requests([request_ * size]), 2_000)


def test_pipelined_upgrades_in_one_read() -> None:
    """A refused upgrade returns the bytes after it without a copy."""

    def refuse(size: int) -> None:
        reader = RequestReader(LIMITS)
        reader.receive(request_bytes("GET /ws HTTP/1.1") * size)
        while reader.next_head() is not None:
            reader = RequestReader(LIMITS, reader.take_rest())

    assert_linear(refuse, 1_000)


# A real connection...


async def exchange(app: App[Any], data: bytes) -> None:
    """Send all data, and read until the server closes."""
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app) as connect, trio.open_nursery() as nursery:
            stream = connect()
            nursery.start_soon(stream.send_all, data)
            while await stream.receive_some():
                pass


async def refuse(upgrade: Upgrade, state: None) -> Response:
    return Response(403)


async def echo(stream: WebsocketStream, state: None) -> None:
    async for message in stream:
        await stream.send(message)


LAST = START + HOST + b"Connection: close\r\n\r\n"
CONNECTIONS: dict[str, Callable[[int], bytes]] = {
    "requests": lambda size: (START + HOST + b"\r\n") * size + LAST,
    "requests with bodies": lambda size: PIPELINES["with chunked bodies"] * size + LAST,
    "a body of tiny chunks": lambda size: CHUNKED + b"1\r\nx\r\n" * (8 * size) + b"0\r\n\r\n" + LAST,
    "refused upgrades": lambda size: request_bytes("GET /no HTTP/1.1") * size + LAST,
    "messages": lambda size: request_bytes("GET /ws HTTP/1.1") + client_frame(TEXT) * (8 * size) + client_frame(8),
}


@pytest.mark.parametrize("data", CONNECTIONS.values(), ids=CONNECTIONS)
def test_connections(data: Callable[[int], bytes]) -> None:
    """The time for a connection is linear in the data that it receives."""
    app = (
        App(limits=LIMITS)
        .with_stateless_route("/", lambda request: Response(200, request.content))
        .with_websocket_route("/no", refuse)
        .with_websocket_route("/ws", websocket_handler(echo))
    )
    assert_linear(lambda size: trio.run(exchange, app, data(size)), 200)


# ------------------------------------------------------------------------------------------------ routes

PATTERNS = ("*", "/*", "*a*", "*ab*", "*a*ab*aab*b", "/*/b*/*c", "*" + "a*" * 50 + "b", "*" + "ab" * 50 + "*")


@pytest.mark.parametrize("text", ["a", "/", "ab", "/a", "/b/"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_wildcards(pattern: str, text: str) -> None:
    """The time for a pattern is linear in the length of the text, with any number of stars."""
    assert_linear(lambda size: [wildcard_match(pattern, text * size) for _ in range(10)], 20_000)


@pytest.mark.parametrize("pattern", ["/{a}", "/{a}/{b}/{c}/x", "/{a}/{b*}", "/{a*}", "/{a}/" * 50 + "x"])
@pytest.mark.parametrize("text", ["x", "/", "x/", "//x", "%41", "\n"])
def test_parameters(pattern: str, text: str) -> None:
    """The time for a pattern with parameters is linear in the length of the path, matched or not."""
    pattern = "".join(char + str(at) if char == "a" else char for at, char in enumerate(pattern))
    parsed = parse_pattern(pattern)
    assert_linear(lambda size: [parsed.match("/" + text * size) for _ in range(10)], 20_000)


@pytest.mark.parametrize("pattern", ["/*", "/*a*/b", "/{a}", "/{a}/{b}/{c}/x", "/{a}/{b*}", "/{a}/" * 20 + "x"])
@pytest.mark.parametrize("text", ["%2F", "%2Fx", "/x%2f", "//", "/.", "/%2e", "%", "%zz", "%C3", "..%2F"])
def test_layer_paths(pattern: str, text: str) -> None:
    """The time to decide whether a layer is called is linear in the length of the path."""
    pattern = "".join(char + str(at) if char == "a" else char for at, char in enumerate(pattern))
    layer = LayerPath(pattern)

    def decide(size: int) -> None:
        path = "/" + text * size
        layer.matches(path, readings_of(path))

    assert_linear(decide, 10_000)


@pytest.mark.parametrize("text", ["%41", "%C3%A9", "%", "x%", "x", "%zz", "%C3"])
def test_values_of_parameters(text: str) -> None:
    """The time to decode a value is linear in its length, malformed or not."""

    def decode(size: int) -> None:
        with suppress(ValueError):
            decode_values({"x": text * size})

    assert_linear(decode, 50_000)


# ------------------------------------------------------------------------------------------------ forms

DISPOSITION = b'Content-Disposition: form-data; name="'
NAMED_PART = b"--b\r\n" + DISPOSITION + b'n"\r\n\r\n'


def parse_parts(reads: Iterable[bytes]) -> None:
    """Parse a multipart body, up to where it is refused."""
    parser = MultipartParser("multipart/form-data; boundary=b", max_parts=2**24)
    with suppress(HttpError):
        for data in reads:
            for _ in parser.feed(data):
                pass
        parser.finish()


MULTIPARTS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "tiny parts": (1_000, lambda size: (NAMED_PART + b"\r\n") * size),
    "one part": (20_000, lambda size: NAMED_PART + b"x" * size),
    "line ends": (10_000, lambda size: NAMED_PART + b"\r\n" * size),
    "returns": (20_000, lambda size: NAMED_PART + b"\r" * size),
    "half delimiters": (5_000, lambda size: NAMED_PART + b"\r\n--" * size),
    "no delimiter": (20_000, lambda size: b"\r\n" * size),
    "an epilogue": (10_000, lambda size: b"--b--" + b"\r\n--b" * size),
    "long lines": (20, lambda size: (b"--b\r\nX:" + b"a" * 4000 + b"\r\n" + NAMED_PART[5:] + b"\r\n") * size),
    "folded lines": (50, lambda size: (NAMED_PART[:-2] + b"X:y\r\n" + b" z\r\n" * 900 + b"\r\n\r\n") * size),
    "long names": (20, lambda size: (b"--b\r\n" + DISPOSITION + b"%22" * 1300 + b'"\r\n\r\n\r\n') * size),
}


@pytest.mark.parametrize("deliver", [at_once, byte_by_byte])
@pytest.mark.parametrize("body", MULTIPARTS)
def test_multipart(body: str, deliver: Callable[[bytes], list[bytes]]) -> None:
    """The time for a multipart body is linear in its size, in any reads."""
    size, make = MULTIPARTS[body]
    size = size if deliver is at_once else max(1, size // 10)
    assert_linear(lambda size: parse_parts(deliver(make(size))), size)


def parse_form_parts(reads: Iterable[bytes]) -> None:
    """Parse a multipart form whose files go to a spool."""
    parser = MultipartForm("multipart/form-data; boundary=b", FormSettings(2**24, spool=0), Spool())
    for data in reads:
        parser.feed(data)
    parser.finish()


FORMS: dict[str, tuple[int, bytes, bytes]] = {
    "fields": (1_000, NAMED_PART + b"x\r\n", b""),
    "files": (500, NAMED_PART.replace(b'"n"', b'"n"; filename="f"') + b"x\r\n", b""),
    "one field": (20_000, b"x", NAMED_PART),
    "one file": (20_000, b"x", NAMED_PART.replace(b'"n"', b'"n"; filename="f"')),
}


@pytest.mark.parametrize("deliver", [at_once, byte_by_byte])
@pytest.mark.parametrize("body", FORMS)
def test_forms(body: str, deliver: Callable[[bytes], list[bytes]]) -> None:
    """The time for a form is linear in its size, in any reads."""
    size, repeated, before = FORMS[body]
    size = size if deliver is at_once else max(1, size // 10)
    assert_linear(lambda size: parse_form_parts(deliver(before + repeated * size + b"\r\n--b--")), size)


PARAMETERS: dict[str, Callable[[int], str]] = {
    "semicolons": lambda size: ";" * size,
    "blanks": lambda size: ";" + " " * size + "x",
    "blanks between": lambda size: ("; " + " \t" * 10) * (size // 20) + "x",
    "names": lambda size: ";" + "a" * size,
    "quotes": lambda size: ';a="' * size,
    "backslashes": lambda size: ';a="' + "\\" * (2 * size + 1),
    "escaped quotes": lambda size: ';a="' + '\\"' * size,
    "many": lambda size: "".join(f";a{i}=b" for i in range(size // 5)),
}


@pytest.mark.parametrize("value", PARAMETERS)
def test_field_parameters(value: str) -> None:
    """The time for the parameters of a field is linear in their length."""

    def parse(size: int) -> None:
        with suppress(ValueError):
            parse_parameters(PARAMETERS[value](size))

    assert_linear(parse, 20_000)


# ------------------------------------------------------------------------------------------ handshakes


def decide(name: str, value: str) -> None:
    """Negotiate a handshake with this field."""
    request = Request(headers=Headers([("Host", "example.com"), (name, value)]))
    rules = Admission(origins={"https://*.example.com"}, subprotocols=["a"], deflate=Deflate())
    for admission in (rules, Admission()):
        with suppress(HandshakeError):
            admission.check(request)
            admission.agree(request, Accept())


HANDSHAKES: dict[str, tuple[str, Callable[[int], str]]] = {
    "origin": ("Origin", lambda size: "https://" + "a." * size),
    "origin of colons": ("Origin", lambda size: "https://" + ":" * size),
    "origin of slashes": ("Origin", lambda size: "https:" + "/" * size),
    "origin with a port": ("Origin", lambda size: "https://example.com:" + "1" * size),
    "subprotocols": ("Sec-WebSocket-Protocol", lambda size: "b," * size),
    "subprotocols of blanks": ("Sec-WebSocket-Protocol", lambda size: "b" + " " * size + "c"),
    "many subprotocols": ("Sec-WebSocket-Protocol", lambda size: ",".join(map(str, range(size // 4)))),
    "extensions": ("Sec-WebSocket-Extensions", lambda size: "b ," * size),
    "no extension": ("Sec-WebSocket-Extensions", lambda size: "," * size),
    "an extension of blanks": ("Sec-WebSocket-Extensions", lambda size: "b" + " \t" * size + "c"),
    "offers": ("Sec-WebSocket-Extensions", lambda size: "permessage-deflate;x," * size),
    "parameters": ("Sec-WebSocket-Extensions", lambda size: "permessage-deflate" + ";a=b" * size),
    "parameters without an end": ("Sec-WebSocket-Extensions", lambda size: "permessage-deflate" + ";a=" * size),
    "a parameter of blanks": (
        "Sec-WebSocket-Extensions",
        lambda size: "b;a" + " " * size + "=" + " " * size + "@",
    ),
    "a token without an end": ("Sec-WebSocket-Extensions", lambda size: "b;" + "a" * size + "@"),
    "a quoted value": ("Sec-WebSocket-Extensions", lambda size: 'b;a="' + "c" * size + '"'),
    "a quotation without an end": ("Sec-WebSocket-Extensions", lambda size: 'b;a="' + "c" * size),
    "backslashes without an end": ("Sec-WebSocket-Extensions", lambda size: 'b;a="' + r"\c" * size),
}


@pytest.mark.parametrize("handshake", HANDSHAKES)
def test_handshakes(handshake: str) -> None:
    """The time for the fields of a handshake is linear in their length."""
    name, make = HANDSHAKES[handshake]
    assert_linear(lambda size: decide(name, make(size)), 4_000)


# -------------------------------------------------------------------------------------------- WebSockets


def decode(reads: Iterable[bytes], *, compressed: bool = False) -> None:
    """Decode all frames, or all up to the first that is refused."""
    decoder = Decoder(STREAM_LIMITS, deflate=agreed() if compressed else None)
    for data in reads:
        decoder.receive(data)
        while decoder.next() is not None:
            pass


def agreed() -> PerMessageDeflate:
    agreement = negotiate(Deflate(), parse_offers(["permessage-deflate"]))
    assert agreement is not None
    return agreement[1]


BEGUN = client_frame(TEXT, b"a", fin=False)
MORE = client_frame(CONTINUATION, b"a", fin=False)
FRAMES: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "tiny messages": (2_000, lambda size: client_frame(TEXT) * size),
    "pings": (1_000, lambda size: client_frame(PING) * size),
    "one message": (8_000, lambda size: client_frame(BINARY, b"x" * size)),
    "text of several bytes": (8_000, lambda size: client_frame(TEXT, "\u20ac".encode() * (size // 3))),
    "tiny fragments": (1_000, lambda size: BEGUN + MORE * size),
    "empty fragments": (1_000, lambda size: BEGUN + client_frame(CONTINUATION, fin=False) * size),
    "fragments and pings": (500, lambda size: BEGUN + (MORE + client_frame(PING)) * size),
    "bad text at the end": (8_000, lambda size: client_frame(TEXT, b"a" * size + b"\xff")),
}


@pytest.mark.parametrize("deliver", [at_once, byte_by_byte])
@pytest.mark.parametrize("frames", FRAMES)
def test_frames(frames: str, deliver: Callable[[bytes], list[bytes]]) -> None:
    """The time for frames is linear in their size, in any number and any reads."""
    size, make = FRAMES[frames]
    assert_linear(lambda size: decode(deliver(make(size))), size)


EMPTY_STREAM = b"\x03\x00"  # a DEFLATE stream of its own, which ends at once
FLUSHED = b"\x00\x00\x00\xff\xff"  # an empty block within one
STORED = b"\x00\xff\xff\x00\x00" + bytes(0xFFFF)  # a block of 64 KiB that is not compressed


def deflated(payload: bytes, *, fin: bool = True) -> bytes:
    return client_frame(BINARY, payload, fin=fin, rsv=4)


COMPRESSED: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "small messages": (500, lambda size: deflated(b"\x00") * size),
    "a message": (50_000, lambda size: deflated(zlib.compress(bytes(size), 0)[2:-4])),
    "a bomb": (2**18, lambda size: deflated(zlib.compress(bytes(size))[2:-4])),
    "empty blocks": (10_000, lambda size: deflated(FLUSHED * size)),
    "streams": (32, lambda size: deflated(EMPTY_STREAM * size) * 20),
    "streams in front of much": (4, lambda size: deflated(EMPTY_STREAM * 200 + STORED * size)),
    "fragments": (500, lambda size: deflated(b"\x00", fin=False) + client_frame(0, FLUSHED[1:], fin=False) * size),
}


def assert_inflates_linearly(
    make: Callable[[int], bytes], size: int, deliver: Callable[[bytes], list[bytes]]
) -> None:
    assert_linear(made_before(lambda data: decode(deliver(data), compressed=True), make, size), size)


@pytest.mark.parametrize("frames", COMPRESSED)
def test_compressed_frames(frames: str) -> None:
    """The time for a compressed message is linear in its size and in that of its content."""
    size, make = COMPRESSED[frames]
    assert_inflates_linearly(make, size, at_once)


@pytest.mark.parametrize(
    ("frames", "size"), [("a message", 4_000), ("a bomb", 2**18), ("empty blocks", 1_000), ("fragments", 500)]
)
def test_compressed_frames_byte_by_byte(frames: str, size: int) -> None:
    """The same holds if it arrives byte by byte."""
    assert_inflates_linearly(COMPRESSED[frames][1], size, byte_by_byte)
