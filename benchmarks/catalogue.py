"""The servers that can be measured, and which of them are installed here."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

OURS = "humphrey-trio"
BOTH = ("http", "ws")
WEBSOCKETS_ONLY = ("ws",)


@dataclass(frozen=True)
class Server:
    """`module` is the program in benchmarks/servers, `needs` what must be importable for it.

    A program that speaks `tls` does so if it is given a certificate.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    protocols: tuple[str, ...] = BOTH
    tls: bool = False
    bound: bool = False  # not a server to use, only shown for comparison

    def missing(self) -> list[str]:
        return [name for name in self.needs if not importable(name)]


def importable(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # not even its parent is there
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
    "pycryptodome",
    "hypercorn",
    "quart-trio",
    "trio-websocket",
    "websockets",
    "uvicorn",
    "httptools",
    "uvloop",
    "aiohttp",
)
