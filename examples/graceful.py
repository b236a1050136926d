"""An echo server with a graceful shutdown: after the first Ctrl-C, clients are asked to reconnect later.

SIGTERM does the same. A second signal ends the server immediately.

python examples/graceful.py [PORT]
"""

from __future__ import annotations

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
    until_signal,
)


async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.send(message)


async def main(port: int) -> None:
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(on_message)
    app = (
        App()
        .with_stateless_route("/", lambda _: Response(StatusCode.OK, "Hello world!"))
        .with_websocket_app("/ws", websocket_app)
    )
    with until_signal() as shutdown:
        app.with_shutdown(shutdown, Drain(code=1012, spread=1, retry_after=5))
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
            print(f"http://{address}/ and ws://{address}/ws", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
