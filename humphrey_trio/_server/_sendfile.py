"""Send files over a socket with ``os.sendfile``, which does not copy them into this process.

The call waits for the disk, so it runs in a worker thread. It does not wait for the peer, because the socket is
non-blocking: a task waits until it is writable. A cancelled task does not wait for the thread, which then still
has the descriptor of the socket. So the descriptor must not be closed before the thread returns. Otherwise its
number could become that of another client, who would receive the file.
"""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock

import trio

from .._http._file_body import OpenFile
from ._file_threads import with_file_in_thread

#: The most bytes of one step in a worker thread. The hop to the thread costs little beside them, and the kernel
#: rarely accepts more at once.
STEP_SIZE = 1024 * 1024


class Use(enum.Enum):
    """The use of a socket that is lent to worker threads.

    ======== ==================== =============== ===================
    state    a thread borrows     the thread ends the socket is closed
    ======== ==================== =============== ===================
    FREE     LENT                                 CLOSED
    LENT     (not possible)       FREE            ABORTED
    ABORTED  ``ClosedResource``   CLOSED
    CLOSED   ``ClosedResource``
    ======== ==================== =============== ===================

    Attributes:
        FREE: no thread uses it.
        LENT: a thread uses it.
        ABORTED: a thread uses it, and closes it afterwards. The connection is shut down, so nothing more is sent.
        CLOSED: the descriptor is closed.
    """

    FREE = enum.auto()
    LENT = enum.auto()
    ABORTED = enum.auto()
    CLOSED = enum.auto()


class LentSocket:
    """A socket that worker threads use, one at a time, and that its task closes at any time.

    Args:
        sock: a connected, non-blocking socket. This object closes it.
    """

    __slots__ = ("_lock", "_socket", "_use")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = Lock()
        self._use = Use.FREE

    @contextmanager
    def borrow(self) -> Generator[int]:
        """Keep the descriptor open for a ``with`` block in a worker thread, whose value it is.

        Raises:
            trio.ClosedResourceError: the socket is closed.
        """
        with self._lock:
            if self._use is not Use.FREE:
                raise trio.ClosedResourceError("the connection was closed")
            self._use = Use.LENT
        try:
            yield self._socket.fileno()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        with self._lock:
            if self._use is Use.ABORTED:
                self._use = Use.CLOSED
                self._socket.close()
            else:
                self._use = Use.FREE

    async def wait_writable(self) -> None:
        """Wait until the socket accepts bytes. No thread uses it meanwhile.

        Raises:
            trio.ClosedResourceError: the socket is closed, now or while this waits.
        """
        if self._use is not Use.FREE:
            raise trio.ClosedResourceError("the connection was closed")
        await trio.lowlevel.wait_writable(self._socket)

    def close(self) -> None:
        """Close the socket. If a thread uses it, shut the connection down, and let the thread close the socket.

        Call ``trio.lowlevel.notify_closing`` before. May be called again.
        """
        with self._lock:
            if self._use is Use.LENT:
                self._use = Use.ABORTED
                with suppress(OSError):  # the peer may have disconnected already
                    self._socket.shutdown(socket.SHUT_RDWR)
            elif self._use is Use.FREE:
                self._use = Use.CLOSED
                self._socket.close()


async def send_step(lent: LentSocket, file: OpenFile, position: int, size: int) -> int | None:
    """Send some bytes of a file in a worker thread, without waiting for the peer.

    If this is cancelled, the thread may still be sending: close the socket.

    Args:
        lent: the socket.
        file: the file. Closed if this raises.
        position: the position of the first byte.
        size: the most bytes to send, at least 1.

    Returns:
        The number of bytes that the kernel accepted; None if it accepts none now. 0 if the file has ended, if the
        file or the socket does not support this, or if one of them has failed. To find out which, read the file
        and send what was read.

    Raises:
        trio.ClosedResourceError: the socket is closed.
    """
    return await with_file_in_thread(partial(_send_some, lent=lent, position=position, size=size), file)


def _send_some(file: OpenFile, *, lent: LentSocket, position: int, size: int) -> int | None:
    with file.borrow() as source, lent.borrow() as target:
        try:
            return os.sendfile(target, source, position, min(size, STEP_SIZE))
        except BlockingIOError:
            return None
        except OSError:
            return 0
