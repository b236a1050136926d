"""One response of an ASGI app: from what the app sends to the ``Response`` that the server gets.

Two tasks meet here. The app sends the start, the parts of the body, and the end. The handler waits for the
``Response``. If the first part of the body is all of it, the response has bytes. Otherwise the response has a
producer, which takes each part from the app and writes it while the app waits. So no part waits in a queue.

The app is never cancelled from here. When its client has left, ``put`` raises, and ``wait_over`` returns.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NoReturn

import trio

from .._http._body import ProducerBody, Write
from .._http._errors import HttpError
from .._http._file_body import FileBody
from .._http._parameters import media_type
from .._server._file_reader import send_file_body
from .._server._response_stream import HEAD_DELAY
from ._body_part import BodyPart
from ._errors import ClientDisconnected, MessageError
from ._response import AsgiResponse
from ._waiter import Waiter

if TYPE_CHECKING:
    from .._http._headers import Headers
    from .._http._response import Response

# Seconds before a send fails because the client has left. Frameworks wait for the disconnect in another task, and
# then cancel the one that sends. If that one failed first, they would not run the background tasks.
_GRACE = 0.05

_WITHOUT_BODY = (204, 205, 304)

# Seconds in which a connection is cancelled whose app was. Otherwise, the failure of its body would be logged.
_CANCEL_GRACE = 0.5


class _Stage(enum.Enum):
    """How far the response is.

    Attributes:
        PENDING: it is not known.
        STREAMING: its head is known, and its producer takes the body.
        COMPLETE: nothing more is taken, because everything was.
        LOST: nothing more is taken, because the client has left, or the server ends the response.
    """

    PENDING = enum.auto()
    STREAMING = enum.auto()
    COMPLETE = enum.auto()
    LOST = enum.auto()


# Module globals, because access to a member of an enumeration is slow in Python 3.11.
_PENDING, _STREAMING, _COMPLETE, _LOST = _Stage


class Answer:
    """The response of an ASGI app to one request.

    Args:
        name: the name of the app, for log lines.
        head_only: whether the request is a HEAD. Then the body is discarded.

    Attributes:
        name: as the argument.
    """

    __slots__ = (
        "_failure",
        "_fields",
        "_grace",
        "_head_only",
        "_is_ended",
        "_length",
        "_over",
        "_part",
        "_response",
        "_size",
        "_stage",
        "_status",
        "_taker",
        "name",
    )

    _fields: Headers

    def __init__(self, name: str, *, head_only: bool) -> None:
        self.name = name
        self._head_only = head_only
        self._status = 0  # until the app has sent the start
        self._length: int | None = None
        self._size = 0  # bytes of the body that the app has sent
        self._stage = _PENDING
        self._response: Response | None = None  # until the handler takes it
        self._failure: Exception | None = None  # until the handler or the producer raises it
        self._grace = 0.0  # seconds before the producer raises it
        self._part: BodyPart | None = None  # what the producer has to write
        self._is_ended = False  # whether the server ends the body
        self._taker = Waiter()  # the handler, and then the producer
        self._over: trio.Event | None = None

    # For the app...

    @property
    def is_over(self) -> bool:
        """Whether nothing more is taken from the app."""
        return self._stage is _COMPLETE or self._stage is _LOST

    @property
    def is_lost(self) -> bool:
        """Whether nothing more is taken from the app, although the response is incomplete."""
        return self._stage is _LOST

    @property
    def is_event_stream(self) -> bool:
        """Whether this is a stream of server-sent events that is being sent."""
        if self._stage is not _STREAMING:
            return False
        return media_type(self._fields.get("Content-Type", "")) == "text/event-stream"

    async def wait_over(self) -> None:
        """Wait until nothing more is taken from the app."""
        if self.is_over:
            await trio.lowlevel.checkpoint()
            return
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    def start(self, status: int, fields: Headers, length: int | None) -> None:
        """Note the start. It is sent with the first part of the body, or after a short time.

        Args:
            status: the status.
            fields: the header fields.
            length: the value of Content-Length, which is not in ``fields``; None without it.
        """
        self._status, self._fields, self._length = status, fields, length
        # The handler runs when the app waits. By then, the app has usually sent the body.
        self._taker.wake()

    async def put(self, data: bytes, *, is_last: bool) -> None:
        """Send a part of the body, and wait until it was written. Does not wait for a whole body in one part.

        If the client has left, the last part is ignored, so an app whose response is too late continues. A part
        during which the client leaves is ignored, too.

        Raises:
            ClientDisconnected: the client has left, and this is not the last part.
            MessageError: the body does not have its length, or the response must not have a body.
        """
        if self._stage is _LOST:
            if is_last:
                await trio.lowlevel.checkpoint()
                return
            await trio.sleep(_GRACE)
            raise ClientDisconnected("the client has left, or the server ends the response")
        self._count(data, is_last=is_last)
        is_last = is_last or self._size == self._length
        if self._stage is _PENDING:
            if is_last and not (self._head_only and self._length not in (None, self._size)):
                self._decide(AsgiResponse.from_checked(self._status, data, self._fields), _COMPLETE)
                return
            if self._status in _WITHOUT_BODY:
                await trio.lowlevel.checkpoint()
                return
            self._decide_stream()
        if self._stage is _COMPLETE:
            await trio.lowlevel.checkpoint()  # so that an app whose body is discarded does not block the others
            return
        await self._pass(BodyPart(data, is_last=is_last))

    async def put_file(self, body: FileBody) -> None:
        """Send a file as the body. Does nothing if the client has left.

        Raises:
            MessageError: the response must not have a body.
        """
        if self._stage is _PENDING and self._status not in _WITHOUT_BODY:
            self._decide(AsgiResponse.from_checked(self._status, b"", self._fields).with_body(body), _COMPLETE)
            return
        try:  # the head was sent before
            if self._status in _WITHOUT_BODY:
                raise _no_body(self._status)
            if self._stage is _STREAMING:
                await self._pass(BodyPart(body, is_last=True))
        finally:
            body.close()

    def fail(self, failure: Exception) -> bool:
        """Note that the response cannot be completed. Returns whether the failure will be raised.

        Args:
            failure: raised from ``response``, or from the producer of the body.
        """
        if self.is_over:
            return False
        self._failure = failure
        if self._stage is _PENDING:
            self._end(_LOST)
        self._taker.wake()
        return True

    def cancel(self) -> None:
        """Note that the app was cancelled, because its server ends.

        The connection is cancelled as well, unless it belongs to another server, where the body is cut.
        """
        self._grace = _CANCEL_GRACE
        self.fail(HttpError(503, "the server is shutting down"))

    def end_events(self) -> None:
        """End the body, because a graceful shutdown has begun. A part that is being sent is sent to its end."""
        self._is_ended = True
        self._taker.wake()

    def _count(self, data: bytes, *, is_last: bool) -> None:
        self._size += len(data)
        if data and self._status in _WITHOUT_BODY:
            raise _no_body(self._status)
        if self._head_only:
            return
        size, length = self._size, self._length
        if length is not None and (size > length or (is_last and size < length and self._status != 304)):
            relation = "longer" if size > length else "shorter"
            raise MessageError(f"the body of {size} bytes is {relation} than its Content-Length of {length}")

    async def _pass(self, part: BodyPart) -> None:
        """Give a part to the producer, after the parts of other tasks."""
        while self._part is not None and self._stage is _STREAMING:
            await self._part.wait_behind()
        if self._stage is _LOST:
            return
        self._part = part
        self._taker.wake()
        await part.wait()

    # For the handler...

    async def response(self) -> Response:
        """Wait for the response.

        Raises:
            Exception: the exception of ``fail``.
        """
        try:
            if self._stage is _PENDING and not self._status:
                await self._taker.wait()
            if self._stage is _PENDING:
                with trio.move_on_after(HEAD_DELAY):
                    await self._taker.wait()
            if self._stage is _PENDING:
                self._decide_late()
            return self._take()
        except BaseException:
            self.lose()
            raise

    def lose(self) -> None:
        """Note that the client has left, or the handler was cancelled. A complete response stays complete."""
        self._end(_LOST)
        self._response = None  # if the handler was cancelled before it could take it

    async def produce(self, write: Write) -> None:
        """Write the body of a streamed response.

        Raises:
            Exception: the exception of ``fail``, or of ``write``.
        """
        try:
            while not await self._write_next(write):
                pass
            self._end(_LOST if self._is_ended else _COMPLETE)
        finally:
            self.lose()

    async def _write_next(self, write: Write) -> bool:
        """Write the next part. Returns whether it was the last."""
        while self._part is None:
            if self._failure is not None:
                if self._grace:
                    await trio.sleep(self._grace)
                self._raise_failure()
            if self._is_ended:
                return True
            await self._taker.wait()
        part = self._part
        if isinstance(part.data, FileBody):
            await send_file_body(part.data, write)
        elif part.data:
            await write(part.data)
        self._part = None
        part.finish()
        return part.is_last

    def _take(self) -> Response:
        """Return the response, which is not kept: when it is freed, its body will never be sent."""
        if self._failure is not None:
            self._raise_failure()
        response, self._response = self._response, None
        assert response is not None
        return response

    def _raise_failure(self) -> NoReturn:
        failure, self._failure = self._failure, None
        assert failure is not None
        try:
            raise failure
        finally:
            del failure  # break the reference cycle between the exception and this frame

    # Both sides...

    def _decide(self, response: Response, stage: _Stage) -> None:
        self._response = response
        if stage is _COMPLETE:
            self._end(stage)
        else:
            self._stage = stage
        self._taker.wake()

    def _decide_stream(self) -> None:
        """The body is streamed, or discarded."""
        head = AsgiResponse.from_checked(self._status, b"", self._fields)
        if self._head_only:
            self._decide(head.with_body(ProducerBody(_produce_nothing, self._length)), _COMPLETE)
        else:
            self._decide(head.with_body(ProducerBody(_Producer(self), self._length)), _STREAMING)

    def _decide_late(self) -> None:
        """The app has sent the start, and no part of the body for a while."""
        if self._status in _WITHOUT_BODY:
            self._decide(AsgiResponse.from_checked(self._status, b"", self._fields), _COMPLETE)
        else:
            self._decide_stream()

    def _end(self, stage: _Stage) -> None:
        """Take nothing more from the app."""
        if self.is_over:
            return
        self._stage = stage
        if stage is _LOST:
            self._response = None
        if self._part is not None:
            self._part.finish()
        if self._over is not None:
            self._over.set()


def _no_body(status: int) -> MessageError:
    return MessageError(f"a {status} response must not have a body (RFC 9110, section 15)")


class _Producer:
    """The producer of a streamed body.

    If it is freed and was not called, the response was dropped: a layer has replaced it, or the connection has
    ended. Nothing else would tell the app.

    Args:
        answer: the response.
    """

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, write: Write) -> None:
        await self._answer.produce(write)

    def __repr__(self) -> str:
        return f"<{self._answer.name}>"

    def __del__(self) -> None:
        self._answer.lose()


async def _produce_nothing(write: Write) -> None:
    """The body of a response to HEAD, which the server does not produce."""
