"""An outbox on a transport that takes as many bytes as a test wants."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import trio

from humphrey_trio._server._transport import Transport
from humphrey_trio._websocket._counters import Counters
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._encoder import encode_close, encode_message
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio.http import Address
from tests.support.wire import split_frames

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
NORMAL_CLOSE = encode_close(1000)


class ScriptedTransport(Transport):
    """A transport that takes as many bytes at a time as its script says, and then everything.

    It asserts what TLS needs: bytes that were offered and not taken are the first that are offered next.

    Attributes:
        wire: what it took.
        sends: how often bytes were given to it.
        offered: the bytes that were given to it last, taken or not; a test that compares them resets them first.
        blocked: whether it takes nothing, as a peer that does not read.
        resume: what a write waits for.
        gone: whether there is no peer any more.
    """

    def __init__(self, script: Iterable[int] = ()) -> None:
        super().__init__(Address("script"))
        self.wire = b""
        self.sends = 0
        self.offered: bytes | None = None
        self.blocked = False
        self.resume: trio.Event | None = None
        self.gone = False
        self._torn = False
        self._not_taken = b""
        self.script = iter(script)

    @property
    def torn(self) -> bool:
        return self._torn

    def tear(self) -> None:
        self._torn = True

    def frames(self) -> list[tuple[int, bytes]]:
        """The frames that were taken, all complete."""
        assert self.wire.startswith(HEAD)
        frames, rest = split_frames(self.wire[len(HEAD) :])
        assert rest == b""
        return frames

    def send_now(self, data: bytes | memoryview) -> int:
        self.offered = bytes(data)
        return self._take(data, 0)

    async def send_some(self, data: bytes | memoryview) -> int:
        assert data
        await trio.lowlevel.checkpoint()
        if self.resume is not None:
            await self.resume.wait()
        self.offered = bytes(data)
        return self._take(data, 1)

    def _take(self, data: bytes | memoryview, least: int) -> int:
        assert bytes(data).startswith(self._not_taken)
        if self.blocked and not least:
            taken = 0
        elif self.gone:
            raise trio.BrokenResourceError
        else:
            taken = min(len(data), max(least, next(self.script, len(data))))
            self.sends += 1
        self.wire += data[:taken]
        self._not_taken = bytes(data[taken:])
        return taken

    async def receive_some(self) -> bytes:
        raise AssertionError

    async def send_last(self, data: bytes) -> int:
        raise AssertionError

    # What an outbox never calls:

    @property
    def half_closes(self) -> bool:
        raise AssertionError

    async def send_eof(self) -> None:
        raise AssertionError

    async def discard_some(self) -> bool:
        raise AssertionError

    def interruptible(self) -> AbstractContextManager[object]:
        raise AssertionError

    def interrupt(self) -> None:
        raise AssertionError

    def abort(self) -> None:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError


def opened(transport: Transport, limits: StreamLimits | None = None) -> Outbox:
    """An outbox after its handshake."""
    outbox = Outbox(transport, limits or StreamLimits(), Counters())
    outbox.uncork(HEAD)
    return outbox


def blocked(limits: StreamLimits | None = None) -> tuple[Outbox, ScriptedTransport]:
    """An outbox after its handshake, whose transport takes nothing without waiting."""
    transport = ScriptedTransport()
    outbox = opened(transport, limits)
    transport.blocked = True
    return outbox, transport


async def flush(outbox: Outbox) -> None:
    """Write until the outbox is empty, as the connection task does."""
    while outbox.pending:
        await outbox.flush_some()


def messages(*payloads: bytes) -> list[bytes]:
    """Frames of messages."""
    return [encode_message(payload) for payload in payloads]


def arrived(frames: list[tuple[int, bytes]], opcode: int) -> list[bytes]:
    """The payloads of the frames with an opcode."""
    return [payload for found, payload in frames if found == opcode]
