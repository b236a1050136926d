"""Signals that end a program: the first one begins a graceful shutdown, the second one ends it at once.

A handler of ``signal`` runs between two instructions of whatever the main thread does. So it only schedules calls,
with ``TrioToken.run_sync_soon``. No task waits for signals, so nothing has to be cancelled at the end.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import FrameType

import trio

logger = logging.getLogger("humphrey_trio.http")

#: The signals by which a program is asked to end: by Ctrl-C, and by service managers and containers.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: The exit status of a program that a signal has ended is this and the number of the signal, as in shells.
KILLED = 128


class SignalWatch:
    """What happens at the signals of one run of trio.

    Args:
        scope: is cancelled by the second signal, or by the first one if it has no event to set.
        announce: whether the first signal is logged.

    Attributes:
        ended_by: the signal that has cancelled the scope, or None.
    """

    __slots__ = ("_announce", "_begun", "_event", "_restore", "_scope", "_token", "ended_by")

    def __init__(self, scope: trio.CancelScope, *, announce: bool) -> None:
        self._scope = scope
        self._announce = announce
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
        self.ended_by = signal.Signals(number)
        # If a handler of the application blocks, neither signal has an effect. The third one interrupts it.
        self.restore()
        self._token.run_sync_soon(self._scope.cancel)

    def _begin(self, number: int, event: trio.Event) -> None:
        if self._announce:
            log_shutdown(number)
        event.set()


def log_shutdown(number: int) -> None:
    """Log that a signal begins a graceful shutdown."""
    logger.info("%s: shutting down gracefully; a second signal ends at once", signal.Signals(number).name)


@contextmanager
def watch_signals(*, announce: bool = True) -> Generator[SignalWatch]:
    """Watch the signals during a block, which the second one cancels.

    Args:
        announce: whether the first signal is logged.

    Raises:
        SystemExit: at the end of the block, after a second signal.
        RuntimeError: it is not called in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals arrive in the main thread only: set the event of with_shutdown yourself")
    scope = trio.CancelScope()
    watch = SignalWatch(scope, announce=announce)
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
    the exit status 143 or 130, without a traceback. If the event is set already, the first one does so. From then
    on, and after the block, signals have the effect that they had before the block. A SIGINT that the process
    ignores, as in a background job of a shell, is still ignored.

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
