"""Unix sockets: only one process at a time listens on a path, and the file is removed at the end.

A process that crashes leaves its socket file, and the next process must remove the file before it can bind.
Another process may create its own file between the check and the removal. So a process holds a lock on the file
``path.lock`` before the check and for as long as it listens. The kernel releases the lock if the process crashes.
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
    """A listening Unix socket.

    Args:
        path: the path to listen on. The socket file of a crashed process is replaced. Any other file is not.
        backlog: connections that the kernel queues until they are accepted.
        mode: the mode of the socket file; None for that of the umask. A peer must be permitted to write to it.

    Raises:
        OSError: another process listens on the path, or the path cannot be used.
    """

    __slots__ = ("_file", "_lock", "_path", "socket")

    def __init__(self, path: str, backlog: int, mode: int | None = None) -> None:
        self._path = os.path.abspath(path)  # the working directory may change
        with ExitStack() as undo:
            self.socket = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self._lock = undo.enter_context(_Lock(f"{self._path}.lock"))
            self.socket.setblocking(False)
            _remove_stale_file(path)
            self.socket.bind(path)
            self._file = _FileIdentity.of(path)
            undo.callback(self.remove_file)
            if mode is not None:
                # Before listen, so that no peer connects with the mode of the umask. Another umask would apply to
                # the files that other threads create at the same time.
                os.chmod(path, mode)
            self.socket.listen(backlog)
            undo.pop_all()

    def close(self) -> None:
        """Remove the file, close the socket, and release the lock, in this order."""
        # The file must be removed while the socket listens: then no other process considers it stale and replaces
        # it.
        self.remove_file()
        self.socket.close()
        self._lock.release()

    def remove_file(self) -> None:
        """Remove the socket file, unless it was replaced by another file."""
        try:
            if _FileIdentity.of(self._path) == self._file:
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.warning("cannot remove the socket file %s: %s", self._path, exc.strerror)


class _FileIdentity(NamedTuple):
    """Identifies a file. The inode alone does not: file systems reuse it for the next file."""

    device: int
    inode: int
    modified: int

    @classmethod
    def of(cls, path: str) -> Self:
        found = os.lstat(path)
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns)


class _Lock:
    """An exclusive lock on a file, which exists while the lock is held.

    Args:
        path: the file.

    Raises:
        OSError: ``EADDRINUSE`` if another process holds the lock; another error if the file cannot be created or
            locked.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        while True:
            self._fd = self._open()
            # The previous owner may have removed the file after it was opened here. Then the lock excludes no one.
            if self._is_in_place():
                return
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Remove the file and release the lock. A file with content was not created by this class, and is kept."""
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
    """Remove a socket file on which no process listens. Any other file is kept, and bind raises an error.

    The lock excludes other servers of this library only. Other programs may listen on the path without it.
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
                pass  # a process listens, and its backlog is full
