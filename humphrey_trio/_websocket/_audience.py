"""All clients of an event-driven app together: what is sent to many of them.

A message for many is encoded once and waits for no client. All clients see such messages in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import trio

from .._runs import check_run
from ._codec import Frames
from ._outbox import give_turns
from ._policies import check_full_policy
from ._topics import Topics

if TYPE_CHECKING:
    from .._runs import Run
    from ._message import Sendable
    from ._policies import FullPolicy
    from ._stream import WebsocketStream

# After so many receivers the other tasks run.
_TURN = 100


class Audience:
    """The clients of an app.

    Attributes:
        streams: those that are connected, by their ids.
        topics: what they have subscribed to.
        run: the run of trio that they belong to; None before there can be any.
    """

    __slots__ = ("_sending", "_turn", "run", "streams", "topics")

    def __init__(self) -> None:
        self.streams: dict[int, WebsocketStream] = {}
        self.topics = Topics()
        self._sending = trio.StrictFIFOLock()
        self._turn = 0  # messages and their receivers since other tasks could run
        self.run: Run | None = None

    async def broadcast(self, message: Sendable, compress: bool, when_full: FullPolicy) -> None:
        """Send a message to all; see ``AsyncSender.broadcast``."""
        await self._send(lambda: self.streams, message, compress, when_full)

    async def publish(self, topic: Hashable, message: Sendable, compress: bool, when_full: FullPolicy) -> None:
        """Send a message to the subscribers of a topic; see ``AsyncSender.publish``."""
        await self._send(lambda: self.topics.subscribers(topic), message, compress, when_full)

    def check_run(self) -> None:
        """Refuse a call from another run of trio.

        Raises:
            RuntimeError: this is another.
        """
        check_run(self.run, "this WebSocket app")

    @trio.lowlevel.enable_ki_protection
    async def _send(
        self,
        find_receivers: Callable[[], Mapping[int, WebsocketStream]],
        message: Sendable,
        compress: bool,
        when_full: FullPolicy,
    ) -> None:
        self.check_run()
        await trio.lowlevel.checkpoint_if_cancelled()
        check_full_policy(when_full)
        frames = Frames(message, compress=compress)
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            await self._hand_out(find_receivers, frames, when_full)
        finally:
            self._sending.release()

    async def _hand_out(
        self,
        find_receivers: Callable[[], Mapping[int, WebsocketStream]],
        frames: Frames,
        when_full: FullPolicy,
    ) -> None:
        receivers = tuple(find_receivers().values())
        turn, interrupted, final = self._turn, False, False
        for stream in receivers:
            # A stream that has left or unsubscribed while other tasks ran does not get it.
            wanted = not interrupted or stream.id in find_receivers()
            if wanted and not stream._offer(frames, when_full, final):
                # All that follow get their turns together with it; then every offer is final.
                rest = receivers[receivers.index(stream) :]
                await give_turns([other._outbox_for(frames) for other in rest if not other.closed])
                turn, interrupted, final = 0, True, True
                if stream.id in find_receivers():
                    stream._offer(frames, when_full, final)
            turn += 1
            if turn >= _TURN:
                turn, interrupted = 0, True
                await trio.lowlevel.checkpoint()
        # The message itself counts as well: one to nobody has to let somebody connect.
        self._turn = (turn + 1) % _TURN
        if not self._turn:
            await trio.lowlevel.checkpoint()
