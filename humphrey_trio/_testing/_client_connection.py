"""One HTTP connection of a test client: a request and its response at a time.

The body of a request is sent in a task beside the one that receives, so a server may respond before it has read
the body.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from .._server._body_sender import send_body
from .._server._child_task import child_task
from .._server._pieces import Piece, encode_piece
from ._outgoing_request import OutgoingRequest
from ._response_reader import Event, ResponseEnd, ResponseHead, ResponseReader
from ._streamed_response import StreamedResponse

# Bytes of a body that are sent together with the head. The buffers of every stream have room for them.
_AT_ONCE = 16 * 1024

_TORN = "a write was cancelled after a part of its piece was sent: the body cannot be continued"


class ClientConnection:
    """The client's side of a connection. It does not close the stream unless a body fails.

    Args:
        stream: the client's end.

    Attributes:
        reusable: whether another request may be sent.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.reusable = True
        self._stream = stream
        self._reader = ResponseReader()

    @property
    def rest(self) -> bytes:
        """The bytes after the head of a 101."""
        return self._reader.rest

    @asynccontextmanager
    async def exchange(self, request: OutgoingRequest) -> AsyncGenerator[StreamedResponse]:
        """Send a request, and wait for the head of the response.

        At the end of the block, the rest of the request is not sent any more.

        Args:
            request: the request.

        Yields:
            The response. The connection can be used again if its body is read to the end.

        Raises:
            ResponseError: the response is malformed or incomplete.
            ConnectionError: the server has closed the connection.
            Exception: the exception of the body of the request.
        """
        self.reusable = False
        self._reader.begin(request.method)
        sender = _Sender(self._stream, request)
        async with AsyncExitStack() as stack:
            if sender.is_quick:
                await sender.run()
            else:
                await stack.enter_async_context(child_task(sender.run))
            head, informational = await self._receive_head(sender)
            response = StreamedResponse(head, informational, lambda: self._receive_piece(sender), self.aclose)
            yield response
        if sender.failure is not None:
            raise sender.failure
        self.reusable = response.ended and sender.sent and not head.close and not self._reader.ended

    async def aclose(self) -> None:
        """Close the stream at once."""
        await trio.aclose_forcefully(self._stream)

    async def _receive_head(self, sender: _Sender) -> tuple[ResponseHead, tuple[int, ...]]:
        """Receive the final head, and the status codes of the interim responses before it."""
        informational: list[int] = []
        while True:
            event = await self._receive(sender)
            assert isinstance(event, ResponseHead)
            if not event.is_interim:
                return event, tuple(informational)
            informational.append(event.status)
            if event.status == 100:
                sender.go_on()

    async def _receive_piece(self, sender: _Sender) -> bytes | ResponseEnd:
        event = await self._receive(sender)
        assert not isinstance(event, ResponseHead)
        return event

    async def _receive(self, sender: _Sender) -> Event:
        while (event := self._reader.next()) is None:
            try:
                data = bytes(await self._stream.receive_some())
            except trio.BrokenResourceError:
                raise ConnectionError("the server has reset the connection") from None
            except trio.ClosedResourceError:
                if sender.failure is not None:
                    raise sender.failure from None
                raise
            self._reader.receive(data)
        return event


class _Sender:
    """Sends one request.

    Attributes:
        sent: whether the whole request was sent.
        failure: the exception of the body; None if there was none.
    """

    def __init__(self, stream: trio.abc.Stream, request: OutgoingRequest) -> None:
        self.sent = False
        self.failure: Exception | None = None
        self._stream = stream
        self._request = request
        self._may_send = trio.Event()
        self._left = None if request.is_chunked else int(request.headers.get("Content-Length", "0"))
        self._broken = False
        self._turn = trio.Lock()  # several tasks of a producer may write
        self._torn = False  # whether an unknown part of a piece was sent

    @property
    def is_quick(self) -> bool:
        """Whether sending this request does not depend on what the server does."""
        content = self._request.content
        return isinstance(content, bytes) and len(content) <= _AT_ONCE and not self._request.waits_for_100

    def go_on(self) -> None:
        """Send the body, because a 100 was received."""
        self._may_send.set()

    async def run(self) -> None:
        """Send the request. If its body fails, the stream is closed, which wakes the task that receives."""
        try:
            await self._send()
            self.sent = True
        except Exception as exc:
            # If the server has closed the connection, what it has sent before tells why.
            if not self._broken:
                self.failure = exc
                await trio.aclose_forcefully(self._stream)

    async def _send(self) -> None:
        request, content = self._request, self._request.content
        head = request.head()
        if isinstance(content, bytes) and not request.is_chunked and not request.waits_for_100:
            await self._put(head + content)
            return
        await self._put(head)
        if request.waits_for_100:
            await self._may_send.wait()
        if isinstance(content, bytes):
            await self._write(content)
        else:
            await send_body(content, self._write)
        await self._finish()

    async def _write(self, piece: Piece) -> None:
        data = encode_piece(piece)
        if not data:
            return
        async with self._turn:
            await self._write_in_turn(data)

    async def _write_in_turn(self, data: bytes) -> None:
        if self._torn:
            raise RuntimeError(_TORN)
        if self._left is None:
            await self._put(b"%x\r\n%b\r\n" % (len(data), data))
            return
        if len(data) > self._left:
            raise ValueError(f"the body is longer than its Content-Length by {len(data) - self._left} bytes")
        await self._put(data)
        self._left -= len(data)

    async def _finish(self) -> None:
        if self._torn:
            raise RuntimeError(_TORN)
        if self._left is None:
            await self._put(b"0\r\n\r\n")
        elif self._left:
            raise ValueError(f"the body is shorter than its Content-Length by {self._left} bytes")

    async def _put(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._broken = True
            raise
        except trio.Cancelled:
            self._torn = True
            raise
