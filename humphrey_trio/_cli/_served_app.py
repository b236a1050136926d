"""The HTTP app that serves what the command line names: an app itself, another kind of app, or a factory."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any, cast

from .._app._app import App
from .._app._routes import SubApp
from .._asgi._call import AsgiApp
from .._websocket._app._async_app import AsyncWebsocketApp, http_app_of
from .._websocket._errors import LinkError
from ._errors import UsageError

_KINDS = (
    "an App, an AsyncWebsocketApp, an ASGI app, or a factory of one: a callable without required"
    " parameters, plain or async, or one that returns an async context manager"
)


@asynccontextmanager
async def open_app(found: object, name: str) -> AsyncGenerator[App[Any]]:
    """Make the HTTP app of an object. A factory is called, and its context manager is open during the block.

    Args:
        found: the object that was loaded.
        name: ``module:name``, for errors.

    Raises:
        UsageError: the object is none of these, or the factory returns nothing of these.
    """
    if callable(found) and _is_factory(found):
        made = found()
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, AbstractAsyncContextManager):
            async with cast("AbstractAsyncContextManager[object]", made) as inside:
                yield _app_of(inside, f"what the context manager of {name} returns")
        else:
            yield _app_of(made, f"what {name}() returns")
    else:
        yield _app_of(found, name)


def _app_of(found: object, what: str) -> App[Any]:
    if isinstance(found, App):
        return found  # pyright: ignore[reportUnknownVariableType]
    if isinstance(found, AsyncWebsocketApp):
        try:
            return http_app_of(found)  # pyright: ignore[reportUnknownArgumentType]
        except LinkError as exc:
            raise UsageError(f"{what} cannot be served alone: {exc}") from None
    if _is_asgi(found):
        return App().with_asgi("*", cast("AsgiApp", found))
    raise UsageError(f"{what} cannot be served: it is {_described(found)}, and must be {_KINDS}{_hint(found)}")


def _is_factory(found: Callable[..., object]) -> bool:
    # The classes themselves can be called, but what they return has no routes.
    return found is not App and found is not AsyncWebsocketApp and _required(found) == 0


def _is_asgi(found: object) -> bool:
    """Whether an object is called with a scope and two functions, as an ASGI app is."""
    return callable(found) and not isinstance(found, type) and _required(found) == 3


def _required(function: Callable[..., object]) -> int | None:
    """Return how many arguments a call needs; None if it is not known, or if they must be named."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    needed = [
        parameter.kind
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return None if inspect.Parameter.KEYWORD_ONLY in needed else len(needed)


def _described(found: object) -> str:
    if found is None:
        return "None"
    if isinstance(found, type):
        return f"the class {found.__name__}"
    if callable(found) and (required := _required(found)):
        return f"a callable with {required} required parameter{'s' if required > 1 else ''}"
    return f"of type {type(found).__name__}"


def _hint(found: object) -> str:
    if inspect.isasyncgen(found):
        return "; decorate the function with contextlib.asynccontextmanager"
    if isinstance(found, AbstractContextManager):
        return "; write async def, and decorate it with contextlib.asynccontextmanager"
    if isinstance(found, type):
        return "; name the object, not its class"
    if isinstance(found, SubApp):
        return "; add its routes to an App: App().with_default_subapp(subapp)"
    return ""
