"""The server side of one TLS handshake, in memory. It does no I/O: the transport sends and receives the bytes.

The objects of OpenSSL are created here. The transport keeps them when the handshake is complete, and drops the
handshake.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import trio

from .._http._tls_info import TlsInfo
from ._client_hello import is_plain_http, server_name_of
from ._ssl_errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# The maximum number of bytes from a peer that are quoted in an error message.
_MAX_QUOTED = 60


class TlsHandshakeError(trio.BrokenResourceError):
    """The handshake failed. The message is a short reason, in which text from the peer is escaped."""


class PlainHttpError(TlsHandshakeError):
    """The peer has sent an HTTP request without TLS.

    Attributes:
        received: the received bytes.
    """

    def __init__(self, received: bytes) -> None:
        line = received[: _MAX_QUOTED + 1].split(b"\r\n", 1)[0]
        more = "..." if len(line) > _MAX_QUOTED else ""
        super().__init__(f"not TLS: begins with {line[:_MAX_QUOTED].decode('latin-1')!a}{more}")
        self.received = received


class TlsHandshake:
    """One handshake. Create it when the first bytes have arrived, so that a silent peer uses no memory of OpenSSL.

    Args:
        context: a context for servers. It is not modified.
        received: the first bytes of the peer. They must be passed to ``advance`` as well.

    Attributes:
        tls: the connection of OpenSSL.
        incoming, outgoing: the ciphertext for OpenSSL, and that of OpenSSL.

    Raises:
        PlainHttpError: the bytes are an HTTP request.
        TlsHandshakeError: OpenSSL does not accept the context.
    """

    __slots__ = ("_hello", "_server_name", "incoming", "outgoing", "tls")

    def __init__(self, context: ssl.SSLContext, received: bytes) -> None:
        if is_plain_http(received):
            raise PlainHttpError(received)
        # The pieces of the ClientHello, until it is complete. OpenSSL tells the server name only to the one
        # ``sni_callback`` of a context, which belongs to the application.
        self._hello: list[bytes] | None = []
        self._server_name: str | None = None
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        except ssl.SSLError as exc:
            raise TlsHandshakeError(reason_of(exc)) from exc

    def advance(self, received: bytes) -> bool:
        """Process received bytes. Afterwards ``outgoing`` has what must be sent.

        Returns:
            Whether the handshake is complete.

        Raises:
            TlsHandshakeError: the handshake failed. ``outgoing`` has the alert, if there is one.
        """
        if self._hello is not None:
            self._hello.append(received)
        self.incoming.write(received)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._read_server_name()
            return False
        except Exception as exc:  # do_handshake runs callbacks of the context, which may raise anything
            raise TlsHandshakeError(reason_of(exc)) from exc
        return True

    def _read_server_name(self) -> None:
        """Parse the ClientHello as soon as it is complete. OpenSSL replies then, and not before."""
        if self._hello is not None and self.outgoing.pending:
            self._server_name, self._hello = server_name_of(b"".join(self._hello)), None

    @property
    def can_delay(self) -> bool:
        """Whether what is left to send are only session tickets, and they can be sent with the first response.

        They can only wait if the first request has already arrived. A client with Nagle's algorithm delays its
        request until its part of the handshake is acknowledged.
        """
        return self.incoming.pending > 0 and self.tls.version() == "TLSv1.3"

    def info(self) -> TlsInfo:
        """Return the TLS parameters of a complete handshake.

        Read them now: after a part of a KeyUpdate, OpenSSL does not report the version and the certificate.
        """
        tls = self.tls
        cipher = tls.cipher()
        certificate = tls.getpeercert(True)
        fields = {} if certificate is None else tls.getpeercert()

        # With the signature of SSLSocket.getpeercert. It keeps the values and not the connection of OpenSSL.
        def get_certificate(binary_form: bool) -> bytes | Mapping[str, Any] | None:
            return certificate if binary_form else fields

        return TlsInfo(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            server_name=self._server_name,
            alpn_protocol=tls.selected_alpn_protocol(),
            certificate_getter=get_certificate,
        )
