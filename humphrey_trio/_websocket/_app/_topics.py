"""Which clients have subscribed to which topics.

It only keeps the subscriptions; the broadcaster sends. A topic without subscribers does not exist, and a client
that leaves costs only its own topics.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._stream._connection import WebsocketConnection


class Receiver(Protocol):
    """One client, as topics and broadcasts know it."""

    connection: WebsocketConnection

    @property
    def id(self) -> int:
        """A number that no other client has."""
        ...


class Topics:
    """The subscriptions of all clients of an app."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: dict[Hashable, dict[int, Receiver]] = {}

    def subscribe(self, topic: Hashable, client: Receiver) -> None:
        """Add a subscriber; the second time changes nothing."""
        self._subscribers.setdefault(topic, {})[client.id] = client

    def unsubscribe(self, topic: Hashable, client: Receiver) -> None:
        """Remove a subscriber, if it is one."""
        subscribers = self._subscribers.get(topic)
        if subscribers is not None and subscribers.pop(client.id, None) is not None and not subscribers:
            del self._subscribers[topic]

    def subscribers(self, topic: Hashable) -> dict[int, Receiver]:
        """The clients that have subscribed, by their ids; copy it to read it over a checkpoint."""
        return self._subscribers.get(topic, {})

    def counts(self) -> dict[Hashable, int]:
        """How many subscribers each topic has."""
        return {topic: len(subscribers) for topic, subscribers in self._subscribers.items()}
