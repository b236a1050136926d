"""Clients that leave while their handler runs: how they are found, and how the handler is cancelled.

A handler that waits does not read, so nothing tells it that its client has disconnected. The sweep of the server
asks the operating system about all such clients at once. This costs a request nothing: a handler is watched only
after it has run for longer than an interval of the sweep.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import trio

from .._http._when_left import WhenLeft

if TYPE_CHECKING:
    from ._control import ConnectionControl
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")


class Departures:
    """The handlers of a server that are watched."""

    __slots__ = ("_watched",)

    def __init__(self) -> None:
        self._watched: dict[Transport, Callable[[], None]] = {}

    def watch(self, transport: Transport, leave: Callable[[], None]) -> None:
        """Watch a connection, until ``forget``.

        Args:
            transport: the transport of the connection.
            leave: called once, when the peer has left. Must not raise.
        """
        self._watched[transport] = leave

    def forget(self, transport: Transport) -> None:
        """Stop watching a connection. Does nothing if it is not watched."""
        self._watched.pop(transport, None)

    def check(self) -> None:
        """Find the peers that have left. One system call for all sockets."""
        if self._watched:
            for transport in _left(self._watched):
                self._watched.pop(transport)()


def _left(transports: dict[Transport, Callable[[], None]]) -> list[Transport]:
    """Return the transports whose peer has disconnected or sent an end of file."""
    left: list[Transport] = []
    by_file: dict[int, Transport] = {}
    poll = select.poll()
    for transport in transports:
        file, events = transport.hangup_events
        if events:
            by_file[file] = transport
            poll.register(file, events)
        elif transport.hung_up():
            left.append(transport)
    if by_file:
        left.extend(by_file[file] for file, _ in poll.poll(0))
    return left


class LeavePolicy(Protocol):
    """Says what happens to a handler whose client leaves."""

    @property
    def when_left(self) -> WhenLeft | None:
        """The policy; None for the default."""
        ...


class HandlerScope:
    """The scope of the handlers of one connection, and whether the client leaves while one runs.

    As a context manager it is the scope. A ``trio.CancelScope`` takes 7 us and 770 bytes, so it is opened by
    ``begin``, for the first handler that waits.

    Args:
        transport: the transport of the connection.
        control: the control of the connection. While a handler runs, its deadline expires at every sweep; its
            callback must call ``watch``.
        departures: the handlers of the server that are watched.
        when_left: what happens to handlers, by default.

    Attributes:
        policy: the ``LeavePolicy`` of the current handler; None for the default.
        has_left: whether the client has left while a handler ran.
    """

    __slots__ = (
        "_control",
        "_default",
        "_departures",
        "_is_watched",
        "_scope",
        "_transport",
        "has_left",
        "policy",
    )

    def __init__(
        self, transport: Transport, control: ConnectionControl, departures: Departures, when_left: WhenLeft
    ) -> None:
        self._transport = transport
        self._control = control
        self._departures = departures
        self._default = when_left
        self._scope: trio.CancelScope | None = None
        self._is_watched = False
        self.policy: LeavePolicy | None = None
        self.has_left = False

    def __enter__(self) -> Self:
        return self

    def use_policy(self, policy: LeavePolicy | None) -> None:
        """Set the policy of the next handler, such as the producer of a body."""
        self.policy = policy

    def begin(self, policy: LeavePolicy | None) -> None:
        """Note that a handler begins, in the task of the block.

        Args:
            policy: see the attribute.
        """
        self.policy = policy
        if self._scope is None:
            # Entered here and left in ``__exit__``, so a connection whose handlers do not wait has no scope. The
            # scopes of a task must nest. So the caller must not have entered one since the begin of the block.
            self._scope = trio.CancelScope()
            self._scope.__enter__()
        # Passed already: the next sweep calls ``watch``, and a handler that ends before is never watched.
        self._control.expire_at(-inf)

    def watch(self) -> None:
        """The sweep has found that a handler runs: find out whether the client leaves, from the next sweep on."""
        self._control.expire_at(inf)
        self._is_watched = True
        self._departures.watch(self._transport, self.leave)

    def end(self) -> None:
        """Note that the handler has ended."""
        if self._is_watched:
            self._is_watched = False
            self._departures.forget(self._transport)
        self._control.expire_at(inf)

    def leave(self) -> None:
        """The client has left. The block is cancelled, or ends after the response."""
        logger.debug("the connection from %s has ended while a request was handled", self._transport.peer)
        self.has_left = True
        given = None if self.policy is None else self.policy.when_left
        if (given or self._default) is WhenLeft.CANCEL and self._scope is not None:
            self._scope.cancel()

    def note_left(self) -> None:
        """The connection broke while a response was sent."""
        self.has_left = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        scope, self._scope = self._scope, None
        return None if scope is None else scope.__exit__(kind, error, traceback)
