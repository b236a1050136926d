"""Clients and connections for tests of an app, over memory streams instead of sockets."""

from ._memory_stream import MemoryStream as MemoryStream
from ._memory_stream import memory_connection as memory_connection
from ._server._direct import DirectStream as DirectStream
from ._testing import HttpClient as HttpClient
from ._testing import WebsocketClient as WebsocketClient
from ._testing import http_client as http_client
from ._testing import websocket_client as websocket_client

__all__ = [
    "DirectStream",
    "HttpClient",
    "MemoryStream",
    "WebsocketClient",
    "http_client",
    "memory_connection",
    "websocket_client",
]
