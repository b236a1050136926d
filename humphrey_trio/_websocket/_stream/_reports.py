"""The statistics and the close record of a stream, which are created on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._close_record import CloseRecord
from .._statistics import StreamStatistics

if TYPE_CHECKING:
    from ._connection import WebsocketConnection


def close_record_of(connection: WebsocketConnection) -> CloseRecord | None:
    """Return the close record of a stream; None while it is open."""
    ending = connection.lifecycle.ending
    if ending is None:
        return None
    inbox, outbox, counters = connection.inbox, connection.outbox, connection.counters
    return CloseRecord(
        initiator=ending.initiator,
        code=ending.code,
        reason=ending.reason,
        cause=ending.cause,
        exception=ending.exception,
        age=ending.age,
        messages_received=inbox.messages_received,
        bytes_received=inbox.bytes_received,
        messages_sent=outbox.messages_put,
        bytes_sent=outbox.bytes_sent,
        dropped=counters.dropped,
        unhandled=counters.unhandled,
        queued_messages=ending.queued_messages,
        queued_bytes=ending.queued_bytes,
        clean=ending.clean,
    )


def statistics_of(connection: WebsocketConnection) -> StreamStatistics:
    """Return the statistics of a stream."""
    inbox, outbox, counters = connection.inbox, connection.outbox, connection.counters
    return StreamStatistics(
        messages_received=inbox.messages_received,
        bytes_received=inbox.bytes_received,
        messages_sent=outbox.messages_put,
        bytes_sent=outbox.bytes_sent,
        queued_messages=outbox.queued_messages,
        queued_bytes=outbox.queued_bytes,
        read_ahead=inbox.read_ahead_count,
        dropped=counters.dropped,
        unhandled=counters.unhandled,
        slow_closes=counters.slow_closes,
        send_waits=counters.waits,
        read_pauses=counters.pauses,
    )
