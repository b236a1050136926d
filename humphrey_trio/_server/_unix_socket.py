"""Unix sockets: one process at a time listens on a path, and its file is removed when it ends.

A process that crashes leaves its file behind, and the next one has to remove it before it can bind. Between the
look at the file and its removal another process may have put its own there. So all of it is done under a lock on
``path.lock``, which a process holds for as long as it listens; the kernel releases it when the process ends,
however that happens.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
from contextlib import ExitStack, suppress
from typing import NamedTuple, Self

logger = logging.getLogger("humphrey_trio.http")


class UnixSocket:
    """A socket that listens on a path of its own.

    Args:
        path: where; a file that a dead process has left there is replaced, anything else is not.
        backlog: how many clients may wait to be accepted.

    Raises:
        OSError: another process listens there, or the path cannot be used.
    """

    __slots__ = ("_file", "_lock", "_path", "socket")

    def __init__(self, path: str, backlog: int) -> None:
        self._path = os.path.abspath(path)  # it is still this one when the working directory is another
        with ExitStack() as undo:
            self.socket = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self._lock = undo.enter_context(_Lock(f"{self._path}.lock"))
            self.socket.setblocking(False)
            _remove_stale_file(path)
            self.socket.bind(path)
            self._file = _FileIdentity.of(path)
            undo.callback(self.remove_file)
            self.socket.listen(backlog)
            undo.pop_all()

    def close(self) -> None:
        """Remove the file, stop listening, and let others have the path, in this order."""
        # While it listens no other process takes the file for a stale one, so this removes no other's.
        self.remove_file()
        self.socket.close()
        self._lock.release()

    def remove_file(self) -> None:
        """Remove the file, unless another one has been put in its place."""
        try:
            if _FileIdentity.of(self._path) == self._file:
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.warning("the socket file %s stays: %s", self._path, exc.strerror)


class _FileIdentity(NamedTuple):
    """What tells a file from the one that replaces it; file systems give a number to the next file at once."""

    device: int
    inode: int
    modified: int

    @classmethod
    def of(cls, path: str) -> Self:
        found = os.lstat(path)
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns)


class _Lock:
    """An exclusive lock on a file, which is there while the lock is held.

    Args:
        path: the file.

    Raises:
        OSError: ``EADDRINUSE`` if another process holds it; another error if the file cannot be made or locked.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        while True:
            self._fd = self._open()
            # Its last owner may have removed it after it was opened here; then this lock is worth nothing.
            if self._is_in_place():
                return
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others have it. The file is removed first; one with content was not made here, and stays."""
        with suppress(OSError):
            if self._is_in_place() and not os.fstat(self._fd).st_size:
                os.unlink(self._path)
        os.close(self._fd)

    def _open(self) -> int:
        fd = None
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if fd is not None:
                os.close(fd)
            if isinstance(exc, BlockingIOError):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
            raise type(exc)(exc.errno, f"{exc.strerror} ({self._path})") from None
        return fd

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self._path))
        except OSError:
            return False


def _remove_stale_file(path: str) -> None:
    """Remove a socket on which nothing listens; anything else is left for bind to complain about.

    The lock says this of our own kind already; others may listen without one.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:
                pass  # something listens, and its backlog is full
