"""Origins of web pages (RFC 6454), and patterns for them.

A pattern is parsed once, when the set is constructed. The value of an Origin field is split into scheme, host and
port before any part is compared, so that one part cannot match in the place of another. Everything takes time
linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from unicodedata import normalize

from .._wildcards import wildcard_match
from ._address import MAX_PORT

#: A pattern for ``origins`` that allows pages of every origin.
ANY_ORIGIN = "*"

#: A pattern for the ``origins`` of WebSockets: pages of the host to which the request was sent.
SAME_HOST = "same-host"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
# RFC 3986, section 3.2.2, without percent-encoding, which browsers decode, and without commas, which separate
# several origins.
_NAME = re.compile(r"[-a-z0-9._~!$&'()*+;=]+")
_ORIGIN = re.compile(rf"({_SCHEME.pattern})://(\[[0-9a-f:.]+\]|{_NAME.pattern})(?::([0-9]{{0,5}}))?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_PATH = re.compile(r"[/?#\\]")
_PATTERN_AUTHORITY = re.compile(r"(\[[^]]*\]|[^][:]*)(?::([^:]*))?")
_SEVERAL = re.compile(r"[\s,]")


class Origin(NamedTuple):
    """A normalised origin. Two values are equal exactly if they are the same origin.

    Attributes:
        scheme: in lower case.
        host: in lower case, in the ASCII form of IDNA, without a trailing dot; an IPv6 address as 32 hexadecimal
            digits in brackets.
        port: the default port of the scheme if none is given; None if the scheme has no default port.
    """

    scheme: str
    host: str
    port: int | None


# Origins without a host: an opaque origin (RFC 6454, section 7.1), and that of local files in Chromium.
_WITHOUT_HOST = {"null": Origin("null", "", None), "file://": Origin("file", "", None)}


def read_origin(text: str) -> Origin | None:
    """Parse the value of an Origin field.

    Returns:
        The origin, or None if the value is not exactly one origin.
    """
    if not text.isascii():
        return None  # str.lower turns some letters outside ASCII, such as the Kelvin sign, into ASCII letters
    text = text.lower()
    if text in _WITHOUT_HOST:
        return _WITHOUT_HOST[text]
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found.groups()
    normalised = _normalised(host)
    if normalised is None or int(port or 0) > MAX_PORT:
        return None
    return Origin(scheme, normalised, int(port) if port else _DEFAULT_PORTS.get(scheme))


def is_same_host(origin: str, host: str) -> bool:
    """Compare the host and the port of a page with those of the request.

    The scheme is not compared: behind a proxy that terminates TLS the server does not know the scheme of the page.

    Args:
        origin: the value of the Origin field.
        host: the value of the Host field. Without a port it has the default port of the page's scheme.

    Returns:
        Whether both are the same host and port.
    """
    page = read_origin(origin)
    if page is None or page.scheme not in _DEFAULT_PORTS:
        return False
    asked = read_origin(f"{page.scheme}://{host}")
    return asked == page


def patterns_of(origins: str | Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of a setting that is one pattern, or several.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(origins, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"origins are a str such as 'https://example.com', or several, not {origins!r}")
    return (origins,) if isinstance(origins, str) else tuple(origins)


class Origins:
    """A set of origins, defined by patterns.

    Args:
        patterns: one pattern, or several. A pattern is an origin, such as ``https://example.com`` or
            ``http://localhost:8080``. Each ``*`` in its host matches any number of characters, and the port ``*``
            matches any port. Without a port, the default port of the scheme is meant. ``file://``, ``null`` and
            ``ANY_ORIGIN`` are patterns, too.

    Raises:
        ValueError: no browser sends an origin that the pattern could match. The message says what to write
            instead.
        TypeError: a pattern is not a str.
    """

    __slots__ = ("_any", "_exact", "_wildcards")

    def __init__(self, patterns: str | Iterable[str]) -> None:
        self._any = False
        self._exact: set[Origin] = set()
        self._wildcards: list[_Wildcard] = []
        for pattern in patterns_of(patterns):
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
            raise TypeError(f"an origin must be a str such as 'https://example.com', not {type(pattern).__name__}")
        if pattern == ANY_ORIGIN:
            self._any = True
            return
        read = _read_pattern(pattern)
        if isinstance(read, Origin):
            self._exact.add(read)
        else:
            self._wildcards.append(read)


class _Wildcard(NamedTuple):
    """A pattern with a wildcard in its host or port."""

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
    if pattern == SAME_HOST:
        raise _refused(pattern, "SAME_HOST is for WebSockets; pages of the same host need no permission here")
    scheme, authority = _split_pattern(pattern)
    parts = _PATTERN_AUTHORITY.fullmatch(authority)
    if parts is None:
        raise _refused(pattern, "write a host without colons, or an IPv6 address in brackets, 'http://[::1]'")
    host = _pattern_host(pattern, scheme, parts[1])
    port = _pattern_port(pattern, scheme, parts[2])
    if "*" in host or isinstance(port, str):
        return _Wildcard(scheme, host, port)
    return Origin(scheme, host, port)


def _split_pattern(pattern: str) -> tuple[str, str]:
    """Split a pattern into its scheme and its host with port."""
    if _SEVERAL.search(pattern):
        raise _refused(pattern, "write several origins as a list, ['https://a.example', 'https://b.example']")
    scheme, separator, rest = pattern.partition("://")
    scheme = scheme.lower()
    if separator and "*" in scheme:
        raise _refused(
            pattern, f"the scheme must not have a wildcard: write both 'http://{rest}' and 'https://{rest}'"
        )
    if not separator or not _SCHEME.fullmatch(scheme):
        raise _refused(pattern, "write a scheme and a host, 'https://example.com', or 'null'")
    if scheme in ("ws", "wss"):
        raise _refused(
            pattern, f"an origin is the page's URL, not the WebSocket's: write 'http{scheme[2:]}://{rest}'"
        )
    if scheme == "file":
        raise _refused(pattern, "write 'file://' for all local files")
    authority = _PATH.split(rest, 1)[0].rpartition("@")[2]
    if not authority:
        raise _refused(pattern, f"write a host, '{scheme}://example.com'")
    if authority != rest:
        raise _refused(pattern, f"an origin has neither a path nor a user: write '{scheme}://{authority}'")
    return scheme, authority


def _pattern_port(pattern: str, scheme: str, port: str | None) -> int | str | None:
    if port is None:
        return _DEFAULT_PORTS.get(scheme)
    if port == "*":
        return port
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= MAX_PORT):
        raise _refused(pattern, "the port must be a number from 1 to 65535, or '*'")
    return int(port)


def _pattern_host(pattern: str, scheme: str, host: str) -> str:
    host = ".".join([_in_ascii(pattern, label) for label in host.split(".")])
    if not host.startswith("[") and not _NAME.fullmatch(host):
        raise _refused(pattern, "write a host with letters, digits, '.', '-' and '_', and '*' as the wildcard")
    if host != "*" and not host.startswith("[") and "*" in host.rstrip(".").rpartition(".")[2]:
        raise _refused(
            pattern,
            "a wildcard in the last label would match domains of other owners: write 'https://*.example.com'",
        )
    normalised = _normalised(host)
    if normalised is None:
        raise _refused(pattern, "write an IPv6 address, without a wildcard, in the brackets")
    ends_in_number = _NUMBER.fullmatch(normalised.rpartition(".")[2])
    if scheme in _DEFAULT_PORTS and ends_in_number and "*" not in normalised and not _is_ipv4(normalised):
        raise _refused(pattern, "write an IPv4 address as four decimal numbers, '127.0.0.1', as browsers do")
    return normalised


def _in_ascii(pattern: str, label: str) -> str:
    """Convert a label of a host to the form that browsers send: lower case, in the ASCII form of IDNA.

    Browsers use UTS 46 without transitional processing, and the standard library uses IDNA 2003. A label for which
    they differ, such as one with a sharp s, is refused, because its IDNA 2003 form would never match. A label with
    a wildcard is refused as well: the ASCII form of a part of a label is not a part of its ASCII form.
    """
    if label.isascii():
        return label.lower()
    if "*" in label:
        raise _refused(pattern, f"'*' is not possible in a label with letters outside ASCII, such as {label!r}")
    by_uts46 = f"xn--{normalize('NFKC', label.lower()).encode('punycode').decode()}"
    try:
        by_idna2003 = label.encode("idna").decode()
    except UnicodeError:
        by_idna2003 = ""
    if by_uts46 != by_idna2003:
        raise _refused(pattern, f"write {label!r} in its ASCII form, 'xn--...', which is what browsers send")
    return by_idna2003


def _normalised(host: str) -> str | None:
    """Normalise a host in lower case.

    Returns:
        The host, or None if it is in brackets and not an IPv6 address.
    """
    if not host.startswith("["):
        return host.removesuffix(".") or host  # a trailing dot means the same name (RFC 1034, section 3.1)
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
