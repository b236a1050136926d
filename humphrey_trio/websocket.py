"""WebSockets: the event-driven application, streams, messages, routes and exceptions."""

from ._http._drain import Drain as Drain
from ._http._origins import ANY_ORIGIN as ANY_ORIGIN
from ._http._origins import SAME_HOST as SAME_HOST
from ._http._when_left import WhenLeft as WhenLeft
from ._websocket._app._async_app import AsyncWebsocketApp as AsyncWebsocketApp
from ._websocket._app._async_app import ConnectHandler as ConnectHandler
from ._websocket._app._async_app import DisconnectHandler as DisconnectHandler
from ._websocket._app._async_app import MessageHandler as MessageHandler
from ._websocket._app._async_stream import AsyncSender as AsyncSender
from ._websocket._app._async_stream import AsyncStream as AsyncStream
from ._websocket._close_record import CloseRecord as CloseRecord
from ._websocket._close_record import Initiator as Initiator
from ._websocket._deflate_settings import Deflate as Deflate
from ._websocket._errors import ConnectionClosed as ConnectionClosed
from ._websocket._errors import HandshakeError as HandshakeError
from ._websocket._errors import LinkError as LinkError
from ._websocket._errors import WebsocketError as WebsocketError
from ._websocket._heartbeat_settings import Heartbeat as Heartbeat
from ._websocket._message import Message as Message
from ._websocket._policies import FullPolicy as FullPolicy
from ._websocket._policies import KeepLatest as KeepLatest
from ._websocket._policies import WhenFull as WhenFull
from ._websocket._statistics import AppStatistics as AppStatistics
from ._websocket._statistics import StreamStatistics as StreamStatistics
from ._websocket._stream._admission import Accept as Accept
from ._websocket._stream._admission import AcceptHandler as AcceptHandler
from ._websocket._stream._handler_route import websocket_handler as websocket_handler
from ._websocket._stream._hook_route import async_websocket_handler as async_websocket_handler
from ._websocket._stream._stream import WebsocketStream as WebsocketStream
from ._websocket._stream._upgrade import Upgrade as Upgrade
from ._websocket._stream._upgrade import WebsocketRoute as WebsocketRoute

__all__ = [
    "ANY_ORIGIN",
    "SAME_HOST",
    "Accept",
    "AcceptHandler",
    "AppStatistics",
    "AsyncSender",
    "AsyncStream",
    "AsyncWebsocketApp",
    "CloseRecord",
    "ConnectHandler",
    "ConnectionClosed",
    "Deflate",
    "DisconnectHandler",
    "Drain",
    "FullPolicy",
    "HandshakeError",
    "Heartbeat",
    "Initiator",
    "KeepLatest",
    "LinkError",
    "Message",
    "MessageHandler",
    "StreamStatistics",
    "Upgrade",
    "WebsocketError",
    "WebsocketRoute",
    "WebsocketStream",
    "WhenFull",
    "WhenLeft",
    "async_websocket_handler",
    "websocket_handler",
]
