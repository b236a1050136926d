"""Which of the messages that wait to be sent may be dropped, and for which others.

It knows the tickets of waiting messages, not the messages: the send queue has those, and drops them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from .._policies import FullPolicy, KeepLatest, WhenFull


class DropIndex:
    """The tickets of the messages in one send queue that may be dropped, oldest first."""

    __slots__ = ("_by_key", "_keys", "_oldest")

    def __init__(self) -> None:
        self._oldest: dict[int, None] = {}  # those of DROP_OLDEST
        self._keys: dict[int, Hashable] = {}  # those of KeepLatest
        self._by_key: dict[Hashable, dict[int, None]] = {}

    def add(self, ticket: int, policy: FullPolicy) -> None:
        """Add a message that waits from now on."""
        if isinstance(policy, KeepLatest):
            self._keys[ticket] = policy.key
            self._by_key.setdefault(policy.key, {})[ticket] = None
        elif policy is WhenFull.DROP_OLDEST:
            self._oldest[ticket] = None

    def discard(self, ticket: int) -> None:
        """Remove a message that waits no more; does nothing for one that may not be dropped."""
        self._oldest.pop(ticket, None)
        if ticket in self._keys:
            key = self._keys.pop(ticket)
            tickets = self._by_key[key]
            del tickets[ticket]
            if not tickets:
                del self._by_key[key]

    def tickets(self) -> set[int]:
        """All tickets."""
        return {*self._oldest, *self._keys}

    def candidates(self, policy: FullPolicy) -> Iterator[list[int]]:
        """The messages that may be dropped for one with this policy, in the order in which to drop them.

        Each list is dropped as a whole. For a message with a key: first all with the same key, which it
        outdates, then those of other keys that later ones outdate already.
        """
        if isinstance(policy, KeepLatest):
            outdated = self._by_key.get(policy.key)
            if outdated is not None:
                yield list(outdated)
            for tickets in self._by_key.values():
                # Compared by what they hold: a key need not equal itself, as NaN does not.
                if tickets is not outdated and len(tickets) > 1:
                    yield list(tickets)[:-1]
        elif policy is WhenFull.DROP_OLDEST:
            for ticket in self._oldest:
                yield [ticket]
