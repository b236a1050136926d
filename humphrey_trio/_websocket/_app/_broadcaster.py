"""What an application sends to many of its clients.

A message for many is encoded once and waits for no client. All clients get such messages in the same order. The
broadcaster knows connections and their outboxes, but no handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import trio

from ..._runs import check_run
from .._policies import WhenFull, check_full_policy
from .._protocol._encoder import Frames
from .._stream._outbox import give_turns
from ._topics import Receiver, Topics

if TYPE_CHECKING:
    from ..._runs import Run
    from .._message import Sendable
    from .._policies import FullPolicy
    from .._stream._connection import WebsocketConnection
    from .._stream._outbox import Outbox

# After so many receivers the other tasks run.
_TURN = 100

_CLOSE = WhenFull.CLOSE  # an enumeration looks its members up anew each time, which a broadcast would feel


class Broadcaster:
    """What is sent to the clients of one application.

    Args:
        clients: the clients by their ids, kept up to date by the application. Those whose stream is closed may
            still be among them; they get nothing.

    Attributes:
        clients: as given.
        topics: the clients' subscriptions.
        order: held by the message that is sent; the next waits for it, so that all clients see one order.
    """

    __slots__ = ("_run", "_turn", "clients", "order", "topics")

    def __init__(self, clients: Mapping[int, Receiver]) -> None:
        self.clients = clients
        self.topics = Topics()
        self.order = trio.StrictFIFOLock()
        self._turn = 0  # messages and their receivers since other tasks could run
        self._run: Run | None = None

    def bind(self, run: Run) -> None:
        """Belong to a run of trio, from which the clients come; before that, any run may call."""
        self._run = run

    def check_run(self) -> None:
        """Refuse a call from another run of trio.

        Raises:
            RuntimeError: this is another.
        """
        check_run(self._run, "this WebSocket app")

    async def broadcast(self, message: Sendable, compress: bool, when_full: FullPolicy) -> None:
        """Send a message to all; see ``AsyncSender.broadcast``."""
        await self._send(lambda: self.clients, message, compress, when_full)

    async def publish(self, topic: Hashable, message: Sendable, compress: bool, when_full: FullPolicy) -> None:
        """Send a message to the subscribers of a topic; see ``AsyncSender.publish``."""
        await self._send(lambda: self.topics.subscribers(topic), message, compress, when_full)

    @trio.lowlevel.enable_ki_protection
    async def _send(
        self,
        find_receivers: Callable[[], Mapping[int, Receiver]],
        message: Sendable,
        compress: bool,
        when_full: FullPolicy,
    ) -> None:
        self.check_run()
        await trio.lowlevel.checkpoint_if_cancelled()
        check_full_policy(when_full)
        frames = Frames(message, compress=compress)
        try:
            self.order.acquire_nowait()
        except trio.WouldBlock:
            await self.order.acquire()
        try:
            await self._hand_out(find_receivers, frames, when_full)
        finally:
            self.order.release()

    async def _hand_out(
        self,
        find_receivers: Callable[[], Mapping[int, Receiver]],
        frames: Frames,
        when_full: FullPolicy,
    ) -> None:
        receivers = tuple(find_receivers().values())
        turn, interrupted, final = self._turn, False, False
        for receiver in receivers:
            if interrupted and receiver.id not in find_receivers():
                continue  # it has left or unsubscribed while other tasks ran
            if not offer(receiver.connection, frames, when_full, final):
                # All that follow get their turns together with it; then every offer is final.
                rest = receivers[receivers.index(receiver) :]
                await give_turns(
                    [_outbox_for(frames, one.connection) for one in rest if not one.connection.closed]
                )
                turn, interrupted, final = 0, True, True
                if receiver.id in find_receivers():
                    offer(receiver.connection, frames, when_full, final)
            turn += 1
            if turn >= _TURN:
                turn, interrupted = 0, True
                await trio.lowlevel.checkpoint()
        # The message itself counts as well: a broadcast without receivers has to let other tasks run, too.
        self._turn = (turn + 1) % _TURN
        if not self._turn:
            await trio.lowlevel.checkpoint()


def offer(connection: WebsocketConnection, frames: Frames, policy: FullPolicy, final: bool) -> bool:
    """Put a message into an outbox, if there is room for it.

    Args:
        connection: the receiver's.
        frames: the message.
        policy: what happens if there is no room and the offer is final.
        final: whether the writer had its turns; else nothing happens without room.

    Returns:
        False if it has to be offered once more.
    """
    frame, outbox, deflate = frames.plain, connection.outbox, connection.deflate
    if outbox.ended:
        return True
    if deflate is not None and (compressed := frames.compressed_for(deflate)) is not None:
        frame = compressed
    if not (outbox.direct or outbox.has_room(len(frame))):
        if not final and not outbox.is_stuck:
            return False
        if not outbox.make_room(len(frame), policy):
            connection.refuse_message(close=policy not in (WhenFull.DROP_NEWEST, WhenFull.DROP_OLDEST))
            return True
    if deflate is not None and frame is not frames.plain:
        # What was compressed for many refers to nothing before it, so this compressor begins anew behind it
        # (RFC 7692, section 7.1.1: as if context takeover was not used for this message).
        deflate.reset()
    try:
        if policy is _CLOSE:
            outbox.put(frame)
        else:
            outbox.put_droppable(frame, policy)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.lose("the connection broke")
    return True


def _outbox_for(frames: Frames, connection: WebsocketConnection) -> tuple[Outbox, int]:
    """The outbox that a message goes into, and how many bytes it has there."""
    deflate = connection.deflate
    compressed = None if deflate is None else frames.compressed_for(deflate)
    return connection.outbox, len(frames.plain if compressed is None else compressed)
