"""The events of a monitor: their types, their levels, and the events themselves."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime

from ._address import Address


class EventType(enum.Flag):
    """The type of an event. Several can be combined with ``|``.

    Attributes:
        CONNECTION_SUCCESS: a connection was accepted.
        CONNECTION_DENIED: a connection was closed because the connection condition refused it.
        CONNECTION_ERROR: a connection could not be accepted, its TLS handshake failed, or a client spoke plain
            HTTP to a port for HTTPS.
        CONNECTION_CLOSED: the socket of a connection was closed. Every accepted connection has one such event.
        STREAM_DISCONNECTED_WHILE_WAITING: the client disconnected before it got its response, or did not read
            it in time.
        REQUEST_SERVED_SUCCESS: a response with a status below 400 was sent.
        REQUEST_SERVED_ERROR: a response with a status from 400 on was sent, other than 408.
        REQUEST_TIMEOUT: a 408 was sent, because a request did not arrive in time.
        KEEP_ALIVE_RESPECTED: the connection stays open after a response, and waits for the next request.
        WEBSOCKET_CONNECTION_REQUESTED: a client requested a WebSocket for which there is a route.
        WEBSOCKET_CONNECTION_CLOSED: a WebSocket that was open has ended.
        OVERLOAD: the server does not accept connections for now, because ``max_connections`` are open or the
            system has no resources for another one.
        HANDLER_FAILED: a handler raised an exception, or a layer, a websocket route, or the body of a response.
            For a handler of a WebSocket, when the WebSocket has ended because of it.
    """

    CONNECTION_SUCCESS = 0x0001
    CONNECTION_DENIED = 0x0002
    CONNECTION_ERROR = 0x0004
    CONNECTION_CLOSED = 0x0008
    STREAM_DISCONNECTED_WHILE_WAITING = 0x0020
    REQUEST_SERVED_SUCCESS = 0x0040
    REQUEST_SERVED_ERROR = 0x0080
    REQUEST_TIMEOUT = 0x0100
    KEEP_ALIVE_RESPECTED = 0x0200
    WEBSOCKET_CONNECTION_REQUESTED = 0x0400
    WEBSOCKET_CONNECTION_CLOSED = 0x0800
    OVERLOAD = 0x2000
    HANDLER_FAILED = 0x4000


class EventLevel(enum.Enum):
    """A set of event types, by their importance. Each level includes those before it.

    Attributes:
        ERROR: ``CONNECTION_ERROR``, ``REQUEST_SERVED_ERROR``, ``HANDLER_FAILED``.
        WARNING: also ``CONNECTION_DENIED``, ``STREAM_DISCONNECTED_WHILE_WAITING``, ``REQUEST_TIMEOUT``,
            ``OVERLOAD``.
        INFO: also ``CONNECTION_CLOSED``, ``REQUEST_SERVED_SUCCESS``, ``WEBSOCKET_CONNECTION_REQUESTED``,
            ``WEBSOCKET_CONNECTION_CLOSED``.
        DEBUG: all event types.
    """

    ERROR = EventType.CONNECTION_ERROR | EventType.REQUEST_SERVED_ERROR | EventType.HANDLER_FAILED
    WARNING = (
        ERROR
        | EventType.CONNECTION_DENIED
        | EventType.STREAM_DISCONNECTED_WHILE_WAITING
        | EventType.REQUEST_TIMEOUT
        | EventType.OVERLOAD
    )
    INFO = (
        WARNING
        | EventType.CONNECTION_CLOSED
        | EventType.REQUEST_SERVED_SUCCESS
        | EventType.WEBSOCKET_CONNECTION_REQUESTED
        | EventType.WEBSOCKET_CONNECTION_CLOSED
    )
    DEBUG = INFO | EventType.CONNECTION_SUCCESS | EventType.KEEP_ALIVE_RESPECTED

    @property
    def events(self) -> EventType:
        """The event types of this level."""
        return self.value


_LABELS = {
    EventType.CONNECTION_SUCCESS: "Connection successful",
    EventType.CONNECTION_DENIED: "Connection denied",
    EventType.CONNECTION_ERROR: "Connection error",
    EventType.CONNECTION_CLOSED: "Connection closed",
    EventType.STREAM_DISCONNECTED_WHILE_WAITING: "Stream disconnected while waiting for its response",
    EventType.REQUEST_SERVED_SUCCESS: "Request served",
    EventType.REQUEST_SERVED_ERROR: "Request error",
    EventType.REQUEST_TIMEOUT: "Request timeout",
    EventType.KEEP_ALIVE_RESPECTED: "Connection kept alive after response",
    EventType.WEBSOCKET_CONNECTION_REQUESTED: "WebSocket connection requested",
    EventType.WEBSOCKET_CONNECTION_CLOSED: "WebSocket connection closed",
    EventType.OVERLOAD: "Server overloaded",
    EventType.HANDLER_FAILED: "Handler failed",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a server. ``str`` gives one line for a log.

    Attributes:
        kind: the type, exactly one.
        peer: the address of the client; None if the event concerns no client. Behind trusted proxies, it is that
            of the proxy for events about a connection.
        info: a description, such as ``200 OK /path``. Text from a client is escaped in it. Often empty.
        time: when it happened, in seconds since 1970-01-01 UTC.
        status: the status code of the response that was sent; None for other events.
        dropped: the number of events that were dropped directly before this one, because the channel was full.
    """

    kind: EventType
    peer: Address | None
    info: str
    time: float
    status: int | None = None
    dropped: int = 0

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.time, UTC)
        peer = f"{self.peer} " if self.peer is not None else ""
        info = f": {self.info}" if self.info else ""
        return f"{when:%Y-%m-%d %H:%M:%S} {peer}{_LABELS[self.kind]}{info}"
