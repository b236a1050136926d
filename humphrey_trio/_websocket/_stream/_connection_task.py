"""The connection task of one WebSocket: it writes queued frames, lingers, and closes the transport.

It is the task of the accepted connection. No other task waits for the socket to become writable. So no lock is
needed, and a cancelled handler never leaves a part of a frame. The task never runs code of the user.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ..._http._events import EventType
from ..._quoting import printable
from ..._server._transport import Incoming
from ._deadline_table import Deadline
from ._reports import close_record_of

if TYPE_CHECKING:
    from ..._server._interface import Handover
    from ..._server._observers import Observers
    from ._connection import WebsocketConnection

logger = logging.getLogger("humphrey_trio.websocket")


async def run_connection(connection: WebsocketConnection, handover: Handover) -> None:
    """Write queued frames until the stream has ended, then close the transport.

    If cancelled, it tries to send the queued frames and a Close for a short time; see ``Transport.send_last``.
    """
    transport = connection.transport
    try:
        await _write_until_over(connection)
        # The server closes the TCP connection first (RFC 6455, section 7.1.1). It half-closes and discards input,
        # because closing a socket with unread input sends a reset, and then the peer may lose the last messages.
        connection.stop_reading()
        if connection.inbox.waiting:
            await trio.lowlevel.checkpoint()  # lets an interrupted reader leave the transport
        if not connection.inbox.waiting:
            await handover.lingering.linger(transport, handover.control)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    except trio.Cancelled:
        await _send_final_close(connection, server_drains=handover.control.draining)
        raise
    finally:
        # In every case, wake the readers, and count the messages that were not sent as dropped.
        connection.note_broken()
        _note_clean(connection)
        try:
            await transport.close()
        finally:
            _log_end(connection)
            _report_end(connection, handover.server.observers)


async def _write_until_over(connection: WebsocketConnection) -> None:
    outbox, inbox, deadlines, lifecycle = (
        connection.outbox,
        connection.inbox,
        connection.deadlines,
        connection.lifecycle,
    )
    while True:
        if outbox.pending:
            # For each piece, so a slow peer that reads is not cut off however long its queue is.
            deadlines.set(Deadline.WRITE, deadlines.timeouts.write)
            await outbox.flush_some()
            # The close deadline restarts while the peer reads the frames before our Close.
            if lifecycle.phase.awaits_close:
                connection.expect_close()
            continue
        deadlines.clear(Deadline.WRITE)
        # Our Close is sent. There is nothing to wait for if the peer is not read, or if the stream has no reader.
        if outbox.ended and not (lifecycle.phase.reads and inbox.is_taken):
            return
        if outbox.ended and not inbox.is_attended:
            await _read_to_close(connection)
            return
        await outbox.wait_for_work()


async def _read_to_close(connection: WebsocketConnection) -> None:
    """Read until the Close of the peer or the close deadline, if the user closed and does not receive."""
    connection.inbox.begin_receive()
    # The close deadline interrupts the transport. Over a trio stream, this needs a cancel scope.
    with connection.transport.interruptible():
        while await connection.inbox.next(connection) is not None:
            pass


async def _send_final_close(connection: WebsocketConnection, *, server_drains: bool) -> None:
    frames = connection.begin_final_close(server_drains=server_drains)
    # Also without frames: send_last discards unread input, with which closing the socket would send a reset.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        connection.outbox.count_final_frames(await connection.transport.send_last(frames))


def _note_clean(connection: WebsocketConnection) -> None:
    """Note whether the peer could read everything."""
    ending = connection.lifecycle.ending
    assert ending is not None
    ending.note_clean(connection.transport.incoming is Incoming.ENDED)


def _log_end(connection: WebsocketConnection) -> None:
    """Log the close record of the stream."""
    if logger.isEnabledFor(logging.INFO):
        record = close_record_of(connection)
        extra = {
            "close_record": record,
            "stream_id": connection.id,
            "client": str(connection.client),
            "peer_addr": str(connection.peer_addr),
            "path": printable(connection.request.path),
        }
        logger.info("stream %d with %s %s", connection.id, connection.client, record, extra=extra)


def _report_end(connection: WebsocketConnection, observers: Observers) -> None:
    """Report to the monitor that the stream has ended, and whether a handler has failed."""
    if observers.monitor is None:
        return
    client, name, record = connection.client, printable(connection.request.path), close_record_of(connection)
    assert record is not None
    if record.exception is not None:
        observers.report(EventType.HANDLER_FAILED, client, f"{name}: {record.cause}")
    observers.report(EventType.WEBSOCKET_CONNECTION_CLOSED, client, f"{name} {record}")
