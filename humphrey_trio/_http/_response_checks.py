"""Explain wrong arguments of responses: what was given, and what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from operator import index
from types import CodeType
from typing import Any, NoReturn, TypeGuard, cast


def wrong_arguments(status: object, content: object) -> TypeError:
    """Return the error for the first two arguments of ``Response``, one of which is wrong."""
    given = [status] if content == b"" else [status, content]
    names = ", ".join(type(argument).__name__ for argument in given)
    return TypeError(
        f"a Response takes an int status, then a str or bytes: not Response({names}){_advice(status, content)}"
    )


def _advice(status: object, content: object) -> str:
    if isinstance(status, (dict, list)):
        return ". For JSON, write Response.json(value)"
    if isinstance(status, (str, bytes)):
        if isinstance(content, int):
            return ". The status is first: Response(200, 'text')"
        return ". For a text, write Response(200, text)"
    if isinstance(content, (str, bytes)):
        return ""  # it is right, and the status is wrong
    if isinstance(content, (dict, list, tuple)):
        return ". For JSON, write Response.json(value)"
    if content is None:
        return ". Without a body, write Response.empty(status)"
    if inspect.iscoroutine(content):
        content.close()  # avoids a RuntimeWarning that it was never awaited
        return f". Await it: write await {content.__qualname__}(...)"
    if inspect.ismethod(content) and not _produces(content):
        return f". Call the method: write {content.__name__}()"
    if callable(content) or isinstance(content, (AsyncIterable, Iterable)):
        return ". For a body that is produced while it is sent, write Response.stream(body)"
    return ""


def _produces(function: object) -> bool:
    """Whether a function may be the producer of a body, or the function of an async iterable."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def refuse_answer(answer: object) -> NoReturn:
    """Refuse what a handler has returned in place of a ``Response``.

    Raises:
        TypeError: always. The message says what to return.
    """
    if inspect.iscoroutine(answer):
        answer.close()  # avoids a RuntimeWarning that it was never awaited
    name = "None" if answer is None else type(answer).__name__
    raise TypeError(f"a handler must return a Response, not {name}{_instead_of(answer)}")


def _instead_of(answer: object) -> str:
    if answer is None:
        return ": add a return, such as 'return Response.empty(204)'"
    if isinstance(answer, (str, bytes)):
        return ": write return Response(200, text)"
    if isinstance(answer, BaseException):
        return ": raise it, write 'raise' instead of 'return'"
    if isinstance(answer, tuple):
        return ": write return Response(status, text, headers)"
    if isinstance(answer, (dict, list)):
        return ": write return Response.json(value)"
    if inspect.isawaitable(answer):
        return ": await it"
    if isinstance(answer, (AsyncIterable, Iterable)):
        return ": write return Response.stream(body)"
    return ""


def check_length(length: object) -> None:
    """Check the length of a streamed body.

    Raises:
        TypeError: it is neither an int nor None.
        ValueError: it is negative.
    """
    if length is None:
        return
    try:
        is_negative = index(cast("int", length)) < 0
    except TypeError:
        name = type(length).__name__
        raise TypeError(f"the length of a body is an int of bytes, or None, not {name}") from None
    if is_negative:
        raise ValueError(f"the length of a body must not be negative: {length}")


def check_producer(produce: object, constructor: str, argument: str) -> None:
    """Check a coroutine function with one parameter, without calling it.

    Args:
        produce: what was given.
        constructor: the name of the method of ``Response``, ``"stream"`` or ``"events"``.
        argument: the name of the parameter of the function.

    Raises:
        TypeError: it cannot be called with one argument, or is another kind of function.
    """
    problem = _problem(produce, argument, may_iterate=constructor == "stream")
    if problem:
        raise TypeError(
            f"Response.{constructor} takes a coroutine function, async def produce({argument}): {problem}"
        )


def _problem(produce: object, argument: str, *, may_iterate: bool) -> str:
    """Return why this is not a producer; empty if it is one."""
    if inspect.iscoroutine(produce):
        produce.close()  # avoids a RuntimeWarning that it was never awaited
        return "pass the function itself, without calling it"
    if not _is_callable(produce):
        return f"{type(produce).__name__} is not one" + (", and not an async iterable" if may_iterate else "")
    if inspect.isasyncgenfunction(produce):
        return "call this async generator function" if may_iterate else f"await {argument}.send instead of yield"
    if inspect.isgeneratorfunction(produce):
        return "this is a plain generator function"
    return "" if _takes_one(produce) else f"this one cannot be called with {argument} alone"


def _is_callable(thing: object) -> TypeGuard[Callable[..., Any]]:
    return callable(thing)


def _parameters(code: CodeType) -> tuple[int, int]:
    """Return the numbers of positional and of keyword-only parameters."""
    return code.co_argcount, code.co_kwonlyargcount


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument."""
    # The usual case is recognised quickly: inspect.signature takes 10 us.
    if inspect.isfunction(function) and _parameters(function.__code__) == (1, 0):
        return True
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it is not written in Python, and has no signature
        pass
    return True
