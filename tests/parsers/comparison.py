"""Run the parsers on the same reads, and compare everything that a connection would learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h11

from humphrey_trio._server._fast_head import parse_fast
from humphrey_trio._server._h11_head import parse_h11
from humphrey_trio._server._head import BadRequest, Head
from humphrey_trio._server._request_reader import HeadParser, RequestReader
from humphrey_trio.http import Address, Limits

#: An event of a reader: the number of the read, and what it gave.
Event = tuple[Any, ...]


def events(parse: HeadParser, reads: Sequence[bytes], limits: Limits) -> list[Event]:
    """Read all requests, up to the first that is refused.

    Args:
        parse: the parser.
        reads: the bytes, as they arrive.
        limits: the limits for heads.

    Returns:
        The heads, the pieces of bodies, a refusal, and the number of bytes that are left.
    """
    reader = RequestReader(limits, parse=parse)
    found: list[Event] = []
    head: Head | None = None
    for turn, data in enumerate(reads):
        reader.receive(data)
        try:
            while head is not None or (head := reader.next_head()) is not None:
                if found[-1:] != [(turn, "head", *_parts(head))]:
                    found.append((turn, "head", *_parts(head)))
                piece = reader.next_body()
                found.append((turn, "body", piece))
                if piece is None:
                    break
                if not piece:
                    head = None
        except BadRequest as exc:
            found.append((turn, "refused", exc.status, str(exc)))
            break
    found.append(("left", reader.buffered))
    return found


def parse_whole(raw: bytes, limits: Limits) -> Head:
    """As ``parse_h11``, and check that h11 has the same result for the whole head."""
    whole = _h11_result(raw)
    try:
        head = parse_h11(raw, limits)
    except BadRequest as exc:
        if isinstance(exc.__cause__, h11.RemoteProtocolError):
            _assert_same_refusal(raw, exc, whole)
        raise
    _assert_same_head(raw, head, whole)
    return head


def _h11_result(raw: bytes) -> object:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    parser.receive_data(raw)
    try:
        return parser.next_event()
    except h11.RemoteProtocolError as exc:
        return exc


def _assert_same_refusal(raw: bytes, refusal: BadRequest, whole: object) -> None:
    assert isinstance(whole, h11.RemoteProtocolError), (raw, refusal)
    assert (str(whole), whole.error_status_hint) == (str(refusal), refusal.status), raw


def _assert_same_head(raw: bytes, head: Head, whole: object) -> None:
    assert isinstance(whole, h11.Request), (raw, whole)
    assert (whole.method.decode(), f"HTTP/{whole.http_version.decode()}") == (head.method, head.version), raw
    assert whole.headers.raw_items() == [_as_h11(name, value) for name, value in head.headers], raw


def _as_h11(name: str, value: str) -> tuple[bytes, bytes]:
    """A field as h11 returns it: it puts transfer codings into lower case."""
    if name.lower() == "transfer-encoding":
        value = value.lower()
    return name.encode(), value.encode("latin-1")


def difference(reads: Sequence[bytes], limits: Limits) -> str | None:
    """Compare the parsers, and h11 itself for each head.

    Args:
        reads, limits: as for ``events``.

    Returns:
        A description of the difference; None if there is none.
    """
    expected, actual = events(parse_whole, reads, limits), events(parse_fast, reads, limits)
    if expected == actual:
        return None
    return f"{reads!r} with {limits!r}\n  h11:  {expected!r}\n  fast: {actual!r}"


def _parts(head: Head) -> Event:
    request = head.to_request(b"", Address("a", 1))
    return (
        *(request.method, request.path, request.query, request.version, tuple(request.headers)),
        *(head.host, head.content_length, head.close, head.expects_continue, head.wants_websocket),
    )
