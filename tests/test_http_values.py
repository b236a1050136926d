"""HTTP values: their contents, what is refused, and that they are immutable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from humphrey_trio.http import Address, Headers, Limits, Method, Request, Response, StatusCode, Timeouts

# ---------------------------------------------------------------------------------------------- Headers

PAIRS = [("Host", "example.com"), ("Accept", "a"), ("ACCEPT", "b")]


@pytest.mark.parametrize("fields", [PAIRS, tuple(PAIRS), iter(PAIRS), Headers(PAIRS)])
def test_headers_keep_their_order_and_case(fields: Any) -> None:
    """Headers are made of pairs, and keep order and letter case."""
    headers = Headers(fields)
    assert list(headers) == PAIRS
    assert len(headers) == 3


def test_headers_of_a_mapping() -> None:
    """Headers can be made of a mapping."""
    assert list(Headers({"A": "1", "B": "2"})) == [("A", "1"), ("B", "2")]


def test_headers_are_found_in_any_case() -> None:
    """A name is found whatever its letter case: the first value, every value, and whether it is there."""
    headers = Headers(PAIRS)
    assert headers["accept"] == headers.get("aCCEPT") == "a"
    assert headers.get_all("Accept") == ("a", "b")
    assert "HOST" in headers


def test_views_of_headers() -> None:
    """``items`` and ``values`` have all fields, ``keys`` and ``dict`` each name once, in whatever letter case."""
    headers = Headers([("Host", "a"), ("Vary", "x"), ("VARY", "y")])
    assert headers.items() == (("Host", "a"), ("Vary", "x"), ("VARY", "y"))
    assert headers.values() == ("a", "x", "y")
    assert headers.keys() == ("Host", "Vary")
    assert dict(headers) == {"Host": "a", "Vary": "x"}


def received() -> Headers:
    """Return the same fields as a parser does."""
    return Headers.deferred(b"\r\nHost: example.com\r\nAccept:a\r\nACCEPT:\t b \r\n")


def test_received_headers_are_the_same_before_and_after_all_are_read() -> None:
    """Received fields are those of pairs, before and after they are read as a whole."""
    headers = received()
    for _ in range(2):
        assert headers["accept"] == headers.get("aCCEPT") == "a"
        assert headers.get_all("Accept") == ("a", "b")
        assert "HOST" in headers
        # Not part of a longer name, not a value, not a pattern, and not a letter of another alphabet.
        for name in ("Hos", "ost", "example.com", "H.st", "", "\u212aost", "H\xf6st", "Accept:a\r\nACCEPT"):
            assert name not in headers
        assert list(headers) == PAIRS
    assert headers == Headers(PAIRS)
    assert bool(received())
    assert not Headers.deferred(b"\r\n")
    assert received().names == {"host", "accept"}
    assert received().to_wire() == Headers(PAIRS).to_wire()


@pytest.mark.parametrize("make", [lambda: Headers(PAIRS), received])
def test_missing_headers(make: Callable[[], Headers]) -> None:
    """A missing name is None, the default, an empty tuple or a KeyError."""
    headers = make()
    assert headers.get("X") is None
    assert headers.get("X", "default") == "default"
    assert headers.get_all("X") == ()
    assert "X" not in headers
    assert 1 not in headers
    with pytest.raises(KeyError, match="X"):
        headers["X"]


def test_with_header_appends_to_a_copy() -> None:
    """``with_header`` returns new headers with one more at the end."""
    old = Headers([("Set-Cookie", "a=1")])
    new = old.with_header("Set-Cookie", "b=2")
    assert list(new) == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    assert list(old) == [("Set-Cookie", "a=1")]


def test_without_header_removes_a_name_from_a_copy() -> None:
    """``without_header`` returns new headers without a name in any letter case."""
    old = Headers(PAIRS)
    assert list(old.without_header("accept")) == [("Host", "example.com")]
    assert list(old) == PAIRS


def test_headers_compare_without_case_of_names() -> None:
    """Headers whose names differ only in letter case are equal and have the same hash."""
    one, other = Headers([("Accept", "a")]), Headers([("accept", "a")])
    assert one == other
    assert hash(one) == hash(other)
    assert one != Headers([("Accept", "A")])
    assert Headers(PAIRS) != Headers(reversed(PAIRS))
    assert one != [("Accept", "a")]


def test_headers_on_the_wire() -> None:
    """The bytes of headers are one line each, in order, in latin-1."""
    headers = Headers([("B", "é"), ("a", ""), ("B", "2")])
    assert headers.to_wire() == b"B: \xe9\r\na: \r\nB: 2\r\n"


def test_repr_of_headers() -> None:
    """The representation of headers is an expression for them."""
    assert repr(Headers([("A", "1")])) == "Headers([('A', '1')])"


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r\nB", "Ä", "A\n", "A\x00"])
def test_header_names_are_tokens(name: str) -> None:
    """An invalid name is refused, and the error lists the valid characters."""
    with pytest.raises(ValueError, match=r"is not a header name: use letters, digits and"):
        Headers([(name, "value")])


BAD_VALUES = ["a\r\nSet-Cookie: x=1", "a\nb", "a\rb", "a\x00b", "a\x7f", "a\tb\x01", "€", " a", "a ", "\ta", "a\n"]


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize(
    "build",
    [
        lambda value: Headers([("X-Name", value)]),
        lambda value: Headers().with_header("X-Name", value),
        lambda value: Response(200, headers=[("X-Name", value)]),
        lambda value: Response(200).with_header("X-Name", value),
    ],
    ids=["Headers", "Headers.with_header", "Response", "Response.with_header"],
)
def test_header_injection_is_refused(build: Callable[[str], object], value: str) -> None:
    """No value that would begin another header is accepted."""
    with pytest.raises(ValueError, match=r"of header X-Name contains .*: strip or encode it first"):
        build(value)


def test_header_values_may_hold_tabs_and_latin_1() -> None:
    """Values may contain tabs and the characters of latin-1 (RFC 9110, section 5.5)."""
    assert Headers([("X", "a\tb é")])["X"] == "a\tb é"


# ---------------------------------------------------------------------------------------------- Request


def test_a_request_has_defaults() -> None:
    """All arguments of a request have defaults."""
    request = Request()
    assert (request.method, request.path, request.uri, request.query) == ("GET", "/", "/", "")
    assert (request.version, request.content, request.headers) == ("HTTP/1.1", b"", Headers())
    assert request.address == Address("", 0)


def test_attributes_of_a_request() -> None:
    """A request has its parts as attributes, and the path also under Humphrey's name."""
    headers, address = Headers(PAIRS), Address("::1", 5)
    request = Request("POST", "/a", "b=c", "HTTP/1.0", headers, b"body", address)
    assert (request.method, request.path, request.query, request.version) == ("POST", "/a", "b=c", "HTTP/1.0")
    assert (request.headers, request.content, request.address) == (headers, b"body", address)
    assert request.uri == "/a"


def test_requests_are_values() -> None:
    """Requests with equal parts are equal and have the same hash."""
    assert Request(path="/a") == Request(path="/a")
    assert hash(Request(path="/a")) == hash(Request(path="/a"))
    assert Request(path="/a") != Request(path="/b")


# --------------------------------------------------------------------------------------------- Response


def test_text_is_sent_as_utf_8() -> None:
    """The content of a str is UTF-8 text."""
    response = Response(200, "é")
    assert (response.status, response.content, response.text) == (200, "é".encode(), "é")
    assert response.content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize("content", [b"\xff", bytearray(b"\xff"), memoryview(b"\xff")])
def test_bytes_are_sent_as_they_are(content: Any) -> None:
    """The content of bytes is binary, and a copy."""
    response = Response(200, content)
    assert response.content == b"\xff"
    assert type(response.content) is bytes
    assert response.content_type == "application/octet-stream"
    with pytest.raises(UnicodeDecodeError):
        _ = response.text


@pytest.mark.parametrize("content", ["<p>", b"<p>"])
def test_a_given_content_type_wins(content: str | bytes) -> None:
    """A Content-Type in the headers replaces the automatic one, for text and for bytes."""
    assert Response(200, content, {"content-type": "text/html"}).content_type == "text/html"


def test_an_empty_response_has_no_type() -> None:
    """``Response.empty`` has a status and nothing else."""
    response = Response.empty(StatusCode.NO_CONTENT)
    assert (response.status, response.content, response.content_type) == (204, b"", "")
    assert len(response.headers) == 0


def test_status_is_a_plain_int() -> None:
    """A StatusCode becomes the plain number."""
    assert type(Response(StatusCode.OK).status) is int
    assert Response(StatusCode.OK) == Response(200)


@pytest.mark.parametrize("status", [200, 299, 418, 599, 999])
def test_any_final_status_is_allowed(status: int) -> None:
    """Any status from 200 to 999 is allowed, with a name or without."""
    assert Response(status).status == status


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 199, 1000])
def test_other_statuses_are_refused(status: int) -> None:
    """Another status is refused, and the error has the valid range."""
    with pytest.raises(ValueError, match=f"from 200 to 999, not {status}"):
        Response(status)


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("content", ["x", b"x"])
def test_body_is_refused_for_204_205_and_304(status: int, content: str | bytes) -> None:
    """A 204, 205 or 304 with a body is refused."""
    assert Response(status, content[:0]).content == b""
    with pytest.raises(ValueError, match=f"a {status} response must not have a body"):
        Response(status, content)


def test_transfer_encoding_is_refused() -> None:
    """A Transfer-Encoding is refused in each kind of headers."""
    with pytest.raises(ValueError, match="omit Transfer-Encoding"):
        Response(200, headers={"transfer-encoding": "chunked"})
    with pytest.raises(ValueError, match="omit Transfer-Encoding"):
        Response(200).with_header("Transfer-Encoding", "chunked")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text", 200), r"not Response\(str, int\)"),
        (("200",), r"not Response\(str\)"),
        ((200, 5), r"not Response\(int, int\)"),
        ((200, None), r"not Response\(int, NoneType\)"),
        ((200, "text", "text/html"), "pairs of name and value, or a mapping, not str"),
        ((200, "text", b"text/html"), "pairs of name and value, or a mapping, not bytes"),
        ((200, "text", 5), "pairs of name and value, or a mapping, not int"),
        ((200, "text", [("Retry-After", 5)]), r"must be str: \('Retry-After', 5\)"),
        ((200, "text", {b"Name": "value"}), r"must be str: \(b'Name', 'value'\)"),
    ],
)
def test_arguments_in_the_wrong_place(arguments: tuple[Any, ...], message: str) -> None:
    """A status, content or headers of a wrong type raise a TypeError that names the types."""
    with pytest.raises(TypeError, match=message):
        Response(*arguments)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_has_location_and_status(status: int) -> None:
    """A redirect has a Location and the status of its argument."""
    response = Response.redirect("/there?a=b", status=status)
    assert (response.status, list(response.headers)) == (status, [("Location", "/there?a=b")])


def test_a_redirect_is_temporary_by_default() -> None:
    """A redirect is a 302, because browsers store a 301 without a limit."""
    assert Response.redirect("/").status == 302


@pytest.mark.parametrize("status", [200, 300, 304, 404])
def test_redirect_refuses_other_statuses(status: int) -> None:
    """A redirect with another status is refused, and the error lists the valid ones."""
    with pytest.raises(ValueError, match=f"{status} is not a redirect: use 301, 302, 303, 307 or 308"):
        Response.redirect("/", status=status)


@pytest.mark.parametrize("content", ["text", b"bytes", b"", ""])
def test_response_with_header_appends_to_a_copy(content: str | bytes) -> None:
    """``with_header`` returns a new response with one more header."""
    old = Response(201, content, [("Set-Cookie", "a=1")])
    new = old.with_header("Set-Cookie", "b=2")
    assert list(new.headers) == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    assert (new.status, new.content, new.content_type) == (old.status, old.content, old.content_type)
    assert list(old.headers) == [("Set-Cookie", "a=1")]


def test_responses_are_values() -> None:
    """Responses that would be sent equally are equal and have the same hash."""
    assert Response(200, "a", {"X": "1"}) == Response(200, "a", [("x", "1")])
    assert hash(Response(200, "a", {"X": "1"})) == hash(Response(200, "a", [("x", "1")]))
    for other in (Response(201, "a"), Response(200, "b"), Response(200, b"a"), Response(200, "a", {"X": "1"})):
        assert Response(200, "a") != other
    assert Response(200) != 200


@pytest.mark.parametrize(
    ("response", "shown"),
    [(Response(404, "no"), "<Response 404 Not Found, 2 bytes>"), (Response(799), "<Response 799, 0 bytes>")],
)
def test_repr_of_responses(response: Response, shown: str) -> None:
    """The representation of a response has its status, with the phrase if there is one, and its size."""
    assert repr(response) == shown


# ---------------------------------------------------------------------------------------------- Address

ADDRESSES = [
    ("127.0.0.1:80", Address("127.0.0.1", 80)),
    ("[::1]:8080", Address("::1", 8080)),
    ("[::]:0", Address("::", 0)),
    ("localhost:65535", Address("localhost", 65535)),
    ("unix:/run/app.sock", Address("unix:/run/app.sock")),
    ("unix:relative:1", Address("unix:relative:1")),
]


@pytest.mark.parametrize(("text", "address"), ADDRESSES)
def test_address_parse_and_str(text: str, address: Address) -> None:
    """``Address.parse`` and ``str`` are inverse."""
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "a:65536",
        "a:-1",
        "a:+1",
        "a:\N{ARABIC-INDIC DIGIT ONE}",
        "::1:80",
        "[a]:1",
    ],
)
def test_invalid_addresses(text: str) -> None:
    """An invalid address is refused, and the error shows what is valid."""
    with pytest.raises(ValueError, match=r"is not an address: (write |add the port, as in '|a port is at most)"):
        Address.parse(text)


def test_a_unix_address_needs_a_path() -> None:
    """An address without the path of its socket is refused."""
    with pytest.raises(ValueError, match="needs a path: 'unix:/path/to/socket'"):
        Address.parse("unix:")


# ----------------------------------------------------------------------------------- Method, StatusCode


def test_methods_equal_their_names() -> None:
    """Every standard method equals its name."""
    names = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
    assert list(Method) == names
    assert Request("GET").method == Method.GET
    assert Method("PUT") is Method.PUT


def test_method_refuses_other_names() -> None:
    """Method has only the standard methods, in upper case."""
    for name in ("get", "BREW"):
        with pytest.raises(ValueError, match=name):
            Method(name)


def test_status_codes_have_phrases() -> None:
    """A StatusCode is a number with its standard phrase."""
    assert (StatusCode.NOT_FOUND, StatusCode.NOT_FOUND.phrase) == (404, "Not Found")


# ------------------------------------------------------------------------------------- Limits, Timeouts


def test_limits_have_their_documented_defaults() -> None:
    """Limits have the documented defaults."""
    limits = Limits()
    assert (limits.head, limits.request_line, limits.headers, limits.body) == (16384, 8192, 100, 1048576)


@pytest.mark.parametrize("name", ["head", "request_line", "headers", "body"])
def test_limits_have_a_least_value(name: str) -> None:
    """A limit that would refuse all requests is refused; a body limit of 0 is valid."""
    least = 0 if name == "body" else 1
    assert getattr(Limits(**{name: least}), name) == least
    with pytest.raises(ValueError, match=rf"Limits\({name}=\.\.\.\) must be at least {least}"):
        Limits(**{name: least - 1})


def test_timeouts_have_their_documented_defaults() -> None:
    """Timeouts have the documented defaults."""
    timeouts = Timeouts()
    assert (timeouts.handshake, timeouts.header, timeouts.body, timeouts.idle) == (10, 10, 60, 75)
    assert (timeouts.write, timeouts.close, timeouts.disconnect) == (30, 5, 0.5)
    assert (timeouts.linger, timeouts.linger_idle) == (30, 5)


@pytest.mark.parametrize("name", ["handshake", "header", "body", "idle", "write", "close", "linger", "disconnect"])
@pytest.mark.parametrize("seconds", [0, -1, math.nan, -math.inf])
def test_timeouts_are_above_zero(name: str, seconds: float) -> None:
    """A timeout that is not positive is refused; infinity is valid."""
    assert getattr(Timeouts(**{name: math.inf}), name) == math.inf
    with pytest.raises(ValueError, match=rf"Timeouts\({name}=\.\.\.\) must be a number of seconds above zero"):
        Timeouts(**{name: seconds})


# ------------------------------------------------------------------------------------- immutable values


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Headers(PAIRS), "fields"),
        (Request(), "path"),
        (Response(200), "status"),
        (Response(200), "content"),
        (Response(200), "headers"),
        (Address("a", 1), "port"),
        (Limits(), "body"),
        (Timeouts(), "idle"),
    ],
    ids=lambda item: item if isinstance(item, str) else type(item).__name__,
)
def test_values_are_immutable(value: object, name: str) -> None:
    """No attribute of a value can be set."""
    with pytest.raises((AttributeError, TypeError)):
        setattr(value, name, 1)


@pytest.mark.parametrize("build", [Limits, Timeouts])
def test_limits_and_timeouts_are_keyword_only(build: Callable[..., object]) -> None:
    """Limits and timeouts accept only keyword arguments."""
    with pytest.raises(TypeError):
        build(1)
