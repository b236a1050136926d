"""The graceful shutdown of an application: how its WebSockets are closed, and by when."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

from .._settings import check_seconds

if TYPE_CHECKING:
    from ._limits import Timeouts

_CODES = (1001, 1012, 1013)

#: Seconds that the cleanup of a cancelled connection may take over a trio stream that is not a socket: half of it
#: to send the last frames, half to close the stream, which may send a close_notify of TLS.
CLEANUP_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How ``with_shutdown`` closes the open WebSockets.

    Attributes:
        code: the close code: 1001 (going away), 1012 (service restart), 1013 (try again later), or a code of the
            application from 3000 to 4999.
        spread: seconds over which the closes are distributed, so that the clients do not all reconnect at once.
        retry_after: seconds after which a client should reconnect. Sent in the close reason, as
            ``retry-after=2.5``, and in the Retry-After field of refused upgrades. None sends neither; a refused
            upgrade then has ``Retry-After: 1``.
        patience: seconds that a running handler has to finish before its stream is closed.

    Raises:
        ValueError: the code is not one of these, or a time is negative or not finite.
        TypeError: a time is not a number.
    """

    code: int = 1001
    spread: float = 0.0
    retry_after: float | None = None
    patience: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.code, int) or not (self.code in _CODES or 3000 <= self.code <= 4999):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Drain(code=...) must be 1001, 1012, 1013 or 3000 to 4999, not {self.code!r}")
        for name in ("spread", "retry_after", "patience"):
            value = getattr(self, name)
            if value is not None or name != "retry_after":
                check_seconds(f"Drain({name}=...)", value, zero=True, finite=True)

    @property
    def reason(self) -> str:
        """The close reason; empty without ``retry_after``."""
        return "" if self.retry_after is None else f"retry-after={self.retry_after:g}"

    @property
    def retry_after_field(self) -> str:
        """The value of the Retry-After field: whole seconds, at least 1 (RFC 9110, section 10.2.3)."""
        return str(max(1, ceil(self.retry_after or 0)))


def hard_stop_after(timeouts: Timeouts, seconds: float) -> float:
    """Compute when a graceful shutdown cancels the remaining connections.

    Args:
        timeouts: the timeouts of the application.
        seconds: how long the cleanup after the cancellation may take.

    Returns:
        Seconds after the start of the shutdown, early enough for the cleanup to end within ``Timeouts.drain``,
        but at least half of ``Timeouts.drain``.
    """
    if timeouts.drain == inf:
        return inf
    return timeouts.drain - min(seconds, timeouts.drain / 2)


def check_drain(drain: Drain, timeouts: Timeouts) -> None:
    """Check that the spread of a drain ends before the remaining connections are cancelled.

    Raises:
        ValueError: the spread is too long for ``Timeouts.drain``.
    """
    hard_stop = hard_stop_after(timeouts, max(timeouts.disconnect, CLEANUP_SECONDS))
    if drain.spread >= hard_stop:
        raise ValueError(
            f"Drain(spread={drain.spread:g}) must be below {hard_stop:g}, after which Timeouts(drain="
            f"{timeouts.drain:g}, disconnect={timeouts.disconnect:g}) cancels the remaining connections"
        )
