"""The addresses that an application listens on, in log lines."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .._http._address import UNIX_PREFIX, Address
from .._quoting import printable

logger = logging.getLogger("humphrey_trio.http")


def url_of(address: Address, *, tls: bool = False, scheme: str = "http") -> str:
    """Return the address in the form that a client opens, such as ``https://[::1]:8443``.

    Args:
        address: the address.
        tls: whether the server uses TLS.
        scheme: the scheme without TLS: ``http``, or ``ws`` if the server has only WebSockets.

    A Unix socket has no URL. It is ``unix:/path``, with ``(TLS)`` after it if the server uses TLS.
    """
    if address.host.startswith(UNIX_PREFIX):
        return printable(f"{address} (TLS)" if tls else str(address))
    return f"{scheme}{'s' if tls else ''}://{address}"


def log_listening(addresses: Iterable[Address], *, tls: bool = False, scheme: str = "http") -> None:
    """Log at level INFO that the application listens, with one line for each address.

    Args:
        addresses: the addresses of the listeners, with their actual ports.
        tls, scheme: as for ``url_of``.
    """
    for address in addresses:
        logger.info("listening on %s", url_of(address, tls=tls, scheme=scheme))


def of_addresses(addresses: Iterable[Address], *, tls: bool = False, scheme: str = "http") -> str:
    """Return the addresses for a log line about their server.

    Args:
        addresses, tls, scheme: as for ``log_listening``.

    Returns:
        Such as `` of http://127.0.0.1:8080, http://[::1]:8080``; empty without addresses.
    """
    urls = ", ".join([url_of(address, tls=tls, scheme=scheme) for address in addresses])
    return urls and f" of {urls}"
