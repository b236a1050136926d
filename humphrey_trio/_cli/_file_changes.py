"""Watch the Python files below some paths, with the library ``watchfiles``.

It only looks at names, and never reads a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio

_SUFFIX = ".py"
#: Directories whose files are not sources, besides hidden ones (``.name``) and virtual environments.
_NOT_SOURCES = {"__pycache__", "node_modules", "site-packages"}
#: Names of files that editors write beside an edited file begin with this, besides hidden ones.
_OF_EDITORS = "flycheck_"
#: Changes are reported after the first number of milliseconds without another one, at the latest after the second.
_QUIET, _AT_LATEST = 50, 500


class ChangedFiles:
    """The files that have changed since they were last taken.

    Attributes:
        files: their paths.
    """

    __slots__ = ("_changed", "files")

    def __init__(self) -> None:
        self.files: frozenset[str] = frozenset()
        self._changed = trio.Event()

    def add(self, files: Iterable[str]) -> None:
        """Note that files have changed."""
        self.files = self.files.union(files)
        self._changed.set()

    async def wait(self) -> None:
        """Wait until a file has changed."""
        await self._changed.wait()

    def take(self) -> frozenset[str]:
        """Return the files, and forget them."""
        files, self.files = self.files, frozenset()
        self._changed = trio.Event()
        return files


async def watch_files(
    paths: Sequence[str | os.PathLike[str]],
    changed: ChangedFiles,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Add the Python files that change below some paths, until cancelled.

    Args:
        paths: directories, with everything below them, and files. They must exist.
        changed: gets the files.
        task_status: for ``nursery.start``. Started when no change is missed any more.

    Raises:
        OSError: a path cannot be watched. In an ExceptionGroup, as from any nursery.
    """
    control = _Control(trio.lowlevel.current_trio_token())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, _watch, paths, changed.add, control)
        try:
            await control.watching.wait()
            task_status.started()
            await trio.sleep_forever()
        finally:
            control.stop()


class _Control:
    """Connects the watching thread with trio. ``watchfiles`` asks it every 50 ms whether to stop."""

    __slots__ = ("_stopped", "_token", "watching")

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._stopped = False
        self.watching = trio.Event()

    def stop(self) -> None:
        self._stopped = True

    def is_set(self) -> bool:
        """Called by ``watchfiles`` in the thread, from the time when no change is missed."""
        self._token.run_sync_soon(self.watching.set, idempotent=True)
        return self._stopped

    def report(self, call: Callable[[list[str]], None], files: list[str]) -> None:
        """Let the event loop call a function."""
        self._token.run_sync_soon(call, files)


def _watch(
    paths: Sequence[str | os.PathLike[str]], report: Callable[[list[str]], None], control: _Control
) -> None:
    """Report changes, until the control is stopped. Runs in a thread."""
    import watchfiles  # the extra ``reload``

    roots = [os.path.realpath(path, strict=True) for path in paths]
    batches = watchfiles.watch(
        *roots,
        watch_filter=lambda _, path: is_source(path, roots),
        debounce=_AT_LATEST,
        step=_QUIET,
        rust_timeout=0,  # none
        stop_event=control,
        ignore_permission_denied=True,
    )
    for batch in batches:
        control.report(report, [path for _, path in batch])


def is_source(path: str, roots: Sequence[str]) -> bool:
    """Tell whether a file below one of some directories is Python source of an application.

    Args:
        path: the absolute path of the file, which may have been removed.
        roots: the absolute paths of the directories. A root may also be the file itself.
    """
    if not path.endswith(_SUFFIX) or os.path.basename(path).startswith(_OF_EDITORS):
        return False
    return any(_is_source_below(Path(path), Path(root)) for root in roots if Path(path).is_relative_to(root))


def _is_source_below(path: Path, root: Path) -> bool:
    below = path.relative_to(root)
    if any(name.startswith(".") or name in _NOT_SOURCES for name in below.parts):
        return False
    directories = [root / parent for parent in below.parents if parent.name]
    return not any((directory / "pyvenv.cfg").exists() for directory in directories)
