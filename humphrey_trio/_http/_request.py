"""A request as a handler gets it: immutable, with its whole body."""

from __future__ import annotations

from dataclasses import dataclass, field

from ._address import Address
from ._headers import Headers
from ._tls_info import TlsInfo

UNKNOWN_ADDRESS = Address("", 0)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: the method as it was sent. The standard methods are equal to the members of ``Method``.
        path: the request target before the first ``?``, neither percent-decoded nor normalised. ``*`` for
            ``OPTIONS *``.
        query: the request target after the first ``?``; empty if there is none.
        version: ``"HTTP/1.1"`` or ``"HTTP/1.0"``.
        headers: the header fields.
        content: the body; empty if there is none.
        address: the address of the peer.
        tls: the TLS parameters of the connection; None without TLS.
    """

    method: str = "GET"
    path: str = "/"
    query: str = ""
    version: str = "HTTP/1.1"
    headers: Headers = field(default_factory=Headers)
    content: bytes = b""
    address: Address = UNKNOWN_ADDRESS
    tls: TlsInfo | None = None

    @property
    def uri(self) -> str:
        """The same as ``path``: the name in Humphrey."""
        return self.path
