"""The opening handshake (RFC 6455, section 4.2): what a server checks, and how it answers.

Pure: it decides nothing for an application, and waits for nobody.
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
# RFC 9110, section 15.5.22, and RFC 6455, section 4.4: which protocol, and which version of it, would do.
_UPGRADE = Headers([("Upgrade", "websocket"), ("Connection", "upgrade")])
_OTHER_VERSION = _UPGRADE.with_header("Sec-WebSocket-Version", _VERSION)
_GET_ONLY = Headers([("Allow", "GET")])
_SWITCH_FIELDS = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"


def check_handshake(request: Request) -> str:
    """Check the fields of an opening handshake (RFC 6455, section 4.2.1).

    Args:
        request: one whose head ``wants_websocket``: method, version, Connection and Upgrade are right.

    Returns:
        The key.

    Raises:
        HandshakeError: with 426 for a version that is not spoken here, else with 400.
    """
    version = _single(request, "Sec-WebSocket-Version")
    if version != _VERSION:
        raise HandshakeError(f"only WebSocket version {_VERSION} is spoken here", 426, headers=_OTHER_VERSION)
    key = _single(request, "Sec-WebSocket-Key")
    try:
        decoded = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != _KEY_BYTES:
        raise HandshakeError("Sec-WebSocket-Key is not the base64 of 16 bytes")
    return key


def no_handshake(request: Request) -> HandshakeError:
    """Why an ordinary request is refused where only a websocket route is.

    HEAD is answered as GET is (RFC 9110, section 9.3.2).
    """
    if request.method not in ("GET", "HEAD"):
        return HandshakeError("a WebSocket is opened with GET", 405, headers=_GET_ONLY)
    return HandshakeError(
        "only WebSockets are served here, and the request does not ask for one with 'Connection: Upgrade',"
        " 'Upgrade: websocket' and HTTP/1.1, or a proxy has not passed that on",
        426,
        headers=_UPGRADE,
    )


def _single(request: Request, name: str) -> str:
    values = request.headers.get_all(name)
    if len(values) != 1:
        raise HandshakeError(f"{name} {'is missing' if not values else 'stands more than once'}")
    return values[0]


def answer_handshake(key: str, extra: Headers) -> bytes:
    """The 101 to a handshake with that key (RFC 6455, section 4.2.2), with further header fields."""
    return encode_switch(_SWITCH_FIELDS % generate_accept_token(key.encode("ascii")), extra)
