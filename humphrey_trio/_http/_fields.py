"""Fields of queries, forms and cookies: an ordered, case-sensitive, immutable multi-mapping of str.

This module stores what parsers found. It decodes nothing, and bounds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, cast, overload

FieldsLike: TypeAlias = "Fields | Mapping[str, str] | Iterable[tuple[str, str]]"


class Fields:
    """Pairs of a name and a value, in the order in which they were sent. Immutable and hashable.

    ``fields[name]`` is the first value of a name, or raises ``KeyError``. For the fields of a request, that is
    also an ``HttpError`` with 400. ``name in fields`` works. Iteration yields all pairs of name and value in
    order, and ``len(fields)`` is the number of pairs. Names are case-sensitive. Fields are equal if they have the
    same pairs in the same order.

    Args:
        pairs: pairs of a name and a value, or a mapping from names to values. A name may occur several times.

    Raises:
        TypeError: ``pairs`` is a str or not iterable, or a name or a value is not a str.
    """

    __slots__ = ("_by_name", "_pairs")

    _pairs: tuple[tuple[str, str], ...]
    _by_name: dict[str, list[str]]

    def __init__(self, pairs: FieldsLike = ()) -> None:
        if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"fields are pairs of name and value, or a mapping, not {type(pairs).__name__}")
        given: Iterable[tuple[str, str]] = (
            cast("Mapping[str, str]", pairs).items() if isinstance(pairs, Mapping) else pairs
        )
        self._pairs = tuple([_checked(name, value) for name, value in given])
        self._by_name = {}
        for name, value in self._pairs:
            self._by_name.setdefault(name, []).append(value)

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a name.

        Args:
            name: the name of the field, in its letter case.
            default: the result if there is no such field.
        """
        values = self._by_name.get(name)
        return default if values is None else values[0]

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return all values of a name, in order.

        Args:
            name: the name of the field, in its letter case.
        """
        return tuple(self._by_name.get(name, ()))

    def keys(self) -> tuple[str, ...]:
        """Return the names, each of them once, in order. So ``dict(fields)`` has the first value of each name."""
        return tuple(self._by_name)

    def values(self) -> tuple[str, ...]:
        """Return all values, in order."""
        return tuple([value for _, value in self._pairs])

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return all pairs, in order, as iteration does. Names may be repeated."""
        return self._pairs

    def __getitem__(self, name: str) -> str:
        return self._by_name[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fields):
            return NotImplemented
        return self._pairs == tuple(other)

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"Fields({list(self._pairs)!r})"


def _checked(name: str, value: str) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the name and the value of a field must be str: ({name!r}, {value!r})")
    return name, value
