"""Serve an app in memory, for the clients of tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import trio

from .._app._app import App
from .._http._address import Address
from .._trio_runs import check_trio

#: Makes the two ends of a connection: those of the client and of the server.
StreamPair: TypeAlias = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


@asynccontextmanager
async def serving(
    app: App[Any], stream_pair: StreamPair, peer: Address | None
) -> AsyncGenerator[Callable[[], trio.abc.Stream]]:
    """Serve an app in memory. An exception of the block is raised as it is, and not in an ExceptionGroup.

    Args:
        app: the app.
        stream_pair: makes the two ends of a connection.
        peer: the address of the client, as for ``App.serve_stream``; None for its default.

    Yields:
        A function that makes a connection and returns the client's end.
    """
    if not isinstance(app, App):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"pass the HTTP App that has the route, not {type(app).__name__}: see new_unlinked")
    if peer is not None and not isinstance(peer, Address):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"peer is an Address('192.0.2.1', 5000), not {type(peer).__name__}")
    serve = app.serve_stream if peer is None else partial(app.serve_stream, peer=peer)
    check_trio("async tests for trio, as with pytest-trio")
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:

        def connect() -> trio.abc.Stream:
            ours, theirs = stream_pair()
            nursery.start_soon(serve, theirs)
            return ours

        try:
            yield connect
        except trio.Cancelled:
            raise
        except BaseException as exc:
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
