"""The graceful end (shutdown) of WebSockets: when it begins, and what it does to each stream.

A server that shuts down gracefully notifies each of its connections once. The ``ServerEnd`` of a stream defines
what the stream does then. An application that takes the stream sets its ``AppEnd``.

============================== ================================================================================
``Drain``                      how streams are closed: code, reason, spread over time, patience for handlers
``Timeouts.drain``             the time after which everything that remains is cancelled
``ConnectionControl.draining`` whether the server of a connection is shutting down, so that nothing new may begin
``ServerEnd``                  what one stream does when its server shuts down
``AppEnd``                     the graceful end of one ``AsyncWebsocketApp``
============================== ================================================================================
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


class Drainable(Protocol):
    """The part of a stream that a graceful end uses."""

    def drain(self, drain: Drain, seconds: float, /) -> None:
        """Close the stream after some seconds."""
        ...


class DrainableSession(Protocol):
    """The part of a session that a graceful end uses."""

    @property
    def closed(self) -> bool:
        """Whether the stream is closed."""
        ...

    def drain(self, drain: Drain, /) -> None:
        """Start no further handler, and close the stream after the running ones."""
        ...


class ServerEnd(Protocol):
    """Defines what a stream does when its server shuts down."""

    def on_server_end(self, stream: Drainable, drain: Drain, /) -> None:
        """Start the end of the stream. Called once. Must not raise.

        Args:
            stream: the stream.
            drain: how the server closes streams.
        """
        ...


class CloseInSpread:
    """The ``ServerEnd`` of a stream without an application, such as one of ``websocket_handler``."""

    __slots__ = ()

    def on_server_end(self, stream: Drainable, drain: Drain) -> None:
        """Close the stream at a random moment of ``drain.spread``, by a deadline. No task is needed."""
        stream.drain(drain, random.uniform(0, drain.spread))


CLOSE_IN_SPREAD = CloseInSpread()


class AppEnd:
    """The graceful end of one application, if it has one.

    Attributes:
        shutdown: the event that starts the end; None if the application has no graceful end.
        drain: how the streams are closed.
        begun: whether the end has begun, so that no further streams are taken.
        deadline: the time by which everything must have ended; infinity before the end has begun.
    """

    __slots__ = ("begun", "deadline", "drain", "shutdown")

    def __init__(self, shutdown: trio.Event | None = None, drain: Drain = Drain()) -> None:  # noqa: B008  (frozen)
        self.shutdown = shutdown
        self.drain = drain
        self.begun = False
        self.deadline = inf

    def on_server_end(self, stream: Drainable, drain: Drain) -> None:
        """Close the stream if the application is not ending.

        An application that is ending closes its streams itself, in its own order.
        """
        if self.shutdown is None or not self.shutdown.is_set():
            CLOSE_IN_SPREAD.on_server_end(stream, drain)

    def begin(self, timeouts: Timeouts) -> float:
        """Begin the end.

        Returns:
            The time of the trio clock at which to cancel what remains. It is never moved, so neither clients nor
            handlers can delay it.
        """
        # Two times: what remains is cancelled so early that its disconnect handlers end by ``deadline``.
        now = trio.current_time()
        self.begun = True
        self.deadline = now + timeouts.drain
        return now + hard_stop_after(timeouts, timeouts.disconnect)

    async def close_all(self, sessions: Sequence[DrainableSession]) -> None:
        """Close streams one by one, spread evenly over ``drain.spread`` seconds. Does not wait for their ends."""
        begun = trio.current_time()
        for number, session in enumerate(sessions):
            if not session.closed:
                # The moments do not depend on how long the previous steps took, so delays do not add up.
                await trio.sleep_until(begun + self.drain.spread * number / len(sessions))
            session.drain(self.drain)  # also for a closed stream, so that its session starts no further handler
