"""What one WebSocket may cost: sizes and counts, as a frozen value and as the keywords that make it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypedDict


class StreamOptions(TypedDict, total=False):
    """Keywords of everything that takes WebSockets; ``StreamLimits`` has their meanings and defaults."""

    max_message_size: int
    max_fragments: int
    max_outbox_bytes: int
    max_outbox_messages: int
    max_read_ahead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Bounds of one stream.

    Attributes:
        max_message_size: bytes of an incoming message, all its fragments together; beyond it the stream is
            closed with 1009, before the payload of a frame that says so is read.
        max_fragments: frames of an incoming message; beyond it 1009.
        max_outbox_bytes: bytes that may wait to be sent. An empty outbox takes one message of any size.
        max_outbox_messages: messages that may wait to be sent.
        max_read_ahead: messages that are read while a handler is busy with one.

    Raises:
        ValueError: one is below one.
    """

    max_message_size: int = 1024 * 1024
    max_fragments: int = 4096
    max_outbox_bytes: int = 1024 * 1024
    max_outbox_messages: int = 4096
    max_read_ahead: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1")
