"""A chat with rooms: ws://.../NAME is the room NAME.

Each client gets the messages of its room, and is told when another one joins or leaves.

python examples/rooms.py [PORT]
"""

from __future__ import annotations

import sys

import trio

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message

# A client that sends nothing for this time is disconnected.
SILENCE_SECONDS = 600


def room_of(stream: AsyncStream) -> str:
    return stream.request.path


async def on_connect(stream: AsyncStream, state: None) -> None:
    stream.subscribe(room_of(stream))
    stream.set_deadline(SILENCE_SECONDS, 4000, "away")
    await stream.publish(room_of(stream), f"{stream.id} has joined")


async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
    if message.text is None:
        await stream.close(1003, "text messages only")
        return
    stream.set_deadline(SILENCE_SECONDS, 4000, "away")
    await stream.publish(room_of(stream), f"{stream.id}: {message.text}")


async def on_disconnect(stream: AsyncStream, state: None) -> None:
    await stream.publish(room_of(stream), f"{stream.id} has left")


async def main(port: int) -> None:
    app = (
        AsyncWebsocketApp(max_message_size=4096)
        .with_address(f"127.0.0.1:{port}")
        .with_connect_handler(on_connect)
        .with_message_handler(on_message)
        .with_disconnect_handler(on_disconnect)
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run)
        print(f"the rooms are at ws://{address}/", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)
