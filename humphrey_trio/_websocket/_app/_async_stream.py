"""What handlers get of their client, and what other tasks send with.

Both are faces: an ``AsyncStream`` of a ``Session``, an ``AsyncSender`` of the application's ``Broadcaster``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVarTuple

import trio

from ..._state import StreamState
from .._errors import ConnectionClosed
from .._policies import WhenFull
from .._protocol._close_codes import NORMAL, POLICY_VIOLATION
from .._stream._reports import close_record_of, statistics_of

if TYPE_CHECKING:
    from ..._http._address import Address
    from ..._http._request import Request
    from .._close_record import CloseRecord
    from .._message import Sendable
    from .._policies import FullPolicy
    from .._statistics import StreamStatistics
    from ._broadcaster import Broadcaster
    from ._session import Session

_Args = TypeVarTuple("_Args")


class AsyncStream(Generic[StreamState]):
    """A connected client, as the handlers of an ``AsyncWebsocketApp`` get it.

    Attributes:
        state: what the app's ``stream_state`` made for this client; None without one.
    """

    __slots__ = ("_session", "state")

    def __init__(self, session: Session[Any], state: StreamState) -> None:
        self._session = session
        self.state = state

    @property
    def id(self) -> int:
        """A number that no other stream of this process has."""
        return self._session.connection.id

    @property
    def peer_addr(self) -> Address:
        """The client's end of the connection."""
        return self._session.connection.peer_addr

    @property
    def request(self) -> Request:
        """The request that opened the stream."""
        return self._session.connection.request

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on, or None."""
        return self._session.connection.subprotocol

    @property
    def value(self) -> Any:
        """What the route's ``accept`` function let the client in with, or None."""
        return self._session.connection.value

    @property
    def latency(self) -> float | None:
        """Seconds from the heartbeat's last ping to its answer; None before the first."""
        liveness = self._session.connection.liveness
        return None if liveness is None else liveness.latency

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream."""
        return self._session.connection.closed

    @property
    def close_code(self) -> int | None:
        """The close code as in ``ConnectionClosed``; None while the stream is open."""
        ending = self._session.connection.lifecycle.ending
        return None if ending is None else ending.code

    @property
    def close_reason(self) -> str | None:
        """The text beside the close code; None while the stream is open."""
        ending = self._session.connection.lifecycle.ending
        return None if ending is None else ending.reason

    @property
    def close_record(self) -> CloseRecord | None:
        """Why it was closed, by whom, and what had happened by then; None while it is open."""
        return close_record_of(self._session.connection)

    @property
    def topics(self) -> frozenset[Hashable]:
        """What it has subscribed to."""
        return frozenset(self._session.topics or ())

    def statistics(self) -> StreamStatistics:
        """What the stream has done so far, and what waits."""
        return statistics_of(self._session.connection)

    async def send(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message to this client; see ``WebsocketStream.send``.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        await self._session.connection.send(message, compress)

    async def broadcast(
        self, message: Sendable, *, compress: bool = True, when_full: FullPolicy = WhenFull.CLOSE
    ) -> None:
        """Send a message to every client of the app, this one too; see ``AsyncSender.broadcast``."""
        await self._session.broadcaster.broadcast(message, compress, when_full)

    async def publish(
        self,
        topic: Hashable,
        message: Sendable,
        *,
        compress: bool = True,
        when_full: FullPolicy = WhenFull.CLOSE,
    ) -> None:
        """Send a message to the subscribers of a topic, this one too if it is one; see ``AsyncSender.publish``."""
        await self._session.broadcaster.publish(topic, message, compress, when_full)

    def subscribe(self, topic: Hashable) -> None:
        """Get what is published on a topic, until ``unsubscribe`` or the end of the stream.

        Args:
            topic: anything hashable; it exists while it has subscribers.

        Raises:
            ConnectionClosed: the stream is closed.
            TypeError: the topic is not hashable.
        """
        self._session.subscribe(topic)

    def unsubscribe(self, topic: Hashable) -> None:
        """Unsubscribe from a topic. Does nothing if the stream is not subscribed.

        Raises:
            TypeError: the topic is not hashable.
        """
        self._session.unsubscribe(topic)

    def start_soon(self, async_fn: Callable[[*_Args], Awaitable[object]], *args: *_Args) -> None:
        """Run ``await async_fn(*args)`` in a task that belongs to this client.

        It is cancelled when the stream has ended, by whichever side, and has ended itself before the disconnect
        handler runs. If it raises, that is logged, and the stream is closed with 1011.

        Raises:
            ConnectionClosed: the stream is closed.
            TypeError: this is no function.
            RuntimeError: the app runs in another run of trio.
        """
        self._session.connection.check_run()
        self._session.connection.check_open()
        if not callable(async_fn):
            raise TypeError(f"give the async function and its arguments, start_soon(f, x), not {async_fn!r}")
        self._session.start_task(async_fn, args)

    def set_deadline(self, seconds: float, code: int = POLICY_VIOLATION, reason: str = "") -> None:
        """Close the stream after so many seconds; see ``WebsocketStream.set_deadline``."""
        self._session.connection.set_user_deadline(seconds, code, reason)

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping; see ``WebsocketStream.ping``."""
        await self._session.connection.ping(payload)

    @trio.lowlevel.enable_ki_protection
    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream; see ``WebsocketStream.close``. The disconnect handler runs when it has ended."""
        await self._session.connection.before_close(code, reason)
        self._session.close(code, reason)

    def __repr__(self) -> str:
        return repr(self._session)


class AsyncSender:
    """Sends to the clients of an app from anywhere in its trio run: before, during and after ``run``.

    From another thread: ``trio.from_thread.run(sender.broadcast, message)``, with ``trio_token=`` if the
    thread was not started by trio. A call in another ``trio.run`` than the app's is a RuntimeError.
    """

    __slots__ = ("_broadcaster",)

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def send(self, stream_id: int, message: Sendable, *, compress: bool = True) -> bool:
        """Send a message to one client; see ``WebsocketStream.send``.

        Returns:
            False if no open stream of the app has that id.

        Raises:
            TypeError: this cannot be sent.
            RuntimeError: the app runs in another run of trio.
        """
        self._broadcaster.check_run()
        client = self._broadcaster.clients.get(stream_id)
        if client is not None:
            with suppress(ConnectionClosed):
                await client.connection.send(message, compress)
                return True
        await trio.lowlevel.checkpoint()
        return False

    async def broadcast(
        self, message: Sendable, *, compress: bool = True, when_full: FullPolicy = WhenFull.CLOSE
    ) -> None:
        """Send a message to every client that is connected when it begins.

        It is encoded once, and compressed once for all clients that can share that. It waits for no client that
        does not read: where an outbox has no room, the connections get a few turns of the scheduler to write,
        as many as the missing bytes take. Broadcasts and publications of one app go out one after the other, so
        that all clients see the same order; a cancelled one has reached some. Other tasks run at every
        hundredth client.

        Args:
            message: what to send.
            compress: False sends it uncompressed to everybody.
            when_full: what happens to a client whose outbox has no room for it even then: a ``WhenFull``, or a
                ``KeepLatest`` with a key. It is closed with 1013 by default.

        Raises:
            TypeError: this cannot be sent, or ``when_full`` is no policy.
            RuntimeError: the app runs in another run of trio.
        """
        await self._broadcaster.broadcast(message, compress, when_full)

    async def publish(
        self,
        topic: Hashable,
        message: Sendable,
        *,
        compress: bool = True,
        when_full: FullPolicy = WhenFull.CLOSE,
    ) -> None:
        """Send a message to those who are subscribed to a topic when it begins; as ``broadcast`` otherwise.

        Args:
            topic: what they have subscribed to; without subscribers nothing happens.
            message, compress, when_full: as for ``broadcast``.

        Raises:
            TypeError: this cannot be sent, ``when_full`` is no policy, or the topic is not hashable.
            RuntimeError: the app runs in another run of trio.
        """
        await self._broadcaster.publish(topic, message, compress, when_full)
