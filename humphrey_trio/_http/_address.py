"""Addresses of servers and clients: a host and a port, or the path of a Unix socket."""

from __future__ import annotations

from typing import NamedTuple

UNIX_PREFIX = "unix:"

MAX_PORT = 65535


class Address(NamedTuple):
    """The address of one end of a connection.

    Attributes:
        host: an IP address, a host name, or ``unix:/path`` for a Unix socket.
        port: the TCP port from 0 to 65535; always 0 for a Unix socket.

    ``str(address)`` has the form that ``App.run`` accepts: ``127.0.0.1:80``, ``[::1]:80`` or ``unix:/path``.
    """

    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.host.startswith(UNIX_PREFIX):
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Args:
            text: ``host:port``, ``[IPv6 address]:port`` or ``unix:/path``.

        Returns:
            The address. The host of an IPv6 address has no brackets. Host names are not resolved.

        Raises:
            ValueError: the text has another form, or the port is above 65535.
        """
        if text.startswith(UNIX_PREFIX):
            if len(text) == len(UNIX_PREFIX):
                raise ValueError("a Unix socket needs a path: 'unix:/path/to/socket'")
            return cls(text)
        host, port = split_port(text)
        bracketed = host.startswith("[") and host.endswith("]")
        if not host or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
            raise _not_an_address(text)
        if (":" in host) != bracketed:
            raise _not_an_address(text)
        return cls(host[1:-1] if bracketed else host, int(port))


def split_port(authority: str) -> tuple[str, str]:
    """Split ``host:port``.

    Returns:
        The host, and the text after the last colon; empty if there is no port. A colon in the brackets of an IPv6
        address does not begin a port.
    """
    host, colon, port = authority.rpartition(":")
    return (host, port) if colon and not port.endswith("]") else (authority, "")


def _not_an_address(text: str) -> ValueError:
    return ValueError(f"{text!r} is not an address: write '127.0.0.1:80', '[::1]:80' or 'unix:/path'")
