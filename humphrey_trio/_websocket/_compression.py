"""How WebSocket messages are compressed: what an application sets, and what each setting costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """Compression of messages with permessage-deflate (RFC 7692), for clients that offer it.

    What is remembered from one message to the next makes messages smaller, and takes memory for each
    connection: our window four times, 2 ** (memory_level + 9) bytes, and the client's window. With the
    defaults that is some 50 KiB from the first messages on; without context takeover in both directions it is
    nothing.

    Attributes:
        server_max_window_bits: how far back our compressor looks, as a power of two of bytes. A client may ask
            for less.
        client_max_window_bits: the same for the client's compressor. A client that does not let itself be
            limited has 15, and no context takeover unless that is allowed here.
        server_context_takeover: whether our compressor remembers the messages before.
        client_context_takeover: whether the client's may.
        memory_level: from 1 (least memory) to 9 (quickest and smallest).
        level: from 1 (quickest) to 9 (smallest).
        min_size: bytes of the smallest payload that is worth compressing.

    Raises:
        ValueError: a setting is out of its range.
    """

    server_max_window_bits: int = 12
    client_max_window_bits: int = 12
    server_context_takeover: bool = True
    client_context_takeover: bool = True
    memory_level: int = 5
    level: int = 6
    min_size: int = 64

    def __post_init__(self) -> None:
        for name in ("server_max_window_bits", "client_max_window_bits"):
            if not 9 <= getattr(self, name) <= 15:
                raise ValueError(
                    f"Deflate({name}=...) must be from 9 to 15: zlib has no compressor for a window of 8 bits"
                )
        for name in ("memory_level", "level"):
            if not 1 <= getattr(self, name) <= 9:
                raise ValueError(f"Deflate({name}=...) must be from 1 to 9")
        if self.min_size < 0:
            raise ValueError("Deflate(min_size=...) must be at least 0, which compresses everything")
