"""Server-sent events out of pieces of bytes (HTML standard, section 9.2.6), for a test client. It does no I/O."""

from __future__ import annotations

import codecs
import re
from collections import deque

from .._http._event_encoding import ServerSentEvent
from ._response_reader import ResponseError

_LINE_END = re.compile(r"\r\n|\n|\r")
_MAX_LINE = 16 * 1024 * 1024


class EventDecoder:
    """Decodes the events of one stream.

    Args:
        last_event_id: the id before the first event.

    Attributes:
        last_event_id: the last id that was sent; empty if there was none.
        retry: the last reconnection time in milliseconds; None if none was sent.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._events: deque[ServerSentEvent] = deque()
        self._begun: list[str] = []  # the pieces of a line that has no end yet
        self._size = 0
        self._is_first = True
        self._after_cr = False
        self._data: list[str] = []
        self._type = ""
        self._id = last_event_id

    def receive(self, piece: bytes) -> None:
        """Add a piece of the body.

        Raises:
            ResponseError: the body is not UTF-8, or has a line of more than 16 MiB.
        """
        try:
            text = self._decoder.decode(piece)
        except UnicodeDecodeError as exc:
            raise ResponseError(f"an event stream must be UTF-8 (HTML standard, section 9.2.5): {exc}") from None
        if self._is_first and text:
            self._is_first = False
            text = text.removeprefix("\ufeff")
        # The CR of the last piece has ended its line. An LF right after it belongs to it.
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        *lines, rest = _LINE_END.split(text)
        self._after_cr |= text.endswith("\r")
        for line in lines:
            self._handle("".join([*self._begun, line]))
            self._begun, self._size = [], 0
        self._begun.append(rest)
        self._size += len(rest)
        if self._size > _MAX_LINE:
            raise ResponseError(f"a line of an event stream is longer than {_MAX_LINE} characters")

    def next(self) -> ServerSentEvent | None:
        """Remove the next event; None if there is none yet."""
        return self._events.popleft() if self._events else None

    def _handle(self, line: str) -> None:
        if not line:
            self._dispatch()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        if self._data:
            event = ServerSentEvent("\n".join(self._data), self._type or "message", self._id)
            self._events.append(event)
        self._data, self._type = [], ""
