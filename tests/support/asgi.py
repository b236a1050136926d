"""ASGI apps that follow a script, and record what they get."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from humphrey_trio import App

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

#: The start of a response without header fields, and the whole body of one.
START: Message = {"type": "http.response.start", "status": 200}
BODY: Message = {"type": "http.response.body", "body": b"hello"}
#: A part of a body that continues, and its end.
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST: Message = {"type": "http.response.body"}


class NoLifespan(Exception):
    """Raised by apps that have no lifespan."""


def without_lifespan(app: AsgiApp) -> AsgiApp:
    """Make an app raise an exception for the scope of a lifespan, as the specification asks for."""

    async def called(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NoLifespan
        await app(scope, receive, send)

    return called


def mounted(app: AsgiApp, path: str = "*", **options: Any) -> App:
    """An App with an ASGI app that has no lifespan."""
    return App(**options).with_asgi(path, without_lifespan(app))


class Script:
    """An ASGI app that receives the first message, and then sends some messages.

    Attributes:
        scopes: the scopes of its calls.
        received: the messages that it has received, one for each call.
    """

    def __init__(self, *messages: Any) -> None:
        self._messages = messages
        self.scopes: list[Message] = []
        self.received: list[Message] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.received.append(await receive())
        for message in self._messages:
            await send(message)
