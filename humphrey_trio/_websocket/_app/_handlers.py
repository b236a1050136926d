"""The handlers of an application, and how they are run: a plain holder that sessions read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar

from .._message import Message
from .._policies import WhenLeft

#: What handlers get of their client: ``AsyncStream``, which stands on the sessions and is not known here.
Stream = TypeVar("Stream")

#: Connect and disconnect handlers: ``async (stream, state)``.
StreamHandler: TypeAlias = Callable[[Stream, Any], Awaitable[object]]
#: Message handlers: ``async (stream, message, state)``.
MessageHandler: TypeAlias = Callable[[Stream, Message, Any], Awaitable[object]]


class Handlers(Generic[Stream]):
    """The handlers of one application.

    Args:
        state: what every handler gets as its last argument.
        concurrency: how many message handlers of one stream may run at once.
        when_left: what happens to the handlers of a client that leaves.

    Attributes:
        state, concurrency, when_left: as given.
        on_connect, on_message, on_disconnect: the handlers; None for none.
    """

    def __init__(self, state: Any, concurrency: int, when_left: WhenLeft) -> None:
        self.state = state
        self.concurrency = concurrency
        self.when_left = when_left
        self.on_connect: StreamHandler[Stream] | None = None
        self.on_message: MessageHandler[Stream] | None = None
        self.on_disconnect: StreamHandler[Stream] | None = None

    def set_connect(self, handler: StreamHandler[Stream]) -> None:
        """Set the connect handler."""
        self.on_connect = handler

    def set_message(self, handler: MessageHandler[Stream]) -> None:
        """Set the message handler."""
        self.on_message = handler

    def set_disconnect(self, handler: StreamHandler[Stream]) -> None:
        """Set the disconnect handler."""
        self.on_disconnect = handler
