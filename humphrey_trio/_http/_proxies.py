"""Who sent a request that came through proxies: X-Forwarded-For and Forwarded (RFC 7239).

Anyone can send these fields, so only what a trusted proxy wrote counts. Each proxy adds its entry at the right, so
the entries are read from there, and never beyond the first address that is not a trusted proxy. Everything takes
time linear in the size of the fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, TypeAlias

from ._address import MAX_PORT, UNIX_PREFIX, Address, split_port
from ._headers import TCHAR, Headers
from ._origins import read_origin

_IpAddress: TypeAlias = IPv4Address | IPv6Address
_IpNetwork: TypeAlias = IPv4Network | IPv6Network

_UNIX = "unix"
# The longest text that can be an address with a port, in brackets.
_LONGEST_NODE = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")
# A port may be obfuscated (RFC 7239, section 6.1). It is unknown then.
_PORT = re.compile(r"(?P<number>[0-9]{1,5})|_[A-Za-z0-9._-]+")
# The scheme of a WebSocket is that of its handshake.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

# One parameter of Forwarded with the separator after it (RFC 7239, section 4). A value without quotation marks may
# have more characters than a token, because many proxies write addresses with ports or brackets that way. No
# repetition can match what the next part matches, so a match takes linear time.
_PAIR = re.compile(
    rf'[ \t]*(?:(?P<name>{TCHAR}+)=(?:"(?P<quoted>[^"\\]*(?:\\.[^"\\]*)*)"|(?P<plain>[^\s",;]*))[ \t]*)?'
    r"(?P<separator>[;,]|\Z)"
)
_ESCAPED = re.compile(r"\\(.)")


class Forwarded(NamedTuple):
    """How a request reached the first trusted proxy.

    Attributes:
        client: the address of the client. The port is 0 if it is not known.
        scheme: ``"http"`` or ``"https"``; None if no proxy tells.
        host: the host, with a port if the client gave one; None if no proxy tells.
    """

    client: Address
    scheme: str | None = None
    host: str | None = None


class _Hop(NamedTuple):
    """The entry that one proxy added. ``node`` is the text about its peer."""

    node: str
    scheme: str | None = None
    host: str | None = None


class TrustedProxies:
    """The proxies whose forwarding fields are believed, and the field that they send.

    Args:
        proxies: IP addresses and networks, such as ``"10.0.0.0/8"``, and ``"unix"`` for proxies that connect over
            a Unix socket. Name no network in which there are clients as well.
        header: ``"x-forwarded-for"``, with X-Forwarded-Proto and X-Forwarded-Host, or ``"forwarded"`` (RFC 7239).
            The other one is ignored, because a proxy that does not know it passes on what the client sent.

    Every proxy has to add its entry to the field at the right. With ``"x-forwarded-for"``, it has to replace
    X-Forwarded-Proto and X-Forwarded-Host, or to remove them: if there are several values, the last one counts.

    Raises:
        ValueError: there is no proxy, one is neither an address nor a network, or the header is another one.
        TypeError: a proxy is not a str.
    """

    __slots__ = ("_header", "_networks", "_unix")

    def __init__(self, *proxies: str, header: str = "x-forwarded-for") -> None:
        if not proxies:
            raise ValueError("name the proxies, TrustedProxies('10.0.0.0/8'), or omit TrustedProxies")
        if not isinstance(header, str) or header.lower() not in _READERS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"header={header!r} is not supported: use 'x-forwarded-for' or 'forwarded'")
        self._header = header.lower()
        self._unix = _UNIX in proxies
        self._networks = tuple(_network(proxy) for proxy in proxies if proxy != _UNIX)

    def __repr__(self) -> str:
        names = [_UNIX] * self._unix + [str(network) for network in self._networks]
        return f"TrustedProxies({', '.join(map(repr, names))}, header={self._header!r})"

    def resolve(self, peer: Address, headers: Headers) -> Forwarded:
        """Find the client of a request.

        Args:
            peer: the address of the peer of the connection.
            headers: the header fields of the request.

        Returns:
            The right-most address that is not a trusted proxy, beginning with the peer, and the scheme and host of
            its request. An entry that is not an address ends the search: the client is the proxy that wrote it
            then. If all addresses are trusted, the client is the left-most one.
        """
        if not self.trusts(peer):
            return Forwarded(peer)
        client, scheme, host = peer, None, None
        for hop in _READERS[self._header](headers):
            # A trusted proxy wrote this entry. The left-most one is that of the proxy next to the client.
            scheme, host = hop.scheme or scheme, hop.host or host
            address = _read_node(hop.node)
            if address is None:
                break
            client = address
            if not self.trusts(address):
                break
        return Forwarded(client, scheme, host)

    def trusts(self, address: Address) -> bool:
        """Whether an address is that of a proxy. The host ``unix:`` stands for every peer over a Unix socket."""
        if address.host.startswith(UNIX_PREFIX):
            return self._unix
        ip = _read_ip(address.host)
        return ip is not None and any(ip in network for network in self._networks)


def _network(text: str) -> _IpNetwork:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"a trusted proxy is a str such as '10.0.0.0/8' or 'unix', not {type(text).__name__}:"
            " write TrustedProxies('10.0.0.0/8', 'unix')"
        )
    if text == "*":
        raise ValueError("'*' would trust everyone: name the proxies, or write '0.0.0.0/0' and '::/0'")
    try:
        return ip_network(text)
    except ValueError as exc:
        raise ValueError(
            f"{text!r} is not a trusted proxy: write an address, a network such as '10.0.0.0/8', or 'unix' ({exc})"
        ) from None


# ----------------------------------------------------------------------------------------------- nodes


def _read_node(text: str) -> Address | None:
    """Parse an address with or without a port; ``unix:``, which nginx writes, is one.

    Returns:
        The address, or None for everything else, such as ``unknown`` and obfuscated names (RFC 7239, section 6.3).
    """
    if len(text) > _LONGEST_NODE or "%" in text:  # a zone means nothing on another machine
        return None
    if text == UNIX_PREFIX:
        return Address(UNIX_PREFIX)
    host, port = (text, "") if text.count(":") > 1 and not text.startswith("[") else split_port(text)
    bracketed = host.startswith("[") and host.endswith("]")
    ip = _read_ip(host[1:-1] if bracketed else host)
    number = _read_port(port)
    if ip is None or number is None or (bracketed and ":" not in host):
        return None
    return Address(str(ip), number)


def _read_port(text: str) -> int | None:
    """Parse a port: 0 if there is none or it is obfuscated, None if it is malformed."""
    found = _PORT.fullmatch(text)
    if found is None:
        return None if text else 0
    number = int(found["number"] or 0)
    return number if number <= MAX_PORT else None


@lru_cache(maxsize=1024)  # of the proxies, and of their busiest clients
def _read_ip(text: str) -> _IpAddress | None:
    """Parse an IP address. An IPv4 address in IPv6 (RFC 4291, section 2.5.5.2) is the IPv4 address."""
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return (isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip


def _read_scheme(text: str | None) -> str | None:
    return _SCHEMES.get(text.lower()) if text else None


def _read_host(host: str | None) -> str | None:
    return host if host and read_origin(f"http://{host}") is not None else None


# ---------------------------------------------------------------------------------------------- fields


def _x_forwarded(headers: Headers) -> Iterator[_Hop]:
    """Yield the entries of X-Forwarded-For from the right, each with the scheme and host of the other fields."""
    scheme = _read_scheme(next(_from_right(headers, "X-Forwarded-Proto"), None))
    host = _read_host(next(_from_right(headers, "X-Forwarded-Host"), None))
    for node in _from_right(headers, "X-Forwarded-For"):
        yield _Hop(node, scheme, host)
    yield _Hop("", scheme, host)  # a proxy may send the other fields alone


def _from_right(headers: Headers, name: str) -> Iterator[str]:
    """Yield the members of a list from the right, without empty ones (RFC 9110, section 5.6.1.2)."""
    for value in reversed(headers.get_all(name)):
        for member in reversed(value.split(",")):
            member = member.strip(" \t")
            if member:
                yield member


def _forwarded(headers: Headers) -> Iterator[_Hop]:
    """Yield the elements of Forwarded from the right (RFC 7239, section 4).

    Each line is parsed on its own, so an unclosed quotation in a line of the client does not extend to the next. A
    malformed line is one entry without an address.
    """
    for value in reversed(headers.get_all("Forwarded")):
        elements = _read_elements(value)
        if elements is None:
            yield _Hop("")
            return
        for element in reversed(elements):
            yield _Hop(element.get("for", ""), _read_scheme(element.get("proto")), _read_host(element.get("host")))


def _read_elements(value: str) -> list[dict[str, str]] | None:
    """Parse a line of Forwarded into its elements, without empty ones; None if it is malformed."""
    elements: list[dict[str, str]] = [{}]
    at = 0
    while (found := _PAIR.match(value, at)) is not None:
        at = found.end()
        if found["name"] is not None and not _add_pair(elements[-1], found):
            return None
        if not found["separator"]:
            return [element for element in elements if element]
        if found["separator"] == ",":
            elements.append({})
    return None


def _add_pair(element: dict[str, str], found: re.Match[str]) -> bool:
    """Add a parameter to an element. False if it has one of this name, which is malformed."""
    name = found["name"].lower()
    if name in element:
        return False
    quoted = found["quoted"]
    element[name] = found["plain"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
    return True


_READERS = {"x-forwarded-for": _x_forwarded, "forwarded": _forwarded}
