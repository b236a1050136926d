"""The handle of a server for each connection: its deadline, and how a graceful shutdown reaches it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TypeAlias

#: A deadline and its callback, while others are in force.
Suspended: TypeAlias = tuple[Callable[[], None], float]


class ConnectionControl:
    """The control of a server over a connection: its deadline, and the request to shut down.

    Attributes:
        at: the deadline, in seconds of the server's ``SweepClock``; infinity for none.
        expire: called by the server when the deadline has passed. Must not raise.
        draining: whether a graceful shutdown has begun, so that no new request may be read.
        drain: called when a graceful shutdown begins. Must not raise.
    """

    __slots__ = ("at", "drain", "draining", "expire")

    expire: Callable[[], None]
    drain: Callable[[], None]

    def __init__(self, draining: bool) -> None:
        self.at = inf
        self.draining = draining
        self.expire = self.drain = _do_nothing

    def hand_to(self, expire: Callable[[], None], drain: Callable[[], None]) -> None:
        """Set the callbacks, when another part of the connection takes over.

        Args:
            expire, drain: see the attributes.
        """
        self.expire, self.drain = expire, drain

    def replace_expire(self, expire: Callable[[], None]) -> Suspended:
        """Set the callback of the deadline for some time.

        Args:
            expire: see the attribute.

        Returns:
            The previous deadline and its callback, for ``restore``.
        """
        previous = self.expire, self.at
        self.expire = expire
        return previous

    def restore(self, previous: Suspended) -> None:
        """Set the deadline and its callback again, as they were before ``replace_expire``."""
        self.expire, self.at = previous

    def begin_drain(self) -> None:
        """Tell the connection that a graceful shutdown has begun."""
        self.draining = True
        self.drain()

    def expire_at(self, moment: float) -> None:
        """Set the deadline.

        Args:
            moment: see ``at``.
        """
        self.at = moment

    def detach(self) -> None:
        """Drop the callbacks of a closed connection. This breaks a reference cycle, so its memory is freed now."""
        self.expire = self.drain = _do_nothing


def _do_nothing() -> None: ...
