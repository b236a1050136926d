"""The scopes of ASGI apps, created from requests (HTTP & WebSocket ASGI Message Format, version 2.5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .._http._address import UNIX_PREFIX, split_port
from ._tls_extension import tls_extension

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._http._request import Request

_VERSION = "3.0"
# From version 2.4 on, Starlette does not wait for the disconnect while it streams. A stream that sends nothing
# would not end when its client leaves, and the background tasks of a stream that is cut off would not run.
_HTTP_VERSION = "2.3"
_LIFESPAN_VERSION = "2.0"

_PORT = re.compile(r"[0-9]{1,5}")
_PORTS = {"http": 80, "https": 443}


def http_scope(request: Request, root_path: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Create the scope of an HTTP request.

    Args:
        request: the request.
        root_path: the decoded path below which the app is mounted, without a slash at its end.
        state: is copied.
    """
    path, tls, forwarded = request.path, request.tls, request.forwarded
    client = request.address if forwarded is None else forwarded.client
    extensions: dict[str, Any] = {"http.response.pathsend": {}}
    if tls is not None:
        extensions["tls"] = tls_extension(tls)
    return {
        "type": "http",
        "asgi": {"version": _VERSION, "spec_version": _HTTP_VERSION},
        "http_version": request.version[5:],
        "method": request.method,
        "scheme": request.scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": path.encode(),
        "query_string": request.query.encode(),
        "root_path": root_path,
        "headers": request.headers.to_raw(),
        "client": None if client.host.startswith(UNIX_PREFIX) else client,
        "server": _server(request),
        "state": dict(state),
        "extensions": extensions,
    }


def websocket_scope(request: Request, root_path: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Create the scope of a request to open a WebSocket. The arguments are those of ``http_scope``."""
    scope = http_scope(request, root_path, state)
    del scope["method"], scope["extensions"]["http.response.pathsend"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if request.scheme == "https" else "ws"
    scope["subprotocols"] = _offered(request)
    scope["extensions"]["websocket.http.response"] = {}
    return scope


def lifespan_scope(state: dict[str, Any]) -> dict[str, Any]:
    """Create the scope of a lifespan. The state is not copied: the app fills it."""
    return {
        "type": "lifespan",
        "asgi": {"version": _VERSION, "spec_version": _LIFESPAN_VERSION},
        "state": state,
    }


def _server(request: Request) -> tuple[str, int] | None:
    """Return what the client asked for. A connection does not know the address on which it was accepted."""
    host, port = split_port(request.host)
    if not host:
        return None
    return host.strip("[]"), int(port) if _PORT.fullmatch(port) else _PORTS[request.scheme]


def _offered(request: Request) -> list[str]:
    """Return the subprotocols that the client offers."""
    lines = request.headers.get_all("Sec-WebSocket-Protocol")
    return [name for line in lines for member in line.split(",") if (name := member.strip(" \t"))]
