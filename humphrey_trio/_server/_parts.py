"""The parts of a multipart body, one after another, while the body arrives.

Nothing is stored but the piece of the body that was received last. Nothing has to be closed.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator

import trio

from .._http._body import Part
from .._http._errors import HttpError
from .._http._headers import Headers
from .._http._multipart import Event, MultipartParser
from .._http._new_file import write_new_file
from .._http._part_head import PartHead, decode_text

_DEFAULT_LIMIT = 1024 * 1024


class PartReader:
    """Reads the events of a body, for the part that is current.

    Args:
        pieces: the body.
        parser: a parser that has got nothing yet.
    """

    def __init__(self, pieces: AsyncIterable[bytes], parser: MultipartParser) -> None:
        self._pieces = aiter(pieces)
        self._parser = parser
        self._events: Iterator[Event] = iter(())
        # The number of the current part, and whether some of it may be unread.
        self._current = 0
        self._inside = False
        self._receiving = False

    async def next_part(self) -> Part | None:
        """Skip the rest of the current part, and return the next one; None at the end of the body."""
        while self._inside:
            await self.next_piece(self._current)
        await trio.lowlevel.checkpoint()
        self._current += 1
        event = await self._next_event()
        if not isinstance(event, PartHead):
            return None
        self._inside = True
        return ReceivedPart(event, self, self._current)

    async def next_piece(self, number: int) -> bytes:
        """Return the next piece of a part; empty at its end."""
        if number != self._current:
            raise RuntimeError(
                "this part is over, because the next one was asked for: read each part before the next"
            )
        if not self._inside:
            return b""
        piece = await self._next_event()
        assert isinstance(piece, bytes), "a head follows the end of the part before it"
        self._inside = bool(piece)
        return piece

    async def _next_event(self) -> Event | None:
        while (event := next(self._events, None)) is None:
            piece = await self._receive()
            if piece is None:
                self._parser.finish()
                return None
            self._events = self._parser.feed(piece)
        return event

    async def _receive(self) -> bytes | None:
        if self._receiving:
            raise trio.BusyResourceError("another task is reading these parts")
        self._receiving = True
        try:
            return await anext(self._pieces, None)
        finally:
            self._receiving = False


class ReceivedPart(Part):
    """The part of a body that is being received."""

    __slots__ = ("_head", "_number", "_reader")

    def __init__(self, head: PartHead, reader: PartReader, number: int) -> None:
        self._head = head
        self._reader = reader
        self._number = number

    @property
    def name(self) -> str:
        return self._head.name

    @property
    def filename(self) -> str | None:
        return self._head.filename

    @property
    def content_type(self) -> str:
        return self._head.content_type

    @property
    def headers(self) -> Headers:
        return self._head.headers

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._reader.next_piece(self._number)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read(self, *, limit: int = _DEFAULT_LIMIT) -> bytes:
        return b"".join([piece async for piece in _UpTo(self, limit)])

    async def text(self, *, limit: int = _DEFAULT_LIMIT) -> str:
        return decode_text(self._head, await self.read(limit=limit))

    async def save(self, path: str | os.PathLike[str], *, limit: int | None = None, replace: bool = False) -> int:
        return await write_new_file(path, self if limit is None else _UpTo(self, limit), replace=replace)

    def __repr__(self) -> str:
        return f"Part(name={self.name!r}, filename={self.filename!r}, content_type={self.content_type!r})"


class _UpTo:
    """The pieces of a part, up to a limit. Not a generator, because there is nothing that must be closed.

    Args:
        part: the part.
        limit: the greatest number of bytes. Iteration raises ``HttpError(413)`` for more.
    """

    __slots__ = ("_left", "_limit", "_part")

    def __init__(self, part: ReceivedPart, limit: int) -> None:
        self._part = part
        self._limit = limit
        self._left = limit

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._part)
        self._left -= len(piece)
        if self._left < 0:
            raise HttpError(413, f"the part {self._part.name!r} is larger than {self._limit} bytes")
        return piece


class Parts:
    """The parts of a multipart body, in order: ``async for part in parts``. They can be iterated over once.

    Args:
        pieces: the body. It is read only as far as the parts are asked for.
        content_type: the value of the Content-Type field of the request; empty if there is none.
        max_parts: the greatest number of parts.

    Raises:
        HttpError: 415 if the media type is not ``multipart/form-data``, 400 if it has no valid boundary. Iteration
            raises 400 if the body is malformed, and 413 if there are too many parts.
        RuntimeError: the library ``multipart`` is not installed.
    """

    __slots__ = ("_reader",)

    def __init__(self, pieces: AsyncIterable[bytes], content_type: str, *, max_parts: int = 1000) -> None:
        self._reader = PartReader(pieces, MultipartParser(content_type, max_parts=max_parts))

    def __aiter__(self) -> AsyncIterator[Part]:
        return self

    async def __anext__(self) -> Part:
        part = await self._reader.next_part()
        if part is None:
            raise StopAsyncIteration
        return part
