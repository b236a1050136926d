"""The frames of a client, masked by wsproto; for tests of applications."""

from __future__ import annotations

from wsproto.frame_protocol import FrameProtocol

from .._websocket._protocol._close_codes import NO_CODE


class ClientEncoder:
    """Frames as a client sends them, masked by wsproto; for tests of applications."""

    def __init__(self) -> None:
        self._frames = FrameProtocol(client=True, extensions=[])

    def message(self, data: str | bytes) -> bytes:
        return bytes(self._frames.send_data(data))

    def ping(self, payload: bytes) -> bytes:
        return bytes(self._frames.ping(payload))

    def pong(self, payload: bytes) -> bytes:
        return bytes(self._frames.pong(payload))

    def close(self, code: int, reason: str) -> bytes:
        return bytes(self._frames.close(None if code == NO_CODE else code, reason or None))
