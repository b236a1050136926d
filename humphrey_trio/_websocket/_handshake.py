"""The opening handshake (RFC 6455, section 4.2): what a server checks, and how it answers.

Pure: it decides nothing for an application, and waits for nobody.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from wsproto.utilities import generate_accept_token

from .._http._headers import Headers
from .._server._codec import encode_switch, tokens
from ._errors import HandshakeError

if TYPE_CHECKING:
    from .._http._request import Request

_VERSION = "13"
_KEY_BYTES = 16
# RFC 6455, section 4.4, and RFC 9110, section 15.5.22: which version, and which protocol, would do.
_OTHER_VERSION = Headers(
    [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", _VERSION)]
)
_SWITCH_FIELDS = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"


def check_handshake(request: Request) -> str:
    """Check an opening handshake (RFC 6455, section 4.2.1); its key.

    Raises:
        HandshakeError: with 426 for a version that is not spoken here, else with 400.
    """
    if request.method != "GET":
        raise HandshakeError("an upgrade to WebSocket is a GET request")
    if request.version != "HTTP/1.1":
        raise HandshakeError("an upgrade to WebSocket needs HTTP/1.1")
    fields: dict[str, list[str]] = {}
    for name, value in request.headers:
        fields.setdefault(name.lower(), []).append(value)
    if not any("upgrade" in tokens(value) for value in fields.get("connection", ())):
        raise HandshakeError("the header 'Connection: Upgrade' is missing")
    version = _single(fields, "Sec-WebSocket-Version")
    if version != _VERSION:
        raise HandshakeError(f"only WebSocket version {_VERSION} is spoken here", 426, headers=_OTHER_VERSION)
    key = _single(fields, "Sec-WebSocket-Key")
    try:
        decoded = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != _KEY_BYTES:
        raise HandshakeError("Sec-WebSocket-Key is not the base64 of 16 bytes")
    return key


def _single(fields: dict[str, list[str]], name: str) -> str:
    values = fields.get(name.lower(), [])
    if len(values) != 1:
        raise HandshakeError(f"{name} {'is missing' if not values else 'stands more than once'}")
    return values[0]


def answer_handshake(key: str, extra: Headers) -> bytes:
    """The 101 to a handshake with that key (RFC 6455, section 4.2.2), with further header fields."""
    return encode_switch(_SWITCH_FIELDS % generate_accept_token(key.encode("ascii")), extra)
