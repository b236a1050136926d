"""Checks of the functions that an application passes, at the time when it passes them."""

from __future__ import annotations

import inspect

from ._naming import qualified_name


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
        raise TypeError(f"{what} must be callable, not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*names.split(", "))
    except TypeError as exc:
        raise TypeError(f"{what}, {qualified_name(function)}, is called with ({names}): {exc}") from None
