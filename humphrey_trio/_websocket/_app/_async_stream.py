"""The public objects with which handlers and other tasks use the clients of an application.

Both are faces: ``AsyncStream`` calls a ``Session``, ``AsyncSender`` calls the ``Broadcaster`` of the application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVarTuple

import trio

from ..._signatures import close_coroutine
from ..._type_variables import StreamState
from .._errors import ConnectionClosed
from .._policies import WhenFull
from .._protocol._close_codes import NORMAL, POLICY_VIOLATION
from .._stream._calls import before_close, ping, send, set_deadline
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
    """A client of an ``AsyncWebsocketApp``, the first argument of its handlers. Not created by users.

    Any task of the same run of trio may use it. In another run, sending, closing, ``set_deadline`` and
    ``start_soon`` raise ``RuntimeError``.

    Attributes:
        state: the value that the ``stream_state`` function of the app returned for this client; None without
            such a function.
    """

    __slots__ = ("_session", "state")

    def __init__(self, session: Session[Any], state: StreamState) -> None:
        self._session = session
        self.state = state

    @property
    def id(self) -> int:
        """A number that is unique among the streams of this process."""
        return self._session.connection.id

    @property
    def client(self) -> Address:
        """The address of the client: that of the peer, unless a trusted proxy tells another one."""
        return self._session.connection.client

    @property
    def peer_addr(self) -> Address:
        """The address of the peer, which may be a proxy. See ``client``."""
        return self._session.connection.peer_addr

    @property
    def request(self) -> Request:
        """The request that opened the stream."""
        return self._session.connection.request

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol (RFC 6455, section 1.9), or None."""
        return self._session.connection.subprotocol

    @property
    def value(self) -> Any:
        """The ``value`` of the ``Accept`` that the ``accept`` function of the route returned, or None."""
        return self._session.connection.value

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered Ping of the heartbeat to its Pong; None before the first Pong."""
        liveness = self._session.connection.liveness
        return None if liveness is None else liveness.latency

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream."""
        return self._session.connection.closed

    @property
    def close_code(self) -> int | None:
        """The close code, as ``ConnectionClosed.code``; None while the stream is open."""
        ending = self._session.connection.lifecycle.ending
        return None if ending is None else ending.code

    @property
    def close_reason(self) -> str | None:
        """The close reason, as ``ConnectionClosed.reason``; None while the stream is open."""
        ending = self._session.connection.lifecycle.ending
        return None if ending is None else ending.reason

    @property
    def close_record(self) -> CloseRecord | None:
        """How the stream was closed, and its statistics; None while it is open."""
        return close_record_of(self._session.connection)

    @property
    def topics(self) -> frozenset[Hashable]:
        """The topics to which the stream is subscribed. A copy."""
        return frozenset(self._session.topics or ())

    def statistics(self) -> StreamStatistics:
        """Return statistics of the stream so far."""
        return statistics_of(self._session.connection)

    async def send(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message to this client; as ``WebsocketStream.send``.

        Args:
            message: a ``str`` for a text message, bytes for a binary message, or a ``Message``.
            compress: whether to compress it, if compression was negotiated.

        Raises:
            ConnectionClosed: the stream is closed.
            TypeError: ``message`` has another type.
            RuntimeError: called in another run of trio than that of the app.
        """
        await send(self._session.connection, message, compress)

    async def broadcast(
        self, message: Sendable, *, compress: bool = True, when_full: FullPolicy = WhenFull.CLOSE
    ) -> None:
        """Send a message to every client of the app, including this one; as ``AsyncSender.broadcast``.

        Args:
            message: a ``str`` for a text message, bytes for a binary message, or a ``Message``.
            compress: whether to compress it for the clients with which compression was negotiated.
            when_full: what happens to a client whose outbox remains full. By default it is closed with 1013.

        Raises:
            TypeError: ``message`` has another type, or ``when_full`` is not a policy.
            RuntimeError: called in another run of trio than that of the app.
        """
        await self._session.broadcaster.broadcast(message, compress, when_full)

    async def publish(
        self,
        topic: Hashable,
        message: Sendable,
        *,
        compress: bool = True,
        when_full: FullPolicy = WhenFull.CLOSE,
    ) -> None:
        """Send a message to the subscribers of a topic; as ``AsyncSender.publish``.

        This client receives the message only if it is subscribed.

        Args:
            topic: the topic. Without subscribers, nothing is sent.
            message, compress, when_full: as for ``broadcast``.

        Raises:
            TypeError: ``message`` has another type, ``when_full`` is not a policy, or ``topic`` is not hashable.
            RuntimeError: called in another run of trio than that of the app.
        """
        await self._session.broadcaster.publish(topic, message, compress, when_full)

    def subscribe(self, topic: Hashable) -> None:
        """Subscribe to a topic. Does nothing if the stream is subscribed already.

        The subscription lasts until ``unsubscribe`` or the end of the stream. Topics need not be created.

        Args:
            topic: any hashable object.

        Raises:
            ConnectionClosed: the stream is closed.
            TypeError: the topic is not hashable.
        """
        self._session.subscribe(topic)

    def unsubscribe(self, topic: Hashable) -> None:
        """Unsubscribe from a topic. Does nothing if the stream is not subscribed.

        Args:
            topic: any hashable object.

        Raises:
            TypeError: the topic is not hashable.
        """
        self._session.unsubscribe(topic)

    def start_soon(self, async_fn: Callable[[*_Args], Awaitable[object]], *args: *_Args) -> None:
        """Start a task that belongs to this client and runs ``await async_fn(*args)``.

        The task is cancelled when the stream has ended, no matter which side closed it. The disconnect handler
        runs after the task has ended. If the function raises an exception, it is logged, and the stream is
        closed with 1011.

        Args:
            async_fn: the async function.
            *args: its arguments.

        Raises:
            ConnectionClosed: the stream is closed.
            TypeError: ``async_fn`` is not callable.
            RuntimeError: called in another run of trio than that of the app.
        """
        self._session.connection.check_run()
        self._session.connection.check_open()
        if not callable(async_fn):
            close_coroutine(async_fn)
            raise TypeError(f"pass the async function and its arguments, start_soon(f, x), not {async_fn!r}")
        self._session.start_task(async_fn, args)

    def set_deadline(self, seconds: float, code: int = POLICY_VIOLATION, reason: str = "") -> None:
        """Close the stream after some seconds; as ``WebsocketStream.set_deadline``.

        Args:
            seconds: the time from now; ``math.inf`` removes the deadline.
            code: the close code, as for ``WebsocketStream.close``.
            reason: the close reason, at most 123 bytes of UTF-8.

        Raises:
            ValueError: ``seconds`` is not above zero, the code may not be sent, or the reason is too long.
            RuntimeError: called in another run of trio than that of the app.
        """
        set_deadline(self._session.connection, seconds, code, reason)

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping; as ``WebsocketStream.ping``.

        Args:
            payload: at most 125 bytes.

        Raises:
            ConnectionClosed: the stream is closed.
            ValueError: the payload is longer than 125 bytes.
            RuntimeError: called in another run of trio than that of the app.
        """
        await ping(self._session.connection, payload)

    @trio.lowlevel.enable_ki_protection
    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream; as ``WebsocketStream.close``. Does nothing if it is closed.

        A handler that closes its own stream may finish. Other running handlers of the client are treated as
        ``when_left`` says, and its tasks are cancelled. The disconnect handler runs when the stream has ended.

        Args:
            code: the close code, as for ``WebsocketStream.close``.
            reason: the close reason, at most 123 bytes of UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
            RuntimeError: called in another run of trio than that of the app.
        """
        await before_close(self._session.connection, code, reason)
        self._session.close(code, reason)

    def __repr__(self) -> str:
        return repr(self._session)


class AsyncSender:
    """Sends to the clients of an app, from any task of its run of trio. ``AsyncWebsocketApp.sender`` creates it.

    It may be used before, during and after ``run``. In another thread, call
    ``trio.from_thread.run(sender.broadcast, message)``, and pass ``trio_token=`` if the thread was not started by
    trio. In another ``trio.run`` than that of the app, its methods raise ``RuntimeError``.
    """

    __slots__ = ("_broadcaster",)

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def send(self, stream_id: int, message: Sendable, *, compress: bool = True) -> bool:
        """Send a message to one client; as ``WebsocketStream.send``.

        Args:
            stream_id: the ``id`` of the stream.
            message: a ``str`` for a text message, bytes for a binary message, or a ``Message``.
            compress: whether to compress it, if compression was negotiated.

        Returns:
            True if the message was sent; False if the app has no open stream with this id.

        Raises:
            TypeError: ``message`` has another type, or ``stream_id`` is not an int.
            RuntimeError: called in another run of trio than that of the app.
        """
        self._broadcaster.check_run()
        client = self._broadcaster.clients.get(stream_id)
        if client is not None:
            with suppress(ConnectionClosed):
                await send(client.connection, message, compress)
                return True
        else:
            _check_id(stream_id)
        await trio.lowlevel.checkpoint()
        return False

    async def broadcast(
        self, message: Sendable, *, compress: bool = True, when_full: FullPolicy = WhenFull.CLOSE
    ) -> None:
        """Send a message to every client that is connected when the broadcast begins.

        The message is encoded once, and compressed once for all clients with the same compression settings.
        Broadcasts and publications of an app are sent one after another, so all clients receive them in the
        same order. A broadcast does not wait for clients that do not read. If outboxes are full, it lets the
        tasks that write run for a limited number of scheduler passes, in proportion to the missing bytes. It
        also executes a checkpoint after every 100 clients. If cancelled, it has sent the message to some of the
        clients.

        Args:
            message: a ``str`` for a text message, bytes for a binary message, or a ``Message``.
            compress: whether to compress it for the clients with which compression was negotiated.
            when_full: what happens to a client whose outbox remains full: a ``WhenFull``, or a ``KeepLatest``
                with a key. By default the client is closed with 1013.

        Raises:
            TypeError: ``message`` has another type, or ``when_full`` is not a policy.
            RuntimeError: called in another run of trio than that of the app.
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
        """Send a message to the clients that are subscribed to a topic when the publication begins.

        Otherwise as ``broadcast``.

        Args:
            topic: the topic. Without subscribers, nothing is sent.
            message, compress, when_full: as for ``broadcast``.

        Raises:
            TypeError: ``message`` has another type, ``when_full`` is not a policy, or ``topic`` is not hashable.
            RuntimeError: called in another run of trio than that of the app.
        """
        await self._broadcaster.publish(topic, message, compress, when_full)

    def subscribers(self, topic: Hashable) -> frozenset[int]:
        """Return the ids of the open streams that are subscribed to a topic, for ``send`` and ``close``.

        Args:
            topic: the topic.

        Returns:
            The ids. Empty without subscribers.

        Raises:
            TypeError: ``topic`` is not hashable.
            RuntimeError: called in another run of trio than that of the app.
        """
        self._broadcaster.check_run()
        return self._broadcaster.subscribers(topic)

    def value(self, stream_id: int) -> Any:
        """Return the ``value`` of a stream, such as the user who is connected: see ``AsyncStream.value``.

        With ``subscribers``, it shows who is in a room.

        Args:
            stream_id: the ``id`` of the stream.

        Returns:
            The value; None if the app has no open stream with this id.

        Raises:
            TypeError: ``stream_id`` is not an int.
            RuntimeError: called in another run of trio than that of the app.
        """
        _check_id(stream_id)
        self._broadcaster.check_run()
        client = self._broadcaster.clients.get(stream_id)
        return None if client is None or client.closed else client.connection.value

    async def close(self, stream_id: int, code: int = NORMAL, reason: str = "") -> bool:
        """Close the stream of one client; as ``AsyncStream.close``.

        Args:
            stream_id: the ``id`` of the stream.
            code: the close code, as for ``WebsocketStream.close``.
            reason: the close reason, at most 123 bytes of UTF-8.

        Returns:
            True if the stream was closed; False if the app has no open stream with this id.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
            TypeError: ``stream_id`` or the code is not an int, or the reason is not a str.
            RuntimeError: called in another run of trio than that of the app.
        """
        _check_id(stream_id)
        return await self._broadcaster.close_one(stream_id, code, reason)

    async def close_subscribers(self, topic: Hashable, code: int = NORMAL, reason: str = "") -> int:
        """Close the streams that are subscribed to a topic; as ``AsyncStream.close``.

        The clients receive everything that was broadcast and published before. If cancelled, it has closed some of
        the streams. It executes a checkpoint after every 100 clients. To close all streams of a user, subscribe
        each of them to a topic such as ``("user", name)``.

        Args:
            topic: the topic. Without subscribers, nothing is closed.
            code, reason: as for ``close``.

        Returns:
            The number of streams that it has closed.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
            TypeError: ``topic`` is not hashable.
            RuntimeError: called in another run of trio than that of the app.
        """
        return await self._broadcaster.close_subscribers(topic, code, reason)


def _check_id(stream_id: object) -> None:
    if not isinstance(stream_id, int):
        raise TypeError(f"a sender takes the id of a stream, stream.id, not {stream_id!r}")
