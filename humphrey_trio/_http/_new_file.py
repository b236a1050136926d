"""Write a file in worker threads: all of it, or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import trio

from .._thread_limiters import file_limiter

# Bytes that are collected for one write. Each write is a call in a worker thread (50 us).
_WRITE_SIZE = 256 * 1024


async def write_new_file(
    path: str | os.PathLike[str], pieces: AsyncIterable[bytes], *, replace: bool = False
) -> int:
    """Write pieces to a new file. If this fails or is cancelled, the file is removed.

    Args:
        path: the path of the file.
        pieces: the content.
        replace: whether the file may exist. It is then replaced at once when the whole content is written to
            another file of the same directory, and stays as it is if this fails.

    Returns:
        The number of bytes.

    Raises:
        FileExistsError: the file exists, and ``replace`` is False.
        OSError: the file cannot be written.
        Exception: what the iteration raises.
    """
    path = Path(path)
    written = path.with_name(f".{secrets.token_hex(8)}.tmp") if replace else path
    file = await trio.to_thread.run_sync(_create, written, limiter=file_limiter())
    try:
        size, rest = await _write_all(file, pieces)
        await trio.to_thread.run_sync(_finish, file, rest, written, path, limiter=file_limiter())
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove, file, written, limiter=file_limiter())
        raise
    return size


async def _write_all(file: BinaryIO, pieces: AsyncIterable[bytes]) -> tuple[int, bytearray]:
    """Write all but the last block. Return the size of the content and that block."""
    size = 0
    block = bytearray()
    async for piece in pieces:
        size += len(piece)
        block += piece
        if len(block) >= _WRITE_SIZE:
            await trio.to_thread.run_sync(file.write, block, limiter=file_limiter())
            block.clear()
    return size, block


def _create(path: Path) -> BinaryIO:
    return open(path, "xb")


def _finish(file: BinaryIO, block: bytearray, written: Path, path: Path) -> None:
    with file:
        file.write(block)
    if written != path:
        written.replace(path)


def _remove(file: BinaryIO, path: Path) -> None:
    with suppress(OSError):  # what was buffered cannot be written either
        file.close()
    path.unlink(missing_ok=True)
