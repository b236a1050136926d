"""Responses that a test reads while they arrive: pieces of a body, or server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from io import BytesIO

from .._http._event_encoding import ServerSentEvent
from .._http._headers import Headers
from ._event_decoder import EventDecoder
from ._response_reader import ResponseEnd, ResponseHead

#: Bytes of a response that a client reads as a whole.
MAX_CONTENT = 64 * 1024 * 1024


class StreamedResponse:
    """The response of ``HttpClient.stream``. ``async for piece in response`` reads its body.

    Args:
        head: the head.
        informational: the status codes before it.
        receive: waits for the next piece or the end.
        close: closes the connection.

    Attributes:
        status: the status code.
        headers: all header fields.
        informational: the status codes of the interim responses before this one, such as 100.
    """

    def __init__(
        self,
        head: ResponseHead,
        informational: tuple[int, ...],
        receive: Callable[[], Awaitable[bytes | ResponseEnd]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.status = head.status
        self.headers = head.headers
        self.informational = informational
        self._receive = receive
        self._close = close
        self._end: ResponseEnd | None = None

    @property
    def ended(self) -> bool:
        """Whether the whole body was read."""
        return self._end is not None

    @property
    def trailers(self) -> Headers:
        """The fields after a chunked body (RFC 9110, section 6.5).

        Raises:
            RuntimeError: the body was not read to its end.
        """
        if self._end is None:
            raise RuntimeError("the trailers follow the body: read it first")
        return self._end.trailers

    def __aiter__(self) -> StreamedResponse:
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next piece of the body. It has at least one byte."""
        if self._end is None:
            event = await self._receive()
            if isinstance(event, bytes):
                return event
            self._end = event
        raise StopAsyncIteration

    async def read(self, limit: int = MAX_CONTENT) -> bytes:
        """Read the rest of the body.

        Args:
            limit: the maximum size in bytes.

        Raises:
            ResponseError: the response is malformed or incomplete.
            ValueError: the rest is longer than the limit.
        """
        content = BytesIO()
        async for piece in self:
            content.write(piece)
            if content.tell() > limit:
                raise ValueError(f"the body is longer than {limit} bytes: pass a higher limit, or iterate over it")
        return content.getvalue()

    async def text(self, limit: int = MAX_CONTENT) -> str:
        """Read the rest of the body as UTF-8 text.

        Args:
            limit: the maximum size in bytes.

        Raises:
            ResponseError, ValueError: as for ``read``. UnicodeDecodeError, a ValueError, if it is not UTF-8.
        """
        return (await self.read(limit)).decode()

    async def aclose(self) -> None:
        """Disconnect, as a client does that leaves in the middle of a response."""
        await self._close()


class EventStream:
    """The events of ``HttpClient.events``. ``async for event in events`` waits for each of them.

    Args:
        response: the response.
        last_event_id: the id that the client has sent.

    Attributes:
        response: the response, with its header fields.
    """

    def __init__(self, response: StreamedResponse, last_event_id: str = "") -> None:
        self.response = response
        self._decoder = EventDecoder(last_event_id)

    @property
    def last_event_id(self) -> str:
        """The id with which a browser would reconnect; empty for none."""
        return self._decoder.last_event_id

    @property
    def retry(self) -> int | None:
        """The last reconnection time that the server has sent, in milliseconds; None if there was none."""
        return self._decoder.retry

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """Wait for the next event. An incomplete event at the end of the stream is dropped, as in browsers."""
        while (event := self._decoder.next()) is None:
            self._decoder.receive(await anext(self.response))
        return event

    async def aclose(self) -> None:
        """Disconnect."""
        await self.response.aclose()
