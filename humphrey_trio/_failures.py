"""Where exceptions stop: the failure of a handler is reported and ends there, a cancellation passes.

A handler can also raise a ``trio.Cancelled`` that no scope around it has asked for, such as one that another task
has stored in a shared future or a cache. A nursery of ours would take it for its own cancellation, and end in
silence. It is a failure of the handler.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, cast

import trio

_FOREIGN = "the handler raised a trio.Cancelled of another task: no scope around the handler is cancelled"


def failure_of(error: BaseException, report: Callable[[Exception], object]) -> Exception:
    """The failure in what a handler has raised; what is no failure passes.

    Call it in the except clause of the task that ran the handler, inside the innermost cancel scope of ours: only
    there a cancellation can be told from a foreign ``Cancelled``.

    Args:
        error: what the handler has raised, perhaps a group of its own nursery, in which failures stand beside a
            cancellation.
        report: called with the failures of a group, if the rest of the group passes.

    Returns:
        What was raised, if all of it is failure. A foreign ``Cancelled`` is the cause of a ``RuntimeError``.

    Raises:
        BaseException: a cancellation of this task, KeyboardInterrupt, SystemExit, or a group of them.
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
        del error, failures, passing  # the exception refers to this frame


def _divide(error: BaseException) -> tuple[list[Exception], BaseException | None]:
    """The failures in what was raised, and the rest, which passes."""
    failed, rest = _split(error, Exception)
    failures = [] if failed is None else [failed]
    cancelled, others = _split(rest, trio.Cancelled)
    # trio gives this deadline to a task that is cancelled, and to no other.
    if cancelled is None or trio.current_effective_deadline() == -inf:
        return failures, rest
    foreign = RuntimeError(_FOREIGN)
    foreign.__cause__ = cancelled
    return [*failures, foreign], others


def _split(error: BaseException | None, kind: type[BaseException]) -> tuple[Any, Any]:
    """As ``BaseExceptionGroup.split``, also for an exception that is no group, or for None."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(kind)
    return (error, None) if isinstance(error, kind) else (None, error)
