"""Which task runs what when a client asks for a WebSocket.

The connection task always keeps the stream (``_connection_task``). A route that gives its stream away through a
hook returns at once and is awaited in place, which saves a task and a nursery for each stream. Any other route has
the stream while it runs, so it gets a task beside the connection task.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from ..._failures import failure_of
from ..._http._response import Response
from ..._quoting import printable
from .._errors import tells_the_end
from .._protocol._close_codes import INTERNAL_ERROR, NORMAL
from .._protocol._handshake import check_handshake
from ._connection_task import keep
from ._inbox import Reader
from ._opening import OpeningHandshake
from ._routes import HookRoute
from ._upgrade import Upgrade

if TYPE_CHECKING:
    from ..._server._connection import Handover
    from ._connection import WebsocketConnection
    from ._upgrade import WebsocketRoute

logger = logging.getLogger("humphrey_trio.websocket")


async def serve_upgrade(handover: Handover, state: object) -> Response | None:
    """Run a websocket route for a client, and keep its stream until it has ended.

    Returns:
        The response that refuses the upgrade, or None.

    Raises:
        HandshakeError: the handshake is malformed, or the route has refused it so.
        Exception: what the route raised before it accepted.
    """
    opening = OpeningHandshake(handover, check_handshake(handover.request))
    upgrade = Upgrade(opening)
    route: WebsocketRoute[Any] = handover.route
    if not isinstance(route, HookRoute):
        return await _serve_beside(route, upgrade, opening, state)
    refusal = await route(upgrade, state)
    connection = opening.accepted
    del upgrade, opening  # most streams are idle, and many: nothing of the handshake is kept for them
    if refusal is None and connection is not None:
        await keep(connection, handover)
    return refusal


async def _serve_beside(
    route: WebsocketRoute[Any], upgrade: Upgrade, opening: OpeningHandshake, state: object
) -> Response | None:
    """Run the route in a task of its own, and keep the stream in this one."""
    beside = _RouteTask(opening)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside.run, route, upgrade, state)
            await opening.wait_decided()
            if opening.accepted is not None:
                _start_reader(opening.accepted, nursery, beside)
                await keep(opening.accepted, opening.handover)
                beside.limit()
                return None
    finally:
        # Here neither the route nor the reader runs any more, even if the route was cancelled.
        if opening.accepted is not None and opening.accepted.inbox.reader is Reader.TASK:
            opening.accepted.inbox.drop_ahead()
    return beside.result()


def _start_reader(connection: WebsocketConnection, nursery: trio.Nursery, beside: _RouteTask) -> None:
    """Have a stream read ahead, unless it was given away to another reader."""
    if connection.inbox.reader is Reader.TASK:
        connection.lifecycle.when_over(beside.limit)
        # A route that may take any time to end need not know that its client has left.
        look_for_peer = connection.deadlines.timeouts.disconnect < inf
        nursery.start_soon(partial(connection.inbox.read_ahead, connection, look_for_peer=look_for_peer))


class _RouteTask:
    """A route that runs beside the connection task, and how it has ended."""

    __slots__ = ("_error", "_opening", "_refusal", "_scope")

    def __init__(self, opening: OpeningHandshake) -> None:
        self._opening = opening
        self._scope = trio.CancelScope()
        self._refusal: Response | None = None
        self._error: Exception | None = None

    async def run(self, route: WebsocketRoute[Any], upgrade: Upgrade, state: object) -> None:
        """Run the route; what it has raised stops here."""
        try:
            with self._scope:
                self._refusal = await route(upgrade, state)
        except BaseException as exc:
            self._error = failure_of(exc, self._report_cancelled)
        finally:
            self._opening.end()
        self._close(self._refusal, self._error)
        self._opening.decide()

    def limit(self) -> None:
        """Give the route ``Timeouts.disconnect`` to end: the client has left, this side may still linger."""
        seconds = self._opening.handover.server.timeouts.disconnect
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)

    def result(self) -> Response:
        """The response of a route that has not accepted; what it raised is raised here."""
        if self._error is not None:
            raise self._error
        if not isinstance(self._refusal, Response):
            raise TypeError(f"a websocket route that has neither accepted nor refused returned {self._refusal!r}")
        return self._refusal

    def _report_cancelled(self, failure: Exception) -> None:
        """Report what failed in a route that was cancelled, so that nothing can be answered."""
        if self._opening.accepted is not None:
            self._close(None, failure)
        else:
            path = printable(self._opening.handover.request.path)
            logger.error("the websocket route of %s failed", path, exc_info=failure)

    def _close(self, refusal: Response | None, error: Exception | None) -> None:
        """Close the stream of a route that has ended, and report what cannot be answered any more."""
        connection = self._opening.accepted
        if connection is None:
            return
        if refusal is not None:
            logger.error("the route of %r returned %r after it had accepted", connection, refusal)
        failed = error is not None and not (connection.closed and tells_the_end(error))
        if failed:
            logger.error("the handler of %r failed", connection, exc_info=error)
        if connection.inbox.reader is not Reader.TASK:
            return  # the stream was given away
        connection.inbox.drop_ahead()
        if failed:
            connection.close(INTERNAL_ERROR, "", cause="its handler failed", exception=error)
        else:
            connection.close(NORMAL, "", cause="its handler has ended")
