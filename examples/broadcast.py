"""Send each line of standard input to all connected clients.

python examples/broadcast.py [PORT]
"""

from __future__ import annotations

import sys
from io import FileIO

import trio

from humphrey_trio import AsyncSender, AsyncWebsocketApp


async def broadcast_input(sender: AsyncSender) -> None:
    """Broadcast every line until the end of the input. The app keeps running afterwards."""
    # Ctrl-C abandons the thread that waits for a line. If it read from sys.stdin, it would hold a lock that the
    # interpreter acquires at exit.
    lines = FileIO(sys.stdin.fileno(), closefd=False)
    while line := await trio.to_thread.run_sync(lines.readline, abandon_on_cancel=True):
        await sender.broadcast(line.decode(errors="replace").rstrip("\r\n"))


async def main(port: int) -> None:
    app = AsyncWebsocketApp().with_address(f"127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run)
        print(f"ws://{address}/ gets what you type here", flush=True)
        nursery.start_soon(broadcast_input, app.sender())


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)
