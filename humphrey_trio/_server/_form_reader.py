"""Read a form whose large files are spooled to a temporary file, while the body arrives.

The temporary file has no name, so nothing of it is left on the disk when it is closed, however the process ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterable
from functools import partial

from .._http._file_body import OpenFile
from .._http._form import Form
from .._http._form_parser import FormSettings, form_parser
from .._http._spool import Spool
from ._file_threads import with_file_in_thread

# Bytes that are collected for one write. Each write is a call in a worker thread (50 us).
_WRITE_SIZE = 256 * 1024

_IS_BUSY = (
    "the form of this request cannot be read again: another task is reading it, or request.read_form() has failed"
    " or was cancelled before"
)


class FormReader:
    """Reads the form of one request, and owns its temporary file until it is closed."""

    __slots__ = ("_begun", "_form", "_spool")

    def __init__(self) -> None:
        self._spool = Spool()
        self._begun = False
        self._form: Form | None = None

    async def read(self, pieces: AsyncIterable[bytes], content_type: str, settings: FormSettings) -> Form:
        """Read the form. Once it was read, every later call returns the same.

        If this fails or is cancelled, the temporary file is closed.

        Args:
            pieces: the body.
            content_type: the value of the Content-Type field of the request.
            settings: the limits, and what is kept in memory.

        Raises:
            HttpError: see ``Request.read_form``.
            OSError: the temporary file cannot be written.
            RuntimeError: the form was not read to its end before.
        """
        if self._form is not None:
            return self._form
        if self._begun:
            raise RuntimeError(_IS_BUSY)
        self._begun = True
        try:
            self._form = await self._read(pieces, content_type, settings)
        except BaseException:
            self.close()
            raise
        return self._form

    def close(self) -> None:
        """Close the temporary file, if there is one. May be called again."""
        self._spool.file.close()

    async def _read(self, pieces: AsyncIterable[bytes], content_type: str, settings: FormSettings) -> Form:
        spool = self._spool
        parser = form_parser(content_type, settings, spool)
        async for piece in pieces:
            parser.feed(piece)
            if len(spool.waiting) >= _WRITE_SIZE:
                await self._write(settings.directory)
        form = parser.finish()
        if spool.waiting:
            await self._write(settings.directory)
        return form

    async def _write(self, directory: str | os.PathLike[str] | None) -> None:
        position, data = self._spool.take()
        job = partial(_write_spool, position=position, data=data, directory=directory)
        await with_file_in_thread(job, self._spool.file)


def _write_spool(
    file: OpenFile, *, position: int, data: bytearray, directory: str | os.PathLike[str] | None
) -> None:
    """Write to the temporary file, which the first write opens. This blocks: call it in a worker thread."""
    if not position:
        _open_spool(file, directory)
    with file.borrow() as descriptor, memoryview(data) as view:
        written = 0
        while written < len(view):
            # The kernel accepts a part only if the disk is nearly full.
            written += os.pwrite(descriptor, view[written:], position + written)


def _open_spool(file: OpenFile, directory: str | os.PathLike[str] | None) -> None:
    with tempfile.TemporaryFile(dir=directory, buffering=0) as unnamed:
        file.adopt(os.dup(unnamed.fileno()))
