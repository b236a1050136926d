"""An application that redirects everything from HTTP to HTTPS."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .._http._address import split_port
from .._http._origins import Origins, read_origin
from .._http._proxies import TrustedProxies
from .._http._request import Request
from .._http._response import Response
from .._settings import check_whole
from ._app import App

_HTTPS_PORT = 443
# Visible ASCII characters: more than a URL may have (RFC 3986), because some browsers send others unencoded.
_TARGET = re.compile(r"/[!-~]*")


def https_redirect(
    *,
    hosts: Sequence[str] | None = None,
    port: int = _HTTPS_PORT,
    status: int = 308,
    proxies: TrustedProxies | None = None,
) -> App:
    """Create an app that redirects every request to the same URL with ``https``.

    Run it on port 80, in the nursery in which the app for HTTPS runs with ``run_tls``. The host of the request,
    its path and its query are kept. A request whose host is missing, malformed or not one of ``hosts`` gets a 400.
    One that a client has sent over HTTPS, as a trusted proxy tells, gets a 421: a redirect would lead to itself.

    Args:
        hosts: the host names of the site, such as ``["example.com", "*.example.com"]``, without ports. ``*``
            matches any number of characters. None accepts every host, which is safe only if no cache and no proxy
            in front of this app stores responses under another host than the one in the request.
        port: the port of the app for HTTPS, which clients see.
        status: 308 (the default) or 301, which browsers store without a limit; 307, 302 or 303, which they do not
            store. After a 301, 302 or 303, clients may send GET instead of POST.
        proxies: as for ``App``. The host and the scheme that trusted proxies tell are used.

    Returns:
        The app, with one route. Its limits, timeouts and other settings are the defaults.

    Raises:
        ValueError: a host is malformed or has a port, ``hosts`` is empty, the port is not from 1 to 65535, or the
            status is none of these.
        TypeError: ``hosts`` is a str, or ``proxies`` is not a ``TrustedProxies``.

    Example:
        >>> app = https_redirect(hosts=["example.com", "*.example.com"])
    """
    allowed = _allowed(hosts)
    check_whole("port", port, 1, 65535)
    Response.redirect("/", status=status)  # checks the status
    suffix = "" if port == _HTTPS_PORT else f":{port}"

    def redirect(request: Request) -> Response:
        if request.scheme == "https":
            return Response(421, "421 Misdirected Request: this app redirects from HTTP to HTTPS\n")
        host = _host_of(request.host, allowed)
        target = "?".join([request.path, request.query] if request.query else [request.path])
        if host is None or not _TARGET.fullmatch(target):
            return Response(400, "400 Bad Request\n")
        return Response.redirect(f"https://{host}{suffix}{target}", status=status)

    return App(proxies=proxies).with_stateless_route("*", redirect)


def _allowed(hosts: Sequence[str] | None) -> Origins | None:
    if hosts is None:
        return None
    if isinstance(hosts, str):
        raise TypeError(f"hosts must be a list: write [{hosts!r}]")
    if not hosts:
        raise ValueError("hosts is empty, so no request could be redirected: write None for every host")
    for host in hosts:
        if split_port(host)[1]:
            raise ValueError(f"a host has no port here: write {split_port(host)[0]!r} instead of {host!r}")
    return Origins([f"https://{host}" for host in hosts])


def _host_of(authority: str, allowed: Origins | None) -> str | None:
    """Return the host of a request in lower case and without its port; None if it must not be used."""
    host, _ = split_port(authority.lower())
    origin = f"https://{host}"
    if read_origin(f"https://{authority}") is None or not (allowed is None or allowed.matches(origin)):
        return None
    return host
