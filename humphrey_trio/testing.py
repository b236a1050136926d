"""Clients for tests: an app without sockets, over HTTP and over WebSockets."""

from ._testing import HttpClient as HttpClient
from ._testing import WebsocketClient as WebsocketClient
from ._testing import http_client as http_client
from ._testing import websocket_client as websocket_client

__all__ = ["HttpClient", "WebsocketClient", "http_client", "websocket_client"]
