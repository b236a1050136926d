"""Each line of standard input goes to everybody who is connected.

python examples/broadcast.py [PORT]
"""

from __future__ import annotations

import sys
from io import FileIO

import trio

from humphrey_trio import AsyncSender, AsyncWebsocketApp


async def broadcast_input(sender: AsyncSender) -> None:
    """Send every line, up to the end of the input; the app goes on after it."""
    # Ctrl-C leaves the thread that waits for a line behind. In a read of sys.stdin itself it would hold a lock
    # that the interpreter wants at its exit.
    lines = FileIO(sys.stdin.fileno(), closefd=False)
    while line := await trio.to_thread.run_sync(lines.readline, abandon_on_cancel=True):
        await sender.broadcast(line.decode(errors="replace").rstrip("\r\n"))


async def main(port: int) -> None:
    app = AsyncWebsocketApp().with_address(f"127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run)
        print(f"ws://{address}/ hears what you type here", flush=True)
        nursery.start_soon(broadcast_input, app.sender())


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # as shells say it
    sys.exit(status)
