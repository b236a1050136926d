"""Checks of the handlers of routes, and of layers, when they are added to an app.

What is often passed instead of them is in one table, with what to write.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn, cast

import trio

from .._http._response import Response
from .._layers._compression import compression
from .._layers._cors import Cors, cors
from .._layers._json_errors import json_errors
from .._layers._origin_guard import cross_origin_guard
from .._signatures import async_function, check_async, check_parameters, required_parameters
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
_ASGI = ("scope", "receive", "send")
# What was passed, by its parameters: its name in the message, and what to write.
_APPS: dict[tuple[str, ...], tuple[str, str]] = {
    _ASGI: ("an ASGI app", "write with_asgi('/path', app)"),
    ("environ", "start_response"): (
        "a WSGI app",
        "only ASGI apps are run, with_asgi('/path', app). Run it in a WSGI server",
    ),
}
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
        raise TypeError(f"{exc}{_path_params(handler, names, pattern) or _other_route(handler)}") from None


def _path_params(handler: object, names: str, pattern: object) -> str:
    """Return how to get the parameters of the pattern, if the handler has parameters of their names."""
    gets = names.split(", ")
    calls = [
        f"request.path_param({name!r})"
        for name in required_parameters(handler)
        if name not in gets and (f"{{{name}}}" in str(pattern) or f"{{{name}*}}" in str(pattern))
    ]
    return f". Write {' and '.join(calls)} in the handler, which is called with ({names})" if calls else ""


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
    if isinstance(layer, type):
        _refuse_class(layer)
    _refuse_others(layer, "the layer")
    check_async(layer, "request, state, call_next", "the layer")


def check_asgi_app(app: object) -> None:
    """Check an ASGI app.

    Raises:
        TypeError: it is something else, such as a WSGI app, has other parameters, or is a plain ``def``.
    """
    if required_parameters(app) != _ASGI:
        _refuse_apps(app, "the ASGI app")
    check_async(app, ", ".join(_ASGI), "an ASGI app")


def _refuse_others(handler: object, what: str) -> None:
    for kind, name, advice in _INSTEAD:
        if isinstance(handler, kind):
            raise TypeError(f"{what} is {name}: write {advice}")
    _refuse_apps(handler, what)


def _refuse_apps(thing: object, what: str) -> None:
    found = _APPS.get(required_parameters(thing))
    if found is not None:
        raise TypeError(f"{what} is {found[0]}: {found[1]}")


def _refuse_class(layer: type) -> NoReturn:
    """Refuse a class in place of a layer, such as a middleware of Starlette."""
    name = layer.__name__
    if required_parameters(getattr(layer, "__call__", None))[1:] == _ASGI:  # noqa: B004
        raise TypeError(
            f"the layer is {name}, a middleware of ASGI apps: write with_asgi('/path', {name}(app)), or a layer,"
            " async def layer(request, state, call_next). with_cors and compression() are ready-made"
        )
    raise TypeError(f"the layer is the class {name}: write an async function, or create an object, {name}(...)")


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
