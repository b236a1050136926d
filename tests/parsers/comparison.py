"""Run the parsers on the same reads, and compare everything that a connection would learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def difference(reads: Sequence[bytes], limits: Limits) -> str | None:
    """Compare the parsers.

    Args:
        reads, limits: as for ``events``.

    Returns:
        A description of the difference; None if there is none.
    """
    expected, actual = events(parse_h11, reads, limits), events(parse_fast, reads, limits)
    if expected == actual:
        return None
    return f"{reads!r} with {limits!r}\n  h11:  {expected!r}\n  fast: {actual!r}"


def _parts(head: Head) -> Event:
    request = head.to_request(b"", Address("a", 1))
    return (
        *(request.method, request.path, request.query, request.version, tuple(request.headers)),
        *(head.host, head.content_length, head.close, head.expects_continue, head.wants_websocket),
    )
