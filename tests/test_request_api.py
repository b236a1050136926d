"""What handlers read of a request: host and client, parameters, cookies, the body, and the values of layers."""

from __future__ import annotations

import copy
import pickle
import uuid
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from humphrey_trio import App, HttpError, Limits, Request, RequestKey, Response
from humphrey_trio.http import Address, Fields, Form, FormSettings, Forwarded, Headers, Method, Part, TlsInfo
from humphrey_trio.testing import http_client
from tests.support.parsers import each_parser as each_parser  # the fixture


def posted(content: bytes, content_type: str | None = None) -> Request:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return Request("POST", "/", headers=headers, content=content)


# ------------------------------------------------------------------------------------- host and client

PEER = Address("10.0.0.1", 5)
TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384")
CLIENT = Address("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "expected"), [(None, ""), ("", ""), ("Example.COM", "example.com"), ("[::1]:80", "[::1]:80")]
)
def test_the_host_is_that_of_the_field(host: str | None, expected: str) -> None:
    """The host of a request that was made by hand is its Host field in lower case, or empty."""
    request = Request(headers={} if host is None else {"Host": host})
    assert request.host == expected
    assert request.headers.get("Host") == host


@pytest.mark.usefixtures("each_parser")
@pytest.mark.parametrize(
    ("target", "expected"),
    [("/p", "testserver /p testserver"), ("http://A.Example:81/p", "a.example:81 /p testserver")],
)
async def test_the_host_of_a_received_request(target: str, expected: str) -> None:
    """The host of an absolute target takes precedence over the Host field (RFC 9112, section 3.2.2)."""

    def show(request: Request) -> Response:
        return Response(200, f"{request.host} {request.path} {request.headers['Host']}")

    async with http_client(App().with_stateless_route("*", show)) as client:
        assert (await client.get(target)).text == expected


@pytest.mark.parametrize(
    ("tls", "forwarded", "expected"),
    [
        (None, None, ("http", "a", PEER)),
        (TLS, None, ("https", "a", PEER)),
        (None, Forwarded(CLIENT), ("http", "a", CLIENT)),
        (None, Forwarded(CLIENT, "https", "B.Example"), ("https", "b.example", CLIENT)),
        (TLS, Forwarded(CLIENT, "http"), ("http", "a", CLIENT)),
    ],
)
def test_trusted_proxies_tell_the_client(
    tls: TlsInfo | None, forwarded: Forwarded | None, expected: object
) -> None:
    """The scheme, host and client are those of the connection, unless a trusted proxy has told others."""
    request = Request(headers={"Host": "A"}, address=PEER, tls=tls, forwarded=forwarded)
    assert (request.scheme, request.host, request.client) == expected
    assert request.address == PEER


# ------------------------------------------------------------------------------------------- parameters


class Color(Enum):
    """An enumeration, as a converter."""

    RED = "red"


QUERY = "page=7&page=8&name=a+b%20%C3%A9&empty=&flag&minus=-3&ratio=-1.5e3&color=red"


def test_query_params() -> None:
    """The query is decoded into an ordered multi-mapping. It is parsed once."""
    request = Request(query="a=1&b=%41+&a=2")
    assert list(request.query_params) == [("a", "1"), ("b", "A "), ("a", "2")]
    assert request.query_params is request.query_params
    assert Request().query_params == Fields()


@pytest.mark.parametrize(
    ("name", "convert", "expected"),
    [
        ("page", int, 7),
        ("page", str, "7"),
        ("page", float, 7.0),
        ("page", Decimal, Decimal(7)),
        ("name", str, "a b é"),
        ("empty", str, ""),
        ("flag", str, ""),
        ("minus", int, -3),
        ("ratio", float, -1500.0),
        ("color", Color, Color.RED),
        ("color", {"red": 1}.__getitem__, 1),
    ],
)
def test_a_query_param_is_converted(name: str, convert: Callable[[str], object], expected: object) -> None:
    """The first value of a name is passed to the converter."""
    value = Request(query=QUERY).query_param(name, convert)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("default", [None, 1, "x"])
def test_a_missing_query_param_is_the_default(default: object) -> None:
    """The default is not converted."""
    assert Request(query=QUERY).query_param("missing", int, default=default) == default
    assert Request().query_param("missing", default=default) == default


def test_a_required_query_param() -> None:
    """A missing parameter without a default is a 400 that names it."""
    with pytest.raises(HttpError, match="the query must have the parameter 'page'") as raised:
        Request(query="pages=1").query_param("page", int)
    assert raised.value.status == 400


INVALID = [
    *[
        (int, text)
        for text in ("", "x", "+1", "%2B1", "1_0", "%D9%A1", "1.0", "0x1", "--1", "-", "1%0A", "9" * 5000)
    ],
    *[(float, text) for text in ("", "nan", "inf", "-inf", "1_0.0", "1e999", ".5", "1.", "%D9%A1", "1e")],
    *[(Color, "blue"), (Decimal, "x"), (uuid.UUID, "x"), ({"red": 1}.__getitem__, "blue")],
]


@pytest.mark.parametrize(("convert", "text"), INVALID)
def test_an_invalid_query_param(convert: Callable[[str], object], text: str) -> None:
    """A value that cannot be converted is a 400 that names the parameter, default or not."""
    request = Request(query=f"page={text}")
    for options in ({}, {"default": 1}):
        with pytest.raises(HttpError, match="is not valid as 'page'") as raised:
            request.query_param("page", convert, **options)
        assert raised.value.status == 400


def test_a_converter_that_fails() -> None:
    """Other exceptions of a converter are failures of the handler."""

    def fail(text: str) -> int:
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="7"):
        Request(query=QUERY).query_param("page", fail)


@pytest.mark.parametrize("text", ["true", "false"])
def test_bool_is_refused_as_a_converter(text: str) -> None:
    """``bool`` would convert "false" to True, so it is refused for every value."""
    request = Request(query=f"x={text}", path_params={"x": text})
    for param in (request.query_param, request.path_param):
        with pytest.raises(TypeError, match="bool converts every text"):
            param("x", bool)


async def test_limits_bound_the_fields() -> None:
    """More fields than ``Limits.fields`` are a 400 in a query, and a 413 in a form. Requests by hand have 1000."""

    def count(request: Request) -> Response:
        return Response(200, str(len(request.query_params) + len(request.form())))

    app = App(limits=Limits(fields=2)).with_stateless_route("/", count)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with http_client(app) as client:
        replies = [
            await client.post(target, headers=headers, content=body)
            for target, body in (("/?a&b", "a&b"), ("/?a&b&c", ""), ("/", "a&b&c"))
        ]
    assert [reply.status for reply in replies] == [200, 400, 413]
    assert replies[1].text == "400 Bad Request: the query is too long: there are more than 2 fields\n"
    assert len(Request(query="&".join(["a"] * 1000)).query_params) == 1000
    with pytest.raises(HttpError):
        _ = Request(query="&".join(["a"] * 1001)).query_params


# -------------------------------------------------------------------------------------- cookies, events


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], []),
        (["foo=bar; baz=qux"], [("foo", "bar"), ("baz", "qux")]),
        (["a=b;c=d"], [("a", "b"), ("c", "d")]),
        (["a=b=c"], [("a", "b=c")]),
        (["novalue; x=1"], [("x", "1")]),
        (['a="q"'], [("a", '"q"')]),
        (["a = b ;"], [("a", "b")]),
        (["=v"], []),
        (["a="], [("a", "")]),
        ([""], []),
        (["a=1", "b=2"], [("a", "1"), ("b", "2")]),
    ],
)
def test_cookies(fields: list[str], expected: list[tuple[str, str]]) -> None:
    """The cookies of all Cookie fields, as in Humphrey, except that a cookie without a name is omitted."""
    request = Request(headers=[("Cookie", value) for value in fields])
    assert list(request.cookies) == expected
    assert request.cookies is request.cookies


@pytest.mark.parametrize(
    ("value", "expected"), [(None, ""), ("", ""), ("7", "7"), ("\xc3\xa9", "é"), ("\xff", "\ufffd")]
)
def test_the_last_event_id(value: str | None, expected: str) -> None:
    """The Last-Event-ID field is UTF-8 (HTML standard, section 9.2.4)."""
    assert Request(headers={} if value is None else {"Last-Event-ID": value}).last_event_id == expected


# ------------------------------------------------------------------------------------------- whole bodies


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        (b"", None, ""),
        ("é".encode(), None, "é"),
        ("é".encode(), "application/json", "é"),
        ("é".encode(), 'text/plain; charset="UTF-8"', "é"),
        (b"\xe9", "text/plain; charset=ISO-8859-1", "é"),
        (b"\x80", "text/plain; charset=windows-1252", "€"),
    ],
)
def test_text(content: bytes, content_type: str | None, expected: str) -> None:
    """The body as text is decoded by the charset of its type, which is UTF-8 if none is named."""
    assert posted(content, content_type).text == expected


@pytest.mark.parametrize(
    ("content", "content_type", "status", "message"),
    [
        (b"\xff", None, 400, "the body is not utf-8: send it as UTF-8"),
        (b"\xff", "text/plain; charset=us-ascii", 400, "the body is not us-ascii: send it as UTF-8"),
        (b"", "text/plain; charset=utf-16", 415, "the body has the charset 'utf-16': send it as UTF-8"),
        (b"", "text/plain; charset=a; charset=b", 400, "the Content-Type of the body is malformed"),
    ],
)
def test_text_that_cannot_be_decoded(content: bytes, content_type: str | None, status: int, message: str) -> None:
    """A malformed text is a 400, and a charset that is not supported a 415."""
    with pytest.raises(HttpError, match=message) as raised:
        _ = posted(content, content_type).text
    assert raised.value.status == status


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain; charset=latin-1"])
def test_json(content_type: str | None) -> None:
    """JSON is UTF-8, whatever the Content-Type is. Each call returns a new object."""
    request = posted('{"a": [1, "é"]}'.encode(), content_type)
    assert request.json() == {"a": [1, "é"]}
    assert request.json() is not request.json()


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "Expecting value: line 1, column 1"),
        (b'{"a":\n x}', "line 2, column 2"),
        (b"\xff", "the text is not UTF-8: line 1, column 1"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_invalid_json(content: bytes, place: str) -> None:
    """A body that is not JSON is a 400 with the reason, and the place if the parser tells it."""
    with pytest.raises(HttpError) as raised:
        posted(content).json()
    assert raised.value.status == 400
    assert raised.value.detail.startswith("the body is not valid JSON: ")
    assert place in raised.value.detail


def test_form() -> None:
    """A form is parsed by its type, once."""
    request = posted(b"a=1&b=2&a=%C3%A9", "application/x-www-form-urlencoded")
    assert list(request.form()) == [("a", "1"), ("b", "2"), ("a", "é")]
    assert request.form() is request.form()
    upload = posted(
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
    )
    assert upload.form().files["f"].content == b"hello"


def test_form_of_another_type_is_a_415() -> None:
    """The body of another type is a 415."""
    with pytest.raises(HttpError) as raised:
        posted(b"{}", "application/json").form()
    assert raised.value.status == 415


async def test_errors_of_the_body_reach_the_client() -> None:
    """What a handler does not catch is the response, with what is wrong."""
    app = App().with_stateless_route("/", lambda request: Response(200, str(request.json())))
    async with http_client(app) as client:
        response = await client.post("/", content="{")
    assert response.status == 400
    assert response.text.startswith("400 Bad Request: the body is not valid JSON: ")


async def test_read_returns_a_whole_body() -> None:
    """``read`` works for whole bodies, too, with its limit."""
    assert await posted(b"12345").read(limit=5) == b"12345"
    with pytest.raises(HttpError, match="longer than 4 bytes") as raised:
        await posted(b"12345").read(limit=4)
    assert raised.value.status == 413


def test_whole_body_cannot_be_streamed() -> None:
    """``body`` and ``parts`` are for routes with ``stream=True``, and say so."""
    with pytest.raises(RuntimeError, match=r"use request\.content, or add the route with stream=True"):
        _ = posted(b"x").body
    with pytest.raises(RuntimeError, match=r"use request\.form\(\), or add the route with stream=True"):
        posted(b"x").parts()


# --------------------------------------------------------------------------------------------- streams


class Pieces:
    """A ``BodyStream`` in memory, which notes the arguments of ``parts`` and ``form``."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.asked: list[tuple[str, object]] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    async def read(self, limit: int) -> bytes:
        return b"".join(self.pieces)[:limit]

    async def _no_parts(self) -> AsyncIterator[Part]:
        for part in ():
            yield part

    def parts(self, content_type: str, max_parts: int) -> AsyncIterator[Part]:
        self.asked.append((content_type, max_parts))
        return self._no_parts()

    async def form(self, content_type: str, settings: FormSettings) -> Form:
        self.asked.append((content_type, settings))
        return Form()


async def test_a_streamed_body() -> None:
    """A stream is iterated over, read with a limit, or split into parts."""
    stream = Pieces(b"ab", b"cd")
    request = Request(headers={"Content-Type": "multipart/form-data; boundary=x"}, content=stream)
    assert request.body is stream
    assert [piece async for piece in request.body] == [b"ab", b"cd"]
    assert await request.read(limit=3) == b"abc"
    assert [part async for part in request.parts()] == []
    assert await request.read_form(spool=1, max_text=2, directory="/tmp") == Form()
    kind = "multipart/form-data; boundary=x"
    assert stream.asked == [(kind, 1000), (kind, FormSettings(1000, 2, 1, "/tmp"))]


WHOLE: list[Callable[[Request], object]] = [
    lambda request: request.content,
    lambda request: request.text,
    lambda request: request.json(),
]


@pytest.mark.parametrize("use", WHOLE)
def test_a_streamed_body_is_not_whole(use: Callable[[Request], object]) -> None:
    """What needs the whole body says how to read a stream."""
    with pytest.raises(RuntimeError, match=r"use `async for piece in request\.body` or `await request\.read"):
        use(Request(content=Pieces()))
    with pytest.raises(RuntimeError, match=r"use `await request\.read_form\(\)`, which works on every route"):
        Request(content=Pieces()).form()


def test_a_streamed_request_is_shown_and_compared() -> None:
    """It can be shown, compared and copied without its body being read."""
    request = Request("POST", "/a", content=Pieces(b"x"))
    assert repr(request) == "<Request POST '/a', streamed>"
    assert request != Request("POST", "/a", content=Pieces(b"x"))
    assert request.replace(path="/a") == request
    assert hash(request.replace(path="/a")) == hash(request)


# ------------------------------------------------------------------------------------ values and copies

USER = RequestKey[str]("user")
COUNT = RequestKey[int]("count")


def test_values_of_layers() -> None:
    """A copy has the value under its key; the request itself does not."""
    request = Request()
    richer = request.with_value(USER, "ann").with_value(COUNT, 1)
    assert (richer[USER], richer[COUNT], richer.get(USER)) == ("ann", 1, "ann")
    assert richer.with_value(USER, "bob")[USER] == "bob"
    assert richer[USER] == "ann"
    assert USER in richer
    assert USER not in request
    assert (request.get(USER), request.get(COUNT, 7)) == (None, 7)


def test_a_key_is_itself() -> None:
    """Two keys of the same name are different keys."""
    request = Request().with_value(USER, "ann")
    assert RequestKey[str]("user") not in request
    assert repr(USER) == "RequestKey('user')"


def test_a_value_that_no_layer_has_set() -> None:
    """A missing value is a KeyError that names the key."""
    with pytest.raises(KeyError, match=r"no layer has set RequestKey\('user'\)"):
        _ = Request()[USER]


# ------------------------------------------------------------------------------------- what is missing

MISSING: dict[str, tuple[Callable[[Request], object], str]] = {
    "query": (lambda request: request.query_params["a\n"], r"the query must have the parameter 'a\n'"),
    "query_param": (lambda request: request.query_param("a"), "the query must have the parameter 'a'"),
    "cookie": (lambda request: request.cookies["a"], "the request must have the cookie 'a'"),
    "header": (lambda request: request.headers["X-A"], "the request must have the header field 'X-A'"),
    "headers of a copy": (
        lambda request: request.headers.with_header("B", "b").without_header("B")["X-A"],
        "the request must have the header field 'X-A'",
    ),
    "form": (lambda request: request.form()["a"], "the form must have the field 'a'"),
    "file": (lambda request: request.form().files["a"], "the form must have the file 'a'"),
}


@pytest.mark.usefixtures("each_parser")
@pytest.mark.parametrize("name", MISSING)
async def test_what_the_client_did_not_send_is_a_400(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A missing key of what a client sent is a 400 that names it. A handler can catch it as a KeyError."""
    read, detail = MISSING[name]
    caught: list[KeyError] = []

    def fails(request: Request) -> Response:
        return Response(200, str(read(request)))

    def catches(request: Request) -> Response:
        try:
            return fails(request)
        except KeyError as exc:
            caught.append(exc)
            return Response(200, "a default")

    app = App().with_stateless_route("/fails", fails).with_stateless_route("/catches", catches)
    async with http_client(app) as client:
        response = await client.post("/fails?b=1", form={"b": "1"}, headers={"Cookie": "b=1"})
        assert (response.status, response.text) == (400, f"400 Bad Request: {detail}\n")
        assert (await client.post("/catches", form={"b": "1"})).text == "a default"
    assert [str(exc) for exc in caught] == [detail]
    assert isinstance(caught[0], HttpError)
    assert caplog.records == []


@pytest.mark.parametrize(
    "missing",
    [
        lambda: Fields([("a", "1")])["b"],
        lambda: Headers({"a": "1"})["b"],
        lambda: Response(200).headers["b"],
        lambda: Request(headers={"a": "1"}).headers["b"],
        lambda: Request()[USER],
        lambda: Request().path_params["b"],
    ],
)
def test_a_missing_key_of_the_program_is_no_400(missing: Callable[[], object]) -> None:
    """What a program has made itself, or names by itself, raises a plain KeyError."""
    with pytest.raises(KeyError) as caught:
        missing()
    assert not isinstance(caught.value, HttpError)


@pytest.mark.parametrize(
    "use",
    [
        lambda request: request["Host"],
        lambda request: request.get("Host"),
        lambda request: "Host" in request,
        lambda request: request.with_value("user", 1),
        lambda request: RequestKey(1),
    ],
)
def test_other_keys_are_refused(use: Callable[[Any], object]) -> None:
    """A key that is not a RequestKey is a TypeError that says what to use."""
    with pytest.raises(TypeError, match="RequestKey"):
        use(Request())


async def test_a_layer_hands_a_value_to_the_handler() -> None:
    """A copy keeps everything that the server has set."""

    def show(request: Request) -> Response:
        richer = request.with_value(USER, "ann")
        return Response(200, f"{richer[USER]} {richer.host} {richer.path_param('id')} {richer.text}")

    async with http_client(App().with_stateless_route("/{id}", show)) as client:
        assert (await client.post("http://a.example/7", content="x")).text == "ann a.example 7 x"


def test_replace() -> None:
    """``replace`` changes the named arguments, and keeps the others and the values of layers."""
    request = Request("POST", "/a", "b=1", headers={"Host": "a"}, content=b"x", address=PEER).with_value(
        USER, "ann"
    )
    assert request.query_param("b") == "1"
    changed = request.replace(query="b=2", headers={"Host": "B"}, content=b"y")
    assert (changed.method, changed.path, changed.address) == ("POST", "/a", PEER)
    assert (changed.query_param("b"), changed.host, changed.content, changed[USER]) == ("2", "b", b"y", "ann")
    assert request == request.replace()
    with pytest.raises(TypeError, match="unexpected keyword argument 'url'"):
        request.replace(url="/")  # type: ignore[call-arg]


async def test_replace_keeps_the_host_of_the_target() -> None:
    """Only another Host field changes the host that an absolute target has named."""
    hosts: list[str] = []

    def keep(request: Request) -> Response:
        same = request.replace(headers=request.headers.with_header("X", "1"))
        hosts.extend([same.host, request.replace(headers={"Host": "other"}).host])
        return Response(200)

    async with http_client(App().with_stateless_route("*", keep)) as client:
        await client.get("http://a.example/")
    assert hosts == ["a.example", "other"]


def test_requests_cannot_be_changed() -> None:
    """No attribute can be assigned, in a request by hand and in a copy."""
    for request in (Request(), Request().with_value(USER, "ann")):
        for name in ("path", "content", "host", "anything"):
            with pytest.raises((AttributeError, TypeError)):
                setattr(request, name, "x")


def test_requests_are_values() -> None:
    """They are compared, hashed, copied and pickled; what was parsed on demand does not count."""
    request = Request(Method.POST, "/", "a=1", headers=Headers({"X": "1"}), content=b"x")
    _ = request.query_params
    same = Request("POST", "/", "a=1", headers={"X": "1"}, content=bytearray(b"x"))
    assert (request, hash(request)) == (same, hash(same))
    assert copy.copy(request) == pickle.loads(pickle.dumps(request)) == request
    assert request != request.replace(content=b"y")
    assert request.with_value(USER, "ann") != request
    assert repr(request) == "<Request POST '/?a=1', 1 bytes>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"content": "text"}, r"the content of a Request is bytes or a BodyStream, not str: encode a str"),
        ({"content": None}, "bytes or a BodyStream, not NoneType"),
        ({"headers": "Host: a"}, "headers are pairs of name and value, or a mapping, not str"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    """Arguments of a wrong type raise a TypeError that says what to pass."""
    with pytest.raises(TypeError, match=message):
        Request(**arguments)
