"""Send a ``FileBody``: by reading its file in worker threads, which works over every transport, or without reading.

How a range is sent without reading it is left to a function of the caller.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from .._http._file_body import FileBody, OpenFile
from .._http._ranges import ByteRange
from ._file_threads import with_file_in_thread

#: The most bytes of one read. A hop to a thread costs more than the read, so larger pieces are better; this many
#: bytes are in memory for each client that is being sent a file.
READ_SIZE = 256 * 1024


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
        send_range: sends ranges of the file as far as it can. The rest is read and written. If omitted, all ranges
            are.

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
                sent = 0 if send_range is None else await send_range(body.file, segment)
                await _read_and_write(body.file, segment.first + sent, segment.last + 1, write)
    finally:
        body.close()


async def _read_and_write(
    file: OpenFile, position: int, end: int, write: Callable[[bytes], Awaitable[None]]
) -> None:
    while position < end:
        size = min(READ_SIZE, end - position)
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
