"""The mappings of a request whose missing keys are an error of its client.

``Fields`` and ``Headers`` that a program has made raise a plain ``KeyError``, because then the fault is its own.
"""

from __future__ import annotations

from .._quoting import quoted
from ._errors import HttpError
from ._fields import Fields, FieldsLike
from ._headers import Headers


class MissingValueError(HttpError, KeyError):
    """A client did not send a value that a handler needs: a 400 if the handler does not catch it.

    Args:
        detail: what is missing. The error page shows it.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(400, detail)

    def __str__(self) -> str:
        return self.detail  # that of KeyError is the repr


def missing(owner: str, kind: str, name: object) -> MissingValueError:
    """Return the error for a key: ``missing("query", "parameter", "page")``.

    Args:
        owner: the part of the request that should have it.
        kind: what is missing.
        name: the key.
    """
    return MissingValueError(f"the {owner} must have the {kind} {quoted(str(name))}")


class SentFields(Fields):
    """Fields that a client sent.

    Args:
        pairs: as for ``Fields``.
        owner, kind: as for ``missing``.
    """

    __slots__ = ("_kind", "_owner")

    def __init__(self, pairs: FieldsLike, owner: str, kind: str) -> None:
        super().__init__(pairs)
        self._owner = owner
        self._kind = kind

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise missing(self._owner, self._kind, name)
        return value


class SentHeaders(Headers):
    """Header fields that a client sent."""

    __slots__ = ()

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise missing("request", "header field", name)
        return value
