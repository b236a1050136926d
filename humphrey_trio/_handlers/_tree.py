"""Open files below a directory, and never anything outside it. Everything here blocks: it runs in a worker thread.

The names of a path are looked up one by one, each relative to the descriptor of its directory (``openat``). Links
are resolved here and not by the kernel. So if a name is replaced by a link between two steps, the walk fails; it
does not leave the directory. This works on Linux and macOS. Two alternatives were rejected:

- ``realpath`` and a check before the open: the file may be replaced between the two.
- A check of ``/proc/self/fd`` after the open: it exists only on Linux, and a device or a FIFO outside the
  directory has been opened by then.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from errno import ELOOP, ENOENT
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

from .._http._file_body import READ_FLAGS

#: The most names that are looked up for one request: those of its path and those in links. This ends link loops.
MAX_STEPS = 128

# Where O_PATH exists, a directory need not be readable, only searchable.
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC

#: A directory: the descriptors of all directories from the root to it.
Place: TypeAlias = tuple[int, ...]


class RegularFile(NamedTuple):
    """A regular file that is open for reading.

    Attributes:
        descriptor: belongs to the caller.
        status: the result of ``fstat`` after it was opened.
    """

    descriptor: int
    status: os.stat_result


class Tree:
    """A directory during one request. It is opened anew for each request, so it may be replaced at any time.

    It is a context manager, which closes the directories. The files that were opened stay open.

    Args:
        root: the absolute path of the directory. It may itself be a link, or be reached by links.
        outside_links: whether links may lead out of the directory.

    Attributes:
        top: the directory.

    Raises:
        OSError: the directory cannot be opened.
    """

    def __init__(self, root: bytes, *, outside_links: bool) -> None:
        self._root = root
        self._follows = outside_links
        self._no_follow = 0 if outside_links else os.O_NOFOLLOW
        self._steps = 0
        self._directories = ExitStack()
        self.top: Place = (self._keep(os.open(root, _DIRECTORY)),)

    def walk(self, place: Place, names: Iterable[bytes]) -> Place | RegularFile:
        """Follow names, and the links that they name.

        Args:
            place: the directory where the first name is.
            names: as in ``FilePath``.

        Returns:
            The directory or the open file that the last name means.

        Raises:
            OSError: there is no such file; it is neither regular nor a directory; a link leads out of the
                directory; or it cannot be opened.
        """
        pending = list(names)[::-1]
        while pending:
            name = pending.pop()
            self._count_step()
            if name in (b".", b".."):
                place = _dot_step(place, name)
                continue
            status = os.stat(name, dir_fd=place[-1], follow_symlinks=self._follows)
            if stat.S_ISLNK(status.st_mode):
                place, rest = self._read_link(place, name)
                pending += rest[::-1]
            elif stat.S_ISDIR(status.st_mode):
                place = (*place, self._keep(os.open(name, _DIRECTORY | self._no_follow, dir_fd=place[-1])))
            elif stat.S_ISREG(status.st_mode) and not pending:
                return open_regular(name, self._no_follow, place[-1])
            else:
                raise _not_found("neither a regular file nor a directory")
        return place

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise OSError(ELOOP, f"more than {MAX_STEPS} names")

    def _read_link(self, place: Place, name: bytes) -> tuple[Place, list[bytes]]:
        """Return where the target of a link begins, and the names in it."""
        target = os.readlink(name, dir_fd=place[-1])
        if target.startswith(b"/"):
            return self.top, _names(self._below(target))
        return place, _names(target)

    def _below(self, target: bytes) -> bytes:
        """Return the part of an absolute path behind that of the directory, given or with its links resolved.

        What is returned is walked like everything else, so it does not matter whether the directory was replaced.
        """
        for root in (self._root, os.path.realpath(self._root)):
            prefix = root.rstrip(b"/") + b"/"
            if (target + b"/").startswith(prefix):
                return target[len(prefix) :]
        raise _not_found("a link leads out of the directory")

    def _keep(self, descriptor: int) -> int:
        self._directories.callback(os.close, descriptor)
        return descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._directories.close()


def open_regular(path: bytes, flags: int = 0, dir_fd: int | None = None) -> RegularFile:
    """Open a file, and check that it is a regular one.

    Args:
        path: the path of the file.
        flags: more flags for ``os.open``.
        dir_fd: the directory that a relative path begins at.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, READ_FLAGS | flags, dir_fd=dir_fd)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_found("not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return RegularFile(descriptor, status)


def _dot_step(place: Place, name: bytes) -> Place:
    """Follow ``.`` or ``..`` in a link. ``..`` is where the walk came from, even if it was moved meanwhile."""
    above = place[:-1] if name == b".." else place
    if not above:
        raise _not_found("a link leads out of the directory")
    return above


def _names(target: bytes) -> list[bytes]:
    return [name for name in target.split(b"/") if name]


def _not_found(reason: str) -> OSError:
    return OSError(ENOENT, reason)
