"""Typed keys for values that layers add to a request."""

from __future__ import annotations

from typing import Generic

from .._type_variables import T


class RequestKey(Generic[T]):
    """A key for a value that a layer adds to a request, for the handler and for other layers.

    ``USER = RequestKey[User]("user")`` at the top of a module; ``request.with_value(USER, user)`` in a layer;
    ``request[USER]`` in a handler, which is a ``User`` for type checkers. A key is equal to itself only, so two
    modules may use the same name.

    Args:
        name: is shown in errors.

    Raises:
        TypeError: the name is not a str.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the name of a RequestKey must be a str, not {type(name).__name__}")
        self._name = name

    def __repr__(self) -> str:
        return f"RequestKey({self._name!r})"
