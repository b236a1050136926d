"""Clients and connections for tests of an app, over memory streams instead of sockets."""

from ._server._direct import DirectStream as DirectStream
from ._testing._clients import HttpClient as HttpClient
from ._testing._clients import WebsocketClient as WebsocketClient
from ._testing._clients import http_client as http_client
from ._testing._clients import open_websocket as open_websocket
from ._testing._clients import websocket_client as websocket_client
from ._testing._memory_stream import MemoryStream as MemoryStream
from ._testing._memory_stream import memory_connection as memory_connection

__all__ = [
    "DirectStream",
    "HttpClient",
    "MemoryStream",
    "WebsocketClient",
    "http_client",
    "memory_connection",
    "open_websocket",
    "websocket_client",
]
