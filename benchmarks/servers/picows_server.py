"""picows, which is compiled, on uvloop: WebSockets only."""

from __future__ import annotations

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.servers.arguments import Arguments


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if not closed(transport, frame):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


class Broadcast(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        connections.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        connections.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if not closed(transport, frame):
            payload = frame.get_payload_as_bytes()
            for client in connections:
                client.send(frame.msg_type, payload)


connections: set[WSTransport] = set()


def closed(transport: WSTransport, frame: WSFrame) -> bool:
    """Reply to a Close frame. Returns whether the frame is one."""
    if frame.msg_type != WSMsgType.CLOSE:
        return False
    transport.send_close(frame.get_close_code(), frame.get_close_message())
    transport.disconnect()
    return True


def listener(request: WSUpgradeRequest) -> WSListener:
    return Broadcast() if request.path == b"/broadcast" else Echo()


async def main(arguments: Arguments) -> None:
    server = await ws_create_server(
        listener,
        "127.0.0.1",
        arguments.port,
        ssl=arguments.context(),
        backlog=4096,
        max_frame_size=16 * 2**20,
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(Arguments.read()))
