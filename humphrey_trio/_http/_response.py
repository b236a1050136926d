"""A response as a handler returns it. Framing and the automatic headers are the server's."""

from __future__ import annotations

from operator import index

from ._headers import Headers, HeadersLike
from ._status import reason_phrase

# RFC 9112, section 6: a message says its length once, and the server is the one who knows it.
_FRAMING = "Transfer-Encoding"
_NO_HEADERS = Headers()


class Response:
    """One HTTP response; immutable, ``with_header`` gives a new one.

    Args:
        status: a status code from 200 to 999.
        content: the body. A str is sent as UTF-8 and typed ``text/plain; charset=utf-8``, bytes are typed
            ``application/octet-stream``, unless the headers have a Content-Type.
        headers: further header fields. Date, Server, Content-Length and Content-Type are added by the server
            where they are missing; a Content-Length is the server's own, except in the answer to HEAD.

    Raises:
        TypeError: the status is no int, or the content neither str nor bytes.
        ValueError: the status is out of range, there is a body with a 204, 205 or 304, a header is invalid, or
            one is Transfer-Encoding.
    """

    __slots__ = ("_content", "_headers", "_is_text", "_status")

    def __init__(self, status: int, content: str | bytes = b"", headers: HeadersLike = ()) -> None:
        try:
            self._status = index(status)
            self._content = content.encode() if isinstance(content, str) else bytes(memoryview(content))
        except TypeError:
            raise TypeError(
                f"write Response(status, str or bytes), not Response({status!r}, {content!r})"
            ) from None
        if not 200 <= self._status <= 999:
            raise ValueError(f"a response has a status from 200 to 999, not {status}")
        self._is_text = isinstance(content, str)
        self._headers = Headers(headers) if headers else _NO_HEADERS
        if self._content and self._status in (204, 205, 304):
            raise ValueError(f"a {self._status} response has no body (RFC 9110, section 15)")
        if self._headers and _FRAMING in self._headers:
            raise ValueError("leave Transfer-Encoding out: the server frames the body itself")

    @classmethod
    def empty(cls, status: int) -> Response:
        """A response without a body."""
        return cls(status)

    @classmethod
    def redirect(cls, location: str, status: int = 301) -> Response:
        """A response that sends the client elsewhere.

        Args:
            location: the target, percent-encoded where it needs to be.
            status: 301 moved permanently (the default, as in Humphrey), 302, 303, 307 or 308.

        Raises:
            ValueError: the status is no redirect, or the location cannot stand in a header.
        """
        if status not in (301, 302, 303, 307, 308):
            raise ValueError(f"{status} is no redirect: use 301, 302, 303, 307 or 308")
        return cls(status, headers=[("Location", location)])

    @property
    def status(self) -> int:
        """The status code, from 200 to 999."""
        return self._status

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return self._content

    @property
    def headers(self) -> Headers:
        """The header fields that were given, without the automatic ones."""
        return self._headers

    @property
    def text(self) -> str:
        """The body as UTF-8 text.

        Raises:
            UnicodeDecodeError: it is none.
        """
        return self._content.decode()

    @property
    def content_type(self) -> str:
        """The Content-Type it is sent with; empty for an empty body without one."""
        given = self._headers.get("Content-Type") if self._headers else None
        if given is not None:
            return given
        if self._is_text:
            return "text/plain; charset=utf-8"
        return "application/octet-stream" if self._content else ""

    def with_header(self, name: str, value: str) -> Response:
        """A copy with one more header field at the end.

        Raises:
            ValueError: as the constructor.
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
