"""What a server allows its clients: sizes and times, as two frozen values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isnan


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes that an HTTP client may not exceed.

    Attributes:
        head: bytes of a request's head, from its first line to the empty one; beyond it a 431.
        request_line: bytes of the first line; beyond it a 414 (RFC 9112, section 3, asks for at least 8000).
        headers: header lines; beyond it a 431.
        body: bytes of a body; beyond it a 413.

    Raises:
        ValueError: a limit is below one (``body`` may be 0).
    """

    head: int = 16 * 1024
    request_line: int = 8 * 1024
    headers: int = 100
    body: int = 1024 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name == "body" else 1
            if getattr(self, field.name) < least:
                raise ValueError(f"Limits({field.name}=...) must be at least {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a server waits, in seconds; ``math.inf`` waits for ever. Precise to a quarter of a second.
    Time in which the process was held up, by a handler that blocks for instance, does not count, but for
    ``disconnect`` and ``drain``.

    Attributes:
        handshake: for the TLS handshake, from the accept on.
        header: for a whole head, from the accept or from the first byte of a later request on.
        body: for a whole body, from the end of its head on.
        idle: between two requests of a connection. Load balancers in front must close idle connections
            earlier (most do after 60 s), or they send requests into connections that this side just closes.
        write: for a client to take any byte of what is being sent to it.
        close: for a peer to read on to our WebSocket Close frame, or to answer it.
        linger: to read on, in all, after the last bytes of a connection were sent, until the peer ends it too.
            Closing earlier would destroy what is still on its way to the peer (RFC 9112, section 9.6).
        linger_idle: the same, while the peer neither sends a byte nor acknowledges a part of what is on its way.
            Acknowledgements are known on Linux only, and not over TLS; for the first there is twice the time.
        disconnect: for a disconnect handler when its application is cancelled, and for a connection's own
            handler when its client has left.
        drain: for the whole of a graceful end (``with_shutdown``); what is left by then is cancelled.

    Raises:
        ValueError: one is not a number above zero.
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
        for field in fields(self):
            value = getattr(self, field.name)
            if isnan(value) or value <= 0:
                raise ValueError(f"Timeouts({field.name}=...) must be a number of seconds above zero")
