"""Counters of dropped messages and of waits, caused by slow peers and slow handlers.

No counter is increased on the fast paths. Messages and bytes are counted by the inbox and the outbox.
"""

from __future__ import annotations


class Counters:
    """The counters of one stream or of an application. Those of a stream can also increase those of an
    application.

    Attributes:
        dropped: messages that were dropped before they were sent, by a policy or by the end of the stream.
        unhandled: messages that were received and not handled.
        waits: how often a ``send`` waited for room in the outbox.
        pauses: how often reading ahead paused at ``max_read_ahead``.
        slow_closes: streams that were closed or cut off because their peer was too slow.
    """

    __slots__ = ("_total", "dropped", "pauses", "slow_closes", "unhandled", "waits")

    def __init__(self) -> None:
        self.dropped = self.unhandled = self.waits = self.pauses = self.slow_closes = 0
        self._total: Counters | None = None

    def add_to(self, total: Counters) -> None:
        """Increase the counters of ``total`` as well from now on."""
        self._total = total

    def count_dropped(self, messages: int) -> None:
        self.dropped += messages
        if self._total is not None:
            self._total.count_dropped(messages)

    def count_unhandled(self, messages: int) -> None:
        self.unhandled += messages
        if self._total is not None:
            self._total.count_unhandled(messages)

    def count_wait(self) -> None:
        self.waits += 1
        if self._total is not None:
            self._total.count_wait()

    def count_pause(self) -> None:
        self.pauses += 1
        if self._total is not None:
            self._total.count_pause()

    def count_slow_close(self) -> None:
        self.slow_closes += 1
        if self._total is not None:
            self._total.count_slow_close()
