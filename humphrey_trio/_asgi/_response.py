"""The response of an ASGI app, which has only the Content-Type of the app.

A server for ASGI adds none: without one, browsers look at the content, and show a stream of text.
"""

from __future__ import annotations

from .._http._response import Response


class AsgiResponse(Response):
    """A response without an automatic Content-Type."""

    __slots__ = ()

    @property
    def content_type(self) -> str:
        """The value of the Content-Type field; empty if the app has sent none."""
        return self.headers.get("Content-Type", "")
