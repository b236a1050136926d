"""A file that was uploaded with a form: in memory, or in a temporary file.

The temporary file belongs to the body of the request, which closes it. This module only reads from it.
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import trio

from .._thread_limiters import file_limiter
from ._file_body import OpenFile
from ._headers import Headers
from ._new_file import write_new_file

# Bytes of one read in a worker thread, which costs 50 us.
_READ_SIZE = 256 * 1024


@dataclass(frozen=True, slots=True)
class SpooledContent:
    """The content of a file as a range of a temporary file.

    Attributes:
        file: the temporary file.
        start: the position of the first byte.
        size: the number of bytes.
    """

    file: OpenFile
    start: int
    size: int

    def read_at(self, position: int, size: int) -> bytes:
        """Read some bytes; empty at the end. This blocks.

        Args:
            position: counted from the first byte of the content.
            size: the most bytes to read.

        Raises:
            ValueError: the temporary file is closed.
            OSError: it cannot be read.
        """
        with self.file.borrow() as descriptor:
            return os.pread(descriptor, max(min(size, self.size - position), 0), self.start + position)


@dataclass(frozen=True, slots=True, init=False)
class UploadedFile:
    """A file in a form.

    ``request.read_form()`` spools large files to disk. All methods work for every file, and ``content`` only for a
    file that is in memory. A spooled file can be used until the response was sent.

    Iterate over it to read the content in pieces: ``async for piece in file``. It can be iterated over again.

    Args:
        content: the bytes of the file.

    The other arguments are the attributes.

    Attributes:
        name: the name of the field.
        filename: the name of the file, as the client sent it. It may contain any character, ``/``, ``..`` and NUL
            included. Never use it as a path: store the file under a name of your own, and this name as a text.
        content_type: the media type that the client sent, in lower case and without parameters; ``text/plain`` if
            it sent none (RFC 7578, section 4.4). It need not be true.
        headers: all header fields of the part.
    """

    name: str
    filename: str
    content_type: str
    headers: Headers
    _content: bytes | SpooledContent = field(repr=False)

    def __init__(
        self, name: str, filename: str, content_type: str, headers: Headers, content: bytes | SpooledContent
    ) -> None:
        assign = object.__setattr__
        assign(self, "name", name)
        assign(self, "filename", filename)
        assign(self, "content_type", content_type)
        assign(self, "headers", headers)
        assign(self, "_content", content)

    @property
    def size(self) -> int:
        """The number of bytes."""
        content = self._content
        return len(content) if isinstance(content, bytes) else content.size

    @property
    def content(self) -> bytes:
        """The bytes of a file that is in memory, as every file of ``request.form()`` is.

        Raises:
            RuntimeError: the file was spooled to disk.
        """
        if isinstance(self._content, bytes):
            return self._content
        raise RuntimeError(
            f"this file of {self.size} bytes was spooled to disk: use `await file.read()`,"
            " `await file.save(path)`, or `file.open()` in a worker thread, which work for every file"
        )

    def open(self) -> BinaryIO:
        """Return a new binary file object at the start of the content. It has no descriptor of its own.

        Reading a spooled file blocks: pass the file object to a function in a worker thread. After the response
        was sent, reading raises ``ValueError``.
        """
        if isinstance(self._content, bytes):
            return io.BytesIO(self._content)
        return io.BufferedReader(_SpoolReader(self._content), _READ_SIZE)

    async def read(self) -> bytes:
        """Return the whole content. A spooled file is read in worker threads.

        Raises:
            ValueError: the file was spooled, and the response was sent.
            OSError: the temporary file cannot be read.
        """
        if isinstance(self._content, bytes):
            await trio.lowlevel.checkpoint()
            return self._content
        whole = io.BytesIO()
        async for piece in self:
            whole.write(piece)
        return whole.getvalue()

    async def save(self, path: str | os.PathLike[str], *, replace: bool = False) -> int:
        """Write the content to a new file, in worker threads. If this fails or is cancelled, the file is removed.

        Args:
            path: the path of the file.
            replace: whether a file with this path is replaced, as for ``Part.save``. Otherwise it must not exist.

        Returns:
            The number of bytes.

        Raises:
            FileExistsError: the file exists, and ``replace`` is False.
            OSError: the file cannot be written, or the temporary file cannot be read.
            ValueError: the file was spooled, and the response was sent.
        """
        return await write_new_file(path, self, replace=replace)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces(self._content)


class _Pieces:
    """Iterates over a content. Not a generator, because there is nothing that must be closed."""

    def __init__(self, content: bytes | SpooledContent) -> None:
        self._content = content
        self._position = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._next()
        if not piece:
            raise StopAsyncIteration
        self._position += len(piece)
        return piece

    async def _next(self) -> bytes:
        content, position = self._content, self._position
        if isinstance(content, bytes):
            await trio.lowlevel.checkpoint()
            return content[position : position + _READ_SIZE]
        return await trio.to_thread.run_sync(
            content.read_at, position, _READ_SIZE, abandon_on_cancel=True, limiter=file_limiter()
        )


class _SpoolReader(io.RawIOBase):
    """A file object with a position of its own, over a temporary file that other ones read, too."""

    def __init__(self, content: SpooledContent) -> None:
        super().__init__()
        self._content = content
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with memoryview(buffer).cast("B") as view:
            piece = self._content.read_at(self._position, len(view))
            view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._content.size}[whence]
        if base + offset < 0:
            raise ValueError(f"the position {base + offset} is before the start of the file")
        self._position = base + offset
        return self._position
