"""The settings of the compression of WebSocket messages."""

from __future__ import annotations

from dataclasses import dataclass

from .._settings import check_bool, check_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """The settings of permessage-deflate (RFC 7692), for clients that offer it.

    With context takeover, a message is compressed with the content of earlier messages. Messages become smaller,
    but each connection keeps memory between messages: four times the server window, 2 ** (memory_level + 9)
    bytes, and the client window. With the defaults this is about 50 KiB from the first messages on. Without
    context takeover in both directions, no memory is kept.

    Attributes:
        server_max_window_bits: the window of the server's compressor is at most 2 to this power bytes; 9 to 15.
            A client may request a smaller one (RFC 7692, section 7.1.2.1).
        client_max_window_bits: the same for the client's compressor; 9 to 15. If a client does not support a
            limit (section 7.1.2.2) and this is below 15, its window is 2 ** 15 bytes, without context takeover.
        server_context_takeover: whether the server's compressor keeps its window between messages.
        client_context_takeover: whether the client's compressor may keep its window between messages.
        memory_level: the memory of the server's compressor, from 1 (least memory) to 9 (fastest, and best
            compression).
        level: the compression level, from 1 (fastest) to 9 (best compression).
        min_size: the size in bytes of the smallest payload that is compressed.

    Raises:
        ValueError: a setting is out of its range.
        TypeError: a setting has the wrong type.
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
            # zlib cannot compress with a window of 8 bits.
            check_whole(f"Deflate({name}=...)", getattr(self, name), 9, 15)
        for name in ("memory_level", "level"):
            check_whole(f"Deflate({name}=...)", getattr(self, name), 1, 9)
        for name in ("server_context_takeover", "client_context_takeover"):
            check_bool(f"Deflate({name}=...)", getattr(self, name))
        check_whole("Deflate(min_size=...)", self.min_size, 0, hint="; 0 compresses every message")
