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

# A frame with FIN, no reserved bits and an opcode of text or binary (RFC 6455, section 5.2); its second byte
# says that it is masked, and a length below 126; four bytes of the mask follow.
_WHOLE_TEXT = 0x81

_WHOLE = (_WHOLE_TEXT, 0x82)

_MASKED = 0x80

_SHORT_HEADER = 6


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer asks whether we are there, and wants the payload back."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer is there."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer sends no more; ``NO_CODE`` if it did not say why."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer broke the protocol or a limit; the connection has to be closed with this."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message has come, which ends in none; so that many of them do not count for nothing."""


Event: TypeAlias = "Message | Part | Ping | Pong | Close | Failure"

_PART = Part()


class _Failed(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Frames(FrameDecoder):
    """wsproto's decoder, with a quicker mask."""

    def parse_header(self) -> bool:
        begun = super().parse_header()
        if begun and isinstance(self.masker, XorMaskerSimple):
            self.masker = Mask(self.masker)
        return begun


class Decoder:
    """The incoming side of one stream.

    Args:
        limits: bounds of a message.
        client: whether this is the client's side, for tests; a server's peer masks its frames.
        deflate: what was agreed on compression; None refuses compressed messages.
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
        # The message that is being put together:
        self._opcode: Opcode | None = None
        self._compressed = False
        self._assembled = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None
        self._size = 0
        self._fragments = 0

    def limit(self, limits: StreamLimits) -> None:
        """Other bounds from here on; for a stream that changes hands before its first frame."""
        self._limits = limits
        if self._deflate is not None:
            self._deflate.max_message_size = limits.max_message_size

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer. Behind a Close or a failure nothing counts any more."""
        if not self._over:
            self._frames.receive_bytes(data)

    @property
    def buffered(self) -> bool:
        """Whether bytes came that are not decoded yet."""
        return bool(self._frames.buffer.buffer)

    def next(self) -> Event | None:
        """The next thing the peer said, or None while more bytes are needed.

        A ``Close`` or a ``Failure`` is the last.
        """
        # Behind a Close the peer may send nothing (RFC 6455, section 5.5.1), and what follows a failure cannot be
        # told apart. wsproto would go on to buffer it, so it is not even given to it.
        if self._over or not self._frames.buffer.buffer:
            return None
        try:
            message = self._short_message()
            if message is not None:
                return message
            # One frame at a time: wsproto's iterator over all of them loses the good ones in front of a bad one.
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
        """The message, if it comes next, whole, and in one short frame: what most messages are.

        Anything else, be it correct or not, is left to wsproto.
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
        """Whether a frame's header is there; what is wrong with it is refused before the payload comes."""
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
                raise _Failed(PROTOCOL_ERROR, "a continuation without a message (RFC 6455, section 5.4)")
            self._opcode, self._compressed = header.opcode, header.rsv.rsv1
        elif header.opcode is not Opcode.CONTINUATION:
            raise _Failed(PROTOCOL_ERROR, "a message inside another (RFC 6455, section 5.4)")

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
        """Refuse a message that inflates too far, unless its text was bad before: what came first decides.

        So the code does not hang on how the bytes were split into reads, unless they are corrupt just there:
        zlib keeps to itself what it had inflated before that.
        """
        if is_text:
            self._check_utf8(payload, False)
        raise _Failed(TOO_BIG, f"the message inflates to more than {self._limits.max_message_size} bytes")

    def _check_utf8(self, payload: bytes, finished: bool) -> None:
        """Refuse bad text as it arrives, not only at its end."""
        # RFC 6455, section 8.1, would let us wait for the whole message; a bad one would take memory until then.
        if self._utf8 is None:
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._utf8.decode(payload, finished)
        begun, _ = self._utf8.getstate()
        if b"\xed\xa0" <= begun < b"\xee":  # a surrogate, which Python refuses at its third byte only
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
