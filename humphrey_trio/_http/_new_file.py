"""Write a new file in worker threads, or leave none."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import trio

from .._file_limiter import file_limiter

# Bytes that are collected for one write. Each write is a call in a worker thread (50 us).
_WRITE_SIZE = 256 * 1024


async def write_new_file(path: str | os.PathLike[str], pieces: AsyncIterable[bytes]) -> int:
    """Write pieces to a new file. If this fails or is cancelled, the file is removed.

    Args:
        path: the path of the file, which must not exist.
        pieces: the content.

    Returns:
        The number of bytes.

    Raises:
        FileExistsError: the file exists.
        OSError: the file cannot be written.
        Exception: what the iteration raises.
    """
    file = await trio.to_thread.run_sync(_create, path, limiter=file_limiter())
    try:
        return await _write_all(file, pieces)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove, file, path, limiter=file_limiter())
        raise


async def _write_all(file: BinaryIO, pieces: AsyncIterable[bytes]) -> int:
    size = 0
    block = bytearray()
    async for piece in pieces:
        size += len(piece)
        block += piece
        if len(block) >= _WRITE_SIZE:
            await trio.to_thread.run_sync(file.write, block, limiter=file_limiter())
            block.clear()
    await trio.to_thread.run_sync(_finish, file, block, limiter=file_limiter())
    return size


def _create(path: str | os.PathLike[str]) -> BinaryIO:
    return open(path, "xb")


def _finish(file: BinaryIO, block: bytearray) -> None:
    with file:
        file.write(block)


def _remove(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    with suppress(OSError):  # what was buffered cannot be written either
        file.close()
    Path(path).unlink(missing_ok=True)
