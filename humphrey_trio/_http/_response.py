"""A response as a handler returns it. The server adds the framing and the automatic header fields."""

from __future__ import annotations

from operator import index

from ._headers import Headers, HeadersLike
from ._status import reason_phrase

# The server decides how the body is framed (RFC 9112, section 6). A second declaration could contradict it.
_FRAMING = "transfer-encoding"
_WITHOUT_BODY = (204, 205, 304)
_NO_HEADERS = Headers()


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

    __slots__ = ("_content", "_headers", "_is_text", "_status")

    def __init__(self, status: int, content: str | bytes = b"", headers: HeadersLike = ()) -> None:
        try:
            self._status = status if type(status) is int else index(status)
            self._content = content.encode() if isinstance(content, str) else _to_bytes(content)
        except TypeError:
            raise TypeError(
                "a Response takes an int status, then a str or bytes:"
                f" not Response({type(status).__name__}, {type(content).__name__})"
            ) from None
        if not 200 <= self._status <= 999:
            raise ValueError(f"the status of a response must be from 200 to 999, not {status}")
        self._is_text = isinstance(content, str)
        self._headers = headers if type(headers) is Headers else Headers(headers) if headers else _NO_HEADERS
        if self._content and self._status in _WITHOUT_BODY:
            raise ValueError(f"a {self._status} response must not have a body (RFC 9110, section 15)")
        if headers and _FRAMING in self._headers.names:
            raise ValueError("omit Transfer-Encoding: the server frames the body itself")

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
    def redirect(cls, location: str, status: int = 301) -> Response:
        """Create a redirect.

        Args:
            location: the value of the Location field. Not percent-encoded by this method.
            status: 301 (moved permanently; the default, as in Humphrey), 302, 303, 307 or 308.

        Returns:
            The response, with a Location field and without a body.

        Raises:
            ValueError: the status is not one of these, or the location is not a valid header value.
        """
        if status not in (301, 302, 303, 307, 308):
            raise ValueError(f"{status} is not a redirect: use 301, 302, 303, 307 or 308")
        return cls(status, headers=[("Location", location)])

    @property
    def status(self) -> int:
        """The status code, from 200 to 999."""
        return self._status

    @property
    def content(self) -> bytes:
        """The body as it is sent. A str was encoded as UTF-8."""
        return self._content

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
        return self._content.decode()

    @property
    def content_type(self) -> str:
        """The value of the Content-Type field; empty if none is sent, which is so for an empty bytes body."""
        given = self._headers.get("Content-Type") if self._headers else None
        if given is not None:
            return given
        if self._is_text:
            return "text/plain; charset=utf-8"
        return "application/octet-stream" if self._content else ""

    def with_header(self, name: str, value: str) -> Response:
        """Return a copy with one more header field at the end.

        Args:
            name, value: as for ``Headers.with_header``.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        content = self.text if self._is_text else self._content
        return Response(self._status, content, self._headers.with_header(name, value))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Response):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        phrase = reason_phrase(self._status)
        return f"<Response {self._status}{' ' if phrase else ''}{phrase}, {len(self._content)} bytes>"

    def _key(self) -> tuple[int, bytes, str, Headers]:
        return self._status, self._content, self.content_type, self._headers


def _to_bytes(content: bytes) -> bytes:
    """Copy a buffer that may change, such as a bytearray. Bytes are returned as they are."""
    return content if type(content) is bytes else bytes(memoryview(content))
