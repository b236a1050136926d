"""One HTTP request and its response, as the messages of an ASGI app."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from .._hints import add_hint
from .._http._errors import HttpError
from .._http._file_body import READ_FLAGS, FileBody, OpenFile
from .._http._ranges import ByteRange
from .._server._file_threads import with_file_in_thread
from .._server._head import name_of
from .._server._request_body import BodyInterrupted, RequestBody
from .._server._stored_body import EMPTY_BODY, StoredBody
from ._answer import Answer
from ._errors import MessageError, only_disconnected
from ._fields import read_body, read_start, read_text
from ._order import HTTP_ORDER, HttpPhase, next_phase

if TYPE_CHECKING:
    from .._http._body import BodyStream
    from .._http._request import Request

logger = logging.getLogger("humphrey_trio.http")

# The bodies that tell their end before an empty piece. A layer may pass on a body of another class.
_WITH_END = (RequestBody, StoredBody)

# Module globals, because access to a member of an enumeration is slow in Python 3.11.
_NOTHING, _END = HttpPhase.NOTHING, HttpPhase.END


class HttpExchange:
    """A ``Call`` for an HTTP request.

    Args:
        name: the name of the app, for log lines.
        request: the request, whose body is a stream.
        scope: the scope.

    Attributes:
        scope: as the argument.
        answer: the response.
    """

    __slots__ = ("_body", "_is_read", "_name", "_phase", "_request", "answer", "scope")

    def __init__(self, name: str, request: Request, scope: dict[str, Any]) -> None:
        body = _body_of(request)
        self._name = name
        self._request = request
        self._body: AsyncIterator[bytes] | None = None if body is EMPTY_BODY else aiter(body)
        self._is_read = False  # whether the app has received the end of the body
        self._phase = _NOTHING
        self.scope = scope
        self.answer = Answer(name, head_only=request.method == "HEAD")

    # For the app...

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> dict[str, Any]:
        """Return the next part of the body, or the disconnect."""
        if not self._is_read and not self.answer.is_over:
            piece = b"" if self._body is None else await self._read(self._body)
            if piece is not None:
                # The last piece is the end, so that the app need not ask for an empty one.
                self._is_read = not piece or (isinstance(self._body, _WITH_END) and self._body.is_at_end)
                return {"type": "http.request", "body": piece, "more_body": not self._is_read}
        if self.answer.is_over:
            # Also in a cancelled scope: so an app asks whether its client has left, without waiting.
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self.answer.wait_over()
        return {"type": "http.disconnect"}

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: Any) -> None:
        """Take a message.

        Raises:
            MessageError: it is malformed, or not expected.
            ClientDisconnected: the client has left, and the app sends a stream.
        """
        kind, phase = next_phase(HTTP_ORDER, self._phase, message)
        if kind == "http.response.body":
            data = read_body(message)
            self._phase = phase
            await self.answer.put(data, is_last=phase is _END)
        elif kind == "http.response.start":
            self.answer.start(*read_start(message))
            self._phase = phase
        else:
            await self._put_file(message)
            self._phase = phase

    # For the server...

    def end(self, failure: Exception | None) -> None:
        """Note that the app has returned, or failed."""
        if failure is None:
            if self._phase is _END or self.answer.is_over:
                return
            missing = "sending a response" if self._phase is _NOTHING else "sending the whole body of its response"
            failure = MessageError(f"the ASGI app has returned without {missing}")
        elif self.answer.is_lost and only_disconnected(failure):
            return
        failure.add_note(f"in {self._name}, for {name_of(self._request)}")
        if not self.answer.fail(failure):
            self.report(failure)

    def cancel(self) -> None:
        """Note that the app was cancelled, because the server ends."""
        self.answer.cancel()

    def report(self, failure: Exception) -> None:
        """Log a failure that does not become a response."""
        told = f"{self._name} failed after its response to {name_of(self._request)}"
        add_hint(failure)
        logger.error("%s", told, exc_info=failure)

    def drain(self) -> None:
        """Note that a graceful shutdown has begun: a stream of events ends, which would never end otherwise."""
        if self.answer.is_event_stream:
            self.answer.end_events()

    async def _read(self, body: AsyncIterator[bytes]) -> bytes | None:
        """Read a part of the body. Returns None if the request is over."""
        try:
            return await anext(body, b"")
        except (HttpError, BodyInterrupted) as exc:
            self.answer.fail(exc)  # the handler raises it, and the client gets the response for it
        except RuntimeError:
            if not self.answer.is_over:  # another task is reading
                raise
        return None

    async def _put_file(self, message: Mapping[str, Any]) -> None:
        path = read_text(message, "path")
        if not os.path.isabs(path):
            raise MessageError(f"the 'path' of {message['type']!r} must be absolute, not {path!r}")
        file = OpenFile()
        try:
            size = await with_file_in_thread(partial(_open, path), file)
        except (OSError, ValueError) as exc:  # a ValueError for a path that contains NUL or a surrogate
            raise MessageError(f"the file {path!r} cannot be sent: {exc}") from exc
        await self.answer.put_file(FileBody(file, [ByteRange(0, size - 1)] if size else []))


def _body_of(request: Request) -> BodyStream:
    try:
        return request.body
    except RuntimeError:  # a layer has read the body, and passes on a request that has it as a whole
        return StoredBody(request.content)


def _open(path: str, file: OpenFile) -> int:
    """Open a file, and return its size. This blocks: it is called in a worker thread."""
    descriptor = os.open(path, READ_FLAGS)
    file.adopt(descriptor)
    with file.borrow() as borrowed:
        status = os.fstat(borrowed)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    return status.st_size
