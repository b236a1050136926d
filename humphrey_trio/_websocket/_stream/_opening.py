"""One opening handshake: the attempts to accept it, its response, and its end.

The stream is created before the response. It may wait for a place in a hook, and messages that are sent on it wait
in its outbox. Only ``complete`` sends the response. Until then the connection can return to HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .._causes import ROUTE_REFUSED, SHUTTING_DOWN
from .._errors import HandshakeError
from .._protocol._close_codes import GOING_AWAY
from .._protocol._handshake import answer_handshake
from ._connection import WebsocketConnection
from ._inbox import Reader

if TYPE_CHECKING:
    from ..._server._interface import Handover
    from .._limits import StreamLimits
    from ._admission import Admitted


class OpeningHandshake:
    """The machinery of one ``Upgrade``.

    Args:
        handover: the connection, from the HTTP side.
        key: the value of ``Sec-WebSocket-Key``, checked.

    Attributes:
        handover: as the argument.
        accepted: the connection whose handshake is answered; None before.
    """

    __slots__ = ("_attempted", "_decided", "_ended", "_key", "accepted", "handover")

    def __init__(self, handover: Handover, key: str) -> None:
        self.handover = handover
        self.accepted: WebsocketConnection | None = None
        self._key = key
        self._attempted: WebsocketConnection | None = None  # set during an attempt
        self._ended = False  # whether the route has returned or raised
        self._decided: trio.Event | None = None

    @trio.lowlevel.enable_ki_protection
    async def accept(self, admitted: Admitted, limits: StreamLimits) -> WebsocketConnection:
        """Answer the handshake for a stream with a task that reads ahead; see ``Upgrade.accept``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.handover.gate is not None:
            admitted = await self.pass_layers(admitted)
        connection = self.begin_attempt(admitted, limits)
        try:
            connection.inbox.give_to(Reader.TASK)
            self.complete(admitted)
        finally:
            self.end_attempt()
        # Shielded: the 101 is sent, so the caller must receive its stream.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return connection

    async def pass_layers(self, admitted: Admitted) -> Admitted:
        """Let the layers of the app see that the upgrade will be accepted, and add their header fields.

        Raises:
            HandshakeError: a layer has refused the upgrade.
        """
        gate = self.handover.gate
        return admitted if gate is None else admitted.with_fields(await gate.pass_admitted())

    def begin_attempt(self, admitted: Admitted, limits: StreamLimits) -> WebsocketConnection:
        """Create the stream before the handshake is answered. The caller must call ``end_attempt`` in any case.

        If ``complete`` is not called in between, the attempt has failed, and another one may be made. These are
        two calls and no context manager, because a generator would make each handshake 2 us slower.

        Raises:
            HandshakeError: the server is shutting down.
            RuntimeError: the upgrade was accepted before, another task is accepting it, or the route has ended.
        """
        if self.accepted is not None or self._attempted is not None:
            raise RuntimeError("this upgrade was accepted before, or another task is accepting it")
        if self._ended:
            raise RuntimeError("the route of this upgrade has returned: call accept before it returns")
        if self.handover.control.draining:
            raise self.unavailable(SHUTTING_DOWN)
        self._attempted = WebsocketConnection(self.handover, limits, admitted)
        return self._attempted

    def end_attempt(self) -> None:
        """End an attempt."""
        self._attempted = None

    def complete(self, admitted: Admitted) -> bool:
        """Answer the handshake.

        Returns:
            False if the stream was closed before. Then nothing was sent.
        """
        connection, rest = self._attempted, self.handover.rest
        assert connection is not None
        answer = answer_handshake(self._key, admitted.fields)
        opened = connection.open(answer, bytes(rest))
        if opened:
            rest.clear()  # the stream has these bytes; without a stream, HTTP would parse them
            self.handover.note_switched(len(answer))
            self.accepted = connection
            self.decide()
        return opened

    def end(self) -> None:
        """Note that the route has ended. From now on the upgrade cannot be accepted."""
        self._ended = True
        if self._attempted is not None:
            # Another task waits for a place in a hook. This ends its wait.
            self._attempted.close(GOING_AWAY, "", cause=ROUTE_REFUSED)

    def decide(self) -> None:
        """Let ``wait_decided`` return."""
        if self._decided is not None:
            self._decided.set()

    async def wait_decided(self) -> None:
        """Wait until the upgrade is accepted, or until ``decide`` is called after the end of the route."""
        self._decided = trio.Event()
        if self.accepted is None:
            await self._decided.wait()

    def unavailable(self, reason: str) -> HandshakeError:
        """Create a refusal with 503 and Retry-After (RFC 9110, section 10.2.3)."""
        handover, seconds = self.handover, "1"
        if handover.control.draining:
            reason, seconds = SHUTTING_DOWN, handover.server.drain.retry_after_field
        return HandshakeError(reason, 503, headers=[("Retry-After", seconds)])
