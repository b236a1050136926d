"""One opening handshake: the attempts to accept it, its answer, and its end.

The stream exists before the answer: it may wait for a place in a hook, and what is sent on it gathers. Only
``complete`` promises anything to the client; until then the connection can go back to HTTP.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from .._errors import HandshakeError
from .._protocol._close_codes import GOING_AWAY
from .._protocol._handshake import answer_handshake
from ._connection import WebsocketConnection
from ._inbox import Reader

if TYPE_CHECKING:
    from ..._server._connection import Handover
    from .._limits import StreamLimits
    from ._admission import Admitted


class OpeningHandshake:
    """The machinery of one ``Upgrade``.

    Args:
        handover: the connection on loan.
        key: the client's, checked.

    Attributes:
        handover: as given.
        accepted: the stream, once its handshake is answered; None before.
    """

    __slots__ = ("_attempted", "_decided", "_ended", "_key", "accepted", "handover")

    def __init__(self, handover: Handover, key: str) -> None:
        self.handover = handover
        self.accepted: WebsocketConnection | None = None
        self._key = key
        self._attempted: WebsocketConnection | None = None  # while an attempt is under way
        self._ended = False  # whether the route has returned or raised
        self._decided: trio.Event | None = None

    @trio.lowlevel.enable_ki_protection
    async def accept(self, admitted: Admitted, limits: StreamLimits) -> WebsocketConnection:
        """Open a stream that has a reader task of its own; see ``Upgrade.accept``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with self.attempt(admitted, limits) as connection:
            connection.inbox.give_to(Reader.TASK)
            self.complete(admitted)
        # Not cancelled any more: the client has its 101, so the caller has to get its stream.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return connection

    @contextmanager
    def attempt(self, admitted: Admitted, limits: StreamLimits) -> Generator[WebsocketConnection]:
        """The stream before its handshake is answered, to be completed in the block.

        If it is not completed there, the attempt has failed, and another may be made.

        Raises:
            HandshakeError: the server ends.
            RuntimeError: the upgrade was accepted before, another attempt is under way, or the route has ended.
        """
        if self.accepted is not None or self._attempted is not None:
            raise RuntimeError("this upgrade was accepted before, or another task is about to accept it")
        if self._ended:
            raise RuntimeError(
                "the route of this upgrade has ended and refused it: accept it while the route runs"
            )
        if self.handover.control.draining:
            raise self.unavailable("the server ends")
        self._attempted = WebsocketConnection(self.handover, limits, admitted)
        try:
            yield self._attempted
        finally:
            self._attempted = None

    def complete(self, admitted: Admitted) -> bool:
        """Answer the handshake.

        Returns:
            False if the stream was closed before; then nothing was answered.
        """
        connection, rest = self._attempted, self.handover.rest
        assert connection is not None
        opened = connection.open(answer_handshake(self._key, admitted.fields), bytes(rest))
        if opened:
            rest.clear()  # the stream has it now; without a stream HTTP goes on with it
            self.accepted = connection
            self.decide()
        return opened

    def end(self) -> None:
        """The route has ended. Without a stream the connection goes on with HTTP, and no task may accept it."""
        self._ended = True
        if self._attempted is not None:
            # Another task waits for a place in a hook.
            self._attempted.close(GOING_AWAY, "", cause="its route has refused it")

    def decide(self) -> None:
        """Let ``wait_decided`` return."""
        if self._decided is not None:
            self._decided.set()

    async def wait_decided(self) -> None:
        """Wait until the stream is accepted, or until the route has ended and ``decide`` was called."""
        self._decided = trio.Event()
        if self.accepted is None:
            await self._decided.wait()

    def unavailable(self, reason: str) -> HandshakeError:
        """A 503 that says after how many seconds to come back (RFC 9110, section 10.2.3)."""
        handover, seconds = self.handover, "1"
        if handover.control.draining:
            reason, seconds = "the server ends", handover.server.drain.retry_after_field
        return HandshakeError(reason, 503, headers=[("Retry-After", seconds)])
