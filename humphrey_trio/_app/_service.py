"""What a connection asks of an application: routes, responses of handlers, error responses, and upgrades.

No exception of a handler passes this module.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import trio

from .._failures import failure_of, only_cause
from .._http._errors import HttpError
from .._http._request import Request
from .._http._response import Response
from .._quoting import quoted
from .._server._head import name_of
from .._server._request_body import BodyInterrupted
from .._type_variables import State
from .._websocket._errors import HandshakeError
from .._websocket._protocol._handshake import no_handshake
from .._websocket._stream._gate import LayerGate
from .._websocket._stream._serve_upgrade import serve_upgrade
from ._errors import ErrorHandler, default_error_handler
from ._layers import LayerChain
from ._routing import NotServed, Reason

if TYPE_CHECKING:
    from .._layers._layer import CallNext
    from .._server._interface import Handover
    from ._layers import LayerEntry
    from ._route_table import Found, HttpCall
    from ._routing import Outcome, Routing

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

    def find(self, host: str, method: str, path: str, wants_websocket: bool) -> Outcome:
        return self._routing.find(host, method, path, wants_websocket)

    @trio.lowlevel.disable_ki_protection
    def respond(self, request: Request, match: Found[HttpCall]) -> Response | Awaitable[Response]:
        """Call the handler. Returns its response if it is a plain function, else an awaitable for ``settle``."""
        layers = self._routing.layers_for(request)
        if layers:
            return self._through(layers, request, partial(self._call, match))
        try:
            return match.route.handler(request, self._state)
        except HttpError as exc:
            return self._refuse_with(request, exc)
        except BaseException as exc:
            # Log it here, because the awaitable is dropped if a previous response cannot be sent.
            failure = _failure_of(exc, request)
            _log_failed_handler(request, failure)
            return self._error_response(500, request, failure)

    @trio.lowlevel.disable_ki_protection
    async def settle(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return await _settle(answer)
        except BaseException as exc:
            return await self._answer_failure(request, exc)

    @trio.lowlevel.disable_ki_protection
    async def reject(self, request: Request, match: NotServed) -> Response:
        endpoint = partial(self._reject, match)
        layers = self._routing.layers_for(request)
        return await (self._through(layers, request, endpoint) if layers else endpoint(request))

    def _through(
        self, layers: Sequence[LayerEntry[Any]], request: Request, endpoint: CallNext
    ) -> Coroutine[Any, Any, Response]:
        """Call the layers of a request, and the innermost answer in them."""
        return LayerChain(layers, self._answer_failure).run(request, self._state, endpoint)

    async def _call(self, match: Found[HttpCall], request: Request) -> Response:
        """Call the handler, as the innermost answer."""
        try:
            return await _settle(match.route.handler(request, self._state))
        except BaseException as exc:
            return await self._answer_failure(request, exc)

    async def _reject(self, match: NotServed, request: Request) -> Response:
        if match.reason is Reason.NOT_FOUND:
            return await self._error_response(404, request, None)
        if match.reason is Reason.OPTIONS:
            return Response(204, headers={"Allow": ", ".join(match.allow)})
        return await self._refuse_with(request, _refusal(request, match))

    async def _answer_failure(self, request: Request, exception: BaseException) -> Response:
        """Answer an exception of a handler or a layer. Called in the except clause: see ``failure_of``."""
        return await self.fail(request, _failure_of(exception, request))

    async def _refuse_with(self, request: Request | None, error: HttpError | HandshakeError) -> Response:
        response = await self._error_response(error.status, request, error)
        for name, value in error.headers:
            response = response.with_header(name, value)
        return response

    async def fail(self, request: Request | None, failure: Exception) -> Response:
        cause = only_cause(failure)
        if isinstance(cause, HttpError):
            return await self._refuse_with(request, cause)
        if isinstance(cause, BodyInterrupted):
            return await self._error_response(400, request, cause)  # not logged: the client has left
        _log_failed_handler(request, failure)
        return await self._error_response(500, request, failure)

    @trio.lowlevel.disable_ki_protection
    async def refuse(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        layers = () if request is None else self._routing.layers_for(request)
        if request is None or not layers:
            return await self._error_response(status, request, exception)
        return await self._through(layers, request, lambda seen: self._error_response(status, seen, exception))

    @trio.lowlevel.disable_ki_protection
    async def _error_response(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        """Call the error handler."""
        try:
            return await _settle(self._error_handler(status, request, exception))
        except BaseException as exc:
            report = partial(_log_failed_error_handler, status)
            report(failure_of(exc, report))
            return default_error_handler(status, request, exception)

    async def upgrade(self, handover: Handover) -> Response | None:
        layers = self._routing.layers_for(handover.request)
        if not layers:
            return await self._upgrade(handover)
        return await LayerGate(partial(self._run_layers, layers, handover.request)).serve(handover, self._upgrade)

    @trio.lowlevel.disable_ki_protection
    async def _run_layers(
        self, layers: Sequence[LayerEntry[Any]], request: Request, endpoint: CallNext
    ) -> Response:
        return await self._through(layers, request, endpoint)

    async def _upgrade(self, handover: Handover) -> Response | None:
        request = handover.request
        try:
            return await serve_upgrade(handover, self._state)
        except (HandshakeError, HttpError) as exc:
            return await self._refuse_with(request, exc)
        except BaseException as exc:
            return await self.fail(request, _failure_of(exc, request))


def _refusal(request: Request, match: NotServed) -> HttpError | HandshakeError:
    """Return what the error handler gets for a request that no handler gets."""
    match match.reason:
        case Reason.WEBSOCKETS_ONLY:
            return no_handshake(request)
        case Reason.METHOD_NOT_IMPLEMENTED:
            return HttpError(501, f"the method {quoted(request.method)} is not known here")
        case Reason.METHOD_NOT_ALLOWED:
            allow = {"Allow": ", ".join(match.allow)}
            return HttpError(405, f"{quoted(request.method)} is not allowed here", headers=allow)
        case _:
            return HttpError(400, "a value in the path is not percent-encoded UTF-8")


def _log_failed_handler(request: Request | None, exception: Exception) -> None:
    logger.error("the handler of %s failed", name_of(request), exc_info=exception)


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
