"""The bodies of requests: read as a whole before the handler is called, or by the handler itself."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, NoReturn

import trio

from .._failures import only_cause
from .._http._errors import body_too_long
from ._form_reader import FormReader
from ._head import BadRequest
from ._parts import Parts
from ._response_writer import CONTINUE

if TYPE_CHECKING:
    from .._http._body import Part
    from .._http._form import Form
    from .._http._form_parser import FormSettings
    from ._fairness import Fairness
    from ._head import Head
    from ._interface import ServerSettings
    from ._outgoing import Outgoing
    from ._request_reader import RequestReader
    from ._transport import Transport

# Bytes that a piece of a body counts for ``Fairness``. See ``_connection``.
_PIECE_COST = 16 * 1024

#: Bytes of a body that are discarded after the handler has left them unread. Beyond, the connection is closed.
DISCARDED = 256 * 1024

# The least time of a wait, so that one always lets time pass.
_LEAST_WAIT = 0.01


class BodyInterrupted(trio.BrokenResourceError):
    """The client has disconnected before the end of the body of its request."""


def too_long(limit: int) -> BadRequest:
    """Return the error for a body that exceeds a limit in bytes."""
    return BadRequest(body_too_long(limit).detail, 413)


async def read_whole(
    reader: RequestReader, receive: Callable[[], Awaitable[bool]], fairness: Fairness, limit: int
) -> bytes | None:
    """Read a whole body.

    Args:
        reader: the reader, after the head.
        receive: receives bytes for the reader. Returns False at the end of file.
        fairness: counts the pieces.
        limit: the maximum size in bytes.

    Returns:
        The body; None if the connection has ended before its end.

    Raises:
        BadRequest: the body is malformed or exceeds the limit.
    """
    # BytesIO.getvalue does not copy. A list of pieces would take 40 bytes for each chunk of one byte.
    body = BytesIO()
    while (piece := reader.next_body()) != b"":
        if piece is None:
            if not await receive():
                return None
            continue
        if body.tell() + len(piece) > limit:
            raise too_long(limit)
        body.write(piece)
        if fairness.spent(_PIECE_COST):
            await trio.lowlevel.checkpoint()
    return body.getvalue()


class _State(enum.Enum):
    """The state of a ``RequestBody``.

    Attributes:
        READY: it can be read.
        READING: a task is reading it.
        READ: it was read to its end.
        FAILED: reading has failed.
        OVER: the handler has returned.
        ABANDONED: the handler has returned while another task was reading.
    """

    READY = enum.auto()
    READING = enum.auto()
    READ = enum.auto()
    FAILED = enum.auto()
    OVER = enum.auto()
    ABANDONED = enum.auto()


_TOO_LATE = "the request is over: read its body before the handler, or the producer of its response, returns"
_MISUSE = {
    _State.READING: "another task is reading the body of this request",
    _State.READ: "the body of this request was read already: it can be read once",
    _State.OVER: _TOO_LATE,
    _State.ABANDONED: _TOO_LATE,
}


class RequestBody:
    """The body of a request that its handler reads. A ``BodyStream``.

    Nothing is received before the handler reads.

    Args:
        head: the head of the request.
        reader: the reader, after the head.
        transport: the transport.
        outgoing: sends the 100 that the client may wait for.
        settings: ``timeouts.body`` limits each wait for bytes.
        limit: the maximum size in bytes.
    """

    __slots__ = (
        "_awaits_continue",
        "_failure",
        "_form",
        "_is_uncertain",
        "_left",
        "_limit",
        "_outgoing",
        "_patience",
        "_reader",
        "_settings",
        "_size",
        "_state",
        "_transport",
        "_wait",
    )

    def __init__(
        self,
        head: Head,
        reader: RequestReader,
        transport: Transport,
        outgoing: Outgoing,
        settings: ServerSettings,
        limit: int,
    ) -> None:
        self._reader = reader
        self._transport = transport
        self._outgoing = outgoing
        self._settings = settings
        self._limit = limit
        self._patience = settings.timeouts.body  # seconds that a read may take, less those of cancelled ones
        self._size = 0  # bytes that were read
        self._left = head.content_length  # bytes that were not read; None if it is chunked, until its end
        self._awaits_continue = head.expects_continue and not reader.buffered
        self._is_uncertain = False  # whether it is unknown where the body ends, or whether the client sends it
        self._state = _State.READY
        self._failure: Exception | None = None
        self._wait: trio.CancelScope | None = None  # the scope in which bytes are waited for
        self._form: FormReader | None = None

    # For the handler...

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._check()
        return self

    async def __anext__(self) -> bytes:
        if self._state is _State.READ:
            raise StopAsyncIteration
        piece = await self._read_piece()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read(self, limit: int) -> bytes:
        """Read the rest. See ``BodyStream.read``."""
        self._check()
        if self._left is not None and self._left > limit:
            self._fail(body_too_long(limit))
        body = BytesIO()
        while piece := await self._read_piece():
            if body.tell() + len(piece) > limit:
                self._fail(body_too_long(limit))
            body.write(piece)
        return body.getvalue()

    def parts(self, content_type: str, max_parts: int) -> AsyncIterator[Part]:
        """Iterate over the parts. See ``BodyStream.parts``."""
        return aiter(Parts(self, content_type, max_parts=max_parts))

    async def form(self, content_type: str, settings: FormSettings) -> Form:
        """Read the form. See ``BodyStream.form``."""
        if self._form is None:
            self._check()
            self._form = FormReader()
        return await self._form.read(self, content_type, settings)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._state in _MISUSE:
            raise RuntimeError(_MISUSE[self._state])

    def _fail(self, failure: Exception) -> NoReturn:
        self._failure = failure
        self._state = _State.FAILED
        try:
            raise failure
        finally:
            del failure  # break the reference cycle between the exception and this frame

    @trio.lowlevel.enable_ki_protection
    async def _read_piece(self) -> bytes:
        """Read a piece; empty bytes at the end."""
        self._check()
        self._state = _State.READING
        try:
            piece = await self._next_piece()
        except BadRequest as exc:
            self._fail(exc)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._fail(BodyInterrupted("the client has disconnected before the end of the body"))
        finally:
            if self._state is _State.READING:
                self._state = _State.READY
        if not piece and self._state is _State.READY:
            self._state = _State.READ
        return piece

    async def _next_piece(self) -> bytes:
        if self._awaits_continue:
            await self._outgoing.send(self._take_continue)
        piece = await self._receive_piece()
        self._size += len(piece)
        if self._size > self._limit:
            raise too_long(self._limit)
        return piece

    def _take_continue(self) -> tuple[bytes, ...]:
        """Return the 100, unless the response has begun meanwhile. Until then, a cancelled read sends none."""
        awaited, self._awaits_continue = self._awaits_continue, False
        return (CONTINUE,) if awaited else ()

    async def _receive_piece(self) -> bytes:
        # Before a piece is taken from the reader: if the task is cancelled here, none is lost.
        if self._settings.fairness.spent(_PIECE_COST):
            await trio.lowlevel.checkpoint()
        while (piece := self._reader.next_body()) is None:
            data = await self._receive()
            if not data:
                raise trio.BrokenResourceError
            self._settings.observers.counters.count_received(len(data))
            self._reader.receive(data)
        if not piece:
            self._left = 0
        elif self._left is not None:
            self._left -= len(piece)
        return piece

    async def _receive(self) -> bytes:
        """Receive bytes, within ``Timeouts.body``. The time of reads that were cancelled just before counts."""
        clock = self._settings.clock
        end = clock.now() + self._patience
        try:
            while self._state is not _State.ABANDONED and (seconds := end - clock.now()) > 0:
                # The scope is local, because a handler may be writing a streamed response at the same time, and
                # the deadline of the connection is that of the write. It does not expire while the process is
                # blocked: then the clock has not advanced, and this waits again.
                with trio.move_on_after(max(seconds, _LEAST_WAIT)) as self._wait:
                    data = await self._transport.receive_some()
                    self._patience = self._settings.timeouts.body
                    return data
        except trio.Cancelled:
            self._patience = max(end - clock.now(), _LEAST_WAIT)
            raise
        if self._state is _State.ABANDONED:
            raise RuntimeError(_TOO_LATE)
        raise BadRequest("the request took too long", 408)

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left to be read. The end of a chunked body is known when it was read."""
        return self._left == 0

    # For the connection...

    def explains(self, failure: Exception) -> bool:
        """Whether a failure of the response is only that of this body, which is the client's fault."""
        return self._failure is not None and only_cause(failure) is self._failure

    def close(self) -> None:
        """Refuse to be read from now on, and close the files of the form. May be called again."""
        if self._failure is not None:
            # The traceback of the failure contains the handler's variables, and this object.
            self._failure = None
            self._is_uncertain = True
        self._state = _State.OVER
        if self._form is not None:
            self._form.close()

    async def end(self) -> None:
        """Close it. A task that is still reading gets the error, too."""
        is_read = self._state is _State.READING
        self.close()
        if not is_read:
            return
        self._state = _State.ABANDONED
        if self._wait is not None:
            self._wait.cancel()
        # Only one task at a time may receive, and the connection lingers next. Twice, because trio runs the tasks
        # of a turn in any order.
        await trio.lowlevel.cancel_shielded_checkpoint()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def begin_response(self) -> bool:
        """Note that the response begins, so no 100 is sent any more.

        Returns:
            Whether the connection must be closed after the response, because the client still waits for a 100. It
            may or may not send the body.
        """
        self._is_uncertain |= self._awaits_continue
        self._awaits_continue = False
        return self._is_uncertain

    @property
    def may_be_discarded(self) -> bool:
        """Whether another request may be read after the rest of this body."""
        if self._failure is not None or self._is_uncertain:
            return False
        if self._state in (_State.READING, _State.ABANDONED):  # a task of the handler has outlived it
            return False
        return self._left is None or self._left <= DISCARDED

    async def discard(self) -> bool:
        """Read the rest and drop it.

        Returns:
            Whether the next request can be read. Otherwise the rest is too long, takes longer than
            ``Timeouts.body``, or is malformed.
        """
        if not self.may_be_discarded:
            return False
        with trio.move_on_after(self._settings.timeouts.body), suppress(BadRequest, trio.BrokenResourceError):
            return await self._read_rest()
        return False

    async def _read_rest(self) -> bool:
        """Read and drop up to ``DISCARDED`` bytes. Returns whether that was all."""
        size = 0
        while piece := await self._receive_piece():
            size += len(piece)
            if size > DISCARDED:
                return False
        return True
