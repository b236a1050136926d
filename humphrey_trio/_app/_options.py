"""The options of a route: which methods it takes, and how its bodies are read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .._http._headers import TOKEN
from .._http._method import Method, check_case
from .._http._when_left import WhenLeft
from .._settings import check_bool, check_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """The options of a route, which were checked.

    Attributes:
        methods: the methods that the route takes; None for every method.
        max_body: bytes of the body; None for ``Limits.body``.
        stream: whether the handler reads the body itself.
        when_left: what happens to the handler of a client that leaves; None for that of the app.
    """

    methods: frozenset[str] | None = None
    max_body: int | None = None
    stream: bool = False
    when_left: WhenLeft | None = None


def route_options(
    methods: Collection[str] | None = None,
    max_body: int | None = None,
    *,
    stream: bool = False,
    when_left: WhenLeft | None = None,
) -> RouteOptions:
    """Check the options of a route. GET implies HEAD (RFC 9110, section 9.3.2).

    Raises:
        ValueError: there is no method, one is not a token or not in upper case, ``max_body`` is negative, or
            ``when_left`` is not a ``WhenLeft``.
        TypeError: ``methods`` is a str.
    """
    if max_body is not None:
        check_whole("max_body=...", max_body, 0, hint=", or None for Limits.body")
    check_bool("stream=...", stream)
    return RouteOptions(
        methods=None if methods is None else _checked_methods(methods),
        max_body=max_body,
        stream=stream,
        when_left=None if when_left is None else WhenLeft(when_left),
    )


def _checked_methods(methods: Collection[str]) -> frozenset[str]:
    if isinstance(methods, str) or not isinstance(methods, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"methods is a collection of names: write methods=({methods!r},)")
    if not methods:
        raise ValueError("a route without methods is never called: leave methods out for every method")
    for method in methods:
        _check_method(method)
    return frozenset((*methods, "HEAD")) if "GET" in methods else frozenset(methods)


def _check_method(method: str) -> None:
    if not isinstance(method, str) or not TOKEN.fullmatch(method):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{method!r} is not a method: it must be a token (RFC 9110, section 9.1)")
    if method == "*":
        raise ValueError("'*' is not a method: leave methods out for every method")
    if method == Method.CONNECT:
        raise ValueError("CONNECT reaches no route: this server is not a proxy")
    check_case(method)
