"""What tests do with both ends of a ``TlsTransport``."""

from __future__ import annotations

import contextlib

import pytest

from humphrey_trio._server._tls import TlsTransport
from tests.support.tls_peers import (
    VERSIONS,
    Client,
)

any_version = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


LONG = bytes(range(256)) * 4096  # 1 MiB


async def read(transport: TlsTransport, size: int) -> bytes:
    """Exactly so much content from the client."""
    received = b""
    while len(received) < size:
        data = await transport.receive_some()
        assert data
        received += data
    return received


async def read_to_end(transport: TlsTransport) -> bytes:
    """All content up to the end of the connection."""
    received = b""
    while data := await transport.receive_some():
        received += data
    return received


async def discard_to_end(transport: TlsTransport) -> None:
    """Discard what the client sends, up to its end of file."""
    while await transport.discard_some():
        pass


def fill(transport: TlsTransport, data: bytes = LONG) -> int:
    """Send until the kernel accepts no more records. Returns how much was taken."""
    sent = 0
    while sent < len(data):
        taken = transport.send_now(data[sent:])
        sent += taken
        if not taken:
            break
    assert sent < len(data)
    return sent


async def send_until_closed(client: Client) -> None:
    """Send what the client has to send, until the server closes the connection."""
    with contextlib.suppress(OSError):
        await client.send_all(b"")
