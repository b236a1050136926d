"""The WebSocket apps that an HTTP app runs. It knows their interface only: their code is above this folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import trio

if TYPE_CHECKING:
    from .._http._limits import Timeouts
    from .._server._interface import ServerSettings
    from .._websocket._stream._hook_use import Hook


class HostedApp(Protocol):
    """A WebSocket app that was adopted."""

    async def run(
        self,
        server: ServerSettings,
        shutdown: trio.Event | None,
        /,
        *,
        task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the streams of one server until cancelled, or until a graceful end is complete.

        May run several times at once, for several servers.

        Args:
            server: the settings of the server: its timeouts and its drain are those of the WebSocket app.
            shutdown: begins the graceful end; None for never.
            task_status: for ``nursery.start``.
        """
        ...


@runtime_checkable
class AdoptableApp(Protocol):
    """The part of an ``AsyncWebsocketApp`` that ``App.with_websocket_app`` uses."""

    def connect_hook(self) -> Hook:
        """Return the hook of the app."""
        ...

    def adopt(self, timeouts: Timeouts, /) -> HostedApp:
        """Let an HTTP app run this app.

        Raises:
            LinkError: the app cannot be adopted.
        """
        ...


class Hosting:
    """The WebSocket apps of one HTTP app."""

    __slots__ = ("_adopted", "_hosted")

    def __init__(self) -> None:
        self._adopted: list[AdoptableApp] = []
        self._hosted: list[HostedApp] = []

    def adopt(self, app: AdoptableApp, timeouts: Timeouts) -> None:
        """Run an app from now on. Does nothing if it was adopted here before, for another route.

        Raises:
            LinkError: the app cannot be adopted.
        """
        if not any(one is app for one in self._adopted):
            self._hosted.append(app.adopt(timeouts))
            self._adopted.append(app)

    async def run_beside(
        self, server: ServerSettings, shutdown: trio.Event | None, serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Run the apps while a server runs.

        Args:
            server: the settings of the server.
            shutdown: begins the graceful end; None for never.
            serve: runs the server. Returns after a graceful end, or when the server is not needed any more.
        """
        if not self._hosted:
            await serve()
            return
        async with trio.open_nursery() as nursery:
            for app in self._hosted:
                await nursery.start(app.run, server, shutdown)
            await serve()
            if shutdown is None or not shutdown.is_set():
                nursery.cancel_scope.cancel()
