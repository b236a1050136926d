"""The lifespan of an ASGI app (Lifespan Protocol, version 2.0): one call of the app, in one task.

An app that raises or returns before it has sent the result of its startup has no lifespan. This is no error.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from .._failures import failure_of
from .._quoting import printable
from ._errors import LifespanError, MessageError
from ._fields import read_text
from ._order import LIFESPAN_ORDER, LifespanPhase, next_phase
from ._scope import lifespan_scope

if TYPE_CHECKING:
    from ._call import AsgiApp

logger = logging.getLogger("humphrey_trio.http")

_STARTUP, _RUNNING, _SHUTDOWN, _END = LifespanPhase


class Lifespan:
    """One lifespan.

    Args:
        app: the app.
        name: the name of the app, for log lines and errors.
        grace: seconds that the app has to return after it has sent that it has failed, or is shut down.

    Attributes:
        state: what the app has put into ``scope["state"]``.
        failure: why the lifespan has failed; None if it has not.
    """

    __slots__ = (
        "_app",
        "_ended",
        "_grace",
        "_has_startup",
        "_message",
        "_name",
        "_phase",
        "_scope",
        "_started",
        "_stopping",
        "failure",
        "state",
    )

    def __init__(self, app: AsgiApp, name: str, grace: float) -> None:
        self._app = app
        self._name = name
        self._grace = grace
        self._phase = _STARTUP
        self._has_startup = False  # whether the app has received lifespan.startup
        self._message: str | None = None  # what the app has sent about its failure
        self._scope = trio.CancelScope()
        self._started = trio.Event()  # the startup is complete, or the app has ended
        self._stopping = trio.Event()
        self._ended = trio.Event()
        self.state: dict[str, Any] = {}
        self.failure: LifespanError | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, on_failure: Callable[[LifespanError], None]) -> None:
        """Call the app.

        Args:
            on_failure: called at the end with the failure, if there is one.
        """
        failure: Exception | None = None
        try:
            with self._scope:
                await _run(self._app, lifespan_scope(self.state), self._receive, self._send)
        except BaseException as exc:
            failure = failure_of(exc, self._report)
        try:
            self.failure = self._failure_for(failure)
        finally:
            del failure  # break the reference cycle between the exception and this frame
        self._ended.set()
        self._started.set()
        if self.failure is not None:
            on_failure(self.failure)

    async def startup(self) -> None:
        """Wait until the startup is complete, or has failed."""
        await self._started.wait()

    async def shutdown(self) -> None:
        """Tell the app to shut down, and wait until it has ended."""
        self._stopping.set()
        await self._ended.wait()

    # For the app...

    @trio.lowlevel.enable_ki_protection
    async def _receive(self) -> dict[str, Any]:
        if not self._has_startup:
            self._has_startup = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        if self._phase in (_SHUTDOWN, _END):  # it has got everything, and must return
            await trio.sleep_forever()
        self._phase = _SHUTDOWN
        return {"type": "lifespan.shutdown"}

    @trio.lowlevel.enable_ki_protection
    async def _send(self, message: Any) -> None:
        kind, phase = next_phase(LIFESPAN_ORDER, self._phase, message)
        if kind.endswith(".failed"):
            self._message = f"its {kind.split('.')[1]} has failed: {_last_line(read_text(message, 'message'))}"
        self._phase = phase
        if phase is _RUNNING:
            self._started.set()
        else:
            self._scope.deadline = trio.current_time() + self._grace

    # Its end...

    def _failure_for(self, failure: Exception | None) -> LifespanError | None:
        """Return the failure of the lifespan; None if it has not failed.

        Args:
            failure: the exception of the app; None if it has returned.
        """
        if self._message is not None:
            return self._error(self._message, failure)
        if failure is None:
            return None
        if self._phase is not _STARTUP:
            return self._error("it has raised an exception", failure)
        if isinstance(failure, MessageError):
            return self._error(str(failure), failure)
        logger.info("%s has no lifespan: it has raised %r", self._name, failure)
        return None

    def _error(self, why: str, cause: Exception | None) -> LifespanError:
        error = LifespanError(f"the lifespan of {self._name} has failed: {why}")
        error.__cause__ = cause
        return error

    def _report(self, failure: Exception) -> None:
        """Log a failure of a lifespan that is cancelled."""
        logger.error("the lifespan of %s failed", self._name, exc_info=failure)


def _last_line(message: str) -> str:
    """Return the last line of a message, which is often a traceback. That of a group has a frame around it."""
    lines = [text for line in message.splitlines() if (text := line.strip(" |+-"))]
    return printable(lines[-1]) if lines else "it has given no reason"


@trio.lowlevel.disable_ki_protection
async def _run(
    app: AsgiApp,
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    await app(scope, receive, send)
