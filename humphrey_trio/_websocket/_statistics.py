"""What streams and applications tell of themselves while they run, in the manner of trio's ``statistics()``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """One stream at one moment. Bytes are those of frames on the wire, without the handshake.

    Attributes:
        messages_received: messages that came in.
        bytes_received: bytes that came in.
        messages_sent: messages that were handed over and not dropped; of those that are just being written when
            the connection breaks, nobody knows.
        bytes_sent: bytes that the system took.
        queued_messages: messages that wait to be sent.
        queued_bytes: their bytes.
        read_ahead: messages that wait for a handler or a ``receive``.
        dropped: messages that were to be sent and were not.
        unhandled: messages that came in and that no handler or ``receive`` got.
        slow_closes: 1 if it was closed or cut off because its peer was too slow.
        send_waits: how often a ``send`` had to wait for room in the outbox.
        read_pauses: how often reading paused, because enough was read ahead.
    """

    messages_received: int
    bytes_received: int
    messages_sent: int
    bytes_sent: int
    queued_messages: int
    queued_bytes: int
    read_ahead: int
    dropped: int
    unhandled: int
    slow_closes: int
    send_waits: int
    read_pauses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppStatistics:
    """An ``AsyncWebsocketApp`` at one moment.

    Attributes:
        connections: streams that are served, each until its disconnect handler has returned.
        waiting_in_hook: streams that have a place in the hook and were not taken yet.
        waiting_for_hook: upgrades that wait for such a place.
        handlers_running: handlers that run.
        tasks_running: tasks of ``AsyncStream.start_soon`` that run.
        queued_messages: messages that wait to be sent, of all streams.
        queued_bytes: their bytes.
        read_ahead: messages that wait for a handler.
        subscribers: how many streams there are to each topic.
        dropped: messages that were to be sent and were not, since the app was made, as all that follow.
        unhandled: messages that came in and that no handler got.
        slow_closes: streams that were closed or cut off because their client was too slow.
        send_waits: how often a ``send`` had to wait for room in an outbox.
        read_pauses: how often reading paused, because enough was read ahead.
    """

    connections: int
    waiting_in_hook: int
    waiting_for_hook: int
    handlers_running: int
    tasks_running: int
    queued_messages: int
    queued_bytes: int
    read_ahead: int
    subscribers: Mapping[Hashable, int]
    dropped: int
    unhandled: int
    slow_closes: int
    send_waits: int
    read_pauses: int
