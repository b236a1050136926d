"""Unmasking of payloads (RFC 6455, section 5.3), with the fastest available algorithm for each size.

With the extra ``humphrey_trio[fast]``, long payloads are unmasked by ``strxor`` of PyCryptodome, a public function
in compiled code. Without it, the result is the same, but slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsproto.frame_protocol import XorMaskerSimple

if TYPE_CHECKING:
    from collections.abc import Callable


def _compiled() -> Callable[..., object] | None:
    try:
        from Crypto.Util.strxor import strxor
    except ImportError:  # the extra is not installed
        return None
    return strxor


_strxor = _compiled()
_KEY_BYTES = 4
# Up to this size in bytes, one large integer is faster than four strided translations.
_SHORT = 300
# From this size on, the compiled code is faster. Each of its calls takes at least 3.5 us.
_LONG = 3072
_XOR_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


def unmask_short(key: bytes | bytearray, payload: bytearray) -> bytes:
    """Unmask a payload of at most a few hundred bytes, as one large integer."""
    size = len(payload)
    mask = int.from_bytes((key * (size // _KEY_BYTES + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


class Mask(XorMaskerSimple):
    """Replaces the masker of wsproto. It unmasks the parts of a payload one after another, in place."""

    def __init__(self, masker: XorMaskerSimple) -> None:
        # Zeros, masked, are the masking key. wsproto has no public attribute for it.
        self._key = bytes(masker.process(bytearray(_KEY_BYTES)))

    def process(self, data: bytearray) -> bytearray:
        """Unmask a part of the payload in place, and return it."""
        size = len(data)
        key = self._key
        if size <= _SHORT:
            data[:] = unmask_short(key, data)
        elif _strxor is not None and size >= _LONG:
            _strxor(data, (key * -(-size // _KEY_BYTES))[:size], output=data)
        else:
            for i in range(_KEY_BYTES):
                data[i::_KEY_BYTES] = data[i::_KEY_BYTES].translate(_XOR_TABLES[key[i]])
        turn = size % _KEY_BYTES
        self._key = key[turn:] + key[:turn]
        return data
