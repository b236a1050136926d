"""The errors that end the command line with a message and without a traceback of the library."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot be executed. The text says what to do.

    Attributes:
        status: the exit status.

    If it has a cause, that is an exception of the application, whose traceback is printed before the text.
    """

    status = 1


class UsageError(CommandError):
    """The command line is wrong, or what it names cannot be loaded."""

    status = 2
