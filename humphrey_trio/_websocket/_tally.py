"""Counts of what slow clients and slow handlers cost.

They stand beside the quick paths, never on them: each is counted where something was dropped or had to wait.
"""

from __future__ import annotations


class Tally:
    """The counts of one stream, and with them those of its application.

    Attributes:
        dropped: messages that were to be sent and were not, because a policy or the end of the stream said so.
        unhandled: messages that were received, and that no handler got.
        waits: how often a ``send`` had to wait for room.
        pauses: how often reading paused, because enough was read ahead.
        slow_closes: streams that were closed or cut off because their peer was too slow.
        whole: the counts that these are a part of.
    """

    __slots__ = ("dropped", "pauses", "slow_closes", "unhandled", "waits", "whole")

    def __init__(self) -> None:
        self.dropped = self.unhandled = self.waits = self.pauses = self.slow_closes = 0
        self.whole: Tally | None = None

    def count_dropped(self, messages: int) -> None:
        self.dropped += messages
        if self.whole is not None:
            self.whole.count_dropped(messages)

    def count_unhandled(self, messages: int) -> None:
        self.unhandled += messages
        if self.whole is not None:
            self.whole.count_unhandled(messages)

    def count_wait(self) -> None:
        self.waits += 1
        if self.whole is not None:
            self.whole.count_wait()

    def count_pause(self) -> None:
        self.pauses += 1
        if self.whole is not None:
            self.whole.count_pause()

    def count_slow_close(self) -> None:
        self.slow_closes += 1
        if self.whole is not None:
            self.whole.count_slow_close()
