"""A coroutine for each WebSocket, and a page that connects to it.

python examples/websocket.py [PORT]

Each message is returned with its number on this connection. The page shows the replies.
"""

from __future__ import annotations

import sys

import trio

from humphrey_trio import App, Response, StatusCode, WebsocketStream, websocket_handler

PAGE = """<!doctype html>
<title>WebSocket</title>
<form><input autofocus><button>Send</button></form>
<pre></pre>
<script>
  const socket = new WebSocket(`ws://${location.host}/ws`)
  socket.onmessage = event => document.querySelector("pre").append(event.data + "\\n")
  document.querySelector("form").onsubmit = event => {
    event.preventDefault()
    socket.send(document.querySelector("input").value)
  }
</script>
"""


async def count_messages(stream: WebsocketStream, state: None) -> None:
    number = 0
    async for message in stream:
        number += 1
        await stream.send(f"{number}: {message.data!r}")
    print(f"{stream.peer_addr} left after {number} messages", flush=True)


async def main(port: int) -> None:
    app = (
        App()
        .with_stateless_route("/", lambda _: Response(StatusCode.OK, PAGE, [("Content-Type", "text/html")]))
        .with_websocket_route("/ws", websocket_handler(count_messages))
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
        print(f"http://{address}/ and ws://{address}/ws", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)
