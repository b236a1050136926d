"""What a connection asks of an application: routes, responses of handlers, error responses, and upgrades.

No exception of a handler passes this module, except for the one that tells that the client has left.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import trio

from .._failures import failure_of, only_cause
from .._hints import add_hint
from .._http._body import name_of_body
from .._http._errors import HttpError
from .._http._events import EventType
from .._http._method import Method
from .._http._request import Request
from .._http._response import Response
from .._http._response_checks import refuse_answer
from .._layers._cors import CORS_FIELDS
from .._naming import qualified_name
from .._quoting import quoted
from .._server._head import name_of
from .._server._request_body import BodyInterrupted
from .._type_variables import State
from .._websocket._errors import HandshakeError
from .._websocket._protocol._handshake import no_handshake
from .._websocket._stream._layer_gate import LayerGate
from .._websocket._stream._serve_upgrade import failed_part, serve_upgrade
from ._errors import ErrorHandler, default_error_handler
from ._layers import LayerChain
from ._routing import NotServed, Reason

if TYPE_CHECKING:
    from .._layers._layer import CallNext
    from .._server._interface import Handover
    from .._server._observers import Observers
    from ._layers import LayerEntry
    from ._route_table import Found, HttpCall
    from ._routing import Routing

logger = logging.getLogger("humphrey_trio.http")

_HANDLER = "handler"

# The fields of a response that has failed which the error response keeps: see ``fail``.
_KEPT_FIELDS = (*CORS_FIELDS, "Vary")


class AppService(Generic[State]):
    """The ``Service`` of a connection, for an App.

    Args:
        state: the second argument of the handlers.
        routing: the routes.
        observers: get the failures of handlers.
    """

    def __init__(self, state: State, routing: Routing, observers: Observers) -> None:
        self._state = state
        self._routing = routing
        self.find = routing.find  # a method around it would be another call for each request
        self._observers = observers
        self._error_handler: ErrorHandler = default_error_handler

    def use_error_handler(self, handler: ErrorHandler) -> None:
        """Use another error handler."""
        self._error_handler = handler

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
            report = partial(self._report, _HANDLER, match.route.source, request)
            failure = failure_of(exc, report)
            report(failure)
            return self._error_response(500, request, failure)

    @trio.lowlevel.disable_ki_protection
    async def settle(self, request: Request, match: Found[HttpCall], answer: Awaitable[Response]) -> Response:
        try:
            return await _settle(answer)
        except BaseException as exc:
            return await self._answer_failure(_HANDLER, match.route.source, request, exc)

    @trio.lowlevel.disable_ki_protection
    async def reject(self, request: Request, match: NotServed) -> Response:
        return await self._answer(request, partial(self._reject, match))

    def _answer(self, request: Request, endpoint: CallNext) -> Awaitable[Response]:
        """Call the innermost answer, in the layers of the request if it has any."""
        layers = self._routing.layers_for(request)
        return self._through(layers, request, endpoint) if layers else endpoint(request)

    def _through(
        self, layers: Sequence[LayerEntry[Any]], request: Request, endpoint: CallNext
    ) -> Coroutine[Any, Any, Response]:
        """Call the layers of a request, and the innermost answer in them."""
        return LayerChain(layers, self._answer_failed_layer).run(request, self._state, endpoint)

    async def _call(self, match: Found[HttpCall], request: Request) -> Response:
        """Call the handler, as the innermost answer."""
        try:
            return await _settle(match.route.handler(request, self._state))
        except BaseException as exc:
            return await self._answer_failure(_HANDLER, match.route.source, request, exc)

    async def _reject(self, match: NotServed, request: Request) -> Response:
        if match.reason is Reason.NOT_FOUND:
            return await self._error_response(404, request, None)
        if match.reason is Reason.OPTIONS:
            return Response(204, headers={"Allow": ", ".join(match.allow)})
        return await self._refuse_with(request, _refusal(request, match))

    async def _answer_failed_layer(self, request: Request, exception: BaseException, layer: object) -> Response:
        try:
            return await self._answer_failure("layer", layer, request, exception)
        finally:
            del exception  # as in _answer_failure

    async def _answer_failure(
        self, kind: str, source: object, request: Request, exception: BaseException
    ) -> Response:
        """Answer an exception of a function of the application.

        Called in the except clause: see ``failure_of``.

        Args:
            kind, source: what has raised it, such as ``"handler"``, and the function.
            request: the request.
            exception: the exception.
        """
        report = partial(self._report, kind, source, request)
        try:
            failure = failure_of(exception, report)
        finally:
            # As in failure_of. What the function holds, such as open files, must be freed when it ends.
            del exception
        return await self._answer_with(request, failure, report)

    async def _refuse_with(self, request: Request | None, error: HttpError | HandshakeError) -> Response:
        response = await self._error_response(error.status, request, error)
        for name, value in error.headers:
            response = response.with_header(name, value)
        return response

    async def fail(self, request: Request | None, failure: Exception, failed: Response) -> Response:
        report = partial(self._report_as, name_of_body(failed.body), request)
        response = await self._answer_with(request, failure, report)
        # The layers have returned, and do not run twice for a request. A page must be able to read the error.
        for name in _KEPT_FIELDS:
            for value in failed.headers.get_all(name):
                response = response.with_header(name, value)
        return response

    async def _answer_with(
        self, request: Request | None, failure: Exception, report: Callable[[Exception], object]
    ) -> Response:
        """Create the response for a failure, and report it unless it is a response itself.

        Raises:
            BodyInterrupted: the client has left, so it gets no response. It passes the layers, as the cancellation
                of a handler whose client has left does.
        """
        cause = only_cause(failure)
        if isinstance(cause, HttpError):
            return await self._refuse_with(request, cause)
        if isinstance(cause, BodyInterrupted):
            # A new one: the frames between here and the connection hold the old one, so it would be in a cycle.
            raise BodyInterrupted(str(cause))
        report(failure)
        return await self._error_response(500, request, failure)

    def _report(self, kind: str, source: object, request: Request | None, failure: Exception) -> None:
        """Log the failure of a function of the application, and report it to the monitor."""
        self._report_as(f"the {kind} {qualified_name(source)}", request, failure)

    def _report_as(self, name: str, request: Request | None, failure: Exception) -> None:
        told = f"{name} failed for {name_of(request)}"
        add_hint(failure)
        logger.error("%s", told, exc_info=failure)
        peer = None if request is None else request.client
        self._observers.report(EventType.HANDLER_FAILED, peer, told)

    @trio.lowlevel.disable_ki_protection
    async def refuse(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        if request is None:
            return await self._error_response(status, None, exception)
        return await self._answer(request, lambda seen: self._error_response(status, seen, exception))

    @trio.lowlevel.disable_ki_protection
    async def _error_response(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        """Call the error handler."""
        try:
            return await _settle(self._error_handler(status, request, exception))
        except BaseException as exc:
            report = partial(self._report, "error handler", self._error_handler, request)
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
        except HandshakeError as exc:
            return await self._refuse_with(request, exc)
        except BaseException as exc:
            return await self._answer_failure(*failed_part(handover.route), request, exc)


def _refusal(request: Request, match: NotServed) -> HttpError | HandshakeError:
    """Return what the error handler gets for a request that no handler gets."""
    match match.reason:
        case Reason.WEBSOCKETS_ONLY:
            return no_handshake(request)
        case Reason.METHOD_NOT_IMPLEMENTED:
            return HttpError(501, f"the method {quoted(request.method)} is not known here")
        case Reason.METHOD_NOT_ALLOWED:
            allow = {"Allow": ", ".join(match.allow)}
            methods = f"use {_one_of(match.allow)}"
            return HttpError(405, f"{quoted(request.method)} is not allowed here: {methods}", headers=allow)
        case _:
            return HttpError(400, "a value in the path is not percent-encoded UTF-8")


def _one_of(names: Sequence[str]) -> str:
    """Join names for a sentence. OPTIONS, which every path has, is left out."""
    chosen = [name for name in names if name != Method.OPTIONS] or [*names]
    *others, last = chosen
    return f"{', '.join(others)} or {last}" if others else last


async def _settle(answer: object) -> Response:
    """Return the response of a plain or an async handler."""
    if not isinstance(answer, Response) and inspect.isawaitable(answer):
        answer = await answer
    return answer if isinstance(answer, Response) else refuse_answer(answer)
