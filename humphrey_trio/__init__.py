"""Humphrey for trio: an HTTP app and an event-driven WebSocket app, linked by a connect hook.

This module has the names that most programs need. The others are in ``humphrey_trio.http``,
``humphrey_trio.websocket`` and ``humphrey_trio.testing``.
"""

from ._app._app import App as App
from ._app._routes import SubApp as SubApp
from ._http._cookies import SameSite as SameSite
from ._http._cookies import SetCookie as SetCookie
from ._http._drain import Drain as Drain
from ._http._errors import HttpError as HttpError
from ._http._headers import Headers as Headers
from ._http._limits import Limits as Limits
from ._http._limits import Timeouts as Timeouts
from ._http._method import Method as Method
from ._http._request import Request as Request
from ._http._request_key import RequestKey as RequestKey
from ._http._response import Response as Response
from ._http._status import StatusCode as StatusCode
from ._http._when_left import WhenLeft as WhenLeft
from ._until_signal import until_signal as until_signal
from ._websocket._app._async_app import AsyncWebsocketApp as AsyncWebsocketApp
from ._websocket._app._async_stream import AsyncSender as AsyncSender
from ._websocket._app._async_stream import AsyncStream as AsyncStream
from ._websocket._deflate_settings import Deflate as Deflate
from ._websocket._errors import ConnectionClosed as ConnectionClosed
from ._websocket._errors import HandshakeError as HandshakeError
from ._websocket._errors import LinkError as LinkError
from ._websocket._heartbeat_settings import Heartbeat as Heartbeat
from ._websocket._message import Message as Message
from ._websocket._policies import KeepLatest as KeepLatest
from ._websocket._policies import WhenFull as WhenFull
from ._websocket._stream._admission import Accept as Accept
from ._websocket._stream._handler_route import websocket_handler as websocket_handler
from ._websocket._stream._hook_route import async_websocket_handler as async_websocket_handler
from ._websocket._stream._stream import WebsocketStream as WebsocketStream
from ._websocket._stream._upgrade import Upgrade as Upgrade

__all__ = [
    "Accept",
    "App",
    "AsyncSender",
    "AsyncStream",
    "AsyncWebsocketApp",
    "ConnectionClosed",
    "Deflate",
    "Drain",
    "HandshakeError",
    "Headers",
    "Heartbeat",
    "HttpError",
    "KeepLatest",
    "Limits",
    "LinkError",
    "Message",
    "Method",
    "Request",
    "RequestKey",
    "Response",
    "SameSite",
    "SetCookie",
    "StatusCode",
    "SubApp",
    "Timeouts",
    "Upgrade",
    "WebsocketStream",
    "WhenFull",
    "WhenLeft",
    "async_websocket_handler",
    "until_signal",
    "websocket_handler",
]
