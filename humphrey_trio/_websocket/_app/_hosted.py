"""An application that an ``App`` runs: one run for each server of the ``App``, while that server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..._trio_runs import current_run
from .._stream._graceful_end import AppEnd
from .._stream._hook_use import forget_use, note_server_end, note_use, use_of
from ._sessions import AppRun

if TYPE_CHECKING:
    from typing import Any

    from ..._http._address import Address
    from ..._server._interface import ServerSettings
    from .._stream._hook_use import Hook
    from ._stream_server import StreamServer


class HostedStreams:
    """The streams of an application that an ``App`` runs.

    Args:
        streams: the streams of the application.
        hook: its connect hook.
    """

    __slots__ = ("_hook", "_streams")

    def __init__(self, streams: StreamServer[Any], hook: Hook) -> None:
        self._streams = streams
        self._hook = hook

    @trio.lowlevel.enable_ki_protection
    async def run(
        self,
        server: ServerSettings,
        shutdown: trio.Event | None,
        *,
        task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the streams of a server until cancelled, or until a graceful end is complete.

        Args:
            server: the settings of the server.
            shutdown: begins the graceful end; None for never.
            task_status: for ``nursery.start``.

        Raises:
            RuntimeError: the ``App`` runs in another run of trio at the same time.
        """
        broadcaster, streams = self._streams.broadcaster, self._streams
        broadcaster.check_run()
        broadcaster.bind(current_run())
        use = use_of(self._hook) or note_use(self._hook)
        run = AppRun(AppEnd(shutdown, server.drain), server.timeouts, use, server.fairness)
        try:
            await streams.run(run, _start_nothing, task_status)
        finally:
            note_server_end(self._hook, server.fairness)
            if not streams.running:
                broadcaster.bind(None)
                forget_use(self._hook)


async def _start_nothing(_: trio.Nursery) -> tuple[Address, ...]:
    return ()
