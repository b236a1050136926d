"""How an application ends gracefully: how its WebSockets are told, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._limits import Timeouts

_CODES = (1001, 1012, 1013)

#: What foreign streams such as TLS may take for their last words and their farewell, when all is cancelled.
FAREWELL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What ``with_shutdown`` does with the WebSockets that are open.

    Attributes:
        code: the close code: 1001 (going away), 1012 (service restart), 1013 (try again later), or one of your
            own, 3000 to 4999.
        spread: seconds over which the streams are closed, so that not all clients come back at once.
        retry_after: seconds after which a client should come back. It goes into the close reason, as
            ``retry-after=2.5``, and into the Retry-After of refused upgrades; None says nothing.
        patience: seconds that a running handler gets, so that it can still answer, before its stream is closed.

    Raises:
        ValueError: the code is another, or a time is negative or not finite.
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
            if value is None and name == "retry_after":
                continue
            if not (isinstance(value, (int, float)) and isfinite(value) and value >= 0):
                raise ValueError(f"Drain({name}=...) must be a finite number of seconds, at least 0")

    @property
    def reason(self) -> str:
        """The text beside the close code."""
        return "" if self.retry_after is None else f"retry-after={self.retry_after:g}"

    @property
    def retry_after_field(self) -> str:
        """The value of a Retry-After header field, in whole seconds (RFC 9110, section 10.2.3)."""
        return str(max(1, ceil(self.retry_after or 0)))


def hard_stop_after(timeouts: Timeouts, seconds: float) -> float:
    """Seconds after which a graceful end cancels what is left, so that all has ended within ``Timeouts.drain``.

    Args:
        timeouts: the application's.
        seconds: what the hard stop itself may take. Half of the time is grace in any case.
    """
    if timeouts.drain == inf:
        return inf
    return timeouts.drain - min(seconds, timeouts.drain / 2)


def check_drain(drain: Drain, timeouts: Timeouts) -> None:
    """Refuse a drain whose spread the hard stop would cut off.

    Raises:
        ValueError: it takes too long.
    """
    hard_stop = hard_stop_after(timeouts, max(timeouts.disconnect, FAREWELL_SECONDS))
    if drain.spread >= hard_stop:
        raise ValueError(
            f"Drain(spread={drain.spread:g}) has to be below {hard_stop:g}, after which Timeouts(drain="
            f"{timeouts.drain:g}, disconnect={timeouts.disconnect:g}) cancels what is left"
        )
