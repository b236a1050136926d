"""Checks of the functions that an application passes, at the time when it passes them.

What cannot be told then is checked when the function is called: see ``async_function``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from functools import partial, update_wrapper
from typing import Any, cast

from ._naming import qualified_name

# Wrappers that are followed. A function may wrap itself.
_MAX_WRAPPERS = 100
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_parameters(function: object, names: str, what: str) -> None:
    """Check that a function can be called with some positional arguments.

    A function whose signature is not known, such as many of C, passes.

    Args:
        function: the function.
        names: the arguments, for the message: ``"request, state"``.
        what: the function, for the message: ``"the handler of '/'"``.

    Raises:
        TypeError: it is not callable, or has other parameters. The message has those that it must have.
    """
    if not callable(function):
        raise TypeError(f"{what} must be a function, called with ({names}), not {_described(function)}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*names.split(", "))
    except TypeError as exc:
        raise TypeError(f"{what}, {qualified_name(function)}, is called with ({names}): {exc}") from None


def check_async(function: object, names: str, what: str) -> None:
    """Check that a function can be awaited with some positional arguments, as far as it can be told.

    A plain ``def`` is refused. A lambda, a closure and an object with ``__call__`` pass, because they may return
    the coroutine of another function.

    Args:
        function, names, what: as for ``check_parameters``.

    Raises:
        TypeError: as for ``check_parameters``, or it is not an async function.
    """
    check_parameters(function, names, what)
    if _is_async(function):
        return
    *_, inner = _wrapped_by(function)
    if inspect.isasyncgenfunction(inner):
        raise TypeError(f"{what}, {qualified_name(function)}, is an async generator: remove 'yield'")
    plain = getattr(inner, "__func__", inner)
    if inspect.isfunction(plain) and plain.__name__ != "<lambda>" and plain.__closure__ is None:
        raise TypeError(_must_be_async(function, names, what))


def async_function(
    function: Callable[..., Awaitable[Any]], names: str, what: str
) -> Callable[..., Awaitable[Any]]:
    """Check a function as ``check_async`` does, and check the results of one of which nothing can be told.

    Args:
        function, names, what: as for ``check_async``.

    Returns:
        The function itself, if it is async. Otherwise a function that calls it, and raises ``TypeError`` if the
        result cannot be awaited. ``qualified_name`` of it is that of the function.

    Raises:
        TypeError: as for ``check_async``.
    """
    check_async(function, names, what)
    if _is_async(function):
        return function

    async def checked(*args: object) -> Any:
        answer = cast("object", function(*args))
        if not inspect.isawaitable(answer):
            raise TypeError(_must_be_async(function, names, what))
        return await answer

    return update_wrapper(checked, function)


def _must_be_async(function: object, names: str, what: str) -> str:
    return f"{what}, {qualified_name(function)}, must be an async function: write async def with ({names})"


def _is_async(function: object) -> bool:
    """Whether a function or one that it wraps is a coroutine function, or an object with an async ``__call__``."""
    called = (getattr(one, "__call__", None) for one in _wrapped_by(function))  # noqa: B004
    return any(map(inspect.iscoroutinefunction, (*_wrapped_by(function), *called)))


def _wrapped_by(function: object) -> Iterator[object]:
    """Yield a function, and the functions in its partials and wrappers, the innermost last."""
    for _ in range(_MAX_WRAPPERS):
        yield function
        inner = function.func if isinstance(function, partial) else getattr(function, "__wrapped__", None)
        if inner is None:
            return
        function = cast("object", inner)


def required_parameters(function: object) -> tuple[str, ...]:
    """Return the names of the positional parameters without a default; none if they are not known."""
    if not callable(function):
        return ()
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(one.name for one in parameters if one.kind in _POSITIONAL and one.default is one.empty)


def close_coroutine(thing: object) -> None:
    """Close a coroutine that was passed in place of a function. Python would warn that it was never awaited."""
    if inspect.iscoroutine(thing):
        thing.close()


def _described(thing: object) -> str:
    """Describe what was passed in place of a function."""
    if inspect.iscoroutine(thing):
        close_coroutine(thing)
        return f"the coroutine {thing.__qualname__}(...): pass the function itself, without calling it"
    return type(thing).__name__
