"""Request heads and bodies from a ``RequestReader``, and the bytes of requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypothesis import strategies as st

from humphrey_trio._server._head import Head
from humphrey_trio._server._request_reader import RequestReader
from humphrey_trio.http import Limits


def head_of(raw: bytes, limits: Limits = Limits()) -> Head:  # noqa: B008  (frozen)
    """The only head in some bytes."""
    reader = RequestReader(limits)
    reader.receive(raw)
    head = reader.next_head()
    assert head is not None
    assert reader.buffered == 0
    return head


def get(*lines: str, start: str = "GET / HTTP/1.1", host: str = "Host: a") -> bytes:
    """The head of a request, by default with a Host field."""
    return "\r\n".join([start, *([host] if host else []), *lines, "", ""]).encode("latin-1")


def exchanges(reader: RequestReader, reads: Iterable[bytes]) -> Iterator[tuple[Head, bytes]]:
    """The heads of a connection, each with its body."""
    source = iter(reads)

    def more() -> bool:
        data = next(source, b"")
        reader.receive(data)
        return data != b""

    while True:
        while (head := reader.next_head()) is None:
            if not more():
                return
        pieces: list[bytes] = []
        while head.has_body:
            piece = reader.next_body()
            if piece == b"":
                break
            if piece is not None:
                pieces.append(piece)
            elif not more():
                return
        yield head, b"".join(pieces)


def all_of(*reads: bytes, limits: Limits = Limits()) -> list[tuple[Head, bytes]]:  # noqa: B008  (frozen)
    """All requests in some reads, as head and body."""
    return list(exchanges(RequestReader(limits), reads))


def at_once(raw: bytes) -> list[bytes]:
    """All bytes in one read."""
    return [raw]


def byte_by_byte(raw: bytes) -> list[bytes]:
    """Each byte in a read of its own."""
    return [raw[at : at + 1] for at in range(len(raw))]


#: The limit of a head.
BIG = Limits().head


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    """Places at which bytes of a size are cut into reads."""
    return st.lists(st.integers(0, size), max_size=12).map(sorted)
