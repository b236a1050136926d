"""Records of calls inside the library, for tests that count them."""

from __future__ import annotations

import pytest

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
