"""Clients and connections for tests of an app, over memory streams instead of sockets."""

from ._http._event_encoding import ServerSentEvent as ServerSentEvent
from ._server._direct import DirectStream as DirectStream
from ._testing._http_client import HttpClient as HttpClient
from ._testing._http_client import http_client as http_client
from ._testing._memory_stream import MemoryStream as MemoryStream
from ._testing._memory_stream import memory_connection as memory_connection
from ._testing._outgoing_request import Upload as Upload
from ._testing._response_reader import ResponseError as ResponseError
from ._testing._streamed_response import EventStream as EventStream
from ._testing._streamed_response import StreamedResponse as StreamedResponse
from ._testing._websocket_client import WebsocketClient as WebsocketClient
from ._testing._websocket_client import open_websocket as open_websocket
from ._testing._websocket_client import websocket_client as websocket_client

__all__ = [
    "DirectStream",
    "EventStream",
    "HttpClient",
    "MemoryStream",
    "ResponseError",
    "ServerSentEvent",
    "StreamedResponse",
    "Upload",
    "WebsocketClient",
    "http_client",
    "memory_connection",
    "open_websocket",
    "websocket_client",
]
