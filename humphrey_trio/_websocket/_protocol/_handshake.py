"""The opening handshake of a server (RFC 6455, section 4.2): the checks of the request, and the response.

This module does no I/O, and contains no settings of an application.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from wsproto.utilities import generate_accept_token

from ..._http._headers import Headers
from ..._server._response_writer import encode_switch
from .._errors import HandshakeError

if TYPE_CHECKING:
    from ..._http._request import Request

_VERSION = "13"
_KEY_BYTES = 16
# A 426 names the required protocol (RFC 9110, section 15.5.22) and the supported version (RFC 6455, section 4.4).
_UPGRADE = Headers([("Upgrade", "websocket"), ("Connection", "upgrade")])
_OTHER_VERSION = _UPGRADE.with_header("Sec-WebSocket-Version", _VERSION)
_GET_ONLY = Headers([("Allow", "GET")])
_SWITCH_FIELDS = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"


def check_handshake(request: Request) -> str:
    """Check the fields of an opening handshake (RFC 6455, section 4.2.1).

    Args:
        request: a request for which ``wants_websocket`` is true, so that method, HTTP version, Connection and
            Upgrade are checked already.

    Returns:
        The value of ``Sec-WebSocket-Key``.

    Raises:
        HandshakeError: with 426 if the WebSocket version is not supported, with 400 if a field is invalid.
    """
    version = _single(request, "Sec-WebSocket-Version")
    if version != _VERSION:
        raise HandshakeError(f"only WebSocket version {_VERSION} is supported", 426, headers=_OTHER_VERSION)
    key = _single(request, "Sec-WebSocket-Key")
    try:
        decoded = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != _KEY_BYTES:
        raise HandshakeError("Sec-WebSocket-Key is not the base64 of 16 bytes")
    return key


def no_handshake(request: Request) -> HandshakeError:
    """Return the refusal of an ordinary request for a path that has only a websocket route.

    The response to HEAD is that to GET (RFC 9110, section 9.3.2).
    """
    if request.method not in ("GET", "HEAD"):
        return HandshakeError("a WebSocket is opened with GET", 405, headers=_GET_ONLY)
    return HandshakeError(
        "only WebSockets are served here, and the request does not ask for one with 'Connection: Upgrade',"
        " 'Upgrade: websocket' and HTTP/1.1, or a proxy did not forward these fields",
        426,
        headers=_UPGRADE,
    )


def _single(request: Request, name: str) -> str:
    values = request.headers.get_all(name)
    if len(values) != 1:
        raise HandshakeError(f"{name} {'is missing' if not values else 'is repeated'}")
    return values[0]


def answer_handshake(key: str, extra: Headers) -> bytes:
    """Encode the 101 response (RFC 6455, section 4.2.2).

    Args:
        key: the value of ``Sec-WebSocket-Key``.
        extra: further header fields.
    """
    return encode_switch(_SWITCH_FIELDS % generate_accept_token(key.encode("ascii")), extra)
