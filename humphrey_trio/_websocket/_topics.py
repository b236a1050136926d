"""Who wants to hear of what.

It only keeps the subscriptions; whoever publishes sends. No topic stays without a subscriber, and a client that
leaves costs only its own topics.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._stream import WebsocketStream


class Topics:
    """The subscriptions of all clients of an app."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: dict[Hashable, dict[int, WebsocketStream]] = {}

    def subscribe(self, topic: Hashable, stream: WebsocketStream) -> None:
        """Add a subscriber; the second time changes nothing."""
        self._subscribers.setdefault(topic, {})[stream.id] = stream

    def unsubscribe(self, topic: Hashable, stream: WebsocketStream) -> None:
        """Remove a subscriber, if it is one."""
        subscribers = self._subscribers.get(topic)
        if subscribers is not None and subscribers.pop(stream.id, None) is not None and not subscribers:
            del self._subscribers[topic]

    def subscribers(self, topic: Hashable) -> dict[int, WebsocketStream]:
        """The streams that have subscribed, by their ids; whoever reads it over a checkpoint copies it."""
        return self._subscribers.get(topic, {})

    def counts(self) -> dict[Hashable, int]:
        """How many subscribers each topic has."""
        return {topic: len(subscribers) for topic, subscribers in self._subscribers.items()}
