"""The temporary file of a form, and the bytes that must still be written to it. It does no I/O."""

from __future__ import annotations

from ._file_body import OpenFile


class Spool:
    """A temporary file, and what must still be written to it.

    All files of a form are in the same temporary file, so that a form needs one descriptor.

    Attributes:
        file: the temporary file. It need not be open yet.
        size: the number of bytes, written or not.
        waiting: the bytes that must be written.
    """

    __slots__ = ("file", "size", "waiting")

    def __init__(self) -> None:
        self.file = OpenFile()
        self.size = 0
        self.waiting = bytearray()

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        self.waiting += data
        self.size += len(data)

    def take(self) -> tuple[int, bytearray]:
        """Return the position at which bytes must be written, and the bytes, which are then no longer waiting."""
        taken, self.waiting = self.waiting, bytearray()
        return self.size - len(taken), taken
