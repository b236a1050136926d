"""The tasks of an upgrade: which task runs the route, and which runs the stream.

The connection task always runs the stream (``_connection_task``). A hook route returns as soon as the stream is in
the hook, so the connection task awaits it. This saves a task and a nursery for each stream. Any other route uses
the stream while it runs, so it runs in a task of its own.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from ..._failures import failure_of
from ..._hints import add_hint
from ..._http._response import Response
from ..._naming import qualified_name
from ..._quoting import printable
from .._causes import HANDLER_ENDED, HANDLER_FAILED
from .._errors import tells_the_end
from .._protocol._close_codes import INTERNAL_ERROR, NORMAL
from .._protocol._handshake import check_handshake
from ._connection_task import run_connection
from ._handler_route import HandlerRoute
from ._hook_route import HookRoute
from ._inbox import Reader
from ._opening import OpeningHandshake
from ._upgrade import Upgrade

if TYPE_CHECKING:
    from ..._server._interface import Handover
    from ._connection import WebsocketConnection
    from ._upgrade import WebsocketRoute

logger = logging.getLogger("humphrey_trio.websocket")


async def serve_upgrade(handover: Handover, state: object) -> Response | None:
    """Run a websocket route for a client, and its stream until it has ended.

    Returns:
        The response that refuses the upgrade, or None.

    Raises:
        HandshakeError: the handshake is invalid, or the route raised it.
        Exception: any exception that the route raised before it accepted.
    """
    opening = OpeningHandshake(handover, check_handshake(handover.request))
    upgrade = Upgrade(opening)
    route: WebsocketRoute[Any] = handover.route
    if not isinstance(route, HookRoute):
        return await _serve_with_route_task(route, upgrade, opening, state)
    refusal = await route(upgrade, state)
    connection = opening.accepted
    del upgrade, opening  # frees the memory of the handshake while the stream is open
    if refusal is None and connection is not None:
        await run_connection(connection, handover)
    return refusal


async def _serve_with_route_task(
    route: WebsocketRoute[Any], upgrade: Upgrade, opening: OpeningHandshake, state: object
) -> Response | None:
    """Run the route in a task of its own, and the stream in this task."""
    route_task = _RouteTask(opening)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(route_task.run, route, upgrade, state)
            await opening.wait_decided()
            if opening.accepted is not None:
                _start_reader(opening.accepted, nursery, route_task)
                await run_connection(opening.accepted, opening.handover)
                route_task.limit()
                return None
    finally:
        # The route and the reader have ended here, even if the route was cancelled.
        if opening.accepted is not None and opening.accepted.inbox.reader is Reader.TASK:
            opening.accepted.inbox.drop_ahead()
    return route_task.result()


def _start_reader(connection: WebsocketConnection, nursery: trio.Nursery, route_task: _RouteTask) -> None:
    """Start to read ahead, unless the route has put the stream into a hook."""
    if connection.inbox.reader is Reader.TASK:
        connection.lifecycle.when_over(route_task.limit)
        # With an infinite timeout the route is never cancelled, so a disconnect need not be detected early.
        detect_disconnect = connection.deadlines.timeouts.disconnect < inf
        nursery.start_soon(partial(connection.inbox.read_ahead, connection, detect_disconnect=detect_disconnect))


def failed_part(route: object) -> tuple[str, object]:
    """Return what of a websocket route has failed before the 101, for log lines: its kind, and the function."""
    accept = getattr(route, "accept", None) if _is_ours(route) else None
    return ("websocket route", route) if accept is None else ("accept function", accept)


def _is_ours(route: object) -> bool:
    return isinstance(route, (HandlerRoute, HookRoute))


class _RouteTask:
    """A route that runs in a task of its own, and its result."""

    __slots__ = ("_error", "_opening", "_refusal", "_scope")

    def __init__(self, opening: OpeningHandshake) -> None:
        self._opening = opening
        self._scope = trio.CancelScope()
        self._refusal: Response | None = None
        self._error: Exception | None = None

    async def run(self, route: WebsocketRoute[Any], upgrade: Upgrade, state: object) -> None:
        """Run the route. Its exceptions are kept and not raised."""
        try:
            with self._scope:
                self._refusal = await route(upgrade, state)
        except BaseException as exc:
            # Kept and raised in the connection task. Here, the nursery would wrap it, and cancel the stream.
            self._error = failure_of(exc, self._report_cancelled)
        finally:
            # Also if cancelled: a task that the route has started elsewhere must not accept any more.
            self._opening.end()
        self._close(self._refusal, self._error)
        self._opening.decide()  # last: it wakes the connection task, which asks for ``result``

    def limit(self) -> None:
        """Cancel the route after ``Timeouts.disconnect`` seconds, because the client has left."""
        # Called when nothing more is read, and again when everything is written. The first call counts.
        seconds = self._opening.handover.server.timeouts.disconnect
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)

    def result(self) -> Response:
        """Return the response of a route that has not accepted, or raise its exception."""
        if self._error is not None:
            raise self._error
        if not isinstance(self._refusal, Response):
            raise TypeError(
                f"a websocket route must accept the upgrade or return a Response, not {self._refusal!r}"
            )
        return self._refusal

    def _report_cancelled(self, failure: Exception) -> None:
        """Log the exception of a route that was cancelled, because no response can be sent."""
        if self._opening.accepted is not None:
            self._close(None, failure)
        else:
            kind, function = failed_part(self._opening.handover.route)
            path = printable(self._opening.handover.request.path)
            logger.error("the %s %s failed for GET %s", kind, qualified_name(function), path, exc_info=failure)

    def _name(self) -> str:
        return qualified_name(self._opening.handover.route)

    def _close(self, refusal: Response | None, error: Exception | None) -> None:
        """Close the stream of a route that has ended, and log a late refusal or an exception."""
        connection = self._opening.accepted
        if connection is None:
            return
        if refusal is not None:
            logger.error("the route of %r returned %r after it had accepted", connection, refusal)
        failed = error is not None and not (connection.closed and tells_the_end(error))
        if error is not None and failed:
            add_hint(error)
            logger.error("the handler %s failed for %r", self._name(), connection, exc_info=error)
        if connection.inbox.reader is not Reader.TASK:
            return  # the stream was put into a hook
        connection.inbox.drop_ahead()
        if failed:
            connection.close(INTERNAL_ERROR, "", cause=HANDLER_FAILED, exception=error)
        else:
            connection.close(NORMAL, "", cause=HANDLER_ENDED)
