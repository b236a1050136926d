"""WebSocket frames: bytes in, messages and control frames out; messages in, frames out (RFC 6455, section 5).

wsproto decodes the frames. Messages are put together here, because their limits have to hold before the bytes
are there. The codec is pure: no I/O, no wait, and no exception for what a peer sends.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from wsproto.frame_protocol import FrameDecoder, FrameProtocol, Opcode, ParseFailed, XorMaskerSimple

from ._deflate import longest_compressed
from ._mask import Mask, unmask_short
from ._message import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsproto.frame_protocol import Frame, Header

    from ._deflate import PerMessageDeflate
    from ._limits import StreamLimits
    from ._message import Sendable

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_CODE = 1005
ABNORMAL = 1006
INVALID_PAYLOAD = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013

_MAX_CONTROL_PAYLOAD = 125
_REASON_BYTES = _MAX_CONTROL_PAYLOAD - 2

# A frame with FIN, no reserved bits and an opcode of text or binary (RFC 6455, section 5.2); its second byte
# says that it is masked, and a length below 126; four bytes of the mask follow.
_WHOLE_TEXT = 0x81
_WHOLE = (_WHOLE_TEXT, 0x82)
_MASKED = 0x80
# The first reserved bit: a message is compressed (RFC 7692, section 6).
_COMPRESSED = 0x40
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


# ---------------------------------------------------------------------------------------------- decoding


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


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may carry a code: 1000 to 1014 without the reserved ones, and 3000 to 4999.

    1004, 1005, 1006 and 1015 never stand on the wire (RFC 6455, section 7.4.1); 1012 to 1014 were registered
    later.
    """
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, NO_CODE, ABNORMAL))


# ---------------------------------------------------------------------------------------------- encoding

# A server's frames are not masked, so a frame is a short header and the payload as it is. Writing it here
# costs a tenth of what wsproto's serialiser does with its copies, and a broadcast shares the result.


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return b"%c\x7e%b%b" % (0x80 | opcode, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (0x80 | opcode, size.to_bytes(8, "big"), payload)


# How many bytes are in front of the payload, by the second byte, where it says that the length follows (RFC 6455,
# section 5.2).
_LONG_HEADERS = {126: 4, 127: 10}

#: A Close frame without a code, as an answer to another.
EMPTY_CLOSE = _frame(Opcode.CLOSE, b"")


def encode_message(message: Sendable) -> bytes:
    """The frame of a whole message.

    Raises:
        TypeError: it is neither a message nor text nor bytes.
    """
    data = message if isinstance(message, (str, bytes)) else _as_message(message).data
    if isinstance(data, str):
        return _frame(Opcode.TEXT, data.encode())
    return _frame(Opcode.BINARY, data)


def _as_message(message: Sendable) -> Message:
    return message if isinstance(message, Message) else Message(message)


def payload_of(frame: bytes) -> memoryview:
    """The payload of a frame that was encoded here; it is not copied."""
    return memoryview(frame)[_LONG_HEADERS.get(frame[1], 2) :]


def compress_frame(frame: bytes, compress: Callable[[bytes | memoryview], bytes]) -> bytes:
    """The frame of the same message, compressed (RFC 7692, section 6.1).

    Args:
        frame: what ``encode_message`` made of the message, so that its text is not encoded once more.
        compress: makes the new payload of the old: ``PerMessageDeflate.compress``, or something around
            ``compress_apart``.
    """
    return _frame(_COMPRESSED | (frame[0] & 0x0F), compress(payload_of(frame)))


def compress_for(frame: bytes, deflate: PerMessageDeflate) -> bytes:
    """The frame of the same message for one peer, compressed if that is worth it; it has to be sent next."""
    return compress_frame(frame, deflate.compress) if len(payload_of(frame)) >= deflate.min_size else frame


class Frames:
    """The frames of one message for many receivers: each way to write it is encoded once.

    Attributes:
        plain: the frame that is not compressed.
    """

    __slots__ = ("_compress", "_compressed", "_size", "plain")

    def __init__(self, message: Sendable, *, compress: bool) -> None:
        self.plain = encode_message(message)
        self._size = len(payload_of(self.plain))
        self._compress = compress
        self._compressed: dict[object, bytes] = {}

    def compressed_for(self, deflate: PerMessageDeflate) -> bytes | None:
        """The frame that all peers of one kind can share; None if it is not worth it.

        Whoever gets it needs its compressor ``reset`` (see ``compress_apart``).
        """
        if not self._compress or self._size < deflate.min_size:
            return None
        frame = self._compressed.get(deflate.kind)
        if frame is None:
            frame = self._compressed[deflate.kind] = compress_frame(self.plain, deflate.compress_apart)
        return frame


def encode_ping(payload: bytes) -> bytes:
    """A Ping frame.

    Raises:
        ValueError: the payload is longer than 125 bytes.
    """
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        raise ValueError(f"a ping carries at most {_MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
    return _frame(Opcode.PING, payload)


def encode_pong(payload: bytes) -> bytes:
    """The answer to a Ping with that payload."""
    return _frame(Opcode.PONG, payload)


def encode_close(code: int, reason: str = "") -> bytes:
    """A Close frame with a code.

    Raises:
        ValueError: the code may not be sent, or the reason is longer than 123 bytes of UTF-8.
    """
    if not may_be_sent(code):
        raise ValueError(f"{code} may not be sent: use 1000, 1001, 1003, 1007 to 1014, or 3000 to 4999")
    encoded = reason.encode()
    if len(encoded) > _REASON_BYTES:
        raise ValueError(f"a close reason has at most {_REASON_BYTES} bytes of UTF-8, not {len(encoded)}")
    return _frame(Opcode.CLOSE, code.to_bytes(2, "big") + encoded)


# --------------------------------------------------------------------------------------- the client's side


class ClientEncoder:
    """Frames as a client sends them, masked by wsproto; for tests of applications."""

    def __init__(self) -> None:
        self._frames = FrameProtocol(client=True, extensions=[])

    def message(self, data: str | bytes) -> bytes:
        return bytes(self._frames.send_data(data))

    def ping(self, payload: bytes) -> bytes:
        return bytes(self._frames.ping(payload))

    def pong(self, payload: bytes) -> bytes:
        return bytes(self._frames.pong(payload))

    def close(self, code: int, reason: str) -> bytes:
        return bytes(self._frames.close(None if code == NO_CODE else code, reason or None))
