"""Limits for the sizes of requests and timeouts for connections."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .._settings import check_seconds, check_whole

#: ``Limits.fields``, also for requests that were not received by a server.
DEFAULT_MAX_FIELDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The maximum sizes of a request. A larger one is answered with an error, and its connection is closed.

    Attributes:
        head: bytes of the head, from the request line to the empty line. Beyond it: 431.
        request_line: bytes of the request line. Beyond it: 414. RFC 9112, section 3, recommends at least 8000.
        headers: header lines. Beyond it: 431.
        body: bytes of the body. Beyond it: 413.
        fields: fields of a query, of a form, or parts of a multipart body. Beyond it: 400 for a query, 413 for the
            others. Checked when a handler uses them.

    Raises:
        ValueError: a limit is below 1 (``body`` may be 0).
        TypeError: a limit is not an int.
    """

    head: int = 16 * 1024
    request_line: int = 8 * 1024
    headers: int = 100
    body: int = 1024 * 1024
    fields: int = DEFAULT_MAX_FIELDS

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name == "body" else 1
            check_whole(f"Limits({field.name}=...)", getattr(self, field.name), least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The timeouts of a server, in seconds, with a resolution of a quarter of a second. ``math.inf`` disables one.

    Time in which the process was blocked, for example by a handler that does not await, does not count, except for
    ``disconnect`` and ``drain``.

    Attributes:
        handshake: for the TLS handshake, from the accept.
        header: for a whole request head, from the accept or from the first byte of a later request.
        body: for a whole request body, from the end of its head. On routes with ``stream=True``, for each wait for
            bytes of the body, while the handler reads it.
        idle: between two requests of a connection. The idle timeout of a load balancer in front of the server
            must be shorter (most have 60 s), or it sends requests on connections that the server is closing.
        write: for a client to accept at least one byte of the data that is being sent to it.
        close: for a peer to read up to the server's WebSocket Close frame, and to answer it.
        linger: for the peer to close the connection after the server has sent its last bytes. The server reads and
            discards input in this time. An earlier close would destroy data in transit (RFC 9112, section 9.6).
        linger_idle: the same, while the peer sends nothing and acknowledges nothing. Acknowledgements are only
            visible on Linux and without TLS. The first of them has twice the time.
        disconnect: for a disconnect handler after its application was cancelled, and for the coroutine of a
            ``websocket_handler`` after its client has disconnected.
        drain: for a graceful shutdown as a whole (``with_shutdown``). Connections that are left are cancelled.

    Raises:
        ValueError: a timeout is not above zero.
        TypeError: a timeout is not a number.
    """

    handshake: float = 10.0
    header: float = 10.0
    body: float = 60.0
    idle: float = 75.0
    write: float = 30.0
    close: float = 5.0
    linger: float = 30.0
    linger_idle: float = 5.0
    disconnect: float = 0.5
    drain: float = 30.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_seconds(f"Timeouts({field.name}=...)", getattr(self, field.name))
