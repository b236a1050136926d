"""The server's end of a connection: with a direct path, or as a foreign stream without one."""

from __future__ import annotations

from collections.abc import Callable

import trio

from humphrey_trio.testing import MemoryStream, memory_connection

from .script import ClientPlan


def connection(plan: ClientPlan) -> tuple[MemoryStream, MemoryStream, trio.abc.Stream]:
    """A client's connection.

    Returns:
        The client's end, the server's end, and what the server gets to serve.
    """
    ours, theirs = memory_connection(plan.buffer)
    theirs.max_send, theirs.max_receive = plan.max_send, plan.max_receive
    if plan.break_at:
        theirs.break_at(plan.break_at)
    foreign = {"foreign": ForeignStream, "closing": ClosingStream}
    return ours, theirs, foreign[plan.stream](theirs) if plan.stream in foreign else theirs


async def send_dripping(
    stream: MemoryStream, data: bytes | bytearray, drip: int = 0, count: Callable[[int], None] = lambda _: None
) -> None:
    """Send bytes from the client's end, ``drip`` of them at once, or all.

    Dripping takes at most half a second, so that no deadline passes.

    Args:
        stream: the client's end.
        data: the bytes.
        drip: bytes of one call; 0 for all.
        count: called with the number of bytes that were sent.
    """
    step = max(drip, len(data) // 25 + 1) if drip else len(data)
    await trio.lowlevel.checkpoint()
    for start in range(0, len(data), max(1, step)):
        rest = memoryview(data)[start : start + step]
        while rest:
            if not (sent := stream.send_nowait(rest)):
                await stream.wait_send_all_might_not_block()
            count(sent)
            rest = rest[sent:]
        if drip:
            await trio.sleep(0.02)


class ClosingStream(trio.abc.Stream):
    """A stream that cannot half-close, like TLS streams."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


class ForeignStream(ClosingStream, trio.abc.HalfCloseableStream):
    """A stream that can half-close, without a direct path."""

    async def send_eof(self) -> None:
        await self.stream.send_eof()
