"""The server for `benchmarks.lingering`: connections linger for longer than a measurement takes."""

from __future__ import annotations

import sys

import trio

from benchmarks.servers.humphrey_trio_app import echo, hello
from humphrey_trio import App, AsyncWebsocketApp, Timeouts, async_websocket_handler

#: At most half of the connections linger, so this allows 5,000.
MAX_CONNECTIONS = 10_000
TIMEOUTS = Timeouts(linger=120.0, linger_idle=120.0)


async def main(port: int) -> None:
    echo_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)
    app = (
        App(timeouts=TIMEOUTS, max_connections=MAX_CONNECTIONS)
        .with_stateless_route("/", hello)
        .with_websocket_route("/ws", async_websocket_handler(echo_app.connect_hook()))
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo_app.run)
        nursery.start_soon(app.run, f"127.0.0.1:{port}")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
