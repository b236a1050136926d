"""All sessions of an application and their slots, and what those of one run share.

A session holds a slot from before its connect handler until its disconnect handler has returned. An application
that an ``App`` runs has one run for each server of the ``App``. This module never waits for a client.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import trio

from ..._failures import failure_of
from ..._naming import qualified_name
from ._failure_log import log_failure

if TYPE_CHECKING:
    from ..._http._limits import Timeouts
    from .._stream._graceful_end import AppEnd
    from .._stream._hook_use import HookUse
    from ._handlers import StreamHandler

logger = logging.getLogger("humphrey_trio.websocket")


class Member(Protocol):
    """The part of a session that ``Sessions`` uses."""

    @property
    def id(self) -> int:
        """The id of the stream."""
        ...

    @property
    def app_run(self) -> AppRun:
        """The run of the application in which the session is."""
        ...


_Member = TypeVar("_Member", bound=Member)


class Sessions(Generic[_Member]):
    """The sessions of one application, in all its runs.

    Args:
        max_connections: the number of slots; None for no limit.

    Attributes:
        by_id: the sessions by the ids of their streams, oldest first. A session is included until its disconnect
            handler has returned, although its stream has ended.
    """

    __slots__ = ("_max_connections", "_slot_freed", "by_id")

    def __init__(self, max_connections: int | None) -> None:
        self.by_id: dict[int, _Member] = {}
        self._max_connections = max_connections
        self._slot_freed: trio.Event | None = None

    def __len__(self) -> int:
        return len(self.by_id)

    def all(self) -> tuple[_Member, ...]:
        """Return a copy of the sessions, for a loop with checkpoints."""
        return tuple(self.by_id.values())

    def of(self, run: AppRun) -> tuple[_Member, ...]:
        """Return a copy of the sessions of one run, oldest first."""
        return tuple(session for session in self.by_id.values() if session.app_run is run)

    def add(self, session: _Member) -> None:
        """Give a session a slot."""
        self.by_id[session.id] = session

    def remove(self, session: _Member) -> None:
        """Free the slot of a session."""
        del self.by_id[session.id]
        if self._slot_freed is not None:
            self._slot_freed.set()

    async def wait_for_slot(self) -> None:
        """Wait until a slot is free. Not a checkpoint if one is free already."""
        while self._max_connections is not None and len(self.by_id) >= self._max_connections:
            # A new event each time is enough: only one task waits, the one that takes streams.
            self._slot_freed = trio.Event()
            await self._slot_freed.wait()


class AppRun:
    """What the sessions of one run of an application share.

    Args:
        end: the graceful end of the run.
        timeouts: the timeouts of clients and of disconnect handlers.
        use: what the routes of the hook know about the run.
        server: the server whose streams belong to this run, as ``WebsocketConnection.server``. None for the only
            run of an application, which has the streams of all servers.

    Attributes:
        end, timeouts, use, server: as the arguments.
        nursery: the nursery of the sessions; set by ``begin``.
        taking: the scope of the task that takes streams; cancelled when it has ended.
        disconnects: the running disconnect handlers.
    """

    __slots__ = ("disconnects", "end", "nursery", "server", "taking", "timeouts", "use")

    nursery: trio.Nursery

    def __init__(self, end: AppEnd, timeouts: Timeouts, use: HookUse, server: object = None) -> None:
        self.end = end
        self.timeouts = timeouts
        self.use = use
        self.server = server
        self.taking = trio.CancelScope()
        self.disconnects = DisconnectHandlers()

    def begin(self, nursery: trio.Nursery) -> None:
        """Note that the run has begun.

        Args:
            nursery: see the attribute.
        """
        self.nursery = nursery

    @property
    def is_only_one(self) -> bool:
        """Whether the application has no other run, before or after it."""
        return self.server is None


class DisconnectHandlers:
    """The running disconnect handlers. They are shielded from cancellation, and limited when the app ends."""

    __slots__ = ("_deadline", "_scopes")

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._deadline = inf

    def __len__(self) -> int:
        return len(self._scopes)

    async def run(self, handler: StreamHandler[Any], stream: object, state: object, session: object) -> None:
        """Run one handler. An exception is logged and not raised.

        Args:
            handler: the handler.
            stream, state: its arguments.
            session: the session that log lines name.
        """
        # Shielded, because the session may end by a cancellation of the app. Only ``limit`` ends the handler then.
        scope = trio.CancelScope(deadline=self._deadline, shield=True)
        self._scopes.add(scope)
        try:
            with scope:
                try:
                    await _call(handler, stream, state)
                except BaseException as exc:
                    report = partial(log_failure, "disconnect handler", handler, session)
                    report(failure_of(exc, report))
        finally:
            self._scopes.discard(scope)
        if scope.cancelled_caught:
            name = qualified_name(handler)
            logger.warning("the disconnect handler %s of %r was cancelled, because the app ends", name, session)

    def limit(self, seconds: float) -> None:
        """Cancel running and future handlers after some seconds from now."""
        # Also for later handlers: when the app is cancelled, most sessions have not begun theirs.
        self._deadline = trio.current_time() + seconds
        for scope in self._scopes:
            scope.deadline = self._deadline


# Unlike the reader task, a handler is not protected from KeyboardInterrupt.
@trio.lowlevel.disable_ki_protection
async def _call(handler: StreamHandler[Any], stream: object, state: object) -> None:
    await handler(stream, state)
