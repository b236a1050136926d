"""The ``tls`` extension of ASGI: the TLS parameters of a connection, as the specification names them."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, cast

from .._http._tls_info import TlsInfo

_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

# The names of attributes that RFC 4514, section 3, abbreviates.
_SHORT_NAMES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}

_ESCAPED = str.maketrans({char: f"\\{char}" for char in '"+,;<>\\'} | {"\0": "\\00"})


def tls_extension(tls: TlsInfo) -> dict[str, Any]:
    """Return the value of ``scope["extensions"]["tls"]``.

    The number of the cipher suite and the certificate of the server are None: the ``ssl`` module has neither.
    """
    certificate = tls.peer_certificate
    return {
        "server_cert": None,
        "client_cert_chain": [] if certificate is None else [ssl.DER_cert_to_PEM_cert(certificate)],
        "client_cert_name": None if certificate is None else distinguished_name(tls.peer_certificate_fields),
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(tls.version),
        "cipher_suite": None,
    }


def distinguished_name(fields: Mapping[str, Any]) -> str:
    """Return the name of the subject of a certificate as a text (RFC 4514, section 2).

    Args:
        fields: the result of ``ssl.SSLSocket.getpeercert()``.
    """
    subject = cast("Iterable[Iterable[tuple[str, str]]]", fields.get("subject", ()))
    relative = [
        "+".join([f"{_SHORT_NAMES.get(name, name)}={_escape(value)}" for name, value in part]) for part in subject
    ]
    return ",".join(reversed(relative))


def _escape(value: str) -> str:
    """Escape a value (RFC 4514, section 2.4)."""
    escaped = value.translate(_ESCAPED)
    if escaped.startswith((" ", "#")):
        escaped = f"\\{escaped}"
    if len(value) > 1 and value.endswith(" "):
        escaped = f"{escaped[:-1]}\\ "
    return escaped
