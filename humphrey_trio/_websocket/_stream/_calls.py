"""The calls of users on one open WebSocket: send, ping, receive, close, set a deadline.

These functions run in the tasks of the user. They check the arguments, the run of trio and the phase. A sender may
wait for room in the outbox, and never for the socket.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING

import trio

from ..._settings import check_seconds
from .._protocol._encoder import compress_for, encode_close, encode_parts, encode_ping
from ._inbox import Reader

if TYPE_CHECKING:
    from .._message import Sendable
    from ._connection import WebsocketConnection

_NONE = Reader.NONE  # saves the attribute lookup of the enum for each message


@trio.lowlevel.enable_ki_protection
async def send(connection: WebsocketConnection, message: Sendable, compress: bool) -> None:
    """Send a message; see ``WebsocketStream.send``.

    A cancellation is delivered at the first checkpoint or while waiting for room, when nothing of the message was
    put. After that there is no checkpoint before the frame is in the outbox, whole. The checkpoint at the end is
    for fairness; if it is cancelled, the message counts as sent all the same.
    """
    # Another run of trio is in another thread. To compare the runs for each message would cost 0.1 us.
    if get_ident() != connection.thread:
        connection.check_run()
    await trio.lowlevel.checkpoint_if_cancelled()
    inbox, outbox, lifecycle = connection.inbox, connection.outbox, connection.lifecycle
    if inbox.reader is _NONE:
        inbox.take()
    frame, payload = encode_parts(message)
    size = len(frame) + len(payload)
    if lifecycle.phase.is_open and (outbox.contended or not outbox.has_room(size)):
        await outbox.wait_for_room(size)
    if not lifecycle.phase.is_open:
        raise connection.closed_error()
    if compress and connection.deflate is not None:
        # Only now, when it is certain to be sent: the window of the peer must equal that of the compressor.
        frame, payload = compress_for(frame + payload, connection.deflate), b""
    # If the peer sent several messages at once, the replies are sent together. A system call for each would cost
    # more than everything else, and fill the buffers of the peer with small segments.
    try:
        if inbox.decoder.buffered:
            outbox.put_later(frame + payload)
        elif payload:
            outbox.put_parts(frame, payload)
        else:
            outbox.put(frame)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.note_broken()
    if not lifecycle.phase.is_open:
        raise connection.closed_error()
    if inbox.fairness.spent(size):
        await trio.lowlevel.checkpoint()


@trio.lowlevel.enable_ki_protection
async def ping(connection: WebsocketConnection, payload: bytes) -> None:
    """Send a Ping; see ``WebsocketStream.ping``."""
    frame = encode_ping(payload)
    connection.check_run()
    await trio.lowlevel.checkpoint()
    connection.inbox.take()
    connection.check_open()
    connection.put(connection.outbox.put_control, frame)
    connection.check_open()


def begin_receive(connection: WebsocketConnection) -> None:
    """Begin to receive one message. The caller must call ``end_receive`` afterwards.

    These are two calls around ``Inbox.next``, because a coroutine around it would cost every stream that waits for
    a message 200 bytes.

    Raises:
        ConnectionClosed: the stream is closed, and another task receives the last messages.
        trio.BusyResourceError: another task or an application receives.
        RuntimeError: called in another run of trio.
    """
    if get_ident() != connection.thread:
        connection.check_run()
    inbox = connection.inbox
    if inbox.is_busy:
        connection.check_open()
        raise trio.BusyResourceError("another task is receiving from this stream")
    inbox.begin_receive()


def end_receive(connection: WebsocketConnection) -> None:
    """End to receive a message."""
    connection.inbox.end_receive()
    if not connection.lifecycle.phase.is_open:
        connection.outbox.wake()  # the connection task may have to read until the Close of the peer


async def before_close(connection: WebsocketConnection, code: int, reason: str) -> None:
    """Check the arguments of a close, and execute a checkpoint.

    Raises:
        ValueError: the code may not be sent, or the reason is too long.
        RuntimeError: called in another run of trio.
    """
    encode_close(code, reason)
    connection.check_run()
    await trio.lowlevel.checkpoint()


def set_deadline(connection: WebsocketConnection, seconds: float, code: int, reason: str) -> None:
    """Close the stream after some seconds; see ``WebsocketStream.set_deadline``."""
    check_seconds("the deadline", seconds, hint="; to close at once, call close()")
    encode_close(code, reason)
    connection.check_run()
    if connection.lifecycle.phase.is_open:
        connection.deadlines.set_user(seconds, code, reason)
