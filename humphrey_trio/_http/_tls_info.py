"""What TLS has negotiated for a connection, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """What TLS has negotiated for a connection.

    Attributes:
        version: the protocol version, such as ``"TLSv1.3"``.
        cipher: the name of the cipher suite, such as ``"TLS_AES_256_GCM_SHA384"``.
        server_name: the host that the client has asked for (SNI; RFC 6066, section 3), as it was sent; None if
            it has named none.
        alpn_protocol: the protocol that both agreed on (ALPN; RFC 7301), such as ``"http/1.1"``; None if none.
        peer_certificate: the client's certificate in DER; None if it has sent none. The context asks for one
            with ``verify_mode``, and refuses those that it cannot verify.
        peer_certificate_fields: the same certificate in the form of ``ssl.SSLSocket.getpeercert()``; empty if
            there is none.
    """

    version: str
    cipher: str
    server_name: str | None = None
    alpn_protocol: str | None = None
    peer_certificate: bytes | None = None
    peer_certificate_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
