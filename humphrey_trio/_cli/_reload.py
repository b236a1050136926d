"""Restart a server when its source changes. Its listening sockets stay open during the restart.

The supervisor is the parent process. It never accepts a connection and imports no code of the application, so no
error there can end it. During a restart, connections wait in the backlogs of the sockets.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from importlib.util import cache_from_source, find_spec

import trio

from .._failures import only_cause
from .._quoting import printable
from .._until_signal import KILLED, log_shutdown
from ._errors import UsageError
from ._file_changes import ChangedFiles, watch_files
from ._lifeline import Lifeline
from ._server_process import AT_ONCE, FOR_A_RESTART, GRACEFUL, ServerProcess
from ._terminal import Terminal

logger = logging.getLogger("humphrey_trio.reload")

_NAMES_SHOWN = 3

_NOT_INSTALLED = (
    "--reload needs the library watchfiles, which is not installed: pip install 'humphrey_trio[reload]'"
)


async def supervise(
    command: Sequence[str], listeners: Sequence[socket.socket], *, paths: Sequence[str | os.PathLike[str]] = (".",)
) -> int:
    """Run a server in a child process, and restart it when a Python file changes, until a signal arrives.

    The child gets the sockets as ``--bind fd:N``, and calls ``end_with_supervisor``. After a change it gets a
    SIGTERM, 0.25 s later a second one, and 0.2 s later a SIGKILL. Then the next child is started. If a child ends
    by itself, the next one is started after the next change. The first SIGINT or SIGTERM ends the child
    gracefully, and the second kills it. The library ``watchfiles`` must be installed (the extra ``reload``).

    Args:
        command: the program of the server and its arguments, without sockets.
        listeners: listening sockets. The caller closes them.
        paths: what to watch: directories with everything below them, and files. Caches, virtual environments, and
            hidden files and directories (``.name``) are ignored.

    Returns:
        The exit status for ``sys.exit``: 0 after a graceful end; 130 or 143 if a second SIGINT or SIGTERM has
        killed the child.

    Raises:
        UsageError: watchfiles is not installed, files cannot be watched, or the command cannot be executed.
    """
    if find_spec("watchfiles") is None:
        raise UsageError(_NOT_INSTALLED)
    # It logs every change, also those of a log file in a directory that is watched, which would never end.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    binds = [argument for listener in listeners for argument in ("--bind", f"fd:{listener.fileno()}")]
    with Lifeline() as lifeline:
        descriptors = [lifeline.descriptor, *(listener.fileno() for listener in listeners)]
        server = ServerProcess([*command, *binds], descriptors, lifeline.environment())
        try:
            return await _supervise(server, paths)
        except ExceptionGroup as group:
            if isinstance(cause := only_cause(group), OSError):
                raise UsageError(f"--reload: {cause}") from None
            raise


async def _supervise(server: ServerProcess, paths: Sequence[str | os.PathLike[str]]) -> int:
    """Run the server until a signal arrives, end it, and return the exit status."""
    terminal = Terminal()
    try:
        with trio.open_signal_receiver(*_signals()) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_restart_on_changes, server, paths, terminal)
                log_shutdown(await anext(signals))
                nursery.cancel_scope.cancel()
            return await _end_gracefully(server, signals)
    finally:
        with trio.CancelScope(shield=True):  # waits for a killed process only
            await server.end(AT_ONCE)
        terminal.restore()


def _signals() -> list[signal.Signals]:
    """Return the signals that end the supervisor. A shell lets background jobs ignore SIGINT."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGINT, signal.SIGTERM]


async def _end_gracefully(server: ServerProcess, signals: AsyncIterator[int]) -> int:
    """Let the server end, or kill it when the next signal arrives. Returns the exit status."""
    status = 0

    async def kill_on_signal() -> None:
        nonlocal status
        status = KILLED + await anext(signals)
        server.kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_on_signal)
        await server.end(GRACEFUL)
        nursery.cancel_scope.cancel()
    return status


async def _restart_on_changes(
    server: ServerProcess, paths: Sequence[str | os.PathLike[str]], terminal: Terminal
) -> None:
    """Run the server, and start it again whenever files have changed. Never returns."""
    changed = ChangedFiles()
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_files, paths, changed)
        while True:
            await server.start()
            async with trio.open_nursery() as reporting:
                reporting.start_soon(_report_end, server)
                await changed.wait()
                reporting.cancel_scope.cancel()
            logger.info("restarting, because of changes in %s", printable(_listed(changed.files)))
            await server.end(FOR_A_RESTART)
            terminal.restore()
            _forget_bytecode(changed.take())


async def _report_end(server: ServerProcess) -> None:
    """Log that the server has ended by itself. It has printed why."""
    status = await server.wait()
    logger.warning("the server has ended with status %d; it is started again when a file changes", status)


def _listed(files: Iterable[str]) -> str:
    """The names of files for a log line, relative to the working directory."""
    names = sorted(os.path.relpath(file) for file in files)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _forget_bytecode(files: Iterable[str]) -> None:
    """Remove the cached bytecode of files.

    Python takes it for current if the source has the same size and was modified in the same second (PEP 3147 and
    the ``.pyc`` header). So of two changes in one second, the second could be missed.
    """
    for file in files:
        with suppress(OSError, NotImplementedError):
            os.unlink(cache_from_source(file))
