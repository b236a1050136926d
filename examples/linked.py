"""A linked pair: an HTTP app, and a WebSocket app that gets its connections through a connect hook.

python examples/linked.py [PORT]
"""

from __future__ import annotations

import sys

import trio

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Response,
    StatusCode,
    async_websocket_handler,
)


async def message_handler(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.send(message)


async def main(port: int) -> None:
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(message_handler)
    humphrey_app = (
        App()
        .with_stateless_route("/", lambda _: Response(StatusCode.OK, "Hello world!"))
        .with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(humphrey_app.run, f"127.0.0.1:{port}")
        nursery.start_soon(websocket_app.run)
        print(f"http://{address}/ and ws://{address}/ws", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)
