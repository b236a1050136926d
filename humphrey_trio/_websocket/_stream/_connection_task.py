"""The connection task of one WebSocket: it writes what has to wait, lingers, and closes the transport.

It is the task that accepted the connection. No other task waits on the socket to write, so that no lock is needed
and no frame is left half written. It never runs code of a user.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ..._quoting import printable
from ..._server._transport import Incoming
from ._deadlines import Deadline
from ._reports import close_record_of

if TYPE_CHECKING:
    from ..._server._connection import Handover
    from ._connection import WebsocketConnection

logger = logging.getLogger("humphrey_trio.websocket")


async def keep(connection: WebsocketConnection, handover: Handover) -> None:
    """Write what waits until the stream has ended, then close.

    Cancelled, it sends what it can without waiting, and a Close with 1001.
    """
    transport = connection.transport
    try:
        await _write_until_over(connection)
        # RFC 6455, section 7.1.1: the server closes the TCP connection first. It half-closes and reads on, because
        # a close over unread input is a reset, which would overtake the Close and the last messages.
        connection.stop_reading()
        if connection.inbox.waiting:
            await trio.lowlevel.checkpoint()  # a reader that was interrupted leaves the transport first
        if not connection.inbox.waiting:
            await handover.lingering.linger(transport, handover.control)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    except trio.Cancelled:
        await _send_last_words(connection, server_drains=handover.control.draining)
        raise
    finally:
        # Whatever has happened: the reader wakes and ends, and what was not sent is counted as dropped.
        connection.lose("the connection broke")
        _note_clean(connection)
        try:
            await transport.close()
        finally:
            _log_end(connection)


async def _write_until_over(connection: WebsocketConnection) -> None:
    outbox, inbox, deadlines, lifecycle = (
        connection.outbox,
        connection.inbox,
        connection.deadlines,
        connection.lifecycle,
    )
    while True:
        if outbox.pending:
            deadlines.set(Deadline.WRITE, deadlines.timeouts.write)
            await outbox.flush_some()
            # A peer that reads on through what waits before our Close gets its time anew.
            if lifecycle.phase.awaits_close:
                connection.expect_close()
            continue
        deadlines.clear(Deadline.WRITE)
        # Behind our Close: nobody has to wait for a peer that is not read any more, or whose stream nobody took.
        if outbox.ended and not (lifecycle.phase.reads and inbox.is_taken):
            return
        if outbox.ended and not inbox.is_attended:
            await _read_to_close(connection)
            return
        await outbox.wait_for_work()


async def _read_to_close(connection: WebsocketConnection) -> None:
    """Read up to the peer's Close or the close deadline, after a close by a user who does not receive."""
    connection.inbox.begin_receive()
    # The close deadline interrupts the transport; over a foreign stream that ends a block, not a wait.
    with connection.transport.interruptible():
        while await connection.inbox.next(connection) is not None:
            pass


async def _send_last_words(connection: WebsocketConnection, *, server_drains: bool) -> None:
    words = connection.begin_last_words(server_drains=server_drains)
    # Also if all was sent before: unread input has to be discarded, or the close resets the connection.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        connection.outbox.count_last_words(await connection.transport.send_last(words))


def _note_clean(connection: WebsocketConnection) -> None:
    """Note whether the peer could read everything; the connection has ended."""
    ending = connection.lifecycle.ending
    assert ending is not None
    ending.note_clean(connection.transport.incoming is Incoming.ENDED)


def _log_end(connection: WebsocketConnection) -> None:
    """Log how a stream ended; the connection has ended by then."""
    if logger.isEnabledFor(logging.INFO):
        record = close_record_of(connection)
        extra = {
            "close_record": record,
            "stream_id": connection.id,
            "peer_addr": str(connection.peer_addr),
            "path": printable(connection.request.path),
        }
        logger.info("stream %d with %s %s", connection.id, connection.peer_addr, record, extra=extra)
