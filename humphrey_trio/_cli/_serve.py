"""Serve an app until a signal arrives."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext
from typing import Any

import trio

from .._app._app import App, servers_of
from .._asgi._errors import LifespanError
from .._server._certificate import PASS_BOTH
from .._server._given_listener import ListenTarget, close_given
from .._until_signal import SignalWatch, watch_signals
from .._watchdog._watchdog import watch_event_loop
from ._arguments import Options
from ._binds import errors_of_listening, listen_targets
from ._errors import CommandError, UsageError
from ._served_app import open_app

_PASS_BOTH = "pass --tls-cert CERT --tls-key KEY"
# Seconds from the second signal, which cancels the server, until the process is killed.
_PATIENCE = 1.0


async def serve(found: object, options: Options, *, supervised: bool = False) -> None:
    """Serve an app until it has shut down gracefully.

    Args:
        found: the object that was loaded.
        options: the arguments of the command line.
        supervised: whether a supervisor restarts this process. It logs the signals, and a developer wants to know
            which handlers block the event loop.

    Raises:
        UsageError: the object is not an app, or an option cannot be used.
        CommandError: an address cannot be listened on, or the lifespan of an ASGI app has failed.
        SystemExit: a second signal has ended the server.
    """
    with watch_signals(announce=not supervised, patience=_PATIENCE) as signals, ExitStack() as opened:
        targets = listen_targets(options.binds, options.unix_mode, os.environ)
        for target in targets:
            opened.callback(close_given, target)  # unless the app has closed them
        async with open_app(found, options.target) as app:
            use_certificate(app, options)
            _end_by(signals, app)
            async with _watched_event_loop() if supervised else nullcontext():
                await _run(app, targets, options.unix_mode)


def use_certificate(app: App[Any], options: Options) -> None:
    """Let the app use the certificate of the command line. Changed files are loaded while it runs.

    Raises:
        UsageError: the certificate cannot be used.
    """
    if options.tls_cert is not None:
        try:
            app.with_cert(options.tls_cert, options.tls_key, reload=True)
        except ValueError as exc:
            raise UsageError(str(exc).replace(PASS_BOTH, _PASS_BOTH)) from None


def _end_by(signals: SignalWatch, app: App[Any]) -> None:
    """Let the first signal set the event of the app, or one that it gets here if it has none."""
    event = servers_of(app).shutdown
    if event is None:
        event = trio.Event()
        app.with_shutdown(event)
    signals.sets(event)


@asynccontextmanager
async def _watched_event_loop() -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_event_loop)
        yield
        nursery.cancel_scope.cancel()


async def _run(app: App[Any], targets: Sequence[ListenTarget], unix_mode: int | None) -> None:
    run = app.run if servers_of(app).certificate is None else app.run_tls
    try:
        with errors_of_listening():
            await run(*targets, unix_mode=unix_mode)
    except LifespanError as exc:
        raise CommandError(str(exc)) from exc.__cause__
