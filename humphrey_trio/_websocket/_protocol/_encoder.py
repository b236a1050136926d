"""The sending side of WebSocket frames: messages and control frames to bytes (RFC 6455, section 5).

A server does not mask its frames (section 5.1), so a frame is a short header and the unchanged payload. Encoding
it here takes a tenth of the time of the serializer of wsproto, which copies the payload. All receivers of a
broadcast share the result. This module does no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._message import Message
from ._close_codes import may_be_sent
from ._frames import BINARY, CLOSE, PING, PONG, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._message import Sendable
    from ._deflate import PerMessageDeflate

_MAX_CONTROL_PAYLOAD = 125

_REASON_BYTES = _MAX_CONTROL_PAYLOAD - 2

_FIN = 0x80
# The first reserved bit: a message is compressed (RFC 7692, section 6).
_COMPRESSED = 0x40

# From this size on, a payload is not copied behind its header. The copy of 1 MiB takes 100 us, and 300 us if its
# memory must be obtained from the kernel.
_LONG = 64 * 1024

_SHORT_HEADERS = {
    opcode: [bytes((_FIN | opcode, size)) for size in range(126)]
    for opcode in (TEXT, BINARY, CLOSE, PING, PONG, _COMPRESSED | TEXT, _COMPRESSED | BINARY)
}


def _header(opcode: int, size: int) -> bytes:
    if size < 126:
        return _SHORT_HEADERS[opcode][size]
    if size < 65536:
        return b"%c\x7e%b" % (_FIN | opcode, size.to_bytes(2, "big"))
    return b"%c\x7f%b" % (_FIN | opcode, size.to_bytes(8, "big"))


def _frame(opcode: int, payload: bytes) -> bytes:
    return _header(opcode, len(payload)) + payload


# The size of a header with an extended length, by its second byte (RFC 6455, section 5.2).
_LONG_HEADERS = {126: 4, 127: 10}

#: A Close frame without a code, the reply to a Close frame without a code.
EMPTY_CLOSE = _frame(CLOSE, b"")


def encode_message(message: Sendable) -> bytes:
    """Encode a message as one uncompressed frame.

    Raises:
        TypeError: ``message`` is not a ``Message``, ``str`` or buffer.
    """
    data = message if isinstance(message, (str, bytes)) else _as_message(message).data
    return _frame(TEXT, data.encode()) if isinstance(data, str) else _frame(BINARY, data)


def encode_parts(message: Sendable) -> tuple[bytes, bytes]:
    """Encode a message as one uncompressed frame, and leave a long payload where it is.

    Returns:
        The header and the payload if the payload is long. Otherwise the frame, and empty bytes.

    Raises:
        TypeError: as ``encode_message``.
    """
    data = message if isinstance(message, (str, bytes)) else _as_message(message).data
    opcode, payload = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
    size = len(payload)
    header = _header(opcode, size)
    return (header, payload) if size >= _LONG else (header + payload, b"")


def _as_message(message: Sendable) -> Message:
    return message if isinstance(message, Message) else Message(message)


def payload_of(frame: bytes) -> memoryview:
    """Return the payload of a frame that this module encoded, without a copy."""
    return memoryview(frame)[_LONG_HEADERS.get(frame[1], 2) :]


def compress_frame(frame: bytes, compress: Callable[[bytes | memoryview], bytes]) -> bytes:
    """Return the compressed frame of a message (RFC 7692, section 6.1).

    Args:
        frame: the result of ``encode_message``, so that text is not encoded twice.
        compress: compresses the payload; ``compress`` or ``compress_apart`` of ``PerMessageDeflate``.
    """
    return _frame(_COMPRESSED | (frame[0] & 0x0F), compress(payload_of(frame)))


def compress_for(frame: bytes, deflate: PerMessageDeflate) -> bytes:
    """Return the frame of a message for one peer, compressed unless it is short. It must be sent next."""
    return compress_frame(frame, deflate.compress) if len(payload_of(frame)) >= deflate.min_size else frame


class Frames:
    """The frames of one message for many receivers. Each form of it is encoded once.

    Attributes:
        plain: the uncompressed frame.
    """

    __slots__ = ("_compress", "_compressed", "_size", "plain")

    def __init__(self, message: Sendable, *, compress: bool) -> None:
        self.plain = encode_message(message)
        self._size = len(payload_of(self.plain))
        self._compress = compress
        self._compressed: dict[object, bytes] = {}

    def compressed_for(self, deflate: PerMessageDeflate) -> bytes | None:
        """Return the compressed frame for all peers of the same ``kind``; None if the message is not compressed.

        The caller must ``reset`` the compressor of each peer to which it sends the frame; see ``compress_apart``.
        """
        if not self._compress or self._size < deflate.min_size:
            return None
        frame = self._compressed.get(deflate.kind)
        if frame is None:
            frame = self._compressed[deflate.kind] = compress_frame(self.plain, deflate.compress_apart)
        return frame


def encode_ping(payload: bytes) -> bytes:
    """Encode a Ping frame.

    Raises:
        ValueError: the payload is longer than 125 bytes (RFC 6455, section 5.5).
        TypeError: it is not bytes.
    """
    if not isinstance(payload, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the payload of a ping is bytes, not {type(payload).__name__}: write b'...'")
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        raise ValueError(f"the payload of a ping has at most {_MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
    return _frame(PING, payload)


def encode_pong(payload: bytes) -> bytes:
    """Encode a Pong frame. ``payload`` is that of a Ping."""
    return _frame(PONG, payload)


def encode_close(code: int, reason: str = "") -> bytes:
    """Encode a Close frame with a code.

    Raises:
        ValueError: the code may not be sent, or the reason is longer than 123 bytes of UTF-8.
        TypeError: the code is not an int, or the reason is not a str.
    """
    if not isinstance(code, int) or not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a close has an int code, then a str: close(1000, 'reason'), not ({code!r}, {reason!r})")
    if not may_be_sent(code):
        raise ValueError(f"close code {code} may not be sent: use 1000, 1001, 1003, 1007 to 1014, or 3000 to 4999")
    encoded = reason.encode()
    if len(encoded) > _REASON_BYTES:
        raise ValueError(f"a close reason has at most {_REASON_BYTES} bytes of UTF-8, not {len(encoded)}")
    return _frame(CLOSE, code.to_bytes(2, "big") + encoded)
