"""What a client says first: which host it means, or that it speaks no TLS at all.

The host is read here because a context has one ``sni_callback``, which is its owner's; and OpenSSL's wrapper
writes a traceback to standard error for a name that is no ASCII.
"""

from __future__ import annotations

import re

# The content type of a record, the type of a message and that of an extension (RFC 8446, sections 5.1, 4 and 4.2).
_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0

# What an HTTP request begins with. A record of TLS begins with 0x16, one of SSL 2.0 with a byte above 0x7F.
_METHOD = re.compile(rb"[A-Za-z]")


def is_plain_http(received: bytes) -> bool:
    """Whether a connection begins with an HTTP request, as far as its first byte tells."""
    return _METHOD.match(received) is not None


def server_name_of(records: bytes) -> str | None:
    """The host name in a ClientHello (RFC 6066, section 3).

    Args:
        records: the connection's first bytes, with a ClientHello that OpenSSL has accepted.

    Returns:
        The name as it was sent; None if there is none, or if it is no ASCII.
    """
    try:
        message = _handshake_message(records)
        if message[0] != _CLIENT_HELLO:
            return None
        at = 38  # behind the message's header, the version and the random bytes
        at += 1 + message[at]  # the session
        at += 2 + int.from_bytes(message[at : at + 2], "big")  # the cipher suites
        at += 1 + message[at]  # the compression methods
        return _server_name_in(message, at + 2)
    except (IndexError, UnicodeDecodeError):
        return None


def _handshake_message(records: bytes) -> bytes:
    """What the records of the handshake carry, which may share out one message."""
    fragments: list[bytes] = []
    at = 0
    while at + 5 <= len(records) and records[at] == _HANDSHAKE_RECORD:
        end = at + 5 + int.from_bytes(records[at + 3 : at + 5], "big")
        fragments.append(records[at + 5 : end])
        at = end
    return b"".join(fragments)


def _server_name_in(message: bytes, at: int) -> str | None:
    """The host name in the extensions that begin there."""
    while at < len(message):
        size = int.from_bytes(message[at + 2 : at + 4], "big")
        if int.from_bytes(message[at : at + 2], "big") == _SERVER_NAME:
            # In front of it: the type and the length of the extension, the length of the list, the type of its
            # first entry (there is only one: a host name), and the length of that.
            length = int.from_bytes(message[at + 7 : at + 9], "big")
            return message[at + 9 : at + 9 + length].decode("ascii") or None
        at += 4 + size
    return None
