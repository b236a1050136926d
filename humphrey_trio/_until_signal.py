"""Signals that end a program: the first shuts it down gracefully, the second cancels, the third kills the process.

A handler of ``signal`` runs between two instructions of whatever the main thread does. So it only schedules calls,
with ``TrioToken.run_sync_soon``, and takes no lock. No task waits for signals, so nothing has to be cancelled at
the end.
"""

from __future__ import annotations

import _thread
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from types import FrameType
from typing import NoReturn

import trio

logger = logging.getLogger("humphrey_trio.http")

#: The signals by which a program is asked to end: by Ctrl-C, and by service managers and containers.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: The exit status of a program that a signal has ended is this and the number of the signal, as in shells.
KILLED = 128
_NOT_ENDED = (
    "%s: the process has not ended %g s after it was cancelled, and is killed: a thread runs, or a handler blocks"
    " the event loop"
)
# Seconds in which the line above is logged.
_LOGGED = 0.1


class SignalWatch:
    """What happens at the signals of one run of trio.

    Args:
        scope: is cancelled by the second signal, or by the first one if it has no event to set. The next signal
            kills the process.
        announce: whether the first signal is logged.
        patience: seconds from the cancellation until the process is killed without another signal. ``inf`` for
            never.

    Attributes:
        ended_by: the signal that has cancelled the scope, or None.
    """

    __slots__ = ("_announce", "_begun", "_event", "_patience", "_restore", "_scope", "_token", "ended_by")

    def __init__(self, scope: trio.CancelScope, *, announce: bool, patience: float = inf) -> None:
        self._scope = scope
        self._announce = announce
        self._patience = patience
        self._token = trio.lowlevel.current_trio_token()
        self._event: trio.Event | None = None
        self._begun = False
        self._restore = ExitStack()
        self.ended_by: signal.Signals | None = None

    def sets(self, event: trio.Event) -> None:
        """Let the first signal set an event."""
        self._event = event

    def install(self) -> None:
        """Replace the handlers of the signals, except for a signal that the process ignores.

        A shell lets background jobs ignore SIGINT, because Ctrl-C is meant for another program.
        """
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if previous is not signal.SIG_IGN:
                signal.signal(number, self._handle)
                # None is a handler that was not installed by Python, and cannot be restored.
                self._restore.callback(signal.signal, number, signal.SIG_DFL if previous is None else previous)

    def restore(self) -> None:
        """Restore the handlers that were there before. Does nothing if they are restored already."""
        self._restore.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._event is not None and not self._event.is_set() and not self._begun:
            self._begun = True
            self._token.run_sync_soon(self._begin, number, self._event)
            return
        if self.ended_by is not None:
            _kill(number)
        self.ended_by = signal.Signals(number)
        self._token.run_sync_soon(self._scope.cancel)
        if self._patience < inf:
            # Thread.start() takes a lock, which the main thread may hold at this moment.
            _thread.start_new_thread(_kill_later, (self._patience, number))

    def _begin(self, number: int, event: trio.Event) -> None:
        if self._announce:
            log_shutdown(number)
        event.set()


def log_shutdown(number: int) -> None:
    """Log that a signal begins a graceful shutdown."""
    logger.info("%s: shutting down gracefully; a second signal ends at once", signal.Signals(number).name)


def _kill_later(patience: float, number: int) -> None:
    """Kill the process if it has not ended by itself.

    A cancellation does not end a thread, or a handler that blocks the event loop.
    """
    time.sleep(patience)
    # Logging takes a lock, which a blocked main thread may hold.
    _thread.start_new_thread(logger.error, (_NOT_ENDED, signal.Signals(number).name, patience))
    time.sleep(_LOGGED)
    _kill(number)


def _kill(number: int) -> NoReturn:
    """End the process without cleanup. The tracebacks of its threads show what it was doing.

    It has the exit status of shells. The default effect of a signal would do nothing to the first process of a
    container.
    """
    with suppress(Exception):  # standard error may be closed, or have no descriptor
        faulthandler.dump_traceback(sys.stderr)
    os._exit(KILLED + number)


@contextmanager
def watch_signals(*, announce: bool = True, patience: float = inf) -> Generator[SignalWatch]:
    """Watch the signals during a block. The second one cancels the block, and the third one kills the process.

    Args:
        announce: whether the first signal is logged.
        patience: seconds from the second signal until the process is killed without a third one.

    Raises:
        SystemExit: at the end of the block, after a second signal.
        RuntimeError: it is not called in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals arrive in the main thread only: set the event of with_shutdown yourself")
    scope = trio.CancelScope()
    watch = SignalWatch(scope, announce=announce, patience=patience)
    with scope:
        try:
            watch.install()
            yield watch
        finally:
            watch.restore()
    if watch.ended_by is not None:
        raise SystemExit(KILLED + watch.ended_by)


@contextmanager
def until_signal(event: trio.Event | None = None) -> Generator[trio.Event]:
    """Shut a program down by signals: ``with until_signal() as shutdown:``.

    Pass the event to ``with_shutdown``, and call ``run`` in the block. The first SIGTERM or SIGINT (Ctrl-C) sets
    the event, so that the apps shut down gracefully. The second one cancels the block, and ends the program with
    the exit status 143 or 130, without a traceback. If the event is set already, the first one does so. A
    cancellation does not end a thread, or a handler that blocks the event loop. The third signal kills the process
    in any case, with the same exit status and the tracebacks of its threads. After the block, signals have the
    effect that they had before the block. A SIGINT that the process ignores, as in a background job of a shell, is
    still ignored.

    Args:
        event: the event; None for a new one.

    Yields:
        The event.

    Raises:
        SystemExit: at the end of the block, after a second signal.
        RuntimeError: it is not called in the main thread.

    Example:
        >>> async def main() -> None:
        ...     with until_signal() as shutdown:
        ...         await App().with_shutdown(shutdown).run("127.0.0.1:8080")
        >>> trio.run(main)  # doctest: +SKIP
    """
    shutdown = trio.Event() if event is None else event
    with watch_signals() as watch:
        watch.sets(shutdown)
        yield shutdown
