"""Raw: trio with almost no protocol. It shows the cost of the streams of trio alone.

This is not a correct server. It answers only the well-formed requests and the unfragmented frames of the
benchmarks, and checks none of them.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys

import trio

from benchmarks.payload import HELLO, JSON, JSON_FIELDS

READ = 65536
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
FIELDS = "".join(f"{name}: {value}\r\n" for name, value in JSON_FIELDS.items()).encode()
HELLO_REPLY = HEAD % len(HELLO) + HELLO
JSON_REPLY = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (FIELDS, len(JSON), JSON)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ACCEPT = b"Sec-WebSocket-Accept: %s\r\n\r\n"
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTENT_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)")
WEBSOCKET_KEY = re.compile(rb"\r\nSec-WebSocket-Key: (\S+)")
CLOSE = 8
XOR = [bytes(byte ^ key for byte in range(256)) for key in range(256)]

connections: set[trio.SocketStream] = set()


async def serve(stream: trio.SocketStream) -> None:
    try:
        async with stream:
            await http(stream)
    except trio.BrokenResourceError:
        pass
    finally:
        connections.discard(stream)


async def http(stream: trio.SocketStream) -> None:
    buffer = bytearray()
    while data := await stream.receive_some(READ):
        buffer += data
        if key := WEBSOCKET_KEY.search(buffer):
            accept = base64.b64encode(hashlib.sha1(key[1] + MAGIC).digest())
            await stream.send_all(SWITCH + ACCEPT % accept)
            await websocket(stream, buffer.startswith(b"GET /broadcast"))
            return
        close = b"\r\nConnection: close" in buffer
        if replies := answers(buffer):
            await stream.send_all(replies)
            if close:
                return


def answers(buffer: bytearray) -> bytes:
    """Remove the complete requests from the front of the buffer. Returns the replies."""
    replies = []
    while (end := buffer.find(b"\r\n\r\n") + 4) > 3:
        if buffer.startswith(b"GET"):
            replies.append(JSON_REPLY if buffer.startswith(b"GET /json") else HELLO_REPLY)
        else:
            length = CONTENT_LENGTH.search(buffer)
            size = int(length[1]) if length else 0
            if len(buffer) < end + size:
                break
            replies.append(HEAD % size + buffer[end : end + size])
            end += size
        del buffer[:end]
    return b"".join(replies)


async def websocket(stream: trio.SocketStream, broadcasts: bool) -> None:
    if broadcasts:
        connections.add(stream)
    buffer = bytearray()
    while data := await stream.receive_some(READ):
        buffer += data
        out = bytearray()
        while (frame := next_frame(buffer)) is not None:
            out += frame
        if broadcasts and out:
            for client in list(connections):
                await send_to(client, out)
        elif out:
            await stream.send_all(out)
        if out[:1] == bytes((0x80 | CLOSE,)):
            return


async def send_to(client: trio.SocketStream, data: bytearray) -> None:
    try:
        await client.send_all(data)
    except trio.BrokenResourceError:
        connections.discard(client)


def next_frame(buffer: bytearray) -> bytearray | None:
    """Remove one masked frame from the front of the buffer. Returns it unmasked, or None if it is incomplete."""
    if len(buffer) < 2:
        return None
    long = {126: 2, 127: 8}.get(buffer[1] & 0x7F, 0)
    start = 2 + long + 4
    size = int.from_bytes(buffer[2 : 2 + long], "big") if long else buffer[1] & 0x7F
    if len(buffer) < start + size:
        return None
    header = bytearray((buffer[0], buffer[1] & 0x7F)) + buffer[2 : 2 + long]
    payload = unmasked(buffer[start : start + size], buffer[start - 4 : start])
    del buffer[: start + size]
    return header + payload


def unmasked(payload: bytearray, mask: bytearray) -> bytearray:
    """Unmask a payload with four translations: every fourth byte has the same key."""
    for number, key in enumerate(mask):
        payload[number::4] = payload[number::4].translate(XOR[key])
    return payload


async def main(port: int) -> None:
    await trio.serve_tcp(serve, port, host="127.0.0.1", backlog=4096)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
