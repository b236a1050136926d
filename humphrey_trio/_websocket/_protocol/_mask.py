"""Unmasking payloads (RFC 6455, section 5.3) in the quickest way that is there for their size.

With the extra ``humphrey_trio[fast]`` long payloads are unmasked by PyCryptodome's ``strxor``, compiled code
with a public interface; without it everything works the same, slower.
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
# Up to here one big number is quicker than the four strided translations, and from there on ever slower.
_SHORT = 300
# A call of the compiled code takes 3.5 microseconds, whatever the size; from here on that is worth it.
_LONG = 3072
_XOR_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


def unmask_short(key: bytes | bytearray, payload: bytearray) -> bytes:
    """A payload of at most some hundred bytes, unmasked as one big number."""
    size = len(payload)
    mask = int.from_bytes((key * (size // _KEY_BYTES + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


class Mask(XorMaskerSimple):
    """A frame's mask, in place of wsproto's: it works in place, on one piece of the payload after the other."""

    def __init__(self, masker: XorMaskerSimple) -> None:
        # What a masker makes of zeros is its key.
        self._key = bytes(masker.process(bytearray(_KEY_BYTES)))

    def process(self, data: bytearray) -> bytearray:
        """Unmask a piece, which the caller has no other use for."""
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
