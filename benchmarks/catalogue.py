"""The servers that can be measured, and whether they are installed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

OURS = "humphrey-trio"
BOTH = ("http", "ws")
WEBSOCKETS_ONLY = ("ws",)


@dataclass(frozen=True)
class Server:
    """A server that can be measured.

    Attributes:
        name: its name in options and tables.
        module: its program in benchmarks/servers.
        needs: the modules that must be importable.
        protocols: what it serves: ``http``, ``ws`` or both.
        tls: whether it serves TLS if its program gets a certificate.
        bound: whether it is only shown for comparison, and not usable as a server.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    protocols: tuple[str, ...] = BOTH
    tls: bool = False
    bound: bool = False

    def missing(self) -> list[str]:
        return [name for name in self.needs if not importable(name)]


def importable(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent package is missing
        return False
    return spec is not None and spec.origin is not None


SERVERS = (
    Server(OURS, "humphrey_trio_server", ("humphrey_trio",), tls=True),
    Server("hypercorn-trio", "hypercorn_trio", ("hypercorn", "trio"), tls=True),
    Server("quart-trio", "quart_trio_server", ("quart_trio", "hypercorn")),
    Server("trio-websocket", "trio_websocket_server", ("trio_websocket",), WEBSOCKETS_ONLY),
    Server("websockets-trio", "websockets_trio", ("websockets.trio", "trio"), WEBSOCKETS_ONLY),
    Server("websockets-asyncio", "websockets_asyncio", ("websockets.asyncio",), WEBSOCKETS_ONLY, tls=True),
    Server("uvicorn-h11", "uvicorn_h11", ("uvicorn", "h11", "wsproto"), tls=True),
    Server("uvicorn-fast", "uvicorn_fast", ("uvicorn", "httptools", "uvloop", "websockets"), tls=True),
    Server("aiohttp", "aiohttp_server", ("aiohttp",), tls=True),
    Server("floor", "floor", ("trio", "h11", "wsproto"), bound=True),
    Server("raw", "raw", ("trio",), bound=True),
)
BY_NAME = {server.name: server for server in SERVERS}

DISTRIBUTIONS = (
    "humphrey-trio",
    "trio",
    "h11",
    "wsproto",
    "bitarray",
    "hypercorn",
    "quart-trio",
    "trio-websocket",
    "websockets",
    "uvicorn",
    "httptools",
    "uvloop",
    "aiohttp",
)
