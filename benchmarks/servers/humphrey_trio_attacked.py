"""The server for `benchmarks.attackers`: a linked pair with compression, a heartbeat and short timeouts."""

from __future__ import annotations

import sys

import trio

from benchmarks.servers.humphrey_trio_app import echo
from humphrey_trio import App, AsyncWebsocketApp, Deflate, Heartbeat, Timeouts, async_websocket_handler

TIMEOUTS = Timeouts(header=2.0, idle=2.0, write=2.0, close=1.0)
HEARTBEAT = Heartbeat(interval=1.0, timeout=2.0)


async def main(port: int) -> None:
    echo_app = AsyncWebsocketApp.new_unlinked(timeouts=TIMEOUTS).with_message_handler(echo)
    sink_app: AsyncWebsocketApp = AsyncWebsocketApp.new_unlinked(timeouts=TIMEOUTS)
    app = App(timeouts=TIMEOUTS)
    async with trio.open_nursery() as nursery:
        for path, websocket_app in (("/ws", echo_app), ("/sink", sink_app)):
            hook = websocket_app.with_heartbeat(HEARTBEAT).connect_hook()
            app.with_websocket_route(path, async_websocket_handler(hook, deflate=Deflate()))
            nursery.start_soon(websocket_app.run)
        nursery.start_soon(app.run, f"127.0.0.1:{port}")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
