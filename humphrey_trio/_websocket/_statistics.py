"""The statistics of streams and applications, in the style of the ``statistics()`` methods of trio."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """The statistics of one stream at one moment.

    Numbers of bytes are those of frames on the wire, without the handshake.

    Attributes:
        messages_received: the number of received messages.
        bytes_received: the number of received bytes.
        messages_sent: the number of messages that were sent and not dropped, including those that wait.
        bytes_sent: the number of bytes that the kernel accepted.
        queued_messages: the number of messages that wait to be sent.
        queued_bytes: the number of their bytes.
        read_ahead: the number of messages that wait for a handler or a ``receive``.
        dropped: the number of messages that were dropped before they were sent.
        unhandled: the number of messages that were received and neither handled nor returned by ``receive``.
        slow_closes: 1 if the stream was closed or cut off because its peer was too slow, else 0.
        send_waits: how often a ``send`` waited for room in the outbox.
        read_pauses: how often reading ahead paused at ``max_read_ahead``.
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
    """The statistics of an ``AsyncWebsocketApp`` at one moment.

    The counters from ``dropped`` on include all streams since the app was created.

    Attributes:
        connections: the number of streams that are served. A stream counts until its disconnect handler has
            returned.
        waiting_in_hook: the number of streams that wait in the hook.
        waiting_for_hook: the number of upgrades that wait because the hook is full.
        handlers_running: the number of running handlers.
        tasks_running: the number of running tasks of ``AsyncStream.start_soon``.
        queued_messages: the number of messages that wait to be sent, of all streams.
        queued_bytes: the number of their bytes.
        read_ahead: the number of messages that wait for a handler.
        subscribers: the number of subscribers of each topic.
        dropped: the number of messages that were dropped before they were sent.
        unhandled: the number of messages that were received and not handled.
        slow_closes: the number of streams that were closed or cut off because their client was too slow.
        send_waits: how often a ``send`` waited for room in an outbox.
        read_pauses: how often reading ahead paused at ``max_read_ahead``.
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
