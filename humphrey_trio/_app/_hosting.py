"""The apps that an HTTP app runs: ASGI apps, and WebSocket apps.

It knows WebSocket apps by their interface only, because their code is above this folder.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import trio

from .._asgi._host import AsgiHost
from .._naming import qualified_name

if TYPE_CHECKING:
    from .._asgi._call import AsgiApp
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
    """The ASGI apps and the WebSocket apps of one HTTP app."""

    __slots__ = ("_adopted", "_asgi", "_hosted")

    def __init__(self) -> None:
        self._adopted: list[AdoptableApp] = []
        self._hosted: list[HostedApp] = []
        self._asgi: list[AsgiHost] = []

    def adopt(self, app: AdoptableApp, timeouts: Timeouts) -> None:
        """Run a WebSocket app from now on. Does nothing if it was adopted here before, for another route.

        Raises:
            LinkError: the app cannot be adopted.
        """
        if not any(one is app for one in self._adopted):
            self._hosted.append(app.adopt(timeouts))
            self._adopted.append(app)

    def host(self, app: AsgiApp) -> AsgiHost:
        """Run an ASGI app from now on. Returns the same host for each mount of the app."""
        for host in self._asgi:
            if host.app is app:
                return host
        kind = app if hasattr(app, "__qualname__") else type(app)
        host = AsgiHost(app, f"the ASGI app {qualified_name(kind)}")
        self._asgi.append(host)
        return host

    async def run_beside(
        self, server: ServerSettings, shutdown: trio.Event | None, serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Run the apps while a server runs.

        The ASGI apps start before the WebSocket apps, one after the other, and end after the connections, in
        reverse.

        Args:
            server: the settings of the server.
            shutdown: begins the graceful end; None for never.
            serve: runs the server. Returns after a graceful end, or when the server is not needed any more.

        Raises:
            LifespanError: the lifespan of an ASGI app has failed.
        """
        run = serve if not self._hosted else partial(self._run_hosted, server, shutdown, serve)
        for host in reversed(self._asgi):
            run = partial(host.run_around, server.timeouts, shutdown, run)
        await run()

    async def _run_hosted(
        self, server: ServerSettings, shutdown: trio.Event | None, serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Run the WebSocket apps while a server runs."""
        async with trio.open_nursery() as nursery:
            for app in self._hosted:
                await nursery.start(app.run, server, shutdown)
            await serve()
            if shutdown is None or not shutdown.is_set():
                nursery.cancel_scope.cancel()
