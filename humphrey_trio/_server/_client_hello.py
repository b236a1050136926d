"""Parse the first bytes of a client on a TLS port: the requested server name, or plain HTTP.

The server name is parsed here instead of in an ``sni_callback``, because a context has only one, which belongs to
the application, and because the ``ssl`` module prints a traceback to standard error if the name is not ASCII.
"""

from __future__ import annotations

import re

# The content type of a record (RFC 8446, section 5.1), a handshake message type (section 4) and an extension type
# (section 4.2).
_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0

# The first byte of an HTTP request. A TLS record begins with 0x16, and an SSL 2.0 record with a byte above 0x7F.
_METHOD = re.compile(rb"[A-Za-z]")


def is_plain_http(received: bytes) -> bool:
    """Whether the first byte of a connection is that of an HTTP request."""
    return _METHOD.match(received) is not None


def is_tls(received: bytes | bytearray) -> bool:
    """Whether a connection begins with a TLS handshake record (RFC 8446, section 5.1)."""
    return received[:2] == b"\x16\x03"


def server_name_of(records: bytes) -> str | None:
    """Parse the server name of a ClientHello (RFC 6066, section 3).

    Args:
        records: the first bytes of the connection, with a ClientHello that OpenSSL has accepted.

    Returns:
        The name as it was sent; None if there is none, or if it is not ASCII.
    """
    try:
        message = _handshake_message(records)
        if message[0] != _CLIENT_HELLO:
            return None
        at = 38  # skip the header of the message, the version and the random bytes
        at += 1 + message[at]  # the session
        at += 2 + int.from_bytes(message[at : at + 2], "big")  # the cipher suites
        at += 1 + message[at]  # the compression methods
        return _server_name_in(message, at + 2)
    except (IndexError, UnicodeDecodeError):
        return None


def _handshake_message(records: bytes) -> bytes:
    """Join the fragments of a message, which may be split over several records (RFC 8446, section 5.1)."""
    fragments: list[bytes] = []
    at = 0
    while at + 5 <= len(records) and records[at] == _HANDSHAKE_RECORD:
        end = at + 5 + int.from_bytes(records[at + 3 : at + 5], "big")
        fragments.append(records[at + 5 : end])
        at = end
    return b"".join(fragments)


def _server_name_in(message: bytes, at: int) -> str | None:
    """Find the server name in the extensions that begin at ``at``."""
    while at < len(message):
        size = int.from_bytes(message[at + 2 : at + 4], "big")
        if int.from_bytes(message[at : at + 2], "big") == _SERVER_NAME:
            # Before the name: the type (2 bytes) and the length (2) of the extension, the length of the list (2),
            # the type of its first entry (1), and the length of the entry (2). A list has only one host name.
            length = int.from_bytes(message[at + 7 : at + 9], "big")
            return message[at + 9 : at + 9 + length].decode("ascii") or None
        at += 4 + size
    return None
