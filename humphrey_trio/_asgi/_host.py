"""An ASGI app that an ``App`` runs: its lifespan and its calls, beside the servers of the ``App``.

The app has one lifespan, however many servers the ``App`` has at a time. It is in the nursery of one of them,
which ends after the others. If that server is cancelled, the lifespan begins again in another one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING

import trio

from .._http._drain import CLEANUP_SECONDS, hard_stop_after
from .._trio_runs import check_run, current_run
from ._call import Calls
from ._lifespan import Lifespan

if TYPE_CHECKING:
    from .._http._limits import Timeouts
    from .._trio_runs import Run
    from ._call import AsgiApp
    from ._errors import LifespanError

logger = logging.getLogger("humphrey_trio.http")

_NOT_RUNNING = (
    "%s is not running: it is called while App.run, run_tls or serve_stream serves it. For a test, use"
    " humphrey_trio.testing.http_client"
)


class _Turn:
    """One server, which may have to run the lifespan.

    Attributes:
        scope: the scope of the server, and of everything that it runs.
        waiting: the scope in which the server waits until it has to run the lifespan.
        served: is set when its connections have ended.
        failure: why it has to end.
    """

    __slots__ = ("failure", "scope", "served", "waiting")

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.waiting = trio.CancelScope()
        self.served = trio.Event()
        self.failure: LifespanError | None = None

    def end(self) -> None:
        """The connections of the server have ended."""
        self.served.set()
        self.waiting.cancel()

    def fail(self, failure: LifespanError) -> None:
        """The lifespan has failed: end the server."""
        self.failure = failure
        self.scope.cancel()


class _Limits:
    """When the end of an app is over. It begins with the graceful shutdown, or with the end of the connections.

    Args:
        timeouts: the timeouts of the server.
        everything: the scope of the lifespan and of the calls.
    """

    __slots__ = ("_calls", "_calls_end", "_everything", "_timeouts")

    def __init__(self, timeouts: Timeouts, everything: trio.CancelScope) -> None:
        self._timeouts = timeouts
        self._everything = everything
        self._calls: trio.CancelScope | None = None
        self._calls_end = inf

    def begin(self) -> None:
        """Set the deadlines, unless they are set. The calls end with the connections, and before the lifespan."""
        if self._calls_end < inf:
            return
        now = trio.current_time()
        self._everything.deadline = now + self._timeouts.drain
        self._calls_end = now + hard_stop_after(self._timeouts, CLEANUP_SECONDS)
        if self._calls is not None:
            self._calls.deadline = self._calls_end

    def use_calls(self, calls: trio.CancelScope) -> None:
        """Set the scope of the calls."""
        self._calls = calls
        calls.deadline = self._calls_end


class AsgiHost:
    """One ASGI app that an ``App`` runs.

    Args:
        app: the app.
        name: the name of the app, for log lines.

    Attributes:
        app, name: as the arguments.
        calls: the calls; None while the app is not running.
    """

    __slots__ = ("_changed", "_lock", "_run", "_servers", "app", "calls", "name")

    def __init__(self, app: AsgiApp, name: str) -> None:
        self.app = app
        self.name = name
        self.calls: Calls | None = None
        self._servers = 0  # those that serve connections, or are going to
        self._changed = trio.Event()
        self._lock = trio.Lock()
        self._run: Run | None = None

    async def wait_calls(self) -> Calls:
        """Wait until the app runs.

        Raises:
            RuntimeError: no server runs it.
        """
        while self.calls is None:
            if not self._servers:
                await trio.lowlevel.checkpoint()  # a connection of a server that has ended is cancelled here
                raise RuntimeError(_NOT_RUNNING % self.name)
            await self._changed.wait()
        return self.calls

    async def run_around(
        self, timeouts: Timeouts, shutdown: trio.Event | None, serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Run the app while a server runs.

        Args:
            timeouts: the timeouts of the server.
            shutdown: begins the graceful end; None for never.
            serve: runs the server, and returns when its connections have ended. Called after the startup.

        Raises:
            LifespanError: the lifespan has failed. Then the server is cancelled.
            RuntimeError: the app runs in another run of trio at the same time.
        """
        if self._servers or self._lock.locked():
            check_run(self._run, f"the {self.name}", "run the App in one run of trio at a time")
        self._run = current_run()
        error: Exception | None = None
        async with trio.open_nursery() as nursery:
            turn = _Turn(nursery.cancel_scope)
            nursery.start_soon(self._wait_turn, turn, timeouts, shutdown)
            self._servers += 1
            try:
                await self.wait_calls()
                await serve()
            except Exception as exc:
                error = exc
                turn.scope.cancel()
            finally:
                self._servers -= 1
                self._note_change()
            turn.end()
        failure = error or turn.failure
        try:
            if failure is not None:
                raise failure
        finally:
            del error, failure  # break the reference cycle between the exception and this frame

    @trio.lowlevel.enable_ki_protection
    async def _wait_turn(self, turn: _Turn, timeouts: Timeouts, shutdown: trio.Event | None) -> None:
        """Run the lifespan, if no other server does. Otherwise wait until that one is cancelled."""
        with turn.waiting:
            await self._lock.acquire()
        if turn.waiting.cancelled_caught:
            return
        try:
            if not turn.served.is_set():
                await self._run_lifespan(turn, timeouts, shutdown)
        finally:
            self._lock.release()
        turn.scope.cancel()  # if the startup was not complete when the end had to be

    async def _run_lifespan(self, turn: _Turn, timeouts: Timeouts, shutdown: trio.Event | None) -> None:
        lifespan = Lifespan(self.app, self.name, timeouts.disconnect)
        async with trio.open_nursery() as nursery:
            limits = _Limits(timeouts, nursery.cancel_scope)
            nursery.start_soon(lifespan.run, turn.fail)
            if shutdown is not None:
                nursery.start_soon(self._watch, shutdown, limits)
            await lifespan.startup()
            if lifespan.failure is None:
                await self._run_calls(turn, lifespan, limits)
                await lifespan.shutdown()
            nursery.cancel_scope.cancel()
            return
        logger.error("the lifespan of %s was cancelled: see Timeouts(drain=...)", self.name)

    async def _run_calls(self, turn: _Turn, lifespan: Lifespan, limits: _Limits) -> None:
        """Run the calls until no server is left, and wait for those that run on."""
        async with trio.open_nursery() as nursery:
            limits.use_calls(nursery.cancel_scope)
            self.calls = calls = Calls(self.app, self.name, nursery, lifespan.state)
            self._note_change()
            try:
                await turn.served.wait()
                limits.begin()
                while self._servers:
                    await self._changed.wait()
            finally:
                self.calls = None
        if nursery.cancel_scope.cancelled_caught:
            logger.warning("%d calls of %s were cancelled: see Timeouts(drain=...)", calls.cancelled, self.name)

    async def _watch(self, shutdown: trio.Event, limits: _Limits) -> None:
        await shutdown.wait()
        limits.begin()
        if self.calls is not None:
            self.calls.begin_drain()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
