"""One streamed response on a connection: its framing, its head, and how it ends if its body fails.

The producer of the body runs in the task of the connection. It must not notice whether the head was sent already,
and a client must always notice that a body is incomplete.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from .._failures import failure_of
from .._http._file_body import FileBody
from ._body_sender import check_not_longer, check_not_shorter, log_failure, send_body
from ._child_task import child_task
from ._pieces import IS_OVER, Piece, Unsent, encode_piece

if TYPE_CHECKING:
    from .._http._body import StreamedBody
    from .._http._file_body import OpenFile
    from .._http._ranges import ByteRange
    from ._fairness import Fairness
    from ._outgoing import Outgoing
    from ._transport import Transport

_Result = TypeVar("_Result")

#: Seconds after which the head is sent if the body has no piece yet.
HEAD_DELAY = 0.05

# Larger pieces are not copied into a chunk, but sent between its size line and its end.
_COPIED = 64 * 1024

_CHUNK_END = b"\r\n"


class Framing(enum.Enum):
    """How the end of the body is marked (RFC 9112, section 6.3).

    Attributes:
        CHUNKED: by the last chunk.
        LENGTH: by Content-Length.
        CLOSE: by the end of file, for HTTP/1.0.
    """

    CHUNKED = enum.auto()
    LENGTH = enum.auto()
    CLOSE = enum.auto()


def framing_of(body: StreamedBody, version: str) -> Framing:
    """Choose the framing of a body for a client."""
    if body.length is not None:
        return Framing.LENGTH
    return Framing.CHUNKED if version == "HTTP/1.1" else Framing.CLOSE


def framing_field(body: StreamedBody, framing: Framing) -> bytes:
    """Encode the header field of a framing."""
    if framing is Framing.CHUNKED:
        return b"Transfer-Encoding: chunked\r\n"
    return b"" if body.length is None else b"Content-Length: %d\r\n" % body.length


class ResponseStream:
    """A streamed response that is being sent.

    Args:
        body: the body.
        framing: how its end is marked.
        make_head: encodes the head. Called once, when the head is sent.
        outgoing: the outgoing side of the connection.
        transport: is reset if nothing else shows that the body is incomplete.
        fairness: counts the bytes.
        on_client_left: called when a piece cannot be sent.

    Attributes:
        begun: whether the head was passed to ``outgoing``.
        sent: bytes of the body that were sent, or that wait in ``outgoing``.
    """

    __slots__ = (
        "_body",
        "_ends_events",
        "_event_scope",
        "_fairness",
        "_framing",
        "_head_delay",
        "_is_lost",
        "_is_over",
        "_last_size",
        "_make_head",
        "_on_client_left",
        "_outgoing",
        "_sending",
        "_transport",
        "begun",
        "sent",
    )

    def __init__(
        self,
        body: StreamedBody,
        framing: Framing,
        make_head: Callable[[], bytes],
        outgoing: Outgoing,
        transport: Transport,
        fairness: Fairness,
        on_client_left: Callable[[], None],
    ) -> None:
        self._body = body
        self._framing = framing
        self._make_head = make_head
        self._outgoing = outgoing
        self._transport = transport
        self._fairness = fairness
        self._on_client_left = on_client_left
        self._last_size = 0  # bytes of the last piece
        self._is_over = False
        self._is_lost = False  # whether the client could not be sent a piece
        self._head_delay = trio.CancelScope()
        self._event_scope = trio.CancelScope()
        self._ends_events = False
        self._sending = 0  # tasks that are sending
        self.begun = False
        self.sent = 0

    def end_events(self) -> None:
        """End the body if it is a stream of events, because a graceful shutdown has begun.

        An event that is being sent is sent to its end.
        """
        self._ends_events = True
        if not self._sending:
            self._event_scope.cancel()

    async def run(self) -> Exception | None:
        """Produce the body and send it.

        Returns:
            The failure of the body; None if it was sent. If ``begun``, the response is incomplete, and the
            connection must end.

        Raises:
            trio.BrokenResourceError: the client has left.
        """
        if self._framing is Framing.CLOSE:
            self._outgoing.on_write_timeout(self._transport.reset)
        complete = False
        try:
            failure = await self._run()
            complete = failure is None
        finally:
            self._is_over = True
            if not complete and self.begun:
                self._cut()
        if failure is not None and self._is_lost and _is_loss(failure):
            raise trio.BrokenResourceError("the client has left") from failure
        return failure

    async def _run(self) -> Exception | None:
        try:
            if isinstance(self._body, FileBody):
                await self._send_body()  # a task that sends the head late would cost as much as to read the file
            else:
                async with child_task(self._begin_late):
                    await self._send_body()
        except BaseException as exc:
            return failure_of(exc, self._report)
        return None

    async def _send_body(self) -> None:
        await send_body(self._body, self.write, event_scope=self._event_scope, send_range=self._send_range)
        check_not_shorter(self.sent, self._body.length)
        await self._send(self._make_end)

    def _report(self, failure: Exception) -> None:
        """Log a failure beside a cancellation, unless it only says that the client has left."""
        if not (self._is_lost and _is_loss(failure)):
            log_failure(failure)

    def _cut(self) -> None:
        """Send nothing more. Without a framing, the client would take an end of file for the end of the body."""
        # The queue ends with the piece that is being sent, and with the line end after it.
        unsent = self._outgoing.size - (len(_CHUNK_END) if self._framing is Framing.CHUNKED else 0)
        self.sent -= min(max(0, unsent), self._last_size)
        self._outgoing.clear()
        if self._framing is Framing.CLOSE:
            self._transport.reset()

    # Pieces...

    @trio.lowlevel.enable_ki_protection
    async def write(self, piece: Piece) -> None:
        """Send a piece, and wait until the transport has accepted it. See ``Write``.

        Raises:
            trio.BrokenResourceError: the client has left, or has accepted nothing for ``Timeouts.write``.
            RuntimeError: the response is over.
            ValueError: the body is longer than its length.
            TypeError: the piece is neither bytes nor str.
        """
        data = piece if isinstance(piece, Unsent) else encode_piece(piece)
        size = len(data)
        if size:
            await self._send(partial(self._frame, data))
        if self._fairness.spent(size):
            await trio.lowlevel.checkpoint()

    async def _send_range(self, file: OpenFile, part: ByteRange) -> int:
        """Send a range of a file without reading it, as far as that is possible. See ``SendRange``."""
        before = self._outgoing.file_bytes
        try:
            return await self._guard(partial(self._outgoing.send_range, self._begin, file, part))
        finally:
            self.sent += self._outgoing.file_bytes - before

    async def _send(self, make: Callable[[], list[bytes]]) -> None:
        await self._guard(partial(self._outgoing.send, make))

    async def _guard(self, send: Callable[[], Awaitable[_Result]]) -> _Result:
        """Send, and note whether the client has left."""
        # Over a trio stream, a send that is begun in a cancelled task would leave an unknown part of its bytes.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sending += 1
        try:
            return await send()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            if not self._is_lost:
                self._is_lost = True
                self._on_client_left()
            raise trio.BrokenResourceError("the client has left") from exc
        finally:
            self._sending -= 1
            if self._ends_events and not self._sending:
                self._event_scope.cancel()

    def _frame(self, piece: bytes | Unsent) -> list[bytes]:
        """Return the bytes to send for a piece, after the head if it is the first."""
        if self._is_over:
            raise RuntimeError(IS_OVER)
        data = encode_piece(piece)
        check_not_longer(self.sent + len(data), self._body.length)
        self.sent += len(data)
        self._last_size = len(data)
        head = self._begin()
        if self._framing is not Framing.CHUNKED:
            return [*head, data]
        if len(data) <= _COPIED:
            return [*head, b"%x\r\n%b%b" % (len(data), data, _CHUNK_END)]
        return [*head, b"%x\r\n" % len(data), data, _CHUNK_END]

    def _make_end(self) -> list[bytes]:
        self._is_over = True
        self._last_size = 0
        end = [b"0\r\n\r\n"] if self._framing is Framing.CHUNKED else []
        return [*self._begin(), *end]

    # The head...

    def _begin(self) -> list[bytes]:
        """Return the head, unless it was sent already."""
        if self.begun:
            return []
        self.begun = True
        self._head_delay.cancel()
        return [self._make_head()]

    async def _begin_late(self) -> None:
        if not self.begun:  # usually it is, because the first piece was written before this task has started
            with self._head_delay:
                await trio.sleep(HEAD_DELAY)
        if not self.begun:
            with suppress(trio.BrokenResourceError):  # the next piece cannot be sent, either
                await self._send(self._begin)


def _is_loss(failure: Exception) -> bool:
    """Whether a failure only says that the client has left."""
    lost = (trio.BrokenResourceError, trio.ClosedResourceError)
    if isinstance(failure, ExceptionGroup):
        return failure.split(lost)[1] is None  # pyright: ignore[reportUnknownMemberType]
    return isinstance(failure, lost)
