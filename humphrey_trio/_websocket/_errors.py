"""What can go wrong with WebSockets.

WebsocketError
+-- HandshakeError      an upgrade was refused
+-- ConnectionClosed    the stream is closed, by whichever side
+-- LinkError           an application is linked in another way than the call needs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .._http._headers import Headers
from .._quoting import quoted

if TYPE_CHECKING:
    from .._http._headers import HeadersLike
    from .._http._response import Response


class WebsocketError(Exception):
    """The root of this library's WebSocket errors."""


class HandshakeError(WebsocketError):
    """An upgrade to WebSocket was refused.

    Raised in a websocket route and not caught there, it becomes the error handler's answer to the client.

    Attributes:
        status: the HTTP status of the refusal.
        headers: header fields that the answer gets.
        response: the whole refusal, for a client; None on the server, which has not sent it yet.
    """

    def __init__(
        self,
        reason: str,
        status: int = 400,
        *,
        headers: HeadersLike = (),
        response: Response | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = Headers(headers)
        self.response = response


class ConnectionClosed(WebsocketError):
    """The stream is closed: nothing more can be sent, nothing more will be received.

    Attributes:
        code: the close code (RFC 6455, section 7.4.1), of the side that closed first. 1005 if its Close frame
            had none, 1006 if the connection ended without one.
        reason: the text beside the code, as it was sent; often empty. ``str`` of the exception quotes it.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"closed with {self.code}{f': {quoted(self.reason)}' if self.reason else ''}"


def tells_the_end(error: Exception) -> bool:
    """Whether an exception says nothing but that a stream is closed, be it in the group of a nursery."""
    if isinstance(error, ExceptionGroup):
        members = cast("ExceptionGroup[Exception]", error).exceptions
        return all(tells_the_end(member) for member in members)
    return isinstance(error, ConnectionClosed)


class LinkError(WebsocketError):
    """An application is linked to its HTTP app in another way than the call needs."""
