"""A response as a handler returns it. The server adds the framing and the automatic header fields."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from operator import index
from typing import Any, cast

from ._body import EventBody, EventSender, IterableBody, Producer, ProducerBody, StreamedBody
from ._cookies import SetCookie
from ._headers import Headers, HeadersLike
from ._json import dumps, loads_strict
from ._location import encode_location
from ._response_checks import check_length, check_producer, wrong_arguments
from ._status import reason_phrase

# The server decides how the body is framed (RFC 9112, section 6). A second declaration could contradict it.
_FRAMING = "transfer-encoding"
_WITHOUT_BODY = (204, 205, 304)
_NO_HEADERS = Headers()
_JSON = Headers([("Content-Type", "application/json")])
_HTML = Headers([("Content-Type", "text/html; charset=utf-8")])
# A stored stream of events would be replayed (HTML standard, section 9.2.8). nginx collects responses in buffers
# unless X-Accel-Buffering is "no".
_EVENTS = Headers(
    [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")]
)
_REDIRECTS = (301, 302, 303, 307, 308)


class Response:
    """One HTTP response. Immutable.

    Args:
        status: the status code, from 200 to 999.
        content: the body. A str is sent as UTF-8.
        headers: additional header fields. The server adds Date and Server if they are missing, and a Content-Type:
            ``text/plain; charset=utf-8`` for a str, ``application/octet-stream`` for bytes. The server always sets
            Content-Length itself, except in the response to a HEAD request.

    Raises:
        TypeError: the status is not an int, the content is neither str nor bytes, or the headers are not pairs of
            str.
        ValueError: the status is out of range, a 204, 205 or 304 has a body, or a header field is invalid or is
            Transfer-Encoding.
    """

    __slots__ = ("_body", "_content", "_headers", "_is_text", "_status")

    def __init__(self, status: int, content: str | bytes = b"", headers: HeadersLike = ()) -> None:
        try:
            self._status = status if type(status) is int else _to_status(status)
            self._content = content.encode() if isinstance(content, str) else _to_bytes(content)
        except TypeError:
            raise wrong_arguments(status, content) from None
        if not 200 <= self._status <= 999:
            raise ValueError(f"the status of a response must be from 200 to 999, not {status}")
        self._body: StreamedBody | None = None
        self._is_text = isinstance(content, str)
        self._headers = headers if type(headers) is Headers else Headers(headers) if headers else _NO_HEADERS
        if self._content and self._status in _WITHOUT_BODY:
            raise ValueError(f"a {self._status} response must not have a body (RFC 9110, section 15)")
        if headers:
            _check_framing(self._headers)

    @classmethod
    def empty(cls, status: int) -> Response:
        """Create a response without a body.

        Args:
            status: the status code, from 200 to 999.

        Returns:
            The response.

        Raises:
            TypeError, ValueError: as for the constructor.
        """
        return cls(status)

    @classmethod
    def stream(
        cls,
        body: Producer | AsyncIterable[bytes | str],
        *,
        status: int = 200,
        headers: HeadersLike = (),
        length: int | None = None,
    ) -> Response:
        """Create a response whose body is sent while it is produced.

        Args:
            body: a coroutine function that is awaited with ``write``; ``await write(piece)`` sends bytes or a str,
                and waits until the client can take more. Or an async iterable of bytes or str, such as an async
                generator. It is not started for a HEAD request.
            status: the status code, from 200 to 999.
            headers: as for the constructor. Without a Content-Type, ``application/octet-stream`` is sent.
            length: the size of the body in bytes. The server checks it, and sends it as Content-Length. The
                response is complete after its last byte, also if the body fails then. Without a length, the body
                is chunked, or ends with the connection for HTTP/1.0.

        Returns:
            The response.

        Raises:
            TypeError: the body is neither, or the length is not an int.
            ValueError: the length is negative; or as for the constructor.
        """
        check_length(length)
        if isinstance(body, AsyncIterable):
            return cls(status, headers=headers).with_body(IterableBody(cast("Any", body), length))
        check_producer(body, "stream", "write")
        return cls(status, headers=headers).with_body(ProducerBody(body, length))

    @classmethod
    def switching_protocols(cls) -> Response:
        """Create the response to an upgrade that layers get from ``call_next``.

        A layer may add header fields to it, which the client receives, or return another response, which refuses
        the upgrade. A handler cannot return it.

        Returns:
            A response with status 101.
        """
        return cls._from_parts(101, b"", None, False, _NO_HEADERS)

    @classmethod
    def events(cls, produce: Callable[[EventSender], Awaitable[None]], *, headers: HeadersLike = ()) -> Response:
        """Create a stream of server-sent events (HTML standard, section 9.2), for ``EventSource`` in scripts.

        Its Content-Type is ``text/event-stream``, its Cache-Control ``no-store``, and its X-Accel-Buffering
        ``no``, unless ``headers`` has them.

        Args:
            produce: a coroutine function that is awaited with an ``EventSender``: ``await events.send("text")``.
                The stream ends when it returns. ``request.last_event_id`` is the event after which to continue.
            headers: as for the constructor.

        Returns:
            The response, with the status 200.

        Raises:
            TypeError: ``produce`` is something else.
            ValueError: as for the constructor.
        """
        check_producer(produce, "events", "events")
        return cls(200, headers=_with_defaults(headers, _EVENTS)).with_body(EventBody(produce))

    @classmethod
    def json(cls, value: object, *, status: int = 200, headers: HeadersLike = ()) -> Response:
        """Create a response with a value as JSON (RFC 8259), in UTF-8 and without white space.

        Its Content-Type is ``application/json``, unless ``headers`` has one.

        Args:
            value: a dict, list, tuple, str, int, float, bool or None. Keys of a dict that are int, float, bool or
                None become str.
            status, headers: as for the constructor.

        Returns:
            The response.

        Raises:
            TypeError: the value contains an object of another type, or as for the constructor.
            ValueError: the value contains NaN, an infinity, half of a surrogate pair, or itself, or is nested too
                deeply; or as for the constructor.
        """
        return cls(status, dumps(value), _with_defaults(headers, _JSON))

    @classmethod
    def html(cls, text: str, *, status: int = 200, headers: HeadersLike = ()) -> Response:
        """Create a response with an HTML page, in UTF-8.

        Its Content-Type is ``text/html; charset=utf-8``, unless ``headers`` has one.

        Args:
            text: the page. Nothing in it is escaped: pass text from elsewhere through ``html.escape``.
            status, headers: as for the constructor.

        Returns:
            The response.

        Raises:
            TypeError: the text is not a str, or as for the constructor.
            ValueError: as for the constructor.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Response.html takes a str, not {type(text).__name__}: decode bytes first")
        return cls(status, text, _with_defaults(headers, _HTML))

    @classmethod
    def redirect(cls, location: str, *, status: int = 302) -> Response:
        """Create a redirect.

        Args:
            location: a URI, or a path of this host. Characters that cannot stand in one, such as spaces and
                letters outside ASCII, are percent-encoded. If a client has chosen it, check where it leads
                to: ``//host`` is another host.
            status: 302 (found), 303 (see other: the client continues with GET), 307 (temporary, with the same
                method), or 301 and 308 (permanent). Browsers store permanent redirects without a limit.

        Returns:
            The response, with a Location field and without a body.

        Raises:
            TypeError: the location is not a str.
            ValueError: the status is not one of these, or the location is empty, contains a control character, or
                has white space at an end.
        """
        if status not in _REDIRECTS:
            raise ValueError(f"{status} is not a redirect: use 301, 302, 303, 307 or 308")
        return cls(status, headers=[("Location", encode_location(location))])

    @property
    def status(self) -> int:
        """The status code, from 200 to 999."""
        return self._status

    @property
    def content(self) -> bytes:
        """The body as it is sent. A str was encoded as UTF-8.

        Raises:
            RuntimeError: the body is streamed, so it is not known before it is sent.
        """
        if self._body is not None:
            raise RuntimeError("this response is streamed: use humphrey_trio.http.read_body(response)")
        return self._content

    @property
    def body(self) -> StreamedBody | None:
        """The body of a streamed response; None if it is ``content``."""
        return self._body

    @property
    def headers(self) -> Headers:
        """The header fields of the constructor, without the automatic ones."""
        return self._headers

    @property
    def text(self) -> str:
        """The body as UTF-8 text.

        Raises:
            UnicodeDecodeError: the body is not valid UTF-8.
        """
        return self.content.decode()

    def parse_json(self) -> Any:
        """Parse the body as JSON, for layers and tests. As strict as ``Request.json``.

        Returns:
            A dict, list, str, int, float, bool or None.

        Raises:
            ValueError: the body is not JSON.
            RuntimeError: the body is streamed, so it is not known before it is sent.
        """
        return loads_strict(self.content)

    @property
    def content_type(self) -> str:
        """The value of the Content-Type field; empty if none is sent, which is so for an empty bytes body."""
        given = self._headers.get("Content-Type") if self._headers else None
        if given is not None:
            return given
        if self._is_text:
            return "text/plain; charset=utf-8"
        return "application/octet-stream" if self._content or self._body is not None else ""

    def with_header(self, name: str, value: str) -> Response:
        """Return a copy with one more header field at the end.

        Args:
            name, value: as for ``Headers.with_header``.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return self._with_headers(self._headers.with_header(name, value))

    def without_header(self, name: str) -> Response:
        """Return a copy without the header fields of a name. Letter case is ignored.

        Args:
            name: the name of the fields.

        Returns:
            The copy. The automatic fields cannot be removed.
        """
        return self._with_headers(self._headers.without_header(name))

    def replace_header(self, name: str, value: str) -> Response:
        """Return a copy with one header field of a name, at the end, in place of all of them.

        Args:
            name, value: as for ``with_header``.

        Returns:
            The copy.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return self._with_headers(self._headers.without_header(name).with_header(name, value))

    def with_cookie(self, cookie: SetCookie) -> Response:
        """Return a copy that also sets a cookie: ``with_cookie(SetCookie("name", "value"))``.

        Args:
            cookie: the cookie. ``SetCookie.deleted("name")`` deletes one.

        Raises:
            TypeError: it is not a ``SetCookie``.
        """
        if not isinstance(cookie, SetCookie):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"with_cookie takes a SetCookie('name', 'value'), not {type(cookie).__name__}")
        return self.with_header("Set-Cookie", cookie.to_header())

    def with_body(self, body: StreamedBody) -> Response:
        """Return a copy with a streamed body in place of the content.

        Args:
            body: the body. If this response has a streamed body, the new one usually contains it.

        Returns:
            The copy. It has the Content-Type of this response.

        Raises:
            ValueError: a response with this status must not have a body.
        """
        if self._status in _WITHOUT_BODY or self._status < 200:
            raise ValueError(f"a {self._status} response must not have a body (RFC 9110, section 15)")
        return self._from_parts(self._status, b"", body, self._is_text, self._headers)

    def _with_headers(self, headers: Headers) -> Response:
        _check_framing(headers)
        return self._from_parts(self._status, self._content, self._body, self._is_text, headers)

    @classmethod
    def _from_parts(
        cls, status: int, content: bytes, body: StreamedBody | None, is_text: bool, headers: Headers
    ) -> Response:
        """Construct from parts that were checked."""
        self = cls.__new__(cls)
        self._status = status
        self._content = content
        self._body = body
        self._is_text = is_text
        self._headers = headers
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Response):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        phrase = reason_phrase(self._status)
        size = f"{len(self._content)} bytes" if self._body is None else "streamed"
        return f"<Response {self._status}{' ' if phrase else ''}{phrase}, {size}>"

    def _key(self) -> tuple[int, bytes, StreamedBody | None, str, Headers]:
        return self._status, self._content, self._body, self.content_type, self._headers


def _check_framing(headers: Headers) -> None:
    if _FRAMING in headers.names:
        raise ValueError("omit Transfer-Encoding: the server frames the body itself")


def _with_defaults(headers: HeadersLike, defaults: Headers) -> Headers:
    """Add fields to header fields that do not have them."""
    if not headers:
        return defaults
    given = Headers(headers)
    return Headers([*(pair for pair in defaults if pair[0] not in given), *given])


def _to_status(status: int) -> int:
    """Convert a status of another type, such as ``http.HTTPStatus``. A bool is a mistake."""
    if isinstance(status, bool):
        raise TypeError
    return index(status)


def _to_bytes(content: bytes) -> bytes:
    """Copy a buffer that may change, such as a bytearray. Bytes are returned as they are."""
    return content if type(content) is bytes else bytes(memoryview(content))
