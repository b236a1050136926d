"""A server process: start it, and end it within a bounded time, even if its handlers block.

The module knows nothing of source files. A cancellation leaves no server process.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from math import inf
from typing import TypeAlias

import trio

#: Signals to send, each with the seconds to wait for the end after it. The last wait has no bound.
Ending: TypeAlias = Sequence[tuple[signal.Signals, float]]

#: The first SIGTERM begins the graceful end of a server, and the second ends it. Open WebSockets and requests that
#: wait for something take the whole time, so it is a part of the time of every restart.
FOR_A_RESTART: Ending = ((signal.SIGTERM, 0.25), (signal.SIGTERM, 0.2), (signal.SIGKILL, inf))
#: As long as the app itself allows.
GRACEFUL: Ending = ((signal.SIGTERM, inf),)
AT_ONCE: Ending = ((signal.SIGKILL, inf),)


class ServerProcess:
    """A command that runs in at most one process at a time.

    The process is in a session of its own. So a Ctrl-C is sent to the supervisor alone, which decides what to do.

    Args:
        command: the program and its arguments.
        descriptors: files and sockets that it inherits, under the same numbers.
        environment: its environment.
    """

    __slots__ = ("_command", "_descriptors", "_environment", "_process")

    def __init__(self, command: Sequence[str], descriptors: Sequence[int], environment: Mapping[str, str]) -> None:
        self._command = command
        self._descriptors = descriptors
        self._environment = environment
        self._process: trio.Process | None = None

    async def start(self) -> None:
        """Start it. The one before must have ended.

        Raises:
            OSError: the program cannot be executed.
        """
        with trio.CancelScope(shield=True):  # a process that has started is never lost; it takes milliseconds
            self._process = await trio.lowlevel.open_process(
                self._command,
                pass_fds=self._descriptors,
                env=self._environment,
                start_new_session=True,
            )

    async def wait(self) -> int:
        """Wait until it has ended. There must be one.

        Returns:
            The exit status; negative for a signal.
        """
        assert self._process is not None
        return await self._process.wait()

    async def end(self, ending: Ending) -> None:
        """End it, and wait until it has ended. Returns at once if there is none."""
        if self._process is None:
            return
        for number, patience in ending:
            self._process.send_signal(number)  # does nothing if it has ended
            with trio.move_on_after(patience):
                await self._process.wait()
                return

    def kill(self) -> None:
        """Kill it, so that ``end`` returns soon. Does nothing if there is none."""
        if self._process is not None:
            self._process.kill()
