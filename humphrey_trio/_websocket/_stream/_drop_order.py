"""An index of the queued messages that may be dropped, by policy.

It contains the tickets of messages. The send queue has the messages, and drops them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from .._policies import FullPolicy, KeepLatest, WhenFull


class DropOrder:
    """The tickets of the messages in one send queue that may be dropped, oldest first."""

    __slots__ = ("_by_key", "_keys", "_oldest")

    def __init__(self) -> None:
        # Dictionaries are used as ordered sets.
        self._oldest: dict[int, None] = {}  # the tickets with DROP_OLDEST
        self._keys: dict[int, Hashable] = {}  # the tickets with KeepLatest, and their keys
        self._by_key: dict[Hashable, dict[int, None]] = {}

    def add(self, ticket: int, policy: FullPolicy) -> None:
        """Add a message, if its policy permits to drop it."""
        if isinstance(policy, KeepLatest):
            self._keys[ticket] = policy.key
            self._by_key.setdefault(policy.key, {})[ticket] = None
        elif policy is WhenFull.DROP_OLDEST:
            self._oldest[ticket] = None

    def discard(self, ticket: int) -> None:
        """Remove a message. Does nothing if it is not in the index."""
        self._oldest.pop(ticket, None)
        if ticket in self._keys:
            key = self._keys.pop(ticket)
            tickets = self._by_key[key]
            del tickets[ticket]
            if not tickets:
                del self._by_key[key]

    def candidates(self, policy: FullPolicy) -> Iterator[list[int]]:
        """Yield the messages that may be dropped for a new message, in the order in which to drop them.

        Each list is dropped as a whole. For ``KeepLatest``, these are first all messages with the same key, and
        then, for each other key, all messages except the latest.

        Args:
            policy: the policy of the new message.
        """
        if isinstance(policy, KeepLatest):
            outdated = self._by_key.get(policy.key)
            if outdated is not None:
                yield list(outdated)
            for tickets in self._by_key.values():
                # Compares the dictionaries, not the keys: a key may differ from itself, such as NaN.
                if tickets is not outdated and len(tickets) > 1:
                    yield list(tickets)[:-1]
        elif policy is WhenFull.DROP_OLDEST:
            for ticket in self._oldest:
                yield [ticket]
