"""Counters of what slow peers and slow handlers cost.

They are kept off the quick paths: each is increased where a message was dropped or something had to wait. Messages
and bytes are counted by the parts through which they pass.
"""

from __future__ import annotations


class Counters:
    """The counters of one stream, which are added to those of its application as well.

    Attributes:
        dropped: messages that were to be sent and were dropped, by a policy or by the end of the stream.
        unhandled: messages that were received and that no handler got.
        waits: how often a ``send`` waited for room in the outbox.
        pauses: how often reading paused, because enough messages were read ahead.
        slow_closes: streams that were closed or cut off because their peer was too slow.
    """

    __slots__ = ("_total", "dropped", "pauses", "slow_closes", "unhandled", "waits")

    def __init__(self) -> None:
        self.dropped = self.unhandled = self.waits = self.pauses = self.slow_closes = 0
        self._total: Counters | None = None

    def add_to(self, total: Counters) -> None:
        """Count everything from now on in ``total`` as well."""
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
