"""Origins of web pages (RFC 6454): what browsers send in the Origin field, and patterns of them.

Pure. A pattern is read once, when it is given. An Origin is split into scheme, host and port before any of them is
compared, so no part of it can pass for another. All of it is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from unicodedata import normalize

from .._krauss import wildcard_match

#: For ``origins``: pages of every origin.
ANY_ORIGIN = "*"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MAX_PORT = 65535

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
# RFC 3986, section 3.2.2, without percent-encoding, which browsers have decoded, and without commas.
_NAME = re.compile(r"[-a-z0-9._~!$&'()*+;=]+")
_ORIGIN = re.compile(rf"({_SCHEME.pattern})://(\[[0-9a-f:.]+\]|{_NAME.pattern})(?::([0-9]{{0,5}}))?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_PATH = re.compile(r"[/?#\\]")
_PATTERN_AUTHORITY = re.compile(r"(\[[^]]*\]|[^][:]*)(?::([^:]*))?")
_SEVERAL = re.compile(r"[\s,]")


class Origin(NamedTuple):
    """An origin, normalised: equal ones compare equal.

    Attributes:
        scheme: in lower case.
        host: in lower case, in the ASCII form of IDNA, without a trailing dot; an IPv6 address as 32 hexadecimal
            digits in brackets.
        port: the default one if none is given; None where the scheme has no default.
    """

    scheme: str
    host: str
    port: int | None


# Neither has a host: an opaque origin (RFC 6454, section 7.1), and what Chromium sends for local files.
_WITHOUT_HOST = {"null": Origin("null", "", None), "file://": Origin("file", "", None)}


def read_origin(text: str) -> Origin | None:
    """The value of an Origin field; None if it is not one origin."""
    if not text.isascii():
        return None  # some letters outside ASCII have lower case in it
    text = text.lower()
    if text in _WITHOUT_HOST:
        return _WITHOUT_HOST[text]
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found.groups()
    normalised = _normalised(host)
    if normalised is None or int(port or 0) > _MAX_PORT:
        return None
    return Origin(scheme, normalised, int(port) if port else _DEFAULT_PORTS.get(scheme))


def is_same_host(origin: str, host: str) -> bool:
    """Whether a page comes from the host that it asks.

    Behind a proxy that ends TLS the server does not know the page's scheme, so host and port decide.

    Args:
        origin: the value of the Origin field.
        host: the value of the Host field. Without a port it means the default one of the page's scheme.
    """
    page = read_origin(origin)
    if page is None or page.scheme not in _DEFAULT_PORTS:
        return False
    asked = read_origin(f"{page.scheme}://{host}")
    return asked == page


class Origins:
    """A set of origins, given by patterns.

    Args:
        patterns: one or several. A pattern is an origin, such as ``https://example.com`` or
            ``http://localhost:8080``, in whose host each ``*`` stands for any run of characters, and whose port
            may be ``*`` for any port. Without a port it means the default one. Also ``file://``, ``null`` and
            ``ANY_ORIGIN``.

    Raises:
        ValueError: no browser can send what a pattern means; the message says what to write instead.
        TypeError: a pattern is not a str.
    """

    __slots__ = ("_any", "_exact", "_wildcards")

    def __init__(self, patterns: str | Iterable[str]) -> None:
        self._any = False
        self._exact: set[Origin] = set()
        self._wildcards: list[_Wildcard] = []
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            self._add(pattern)

    def matches(self, origin: str) -> bool:
        """Whether the value of an Origin field is one of these origins."""
        if self._any:
            return True
        page = read_origin(origin)
        if page is None:
            return False
        return page in self._exact or any(wildcard.matches(page) for wildcard in self._wildcards)

    def _add(self, pattern: str) -> None:
        if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"an origin is a str such as 'https://example.com', not {type(pattern).__name__}")
        if pattern == ANY_ORIGIN:
            self._any = True
            return
        read = _read_pattern(pattern)
        if isinstance(read, Origin):
            self._exact.add(read)
        else:
            self._wildcards.append(read)


class _Wildcard(NamedTuple):
    """A pattern with a wildcard; ``port`` is ``"*"`` for any."""

    scheme: str
    host: str
    port: int | str | None

    def matches(self, page: Origin) -> bool:
        return (
            page.scheme == self.scheme and self.port in ("*", page.port) and wildcard_match(self.host, page.host)
        )


# ------------------------------------------------------------------------------------------- patterns


def _read_pattern(pattern: str) -> Origin | _Wildcard:
    if pattern.lower() in _WITHOUT_HOST:
        return _WITHOUT_HOST[pattern.lower()]
    scheme, authority = _split_pattern(pattern)
    parts = _PATTERN_AUTHORITY.fullmatch(authority)
    if parts is None:
        raise _refused(pattern, "a host has no colon, and an IPv6 address stands in brackets, 'http://[::1]'")
    host = _pattern_host(pattern, scheme, parts[1])
    port = _pattern_port(pattern, scheme, parts[2])
    if "*" in host or isinstance(port, str):
        return _Wildcard(scheme, host, port)
    return Origin(scheme, host, port)


def _split_pattern(pattern: str) -> tuple[str, str]:
    """The scheme of a pattern, and what is behind it."""
    if _SEVERAL.search(pattern):
        raise _refused(pattern, "give several as a list, ['https://a.example', 'https://b.example']")
    scheme, separator, rest = pattern.partition("://")
    scheme = scheme.lower()
    if separator and "*" in scheme:
        raise _refused(pattern, f"a scheme has no wildcard: give both 'http://{rest}' and 'https://{rest}'")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise _refused(pattern, "write a scheme and a host, 'https://example.com', or 'null'")
    if scheme in ("ws", "wss"):
        raise _refused(pattern, f"it is the page's, not the WebSocket's: write 'http{scheme[2:]}://{rest}'")
    if scheme == "file":
        raise _refused(pattern, "write 'file://' for all local files")
    authority = _PATH.split(rest, 1)[0].rpartition("@")[2]
    if not authority:
        raise _refused(pattern, f"write a host, '{scheme}://example.com'")
    if authority != rest:
        raise _refused(pattern, f"it has neither a path nor a user: write '{scheme}://{authority}'")
    return scheme, authority


def _pattern_port(pattern: str, scheme: str, port: str | None) -> int | str | None:
    if port is None:
        return _DEFAULT_PORTS.get(scheme)
    if port == "*":
        return port
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= _MAX_PORT):
        raise _refused(pattern, "a port is a number from 1 to 65535, or '*'")
    return int(port)


def _pattern_host(pattern: str, scheme: str, host: str) -> str:
    host = ".".join([_in_ascii(pattern, label) for label in host.split(".")])
    if not host.startswith("[") and not _NAME.fullmatch(host):
        raise _refused(pattern, "a host has letters, digits, '.', '-' and '_', and '*' for any run of characters")
    if host != "*" and not host.startswith("[") and "*" in host.rstrip(".").rpartition(".")[2]:
        raise _refused(
            pattern, "a wildcard in the last label would match foreign domains: write 'https://*.example.com'"
        )
    normalised = _normalised(host)
    if normalised is None:
        raise _refused(pattern, "this is not an IPv6 address; a wildcard cannot stand in one")
    ends_in_number = _NUMBER.fullmatch(normalised.rpartition(".")[2])
    if scheme in _DEFAULT_PORTS and ends_in_number and "*" not in normalised and not _is_ipv4(normalised):
        raise _refused(pattern, "a browser writes an IPv4 address as four decimal numbers, '127.0.0.1'")
    return normalised


def _in_ascii(pattern: str, label: str) -> str:
    """A label of a host as browsers send it: in lower case, or in the ASCII form of IDNA.

    They follow UTS 46 without its transitional part, the standard library follows IDNA 2003. A label for which
    these two differ, such as one with a sharp s, is refused instead of being turned into one that never matches.
    So is one with a wildcard: the ASCII form of a part is not a part of the ASCII form.
    """
    if label.isascii():
        return label.lower()
    if "*" in label:
        raise _refused(pattern, f"'*' cannot stand in a label with letters outside ASCII, as in {label!r}")
    by_uts46 = f"xn--{normalize('NFKC', label.lower()).encode('punycode').decode()}"
    try:
        by_idna2003 = label.encode("idna").decode()
    except UnicodeError:
        by_idna2003 = ""
    if by_uts46 != by_idna2003:
        raise _refused(pattern, f"write {label!r} in its ASCII form, 'xn--...', which is what browsers send")
    return by_idna2003


def _normalised(host: str) -> str | None:
    """A host in lower case in its normal form; None if it is in brackets and not an IPv6 address."""
    if not host.startswith("["):
        return host.removesuffix(".") or host  # the name with the dot is the same one
    address = host[1:-1]
    try:
        return None if "%" in address else f"[{int(IPv6Address(address)):032x}]"
    except ValueError:
        return None


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _refused(pattern: str, advice: str) -> ValueError:
    return ValueError(f"{pattern!r} is no origin that a browser sends: {advice}")
