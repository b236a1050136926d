"""Builds the linked pair of a run from its setup."""

from __future__ import annotations

import trio

from humphrey_trio import (
    Accept,
    App,
    AsyncWebsocketApp,
    Deflate,
    Drain,
    Heartbeat,
    Request,
    Response,
    Timeouts,
    WhenLeft,
    async_websocket_handler,
)

from .clients import MAX_MESSAGE_SIZE
from .handlers import Handlers
from .http_handlers import HttpHandlers
from .journal import Session
from .script import Setup

#: Short timeouts, so that deadlines pass in a run.
TIMEOUTS = Timeouts(header=3, body=3, idle=5, write=3, close=2, linger=3, linger_idle=1.5, disconnect=0.5, drain=8)

WebsocketApp = AsyncWebsocketApp[None, Session]


def make_pair(
    setup: Setup, handlers: Handlers, http_handlers: HttpHandlers, shutdown: trio.Event
) -> tuple[App, WebsocketApp]:
    """The two apps of a run, linked as the setup says."""
    websocket_app = _make_websocket_app(setup, handlers)
    app = App(
        timeouts=TIMEOUTS,
        max_connections=setup.max_connections if setup.running else None,
        parser="fast" if setup.fast else "h11",
    )
    app.with_stateless_route("/", lambda _: Response(200, "hello")).with_shutdown(shutdown, _drain(setup))
    http_handlers.add_to(app, layers=setup.layers)
    if setup.hosted:
        app.with_websocket_app("/ws", websocket_app, deflate=_deflate(setup), accept=_accept)
    else:
        websocket_app.with_shutdown(shutdown, _drain(setup))
        hook = websocket_app.connect_hook()
        app.with_websocket_route("/ws", async_websocket_handler(hook, deflate=_deflate(setup), accept=_accept))
    return app, websocket_app


def _make_websocket_app(setup: Setup, handlers: Handlers) -> WebsocketApp:
    app = AsyncWebsocketApp.new_unlinked(
        stream_state=handlers.take,
        max_connections=setup.max_streams,
        concurrency=setup.concurrency,
        when_left=WhenLeft.FINISH if setup.finish else WhenLeft.CANCEL,
        timeouts=TIMEOUTS,
        max_message_size=MAX_MESSAGE_SIZE,
        max_outbox_bytes=setup.max_outbox_bytes,
        max_outbox_messages=setup.max_outbox_messages,
        max_read_ahead=setup.max_read_ahead,
    )
    if setup.heartbeat:
        app.with_heartbeat(Heartbeat(interval=0.6, timeout=1))
    return (
        app.with_connect_handler(handlers.connect)
        .with_message_handler(handlers.message)
        .with_disconnect_handler(handlers.disconnect)
    )


def _deflate(setup: Setup) -> Deflate | None:
    if not setup.deflate:
        return None
    return Deflate(server_context_takeover=setup.deflate == "context", min_size=20, memory_level=1)


def _drain(setup: Setup) -> Drain:
    return Drain(code=1012, spread=setup.spread, patience=setup.patience)


async def _accept(request: Request, state: object) -> Accept | Response:
    denied = request.headers.get("Authorization", "") == "no"
    return Response(401, "no") if denied else Accept()
