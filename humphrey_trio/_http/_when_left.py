"""The policy for the handlers of a client that leaves while they run."""

from __future__ import annotations

import enum


class WhenLeft(enum.Enum):
    """What happens to the handlers of a client that leaves while they run.

    Attributes:
        CANCEL: they are cancelled. Messages of a WebSocket that were received but not handled are dropped.
        FINISH: they finish. The messages that the client of a WebSocket sent before it left are handled. If the
            connection broke, only the messages that were received before are handled.
    """

    CANCEL = "cancel"
    FINISH = "finish"
