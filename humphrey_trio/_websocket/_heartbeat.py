"""The heartbeat of an app: how silent clients are found out."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Ping clients that are silent, and cut off those that stay so.

    Any byte from a client is a sign of life; only a silent one is pinged.

    Attributes:
        interval: seconds of silence after which a client is pinged.
        timeout: seconds after that ping in which something has to come.

    Raises:
        ValueError: one is not a finite number above zero.
    """

    interval: float = 5.0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("interval", "timeout"):
            value = getattr(self, name)
            if not isfinite(value) or value <= 0:
                raise ValueError(f"Heartbeat({name}=...) must be a finite number of seconds above zero")
