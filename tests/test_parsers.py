"""The parsers of request heads: which heads are ordinary, and that both parsers agree about all of them."""

from __future__ import annotations

import pickle
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humphrey_trio._server._fast_head import ordinary_head, parse_fast
from humphrey_trio._server._h11_head import parse_h11
from humphrey_trio._server._head import Head
from humphrey_trio._server._request_reader import HeadParser
from humphrey_trio.http import App, Limits, Request, Response
from humphrey_trio.testing import http_client
from tests.parsers import messages
from tests.parsers.comparison import difference, events
from tests.support.reads import cut

ANY_BYTES = st.one_of(
    st.binary(max_size=80), st.text("GET /\r\n:HOSTa1.\t ", max_size=60).map(lambda text: text.encode("latin-1"))
)


def head(*lines: str, start: str = "GET / HTTP/1.1", host: str = "Host: a") -> bytes:
    """A head, with a Host unless told otherwise."""
    return "\r\n".join([start, *([host] if host else []), *lines, "", ""]).encode("latin-1")


def head_in(raw: bytes) -> bytes:
    return raw[: raw.index(b"\r\n\r\n") + 4]


# ------------------------------------------------------------------------------------------ they agree


@settings(max_examples=1500, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_generated_messages(random: Random) -> None:
    """Requests with and without errors have the same result with both parsers, in any reads, under any limits."""
    raw = messages.message(random)
    found = difference(messages.reads(random, raw), messages.limits(random, raw))
    assert found is None, found


@settings(max_examples=500, deadline=None, database=None)
@given(ANY_BYTES, st.lists(st.integers(0, 80), max_size=4))
def test_any_bytes(raw: bytes, places: list[int]) -> None:
    """Any bytes have the same result with both parsers, in any reads."""
    reads = cut(raw, sorted(min(place, len(raw)) for place in places))
    found = difference([read for read in reads if read], Limits())
    assert found is None, found


@pytest.mark.parametrize("raw", messages.REAL)
def test_heads_of_clients_with_one_other_byte(raw: bytes) -> None:
    """A head of a real client has the same result with both parsers if any byte of it is replaced or missing."""
    for at in range(len(raw)):
        for byte in (b"", b"\0", b"\n", b"\r", b" ", b"\t", b":", b"#", b"?", b"a", b"\x7f", b"\xe9"):
            found = difference([raw[:at] + byte + raw[at + 1 :]], Limits())
            assert found is None, found


def test_the_comparison_sees_everything() -> None:
    """Heads, bodies, refusals and the bytes that are left are compared, with the read that completed them."""
    reads = [messages.CURL_POST[:-2], messages.CURL_POST[-2:], head()[:-2], b"\r\nGET"]
    first, *_, last = events(parse_h11, [*reads, b"\n"], Limits())
    assert first[:4] == (0, "head", "POST", "/form")
    assert last == ("left", 4)
    bodies = [event[2] for event in events(parse_h11, reads, Limits()) if event[1] == "body"]
    assert bodies == [b"a=1&b", None, b"=2", b"", b""]
    assert (3, "refused") in [event[:2] for event in events(parse_h11, [*reads[:3], b"\r\n\0"], Limits())]


# ------------------------------------------------------------------------------------- what is ordinary


@pytest.mark.parametrize("raw", [raw for raw in messages.REAL if raw is not messages.CURL_LARGE])
def test_heads_of_clients_are_ordinary(raw: bytes) -> None:
    """The regular expression accepts the requests of curl, browsers, httpx and websockets, and agrees with h11."""
    found = ordinary_head(head_in(raw), Limits())
    assert found == parse_h11(head_in(raw), Limits())
    assert found is not None
    assert list(found.headers) == list(parse_h11(head_in(raw), Limits()).headers)


@pytest.mark.parametrize(
    "raw",
    [
        head(start="GET /a?b?c=%20 HTTP/1.1"),
        head("Content-Length: 0012", start="BREW /pot HTTP/1.1"),
        head("X:", "Y: \t ", "Z:\ta\tb \xe9\t"),
        head(host="hOsT:\t[::1]:80 "),
        head("Connection: a", "Connection: close"),
        head("X: a\x80\x85\xa0"),
    ],
)
def test_ordinary_heads(raw: bytes) -> None:
    """These unusual but valid heads are ordinary."""
    assert ordinary_head(raw, Limits()) == parse_h11(raw, Limits())


@pytest.mark.parametrize(
    "raw",
    [
        head(start="GET / HTTP/1.0"),
        head(start="GET http://a/ HTTP/1.1"),
        head(start="OPTIONS * HTTP/1.1"),
        head(start="CONNECT /a HTTP/1.1"),
        head(start="GET /a#b HTTP/1.1"),
        head(start="GET /a?b#c HTTP/1.1"),
        head(start="GET /\xe9 HTTP/1.1"),
        head(host=""),
        head("host: a"),
        head(host="Host: me@a"),
        head("Transfer-Encoding: chunked"),
        head("Expect: 100-continue"),
        head("Content-Length: 1", "Content-Length: 1"),
        head("Content-Length: +1"),
        head("Content-Length: 1, 1"),
        head("Content-Length:"),
        head("Content-Length: " + "1" * 21),
        head("X : a"),
        head("X"),
        head(" X: a"),
        head("X: a", " b"),
        head("X: a\0"),
        head("X: a\x7f"),
        head("X: a\rb"),
        head("X: a\nb"),
        head().replace(b"\r\n", b"\n"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_h11_decides_about_other_heads(raw: bytes) -> None:
    """A head with anything unusual is not accepted by the regular expression, valid or not."""
    assert ordinary_head(raw, Limits()) is None


@pytest.mark.parametrize("limits", [Limits(head=40), Limits(request_line=13), Limits(headers=1)])
def test_h11_decides_about_heads_above_a_limit(limits: Limits) -> None:
    """A head that exceeds a limit is not ordinary, so that it gets the right status."""
    raw = head("X: " + "a" * 20)
    assert ordinary_head(raw, Limits(head=len(raw), request_line=14, headers=2)) is not None
    assert ordinary_head(raw, limits) is None


# -------------------------------------------------------------------------------------------- an App


@pytest.mark.parametrize("parser", ["h11", "fast"])
async def test_an_app_has_a_parser(parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument of App selects the parser of its connections."""
    used: list[str] = []

    def spy(name: str, parse: HeadParser) -> HeadParser:
        def parse_and_note(raw: bytes, limits: Limits) -> Head:
            used.append(name)
            return parse(raw, limits)

        return parse_and_note

    spies = {"h11": spy("h11", parse_h11), "fast": spy("fast", parse_fast)}
    monkeypatch.setattr("humphrey_trio._app._app._PARSERS", spies)
    app = App(parser=parser).with_stateless_route("/", lambda request: Response(200, request.headers["x"]))
    async with http_client(app) as client:
        assert (await client.get("/", headers=[("X", "y")])).text == "y"
    assert used == [parser]


@pytest.mark.parametrize("parser", ["httptools", "", None])
def test_no_other_parser(parser: str) -> None:
    """Another name is an error that names the parsers."""
    with pytest.raises(ValueError, match="'h11' or 'fast'"):
        App(parser=parser)


def test_a_parsed_request_is_a_value() -> None:
    """A request whose header fields were not read yet is equal to one that was constructed, and can be pickled."""
    for parse in (parse_h11, parse_fast):
        made = parse(head("X: \xe9"), Limits()).to_request(b"c", Request().address)
        same = Request(headers=made.headers.with_header("a", "b").without_header("a"), content=b"c")
        for request in (parse(head("X: \xe9"), Limits()).to_request(b"c", Request().address), made):
            assert pickle.loads(pickle.dumps(request)) == same == request
            assert hash(request) == hash(same)
            with pytest.raises(AttributeError):
                request.path = "/b"  # type: ignore[misc]
