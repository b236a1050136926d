"""A WebSocket app without an HTTP app.

python examples/async_websocket.py [PORT]

Each client gets a welcome message, and the number of its messages. The others are told when a client leaves.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import trio

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message


@dataclass
class Counter:
    """The state of a client."""

    messages: int = 0


async def connect_handler(stream: AsyncStream[Counter], state: None) -> None:
    await stream.send(f"Welcome, {stream.peer_addr}")


async def message_handler(stream: AsyncStream[Counter], message: Message, state: None) -> None:
    stream.state.messages += 1
    await stream.send(f"Message {stream.state.messages} has {len(message)} bytes")


async def disconnect_handler(stream: AsyncStream[Counter], state: None) -> None:
    await stream.broadcast(f"{stream.peer_addr} left after {stream.state.messages} messages")


async def main(port: int) -> None:
    app = (
        AsyncWebsocketApp(stream_state=lambda _: Counter())
        .with_address(f"127.0.0.1:{port}")
        .with_connect_handler(connect_handler)
        .with_message_handler(message_handler)
        .with_disconnect_handler(disconnect_handler)
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run)
        print(f"ws://{address}/", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)
