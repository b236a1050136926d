"""The cookies that a test client keeps between its requests (RFC 6265bis, sections 5.6 to 5.8). It does no I/O.

The client connects to one server, mostly without TLS, and no pages of other sites use it. So Secure, HttpOnly,
SameSite and Partitioned have no effect here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from .._http._dates import parse_date
from .._http._fields import Fields

_SECONDS = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class _StoredCookie:
    """A cookie.

    Attributes:
        value: the value.
        host: the host that gets the cookie.
        path: the path that gets it, with the paths below it.
        below: whether the hosts below ``host`` get the cookie, too.
        end: the time at which it expires.
    """

    value: str
    host: str
    path: str
    below: bool
    end: float

    def is_for(self, host: str, path: str) -> bool:
        below_host = self.below and host.endswith(f".{self.host}")
        below_path = path.startswith(self.path if self.path.endswith("/") else f"{self.path}/")
        return (host == self.host or below_host) and (path == self.path or below_path)


class CookieJar:
    """The cookies of one client. Times are those of trio."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str, str], _StoredCookie] = {}

    def store(self, fields: Iterable[str], host: str, path: str, now: float) -> None:
        """Store the cookies of a response. As browsers do, ignore those that are malformed or for other hosts.

        Args:
            fields: the values of its Set-Cookie fields.
            host: the host of the request, in lower case and without a port.
            path: the path of the request.
            now: the time.
        """
        for field in fields:
            pair, *attributes = field.split(";")
            name, separator, value = (part.strip(" \t") for part in pair.partition("="))
            cookie = _parse(value, attributes, host, path, now)
            if not separator or not name or not (cookie.host == host or host.endswith(f".{cookie.host}")):
                continue
            key = name, cookie.host, cookie.path
            if cookie.end > now:
                self._cookies[key] = cookie
            else:
                self._cookies.pop(key, None)

    def header(self, host: str, path: str, now: float) -> str:
        """Return the value of the Cookie field of a request; empty for no cookies. Longer paths are first."""
        found = [
            (len(cookie.path), f"{name}={cookie.value}")
            for (name, *_), cookie in self._cookies.items()
            if cookie.end > now and cookie.is_for(host, path)
        ]
        found.sort(key=lambda item: -item[0])
        return "; ".join([pair for _, pair in found])

    def pairs(self, now: float) -> Fields:
        """Return the names and values of all cookies, in the order in which they were set."""
        return Fields([(name, cookie.value) for (name, *_), cookie in self._cookies.items() if cookie.end > now])

    def clear(self) -> None:
        """Remove all cookies."""
        self._cookies.clear()


def _parse(value: str, attributes: list[str], host: str, path: str, now: float) -> _StoredCookie:
    # The last attribute of a name counts.
    pairs = (attribute.partition("=") for attribute in attributes)
    found = {name.strip(" \t").lower(): text.strip(" \t") for name, _, text in pairs}
    domain = found.get("domain", "").lower().removeprefix(".")
    given = found.get("path", "")
    return _StoredCookie(
        value,
        domain or host,
        given if given.startswith("/") else _default_path(path),
        bool(domain),
        _end(found, now),
    )


def _default_path(path: str) -> str:
    """The directory of a path (RFC 6265bis, section 5.1.4)."""
    return path.rpartition("/")[0] or "/"


def _end(attributes: dict[str, str], now: float) -> float:
    seconds = attributes.get("max-age", "")
    if _SECONDS.fullmatch(seconds):
        return now + int(seconds) if int(seconds) > 0 else -inf
    date = parse_date(attributes.get("expires", ""))
    return inf if date is None else now + date - time.time()
