"""A request as a handler sees it: read whole, and immutable."""

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
        method: the method token as it was sent; the standard ones compare equal to ``Method``.
        path: the target before the first ``?``, neither percent-decoded nor normalised; ``*`` in ``OPTIONS *``.
        query: the target behind the first ``?``, without it; empty if there is none.
        version: ``"HTTP/1.1"`` or ``"HTTP/1.0"``.
        headers: the header fields.
        content: the whole body; empty if there is none.
        address: the peer's end of the connection.
        tls: what TLS has negotiated for the connection; None over a plain one.
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
        """The path, under Humphrey's name."""
        return self.path
