"""The bytes of HTTP requests and of WebSocket frames."""

from __future__ import annotations

from collections.abc import Iterable

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


HANDSHAKE_FIELDS = (
    ("Host", "testserver"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def request_bytes(line: str, fields: Iterable[tuple[str, str]] = HANDSHAKE_FIELDS) -> bytes:
    """The head of a request, by default with the header fields of an opening handshake."""
    return "".join([f"{line}\r\n", *(f"{name}: {value}\r\n" for name, value in fields), "\r\n"]).encode("latin-1")


def client_frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A masked frame of a client. ``rsv`` is the value of the three reserved bits."""
    mask = b"\x69\x00\x5a\xff"
    first, size = (fin << 7) | (rsv << 4) | opcode, len(payload)
    if size < 126:
        header = bytes((first, 0x80 | size))
    elif size < 2**16:
        header = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return header + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    """The Close frame of a client."""
    return client_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split bytes that a server has sent into frames, as opcode and payload, and an incomplete rest.

    Asserts what holds for every frame of this server: final, no reserved bit, no mask.
    """
    frames: list[tuple[int, bytes]] = []
    end = 0
    while len(data) >= end + 2:
        opcode, size, start = data[end] & 0x0F, data[end + 1], end + 2
        assert data[end] == 0x80 | opcode
        assert size < 128
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[end + 2 : start], "big")
        if len(data) < start + size:
            break
        end = start + size
        frames.append((opcode, data[start:end]))
    return frames, data[end:]
