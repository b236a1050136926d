"""The response of an ASGI app, which has only the Content-Type of the app.

A server for ASGI adds none: without one, browsers look at the content, and show a stream of text.
"""

from __future__ import annotations

from .._http._headers import Headers
from .._http._response import Response


class AsgiResponse(Response):
    """A response without an automatic Content-Type."""

    __slots__ = ()

    @classmethod
    def from_checked(cls, status: int, content: bytes, headers: Headers) -> Response:
        """Construct from values that were checked. They are not checked again.

        Args:
            status: the status.
            content: the body; empty if a response with this status has none.
            headers: the header fields, without Transfer-Encoding.
        """
        return cls._from_parts(status, content, None, False, headers)

    @property
    def content_type(self) -> str:
        """The value of the Content-Type field; empty if the app has sent none."""
        return self.headers.get("Content-Type", "")
