"""Header fields: an ordered, case-insensitive, immutable multi-mapping.

The fields are checked when a ``Headers`` is constructed, so code that writes them need not check them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias, cast, overload

#: A regular expression for one character of a token (RFC 9110, section 5.6.2).
TCHAR = r"[-!#$%&'*+.^_`|~0-9A-Za-z]"

#: A token. A field name is one (RFC 9110, section 5.1).
TOKEN = re.compile(rf"{TCHAR}+")
# CR, LF and NUL are dangerous in a value, and other control characters are invalid (RFC 9110, section 5.5).
_BAD_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")

_NOTHING = re.compile(rb"(?!)")

# The number of field names that are remembered as tokens, and as patterns. Programs use few names, and peers
# choose none of them.
_REMEMBERED_NAMES = 512

Fields: TypeAlias = tuple[tuple[str, str], ...]

HeadersLike: TypeAlias = "Headers | Mapping[str, str] | Iterable[tuple[str, str]]"


class Headers:
    """The header fields of a message, in the order of the wire. Immutable.

    ``headers[name]`` is the first value of a name, or raises ``KeyError``. For the headers of a request that was
    received, that is also an ``HttpError`` with 400. ``name in headers`` works, and iteration yields pairs of name
    and value.

    Args:
        fields: pairs of a name and a value, or a mapping from names to values. A name may occur several times.
            Names keep their letter case, and are compared without regard to it.

    Raises:
        ValueError: a name is not a token, or a value contains a control character, a character outside
            latin-1, or white space at its ends (RFC 9110, section 5.5).
        TypeError: ``fields`` is a str or not iterable, or a name or a value is not a str.
    """

    __slots__ = ("_fields", "_lines", "_names", "_wire")

    _fields: Fields  # empty until _lines are split
    _lines: bytes | None  # see ``deferred``
    _names: frozenset[str] | None
    _wire: bytes | None

    def __init__(self, fields: HeadersLike = ()) -> None:
        self._lines = self._names = self._wire = None
        if isinstance(fields, Headers):
            self._fields = fields._get_fields()
            self._names, self._wire = fields._names, fields._wire
            return
        if isinstance(fields, (str, bytes)) or not isinstance(fields, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "headers are pairs of name and value, or a mapping, not"
                f" {type(fields).__name__}: write headers={{'Content-Type': 'text/html'}}"
            )
        pairs: Iterable[tuple[str, str]] = (
            cast("Mapping[str, str]", fields).items() if isinstance(fields, Mapping) else fields
        )
        self._fields = checked_fields(pairs)

    @classmethod
    def from_checked(cls, fields: Fields) -> Headers:
        """Construct from fields that were checked. They are not checked again.

        Args:
            fields: pairs of a name and a value.

        Returns:
            The header fields.
        """
        self = cls.__new__(cls)
        self._fields = fields
        self._lines = self._names = self._wire = None
        return self

    @classmethod
    def deferred(cls, lines: bytes) -> Headers:
        """Construct from field lines that a parser has checked.

        They are not split before all of them are needed. A single name is searched in them.

        Args:
            lines: CRLF, and then the lines, each followed by CRLF (RFC 9112, section 5).

        Returns:
            The header fields.
        """
        self = cls.__new__(cls)
        self._fields = ()
        self._lines = lines
        self._names = self._wire = None
        return self

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a name.

        Args:
            name: the name of the field. Letter case is ignored.
            default: the result if there is no such field.

        Returns:
            The value, or ``default``.
        """
        if self._lines is not None:
            found = _search(self._lines, name)
            return found[0] if found else default
        wanted, size = name.lower(), len(name)
        for field, value in self._fields:
            # Comparing the lengths first is faster than lower() for every field.
            if len(field) == size and field.lower() == wanted:
                return value
        return default

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return all values of a name, in order.

        Args:
            name: the name of the field. Letter case is ignored.

        Returns:
            The values; an empty tuple if there is no such field.
        """
        if self._lines is not None:
            return tuple(_search(self._lines, name))
        wanted, size, fields = name.lower(), len(name), self._fields
        return tuple([value for field, value in fields if len(field) == size and field.lower() == wanted])

    def keys(self) -> tuple[str, ...]:
        """Return the names, each of them once, in order and as they were written first.

        Letter case is ignored. So ``dict(headers)`` has the first value of each name. ``names`` has them in lower
        case.
        """
        spelled: dict[str, str] = {}
        for name, _ in self._get_fields():
            spelled.setdefault(name.lower(), name)
        return tuple(spelled.values())

    def values(self) -> tuple[str, ...]:
        """Return all values, in order."""
        return tuple([value for _, value in self._get_fields()])

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return all pairs, in order, as iteration does. Names may be repeated."""
        return self._get_fields()

    def with_header(self, name: str, value: str) -> Headers:
        """Return a copy with one more field at its end. Other fields with the same name are kept.

        Args:
            name: the name of the field, a token (RFC 9110, section 5.6.2).
            value: the value of the field, in latin-1.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return self.from_checked((*self._get_fields(), *checked_fields([(name, value)])))

    def without_header(self, name: str) -> Headers:
        """Return a copy without the fields of a name.

        Args:
            name: the name of the fields. Letter case is ignored. There may be none.
        """
        wanted = name.lower()
        return self.from_checked(tuple([pair for pair in self._get_fields() if pair[0].lower() != wanted]))

    @property
    def names(self) -> frozenset[str]:
        """The names of the fields in lower case. The result is cached."""
        if self._names is None:
            self._names = frozenset([name.lower() for name, _ in self._get_fields()])
        return self._names

    def to_wire(self) -> bytes:
        """Encode the fields (RFC 9112, section 5). The result is cached.

        Returns:
            The field lines, each followed by CRLF.
        """
        if self._wire is None:
            self._wire = "".join([f"{name}: {value}\r\n" for name, value in self._get_fields()]).encode("latin-1")
        return self._wire

    def to_raw(self) -> list[tuple[bytes, bytes]]:
        """Encode the fields as pairs of bytes, with their names in lower case. The result is a new list.

        Received fields that were not split before are neither decoded nor encoded.

        Returns:
            The pairs, in the order of the wire.
        """
        lines = self._lines
        if lines is None:
            return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self._fields]
        split = [line.partition(b":") for line in lines.split(b"\r\n")[1:-1]]
        return [(name.lower(), value.strip(b" \t")) for name, _, value in split]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._get_fields())

    def __len__(self) -> int:
        return len(self._get_fields())

    def __bool__(self) -> bool:
        return bool(self._fields or self._get_fields())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._folded() == other._folded()

    def __hash__(self) -> int:
        return hash(self._folded())

    def __repr__(self) -> str:
        return f"Headers({list(self._get_fields())!r})"

    def _get_fields(self) -> Fields:
        if self._lines is not None:
            self._fields = _split(self._lines)
            self._lines = None
        return self._fields

    def _folded(self) -> Fields:
        return tuple([(name.lower(), value) for name, value in self._get_fields()])


def _split(lines: bytes) -> Fields:
    """Split and decode field lines, as those of ``Headers.deferred``."""
    split = [line.partition(":") for line in lines.decode("latin-1").split("\r\n")[1:-1]]
    return tuple([(name, value.strip(" \t")) for name, _, value in split])


def _search(lines: bytes, name: str) -> list[str]:
    """Return the values of a name in field lines, as those of ``Headers.deferred``."""
    return [value.decode("latin-1").strip(" \t") for value in _lines_of(name).findall(lines)]


@lru_cache(_REMEMBERED_NAMES)
def _lines_of(name: str) -> re.Pattern[bytes]:
    if not TOKEN.fullmatch(name):
        return _NOTHING  # no field has this name
    return re.compile(b"\n%b:([^\r]*)" % re.escape(name.encode("ascii")), re.IGNORECASE)


def checked_fields(pairs: Iterable[tuple[str, str]]) -> Fields:
    """Check fields.

    Raises:
        TypeError, ValueError: as for the constructor of ``Headers``.
    """
    fields: list[tuple[str, str]] = []
    for pair in pairs:
        try:
            name, value = pair
        except (TypeError, ValueError):
            raise TypeError(
                f"a header is a pair of name and value, such as ('Content-Type', 'text/html'), not {pair!r}"
            ) from None
        if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the name and the value of a header must be str: ({name!r}, {value!r})."
                " Convert them, as with str()"
            )
        _check_name(name)
        # Printable ASCII is the usual case, and quickly recognised.
        if not (value.isascii() and value.isprintable()) or value != value.strip(" \t"):
            _check_value(name, value)
        fields.append((name, value))
    return tuple(fields)


@lru_cache(_REMEMBERED_NAMES)
def _check_name(name: str) -> None:
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name: use letters, digits and -!#$%&'*+.^_`|~")


def _check_value(name: str, value: str) -> None:
    if _BAD_IN_VALUE.search(value) or value != value.strip(" \t"):
        raise ValueError(
            f"the value {value!r} of header {name} contains a control character, a character outside latin-1,"
            " or white space at an end: strip or encode it first"
        )
