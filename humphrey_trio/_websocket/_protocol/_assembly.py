"""Messages that arrive in parts. A part is added when it arrives, and text is checked then."""

from __future__ import annotations

import codecs
from io import BytesIO, StringIO

from .._message import Message

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class BinaryParts:
    """A binary message of which some parts have arrived. The memory that it uses is in proportion to them.

    Attributes:
        size: the number of bytes of the parts.
    """

    __slots__ = ("_buffer", "size")

    def __init__(self) -> None:
        # It grows without a copy for each part, and ``getvalue`` does not copy either. A list of parts would take
        # 40 bytes for each part of one byte.
        self._buffer = BytesIO()
        self.size = 0

    def add(self, part: bytes, *, last: bool) -> None:
        """Add a part."""
        self.size += len(part)
        self._buffer.write(part)

    def message(self) -> Message:
        """Return the complete message."""
        return Message(self._buffer.getvalue())


class TextParts:
    """A text message of which some parts have arrived.

    RFC 6455, section 8.1, permits to check only complete messages. But until then an invalid message uses memory.

    Attributes:
        size: the number of bytes of the parts.
    """

    __slots__ = ("_buffer", "_utf8", "size")

    def __init__(self) -> None:
        self._buffer = StringIO()
        self._utf8 = _Utf8Decoder()
        self.size = 0

    def add(self, part: bytes, *, last: bool) -> None:
        """Add a part, and check it.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        self.size += len(part)
        self._buffer.write(self._utf8.decode(part, last))
        begun, _ = self._utf8.getstate()
        if b"\xed\xa0" <= begun < b"\xee":  # a surrogate, which Python reports only at its third byte
            begun.decode()

    def message(self) -> Message:
        """Return the complete message."""
        return Message(self._buffer.getvalue())
