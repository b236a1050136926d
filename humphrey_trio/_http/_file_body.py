"""The body of a response that is sent from a file: which bytes of which open file, and who closes it.

A ``FileBody`` owns its file. It is closed by what sends the body, or by what discards the response: a layer that
replaces it, or a connection that ends before. This module never reads the file.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TypeAlias

from ._ranges import ByteRange

#: The flags to read a file. If its name is replaced by a FIFO between two calls, O_NONBLOCK ensures that opening
#: it does not wait for a writer.
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class OpenFile:
    """A descriptor that several threads use, and that any of them may close at any time.

    It begins without a descriptor, so that a task can close it while a worker thread is still opening the file.

    A worker thread uses the descriptor inside ``with file.borrow()``. If the file is closed meanwhile, the
    descriptor is closed when the last borrower is done. So no thread reads from the file of another request whose
    descriptor has got the same number, and ``close`` never waits for a thread that waits for a disk.

    If the object is freed, it closes its descriptor.
    """

    __slots__ = ("_borrowers", "_closed", "_descriptor", "_lock")

    def __init__(self) -> None:
        self._lock = Lock()
        self._descriptor = -1
        self._borrowers = 0
        self._closed = False

    def adopt(self, descriptor: int) -> None:
        """Own a descriptor from now on. If the file has been closed, the descriptor is closed at once.

        Args:
            descriptor: an open file. Call this once.
        """
        with self._lock:
            self._descriptor = descriptor
            self._close_if_unused()

    @contextmanager
    def borrow(self) -> Generator[int]:
        """Keep the descriptor open for a ``with`` block, whose value it is.

        Raises:
            ValueError: the file is closed, or no descriptor was adopted.
        """
        with self._lock:
            if self._closed or self._descriptor < 0:
                raise ValueError(
                    "this file is closed: a FileBody can be sent once, and an uploaded file can be read until the"
                    " response was sent"
                )
            self._borrowers += 1
        try:
            yield self._descriptor
        finally:
            with self._lock:
                self._borrowers -= 1
                self._close_if_unused()

    def close(self) -> None:
        """Close the file, now or when its last borrower is done. May be called again."""
        with self._lock:
            self._closed = True
            self._close_if_unused()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def _close_if_unused(self) -> None:
        if self._closed and not self._borrowers and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


#: A part of a body: bytes that are sent as they are, such as the head of a part, or a range of the file.
Segment: TypeAlias = bytes | ByteRange


class FileBody:
    """A body whose bytes are in an open file.

    Args:
        file: the file. This object owns it.
        segments: what is sent, in order.

    Attributes:
        file: as the argument.
        segments: as the argument.
        length: the size of the body in bytes. If the file has become shorter, the body cannot be sent. If it has
            become longer, the rest is not sent.
    """

    __slots__ = ("file", "length", "segments")

    def __init__(self, file: OpenFile, segments: Sequence[Segment]) -> None:
        self.file = file
        self.segments = tuple(segments)
        self.length = total_length(self.segments)

    def close(self) -> None:
        """Close the file. May be called again. Call it if the body is not sent."""
        self.file.close()

    def __repr__(self) -> str:
        return f"<FileBody of {self.length} bytes>"


def total_length(segments: Sequence[Segment]) -> int:
    """Return the size of some segments in bytes."""
    return sum(len(segment) if isinstance(segment, bytes) else segment.length for segment in segments)
