"""Conditional requests (RFC 9110, section 13): whether a request is answered with 304, 412, or a range.

This module compares validators. It reads no files and sends no responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ._dates import parse_date
from ._entity_tags import EntityTag, parse_entity_tag, parse_entity_tags
from ._headers import Headers

_SAFE = ("GET", "HEAD")


class Outcome(Enum):
    """What the conditions of a request demand."""

    PROCEED = auto()
    """All conditions hold, or there are none: perform the method."""
    NOT_MODIFIED = auto()
    """The client has the current representation: answer with 304."""
    PRECONDITION_FAILED = auto()
    """A condition is false: answer with 412, and do not perform the method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """The validators of the current representation of a resource (RFC 9110, section 8.8).

    Attributes:
        tag: the value of its ETag field; None if it has none.
        modified: the value of its Last-Modified field, in whole seconds since 1970, rounded down; None if it has
            none.
        exists: whether there is a current representation. If not, the others are None.

    Raises:
        ValueError: ``exists`` is False, but there is a validator.
    """

    tag: EntityTag | None = None
    modified: int | None = None
    exists: bool = True

    def __post_init__(self) -> None:
        if not self.exists and (self.tag is not None or self.modified is not None):
            raise ValueError("a representation that does not exist has no validators: omit tag and modified")


def evaluate(method: str, headers: Headers, current: Validators) -> Outcome:
    """Evaluate the preconditions of a request, in the order of RFC 9110, section 13.2.2.

    Call this for a request that would be answered with a 2xx without its conditions (section 13.2.1).

    Args:
        method: the method of the request.
        headers: the header fields of the request. Dates that cannot be parsed are ignored.
        current: the validators of the representation that would be sent or changed.
    """
    if not _may_change(headers, current):
        return Outcome.PRECONDITION_FAILED
    if _is_known(method, headers, current):
        return Outcome.NOT_MODIFIED if method in _SAFE else Outcome.PRECONDITION_FAILED
    return Outcome.PROCEED


def may_send_range(headers: Headers, current: Validators, *, now: float) -> bool:
    """Evaluate If-Range (RFC 9110, section 13.1.5). Call this for a GET with a Range field, after ``evaluate``.

    Args:
        headers: the header fields of the request.
        current: the validators of the representation that would be sent.
        now: the current time, in seconds since 1970. The date of a modification in the current second is weak,
            because the representation may change again in it (section 8.8.2.2).

    Returns:
        Whether the Range field counts. If not, the whole representation is sent. True without If-Range.
    """
    if "If-Range" not in headers:
        return True
    value = _single(headers, "If-Range")
    tag = parse_entity_tag(value)
    if tag is not None:
        return current.tag is not None and tag.is_strongly_equal(current.tag)
    is_strong = current.modified is not None and current.modified + 1 <= now
    return is_strong and parse_date(value) == current.modified


def _may_change(headers: Headers, current: Validators) -> bool:
    """Evaluate If-Match; without it, If-Unmodified-Since (RFC 9110, sections 13.1.1 and 13.1.4)."""
    if tags := headers.get_all("If-Match"):
        return current.exists and parse_entity_tags(tags).match_strongly(current.tag)
    since = _date(headers, "If-Unmodified-Since")
    return since is None or current.modified is None or current.modified <= since


def _is_known(method: str, headers: Headers, current: Validators) -> bool:
    """Evaluate If-None-Match; without it, If-Modified-Since (RFC 9110, sections 13.1.2 and 13.1.3)."""
    if tags := headers.get_all("If-None-Match"):
        return current.exists and parse_entity_tags(tags).match_weakly(current.tag)
    if method not in _SAFE or current.modified is None:
        return False
    since = _date(headers, "If-Modified-Since")
    return since is not None and current.modified <= since


def _date(headers: Headers, name: str) -> int | None:
    return parse_date(_single(headers, name))


def _single(headers: Headers, name: str) -> str:
    """Return the value of a field that must not be repeated; "", which is invalid, if it is."""
    values = headers.get_all(name)
    return "".join(values) if len(values) == 1 else ""
