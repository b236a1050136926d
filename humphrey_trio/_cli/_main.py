"""Execute the command line: choose the command, print its errors, and return the exit status."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from .._failures import only_cause
from .._until_signal import KILLED
from ._arguments import PROGRAM, Options, parse_arguments
from ._check import check
from ._errors import CommandError
from ._lifeline import end_with_supervisor
from ._load import load
from ._log import configure_log
from ._serve import serve
from ._serve_reloading import serve_reloading

_Result = TypeVar("_Result")


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute a command.

    Args:
        arguments: the arguments; None for those of the process.

    Returns:
        The exit status.

    Raises:
        SystemExit: the arguments are wrong, or a second signal has ended the server.
        Exception: the application has failed.
    """
    supervised = end_with_supervisor()
    try:
        return _execute(parse_arguments(arguments), supervised)
    except CommandError as exc:
        if exc.__cause__ is not None:
            traceback.print_exception(exc.__cause__)
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return exc.status
    except KeyboardInterrupt:  # while the application is imported
        return KILLED + signal.SIGINT


def _execute(options: Options, supervised: bool) -> int:
    if options.reload:  # the application is imported by the server process only
        configure_log(access_log=False)
        return _run(serve_reloading, options)
    found = load(options.target)
    if options.check:
        report = _run(check, found, options)
        print(report)
        return 1 if report.warnings else 0
    configure_log(access_log=options.access_log)
    _run(partial(serve, supervised=supervised), found, options)
    return 0


def _run(command: Callable[..., Awaitable[_Result]], *arguments: object) -> _Result:
    """Run a command in trio. A nursery of a factory puts an error of the command into a group."""
    try:
        return trio.run(command, *arguments)
    except ExceptionGroup as group:
        cause = only_cause(group)
        if isinstance(cause, CommandError):
            raise cause from cause.__cause__
        raise
