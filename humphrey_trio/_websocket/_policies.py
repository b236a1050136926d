"""What happens to a client that is too slow, or that has left: the choices that an application has."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias


class WhenFull(enum.Enum):
    """What a broadcast does with a receiver whose outbox has no room for it; see also ``KeepLatest``.

    Only messages that may be dropped themselves are dropped for another: never one that was sent with
    ``send``, or broadcast with another policy. A client that takes no byte at all is cut off after
    ``Timeouts.write``, whatever the policy.

    Attributes:
        CLOSE: it is closed with 1013, and what waits is dropped; it cannot know that it has missed a message.
        DROP_NEWEST: it does not get this message.
        DROP_OLDEST: the oldest messages of this policy that wait are dropped, or this one if that would make
            no room.
    """

    CLOSE = "close"
    DROP_NEWEST = "drop newest"
    DROP_OLDEST = "drop oldest"


@dataclass(frozen=True, slots=True)
class KeepLatest:
    """For a receiver whose outbox is full: of the messages with the same key, only the latest waits.

    For values of which only the newest counts, such as a price or a position. A receiver that has no room
    even so, because others wait, is closed with 1013: it would never hear of this value.

    Attributes:
        key: what the message is about.

    Raises:
        TypeError: the key is not hashable.
    """

    key: Hashable

    def __post_init__(self) -> None:
        hash(self.key)


#: What ``when_full`` takes.
FullPolicy: TypeAlias = WhenFull | KeepLatest


class WhenLeft(enum.Enum):
    """What happens to the handlers of a client that has left while they run.

    Attributes:
        CANCEL: they are cancelled, and messages that were read but not handled yet are dropped.
        FINISH: they finish, and the messages that the client sent before it left are handled, too; of a
            connection that broke, those that had been read by then.
    """

    CANCEL = "cancel"
    FINISH = "finish"


def check_full_policy(policy: FullPolicy) -> None:
    """Refuse what is no policy.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(policy, (WhenFull, KeepLatest)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"when_full is a WhenFull or a KeepLatest(key), not {type(policy).__name__}")
