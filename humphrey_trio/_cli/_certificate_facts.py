"""Read the certificate of an SSL context as a client sees it: its names, and the time in which it is valid.

Python has no public parser of certificates. But a client gets the fields of one that it has verified, so a client
in memory does two handshakes: the first gets the certificate, and the second trusts it.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any, NamedTuple

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name: an expired certificate is read as well.
_NO_CHECK_TIME = 0x200000
# The messages of a handshake, in both directions, are fewer.
_ROUNDS = 10


class CertificateFacts(NamedTuple):
    """The fields of a certificate.

    Attributes:
        names: the names and addresses for which it is valid.
        begin, end: the time in which it is valid, in seconds since 1970.
    """

    names: tuple[str, ...]
    begin: float
    end: float


def read_certificate(context: ssl.SSLContext) -> CertificateFacts:
    """Read the certificate that a server with a context sends.

    Raises:
        ssl.SSLError: the handshake fails, or the certificate cannot be used for a server.
        ValueError: the server sends no certificate, or requires one of the client before it sends its own.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    content = _handshake(client, context).getpeercert(binary_form=True)
    if content is None:
        raise ValueError("the server sends no certificate")
    client.verify_mode = ssl.CERT_REQUIRED
    client.load_verify_locations(cadata=content)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    fields: dict[str, Any] = _handshake(client, context).getpeercert() or {}
    return CertificateFacts(
        tuple(value for _, value in fields.get("subjectAltName", ())),
        ssl.cert_time_to_seconds(fields["notBefore"]),
        ssl.cert_time_to_seconds(fields["notAfter"]),
    )


def _handshake(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> ssl.SSLObject:
    """Do a handshake in memory. Returns the end of the client."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_ROUNDS):
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        with suppress(ssl.SSLError):  # it may want a certificate of the client, which is not needed here
            server.do_handshake()
    return client
