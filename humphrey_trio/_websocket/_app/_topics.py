"""The subscriptions of clients to topics.

The broadcaster sends the messages. A topic without subscribers takes no memory. Removing a client takes time
proportional to the number of its own topics.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._stream._connection import WebsocketConnection


class Receiver(Protocol):
    """The part of a session that topics and broadcasts use."""

    connection: WebsocketConnection

    @property
    def id(self) -> int:
        """The id of the stream, which is unique."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the stream is closed."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Close the stream. The arguments were checked."""
        ...


class Topics:
    """The subscriptions of all clients of an app."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: dict[Hashable, dict[int, Receiver]] = {}

    def subscribe(self, topic: Hashable, client: Receiver) -> None:
        """Add a subscriber. Does nothing if it is subscribed already."""
        self._subscribers.setdefault(topic, {})[client.id] = client

    def unsubscribe(self, topic: Hashable, client: Receiver) -> None:
        """Remove a subscriber. Does nothing if it is not subscribed."""
        subscribers = self._subscribers.get(topic)
        if subscribers is not None and subscribers.pop(client.id, None) is not None and not subscribers:
            del self._subscribers[topic]

    def subscribers(self, topic: Hashable) -> dict[int, Receiver]:
        """Return the subscribers by their ids. Copy it before a checkpoint."""
        return self._subscribers.get(topic, {})

    def counts(self) -> dict[Hashable, int]:
        """Return the number of subscribers of each topic."""
        return {topic: len(subscribers) for topic, subscribers in self._subscribers.items()}
