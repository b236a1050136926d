"""Where a redirect leads, and with which request (RFC 9110, section 15.4). It does no I/O."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urljoin, urlsplit

from .._http._headers import Headers
from .._quoting import quoted
from ._outgoing_request import OutgoingRequest
from ._response_reader import ResponseError

_REDIRECTS = (301, 302, 303, 307, 308)
_OF_CONTENT = ("Content-Type", "Content-Length", "Transfer-Encoding", "Expect")


def redirected(request: OutgoingRequest, status: int, headers: Headers, scheme: str) -> OutgoingRequest | None:
    """Return the request that follows a response.

    Args:
        request: the request before.
        status, headers: those of its response.
        scheme: the scheme of the client, such as ``"http"``.

    Returns:
        The next request, or None if the response is not a redirect.

    Raises:
        ResponseError: the redirect has no Location, or leads to another scheme or host.
        RuntimeError: the body was streamed, and would have to be sent again.
    """
    if status not in _REDIRECTS:
        return None
    location = headers.get("Location")
    if location is None:
        raise ResponseError(f"a {status} has no Location (RFC 9110, section 15.4)")
    origin = f"{scheme}://{request.headers['Host']}"
    found = urlsplit(urljoin(urljoin(origin, request.target), location))
    if f"{found.scheme}://{found.netloc}".lower() != origin.lower():
        raise ResponseError(f"a redirect leads to {quoted(location)}, but this client is one of {quoted(origin)}")
    target = (found.path or "/") + (f"?{found.query}" if found.query else "")
    if status == 303 or (status in (301, 302) and request.method == "POST"):
        return _without_content(request, target)
    if not isinstance(request.content, bytes):
        raise RuntimeError(f"a {status} asks for the streamed body again: pass it as bytes, or do not follow")
    return replace(request, target=target)


def _without_content(request: OutgoingRequest, target: str) -> OutgoingRequest:
    headers = request.headers
    for name in _OF_CONTENT:
        headers = headers.without_header(name)
    return OutgoingRequest("HEAD" if request.method == "HEAD" else "GET", target, headers)
