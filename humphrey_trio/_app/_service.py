"""What a connection asks of an application: routes, responses of handlers, error responses, and upgrades.

No exception of a handler passes this module.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import trio

from .._failures import failure_of
from .._http._request import Request
from .._http._response import Response
from .._quoting import printable
from .._state import State
from .._websocket._errors import HandshakeError
from .._websocket._protocol._handshake import no_handshake
from .._websocket._stream._serve_upgrade import serve_upgrade
from ._errors import ErrorHandler, default_error_handler

if TYPE_CHECKING:
    from .._server._connection import Handover
    from .._websocket._stream._upgrade import WebsocketRoute
    from ._routing import HttpRoute, Routing

logger = logging.getLogger("humphrey_trio.http")


class AppService(Generic[State]):
    """The ``Service`` of a connection, for an App.

    Args:
        state: the second argument of the handlers.
        routing: the routes.
    """

    def __init__(self, state: State, routing: Routing) -> None:
        self._state = state
        self._routing = routing
        self._error_handler: ErrorHandler = default_error_handler

    def use_error_handler(self, handler: ErrorHandler) -> None:
        """Use another error handler."""
        self._error_handler = handler

    def find(self, host: str, path: str) -> HttpRoute | None:
        return self._routing.find(host, path)

    def find_websocket(self, host: str, path: str) -> WebsocketRoute[Any] | None:
        return self._routing.find_websocket(host, path)

    @trio.lowlevel.disable_ki_protection
    def respond(self, request: Request, route: HttpRoute) -> Response | Awaitable[Response]:
        """Call the handler. Returns its response if it is a plain function, else an awaitable for ``settle``."""
        try:
            return route.call(request, self._state)
        except BaseException as exc:
            # Log it here, because the awaitable is dropped if a previous response cannot be sent.
            failure = _failure_of(exc, request)
            _log_failed_handler(request, failure)
            return self.refuse(500, request, failure)

    @trio.lowlevel.disable_ki_protection
    async def settle(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return await _settle(answer)
        except BaseException as exc:
            return await self._fail(request, _failure_of(exc, request))

    async def reject(self, host: str, request: Request) -> Response:
        """Create a 404; or a 426 or 405 if there is a websocket route (RFC 9110, sections 15.5.22 and 15.5.6)."""
        if self.find_websocket(host, request.path) is None:
            return await self.refuse(404, request, None)
        return await self._refuse_handshake(request, no_handshake(request))

    async def _refuse_handshake(self, request: Request, error: HandshakeError) -> Response:
        response = await self.refuse(error.status, request, error)
        for name, value in error.headers:
            response = response.with_header(name, value)
        return response

    async def _fail(self, request: Request, exception: Exception) -> Response:
        _log_failed_handler(request, exception)
        return await self.refuse(500, request, exception)

    @trio.lowlevel.disable_ki_protection
    async def refuse(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        try:
            return await _settle(self._error_handler(status, request, exception))
        except BaseException as exc:
            report = partial(_log_failed_error_handler, status)
            report(failure_of(exc, report))
            return default_error_handler(status, request, exception)

    async def upgrade(self, handover: Handover) -> Response | None:
        request = handover.request
        try:
            return await serve_upgrade(handover, self._state)
        except HandshakeError as exc:
            return await self._refuse_handshake(request, exc)
        except BaseException as exc:
            return await self._fail(request, _failure_of(exc, request))


def _log_failed_handler(request: Request, exception: Exception) -> None:
    method, path = printable(request.method), printable(request.path)
    logger.error("the handler of %s %s failed", method, path, exc_info=exception)


def _log_failed_error_handler(status: int, exception: Exception) -> None:
    logger.error("the error handler failed for a %d", status, exc_info=exception)


def _failure_of(error: BaseException, request: Request) -> Exception:
    """Return the failure of the handler of a request. See ``failure_of``."""
    return failure_of(error, partial(_log_failed_handler, request))


async def _settle(answer: object) -> Response:
    """Return the response of a plain or an async handler."""
    if not isinstance(answer, Response) and inspect.isawaitable(answer):
        answer = await answer
    if not isinstance(answer, Response):
        raise TypeError(f"a handler must return a Response, not {type(answer).__name__}")
    return answer
