"""The limits of one WebSocket, as the keyword arguments of public functions and as a frozen value of them.

Only the keyword arguments are public. No public function takes the value.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypedDict

from .._settings import check_names, check_whole


class StreamOptions(TypedDict, total=False):
    """The keyword arguments for the limits of streams. See ``StreamLimits`` for meanings and defaults."""

    max_message_size: int
    max_fragments: int
    max_outbox_bytes: int
    max_outbox_messages: int
    max_read_ahead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """The limits of one stream.

    Attributes:
        max_message_size: the maximum size in bytes of an incoming message, including all fragments, after
            decompression. A larger one closes the stream with 1009. A frame whose header exceeds the limit is
            refused before its payload is read.
        max_fragments: the maximum number of frames of an incoming message. More close the stream with 1009.
        max_outbox_bytes: the maximum number of bytes that wait to be sent. An empty outbox accepts one message
            of any size.
        max_outbox_messages: the maximum number of messages that wait to be sent.
        max_read_ahead: the maximum number of messages that are received while a handler runs.

    Raises:
        ValueError: one of them is below 1.
        TypeError: one of them is not an int.
    """

    max_message_size: int = 1024 * 1024
    max_fragments: int = 4096
    max_outbox_bytes: int = 1024 * 1024
    max_outbox_messages: int = 4096
    max_read_ahead: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            check_whole(f"{field.name}=...", getattr(self, field.name))


def stream_limits(options: StreamOptions) -> StreamLimits:
    """Return the limits of keyword arguments.

    Raises:
        TypeError: an option is unknown, or not an int.
        ValueError: an option is below 1.
    """
    check_names(options, StreamOptions.__annotations__, "a stream")
    return StreamLimits(**options)
