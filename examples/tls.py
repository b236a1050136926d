"""A linked pair over TLS.

python examples/tls.py CERT KEY [PORT]

CERT is a PEM file with the certificate and its chain, KEY a PEM file with its private key. To create a certificate
for tests: openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -out cert.pem -keyout key.pem
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


async def main(cert: str, key: str, port: int) -> None:
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(message_handler)
    humphrey_app = (
        App()
        .with_cert(cert, key)
        .with_stateless_route("/", lambda _: Response(StatusCode.OK, "Hello world!"))
        .with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(humphrey_app.run_tls, f"127.0.0.1:{port}")
        nursery.start_soon(websocket_app.run)
        print(f"https://{address}/ and wss://{address}/ws", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    cert, key, *port = sys.argv[1:]
    status = 0
    try:
        trio.run(main, cert, key, int(port[0]) if port else 8443)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)
