"""Which messages an ASGI app may send in which phase of a call. Tables, and the lookup in them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from .._quoting import quoted
from ._errors import MessageError

_BODIES = ("http.response.body", "websocket.http.response.body")

_Phase = TypeVar("_Phase")

#: The next phase after a message, by the phase before it, the type of the message, and its ``more_body``.
Order: TypeAlias = Mapping[_Phase, Mapping[tuple[str, bool], _Phase]]


class HttpPhase(enum.Enum):
    """What an app has sent for an HTTP request.

    Attributes:
        NOTHING: no message.
        START: the start of the response.
        MORE: a part of the body.
        END: the whole response.
    """

    NOTHING = enum.auto()
    START = enum.auto()
    MORE = enum.auto()
    END = enum.auto()


class WebsocketPhase(enum.Enum):
    """What an app has sent for a WebSocket.

    Attributes:
        CONNECTING: no message.
        OPEN: it has accepted.
        REFUSING: the start of a response that refuses.
        MORE: a part of the body of that response.
        END: a close, or the whole response.
    """

    CONNECTING = enum.auto()
    OPEN = enum.auto()
    REFUSING = enum.auto()
    MORE = enum.auto()
    END = enum.auto()


class LifespanPhase(enum.Enum):
    """How far the lifespan of an app is.

    Attributes:
        STARTUP: the app has not sent the result of its startup.
        RUNNING: the startup is complete.
        SHUTDOWN: the app has received the message to shut down.
        END: the app has sent that it has failed, or that it is shut down.
    """

    STARTUP = enum.auto()
    RUNNING = enum.auto()
    SHUTDOWN = enum.auto()
    END = enum.auto()


HTTP_ORDER: Order[HttpPhase] = {
    HttpPhase.NOTHING: {("http.response.start", False): HttpPhase.START},
    HttpPhase.START: {
        ("http.response.body", True): HttpPhase.MORE,
        ("http.response.body", False): HttpPhase.END,
        ("http.response.pathsend", False): HttpPhase.END,
    },
    HttpPhase.MORE: {
        ("http.response.body", True): HttpPhase.MORE,
        ("http.response.body", False): HttpPhase.END,
    },
    HttpPhase.END: {},
}

WEBSOCKET_ORDER: Order[WebsocketPhase] = {
    WebsocketPhase.CONNECTING: {
        ("websocket.accept", False): WebsocketPhase.OPEN,
        ("websocket.close", False): WebsocketPhase.END,
        ("websocket.http.response.start", False): WebsocketPhase.REFUSING,
    },
    WebsocketPhase.OPEN: {
        ("websocket.send", False): WebsocketPhase.OPEN,
        ("websocket.close", False): WebsocketPhase.END,
    },
    WebsocketPhase.REFUSING: {
        ("websocket.http.response.body", True): WebsocketPhase.MORE,
        ("websocket.http.response.body", False): WebsocketPhase.END,
    },
    WebsocketPhase.MORE: {
        ("websocket.http.response.body", True): WebsocketPhase.MORE,
        ("websocket.http.response.body", False): WebsocketPhase.END,
    },
    WebsocketPhase.END: {},
}

# An app whose lifespan fails between startup and shutdown sends ``lifespan.shutdown.failed``.
LIFESPAN_ORDER: Order[LifespanPhase] = {
    LifespanPhase.STARTUP: {
        ("lifespan.startup.complete", False): LifespanPhase.RUNNING,
        ("lifespan.startup.failed", False): LifespanPhase.END,
    },
    LifespanPhase.RUNNING: {("lifespan.shutdown.failed", False): LifespanPhase.END},
    LifespanPhase.SHUTDOWN: {
        ("lifespan.shutdown.complete", False): LifespanPhase.END,
        ("lifespan.shutdown.failed", False): LifespanPhase.END,
    },
    LifespanPhase.END: {},
}


def next_phase(order: Order[_Phase], phase: _Phase, message: Any) -> tuple[str, _Phase]:
    """Look up a message of an app.

    Args:
        order: one of the tables.
        phase: the phase before the message.
        message: the message.

    Returns:
        The type of the message, and the phase after it.

    Raises:
        MessageError: it is not expected in this phase.
    """
    try:
        kind = message["type"]
        key = kind, kind in _BODIES and bool(message.get("more_body", False))
        return kind, order[phase][key]
    except (KeyError, TypeError, AttributeError):
        raise MessageError(_unexpected(order[phase], message)) from None


def _unexpected(expected: Mapping[tuple[str, bool], object], message: Any) -> str:
    if not isinstance(message, Mapping):
        return f"the ASGI app has sent a {type(message).__name__}: a message is a dict with a 'type'"
    names = " or ".join(dict.fromkeys(repr(kind) for kind, _ in expected)) or "no further message"
    kind: object = message.get("type")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(kind, str):
        return f"the ASGI app has sent a message without a 'type' that is a str: expected is {names}"
    return f"the ASGI app has sent {quoted(kind)}, but expected is {names}"
