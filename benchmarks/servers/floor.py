"""The floor: bare loops on trio.SocketStream, h11 and wsproto.Connection.

It shows the cost of these three alone. It has no limits, no timeouts and no error handling.
"""

from __future__ import annotations

import sys

import h11
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import AcceptConnection, CloseConnection, Event, Message
from wsproto.handshake import H11Handshake

from benchmarks.payload import HELLO, JSON, JSON_FIELDS

READ = 65536
PLAIN = {"Content-Type": "text/plain"}

connections: dict[trio.SocketStream, Connection] = {}


async def serve(stream: trio.SocketStream) -> None:
    try:
        async with stream:
            await http(stream)
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        pass


async def http(stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        request = await next_event(connection, stream)
        if not isinstance(request, h11.Request):
            return
        if any(name == b"upgrade" for name, _ in request.headers):
            await websocket(stream, request)
            return
        body = b""
        while isinstance(event := await next_event(connection, stream), h11.Data):
            body += event.data
        if request.target == b"/json":
            await stream.send_all(reply(connection, JSON, JSON_FIELDS))
        else:
            await stream.send_all(reply(connection, HELLO if request.target == b"/" else body, PLAIN))
        if connection.our_state is h11.MUST_CLOSE:
            return
        connection.start_next_cycle()


async def next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(READ))
    return event


def reply(connection: h11.Connection, body: bytes, fields: dict[str, str]) -> bytes:
    headers = [*fields.items(), ("Content-Length", str(len(body)))]
    head = connection.send(h11.Response(status_code=200, headers=headers)) or b""
    data = connection.send(h11.Data(data=body)) or b""
    return head + data + (connection.send(h11.EndOfMessage()) or b"")


async def websocket(stream: trio.SocketStream, request: h11.Request) -> None:
    handshake = H11Handshake(ConnectionType.SERVER)
    handshake.initiate_upgrade_connection(list(request.headers), request.target)
    await stream.send_all(handshake.send(AcceptConnection()))
    connection = handshake.connection
    assert connection is not None
    if request.target == b"/broadcast":
        connections[stream] = connection
    try:
        await messages(stream, connection)
    finally:
        connections.pop(stream, None)


async def messages(stream: trio.SocketStream, connection: Connection) -> None:
    parts: list[str | bytes] = []
    while True:
        data = await stream.receive_some(READ)
        if not data:
            return
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, CloseConnection):
                await stream.send_all(connection.send(event.response()))
                return
            if isinstance(event, Message):
                parts.append(event.data)
                if event.message_finished:
                    await send(stream, connection, type(event)(data=joined(parts)))
                    parts.clear()


def joined(parts: list[str | bytes]) -> str | bytes:
    return parts[0] if len(parts) == 1 else type(parts[0])().join(parts)  # type: ignore[arg-type]


async def send(stream: trio.SocketStream, connection: Connection, message: Event) -> None:
    if stream not in connections:
        await stream.send_all(connection.send(message))
        return
    for client, other in list(connections.items()):
        try:
            await client.send_all(other.send(message))
        except trio.BrokenResourceError:
            connections.pop(client, None)


async def main(port: int) -> None:
    await trio.serve_tcp(serve, port, host="127.0.0.1", backlog=4096)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
