"""The handlers of an application, and the settings of their execution. Sessions read them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar

from ..._http._when_left import WhenLeft
from .._message import Message

logger = logging.getLogger("humphrey_trio.websocket")

#: The first argument of handlers, an ``AsyncStream``. It cannot be imported here, because it uses the sessions.
Stream = TypeVar("Stream")

#: Connect and disconnect handlers: ``async (stream, state)``.
StreamHandler: TypeAlias = Callable[[Stream, Any], Awaitable[object]]
#: Message handlers: ``async (stream, message, state)``.
MessageHandler: TypeAlias = Callable[[Stream, Message, Any], Awaitable[object]]


class Handlers(Generic[Stream]):
    """The handlers of one application.

    Args:
        state: the last argument of every handler.
        concurrency: the maximum number of message handlers of one stream that run at once.
        when_left: what happens to running handlers when the client leaves.

    Attributes:
        state, concurrency, when_left: as the arguments.
        on_connect, on_message, on_disconnect: the handlers; None if not set.
    """

    def __init__(self, state: Any, concurrency: int, when_left: WhenLeft) -> None:
        self.state = state
        self.concurrency = concurrency
        self.when_left = when_left
        self._has_discarded = False
        self.on_connect: StreamHandler[Stream] | None = None
        self.on_message: MessageHandler[Stream] | None = None
        self.on_disconnect: StreamHandler[Stream] | None = None

    def note_discarded(self) -> None:
        """Log once that messages arrive and there is no handler for them."""
        if not self._has_discarded:
            self._has_discarded = True
            logger.info(
                "a client sends messages to an AsyncWebsocketApp without a message handler: they are discarded"
            )

    def set_connect(self, handler: StreamHandler[Stream]) -> None:
        """Set the connect handler."""
        self.on_connect = handler

    def set_message(self, handler: MessageHandler[Stream]) -> None:
        """Set the message handler."""
        self.on_message = handler

    def set_disconnect(self, handler: StreamHandler[Stream]) -> None:
        """Set the disconnect handler."""
        self.on_disconnect = handler
