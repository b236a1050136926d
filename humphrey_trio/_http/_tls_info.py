"""The TLS parameters of a connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

#: Has the interface of ``ssl.SSLSocket.getpeercert``: called with True, returns DER instead of a dict.
CertificateGetter: TypeAlias = Callable[[bool], bytes | Mapping[str, Any] | None]


def _no_certificate(binary_form: bool) -> Literal[None]:
    return None


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """The TLS parameters of a connection.

    Attributes:
        version: the protocol version, such as ``"TLSv1.3"``.
        cipher: the name of the cipher suite, such as ``"TLS_AES_256_GCM_SHA384"``.
        server_name: the host name that the client requested (SNI; RFC 6066, section 3), as it was sent; None if
            it sent none.
        alpn_protocol: the negotiated application protocol (ALPN; RFC 7301), such as ``"http/1.1"``; None if none
            was negotiated.
        certificate_getter: returns the client's certificate, as ``ssl.SSLSocket.getpeercert`` does.
    """

    version: str
    cipher: str
    server_name: str | None = None
    alpn_protocol: str | None = None
    certificate_getter: CertificateGetter = field(default=_no_certificate, repr=False, compare=False)

    @property
    def peer_certificate(self) -> bytes | None:
        """The client's certificate in DER; None if the client sent none.

        A client only sends one if ``verify_mode`` of the ``SSLContext`` requests it. The handshake fails if the
        context cannot verify it.
        """
        return cast("bytes | None", self.certificate_getter(True))

    @property
    def peer_certificate_fields(self) -> Mapping[str, Any]:
        """The client's certificate as a dict of ``ssl.SSLSocket.getpeercert()``; empty if there is none."""
        return cast("Mapping[str, Any] | None", self.certificate_getter(False)) or {}
