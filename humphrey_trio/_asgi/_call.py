"""The calls of an ASGI app, for requests and for WebSockets, each in a task of its own.

The tasks belong to the server and not to its connections. They are not cancelled when their clients leave, and may
run longer than their responses. No exception of the app leaves them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

import trio

from .._failures import failure_of

#: An ASGI 3 app: ``async (scope, receive, send)``.
AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[object]]


class Call(Protocol):
    """What an app is called for."""

    @property
    def scope(self) -> dict[str, Any]:
        """The scope."""
        ...

    async def receive(self) -> dict[str, Any]:
        """Return the next message for the app."""
        ...

    async def send(self, message: Any, /) -> None:
        """Take a message of the app."""
        ...

    def end(self, failure: Exception | None, /) -> None:
        """Note that the app has returned, or failed."""
        ...

    def cancel(self) -> None:
        """Note that the app was cancelled, because the server ends."""
        ...

    def report(self, failure: Exception, /) -> None:
        """Log a failure that does not become a response."""
        ...

    def drain(self) -> None:
        """Note that a graceful shutdown has begun."""
        ...


class Calls:
    """The calls of an app while it runs.

    Args:
        app: the app.
        name: the name of the tasks.
        nursery: the nursery of the tasks.
        state: what the lifespan has put into its state.

    Attributes:
        state: as the argument.
        cancelled: the number of calls that were cancelled.
    """

    __slots__ = ("_app", "_is_draining", "_name", "_nursery", "_running", "cancelled", "state")

    def __init__(self, app: AsgiApp, name: str, nursery: trio.Nursery, state: Mapping[str, Any]) -> None:
        self._app = app
        self._name = name
        self._nursery = nursery
        self._running: set[Call] = set()
        self._is_draining = False
        self.state = state
        self.cancelled = 0

    def start(self, call: Call) -> None:
        """Call the app in a new task."""
        self._running.add(call)
        self._nursery.start_soon(self._run, call, name=self._name)

    def begin_drain(self) -> None:
        """A graceful shutdown has begun: tell the calls."""
        self._is_draining = True
        for call in tuple(self._running):
            call.drain()

    def note_streaming(self, call: Call) -> None:
        """Note that the response of a call is streamed from now on."""
        if self._is_draining:
            call.drain()

    async def _run(self, call: Call) -> None:
        failure: Exception | None = None
        try:
            await self._app(call.scope, call.receive, call.send)
        except BaseException as exc:
            failure = self._failure_of(exc, call)
        finally:
            self._running.discard(call)
        try:
            call.end(failure)
        finally:
            del failure  # break the reference cycle between the exception and this frame

    def _failure_of(self, error: BaseException, call: Call) -> Exception:
        try:
            return failure_of(error, call.report)
        except BaseException:
            self.cancelled += 1
            call.cancel()
            raise
        finally:
            del error  # as in _run
