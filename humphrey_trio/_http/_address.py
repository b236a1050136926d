"""Where a server listens and where a client is: a host and a port, or the path of a Unix socket."""

from __future__ import annotations

from typing import NamedTuple

UNIX_PREFIX = "unix:"


class Address(NamedTuple):
    """One end of a connection.

    Attributes:
        host: an IP address, a host name, or ``unix:/path`` for a Unix socket.
        port: the TCP port from 0 to 65535; always 0 for a Unix socket.

    ``str(address)`` gives what ``App.run`` takes: ``127.0.0.1:80``, ``[::1]:80`` or ``unix:/path``.
    """

    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.host.startswith(UNIX_PREFIX):
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address as ``str`` writes it.

        Raises:
            ValueError: the text has none of the three forms.
        """
        if text.startswith(UNIX_PREFIX):
            if len(text) == len(UNIX_PREFIX):
                raise ValueError("a Unix socket needs a path: 'unix:/path/to/socket'")
            return cls(text)
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise _not_an_address(text)
        if (":" in host) != bracketed:
            raise _not_an_address(text)
        return cls(host[1:-1] if bracketed else host, int(port))


def _not_an_address(text: str) -> ValueError:
    return ValueError(f"{text!r} is no address: write '127.0.0.1:80', '[::1]:80' or 'unix:/path'")
