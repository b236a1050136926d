"""Unmasking of payloads (RFC 6455, section 5.3), with the fastest available algorithm for each size.

With the extra ``humphrey_trio[fast]``, all but short payloads are unmasked by ``bitarray``, which is compiled.
Without it, the result is the same, but slower.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Unmask: TypeAlias = Callable[[bytes, bytes | memoryview], bytes]

_KEY_BYTES = 4
_XOR_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


def unmask_short(key: bytes, payload: bytes | memoryview) -> bytes:
    """Unmask a payload as one large integer. The fastest way for short payloads."""
    size = len(payload)
    mask = int.from_bytes((key * (size // _KEY_BYTES + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


def unmask_long(key: bytes, payload: bytes | memoryview) -> bytes:
    """Unmask a payload by four strided translations. The fastest way in pure Python for long payloads."""
    data = bytearray(payload)
    for i in range(_KEY_BYTES):
        data[i::_KEY_BYTES] = data[i::_KEY_BYTES].translate(_XOR_TABLES[key[i]])
    return bytes(data)


def compiled_unmask() -> Unmask | None:
    """Return a function that unmasks payloads in compiled code; None if the extra is not installed."""
    try:
        from bitarray import bitarray
    except ImportError:
        return None

    def unmask_compiled(key: bytes, payload: bytes | memoryview) -> bytes:
        size = len(payload)
        # The mask becomes the content, in place: BytesIO copies neither the bytes that it gets nor those that it
        # returns, because nothing else refers to them.
        content = BytesIO((key * -(-size // _KEY_BYTES))[:size])
        bits = bitarray(buffer=content.getbuffer())
        bits ^= bitarray(buffer=payload)
        del bits  # releases the buffer
        return content.getvalue()

    return unmask_compiled


compiled: Unmask | None = compiled_unmask()
# Up to this size in bytes, one large integer is the fastest, with and without the compiled code.
_SHORT = 200
_SHORT_PURE = 800


def unmask(key: bytes, payload: bytes | memoryview) -> bytes:
    """Unmask a payload, or a part of one.

    Args:
        key: the masking key, rotated to the position of the part in the payload; see ``rotated``.
        payload: the masked bytes.
    """
    size = len(payload)
    if size <= _SHORT or (compiled is None and size <= _SHORT_PURE):
        return unmask_short(key, payload)
    return unmask_long(key, payload) if compiled is None else compiled(key, payload)


def rotated(key: bytes, size: int) -> bytes:
    """Return the masking key for the part of a payload that begins ``size`` bytes later."""
    turn = size % _KEY_BYTES
    return key[turn:] + key[:turn] if turn else key
