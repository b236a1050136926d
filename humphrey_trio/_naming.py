"""The names of functions of the application, for log lines and errors."""

from __future__ import annotations

import inspect
from functools import partial


def qualified_name(function: object) -> str:
    """Return the module and the qualified name of a function, such as ``shop.views.buy``.

    Args:
        function: anything that can be called. Of a ``partial`` and of a wrapper, the function inside is named; an
            object without a name by its repr.
    """
    while isinstance(function, partial):
        function = function.func
    if callable(function):
        function = inspect.unwrap(function)
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return repr(function)
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else name
