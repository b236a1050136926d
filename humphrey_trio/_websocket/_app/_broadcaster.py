"""Broadcasts and publications: sending one message to many clients of an application, or closing many clients.

A message is encoded once, and sent without waiting for any client. All clients receive the messages in the same
order. The broadcaster uses connections and their outboxes, and no handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import trio

from ..._trio_runs import check_run
from .._causes import OUTBOX_FULL, TOO_SLOW
from .._policies import WhenFull, check_full_policy
from .._protocol._close_codes import TRY_AGAIN_LATER
from .._protocol._encoder import Frames, encode_close
from .._stream._writer_turns import give_turns
from ._topics import Receiver, Topics

if TYPE_CHECKING:
    from ..._trio_runs import Run
    from .._message import Sendable
    from .._policies import FullPolicy
    from .._stream._connection import WebsocketConnection
    from .._stream._outbox import Outbox

# The number of receivers between two checkpoints.
_TURN = 100

_CLOSE = WhenFull.CLOSE  # saves the attribute lookup of the enum for each receiver


class Broadcaster:
    """Sends messages to the clients of one application.

    Args:
        clients: the clients by their ids. The application keeps it up to date. It may contain clients whose
            stream is closed; nothing is sent to them.

    Attributes:
        clients: as the argument.
        topics: the subscriptions of the clients.
        order: a lock that is held while a message is sent, so that all clients receive messages in one order.
    """

    __slots__ = ("_run", "_turn", "clients", "order", "topics")

    def __init__(self, clients: Mapping[int, Receiver]) -> None:
        self.clients = clients
        self.topics = Topics()
        self.order = trio.StrictFIFOLock()
        self._turn = 0  # messages and receivers since the last checkpoint
        self._run: Run | None = None

    def bind(self, run: Run | None) -> None:
        """Set the run of trio of the application. With None, calls from any run are accepted."""
        self._run = run

    def check_run(self) -> None:
        """Check that the calling task belongs to the run of trio of the application.

        Raises:
            RuntimeError: it does not.
        """
        check_run(self._run, "this WebSocket app")

    async def broadcast(self, message: Sendable, compress: bool, when_full: FullPolicy) -> None:
        """Send a message to all clients; see ``AsyncSender.broadcast``."""
        await self._send(lambda: self.clients, message, compress, when_full)

    async def publish(self, topic: Hashable, message: Sendable, compress: bool, when_full: FullPolicy) -> None:
        """Send a message to the subscribers of a topic; see ``AsyncSender.publish``."""
        await self._send(lambda: self.topics.subscribers(topic), message, compress, when_full)

    def subscribers(self, topic: Hashable) -> frozenset[int]:
        """Return the ids of the open streams that are subscribed; see ``AsyncSender.subscribers``."""
        return frozenset(one.id for one in self.topics.subscribers(topic).values() if not one.closed)

    @trio.lowlevel.enable_ki_protection
    async def close_one(self, stream_id: int, code: int, reason: str) -> bool:
        """Close one client; see ``AsyncSender.close``."""
        await self._before_close(code, reason)
        client = self.clients.get(stream_id)
        if client is None or client.closed:
            return False
        client.close(code, reason)
        return True

    @trio.lowlevel.enable_ki_protection
    async def close_subscribers(self, topic: Hashable, code: int, reason: str) -> int:
        """Close the subscribers of a topic; see ``AsyncSender.close_subscribers``."""
        await self._before_close(code, reason)
        closed = 0
        async with self.order:  # what was published before is sent before the Close
            for visited, receiver in enumerate(tuple(self.topics.subscribers(topic).values()), 1):
                if not receiver.closed and receiver.id in self.topics.subscribers(topic):
                    receiver.close(code, reason)
                    closed += 1
                if visited % _TURN == 0:
                    await trio.lowlevel.checkpoint()
        return closed

    async def _before_close(self, code: int, reason: str) -> None:
        encode_close(code, reason)  # checks them
        self.check_run()
        await trio.lowlevel.checkpoint()

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
                continue  # it left or unsubscribed during a checkpoint
            if not offer(receiver.connection, frames, when_full, final):
                # The writers of all remaining outboxes run at the same time. So a broadcast gives turns only once,
                # however many outboxes are full; afterwards every offer is final.
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
        # The message itself counts as one, so that a loop of broadcasts without receivers executes checkpoints.
        self._turn = (turn + 1) % _TURN
        if not self._turn:
            await trio.lowlevel.checkpoint()


def offer(connection: WebsocketConnection, frames: Frames, policy: FullPolicy, final: bool) -> bool:
    """Put a message into an outbox if there is room, and apply the policy if there is none.

    Args:
        connection: the connection of the receiver.
        frames: the frames of the message.
        policy: what to do without room.
        final: whether the writer had its turns. If not, the policy is applied only to a stuck outbox.

    Returns:
        False if nothing was done, because the writer has to have its turns first.
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
            _drop(connection, policy)
            return True
    if deflate is not None and frame is not frames.plain:
        # The shared compressed frame does not depend on earlier messages, and the compressor of this client has
        # not processed it. So the context of the compressor must be discarded: the window of the peer now
        # contains this message (RFC 7692, section 7.1.1).
        deflate.reset()
    try:
        if policy is _CLOSE:
            outbox.put(frame)
        else:
            outbox.put_droppable(frame, policy)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.note_broken()
    return True


def _drop(connection: WebsocketConnection, policy: FullPolicy) -> None:
    """Drop the message for which the outbox has no room, and close the stream unless the policy forbids it."""
    connection.counters.count_dropped(1)
    if policy not in (WhenFull.DROP_NEWEST, WhenFull.DROP_OLDEST):
        connection.count_slow_close()
        connection.close(TRY_AGAIN_LATER, TOO_SLOW, cause=OUTBOX_FULL, drop_queue=True)


def _outbox_for(frames: Frames, connection: WebsocketConnection) -> tuple[Outbox, int]:
    """Return the outbox of a connection, and the size of the frame of the message in it."""
    deflate = connection.deflate
    compressed = None if deflate is None else frames.compressed_for(deflate)
    return connection.outbox, len(frames.plain if compressed is None else compressed)
