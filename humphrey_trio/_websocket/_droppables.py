"""Which of the messages that wait to be sent may be dropped, and for which others.

It knows tickets, the numbers of waiting messages, and no messages; whoever keeps those drops them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from ._policies import FullPolicy, KeepLatest, WhenFull


class Droppables:
    """The tickets of one outbox that were put with a policy that drops, each kind in its order."""

    __slots__ = ("_by_key", "_keys", "_oldest")

    def __init__(self) -> None:
        self._oldest: dict[int, None] = {}  # those of DROP_OLDEST
        self._keys: dict[int, Hashable] = {}  # those of KeepLatest
        self._by_key: dict[Hashable, dict[int, None]] = {}

    def add(self, ticket: int, policy: FullPolicy) -> None:
        """A message waits from now on."""
        if isinstance(policy, KeepLatest):
            self._keys[ticket] = policy.key
            self._by_key.setdefault(policy.key, {})[ticket] = None
        elif policy is WhenFull.DROP_OLDEST:
            self._oldest[ticket] = None

    def discard(self, ticket: int) -> None:
        """It does not any more; one that may not be dropped is none of ours."""
        self._oldest.pop(ticket, None)
        if ticket in self._keys:
            key = self._keys.pop(ticket)
            tickets = self._by_key[key]
            del tickets[ticket]
            if not tickets:
                del self._by_key[key]

    def candidates(self, policy: FullPolicy) -> Iterator[list[int]]:
        """Those that may go for a message with a policy, in the order in which they should, some together.

        For one with a key: all that it outdates, and then those that others outdate already.
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
