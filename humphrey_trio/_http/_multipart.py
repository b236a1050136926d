"""An incremental parser for ``multipart/form-data`` (RFC 7578, RFC 2046), around the library ``multipart``.

It does no I/O and stores no content. The parts that it finds, and whether it refuses a body, depend on the body
alone, and not on how it is split into reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Protocol, TypeAlias

from ._errors import HttpError
from ._parameters import media_type, parse_parameters, unquote
from ._part_head import PartHead, parse_part_head

FORM_DATA = "multipart/form-data"

#: The most bytes of one header line of a part, and the most lines. RFC 7578 defines three header fields.
MAX_HEADER_SIZE = 4096
MAX_HEADERS = 8

#: The head of a part, a piece of its content, or ``b""`` at its end.
Event: TypeAlias = PartHead | bytes

_CRLF_SIZE = 2
# The end of the head of a part, or a line end that the library refuses in it.
_HEAD_END = re.compile(rb"\r\n\r\n|(?<!\r)\n")
# Wider than RFC 2046, section 5.1.1, which allows fewer punctuation characters.
_BOUNDARY = re.compile(r"[!-~ ]{0,69}[!-~]")


class _State(Enum):
    START = auto()
    PARTS = auto()
    END = auto()


class _Library(Protocol):
    """What is used of ``multipart.PushMultipartParser``."""

    def parse(self, chunk: bytes) -> Iterator[Any]: ...

    def close(self, check_complete: bool = True) -> None: ...


class MultipartParser:
    """Finds the parts of one body.

    Args:
        content_type: the value of the Content-Type field of the request.
        max_parts: the greatest number of parts.

    Raises:
        HttpError: 415 if the media type is another one, 400 if the boundary is missing or malformed.
        RuntimeError: the library ``multipart`` is not installed.
    """

    def __init__(self, content_type: str, *, max_parts: int) -> None:
        if media_type(content_type) != FORM_DATA:
            raise HttpError(415, f"the body must be {FORM_DATA}", headers={"Accept": FORM_DATA})
        boundary = _boundary(content_type)
        self._library, self._failures = _new_parser(boundary)
        self._parts_left = max_parts
        self._max_parts = max_parts
        self._delimiter = b"\r\n--" + boundary
        self._state = _State.START
        # Bytes not yet passed to the library, and the last bytes that were passed.
        self._kept = b""
        self._tail = b"\r\n"
        self._is_in_head = True  # whether the library reads the head of a part
        self._error: HttpError | None = None

    def feed(self, data: bytes) -> Iterator[Event]:
        """Parse the next piece of the body. The iterator must be exhausted before the next call.

        Args:
            data: a piece of any size.

        Yields:
            For each part its head, pieces of its content, and ``b""``.

        Raises:
            HttpError: 400 if the body is malformed, 413 if it has too many parts. Every later call raises it, too.
        """
        if self._error is not None:
            raise self._error
        try:
            before = self._tail
            for event in self._parse(before + self._take(data), len(before)):
                yield self._checked(event)
        except HttpError as error:
            self._error = error
            raise
        except self._failures as error:
            self._error = HttpError(400, f"the multipart body is malformed: {error.args[0]}")
            raise self._error from None

    def finish(self) -> None:
        """Check that the body was complete.

        Raises:
            HttpError: 400 if it was not, or the error of ``feed``.
        """
        if self._error is None:
            try:
                self._library.close()
                return
            except self._failures:
                self._error = HttpError(400, "the multipart body ends before its last boundary")
        raise self._error

    def _take(self, data: bytes) -> bytes:
        """Return what the library can parse now.

        It refuses some texts only if they are not split, and others only if they are. So it gets nothing in front
        of the first delimiter and behind the last one, and a CR only together with the next byte.
        """
        data = self._kept + data if self._kept else data
        if self._state is _State.START:
            return self._start(data)
        if self._state is _State.END:
            return b""
        self._kept = b"\r" if data.endswith(b"\r") else b""
        return self._up_to_the_end(data[:-1] if self._kept else data)

    def _start(self, data: bytes) -> bytes:
        """Wait for the first delimiter. No form has a preamble (RFC 2046, section 5.1.1), so one is refused."""
        start = 0 if data.startswith(b"-") else _CRLF_SIZE
        delimiter = self._delimiter[_CRLF_SIZE - start :]
        if data.startswith(delimiter):
            self._state = _State.PARTS
            self._kept = b""
            return self._take(data[start:])
        if not delimiter.startswith(data):
            raise HttpError(400, "the multipart body does not begin with its boundary")
        self._kept = data
        return b""

    def _up_to_the_end(self, data: bytes) -> bytes:
        """Return the data up to the last delimiter. An epilogue is ignored (RFC 2046, section 5.1.1)."""
        last = self._delimiter + b"--"
        searched = self._tail + data
        at = searched.find(last)
        if at != -1:
            self._state = _State.END
            return data[: at + len(last) - len(self._tail)]
        self._tail = searched[1 - len(last) :]
        return data

    def _parse(self, data: bytes, at: int) -> Iterator[Any]:
        """Pass data to the library from a position on, in pieces.

        It refuses a bare LF in a head as a line end only if it has not yet received the end of that line. So no
        piece has more of a head than the text up to such an LF.
        """
        while at < len(data):
            end = self._piece_end(data, at)
            for event in self._library.parse(data[at:end]):
                self._is_in_head = event is None
                yield event
            at = end

    def _piece_end(self, data: bytes, at: int) -> int:
        """Return where the piece that begins at a position ends: behind a delimiter, a head, or an LF in one."""
        if self._is_in_head:
            found = _HEAD_END.search(data, at)
            return len(data) if found is None else found.end()
        size = len(self._delimiter) + _CRLF_SIZE
        # Its last byte is behind the position. Its first ones may have been passed before.
        index = data.find(self._delimiter, max(0, at - size + 1))
        return len(data) if index == -1 else index + size

    def _checked(self, event: Any) -> Event:
        if event is None:
            return b""
        if isinstance(event, bytes):
            return event
        if not self._parts_left:
            raise HttpError(413, f"the form has more than {self._max_parts} parts")
        self._parts_left -= 1
        return parse_part_head(event.headerlist)


def _boundary(content_type: str) -> bytes:
    try:
        boundary = unquote(parse_parameters(content_type).get("boundary", ""))
    except ValueError as error:
        raise HttpError(400, f"the Content-Type is malformed: {error}") from None
    if not _BOUNDARY.fullmatch(boundary):
        raise HttpError(400, "the Content-Type has no valid boundary (RFC 2046, section 5.1.1)")
    return boundary.encode("ascii")


def _new_parser(boundary: bytes) -> tuple[_Library, type[ValueError]]:
    """Construct a parser of the library, and return it with the exception that it raises."""
    library = _load()
    if not hasattr(library, "PushMultipartParser"):
        raise RuntimeError("multipart forms need the library multipart: pip install 'humphrey_trio[forms]'")
    # Strict, so that it refuses folded lines (as RFC 9112, section 5.2, for the head of a message): each of them
    # would cost as much as the whole field.
    parser = library.PushMultipartParser(
        boundary,
        max_header_size=MAX_HEADER_SIZE,
        max_header_count=MAX_HEADERS,
        header_charset="latin-1",
        strict=True,
    )
    return parser, library.MultipartError


def _load() -> Any:
    """Import the library, which is optional; None if it is not installed."""
    try:
        import multipart  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        return None
    return multipart
