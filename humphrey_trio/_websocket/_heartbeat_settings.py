"""The heartbeat of an app: Pings that detect clients which no longer answer."""

from __future__ import annotations

from dataclasses import dataclass

from .._settings import check_seconds


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The times of a heartbeat, for ``AsyncWebsocketApp.with_heartbeat``.

    A Ping (RFC 6455, section 5.5.2) is sent to each client that has sent nothing for ``interval`` seconds. A
    client that sends no byte for ``timeout`` seconds after the Ping is cut off. Any byte counts, not only the
    Pong.

    Attributes:
        interval: seconds without received bytes before a Ping is sent.
        timeout: seconds after the Ping within which the client must send something.

    Raises:
        ValueError: one of them is not finite, or not above zero.
        TypeError: one of them is not a number.
    """

    interval: float = 5.0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("interval", "timeout"):
            check_seconds(f"Heartbeat({name}=...)", getattr(self, name), finite=True)
