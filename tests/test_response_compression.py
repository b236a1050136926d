"""Compression of responses: the codings, which responses, the fields, entity tags, and the worker thread."""

from __future__ import annotations

import secrets
import time
import zlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App
from humphrey_trio._http._body import TransformedBody, Write
from humphrey_trio._layers._codings import CODINGS, StreamCompressor, compress_whole
from humphrey_trio._layers._compression import INLINE_SIZE
from humphrey_trio.http import Headers, Request, Response, read_body
from humphrey_trio.layers import compression
from humphrey_trio.testing import memory_connection
from tests.support.streamed import streaming

TEXT = "All work and no play makes Jack a dull boy. " * 100
PLAIN = Response(200, TEXT)


def drained(process: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The decoder of brotli returns its output in blocks, the next one for an empty input."""
    return lambda data: process(data) + b"".join(iter(lambda: process(b""), b""))


def decoder_of(coding: str) -> Callable[[bytes], bytes]:
    """A decoder for a stream, which returns all that the bytes up to now allow."""
    if coding == "gzip":
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress
    if coding == "br":
        return drained(import_module("brotli").Decompressor().process)
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name).ZstdDecompressor().decompress  # type: ignore[no-any-return]
        except ModuleNotFoundError:
            continue
    raise AssertionError(f"{coding} has no decoder here")


async def run(response: Response, request: Request | str = "gzip", **settings: int) -> Response:
    """The response of the layer for a handler that returns some response."""

    async def call_next(_: Request) -> Response:
        return response

    if isinstance(request, str):
        request = Request(headers=Headers({"Accept-Encoding": request}))
    return await compression(**settings)(request, None, call_next)


def text_with(*fields: tuple[str, str], status: int = 200) -> Response:
    return Response(status, TEXT, fields)


any_coding = pytest.mark.parametrize("coding", CODINGS)


# --------------------------------------------------------------------------------------------- codings


def test_gzip_is_always_there() -> None:
    """gzip needs no package, and is the last choice."""
    assert CODINGS[-1] == "gzip"


@any_coding
@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
def test_whole_bodies(coding: str, size: int) -> None:
    """A whole body is the same after it was decoded, and the steps are counted in MiB."""
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    steps: list[None] = []
    compressed = compress_whole(coding, content, lambda: steps.append(None))
    assert decoder_of(coding)(compressed) == content
    assert len(steps) == -(-size // 2**20)


@any_coding
def test_streams_are_flushed_for_each_piece(coding: str) -> None:
    """Each piece can be decoded as soon as it is there, and the end is small."""
    compressor, decode = StreamCompressor(coding), decoder_of(coding)
    pieces = [b"a", b"event: b\n\n", bytes(range(256)) * 400, b"", b"c" * 100_000, b"d"]
    for piece in pieces:
        compressed = compressor.transform(piece)
        assert decode(compressed) == piece if piece else not compressed
    assert len(compressor.finish()) < 32


@any_coding
def test_an_empty_stream(coding: str) -> None:
    """A stream without pieces is a valid body without content."""
    assert decoder_of(coding)(StreamCompressor(coding).finish()) == b""


@pytest.mark.parametrize("create", [StreamCompressor, lambda coding: compress_whole(coding, b"", lambda: None)])
def test_an_unknown_coding(create: Callable[[str], Any]) -> None:
    """A coding that is not installed is refused, and the message has those that are."""
    with pytest.raises(ValueError, match=r"the coding 'compress' is not installed: use one of .*gzip"):
        create("compress")


# ----------------------------------------------------------------------------------------- negotiation


@any_coding
async def test_a_coding_that_the_client_accepts(coding: str) -> None:
    """The body is in the coding that the client accepts, and is described by the fields."""
    response = await run(text_with(("Content-Length", str(len(TEXT))), ("X-A", "b")), coding)
    assert decoder_of(coding)(response.content).decode() == TEXT
    assert response.headers == Headers(
        [
            ("X-A", "b"),
            ("Vary", "Accept-Encoding"),
            ("Content-Encoding", coding),
            ("Content-Type", "text/plain; charset=utf-8"),
        ]
    )


@any_coding
async def test_streamed_bodies(coding: str) -> None:
    """A streamed body of any size is coded piece by piece, and its length is no longer that of the handler."""

    async def produce(write: Write) -> None:
        await write(TEXT)

    plain = Response.stream(produce, headers={"Content-Type": "text/html", "ETag": '"v1"'}, length=len(TEXT))
    response = await run(plain, coding)
    assert response.headers["Content-Encoding"] == coding
    assert response.headers["ETag"] == f'"v1-{coding}"'
    body = response.body
    assert isinstance(body, TransformedBody)
    assert body.inner is plain.body
    assert body.length is None
    compressor = body.begin()
    compressed = await compressor.transform(TEXT.encode())
    assert decoder_of(coding)(compressed + compressor.finish()).decode() == TEXT


async def test_short_streamed_bodies_stay() -> None:
    """A streamed body whose length is below the minimum is not changed."""

    async def produce(write: Write) -> None:
        await write("short")

    response = Response.stream(produce, headers={"Content-Type": "text/html"}, length=5)
    assert await run(response, "gzip") is response


NEGOTIATIONS: list[tuple[tuple[str, ...], str | None]] = [
    # RFC 9110, section 12.5.3.
    ((), None),
    (("",), None),
    (("identity",), None),
    (("gzip",), "gzip"),
    (("x-gzip",), "gzip"),
    (("GZip;Q=0.5",), "gzip"),
    (("gzip;q=0",), None),
    (("deflate, compress",), None),
    (("*",), CODINGS[0]),
    (("*;q=0",), None),
    (("identity;q=0, gzip;q=0",), None),
    (("gzip;q=0.5, identity;q=0.6",), None),
    ((", ".join(reversed(CODINGS)),), CODINGS[0]),
    (("br;q=0, zstd;q=0", "gzip;q=0.001"), "gzip"),
    (("gzip;q=1.0, br;q=0.9, zstd;q=0.9",), "gzip"),
]


@pytest.mark.parametrize(("values", "coding"), NEGOTIATIONS)
async def test_negotiation(values: tuple[str, ...], coding: str | None) -> None:
    """The coding with the highest weight is used, and Vary is the same for all clients."""
    request = Request(headers=Headers([("Accept-Encoding", value) for value in values]))
    response = await run(PLAIN, request)
    assert response.headers.get("Content-Encoding") == coding
    assert response.headers.get_all("Vary") == ("Accept-Encoding",)
    assert (response.text == TEXT) if coding is None else (len(response.content) < len(TEXT))


# ------------------------------------------------------------------------------------- which responses


TYPES = [
    *[(media_type, True) for media_type in ("text/plain", "text/html; charset=utf-8", "TEXT/CSS", "text/csv")],
    *[(media_type, True) for media_type in ("application/json", "application/javascript", "application/wasm")],
    *[
        (media_type, True)
        for media_type in ("application/problem+json", "image/svg+xml", "application/atom+xml;a=b")
    ],
    *[(media_type, True) for media_type in ("font/ttf", "image/bmp", "application/x-ndjson", "application/yaml")],
    *[(media_type, False) for media_type in ("text/event-stream", "Text/Event-Stream; charset=utf-8")],
    *[(media_type, False) for media_type in ("image/png", "image/jpeg", "image/webp", "image/avif", "video/mp4")],
    *[
        (media_type, False)
        for media_type in ("audio/mpeg", "application/zip", "application/gzip", "application/pdf")
    ],
    *[
        (media_type, False)
        for media_type in ("font/woff", "font/woff2", "application/octet-stream", "multipart/mixed")
    ],
    *[(media_type, False) for media_type in ("multipart/byteranges; boundary=a", "json", "application/zstd")],
]


@pytest.mark.parametrize(("media_type", "is_compressible"), TYPES)
async def test_media_types(media_type: str, is_compressible: bool) -> None:
    """Text of all kinds is compressed; event streams and what is compressed already is not."""
    response = text_with(("Content-Type", media_type))
    answer = await run(response)
    assert ("Content-Encoding" in answer.headers) == ("Vary" in answer.headers) == is_compressible
    assert (answer is response) != is_compressible
    assert answer.content_type == media_type


UNTOUCHED = [
    text_with(status=206),
    text_with(("Content-Range", "bytes 0-9/100")),
    text_with(("Content-Encoding", "br")),
    text_with(("Content-Encoding", "identity")),
    text_with(("Cache-Control", "no-transform")),
    text_with(("Cache-Control", "max-age=5, No-Transform")),
    text_with(("Content-Digest", "sha-256=:AAAA:")),
    text_with(("Repr-Digest", "sha-256=:AAAA:")),
    Response(200, b"\0" * 5000),
    Response(200),
    Response(200, "x" * 999),
    Response(204),
    Response(205),
    Response(302, headers={"Location": "/"}),
]


@pytest.mark.parametrize("response", UNTOUCHED, ids=repr)
async def test_responses_that_stay(response: Response) -> None:
    """Ranges, encoded bodies, small ones and those that must not be transformed stay as they are."""
    assert await run(response) is response


@pytest.mark.parametrize("status", [200, 201, 404, 500])
async def test_every_status_with_a_body(status: int) -> None:
    """Error responses are compressed, too."""
    assert (await run(text_with(status=status))).headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("minimum", "size", "is_compressed"), [(0, 100, True), (100, 100, True), (101, 100, False)]
)
async def test_the_minimum(minimum: int, size: int, is_compressed: bool) -> None:
    """Bodies of at least the minimum are compressed."""
    response = await run(Response(200, "a" * size), minimum=minimum)
    assert ("Content-Encoding" in response.headers) == is_compressed


async def test_body_that_would_grow_is_sent_as_it_is() -> None:
    """A body that would grow is sent as it is, and Vary tells that others may be compressed."""
    response = await run(Response(200, "abc", {"ETag": '"1"'}), minimum=0)
    assert (response.text, response.headers) == ("abc", Headers({"ETag": '"1"', "Vary": "Accept-Encoding"}))
    empty = Response(200, "")
    assert await run(empty, minimum=0) is empty


async def test_vary_is_kept() -> None:
    """Accept-Encoding is added to the Vary of the handler, once."""
    assert (await run(text_with(("Vary", "Origin")))).headers.get_all("Vary") == ("Origin", "Accept-Encoding")
    assert (await run(text_with(("Vary", "accept-encoding")))).headers.get_all("Vary") == ("accept-encoding",)
    assert (await run(text_with(("Vary", "*")))).headers.get_all("Vary") == ("*",)


# ------------------------------------------------------------------------------------------------ HEAD


async def test_head_is_like_get() -> None:
    """A handler that returns the body for HEAD gets the same fields as for GET."""
    headers = Headers({"Accept-Encoding": "gzip"})
    response = text_with(("ETag", '"1"'), ("Accept-Ranges", "bytes"))
    assert await run(response, Request("HEAD", headers=headers)) == await run(response, Request(headers=headers))


async def test_head_without_a_body() -> None:
    """A handler that returns only the length for HEAD gets the fields of GET, but no length: it is not known."""
    request = Request("HEAD", headers=Headers({"Accept-Encoding": "gzip"}))
    fields = [("Content-Type", "text/css"), ("ETag", '"1"')]
    response = await run(Response(200, b"", [*fields, ("Content-Length", "5000")]), request)
    assert dict(response.headers) == {
        "Content-Type": "text/css",
        "Vary": "Accept-Encoding",
        "Content-Encoding": "gzip",
        "ETag": '"1-gzip"',
    }
    for length in ("999", "0", "x", "-5000", "9" * 30, "\xb2"):
        small = Response(200, b"", [*fields, ("Content-Length", length)])
        assert await run(small, request) is small


# ----------------------------------------------------------------------------------------- entity tags


TAGS = [
    ('"1"', '"1-gzip"'),
    ('""', '"-gzip"'),
    ('W/"1"', 'W/"1"'),
    ("1", None),
    ('"1', None),
]


@pytest.mark.parametrize(("tag", "coded"), TAGS)
async def test_tags(tag: str, coded: str | None) -> None:
    """The strong tag of a coded body has the coding in it, and weak ones stay (RFC 9110, section 8.8.3)."""
    assert (await run(text_with(("ETag", tag)))).headers.get("ETag") == coded
    assert (await run(text_with(("ETag", tag)), "identity")).headers["ETag"] == tag


async def condition(name: str, value: str, accept: str = "gzip") -> str:
    """The condition that the handler gets, as one list."""
    seen: list[str] = []

    async def call_next(request: Request) -> Response:
        seen.append(", ".join(request.headers.get_all(name)))
        return Response(204)

    request = Request(headers=Headers({name: value, "Accept-Encoding": accept}))
    await compression()(request, None, call_next)
    return seen[0]


CONDITIONS = [
    ("If-None-Match", '"1-gzip"', '"1-gzip", "1"'),
    ("If-None-Match", '"2", "1-gzip", W/"3-gzip"', '"2", "1-gzip", W/"3-gzip", "1"'),
    ("If-None-Match", '"b-gzip", "a-gzip"', '"b-gzip", "a-gzip", "a", "b"'),
    ("If-None-Match", '"1"', '"1"'),
    ("If-None-Match", '"1-br"', '"1-br"'),
    ("If-None-Match", '"gzip"', '"gzip"'),
    ("If-None-Match", 'W/"1-gzip"', 'W/"1-gzip"'),
    ("If-None-Match", "*", "*"),
    ("If-None-Match", "1-gzip", "1-gzip"),
    ("If-Match", '"1-gzip"', '"1-gzip", "1"'),
    # The client has a part of the coded body, to which a part of the other one must not be appended.
    ("If-Range", '"1-gzip"', '"1-gzip"'),
]


@pytest.mark.parametrize(("name", "sent", "seen"), CONDITIONS)
async def test_conditions(name: str, sent: str, seen: str) -> None:
    """A handler sees its own tag where the client has the one of the coded body."""
    assert await condition(name, sent) == seen


async def test_conditions_of_clients_that_accept_another_coding() -> None:
    """If-None-Match is only about the body that the client would get; If-Match is about the resource."""
    assert await condition("If-None-Match", '"1-gzip"', "identity") == '"1-gzip"'
    assert await condition("If-Match", '"1-gzip"', "identity") == '"1-gzip", "1"'


NOT_MODIFIED = [
    # tag of the handler, If-None-Match, Accept-Encoding, tag of the 304
    ('"1"', '"1-gzip"', "gzip", '"1-gzip"'),
    ('"1"', '"1"', "gzip", '"1"'),
    ('"1"', '"0", "1-gzip", "1"', "gzip", '"1-gzip"'),
    ('"1"', '"1-gzip"', "identity", '"1"'),
    ('W/"1"', 'W/"1"', "gzip", 'W/"1"'),
    ('"1"', "*", "gzip", '"1"'),
    ("1", '"1-gzip"', "gzip", "1"),
]


@pytest.mark.parametrize(("own", "sent", "accept", "expected"), NOT_MODIFIED)
async def test_not_modified(own: str, sent: str, accept: str, expected: str) -> None:
    """A 304 has the tag that the client knows (RFC 9110, section 15.4.5)."""
    request = Request(headers=Headers({"If-None-Match": sent, "Accept-Encoding": accept}))
    response = await run(Response(304, headers={"ETag": own}), request)
    assert (response.status, response.headers.get_all("ETag")) == (304, (expected,))
    assert response.headers["Vary"] == "Accept-Encoding"


async def test_a_client_comes_back() -> None:
    """A client that sends back the tag of its coded response gets a 304 from a handler that knows only its own."""

    async def handler(request: Request) -> Response:
        known = request.headers.get("If-None-Match", "").split(", ") + list(
            request.headers.get_all("If-None-Match")
        )
        return Response(304, headers={"ETag": '"1"'}) if '"1"' in known else text_with(("ETag", '"1"'))

    layer, accept = compression(), ("Accept-Encoding", "gzip")
    first = await layer(Request(headers=Headers([accept])), None, handler)
    again = Request(headers=Headers([accept, ("If-None-Match", first.headers["ETag"])]))
    second = await layer(again, None, handler)
    assert (first.status, second.status) == (200, 304)
    assert first.headers["ETag"] == second.headers["ETag"]


async def test_a_range_of_a_coded_body_is_not_offered() -> None:
    """The coded body does not accept ranges, because those of the handler are of the other one."""
    fields = ("Accept-Ranges", "bytes")
    assert "Accept-Ranges" not in (await run(text_with(fields))).headers
    assert "Accept-Ranges" in (await run(text_with(fields), "identity")).headers


# ---------------------------------------------------------------------------------------------- thread


@pytest.mark.parametrize(("size", "is_cancelled"), [(INLINE_SIZE, False), (INLINE_SIZE + 1, True)])
async def test_large_bodies_are_compressed_in_a_thread(size: int, is_cancelled: bool) -> None:
    """Up to 64 KiB there is no checkpoint; above, a worker thread compresses, and can be cancelled."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await run(Response(200, "a" * size))
    assert scope.cancelled_caught == is_cancelled
    response = await run(Response(200, "a" * size))
    assert decoder_of("gzip")(response.content) == b"a" * size


async def test_a_cancelled_thread_stops(nursery: trio.Nursery) -> None:
    """A thread that compresses a large body stops before the end if the request is cancelled."""
    response = Response(200, b"a" * 2**27, {"Content-Type": "text/plain"})
    with trio.CancelScope() as scope:

        async def cancel_the_thread() -> None:
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

        nursery.start_soon(cancel_the_thread)
        await run(response)
    assert scope.cancelled_caught  # not so if the thread had run to its end


@pytest.mark.parametrize(("size", "is_cancelled"), [(INLINE_SIZE, False), (INLINE_SIZE + 1, True)])
async def test_large_pieces_are_compressed_in_a_thread(size: int, is_cancelled: bool) -> None:
    """So are pieces of a stream. A piece that was cancelled before its thread began has no effect."""
    body = (await run(Response.stream(forever, headers={"Content-Type": "text/plain"}))).body
    assert isinstance(body, TransformedBody)
    transform, decode = body.begin(), decoder_of("gzip")
    with trio.CancelScope() as scope:
        scope.cancel()
        assert decode(await transform.transform(b"a" * size)) == b"a" * size
    assert scope.cancelled_caught == is_cancelled
    assert decode(await transform.transform(b"b" * size)) == b"b" * size
    assert decode(transform.finish()) == b""


async def forever(write: Write) -> None:
    await trio.sleep_forever()


@any_coding
@pytest.mark.parametrize("size", [100, 30_000])
async def test_cancelled_writes(coding: str, size: int, autojump_clock: trio.testing.MockClock) -> None:
    """A write that is cancelled has sent its whole piece or none of it, also below this layer."""
    cancelled = 0

    async def produce(write: Write) -> None:
        nonlocal cancelled
        for number in range(30):
            piece = f"{number} ".encode() + secrets.token_bytes(size) + b";"
            pieces.append(piece)
            # Some are cancelled before they begin, some while they wait.
            with trio.CancelScope(deadline=trio.current_time() + (1 if number % 7 else -1)) as scope:
                await write(piece)
            cancelled += scope.cancelled_caught

    def handler(request: Request) -> Response:
        return Response.stream(produce, headers={"Content-Type": "text/plain"})

    pieces: list[bytes] = []
    app = App().with_layer(compression()).with_stateless_route("/", handler)
    async with streaming(app, partial(memory_connection, 4096)) as connect:
        client = connect()
        await client.get("/", f"Accept-Encoding: {coding}")
        head = await client.head()
        content = b""
        decode = decoder_of(coding)
        while chunk := await client.chunk():
            content += decode(chunk)
            await trio.sleep(3)
    assert head.headers["Content-Encoding"] == coding
    assert cancelled > 4
    for piece in pieces:
        if content.startswith(piece):
            content = content[len(piece) :]
    assert content == b""


@any_coding
async def test_cancelled_writes_to_a_client_that_does_not_read(
    coding: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Of the pieces whose writes were cancelled, one is kept at most beside the one that is being sent."""
    pieces = [secrets.token_bytes(30_000) for _ in range(6)]

    async def produce(write: Write) -> None:
        for piece in pieces:
            with trio.move_on_after(1):
                await write(piece)
        await write(b"end")

    def handler(request: Request) -> Response:
        return Response.stream(produce, headers={"Content-Type": "text/plain"})

    app = App().with_layer(compression()).with_stateless_route("/", handler)
    async with streaming(app, partial(memory_connection, 4096)) as connect:
        client = connect()
        await client.get("/", f"Accept-Encoding: {coding}")
        await trio.sleep(10)
        content = await client.body(await client.head())
    assert decoder_of(coding)(content) == b"".join([*pieces[:2], b"end"])


@any_coding
async def test_several_writers_of_large_pieces(coding: str) -> None:
    """Tasks that write large pieces at the same time do not mix them, and one that is cancelled does no harm."""
    pieces = [bytes([number]) * (INLINE_SIZE + 1) for number in range(8)]

    async def produce(write: Write) -> None:
        async with trio.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(write, piece)
            with trio.CancelScope() as scope:
                scope.cancel()
                await write(b"x" * (INLINE_SIZE + 1))

    request = Request(headers={"Accept-Encoding": coding})
    response = await run(Response.stream(produce, headers={"Content-Type": "text/plain"}), request)
    content = decoder_of(coding)(await read_body(response))
    found = [content[at : at + INLINE_SIZE + 1] for at in range(0, len(content), INLINE_SIZE + 1)]
    assert sorted(found) == pieces


@pytest.mark.parametrize("accept", ["identity", *CODINGS])
async def test_a_piece_that_was_cancelled_is_missed(accept: str) -> None:
    """A body whose last write was cancelled, and sent nothing, is shorter than its length, which is a failure."""

    async def produce(write: Write) -> None:
        await write(b"a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await write(b"b" * (INLINE_SIZE + 1))

    response = Response.stream(produce, length=INLINE_SIZE + 2, headers={"Content-Type": "text/plain"})
    with pytest.raises(ValueError, match="has 1 bytes, less than its length"):
        await read_body(await run(response, accept))


@pytest.mark.parametrize("accept", ["identity", *CODINGS])
async def test_late_writers(accept: str, nursery: trio.Nursery) -> None:
    """A task that outlives the producer ends the write that it has begun. The next write is an error."""
    late = b"a" * (INLINE_SIZE + 1)
    begun, ended = trio.Event(), trio.Event()

    async def write_late(write: Write) -> None:
        begun.set()
        await write(late)
        with pytest.raises(RuntimeError, match="the response is over"):
            await write(b"b")
        ended.set()

    async def produce(write: Write) -> None:
        await write(b"first")
        nursery.start_soon(write_late, write)
        await begun.wait()

    def handler(request: Request) -> Response:
        return Response.stream(produce, headers={"Content-Type": "text/plain"})

    app = App().with_layer(compression()).with_stateless_route("/", handler)
    async with streaming(app, partial(memory_connection, 4)) as connect:
        client = connect()
        await client.get("/", f"Accept-Encoding: {accept}")
        content = await client.body(await client.head())
        await ended.wait()
    assert (content if accept == "identity" else decoder_of(accept)(content)) == b"first" + late


# -------------------------------------------------------------------------------------------- settings


def test_wrong_settings() -> None:
    """A negative minimum raises when the layer is made, and the layer shows its settings."""
    with pytest.raises(ValueError, match="must be at least 0; 0 compresses every body"):
        compression(minimum=-1)
    assert repr(compression()) == "compression(minimum=1000)"


@pytest.mark.parametrize("name", ["If-None-Match", "If-Match", "Accept-Encoding"])
@pytest.mark.parametrize("value", ['"1-gzip", ', '"', "gzip;q=0.5,", ", ", "-gzip"])
async def test_the_work_is_linear(name: str, value: str) -> None:
    """Fields of four times the size take about four times as long; sixteen would be quadratic."""

    async def seconds(size: int) -> float:
        headers = Headers([(name, (value * size).strip()), ("Accept-Encoding", "gzip")])
        begun = time.process_time()
        await run(Response(304, headers={"ETag": '"1"'}), Request(headers=headers))
        return time.process_time() - begun

    small = large = float("inf")
    for turn in range(8):
        small, large = min(small, await seconds(1_000)), min(large, await seconds(4_000))
        if turn > 1 and large < 9 * small + 0.0005:
            return
    pytest.fail(f"four times the data took {large / small:.1f} times as long")
