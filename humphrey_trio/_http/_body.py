"""Bodies that are not bytes: those of responses that are produced while they are sent, and of streamed requests.

These are values and interfaces. ``_server/_bodies`` runs the bodies of responses, and ``_server/_request_body``
reads those of requests.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ._file_body import FileBody

#: Sends a piece of a body. It waits until the peer can take more. A str is sent as UTF-8.
Write: TypeAlias = Callable[[bytes | str], Awaitable[None]]
#: A coroutine function that produces a body: it awaits its argument for each piece.
Producer: TypeAlias = Callable[[Write], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ProducerBody:
    """A body from a coroutine function.

    Attributes:
        produce: awaited in the task of the handler, with a function that sends a piece.
        length: the size in bytes; None if it is not known. Other sizes end the connection.
    """

    produce: Producer
    length: int | None = None


@dataclass(frozen=True, slots=True)
class IterableBody:
    """A body from an async iterable, such as an async generator.

    Attributes:
        pieces: is iterated, and closed if it has ``aclose``, in a task of its own.
        length: as for ``ProducerBody``.
    """

    pieces: AsyncIterable[bytes | str]
    length: int | None = None


class EventSender(Protocol):
    """Sends server-sent events to one client."""

    async def send(
        self, data: str, *, event: str | None = None, id: str | None = None, retry: int | None = None
    ) -> None:
        """Send an event. See ``Response.events``."""
        ...


@dataclass(frozen=True, slots=True)
class EventBody:
    """A stream of server-sent events (HTML standard, section 9.2).

    Attributes:
        produce: awaited in the task of the handler, with an ``EventSender``.
        length: None: it has no size.
    """

    produce: Callable[[EventSender], Awaitable[None]]
    length: None = None


class Transform(Protocol):
    """Changes the pieces of one body, such as a compressor."""

    def transform(self, piece: bytes) -> bytes:
        """Return what is sent for a piece. May be empty."""
        ...

    def finish(self) -> bytes:
        """Return what is sent at the end. May be empty."""
        ...


@dataclass(frozen=True, slots=True)
class TransformedBody:
    """A body whose pieces a layer changes.

    Attributes:
        inner: the body before.
        begin: returns the ``Transform`` for one sending.
        length: None: the size is not known before the end.
    """

    inner: StreamedBody
    begin: Callable[[], Transform]
    length: None = None


#: What can stand in place of the bytes of a response.
StreamedBody: TypeAlias = ProducerBody | IterableBody | EventBody | FileBody | TransformedBody


def discard(body: StreamedBody) -> None:
    """Free what a body holds that will not be sent: the descriptor of a file."""
    while isinstance(body, TransformedBody):
        body = body.inner
    if isinstance(body, FileBody):
        body.close()


class BodyStream(Protocol):
    """The body of a request for a route with ``stream=True``. It can be read once."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces as they arrive, at least one byte each."""
        ...

    async def read(self, limit: int) -> bytes:
        """Read the rest.

        Args:
            limit: the maximum size in bytes.

        Raises:
            HttpError: 413, if the rest is longer.
        """
        ...
