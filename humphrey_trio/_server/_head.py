"""The head of a request, as a value, and what is raised for one that must be refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .._http._address import Address
from .._http._body import BodyStream
from .._http._errors import HttpError
from .._http._headers import Headers
from .._http._limits import DEFAULT_MAX_FIELDS
from .._http._path_params import NO_PARAMS
from .._http._proxies import Forwarded, TrustedProxies
from .._http._request import Request, received_request
from .._http._tls_info import TlsInfo
from .._quoting import printable


def name_of(request: Request | None) -> str:
    """Name a request in a log line, with its unprintable characters escaped."""
    return "an invalid request" if request is None else f"{printable(request.method)} {printable(request.path)}"


class BadRequest(HttpError):
    """The peer has sent an invalid request, or one that exceeds a limit.

    Error handlers get it as an ``HttpError``, with the reason as its ``detail``.

    Args:
        reason: the message, which is shown to the client. Must not contain secrets.
        status: the status code of the error response.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(status, reason)


class TlsOnPlainPort(BadRequest):
    """The peer has sent a TLS handshake, and the connection has no TLS."""

    def __init__(self) -> None:
        super().__init__("this is TLS, and the port is for plain HTTP: use http:// instead of https://")


@dataclass(slots=True)
class Head:
    """The head of a request, which was checked.

    Attributes:
        method, path, query, version, headers: as in ``Request``.
        host: the requested authority in lower case, from an absolute target or from the Host field.
        content_length: bytes of the body; None if it is chunked.
        close: whether the connection must be closed after the response.
        expects_continue: whether the client waits for a 100 before it sends the body.
        wants_websocket: whether this is a request to open a WebSocket, by its version, method and fields.
        forwarded: the values that trusted proxies added to the request; None if there are none.
    """

    method: str
    path: str
    query: str
    version: str
    headers: Headers
    host: str
    content_length: int | None = 0
    close: bool = False
    expects_continue: bool = False
    wants_websocket: bool = False
    forwarded: Forwarded | None = None

    @property
    def has_body(self) -> bool:
        return self.content_length != 0

    def resolve(self, proxies: TrustedProxies, peer: Address) -> None:
        """Set ``forwarded``. A host that trusted proxies added replaces that of the request."""
        self.forwarded = proxies.resolve(peer, self.headers)
        if self.forwarded.host is not None:
            self.host = self.forwarded.host.lower()

    def to_request(
        self,
        content: bytes | BodyStream,
        address: Address,
        tls: TlsInfo | None = None,
        params: Mapping[str, str] = NO_PARAMS,
        max_fields: int = DEFAULT_MAX_FIELDS,
    ) -> Request:
        return received_request(
            self.method,
            self.path,
            self.query,
            self.version,
            self.headers,
            content,
            address,
            tls,
            params,
            self.host,
            max_fields,
            self.forwarded,
        )
