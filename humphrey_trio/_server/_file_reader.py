"""Send a ``FileBody`` by reading its file, which works over every transport.

What is not in memory is read in worker threads. A function of the caller may send large ranges in another way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from .._http._file_body import FileBody, OpenFile
from .._http._ranges import ByteRange
from ._file_threads import with_file_in_thread

#: The most bytes of one read. A hop to a thread costs more than the read, so larger pieces are better; this many
#: bytes are in memory for each client that is being sent a file.
READ_SIZE = 256 * 1024


# What is read without a thread. It is copied at once, so all connections share it.
_CACHED = memoryview(bytearray(READ_SIZE))

#: Sends a range of a file without reading it, or the first part of the range. Returns the number of bytes sent.
SendRange: TypeAlias = Callable[[OpenFile, ByteRange], Awaitable[int]]


class FileTruncatedError(Exception):
    """A file has become shorter while it was sent, so the announced length cannot be sent."""


async def send_file_body(
    body: FileBody, write: Callable[[bytes], Awaitable[None]], send_range: SendRange | None = None
) -> None:
    """Send the segments of a body in order, and close its file, also if this is cancelled.

    Exactly ``body.length`` bytes are written, or an exception is raised. If it is raised, the connection must end,
    because the client waits for the rest.

    Args:
        body: the body. It can be sent once.
        write: sends bytes, and waits while the client does not take them.
        send_range: sends ranges of more than ``READ_SIZE`` as far as it can. The rest is read and written. If
            omitted, all ranges are.

    Raises:
        FileTruncatedError: the file has become shorter.
        OSError: the file cannot be read.
        ValueError: the body is closed.
    """
    try:
        for segment in body.segments:
            if isinstance(segment, bytes):
                await write(segment)
            else:
                large = segment.length > READ_SIZE
                sent = await send_range(body.file, segment) if send_range is not None and large else 0
                await _read_and_write(body.file, segment.first + sent, segment.last + 1, write)
    finally:
        body.close()


async def _read_and_write(
    file: OpenFile, position: int, end: int, write: Callable[[bytes], Awaitable[None]]
) -> None:
    while position < end:
        size = min(READ_SIZE, end - position)
        piece = read_cached(file, size=size, position=position)
        if not piece:
            piece = await with_file_in_thread(partial(read_some, size=size, position=position), file)
        # A read may return less than was requested, so only what was read counts.
        position += len(piece)
        await write(piece)


def read_some(file: OpenFile, *, size: int, position: int) -> bytes:
    """Read a piece of a file. This blocks: call it in a worker thread.

    Args:
        file: an open file.
        size: the most bytes to read, at least 1.
        position: the position of the first byte.

    Returns:
        At least one byte.

    Raises:
        FileTruncatedError: the file ends at or before the position.
        OSError: the file cannot be read.
        ValueError: the file is closed.
    """
    with file.borrow() as descriptor:
        piece = os.pread(descriptor, size, position)
    if not piece:
        raise FileTruncatedError(
            f"the file ends before position {position}: it has become shorter while it was sent"
        )
    return piece


def read_cached(file: OpenFile, *, size: int, position: int) -> bytes:
    """Read what the operating system has in memory of a piece of a file. This does not wait for a disk.

    Args:
        file: an open file.
        size: the most bytes to read, at most ``READ_SIZE``.
        position: the position of the first byte.

    Returns:
        The bytes; empty if none of them are in memory, if the file has ended, or if the system or the file system
        does not tell. Then call ``read_some``.

    Raises:
        ValueError: the file is closed.
    """
    if sys.platform != "linux":  # others cannot read without waiting
        return b""
    with file.borrow() as descriptor:
        try:
            return bytes(_CACHED[: os.preadv(descriptor, (_CACHED[:size],), position, os.RWF_NOWAIT)])
        except OSError:
            return b""


def read_all(body: FileBody) -> bytes:
    """Read a short body as a whole, and close its file. This blocks: call it in a worker thread.

    Raises:
        FileTruncatedError, OSError, ValueError: as for ``read_some``.
    """
    try:
        return b"".join(
            segment if isinstance(segment, bytes) else _read_range(body.file, segment) for segment in body.segments
        )
    finally:
        body.close()


def _read_range(file: OpenFile, part: ByteRange) -> bytes:
    pieces: list[bytes] = []
    position = part.first
    while position <= part.last:
        pieces.append(read_some(file, size=part.last + 1 - position, position=position))
        position += len(pieces[-1])
    return b"".join(pieces)
