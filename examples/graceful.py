"""An echo server with a graceful shutdown: after the first Ctrl-C, clients are asked to reconnect later.

A second Ctrl-C ends the server immediately.

python examples/graceful.py [PORT]
"""

from __future__ import annotations

import signal
import sys

import trio

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Drain,
    Message,
    Response,
    StatusCode,
    async_websocket_handler,
)


async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.send(message)


async def end_on_signal(shutdown: trio.Event, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if shutdown.is_set():
                scope.cancel()
                return
            shutdown.set()


async def main(port: int) -> None:
    shutdown, drain = trio.Event(), Drain(code=1012, spread=1, retry_after=5)
    websocket_app = (
        AsyncWebsocketApp.new_unlinked().with_message_handler(on_message).with_shutdown(shutdown, drain)
    )
    app = (
        App()
        .with_stateless_route("/", lambda _: Response(StatusCode.OK, "Hello world!"))
        .with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
        .with_shutdown(shutdown, drain)
    )
    async with trio.open_nursery() as signals:
        signals.start_soon(end_on_signal, shutdown, signals.cancel_scope)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket_app.run)
            (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
            print(f"http://{address}/ and ws://{address}/ws", flush=True)
        signals.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
