"""Patterns of routes: they are checked when a route is added, and compared with the paths of requests.

A path is compared as it was sent, and the values of parameters are decoded afterwards. So a ``%2F`` in a value is
never taken for the end of a segment. Matching takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from .._http._path_params import NO_PARAMS, PathParams
from .._http._urls import NOT_ENCODED
from .._wildcards import Wildcard

# The segments of a pattern: a parameter for a segment, one for the rest of the path, and any number of pairs.
_SEGMENT = re.compile(r"\{([^{}]*)\}")
_REST = re.compile(r"\{([^{}*]*)\*\}")
_BALANCED = re.compile(r"(?:[^{}]*\{[^{}]*\})+[^{}]*")

# Segments that are parameters in other frameworks: <name>, <int:name> and :name.
_FOREIGN = re.compile(r"(?<=/)(?:<(?:[^<>/:]*:)?([^<>/:]*)>|:([A-Za-z_]\w*))(?=/|\Z)")

_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Pattern(Protocol):
    """What a route compares with the path of a request."""

    @property
    def form(self) -> str:
        """A text that is the same for patterns of one kind that match the same paths."""
        ...

    def match(self, path: str, /) -> Mapping[str, str] | None:
        """Return the values of the parameters as they were sent, or None if the path does not match."""
        ...


class LiteralPattern:
    """A pattern without wildcards and parameters.

    Args:
        path: the only path that matches.
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def form(self) -> str:
        return self.path

    def match(self, path: str) -> Mapping[str, str] | None:
        return NO_PARAMS if path == self.path else None


class WildcardPattern:
    """A pattern in which ``*`` matches any number of characters."""

    __slots__ = ("_wildcard", "form")

    def __init__(self, pattern: str) -> None:
        self.form = pattern
        self._wildcard = Wildcard(pattern)

    def match(self, path: str) -> Mapping[str, str] | None:
        return NO_PARAMS if self._wildcard.matches(path) else None


class ParameterPattern:
    """A pattern with parameters, each of which is a segment of the path, or the rest of it.

    Args:
        expression: a regular expression with a group for each parameter.
        names: the names of the parameters.
    """

    __slots__ = ("_expression", "_names", "form")

    def __init__(self, expression: str, names: tuple[str, ...]) -> None:
        self.form = expression  # the names do not matter
        self._expression = re.compile(expression, re.DOTALL)
        self._names = names

    def match(self, path: str) -> Mapping[str, str] | None:
        found = self._expression.fullmatch(path)
        return None if found is None else dict(zip(self._names, found.groups(), strict=True))


def parse_pattern(text: str) -> Pattern:
    """Check the pattern of a route.

    Args:
        text: a path, with either wildcards (``*``) or parameters (``{name}``, and ``{name*}`` at the end).

    Raises:
        ValueError: the pattern could never match, or its parameters are malformed, or written as those of other
            frameworks.
        TypeError: it is not a str.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the first argument of a route is its pattern, such as '/items/{{id}}', not {text!r}")
    if not text.startswith(("/", "*")):
        raise ValueError(f"no path matches {text!r}: a pattern begins with '/' or '*', as in {'/' + text!r}")
    if "?" in text:
        raise ValueError(f"{text!r} contains '?', but is compared without the query: end it before, or write %3F")
    if (foreign := _FOREIGN.search(text)) is not None:
        raise ValueError(_foreign_parameter(foreign, text))
    if "{" in text or "}" in text:
        return _parse_parameters(text)
    return WildcardPattern(_encode(text)) if "*" in text else LiteralPattern(_encode(text))


def decode_values(values: Mapping[str, str]) -> Mapping[str, str]:
    """Percent-decode the values of parameters, as UTF-8.

    Raises:
        ValueError: a value contains a malformed escape, or is not UTF-8.
    """
    return PathParams({name: _decode(value) for name, value in values.items()})


def _decode(value: str) -> str:
    if "%" not in value:
        return value
    if _BARE_PERCENT.search(value):
        raise ValueError("'%' is not followed by two hexadecimal digits")
    return unquote_to_bytes(value).decode()


def _encode(literal: str) -> str:
    """Percent-encode the characters of a literal that cannot stand in a request target."""
    try:
        # No brace or question mark gets here.
        return quote(_BARE_PERCENT.sub("%25", literal), safe=NOT_ENCODED)
    except UnicodeEncodeError as exc:
        raise ValueError(f"{literal!r} contains a surrogate, which cannot be encoded as UTF-8") from exc


def _parse_parameters(text: str) -> ParameterPattern:
    segments = text.split("/")
    rest = _REST.fullmatch(segments[-1])
    names: list[str] = []
    parts = [_part(segment, text, names) for segment in (segments[:-1] if rest else segments)]
    if rest:
        names.append(_checked_name(rest[1], text))
        parts.append("(.*)")
    if len(set(names)) < len(names):
        raise ValueError(f"a name is repeated in {text!r}: give each parameter a name of its own")
    return ParameterPattern("/".join(parts), tuple(names))


def _part(segment: str, pattern: str, names: list[str]) -> str:
    """Return the regular expression of a segment. Adds the name of a parameter to ``names``."""
    if "{" in segment or "}" in segment:
        parameter = _SEGMENT.fullmatch(segment)
        if parameter is None:
            raise ValueError(_misplaced_braces(segment, pattern))
        names.append(_checked_name(parameter[1], pattern))
        return "([^/]++)"  # possessive, so it is matched in linear time
    if "*" in segment:
        raise ValueError(f"{pattern!r} has both '*' and parameters: write {{name}} or {{name*}} instead of '*'")
    return re.escape(_encode(segment))


def _checked_name(name: str, pattern: str) -> str:
    if name.isidentifier():
        return name
    before, colon, _ = name.partition(":")
    if colon:
        call = f"request.path_param({before!r}, int)"
        advice = f"write {{{before}}} and {call} in the handler, or {{{before}*}} for the rest of the path"
    elif name.removesuffix("*").isidentifier():
        advice = "a parameter for the rest of the path must be the last segment"
    else:
        advice = "a name has letters, digits and underscores, and begins with no digit, such as {id}"
    raise ValueError(f"{name!r} in {pattern!r} is not the name of a parameter: {advice}")


def _foreign_parameter(found: re.Match[str], pattern: str) -> str:
    name = found[1] or found[2] or "name"
    literally = "" if found[2] else " For the characters themselves, write %3C and %3E."
    return f"{found[0]!r} in {pattern!r} is not a parameter here: write {{{name}}}.{literally}"


def _misplaced_braces(segment: str, pattern: str) -> str:
    if _BALANCED.fullmatch(segment):
        return f"{segment!r} in {pattern!r}: a parameter is a whole segment, such as /{{name}}/"
    return f"the braces in {pattern!r} are unbalanced: write {{name}}, or %7B and %7D for braces in the path"
