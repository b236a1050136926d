"""The graceful end of WebSockets: what it is, when it begins, and what it does to each stream.

A server that ends gracefully tells each of its connections once. What a stream does then is its ``ServerEnd``,
which an application replaces by its own ``AppEnd`` when it takes the stream.

| word | meaning |
| --- | --- |
| ``Drain`` | how streams are closed: code, reason, over which time, how long a handler may still run |
| ``Timeouts.drain`` | when a graceful end cancels what is left |
| ``ConnectionControl.draining`` | the server of a connection ends; nothing new may be begun |
| ``AppEnd`` | the graceful end of one ``AsyncWebsocketApp`` |
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from ..._http._drain import Drain, hard_stop_after

if TYPE_CHECKING:
    from ..._http._limits import Timeouts

#: The cause in the record of a stream that is closed by a graceful end.
SERVER_ENDS = "the server ends"


class Drainable(Protocol):
    """A stream, as a graceful end sees it."""

    def drain(self, drain: Drain, seconds: float, /) -> None:
        """Be closed after so many seconds."""
        ...


class DrainableSession(Protocol):
    """What an application has for each of its streams."""

    @property
    def closed(self) -> bool:
        """Whether its stream is closed."""
        ...

    def drain(self, drain: Drain, /) -> None:
        """Begin no further handler, and close the stream behind those that run."""
        ...


class ServerEnd(Protocol):
    """What a stream does when the server that it came from ends."""

    def on_server_end(self, stream: Drainable, drain: Drain, /) -> None:
        """Called once, with the stream and the server's drain; it must not raise."""
        ...


class CloseInSpread:
    """The ``ServerEnd`` of a stream that belongs to no application, such as one of ``websocket_handler``."""

    __slots__ = ()

    def on_server_end(self, stream: Drainable, drain: Drain) -> None:
        """Close the stream at a random moment of the spread; no task is needed, it is one of its deadlines."""
        stream.drain(drain, random.uniform(0, drain.spread))


CLOSE_IN_SPREAD = CloseInSpread()


class AppEnd:
    """The graceful end of one application, if it has one.

    Attributes:
        shutdown: set, it begins the end; None if the application only ends when it is cancelled.
        drain: how the streams are closed.
        begun: whether it has begun, so that no stream is taken any more.
        deadline: when all has ended; infinity before it has begun.
    """

    __slots__ = ("begun", "deadline", "drain", "shutdown")

    def __init__(self, shutdown: trio.Event | None = None, drain: Drain = Drain()) -> None:  # noqa: B008  (frozen)
        self.shutdown = shutdown
        self.drain = drain
        self.begun = False
        self.deadline = inf

    def on_server_end(self, stream: Drainable, drain: Drain) -> None:
        """Do nothing if the application ends as well, since it closes its streams in its own order.

        An application that does not end, or ends later than the server, loses this stream as any other owner.
        """
        if self.shutdown is None or not self.shutdown.is_set():
            CLOSE_IN_SPREAD.on_server_end(stream, drain)

    def begin(self, timeouts: Timeouts) -> float:
        """Begin, now.

        Returns:
            When to cancel what is left, on trio's clock. It is set once and not moved, so that nothing that a
            client or a handler does can delay it.
        """
        now = trio.current_time()
        self.begun = True
        self.deadline = now + timeouts.drain
        return now + hard_stop_after(timeouts, timeouts.disconnect)

    async def close_all(self, sessions: Sequence[DrainableSession]) -> None:
        """Close streams one by one, spread evenly over ``drain.spread``; it does not wait for their ends."""
        begun = trio.current_time()
        for number, session in enumerate(sessions):
            if not session.closed:
                await trio.sleep_until(begun + self.drain.spread * number / len(sessions))
            session.drain(self.drain)  # the session of a closed stream begins no further handler
