"""How handlers construct responses: JSON, HTML, redirects, cookies, streams and events; and wrong arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from math import nan
from typing import Any

import pytest

from humphrey_trio import App, HttpError, Response, SameSite, SetCookie
from humphrey_trio.http import EventSender, Headers
from humphrey_trio.testing import http_client

# ---------------------------------------------------------------------------------------- JSON and HTML


@pytest.mark.parametrize(
    ("value", "content"),
    [({"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'), ([], "[]"), ("x", '"x"'), (None, "null"), (0.5, "0.5")],
)
def test_json(value: object, content: str) -> None:
    """A value is sent as compact JSON in UTF-8, with its type."""
    response = Response.json(value)
    assert (response.status, response.text, response.content_type) == (200, content, "application/json")


def test_parse_json() -> None:
    """``parse_json`` returns the value of the body, whatever its type says, and is as strict as for requests."""
    assert Response.json({"a": [1, None, "é"]}).parse_json() == {"a": [1, None, "é"]}
    assert Response(200, "[1]").parse_json() == [1]
    for content in ("", "{", "NaN"):
        with pytest.raises(ValueError, match=r"JSON|Expecting"):
            Response(200, content).parse_json()
    with pytest.raises(RuntimeError, match="read_body"):
        Response.stream(produce).parse_json()


def test_html() -> None:
    """A page is sent in UTF-8, with its type. Nothing is escaped."""
    response = Response.html("<p>é</p>")
    assert (response.status, response.text) == (200, "<p>é</p>")
    assert response.content_type == "text/html; charset=utf-8"


async def produce(write: Any) -> None:
    await write("x")


CONSTRUCTORS: list[Callable[..., Response]] = [
    partial(Response.json, 1),
    partial(Response.html, "x"),
    partial(Response.stream, produce),
]


@pytest.mark.parametrize("build", CONSTRUCTORS)
def test_status_and_headers(build: Callable[..., Response]) -> None:
    """Each constructor takes a status and headers, in all forms. A given Content-Type is used."""
    assert build(status=201).status == 201
    for headers in ({"X": "1", "content-type": "a/b"}, iter([("X", "1"), ("Content-Type", "a/b")])):
        response = build(headers=headers)
        assert (response.headers["X"], response.headers.get_all("Content-Type")) == ("1", ("a/b",))
    with pytest.raises(ValueError, match="must not have a body"):
        build(status=204)
    with pytest.raises(ValueError, match="omit Transfer-Encoding"):
        build(headers={"Transfer-Encoding": "chunked"})
    with pytest.raises(TypeError):
        build(201)  # the options are keywords


def test_replace_header() -> None:
    """``replace_header`` removes all fields of a name, in any letter case, and adds one at the end."""
    response = Response(200, "x", [("A", "1"), ("b", "2"), ("a", "3")])
    assert list(response.replace_header("a", "4").headers) == [("b", "2"), ("a", "4")]
    assert list(response.replace_header("c", "5").headers) == [*response.headers, ("c", "5")]


async def test_values_reach_the_client() -> None:
    """The fields of these responses are on the wire once."""
    app = App().with_stateless_route("/json", lambda _: Response.json({"a": 1}, headers={"X": "1"}))
    async with http_client(app.with_stateless_route("/html", lambda _: Response.html("<p>"))) as client:
        replies = [await client.get("/json"), await client.get("/html")]
    assert [reply.headers.get_all("Content-Type") for reply in replies] == [
        ("application/json",),
        ("text/html; charset=utf-8",),
    ]
    assert [reply.text for reply in replies] == ['{"a":1}', "<p>"]


# -------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("/there?a=b#c", "/there?a=b#c"),
        ("https://user@[::1]:8080/a%20b;x=1?q='(!*)'&c=$+,~", "https://user@[::1]:8080/a%20b;x=1?q='(!*)'&c=$+,~"),
        ("//host/", "//host/"),
        ("../up", "../up"),
        ("/café au lait", "/caf%C3%A9%20au%20lait"),
        ("/€?q=\U0001f600", "/%E2%82%AC?q=%F0%9F%98%80"),
        ('/<a>"^`{|}', "/%3Ca%3E%22%5E%60%7B%7C%7D"),
        # Browsers take a backslash for a slash: this would lead to another host.
        ("/\\evil.example", "/%5Cevil.example"),
    ],
)
def test_a_location_is_encoded(location: str, sent: str) -> None:
    """Characters that cannot stand in a URI are percent-encoded as UTF-8; what is encoded already stays."""
    response = Response.redirect(location)
    assert (response.status, list(response.headers), response.content) == (302, [("Location", sent)], b"")


INVALID_LOCATIONS = ["", " ", "/a\r\nX: 1", "/a\n", "\n/a", "/a\x00", "/a\x7f", "/a\x85", " /a", "/a ", "/\ud800"]


@pytest.mark.parametrize("location", INVALID_LOCATIONS)
def test_an_invalid_location(location: str) -> None:
    """Control characters, outer white space and nothing at all are a ValueError."""
    with pytest.raises(ValueError, match="is not a valid Location: write a URI or a path"):
        Response.redirect(location)


def test_a_location_is_a_str() -> None:
    """Another type is a TypeError, and the status is a keyword."""
    with pytest.raises(TypeError, match="a location is a str, not bytes"):
        Response.redirect(b"/")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Response.redirect("/", 301)  # type: ignore[call-arg]


# ---------------------------------------------------------------------------------------------- cookies


def test_with_cookie() -> None:
    """A cookie is one more Set-Cookie field."""
    cookie = SetCookie("b", "2", max_age=3600, secure=True, same_site=SameSite.NONE)
    response = Response(200, "x").with_cookie(SetCookie("a", "1")).with_cookie(cookie)
    assert response.headers.get_all("Set-Cookie") == ("a=1; Path=/", cookie.to_header())
    assert response.text == "x"


@pytest.mark.parametrize(("name", "value"), [("n;x", "v"), ("n", "v\r\nX: 1"), ("", "v"), ("n", "a b")])
def test_an_invalid_cookie(name: str, value: str) -> None:
    """What would be another cookie or field is a ValueError, which Humphrey sends."""
    with pytest.raises(ValueError, match="cookie"):
        SetCookie(name, value)


def test_a_deleted_cookie() -> None:
    """``SetCookie.deleted`` is passed in the same way."""
    response = Response(200).with_cookie(SetCookie.deleted("a"))
    assert response.headers["Set-Cookie"] == "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/"


@pytest.mark.parametrize("cookie", ["a=1", ("a", "1"), None])
def test_with_cookie_takes_a_set_cookie(cookie: Any) -> None:
    """Another type is a TypeError that says what to write."""
    with pytest.raises(TypeError, match=r"with_cookie takes a SetCookie\('name', 'value'\), not "):
        Response(200).with_cookie(cookie)


# ------------------------------------------------------------------------------------ streams and events


class Producer:
    """Callables that can be producers."""

    async def method(self, write: Any) -> None:
        await write("x")

    async def __call__(self, write: Any) -> None:
        await write("x")


async def with_options(write: Any, size: int = 1, *rest: int, flag: bool = False) -> None:
    await write("x")


async def with_name(name: str, write: Any) -> None:
    await write(name)


PRODUCERS = [
    *(produce, with_options, Producer().method, Producer(), partial(with_name, "x")),
    lambda write: with_name("x", write),
]


@pytest.mark.parametrize("producer", PRODUCERS)
def test_producers(producer: Any) -> None:
    """Whatever can be called with one argument is a producer of a stream and of events."""
    for response in (Response.stream(producer), Response.events(producer)):
        assert response.body is not None
        assert response.status == 200


async def test_an_async_iterable() -> None:
    """An async generator is a stream."""

    async def pieces() -> AsyncIterator[str]:
        yield "x"

    response = Response.stream(pieces(), length=1)
    assert response.body is not None
    assert response.body.length == 1


def test_events() -> None:
    """The fields of an event stream are set, unless they are given."""

    async def tell(events: EventSender) -> None:
        await events.send("x")

    assert list(Response.events(tell).headers) == [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-store"),
        ("X-Accel-Buffering", "no"),
    ]
    own = [("cache-control", "no-cache"), ("X", "1"), ("x-accel-buffering", "yes")]
    given = Response.events(tell, headers=own).headers
    assert given == Headers([("Content-Type", "text/event-stream"), *own])


async def no_argument() -> None: ...


async def two_arguments(write: Any, other: Any) -> None: ...


async def a_keyword(write: Any, *, other: Any) -> None: ...


async def pieces() -> AsyncIterator[str]:
    yield "x"


def plain_pieces(write: Any) -> Iterator[str]:
    yield "x"


NOT_PRODUCERS = [
    (no_argument, "this one cannot be called with {} alone"),
    (two_arguments, "this one cannot be called with {} alone"),
    (a_keyword, "this one cannot be called with {} alone"),
    (lambda: None, "this one cannot be called with {} alone"),
    (plain_pieces, "this is a plain generator function"),
    ("text", "str is not one"),
    (b"bytes", "bytes is not one"),
    (["a list"], "list is not one"),
    (None, "NoneType is not one"),
]


@pytest.mark.parametrize(("wrong", "message"), NOT_PRODUCERS)
def test_not_producers(wrong: Any, message: str) -> None:
    """Anything else is a TypeError at construction that says what is expected."""
    for build, argument in ((Response.stream, "write"), (Response.events, "events")):
        with pytest.raises(
            TypeError, match=rf"takes a coroutine function, async def produce\({argument}\): "
        ) as raised:
            build(wrong)
        assert message.format(argument) in str(raised.value)


def test_a_called_producer() -> None:
    """A coroutine in place of its function is a TypeError, without a warning that it was never awaited."""
    with pytest.raises(TypeError, match="pass the function itself, without calling it"):
        Response.stream(produce(None))  # type: ignore[arg-type]


def test_an_async_generator_function() -> None:
    """For a stream it has to be called. Events are not yielded."""
    with pytest.raises(TypeError, match="call this async generator function"):
        Response.stream(pieces)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"await events\.send instead of yield"):
        Response.events(pieces)  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "error"), [(-1, ValueError), ("5", TypeError), (1.5, TypeError)])
def test_the_length_of_a_stream(length: Any, error: type[Exception]) -> None:
    """A length that cannot be sent is refused."""
    with pytest.raises(error, match="the length of a body"):
        Response.stream(produce, length=length)


# ---------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Response(200, {"a": 1}), r"not Response\(int, dict\)\. For JSON, write Response\.json\(value\)"),
        (lambda: Response(200, [1]), r"write Response\.json\(value\)"),
        (lambda: Response(200, None), r"Without a body, write Response\.empty\(status\)"),
        (lambda: Response(200, produce), r"write Response\.stream\(body\)"),
        (lambda: Response(200, pieces()), r"write Response\.stream\(body\)"),
        (lambda: Response("x", "y"), r"not Response\(str, str\)\. For a text, write Response\(200, text\)"),
        (lambda: Response("OK"), r"not Response\(str\)\. For a text, write Response\(200, text\)"),
        (lambda: Response(b"x"), r"not Response\(bytes\)\. For a text, write Response\(200, text\)"),
        (lambda: Response("x", 200), r"not Response\(str, int\)\. The status is first: Response\(200, 'text'\)"),
        (lambda: Response(True), r"not Response\(bool\)$"),
        (lambda: Response(200, b"x", "text/html"), r"not str: write headers=\{'Content-Type': 'text/html'\}"),
        (lambda: Response(200, b"x", {"Retry-After": 5}), r"must be str: \('Retry-After', 5\)\. Convert them"),
        (lambda: Response.json({"a": {1}}), "not JSON: Object of type set is not JSON serializable"),
        (lambda: Response.json(b"{}"), "not JSON: Object of type bytes"),
        (lambda: Response.html(b"<p>"), "Response.html takes a str, not bytes: decode bytes first"),
        (lambda: HttpError("not found"), r"an int status, then a str: not HttpError\(str, str\)"),
        (lambda: HttpError(404, {"id": 1}), r"not HttpError\(int, dict\)"),
    ],
)
def test_wrong_arguments(build: Callable[[], Any], message: str) -> None:
    """Arguments of a wrong type raise a TypeError at construction that says what to write instead."""
    with pytest.raises(TypeError, match=message):
        build()


@pytest.mark.parametrize("value", [nan, "\ud800", {"a": nan}])
def test_values_that_are_not_json(value: object) -> None:
    """Values that JSON does not have are a ValueError."""
    with pytest.raises(ValueError, match="not JSON"):
        Response.json(value)
