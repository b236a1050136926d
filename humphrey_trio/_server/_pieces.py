"""The pieces of a body that is being sent: what is passed to ``write``, and its bytes. It does no I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias


class Unsent:
    """Pieces that a layer has changed and that were not sent yet.

    It is passed to ``write`` in place of a piece. The pieces are taken when they are certain to be sent. If that
    ``write`` is cancelled before, the next one sends them: a compressor has processed them, and cannot omit them.
    """

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def add(self, piece: bytes) -> None:
        """Add a piece, which may be empty."""
        if piece:
            self._pieces.append(piece)

    def take(self) -> bytes:
        """Remove all pieces, and return them as one."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


#: The message of the error for a task that writes too late.
IS_OVER = "the response is over: write before the producer of its body returns"
#: What a body passes to ``write``.
Piece: TypeAlias = bytes | str | Unsent
#: A ``Write`` for pieces of users and of layers.
WritePiece: TypeAlias = Callable[[Piece], Awaitable[None]]


def encode_piece(piece: Piece) -> bytes:
    """Return a piece of a body as bytes. A str is encoded as UTF-8. Pieces of a layer are taken.

    Raises:
        TypeError: it is neither.
        ValueError: the str has a surrogate.
    """
    if type(piece) is bytes:
        return piece
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, Unsent):
        return piece.take()
    if isinstance(piece, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return bytes(piece)  # a copy, because it may change before it is sent
    raise TypeError(f"a piece of a body is bytes or str, not {type(piece).__name__}")
