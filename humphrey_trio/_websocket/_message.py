"""WebSocket messages. The type of the data decides whether a message is text or binary."""

from __future__ import annotations

from typing import TypeAlias


class Message:
    """A WebSocket message (RFC 6455, section 5.6). Immutable and hashable.

    A message is equal to its data: ``message == "hi"``. ``str(message)`` and f-strings have the text of a text
    message, and the repr of a binary message.

    Args:
        data: a ``str`` for a text message; bytes or another buffer, which is copied, for a binary message.

    Raises:
        TypeError: ``data`` is neither.
    """

    __slots__ = ("_data",)

    _data: str | bytes

    def __init__(self, data: str | bytes | bytearray | memoryview) -> None:
        self._data = data if isinstance(data, (str, bytes)) else _copied(data)

    @property
    def data(self) -> str | bytes:
        """The text of a text message, the bytes of a binary message."""
        return self._data

    @property
    def is_text(self) -> bool:
        """Whether this is a text message."""
        return isinstance(self._data, str)

    @property
    def text(self) -> str | None:
        """The text; None for a binary message."""
        return self._data if isinstance(self._data, str) else None

    @property
    def bytes(self) -> bytes:
        """The payload: the bytes of a binary message, the UTF-8 of a text message."""
        return self._data.encode() if isinstance(self._data, str) else self._data

    def __len__(self) -> int:
        """The size of the payload in bytes."""
        return len(self.bytes)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        theirs = other._data if isinstance(other, Message) else other
        # Types are compared first: a comparison of str with bytes is a warning, or an error, with ``python -b``.
        return isinstance(theirs, str if self.is_text else bytes) and self._data == theirs

    def __hash__(self) -> int:
        return hash(self._data)

    def __str__(self) -> str:
        return self._data if isinstance(self._data, str) else repr(self)

    def __repr__(self) -> str:
        shown = repr(self._data)
        return f"Message({shown if len(shown) <= 80 else shown[:76] + '...' + shown[-1]})"


def _copied(data: bytearray | memoryview) -> bytes:
    try:
        return bytes(memoryview(data))
    except TypeError:
        advice = ": write json.dumps(value)" if isinstance(data, (dict, list, tuple)) else ""
        raise TypeError(f"a message must be str or bytes, not {type(data).__name__}{advice}") from None


#: What can be sent: a message, or the data of one.
Sendable: TypeAlias = Message | str | bytes
