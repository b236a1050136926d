"""Separate the failures of a handler from cancellations.

A failure is logged and ends at the handler. A cancellation propagates.

A handler can also raise a ``trio.Cancelled`` that belongs to another task, such as one stored in a shared future
or a cache. A nursery of this library would mistake it for its own cancellation and end without an error, so it is
converted to a failure of the handler.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, cast

import trio

_FOREIGN = "the handler raised a trio.Cancelled of another task: no scope around the handler is cancelled"


def failure_of(error: BaseException, report: Callable[[Exception], object]) -> Exception:
    """Return the failure in an exception of a handler, and re-raise everything else.

    Call it in the except clause of the task that ran the handler, inside the library's innermost cancel scope.
    Only there can a cancellation of this task be distinguished from a foreign ``Cancelled``.

    Args:
        error: the exception of the handler. It may be a group, from a nursery of the handler, that contains both
            failures and a cancellation.
        report: called with each failure of a group whose other exceptions are re-raised.

    Returns:
        The exception, if all of it is a failure. A foreign ``Cancelled`` becomes the cause of a
        ``RuntimeError``.

    Raises:
        BaseException: a cancellation of this task, KeyboardInterrupt, SystemExit, or a group of these.
    """
    if isinstance(error, Exception):
        return error
    failures, passing = _divide(error)
    try:
        if passing is None:
            return failures[0] if len(failures) == 1 else ExceptionGroup("the handler failed", failures)
        for failure in failures:
            report(failure)
        raise passing
    finally:
        del error, failures, passing  # break the reference cycle between the exception and this frame


def only_cause(failure: Exception) -> Exception:
    """Return the exception in a group that contains exactly one, and any other failure as it is.

    A nursery puts every exception that leaves it into a group. So an exception that says how to answer the client
    is found in the group as well.
    """
    cause: Exception = failure
    while isinstance(cause, ExceptionGroup):
        inner = cast("ExceptionGroup[Exception]", cause).exceptions
        if len(inner) != 1:
            return failure
        cause = inner[0]
    return cause


def _divide(error: BaseException) -> tuple[list[Exception], BaseException | None]:
    """Split an exception into failures and the rest, which must propagate."""
    failed, rest = _split(error, Exception)
    failures = [] if failed is None else [failed]
    cancelled, others = _split(rest, trio.Cancelled)
    # trio reports a deadline of -inf exactly for tasks that are cancelled.
    if cancelled is None or trio.current_effective_deadline() == -inf:
        return failures, rest
    foreign = RuntimeError(_FOREIGN)
    foreign.__cause__ = cancelled
    return [*failures, foreign], others


def _split(error: BaseException | None, kind: type[BaseException]) -> tuple[Any, Any]:
    """Like ``BaseExceptionGroup.split``, but also accept a single exception or None."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(kind)
    return (error, None) if isinstance(error, kind) else (None, error)
