"""The HTTP client of ``humphrey_trio.testing`` with an app: requests, streams, connections, and leaving."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Response
from humphrey_trio.http import Address, Write
from humphrey_trio.testing import HttpClient, ResponseError, Upload, http_client
from tests.support import ANY_PORT

LARGE = 300 * 1024


def describe(request: Request) -> Response:
    """Answer with what was received."""
    return Response.json(
        {
            "method": request.method,
            "type": request.headers.get("Content-Type", ""),
            "framing": request.headers.get("Content-Length") or request.headers.get("Transfer-Encoding"),
            "text": request.content.decode(),
        }
    )


def describing() -> App[None]:
    return App().with_stateless_route("*", describe)


# Requests...


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_short_forms(method: str) -> None:
    """The short form of a method sends the same as request."""
    async with http_client(describing()) as client:
        short = getattr(client, method.lower())
        expected = await client.request(method, "/", content="text")
        assert await short("/", content="text") == expected
        assert f'"method":"{method}"' in expected.text


async def test_options_and_head() -> None:
    """options and head send these methods."""
    async with http_client(App().with_stateless_route("/", describe, methods=("GET",))) as client:
        assert (await client.options("/")).headers["Allow"] == "GET, HEAD, OPTIONS"
        head = await client.head("/")
        assert (head.status, head.content) == (200, b"")
        assert int(head.headers["Content-Length"]) == len('{"method":"HEAD","type":"","framing":null,"text":""}')


async def test_any_method() -> None:
    """Any token is a method."""
    async with http_client(describing()) as client:
        assert '"method":"REPORT"' in (await client.request("REPORT", "/")).text


@pytest.mark.parametrize(
    ("options", "media_type", "text"),
    [
        ({"content": "zw\u00f6lf"}, "", "zw\u00f6lf"),
        ({"content": b"bytes"}, "", "bytes"),
        ({"json": {"a": [1, None]}}, "application/json", '{"a":[1,null]}'),
        ({"json": None}, "application/json", "null"),
        ({"json": 1, "headers": {"content-type": "application/x+json"}}, "application/x+json", "1"),
        ({"form": {"a": "1 & 2", "b": "\u00f6"}}, "application/x-www-form-urlencoded", "a=1+%26+2&b=%C3%B6"),
        ({"form": [("a", "1"), ("a", "2")]}, "application/x-www-form-urlencoded", "a=1&a=2"),
    ],
)
async def test_whole_bodies(options: Any, media_type: str, text: str) -> None:
    """A body is sent with its length and its media type, unless another one is given."""
    async with http_client(describing()) as client:
        response = await client.post("/", **options)
    assert response == Response.json(
        {"method": "POST", "type": media_type, "framing": str(len(text.encode())), "text": text},
        headers=response.headers,
    )


async def test_forms_with_files() -> None:
    """Fields and files are sent as multipart, with their names, types and contents."""

    def show(request: Request) -> Response:
        form = request.form()
        files = [(name, file.filename, file.content_type, file.content.decode()) for name, file in form.files]
        return Response.json([list(form), files])

    uploads = [("file", Upload('a "b"\r\n.txt', "\r\n--x\r\n", "text/plain")), ("file", Upload("\u00f6", b"1"))]
    async with http_client(App().with_stateless_route("/", show)) as client:
        response = await client.post("/", form={"title": "\u00e4\r\n"}, files=uploads)
        alone = await client.post("/", files={"file": Upload("", "")})
    assert json.loads(response.text) == [
        [["title", "\u00e4\r\n"]],
        [
            ["file", 'a "b"\r\n.txt', "text/plain", "\r\n--x\r\n"],
            ["file", "\u00f6", "application/octet-stream", "1"],
        ],
    ]
    assert alone.text == "[[],[]]"


async def pieces() -> AsyncIterator[bytes | str]:
    for piece in (b"one ", "", "zw\u00f6lf"):
        await trio.sleep(1)
        yield piece


async def produce(write: Write) -> None:
    async for piece in pieces():
        await write(piece)


@pytest.mark.parametrize("make", [pieces, lambda: produce], ids=["iterable", "producer"])
@pytest.mark.parametrize("length", [None, "10"])
async def test_streamed_requests(
    make: Callable[[], Any], length: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    """A body that is produced while it is sent is chunked, or has the given length."""
    headers = {} if length is None else {"Content-Length": length}
    async with http_client(describing()) as client:
        response = await client.post("/", content=make(), headers=headers)
        assert f'"framing":"{length or "chunked"}","text":"one zw\u00f6lf"' in response.text
        assert (await client.get("/")).status == 200


@pytest.mark.parametrize(("length", "wrong"), [("9", "longer .* by 1 bytes"), ("11", "shorter .* by 1 bytes")])
async def test_streamed_requests_with_a_wrong_length(
    length: str, wrong: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A body that does not have its length is an error, and the next request has a new connection."""
    async with http_client(describing()) as client:
        with pytest.raises(ValueError, match=wrong):
            await client.post("/", content=pieces(), headers={"Content-Length": length})
        assert (await client.get("/")).status == 200


async def test_a_body_that_fails() -> None:
    """The exception of a body is raised as it is, though the server waits for the rest."""

    async def fail(write: Write) -> None:
        await write("begun")
        raise LookupError("a test")

    async with http_client(describing()) as client:
        with pytest.raises(LookupError, match="a test"):
            await client.post("/", content=fail)
        assert (await client.get("/")).status == 200


@pytest.mark.parametrize("framing", [{}, {"Content-Length": str(3 * LARGE)}])
async def test_a_body_of_several_tasks(framing: dict[str, str]) -> None:
    """Several tasks of a producer may write. A piece whose write is cancelled before its turn is not sent."""
    pieces = [letter * LARGE for letter in "abc"]

    async def produce(write: Write) -> None:
        async with trio.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(write, piece)
            with trio.CancelScope() as scope:
                scope.cancel()
                await write("never")

    app = App().with_stateless_route("/", lambda request: Response(200, request.content), max_body=3 * LARGE)
    async with http_client(app) as client:
        content = (await client.post("/", content=produce, headers=framing)).text
    assert sorted(content[at : at + LARGE] for at in range(0, len(content), LARGE)) == pieces


async def test_a_body_that_was_cancelled() -> None:
    """After a piece that was sent in part, a body cannot be continued, which the test is told."""

    async def produce(write: Write) -> None:
        with trio.move_on_after(0.01):
            await write("x" * 10 * LARGE)
        await write("more")

    async def stall(request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError("the client has left")

    app = App().with_stateless_route("/", stall, stream=True, max_body=11 * LARGE)
    async with http_client(app) as client:
        with pytest.raises(RuntimeError, match="the body cannot be continued"):
            await client.post("/", content=produce)


async def test_chunked_content() -> None:
    """Bytes are chunked if the header fields say so."""
    async with http_client(describing()) as client:
        response = await client.post("/", content="text", headers={"Transfer-Encoding": "chunked"})
    assert '"framing":"chunked","text":"text"' in response.text


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.get("nope"), "is not a request target: begin it with '/'"),
        (lambda client: client.get("?q=1"), "is not a request target: begin it with '/'"),
        (lambda client: client.get("/a b"), "is not a request target: begin it with '/'"),
        (lambda client: client.get("/\u00f6"), "percent-encode"),
        (lambda client: client.request("G T", "/"), "is not a method: write a token"),
        (lambda client: client.post("/", content="a", json=1), "a request has one body"),
        (lambda client: client.post("/", json=1, form={"a": "b"}), "a request has one body"),
        (lambda client: client.post("/", json={1j}), "not JSON"),
        (lambda client: client.post("/", content={"a": 1}), "dict: use json= for values"),
        (lambda client: client.post("/", content=pieces), "an async generator function: call it"),
        (lambda client: client.post("/", content=produce(None)), "without calling it"),  # type: ignore[arg-type]
        (lambda client: client.post("/", files={"a": b"content"}), r"write files=\{'a': Upload\('name.txt'"),
        (lambda client: client.post("/", content="a", headers={"Content-Length": "2"}), "must be 1, or omitted"),
        (lambda client: client.post("/", content=pieces(), headers={"Content-Length": "x"}), "not 'x'"),
        (lambda client: client.get("/", params={}), "unexpected keyword argument"),
    ],
)
async def test_wrong_arguments(call: Callable[[Any], Awaitable[object]], error: str) -> None:
    """A wrong argument is an error that says what to write, and nothing is sent."""
    async with http_client(describing()) as client:
        with pytest.raises((TypeError, ValueError), match=error):
            await call(client)


def test_wrong_uploads() -> None:
    """An upload needs a name and a content."""
    with pytest.raises(TypeError, match=r"write Upload\(filename, content\)"):
        Upload("name", None)  # type: ignore[arg-type]


async def test_default_fields() -> None:
    """The host and the header fields of a client are those of every request that has no others."""

    def show(request: Request) -> Response:
        return Response(200, f"{request.host} {request.headers.get_all('A')}")

    app = App().with_stateless_route("/", show)
    async with http_client(app, host="example.com", headers={"A": "1"}) as client:
        assert (await client.get("/")).text == "example.com ('1',)"
        assert (await client.get("/", headers={"a": "2", "host": "b"})).text == "b ('2',)"


# Early responses and 100 Continue...


async def test_early_refusal_of_an_upload() -> None:
    """A 413 is received though most of the body was not sent, and the next request has a new connection."""
    app = App().with_stateless_route("/", describe, max_body=10)
    async with http_client(app) as client:
        assert (await client.post("/", content=b"x" * 10_000_000)).status == 413
        assert (await client.post("/", content="x" * 10)).status == 200


async def test_early_refusal_of_a_stream() -> None:
    """A refusal ends a body that would never end, and the body is closed."""
    closed: list[bool] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.append(True)

    app = App().with_stateless_route("/", describe, max_body=LARGE)
    async with http_client(app) as client:
        assert (await client.post("/", content=endless())).status == 413
        assert closed == [True]


async def test_large_bodies_both_ways() -> None:
    """A handler that answers while it reads, and a client that does the same, do not block each other."""

    async def echo(request: Request) -> Response:
        async def answer(write: Write) -> None:
            async for piece in request.body:
                await write(piece)

        return Response.stream(answer)

    app = App().with_stateless_route("/", echo, stream=True)
    async with http_client(app) as client:
        response = await client.post("/", content=b"x" * LARGE)
        assert response.content == b"x" * LARGE
        assert "Transfer-Encoding" not in response.headers


@pytest.mark.parametrize("content", ["text", b"x" * 50_000, pieces()], ids=["small", "large", "streamed"])
async def test_100_continue(content: Any, autojump_clock: trio.testing.MockClock) -> None:
    """With Expect, the body is sent when the handler reads it."""

    async def read(request: Request) -> Response:
        assert request.headers["Expect"] == "100-continue"
        await trio.sleep(1)
        return Response(200, str(len(await request.read(limit=LARGE))))

    app = App().with_stateless_route("/", read, stream=True)
    headers = {"Expect": "100-continue"}
    async with (
        http_client(app) as client,
        client.stream("POST", "/", content=content, headers=headers) as response,
    ):
        assert response.informational == (100,)
        assert await response.text() in ("4", "50000", "10")


async def test_refusal_instead_of_100() -> None:
    """With Expect, nothing of the body is sent if the final response comes first."""
    begun: list[bool] = []

    async def body(write: Write) -> None:
        begun.append(True)

    app = App().with_stateless_route("/", lambda _: Response(403), stream=True)
    async with http_client(app) as client:
        response = await client.post("/", content=body, headers={"Expect": "100-continue"})
        assert (response.status, begun) == (403, [])
        assert (await client.get("/")).status == 403


# Streamed responses...


def counting(left: list[str], count: int = 1000) -> App[None]:
    """An app that sends a number every second, and notes how its producer ends."""

    async def count_up(write: Write) -> None:
        try:
            for number in range(count):
                await write(f"{number}\n")
                await trio.sleep(1)
            left.append("finished")
        except trio.Cancelled:
            left.append("cancelled")
            raise

    return App().with_stateless_route("/", lambda _: Response.stream(count_up))


async def test_streamed_response(autojump_clock: trio.testing.MockClock) -> None:
    """Pieces are read when they were sent, with the real header fields."""
    async with http_client(counting([], 3)) as client:
        begun = trio.current_time()
        async with client.stream("GET", "/") as response:
            assert (response.status, response.headers["Transfer-Encoding"]) == (200, "chunked")
            assert [await anext(response), trio.current_time() - begun] == [b"0\n", pytest.approx(0, abs=0.1)]
            with pytest.raises(RuntimeError, match="the trailers follow the body: read it first"):
                _ = response.trailers
            assert not response.ended
            assert await response.text() == "1\n2\n"
            assert response.ended
            assert len(response.trailers) == 0
            assert [piece async for piece in response] == []
        assert trio.current_time() - begun == pytest.approx(3, abs=0.1)


async def test_limit_of_a_read() -> None:
    """A body that is longer than the limit is an error."""
    async with http_client(App().with_stateless_route("/", lambda _: Response(200, "1234"))) as client:
        async with client.stream("GET", "/") as response:
            with pytest.raises(ValueError, match="longer than 3 bytes: pass a higher limit, or iterate over it"):
                await response.read(3)
        async with client.stream("GET", "/") as response:
            assert await response.read(4) == b"1234"


async def test_responses_that_never_end() -> None:
    """A whole response is bounded, so a test does not run out of memory."""

    async def flood(write: Write) -> None:
        while True:
            await write(b"x" * 2**20)

    async with http_client(App().with_stateless_route("/", lambda _: Response.stream(flood))) as client:
        with pytest.raises(ResponseError, match=r"longer than 67108864 bytes: .*, with stream\(\)"):
            await client.get("/")


async def test_leaving_in_the_middle(autojump_clock: trio.testing.MockClock) -> None:
    """The end of the block disconnects, so the handler is cancelled."""
    left: list[str] = []
    async with http_client(counting(left)) as client:
        async with client.stream("GET", "/") as response:
            await anext(response)
        await trio.sleep(2)
        assert left == ["cancelled"]


async def test_closing_in_the_middle(autojump_clock: trio.testing.MockClock) -> None:
    """aclose disconnects at once. After that, nothing can be read."""
    left: list[str] = []
    async with http_client(counting(left)) as client, client.stream("GET", "/") as response:
        await anext(response)
        await response.aclose()
        await trio.sleep(2)
        assert left == ["cancelled"]
        with pytest.raises(trio.ClosedResourceError):
            await anext(response)


async def test_giving_up_on_a_handler(autojump_clock: trio.testing.MockClock) -> None:
    """A request that is cancelled disconnects, so its handler is cancelled."""
    ended: list[bool] = []

    async def wait(request: Request) -> Response:
        try:
            await trio.sleep(100)
        finally:
            ended.append(True)
        return Response.empty(204)

    async with http_client(App().with_stateless_route("/", wait)) as client:
        with trio.move_on_after(1):
            await client.get("/")
        await trio.sleep(2)
        assert ended == [True]


async def test_a_response_that_fails_in_the_middle() -> None:
    """A response without its end is an error."""

    async def fail(write: Write) -> None:
        await write("begun")
        raise LookupError("a test")

    async with http_client(App().with_stateless_route("/", lambda _: Response.stream(fail))) as client:
        with pytest.raises(ResponseError, match="closed the connection before the end of the body"):
            await client.get("/")


async def test_an_exception_of_the_block() -> None:
    """An exception of the block is raised as it is, also while a body is sent."""
    async with http_client(App().with_stateless_route("/", lambda _: Response(200), stream=True)) as client:
        with pytest.raises(LookupError, match="a test"):
            async with client.stream("POST", "/", content=b"x" * LARGE):
                raise LookupError("a test")


# Connections...


async def test_reuse_and_reconnection() -> None:
    """A connection is used again, until a response closes it or aclose is called. Works over sockets, too."""
    seen: list[Address] = []

    def close(request: Request) -> Response:
        seen.append(request.address)
        return Response(200, headers={"Connection": request.query} if request.query else ())

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(App().with_stateless_route("/", close).run, ANY_PORT)
        async with HttpClient(partial(trio.open_tcp_stream, *address)) as client:
            for target, opened in (("/", 1), ("/", 1), ("/?close", 1), ("/", 2), ("/", 2)):
                assert (await client.get(target)).status == 200
                assert len({*seen}) == opened
            await client.aclose()
            assert (await client.get("/")).status == 200
            assert len({*seen}) == 3
        nursery.cancel_scope.cancel()


async def test_requests_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    """A request during a stream has a connection of its own."""
    async with http_client(counting([], 2).with_stateless_route("/other", lambda _: Response(200))) as client:
        async with client.stream("GET", "/") as response:
            assert await anext(response) == b"0\n"
            assert (await client.get("/other")).status == 200
            assert await response.read() == b"1\n"
        assert (await client.get("/other")).status == 200


async def test_apps_that_are_no_apps() -> None:
    """Something else than an App is an error that names it."""
    with pytest.raises(TypeError, match="pass the HTTP App that has the route, not int"):
        async with http_client(1):  # type: ignore[arg-type]
            pass
