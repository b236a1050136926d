"""The headers of incoming frames (RFC 6455, section 5.2), and their payloads, which may arrive in parts.

wsproto parses and checks headers. The ordinary headers that a client sends are also parsed here, in a seventh of
the time. All others, compressed or invalid, are left to wsproto. No state is kept between two frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsproto.frame_protocol import FrameDecoder

from ._mask import rotated, unmask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsproto.extensions import Extension

#: The opcodes. Those from ``CLOSE`` on are control frames.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FIN = 0x80
_MASKED = 0x80
_KEY_BYTES = 4
#: The longest header: two bytes, a length of eight bytes, and the masking key.
_MAX_HEADER = 14
# The first bytes of ordinary frames: no reserved bits, and FIN if it is a control frame (section 5.5).
_DATA = frozenset((CONTINUATION, TEXT, BINARY, _FIN | CONTINUATION, _FIN | TEXT, _FIN | BINARY))
_CONTROL = frozenset((_FIN | CLOSE, _FIN | PING, _FIN | PONG))
# By the second byte: the end of the extended length, and the smallest length that needs it.
_EXTENDED = {_MASKED | 126: (4, 126), _MASKED | 127: (10, 65536)}


class Frame:
    """A frame whose header has arrived.

    Args:
        opcode: the opcode.
        fin: whether it is the last frame of its message.
        compressed: the bit RSV1, with which a compressed message begins (RFC 7692, section 6).
        size: the number of bytes of the payload.
        key: the masking key; empty if the payload is not masked.

    Attributes:
        opcode, fin, compressed, size: as the arguments.
        missing: the number of bytes of the payload that were not taken.
    """

    __slots__ = ("_key", "compressed", "fin", "missing", "opcode", "size")

    def __init__(self, opcode: int, fin: bool, compressed: bool, size: int, key: bytes) -> None:
        self.opcode = opcode
        self.fin = fin
        self.compressed = compressed
        self.size = self.missing = size
        self._key = key

    def take(self, data: bytes, start: int) -> bytes:
        """Take the next part of the payload, unmasked.

        Args:
            data: received bytes.
            start: where the part begins in them. It ends with the payload, or with the data.
        """
        part = memoryview(data)[start : start + self.missing]
        size = len(part)
        self.missing -= size
        if not self._key:
            return bytes(part)
        payload = unmask(self._key, part)
        if self.missing:
            self._key = rotated(self._key, size)
        return payload


def read_header(
    data: bytes, start: int, *, client: bool, extensions: Sequence[Extension] = ()
) -> tuple[Frame, int] | None:
    """Read the header of a frame.

    Args:
        data: received bytes.
        start: where the frame begins in them.
        client: whether this is the client side, which receives frames without a mask.
        extensions: the negotiated extensions.

    Returns:
        The frame, and where its payload begins. None if the header is incomplete.

    Raises:
        ParseFailed: the header is invalid. As early as possible, also if it is incomplete.
    """
    if not client and (ordinary := _read_ordinary(data, start)) is not None:
        return ordinary
    head = data[start : start + _MAX_HEADER]
    decoder = FrameDecoder(client, list(extensions))
    decoder.receive_bytes(head)
    if not decoder.parse_header():
        return None
    header = decoder.header
    assert header is not None
    end = len(head) - len(decoder.buffer)
    key = b"" if client else head[end - _KEY_BYTES : end]
    return Frame(header.opcode, header.fin, header.rsv.rsv1, header.payload_len, key), start + end


def _read_ordinary(data: bytes, start: int) -> tuple[Frame, int] | None:
    """Read a header of the kinds that nearly all frames have. None if it is another, invalid or incomplete."""
    if len(data) < start + 2 + _KEY_BYTES:
        return None
    first, second = data[start], data[start + 1]
    if first in _DATA:
        length, least = _EXTENDED.get(second, (2, 0))
    elif first in _CONTROL and second < _MASKED | 126:
        length, least = 2, 0
    else:
        return None
    end = start + length
    size = int.from_bytes(data[start + 2 : end], "big") if least else second - _MASKED
    payload = end + _KEY_BYTES
    if size < least or size >> 63 or len(data) < payload:
        return None
    return Frame(first & ~_FIN, first >= _FIN, False, size, data[end:payload]), payload
