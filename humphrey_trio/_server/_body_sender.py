"""Run the bodies of responses: send one piece by piece, or iterate over its pieces.

This module knows no connection: pieces go to a function, or to the user who iterates.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO
from typing import Any

import trio

from .._failures import failure_of
from .._http._body import (
    EventBody,
    EventSender,
    IterableBody,
    Producer,
    ProducerBody,
    StreamedBody,
    TransformedBody,
    Write,
    discard,
)
from .._http._response import Response
from ._child_task import child_task
from ._event_stream import send_events
from ._file_reader import SendRange, send_file_body
from ._pieces import IS_OVER, Piece, Unsent, WritePiece, encode_piece

logger = logging.getLogger("humphrey_trio.http")


async def send_body(
    body: StreamedBody,
    write: WritePiece,
    *,
    event_scope: trio.CancelScope | None = None,
    send_range: SendRange | None = None,
) -> None:
    """Produce a body and send its pieces.

    Producers run in the calling task. An async iterable is iterated and closed in a task of its own: between two
    steps of an async generator, its cancel scopes and nurseries are open in the task that iterates, which must not
    open or close others of its own meanwhile.

    Args:
        body: the body.
        write: sends a piece, and waits while the client does not take it.
        event_scope: the scope in which a producer of events runs. Cancel it to end the stream.
        send_range: sends ranges of a file without reading them, unless a layer transforms the body.

    Raises:
        Exception: what the body or ``write`` raises.
    """
    match body:
        case ProducerBody():
            await _call(body.produce, write)
        case IterableBody():
            async with _in_child_task(partial(_iterate, body.pieces)) as pieces:
                async for piece in pieces:
                    await write(piece)
        case EventBody():
            produce: Callable[[EventSender], Awaitable[None]] = partial(_call, body.produce)
            await send_events(produce, write, event_scope or trio.CancelScope())
        case TransformedBody():
            await _Transformed(body, write).send(event_scope)
        case _:
            await send_file_body(body, write, send_range)


@asynccontextmanager
async def open_body(response: Response) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Iterate over the body of a response: ``async with open_body(response) as pieces:``.

    For callers of ``App.handle``, and for tests. The body is produced in a task of its own, which is cancelled at
    the end of the block. It waits while nothing is read.

    Args:
        response: any response. A streamed one can be read once.

    Yields:
        An async iterator of bytes. It raises the exception of the body, if there is one.
    """
    body = response.body
    if body is None:
        yield _whole(response.content)
        return
    try:
        async with _in_child_task(partial(_send_whole, body)) as pieces:
            yield pieces
    finally:
        discard(body)


async def read_body(response: Response, limit: int = 1024 * 1024) -> bytes:
    """Read the body of a response.

    Args:
        response: any response. A streamed one can be read once.
        limit: the maximum size in bytes.

    Returns:
        The body.

    Raises:
        ValueError: the body is longer than the limit.
        Exception: what the body raises.
    """
    content = BytesIO()
    async with open_body(response) as pieces:
        async for piece in pieces:
            content.write(piece)
            if content.tell() > limit:
                raise ValueError(f"the body is longer than {limit} bytes: pass a higher limit, or use open_body")
    return content.getvalue()


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    if content:
        yield content


# Code of the user...


@trio.lowlevel.disable_ki_protection
async def _call(produce: Producer | Callable[[EventSender], Awaitable[None]], argument: Any) -> None:
    produced = produce(argument)
    if not inspect.isawaitable(produced):
        raise TypeError("the producer of a body must be an async function: async def produce(write)")
    await produced


@trio.lowlevel.disable_ki_protection
async def _iterate(iterable: AsyncIterable[bytes | str], write: Write) -> None:
    if inspect.isasyncgen(iterable) and iterable.ag_frame is None:
        raise RuntimeError("this body was sent already: create a new Response for each request")
    pieces = aiter(iterable)
    try:
        async for piece in pieces:
            await write(piece)
    finally:
        await _close(pieces)
        if iterable is not pieces:
            await _close(iterable)


async def _close(iterable: object) -> None:
    close = getattr(iterable, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except BaseExceptionGroup as exc:
        # A nursery around a yield puts the GeneratorExit, with which a generator is closed, into a group.
        rest = exc.split(GeneratorExit)[1]
        if rest is not None:
            raise rest from None


class _Transformed:
    """A body that is being sent, and whose pieces a layer changes. Several tasks may write, in turn.

    Args:
        body: the body.
        write: sends what the layer has made of the pieces.
    """

    __slots__ = ("_body", "_is_over", "_size", "_transform", "_turn", "_unsent", "_write")

    def __init__(self, body: TransformedBody, write: WritePiece) -> None:
        self._body = body
        self._write = write
        self._transform = body.begin()
        self._unsent = Unsent()
        self._turn = trio.Lock()
        self._size = 0  # bytes that the layer has got
        self._is_over = False

    async def send(self, event_scope: trio.CancelScope | None) -> None:
        """Produce the body and send it."""
        inner = self._body.inner
        await send_body(inner, self._write_piece, event_scope=event_scope)
        async with self._turn:  # a task that outlives the producer may still be writing
            self._is_over = True
            # The client gets no Content-Length, so nothing else would show that the inner body is incomplete.
            check_not_shorter(self._size, inner.length)
            await self._send(self._transform.finish())

    async def _write_piece(self, piece: Piece) -> None:
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            await self._send(b"")  # so that writes that are cancelled leave one piece at most
            await self._send(await self._process(encode_piece(piece)))
        finally:
            self._turn.release()

    async def _process(self, data: bytes) -> bytes:
        if self._is_over:
            raise RuntimeError(IS_OVER)
        check_not_longer(self._size + len(data), self._body.inner.length)
        changed = await self._transform.transform(data)
        self._size += len(data)  # not before: if the transform is cancelled, the piece is not sent
        return changed

    async def _send(self, changed: bytes) -> None:
        self._unsent.add(changed)
        if self._unsent:
            await self._write(self._unsent)


async def _send_whole(body: StreamedBody, write: WritePiece) -> None:
    """Produce a body, and check that it has its length. Several tasks may write, in turn."""
    length, size, is_over, turn = body.length, 0, False, trio.Lock()

    async def write_counted(piece: Piece) -> None:
        nonlocal size
        async with turn:
            if is_over:
                raise RuntimeError(IS_OVER)
            data = piece if isinstance(piece, Unsent) else encode_piece(piece)
            more = len(data)
            check_not_longer(size + more, length)
            await write(data)
            size += more  # not before: if the write is cancelled, the piece is not sent

    await send_body(body, write_counted)
    async with turn:  # as in ``_Transformed.send``
        is_over = True
    check_not_shorter(size, length)


def check_not_longer(size: int, length: int | None) -> None:
    """Check the size of what was produced of a body so far.

    Raises:
        ValueError: it is above the length of the body.
    """
    if length is not None and size > length:
        raise ValueError(f"the body of this response is longer than its length of {length} bytes")


def check_not_shorter(size: int, length: int | None) -> None:
    """Check the size of a body that has ended.

    Raises:
        ValueError: it is below the length of the body.
    """
    if length is not None and size < length:
        raise ValueError(f"the body of this response has {size} bytes, less than its length of {length} bytes")


# A task of its own...


class _Pieces:
    """The pieces of a producer that runs in another task: they pass through a channel without a buffer."""

    __slots__ = ("_failure", "_produce", "_receive", "_send")

    def __init__(self, produce: Callable[[WritePiece], Awaitable[None]]) -> None:
        self._produce = produce
        self._send, self._receive = trio.open_memory_channel[Piece](0)
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Run the producer. Its failure is raised where the pieces are received, or else logged at the end."""
        with self._send:
            try:
                await self._produce(self._send.send)
            except BaseException as exc:
                self._failure = failure_of(exc, log_failure)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                piece = await self._receive.receive()
            except trio.EndOfChannel:
                break
            if data := encode_piece(piece):
                return data
        failure, self._failure = self._failure, None
        try:
            raise StopAsyncIteration if failure is None else failure
        finally:
            del failure  # break the reference cycle between the exception and this frame

    def end(self) -> None:
        """Log the failure if it was not raised, because nothing was received after it."""
        if self._failure is not None:
            log_failure(self._failure)


@asynccontextmanager
async def _in_child_task(produce: Callable[[WritePiece], Awaitable[None]]) -> AsyncGenerator[AsyncIterator[bytes]]:
    pieces = _Pieces(produce)
    try:
        async with child_task(pieces.run):
            yield pieces
    finally:
        pieces.end()


def log_failure(failure: Exception) -> None:
    """Log the failure of a body."""
    logger.error("the body of a response failed", exc_info=failure)
