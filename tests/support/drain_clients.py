"""What clients send and receive while a server drains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import trio
import trio.testing

from humphrey_trio import ConnectionClosed
from humphrey_trio.testing import WebsocketClient
from tests.support.clients import RawClient, Reply
from tests.support.wire import CLOSE, close_frame, request_bytes


class Closing(NamedTuple):
    """The messages that a client still receives, the close code and reason, and the time of the close."""

    messages: list[str | None]
    code: int
    reason: str
    at: float


async def receive_until_closed(client: WebsocketClient) -> Closing:
    """Receive until the WebSocket is closed."""
    messages = []
    try:
        while True:
            messages.append((await client.receive()).text)
    except ConnectionClosed as closed:
        return Closing(messages, closed.code, closed.reason, trio.current_time())


async def answer_close(client: RawClient) -> int:
    """Discard frames up to the Close frame, answer it, and return its code."""
    while (frame := await client.frame())[0] != CLOSE:
        pass
    code = int.from_bytes(frame[1][:2], "big")
    await client.send(close_frame(code))
    return code


async def receive_all_until_closed(clients: Sequence[WebsocketClient]) -> list[Closing]:
    """Receive on several clients at once. The results have the order of the clients."""
    closings: dict[int, Closing] = {}

    async def receive_one(number: int) -> None:
        closings[number] = await receive_until_closed(clients[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(clients)):
            nursery.start_soon(receive_one, number)
    return [closings[number] for number in range(len(clients))]


def get(path: str = "/", fields: Iterable[tuple[str, str]] = ()) -> bytes:
    """A GET request."""
    return request_bytes(f"GET {path} HTTP/1.1", [("Host", "testserver"), *fields])


def assert_last(reply: Reply, status: int = 200) -> None:
    """Assert that this response has ``Connection: close``."""
    assert (reply.status, reply.headers.get("Connection")) == (status, "close")


async def is_closed(client: RawClient) -> bool:
    """Whether the server closes the connection without another byte, with an end of file or a reset."""
    try:
        return await client.at_end()
    except trio.BrokenResourceError:
        return True


#: The head of a POST request whose body has four bytes.
POST = request_bytes("POST / HTTP/1.1", [("Host", "testserver"), ("Content-Length", "4")])
