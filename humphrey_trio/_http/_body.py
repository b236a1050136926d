"""Bodies that are not bytes: those of responses that are produced while they are sent, and of streamed requests.

These are values and interfaces. ``_server/_body_sender`` runs the bodies of responses, and
``_server/_request_body`` reads those of requests.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .._naming import qualified_name
from ._file_body import FileBody
from ._form import Form
from ._form_parser import FormSettings
from ._headers import Headers

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
        """Send an event, and wait until the client can take more.

        Args:
            data: the text. Each line becomes a field, so the client gets LF for every line end.
            event: the type of the event; None for ``message``.
            id: the id of the event, which a client that reconnects sends as Last-Event-ID; empty for none from now
                on, None for no change.
            retry: milliseconds that a client waits before it reconnects; None for no change.

        Raises:
            TypeError: an argument has another type.
            ValueError: ``event`` or ``id`` has a line end, ``id`` has a NUL, ``retry`` is negative, or a text has
                a surrogate.
            trio.BrokenResourceError: the client has left, or has accepted nothing for ``Timeouts.write``.
        """
        ...

    async def send_id(self, id: str) -> None:
        """Send an id without an event, and wait until the client can take more.

        A client that loses its connection before the first event then has an id to continue after. Its script
        gets no event (HTML standard, section 9.2.6).

        Args:
            id: as for ``send``.

        Raises:
            TypeError, ValueError, trio.BrokenResourceError: as for ``send``.
        """
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
    """Changes the pieces of one body, such as a compressor. It is used by one task at a time."""

    async def transform(self, piece: bytes) -> bytes:
        """Return what is sent for a piece. May be empty. If this is cancelled, the piece has had no effect."""
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


def name_of_body(body: StreamedBody | None) -> str:
    """Name a body in a log line, with the function that produces it."""
    while isinstance(body, TransformedBody):
        body = body.inner
    if isinstance(body, (ProducerBody, EventBody)):
        return f"the body of the response from {qualified_name(body.produce)}"
    if isinstance(body, IterableBody) and hasattr(body.pieces, "__qualname__"):
        return f"the body of the response from {qualified_name(body.pieces)}"
    return "the body of the response"


class BodyStream(Protocol):
    """The body of a request for a route with ``stream=True``: ``request.body``. It can be read once."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces as they arrive, at least one byte each."""
        ...

    async def read(self, limit: int) -> bytes:
        """Read the rest.

        Args:
            limit: the maximum size in bytes.

        Returns:
            The bytes that were not read before.

        Raises:
            HttpError: 413, if the rest is longer.
        """
        ...

    def parts(self, content_type: str, max_parts: int) -> AsyncIterator[Part]:
        """Iterate over the parts of a multipart body. See ``Request.parts``.

        Args:
            content_type: the value of the Content-Type field of the request.
            max_parts: the greatest number of parts.
        """
        ...

    async def form(self, content_type: str, settings: FormSettings) -> Form:
        """Read the body as a form. See ``Request.read_form``.

        Every later call returns the same form. Files that are spooled to disk are closed with the request.

        Args:
            content_type: the value of the Content-Type field of the request.
            settings: the limits of the form, and what of it is kept in memory.
        """
        ...


class Part(Protocol):
    """One part of a multipart body: a text field, or a file if it has a filename.

    Iterate over it to get the pieces of its content, or call ``read``, ``text`` or ``save``. Unread content
    is skipped when the next part is requested. After that, this part cannot be read any more.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name of the field."""
        ...

    @property
    def filename(self) -> str | None:
        """The name of the file, as the client sent it; None if the part is a text field.

        It may contain any character, ``/``, ``..`` and NUL included. Never use it as a path. If no file was chosen
        in a file input, it is empty, and so is the content.
        """
        ...

    @property
    def content_type(self) -> str:
        """The media type that the client sent, in lower case and without parameters. It need not be true.

        ``text/plain`` if none was sent (RFC 7578, section 4.4).
        """
        ...

    @property
    def headers(self) -> Headers:
        """All header fields of the part."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces of the rest of the content."""
        ...

    async def read(self, *, limit: int = 1024 * 1024) -> bytes:
        """Read the rest of the content.

        Args:
            limit: the greatest number of bytes.

        Returns:
            The bytes that were not read before.

        Raises:
            HttpError: 413 if the rest is larger, 400 if the body is malformed.
            RuntimeError: the next part was asked for before.
        """
        ...

    async def text(self, *, limit: int = 1024 * 1024) -> str:
        """Read the rest of the content as text, which is UTF-8 unless the part names another charset.

        Args:
            limit: the greatest number of bytes.

        Returns:
            The text that was not read before.

        Raises:
            HttpError: as for ``read``; also 400 if the content is malformed in its charset, and 415 if the charset
                is not supported.
            RuntimeError: as for ``read``.
        """
        ...

    async def save(self, path: str | os.PathLike[str], *, limit: int | None = None, replace: bool = False) -> int:
        """Write the rest of the content to a new file, in worker threads.

        If this fails or is cancelled, the file is removed.

        Args:
            path: the path of the file.
            limit: the greatest number of bytes of this file. None for no other limit than ``max_body`` of the
                route, which is one for all parts together.
            replace: whether a file with this path is replaced. The content is written to another file of the same
                directory, which gets the path when it is complete. If this fails or is cancelled, the old file
                stays. Without it, no file with this path may exist.

        Returns:
            The number of bytes.

        Raises:
            FileExistsError: the file exists, and ``replace`` is False.
            OSError: the file cannot be written.
            HttpError: 413 if the rest is larger than the limit, 400 if the body is malformed.
            RuntimeError: as for ``read``.
        """
        ...
