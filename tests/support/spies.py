"""Records of calls inside the library, for tests that count them."""

from __future__ import annotations

from typing import Any

import pytest

from humphrey_trio._websocket._app import _broadcaster
from humphrey_trio._websocket._stream._connection import WebsocketConnection
from humphrey_trio._websocket._stream._outbox import Outbox


def spied_frames(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The frames that are put into outboxes from now on, in order."""
    frames: list[bytes] = []
    put = Outbox.put

    def note(outbox: Outbox, frame: bytes) -> None:
        frames.append(frame)
        put(outbox, frame)

    monkeypatch.setattr(Outbox, "put", note)
    return frames


def spied_offers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the streams to which broadcasts and publications are offered, in order."""
    names: list[str] = []
    offer = _broadcaster.offer

    def note(connection: WebsocketConnection, *args: Any) -> bool:
        names.append(connection.request.query)
        return offer(connection, *args)

    monkeypatch.setattr(_broadcaster, "offer", note)
    return names
