"""What TLS has negotiated for a connection, as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

#: As ``ssl.SSLSocket.getpeercert``: the argument asks for DER in place of a dict.
CertificateGetter: TypeAlias = Callable[[bool], bytes | Mapping[str, Any] | None]


def _no_certificate(binary_form: bool) -> Literal[None]:
    return None


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """What TLS has negotiated for a connection.

    Attributes:
        version: the protocol version, such as ``"TLSv1.3"``.
        cipher: the name of the cipher suite, such as ``"TLS_AES_256_GCM_SHA384"``.
        server_name: the host that the client has asked for (SNI; RFC 6066, section 3), as it was sent; None if
            it has named none.
        alpn_protocol: the protocol that both agreed on (ALPN; RFC 7301), such as ``"http/1.1"``; None if none.
        certificate_getter: looks the client's certificate up, as ``ssl.SSLSocket.getpeercert`` does.
    """

    version: str
    cipher: str
    server_name: str | None = None
    alpn_protocol: str | None = None
    certificate_getter: CertificateGetter = field(default=_no_certificate, repr=False, compare=False)

    @property
    def peer_certificate(self) -> bytes | None:
        """The client's certificate in DER; None if it has sent none.

        The context asks for one with ``verify_mode``, and refuses those that it cannot verify.
        """
        return cast("bytes | None", self.certificate_getter(True))

    @property
    def peer_certificate_fields(self) -> Mapping[str, Any]:
        """The same certificate in the form of ``ssl.SSLSocket.getpeercert()``; empty if there is none."""
        return cast("Mapping[str, Any] | None", self.certificate_getter(False)) or {}
