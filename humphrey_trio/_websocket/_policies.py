"""Policies for clients that are too slow."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias


class WhenFull(enum.Enum):
    """What a broadcast does if the outbox of a receiver has no room for the message; see also ``KeepLatest``.

    Messages of ``send``, and broadcasts with another policy, are never dropped to make room. A client that accepts
    no bytes for ``Timeouts.write`` seconds is cut off, with every policy.

    Attributes:
        CLOSE: close the receiver with 1013, and drop its queued messages. So a client never misses a message
            without a close.
        DROP_NEWEST: drop this message.
        DROP_OLDEST: drop the oldest queued messages with this policy until this message fits. If dropping all
            of them is not enough, drop only this message.
    """

    CLOSE = "close"
    DROP_NEWEST = "drop newest"
    DROP_OLDEST = "drop oldest"


@dataclass(frozen=True, slots=True)
class KeepLatest:
    """What a broadcast does if the outbox of a receiver is full: keep only the latest message of each key.

    For values of which only the latest matters, such as a price or a position. Queued messages with the same key
    are dropped first. If this is not enough, queued messages with other keys are dropped if a later message has
    the same key. If this is not enough either, nothing is dropped, and the receiver is closed with 1013, because
    it would miss the latest value.

    Attributes:
        key: identifies the value; any hashable object.

    Raises:
        TypeError: the key is not hashable.
    """

    key: Hashable

    def __post_init__(self) -> None:
        hash(self.key)


#: The type of ``when_full``.
FullPolicy: TypeAlias = WhenFull | KeepLatest


def check_full_policy(policy: FullPolicy) -> None:
    """Check the type of a policy.

    Raises:
        TypeError: it is neither a ``WhenFull`` nor a ``KeepLatest``.
    """
    if not isinstance(policy, (WhenFull, KeepLatest)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"when_full must be a WhenFull or a KeepLatest(key), not {type(policy).__name__}")
