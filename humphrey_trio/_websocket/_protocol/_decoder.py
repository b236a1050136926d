"""The receiving side of WebSocket frames: bytes in, messages and control frames out (RFC 6455, section 5).

wsproto checks the headers of frames. Payloads are decoded here, because wsproto copies them five times. Messages
are assembled here, because their limits must hold before their bytes have arrived. The decoder does no I/O, and
raises no exception for what a peer sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from wsproto.frame_protocol import ParseFailed

from .._message import Message
from ._assembly import BinaryParts, TextParts
from ._close_codes import INVALID_PAYLOAD, NO_CODE, PROTOCOL_ERROR, TOO_BIG, may_be_sent
from ._deflate import longest_compressed
from ._frames import CLOSE, CONTINUATION, PING, PONG, TEXT, read_header
from ._mask import unmask_short

if TYPE_CHECKING:
    from .._limits import StreamLimits
    from ._deflate import PerMessageDeflate
    from ._frames import Frame

# A short frame that contains a whole message (RFC 6455, section 5.2): FIN, no reserved bits and the opcode of text
# or binary in the first byte; the mask bit and a length below 126 in the second; then four bytes of masking key.
_WHOLE_TEXT = 0x81

_WHOLE = (_WHOLE_TEXT, 0x82)

_MASKED = 0x80

_SHORT_HEADER = 6


@dataclass(frozen=True, slots=True)
class Ping:
    """A Ping (RFC 6455, section 5.5.2). The Pong must have the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A Pong (RFC 6455, section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """A Close (RFC 6455, section 5.5.1). ``code`` is ``NO_CODE`` if it has none."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer violated the protocol or a limit. The connection must be failed with this code (section 7.1.7)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class FrameWithoutMessage:
    """A frame was decoded that does not end its message. Reported so that the fairness counts such frames."""


Event: TypeAlias = "Message | FrameWithoutMessage | Ping | Pong | Close | Failure"

_FRAME_WITHOUT_MESSAGE = FrameWithoutMessage()


class _Failed(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Decoder:
    """Decodes the incoming frames of one stream.

    Args:
        limits: the limits of a message.
        client: True for the client side, in tests. Only clients mask their frames (RFC 6455, section 5.1).
        deflate: the negotiated compression; None refuses compressed messages.
    """

    __slots__ = (
        "_client",
        "_compressed",
        "_deflate",
        "_fragments",
        "_frame",
        "_limits",
        "_opcode",
        "_over",
        "_parts",
        "_received",
        "_size",
        "_start",
    )

    def __init__(
        self, limits: StreamLimits, *, client: bool = False, deflate: PerMessageDeflate | None = None
    ) -> None:
        self._client = client
        self._deflate = deflate
        self._over = False
        self.limit(limits)
        # Received bytes, of which those from ``_start`` on are not decoded yet. If there are none, it is empty.
        self._received = b""
        self._start = 0
        self._frame: Frame | None = None  # the frame whose header is decoded
        # The state of the message that is being assembled:
        self._opcode: int | None = None
        self._compressed = False
        self._parts: TextParts | BinaryParts | None = None
        self._size = 0
        self._fragments = 0

    def limit(self, limits: StreamLimits) -> None:
        """Set other limits, before the first frame is decoded."""
        self._limits = limits
        if self._deflate is not None:
            self._deflate.limit(limits.max_message_size)

    def receive(self, data: bytes) -> None:
        """Add received bytes. Bytes after a Close or a failure are ignored.

        Call ``next`` before, until it returns None. Then at most a short frame is copied here.
        """
        # A peer must not send anything after a Close (RFC 6455, section 5.5.1), and the bytes after a failure
        # cannot be decoded.
        if not self._over:
            self._received = self._received[self._start :] + data if self._received else data
            self._start = 0

    @property
    def buffered(self) -> bool:
        """Whether there are received bytes that are not decoded yet."""
        return bool(self._received)

    @property
    def missing(self) -> int:
        """The number of bytes of the current frame that were not received; 0 if its header was not."""
        return 0 if self._frame is None else self._frame.missing

    def next(self) -> Event | None:
        """Return the next event; None if more bytes are needed.

        A ``Close`` or a ``Failure`` is the last event.
        """
        if not self._received:
            return None
        try:
            frame = self._frame
            if frame is None:
                message = self._short_message()
                if message is not None:
                    return message
                frame = self._begin_frame()
                if frame is None:
                    return None
            return self._control(frame) if frame.opcode >= CLOSE else self._data(frame)
        except ParseFailed as exc:
            return self._failure(int(exc.code), str(exc))
        except _Failed as exc:
            return self._failure(exc.code, str(exc))
        except UnicodeDecodeError:
            return self._failure(INVALID_PAYLOAD, "the text is not UTF-8 (RFC 6455, section 8.1)")

    def _failure(self, code: int, reason: str) -> Failure:
        self._end()
        return Failure(code, reason)

    def _end(self) -> None:
        self._over = True
        self._received = b""
        self._frame = self._parts = None

    def _advance(self, start: int) -> None:
        """Note that the bytes before ``start`` are decoded."""
        if start == len(self._received):
            self._received, self._start = b"", 0
        else:
            self._start = start

    # Messages...

    def _short_message(self) -> Message | None:
        """Decode the next message if it is complete and consists of one short frame. Most messages are so.

        Everything else, valid or not, is left to the other methods.
        """
        data, start = self._received, self._start
        payload = start + _SHORT_HEADER
        if len(data) < payload or self._opcode is not None or self._client:
            return None
        first, size = data[start], data[start + 1] - _MASKED  # below 0 without the mask bit, which is an error
        end = payload + size
        if first not in _WHOLE or not 0 <= size < 126 or len(data) < end or size > self._limits.max_message_size:
            return None
        if len(data) == end:
            self._received, self._start = b"", 0
        else:
            self._start = end
        content = unmask_short(data[start + 2 : payload], data[payload:end])
        return Message(content.decode() if first == _WHOLE_TEXT else content)

    def _begin_frame(self) -> Frame | None:
        """Decode the header of a frame. An invalid one is refused before its payload has arrived."""
        extensions = () if self._deflate is None else (self._deflate,)
        header = read_header(self._received, self._start, client=self._client, extensions=extensions)
        if header is None:
            return None
        self._frame, start = header
        if self._frame.opcode < CLOSE:
            self._check_sequence(self._frame)
            self._count(self._frame.size)
        self._advance(start)
        return self._frame

    def _check_sequence(self, frame: Frame) -> None:
        if self._opcode is None:
            if frame.opcode == CONTINUATION:
                raise _Failed(PROTOCOL_ERROR, "a continuation frame without a message (RFC 6455, section 5.4)")
            self._opcode, self._compressed = frame.opcode, frame.compressed
        elif frame.opcode != CONTINUATION:
            raise _Failed(PROTOCOL_ERROR, "a new message before the end of another (RFC 6455, section 5.4)")

    def _count(self, size: int) -> None:
        self._size += size
        self._fragments += 1
        longest = self._limits.max_message_size
        if self._size > (longest_compressed(longest, self._fragments) if self._compressed else longest):
            raise _Failed(TOO_BIG, f"the message is longer than {longest} bytes")
        if self._fragments > self._limits.max_fragments:
            raise _Failed(TOO_BIG, f"the message has more than {self._limits.max_fragments} fragments")

    def _data(self, frame: Frame) -> Message | FrameWithoutMessage | None:
        """Decode a part of the payload of a data frame: as much as has arrived."""
        if frame.missing and not self._received:
            return None  # but a frame without payload is complete, and may end its message
        payload = self._take(frame)
        if not frame.missing:
            self._frame = None
        if self._compressed:
            payload = self._inflate(payload, ended=not frame.missing and frame.fin)
        return self._assemble(payload, last=not frame.missing and frame.fin)

    def _take(self, frame: Frame) -> bytes:
        payload = frame.take(self._received, self._start)
        self._advance(self._start + len(payload))
        return payload

    def _inflate(self, payload: bytes, *, ended: bool) -> bytes:
        assert self._deflate is not None  # else a compressed frame is refused by its header
        content = self._deflate.inflate(payload)
        return content + self._deflate.end_message() if ended else content

    def _assemble(self, payload: bytes, *, last: bool) -> Message | FrameWithoutMessage:
        """Add a part to the current message."""
        is_text, parts = self._opcode == TEXT, self._parts
        if parts is None:
            if len(payload) <= self._limits.max_message_size and last:
                self._end_message()
                return Message(payload.decode() if is_text else payload)
            parts = self._parts = TextParts() if is_text else BinaryParts()
        too_long = parts.size + len(payload) > self._limits.max_message_size
        parts.add(payload, last=last and not too_long)
        if too_long:
            # The text is checked before, because an invalid byte before the limit must fail with 1007. So the
            # close code does not depend on how the bytes were split into reads. One case is left: if the
            # compressed data is corrupt at the limit, zlib does not return what it inflated before the error.
            raise _Failed(TOO_BIG, f"the message inflates to more than {self._limits.max_message_size} bytes")
        if not last:
            return _FRAME_WITHOUT_MESSAGE
        self._end_message()
        return parts.message()

    def _end_message(self) -> None:
        self._opcode = self._parts = None
        self._size = self._fragments = 0

    # Control frames...

    def _control(self, frame: Frame) -> Event | None:
        """Decode the payload of a control frame when it is complete. It has at most 125 bytes."""
        if len(self._received) - self._start < frame.missing:
            return None
        self._frame = None
        payload = self._take(frame)
        if frame.opcode == PING:
            return Ping(payload)
        if frame.opcode == PONG:
            return Pong(payload)
        self._end()
        return _close_event(payload)


def _close_event(payload: bytes) -> Event:
    if not payload:
        return Close(NO_CODE, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not may_be_sent(code):
        return Failure(PROTOCOL_ERROR, "a Close frame with an invalid code (RFC 6455, section 7.4)")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        return Failure(INVALID_PAYLOAD, "a Close frame whose reason is not UTF-8")
