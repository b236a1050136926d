"""A place where an ASGI app is mounted: the routes that call it, for requests and for WebSockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ._http_exchange import HttpExchange
from ._scope import http_scope, websocket_scope
from ._websocket_exchange import WebsocketExchange

if TYPE_CHECKING:
    from .._http._request import Request
    from .._http._response import Response
    from .._websocket._stream._upgrade import Upgrade
    from ._host import AsgiHost


class MountPoint:
    """The path below which an app is mounted.

    Args:
        path: ``*`` or ``/`` for every path, or a path such as ``/api``.

    Raises:
        ValueError: it is something else.
        TypeError: it is not a str.

    Attributes:
        patterns: the patterns of its routes.
        root_path: the ``root_path`` of the scopes.
    """

    __slots__ = ("patterns", "root_path")

    patterns: tuple[str, ...]

    def __init__(self, path: str) -> None:
        if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"an ASGI app is mounted below a path such as '/api', not {path!r}")
        if path in ("*", "/"):
            self.patterns, self.root_path = ("*",), ""
            return
        prefix = path.removesuffix("/")
        if not prefix.startswith("/") or prefix.endswith("/") or any(char in prefix for char in "*{}?"):
            raise ValueError(
                f"an ASGI app is mounted below a path such as '/api', or at '*' for every path, not at {path!r}"
            )
        self.patterns = (prefix, f"{prefix}/*")
        self.root_path = unquote(prefix)


class HttpMount:
    """The route for requests.

    Args:
        host: runs the app.
        root_path: the ``root_path`` of the scopes.
    """

    __slots__ = ("_host", "_name", "_root_path")

    def __init__(self, host: AsgiHost, root_path: str) -> None:
        self._host = host
        self._name = host.name
        self._root_path = root_path

    async def __call__(self, request: Request, state: Any) -> Response:
        """Call the app for a request, and return its response when it is known.

        The handler is cancelled if the client leaves, and the app is not.
        """
        calls = self._host.calls or await self._host.wait_calls()
        exchange = HttpExchange(self._name, request, http_scope(request, self._root_path, calls.state))
        calls.start(exchange)
        response = await exchange.answer.response()
        if response.body is not None:
            calls.note_streaming(exchange)
        return response

    def __repr__(self) -> str:
        return f"<{self._name}>"


class WebsocketMount:
    """The route for WebSockets.

    Args:
        host, root_path: as for ``HttpMount``.
    """

    __slots__ = ("_host", "_root_path")

    def __init__(self, host: AsgiHost, root_path: str) -> None:
        self._host = host
        self._root_path = root_path

    async def __call__(self, upgrade: Upgrade, state: Any) -> Response | None:
        """Call the app for a WebSocket, and wait until it has ended."""
        calls = self._host.calls or await self._host.wait_calls()
        scope = websocket_scope(upgrade.request, self._root_path, calls.state)
        exchange = WebsocketExchange(self._host.name, upgrade, scope)
        calls.start(exchange)
        return await exchange.run_route()

    def __repr__(self) -> str:
        return f"<{self._host.name}>"
