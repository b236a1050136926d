"""From the path of a request to names below a directory. It makes no file-system call.

Every file handler uses this module, so a path is read in one way only. A path is split at ``/`` first, and each
segment is percent-decoded once. A segment that could be anything but one plain name is refused.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from .._http._urls import NOT_ENCODED, percent_decode_path

# NUL, separators (also encoded ones, and the one of Windows), drives, and the empty and the dot segments.
_NOT_A_NAME = re.compile(r"[\x00/\\]|\A[A-Za-z]:|\A\.{0,2}\Z")

_SENT_IN_A_QUERY = "%/:?[]@!$&'()*+,;="

# For well-known URIs (RFC 8615). The only name with a leading dot that is made to be requested.
_WELL_KNOWN = b".well-known"


class FilePath(NamedTuple):
    """A path below a directory.

    Attributes:
        names: the names of directories, and of a file or a directory at the end. None is empty, ``.`` or ``..``,
            or contains a slash or NUL. They are bytes in UTF-8, so they do not depend on the locale.
        is_directory: whether the path ends with a slash, so that only a directory can be meant.
    """

    names: tuple[bytes, ...]
    is_directory: bool


def path_below(path: str, pattern: str) -> str | None:
    """Return the part of a path behind the literal prefix of a pattern.

    Args:
        path: ``Request.path``.
        pattern: the pattern of the route, up to its first ``*`` or ``{``. If it is not a prefix, the whole path is
            returned.

    Returns:
        The rest, as it was sent. If the prefix does not end with a slash, the slash behind it is omitted. None if
        there is no slash: for ``/static*``, ``/static-a`` would be a second path of ``/static/-a``.
    """
    literal = re.split(r"[*{]", pattern, maxsplit=1)[0]
    spellings = (literal, quote(literal, safe=NOT_ENCODED))
    prefix = next((spelling for spelling in spellings if path.startswith(spelling)), "")
    rest = path.removeprefix(prefix)
    if prefix.endswith("/") or not rest:
        return rest
    return rest[1:] if rest.startswith("/") else None


def parse_path(path: str, pattern: str, *, hidden: bool) -> FilePath | None:
    """Parse the path of a request.

    Args:
        path: ``Request.path``.
        pattern: the pattern of the route.
        hidden: whether names may begin with a dot. Otherwise only ``.well-known`` may.

    Returns:
        The path, or None if it cannot be that of a file.
    """
    below = path_below(path, pattern)
    if below is None:
        return None
    *segments, last = below.split("/")
    if last:
        segments.append(last)
    try:
        names = tuple(_parse_name(segment, hidden) for segment in segments)
    except ValueError:
        return None
    return FilePath(names, path.endswith("/"))


def directory_location(path: str, query: str) -> str:
    """Return the relative reference (RFC 3986, section 4.2) to the path of a request with a slash at its end.

    It names no host, and nothing in it can be taken for a scheme or a host, whatever the client sent. So it is
    right behind a proxy that changes the path.

    Args:
        path: ``Request.path``, without a slash at its end.
        query: ``Request.query``. It is kept.
    """
    location = quote(path.rpartition("/")[2], safe="%") + "/"
    return f"{location}?{quote(query, safe=_SENT_IN_A_QUERY)}" if query else location


def _parse_name(segment: str, hidden: bool) -> bytes:
    """Return the name in a segment.

    Raises:
        ValueError: the segment is not a name, or is malformed, or not UTF-8.
    """
    name = percent_decode_path(segment)
    if _NOT_A_NAME.search(name):
        raise ValueError("not the name of a file")
    encoded = name.encode()
    if encoded.startswith(b".") and not hidden and encoded != _WELL_KNOWN:
        raise ValueError("a hidden name")
    return encoded
