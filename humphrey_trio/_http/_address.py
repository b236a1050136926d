"""Addresses of servers and clients: a host and a port, or the path of a Unix socket."""

from __future__ import annotations

from typing import NamedTuple, cast

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
            TypeError: it is not a str.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"an address is a str, not {text!r}: {address_advice(text)}")
        if text.startswith(UNIX_PREFIX):
            if len(text) == len(UNIX_PREFIX):
                raise ValueError("a Unix socket needs a path: 'unix:/path/to/socket'")
            return cls(text)
        host, port = split_port(text)
        bracketed = host.startswith("[") and host.endswith("]")
        if not host or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
            raise _not_an_address(text)
        if (":" in host) != bracketed or host == "fd":
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


def refuse_address(state: object, advice: str, name: str) -> None:
    """Check that an address was not passed as the state of an application.

    Args:
        state: the state.
        advice: where an address belongs, for the message.
        name: the class of the application, for the message.

    Raises:
        ValueError: it is the text of an address.
    """
    if not isinstance(state, str):
        return
    try:
        Address.parse(state)
    except ValueError:
        return
    raise ValueError(
        f"the first argument of {name} is the state of the app, and {state!r} is an address: {advice}"
    )


def address_advice(given: object) -> str:
    """Return what to write instead of something that is not an address."""
    shown = str(given)
    host, _, port = shown.rpartition(":")
    if isinstance(given, tuple):
        return f"write '{':'.join(map(str, cast('tuple[object, ...]', given)))}'"
    if isinstance(given, (list, set)):
        return "pass each address as an argument of its own"
    if "://" in shown:
        return "leave out the scheme, as in 'localhost:8080'"
    if shown.isascii() and shown.isdigit():
        return f"write '127.0.0.1:{shown}', or '0.0.0.0:{shown}' for all IPv4 addresses of this machine"
    if host == "fd":
        return "pass the open socket itself, such as socket.socket(fileno=3)"
    if port.isdigit() and not host:
        return f"write '0.0.0.0{shown}' for all IPv4 addresses of this machine, or '[::]{shown}' for IPv6"
    if port.isdigit() and int(port) > MAX_PORT:
        return f"a port is at most {MAX_PORT}"
    if ":" in host:
        return "write an IPv6 address in brackets, as in '[::1]:8080'"
    if shown.startswith("/"):
        return f"write 'unix:{shown}' for a Unix socket"
    if shown and ":" not in shown:
        return f"add the port, as in '{shown}:8080'"
    return "write '127.0.0.1:80', '[::1]:80' or 'unix:/path'"


def _not_an_address(text: str) -> ValueError:
    return ValueError(f"{text!r} is not an address: {address_advice(text)}")
