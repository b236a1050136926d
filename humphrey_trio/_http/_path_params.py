"""The values of the parameters of a route."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class PathParams(Mapping[str, str]):
    """An immutable mapping from the names of parameters to their decoded values.

    Args:
        values: the values. They are copied.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


#: The parameters of a route without any.
NO_PARAMS = PathParams({})
