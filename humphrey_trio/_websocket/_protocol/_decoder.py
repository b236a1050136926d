"""The receiving side of WebSocket frames: bytes in, messages and control frames out (RFC 6455, section 5).

wsproto decodes the frames. Messages are assembled here, because their limits must hold before their bytes have
arrived. The decoder does no I/O, and raises no exception for what a peer sends.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from wsproto.frame_protocol import FrameDecoder, Opcode, ParseFailed, XorMaskerSimple

from .._message import Message
from ._deflate import longest_compressed
from ._mask import Mask, unmask_short

if TYPE_CHECKING:
    from wsproto.frame_protocol import Frame, Header

    from .._limits import StreamLimits
    from ._deflate import PerMessageDeflate
from ._close_codes import INVALID_PAYLOAD, NO_CODE, PROTOCOL_ERROR, TOO_BIG, may_be_sent

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
class Part:
    """A frame was decoded that does not end its message. Reported so that the fairness counts such frames."""


Event: TypeAlias = "Message | Part | Ping | Pong | Close | Failure"

_PART = Part()


class _Failed(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Frames(FrameDecoder):
    """The frame decoder of wsproto with faster unmasking."""

    def parse_header(self) -> bool:
        begun = super().parse_header()
        if begun and isinstance(self.masker, XorMaskerSimple):
            self.masker = Mask(self.masker)
        return begun


class Decoder:
    """Decodes the incoming frames of one stream.

    Args:
        limits: the limits of a message.
        client: True for the client side, in tests. Only clients mask their frames (RFC 6455, section 5.1).
        deflate: the negotiated compression; None refuses compressed messages.
    """

    __slots__ = (
        "_assembled",
        "_compressed",
        "_deflate",
        "_fragments",
        "_frames",
        "_limits",
        "_opcode",
        "_over",
        "_size",
        "_utf8",
    )

    def __init__(
        self, limits: StreamLimits, *, client: bool = False, deflate: PerMessageDeflate | None = None
    ) -> None:
        self._deflate = deflate
        self._frames = _Frames(client, [deflate] if deflate is not None else None)
        self._over = False
        self.limit(limits)
        # The state of the message that is being assembled:
        self._opcode: Opcode | None = None
        self._compressed = False
        self._assembled = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None
        self._size = 0
        self._fragments = 0

    def limit(self, limits: StreamLimits) -> None:
        """Set other limits, before the first frame is decoded."""
        self._limits = limits
        if self._deflate is not None:
            self._deflate.max_message_size = limits.max_message_size

    def receive(self, data: bytes) -> None:
        """Add received bytes. Bytes after a Close or a failure are ignored."""
        if not self._over:
            self._frames.receive_bytes(data)

    @property
    def buffered(self) -> bool:
        """Whether there are received bytes that are not decoded yet."""
        return bool(self._frames.buffer.buffer)

    def next(self) -> Event | None:
        """Return the next event; None if more bytes are needed.

        A ``Close`` or a ``Failure`` is the last event.
        """
        # A peer must not send anything after a Close (RFC 6455, section 5.5.1), and the bytes after a failure
        # cannot be decoded. wsproto would buffer them without a limit, so it does not receive them.
        if self._over or not self._frames.buffer.buffer:
            return None
        try:
            message = self._short_message()
            if message is not None:
                return message
            # One frame at a time: the iterator of wsproto loses the valid frames before an invalid one.
            if self._frame_begun() and (frame := self._frames.process_buffer()) is not None:
                return self._control(frame) if frame.opcode >= Opcode.CLOSE else self._data(frame)
        except ParseFailed as exc:
            return self._failure(int(exc.code), str(exc))
        except _Failed as exc:
            return self._failure(exc.code, str(exc))
        except UnicodeDecodeError:
            return self._failure(INVALID_PAYLOAD, "the text is not UTF-8 (RFC 6455, section 8.1)")
        return None

    def _failure(self, code: int, reason: str) -> Failure:
        self._over = True
        return Failure(code, reason)

    # Messages...

    def _short_message(self) -> Message | None:
        """Decode the next message if it is complete and consists of one short frame. Most messages are so.

        Everything else, valid or not, is left to wsproto.
        """
        frames = self._frames
        data = frames.buffer.buffer
        if len(data) < _SHORT_HEADER or self._opcode is not None or frames.header is not None or frames.client:
            return None
        first, size = data[0], data[1] - _MASKED
        end = _SHORT_HEADER + size
        if first not in _WHOLE or not 0 <= size < 126 or len(data) < end or size > self._limits.max_message_size:
            return None
        payload = unmask_short(data[2:_SHORT_HEADER], data[_SHORT_HEADER:end])
        del data[:end]
        return Message(payload.decode() if first == _WHOLE_TEXT else payload)

    def _frame_begun(self) -> bool:
        """Whether the header of a frame is decoded. An invalid one is refused before its payload has arrived."""
        frames = self._frames
        if frames.header is None and frames.parse_header():
            assert frames.header is not None
            if frames.header.opcode < Opcode.CLOSE:
                self._check_sequence(frames.header)
                self._count(frames.header.payload_len)
        return frames.header is not None

    def _check_sequence(self, header: Header) -> None:
        if self._opcode is None:
            if header.opcode is Opcode.CONTINUATION:
                raise _Failed(PROTOCOL_ERROR, "a continuation frame without a message (RFC 6455, section 5.4)")
            self._opcode, self._compressed = header.opcode, header.rsv.rsv1
        elif header.opcode is not Opcode.CONTINUATION:
            raise _Failed(PROTOCOL_ERROR, "a new message before the end of another (RFC 6455, section 5.4)")

    def _count(self, size: int) -> None:
        self._size += size
        self._fragments += 1
        longest = self._limits.max_message_size
        if self._size > (longest_compressed(longest, self._fragments) if self._compressed else longest):
            raise _Failed(TOO_BIG, f"the message is longer than {longest} bytes")
        if self._fragments > self._limits.max_fragments:
            raise _Failed(TOO_BIG, f"the message has more than {self._limits.max_fragments} fragments")

    def _data(self, frame: Frame) -> Message | Part:
        payload = frame.payload
        assert isinstance(payload, bytes)
        finished = frame.frame_finished and frame.message_finished
        is_text = self._opcode is Opcode.TEXT
        if len(self._assembled) + len(payload) > self._limits.max_message_size:
            self._refuse_inflated(payload, is_text)
        if finished and not self._assembled:
            message = Message(payload.decode() if is_text else payload)
        else:
            self._assembled += payload
            if is_text:
                self._check_utf8(payload, finished)
            if not finished:
                return _PART
            message = Message(self._assembled.decode() if is_text else bytes(self._assembled))
            self._assembled.clear()
        self._opcode = self._utf8 = None
        self._size = self._fragments = 0
        return message

    def _refuse_inflated(self, payload: bytes, is_text: bool) -> NoReturn:
        """Fail the connection for a message that inflates beyond the limit.

        Its text is checked first, because an invalid byte before the limit must fail with 1007. So the close code
        does not depend on how the bytes were split into reads. One case is left: if the compressed data is corrupt
        at the limit, zlib does not return what it inflated before the error.
        """
        if is_text:
            self._check_utf8(payload, False)
        raise _Failed(TOO_BIG, f"the message inflates to more than {self._limits.max_message_size} bytes")

    def _check_utf8(self, payload: bytes, finished: bool) -> None:
        """Fail the connection for invalid text as soon as it arrives."""
        # RFC 6455, section 8.1, permits to check only complete messages, but until then the message uses memory.
        if self._utf8 is None:
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._utf8.decode(payload, finished)
        begun, _ = self._utf8.getstate()
        if b"\xed\xa0" <= begun < b"\xee":  # a surrogate, which Python reports only at its third byte
            begun.decode()

    # Control frames...

    def _control(self, frame: Frame) -> Event:
        payload = frame.payload
        assert isinstance(payload, bytes)
        if frame.opcode is Opcode.PING:
            return Ping(payload)
        if frame.opcode is Opcode.PONG:
            return Pong(payload)
        self._over = True
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
