"""The command line as a whole: what is executed, what is printed if it fails, and the exit status."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from .._failures import only_cause
from .._until_signal import KILLED
from ._arguments import PROGRAM, Options, parse_arguments
from ._check import check
from ._errors import CommandError
from ._load import load
from ._log import configure_log
from ._serve import serve

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
    try:
        return _execute(parse_arguments(arguments))
    except CommandError as exc:
        if exc.__cause__ is not None:
            traceback.print_exception(exc.__cause__)
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return exc.status
    except KeyboardInterrupt:  # while the application is imported
        return KILLED + signal.SIGINT


def _execute(options: Options) -> int:
    found = load(options.target)
    if options.check:
        report = _run(check, found, options)
        print(report)
        return 1 if report.warnings else 0
    configure_log(access_log=options.access_log)
    _run(serve, found, options)
    return 0


def _run(command: Callable[[object, Options], Awaitable[_Result]], found: object, options: Options) -> _Result:
    """Run a command in trio. A nursery of a factory puts an error of the command into a group."""
    try:
        return trio.run(command, found, options)
    except ExceptionGroup as group:
        cause = only_cause(group)
        if isinstance(cause, CommandError):
            raise cause from cause.__cause__
        raise
