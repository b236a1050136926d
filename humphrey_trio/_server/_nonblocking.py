"""The base of the transports whose bytes are sent and received without waiting: sockets, TLS, ``DirectStream``.

A frame is sent by the task that has it (``send_now``), and only the rest that is not accepted waits for another
task. A cancelled send has sent nothing, so such a transport is never torn by one.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ._transport import Transport

if TYPE_CHECKING:
    from .._http._address import Address

# interrupt wakes the waiting tasks by notify_closing, so no cancel scope is needed. One costs 15 us.
_NOTHING = nullcontext()
# The maximum number of chunks of input that send_last discards. A fast sender must not delay a cancelled task.
_MAX_DISCARDS = 16


class NonBlockingTransport(Transport):
    """A transport with operations that do not wait, and two waits: until it is readable, and until it is writable.

    ``receive_some`` is left to the subclasses. It is the method that most connections wait in, and a coroutine of
    this class around one of a subclass would cost each of them 200 bytes.
    """

    __slots__ = ("_is_new",)

    def __init__(self, peer: Address) -> None:
        super().__init__(peer)
        # The first bytes have usually arrived before the connection is accepted, so the first receive tries before
        # it waits.
        self._is_new = True

    async def send_some(self, data: bytes | memoryview) -> int:
        while not (sent := self.send_now(data)):
            await self._wait_writable()
            self._check_open()
        return sent

    async def send_last(self, data: bytes) -> int:
        sent = self.send_now(data)
        # A close with unread input resets the connection, which destroys the last bytes (RFC 9112, section 9.6).
        for _ in range(_MAX_DISCARDS):
            if not self._discard_now():
                break
        return sent

    @property
    def torn(self) -> bool:
        return False

    @property
    def half_closes(self) -> bool:
        return True

    def interruptible(self) -> AbstractContextManager[object]:
        return _NOTHING

    async def close(self) -> None:
        self.abort()

    @abstractmethod
    async def _wait_writable(self) -> None:
        """Wait until ``send_now`` may send at least one byte. A checkpoint."""

    @abstractmethod
    def _discard_now(self) -> bool:
        """Discard some input without waiting.

        Returns:
            False if none has arrived, at the end of file, and if the connection has broken.
        """

    @abstractmethod
    def _check_open(self) -> None:
        """Raise ``trio.ClosedResourceError`` if the transport is closed."""
