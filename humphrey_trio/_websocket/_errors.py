"""The exceptions of WebSockets.

WebsocketError
+-- HandshakeError      an upgrade was refused
+-- ConnectionClosed    the stream is closed
+-- LinkError           the call does not apply to the way in which an application is linked
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .._http._headers import Headers
from .._quoting import quoted

if TYPE_CHECKING:
    from .._http._headers import HeadersLike
    from .._http._response import Response


class WebsocketError(Exception):
    """The base class of the WebSocket exceptions of this library."""


class HandshakeError(WebsocketError):
    """An upgrade to WebSocket was refused (RFC 6455, section 4.2.2).

    If a websocket route raises it, the client receives the response that the error handler creates for
    ``status``.

    Args:
        reason: the reason, as the argument of ``Exception``.
        status: the HTTP status of the response.
        headers: header fields that are added to the response.
        response: the response that a client received.

    Attributes:
        status: as the argument.
        headers: as the argument, as ``Headers``.
        response: as the argument. None on the server, where the response is not sent yet.

    Raises:
        TypeError: the reason is not a str, or the status is not an int.
    """

    def __init__(
        self,
        reason: str,
        status: int = 400,
        *,
        headers: HeadersLike = (),
        response: Response | None = None,
    ) -> None:
        if not isinstance(reason, str) or not isinstance(status, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "a HandshakeError takes a str, then an int status:"
                f" not HandshakeError({type(reason).__name__}, {type(status).__name__})"
            )
        super().__init__(reason)
        self.status = status
        self.headers = Headers(headers)
        self.response = response


class ConnectionClosed(WebsocketError):
    """The stream is closed: nothing can be sent, and no further messages are received.

    Args:
        code: the close code.
        reason: the close reason.

    Attributes:
        code: the close code of the side that closed first (RFC 6455, section 7.4.1). 1005 if its Close frame has
            no code, 1006 if the connection ended without a Close frame.
        reason: the close reason as it was sent; often empty. ``str`` of the exception quotes it.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"closed with {self.code}{f': {quoted(self.reason)}' if self.reason else ''}"


def tells_the_end(error: Exception) -> bool:
    """Whether an exception is a ``ConnectionClosed``, or an exception group that contains nothing else."""
    if isinstance(error, ExceptionGroup):
        members = cast("ExceptionGroup[Exception]", error).exceptions
        return all(tells_the_end(member) for member in members)
    return isinstance(error, ConnectionClosed)


class LinkError(WebsocketError):
    """The call does not apply to the way in which the ``AsyncWebsocketApp`` is linked to its HTTP app."""
