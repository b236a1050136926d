"""All sessions of an application: the slots that they hold, and the time that their disconnect handlers get.

A session holds its slot from before its connect handler until its disconnect handler has returned. Nothing here
waits for a client.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import trio

from ..._failures import failure_of

if TYPE_CHECKING:
    from ._handlers import StreamHandler

logger = logging.getLogger("humphrey_trio.websocket")


class Member(Protocol):
    """A session, as the others know it."""

    @property
    def id(self) -> int:
        """The id of its stream."""
        ...


_Member = TypeVar("_Member", bound=Member)


class Sessions(Generic[_Member]):
    """The sessions of one application.

    Args:
        max_connections: how many slots there are; None for no bound.

    Attributes:
        by_id: the sessions by the ids of their streams, oldest first. Those whose stream has ended, and whose
            disconnect handler runs, are among them.
        disconnects: the disconnect handlers that run.
    """

    __slots__ = ("_max_connections", "_slot_freed", "by_id", "disconnects")

    def __init__(self, max_connections: int | None) -> None:
        self.by_id: dict[int, _Member] = {}
        self.disconnects = DisconnectHandlers()
        self._max_connections = max_connections
        self._slot_freed: trio.Event | None = None

    def __len__(self) -> int:
        return len(self.by_id)

    def all(self) -> tuple[_Member, ...]:
        """The sessions at this moment, for one who waits while he goes through them."""
        return tuple(self.by_id.values())

    def add(self, session: _Member) -> None:
        """Give a session a slot."""
        self.by_id[session.id] = session

    def remove(self, session: _Member) -> None:
        """Free the slot of a session."""
        del self.by_id[session.id]
        if self._slot_freed is not None:
            self._slot_freed.set()

    async def wait_for_slot(self) -> None:
        """Wait until a slot is free; it is not a checkpoint if one is."""
        while self._max_connections is not None and len(self.by_id) >= self._max_connections:
            self._slot_freed = trio.Event()
            await self._slot_freed.wait()


class DisconnectHandlers:
    """The disconnect handlers that run: shielded, and bounded when the application ends."""

    __slots__ = ("_deadline", "_scopes")

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._deadline = inf

    def __len__(self) -> int:
        return len(self._scopes)

    async def run(self, handler: StreamHandler[Any], stream: object, state: object, session: object) -> None:
        """Run one handler; what it raises is logged.

        Args:
            handler: called with the stream and the state.
            stream, state: what it gets.
            session: named in log lines.
        """
        scope = trio.CancelScope(deadline=self._deadline, shield=True)
        self._scopes.add(scope)
        try:
            with scope:
                try:
                    await _call(handler, stream, state)
                except BaseException as exc:
                    report = partial(_log_failed, session)
                    report(failure_of(exc, report))
        finally:
            self._scopes.discard(scope)
        if scope.cancelled_caught:
            logger.warning("the disconnect handler of %r was cut off, because the app ends", session)

    def limit(self, seconds: float) -> None:
        """Give the handlers that run, and those that will, so many seconds from now on."""
        self._deadline = trio.current_time() + seconds
        for scope in self._scopes:
            scope.deadline = self._deadline


# The reader task is protected from KeyboardInterrupt; a handler is not.
@trio.lowlevel.disable_ki_protection
async def _call(handler: StreamHandler[Any], stream: object, state: object) -> None:
    await handler(stream, state)


def _log_failed(session: object, failure: Exception) -> None:
    logger.error("the disconnect handler of %r failed", session, exc_info=failure)
