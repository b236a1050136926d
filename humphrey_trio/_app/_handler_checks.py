"""Checks of the handlers of routes, and of layers, when they are added to an app.

What is often passed instead of them is in one table, with what to write.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import trio

from .._http._response import Response
from .._layers._compression import compression
from .._layers._cors import Cors, cors
from .._layers._json_errors import json_errors
from .._layers._origin_guard import cross_origin_guard
from .._signatures import async_function, check_async, check_parameters
from .._websocket._stream._handler_route import HandlerRoute
from .._websocket._stream._hook_route import HookRoute
from .._websocket._stream._upgrade import Upgrade, WebsocketRoute
from ._hosting import AdoptableApp

# What was passed, its name in the message, and what to write.
_INSTEAD: tuple[tuple[Any, str, str], ...] = (
    ((HandlerRoute, HookRoute), "a websocket route", "with_websocket_route(pattern, route)"),
    (AdoptableApp, "an AsyncWebsocketApp", "with_websocket_app(pattern, websocket_app)"),
    (
        (trio.MemorySendChannel, trio.MemoryReceiveChannel),
        "a hook",
        "with_websocket_route(pattern, async_websocket_handler(websocket_app.connect_hook()))",
    ),
    (Response, "a Response", "a function that returns it, such as lambda request: Response(200, 'text')"),
    (Cors, "a Cors", "with_cors(Cors(...)), or with_layer(cors(Cors(...)), path='/api/*')"),
)
# The methods that add a route, by the arguments of its handler.
_METHODS = {
    "request": "with_stateless_route",
    "request, state": "with_route",
    "request, state, pattern": "with_path_aware_route",
}
# Functions that make a layer, and are not one.
_FACTORIES: dict[str, object] = {
    "cors": cors,
    "compression": compression,
    "cross_origin_guard": cross_origin_guard,
    "json_errors": json_errors,
}
# The types of streams, by the names in annotations, and what a function that takes one is.
_STREAMS = {
    "WebsocketStream": "with_websocket_route(pattern, websocket_handler(function))",
    "AsyncStream": "AsyncWebsocketApp.new_unlinked().with_message_handler(function), and with_websocket_app",
}


def check_handler(handler: object, names: str, pattern: object) -> None:
    """Check the handler of an HTTP route.

    Args:
        handler: the handler.
        names: the names of its arguments, such as ``"request, state"``.
        pattern: the pattern of the route, for the message.

    Raises:
        TypeError: it is something else, or has other parameters.
    """
    what = f"the handler of {pattern!r}"
    _refuse_others(handler, what)
    try:
        check_parameters(handler, names, what)
    except TypeError as exc:
        raise TypeError(f"{exc}{_other_route(handler)}") from None


def _other_route(handler: object) -> str:
    """Return which method adds a handler with these parameters."""
    if callable(handler):
        for names, add in _METHODS.items():
            with suppress(TypeError):
                check_parameters(handler, names, "")
                return f". Add it by {add}, which calls it with ({names})"
    return ""


def checked_route(
    handler: Callable[[Upgrade, Any], Awaitable[Response | None]], pattern: object
) -> WebsocketRoute[Any]:
    """Check the handler of a websocket route.

    Args:
        handler: the handler.
        pattern: the pattern of the route, for the message.

    Returns:
        What to call: the handler, or a function that checks its result.

    Raises:
        TypeError: it is something else, is not async, or has other parameters.
    """
    if isinstance(handler, (HandlerRoute, HookRoute)):
        return cast("WebsocketRoute[Any]", handler)
    what = f"the handler of the websocket route {pattern!r}"
    _refuse_others(handler, what)
    route = async_function(handler, "upgrade, state", what)
    _refuse_streams(handler, what)
    return route


def check_layer(layer: object) -> None:
    """Check a layer.

    Raises:
        TypeError: it is something else, is not async, or has other parameters.
    """
    if not callable(layer):
        _refuse_others(layer, "the layer")
        raise TypeError(
            f"{layer!r} is not a layer: write an async function, async def layer(request, state, call_next)"
        )
    for name, factory in _FACTORIES.items():
        if layer is factory:
            raise TypeError(f"{name} makes a layer: write with_layer({name}(...))")
    check_async(layer, "request, state, call_next", "the layer")


def _refuse_others(handler: object, what: str) -> None:
    for kind, name, advice in _INSTEAD:
        if isinstance(handler, kind):
            raise TypeError(f"{what} is {name}: write {advice}")


def _refuse_streams(handler: Callable[..., object], what: str) -> None:
    """Refuse a function whose first parameter is a stream, by its annotation."""
    try:
        parameters = [*inspect.signature(handler).parameters.values()]
    except (TypeError, ValueError):
        return
    annotation = cast("object", parameters[0].annotation) if parameters else ""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    for name, advice in _STREAMS.items():
        if name in text:
            raise TypeError(f"{what} gets an Upgrade, and not the {name} of this function: write {advice}")
