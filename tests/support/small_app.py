"""A small app with a few routes, for tests of HTTP connections."""

from __future__ import annotations

from typing import Any

import trio

from humphrey_trio.http import App, Request, Response


def echo(request: Request) -> Response:
    """Respond with the content of the request."""
    return Response(200, request.content)


async def wait_a_second(_: Request) -> Response:
    """Respond after a second."""
    await trio.sleep(1)
    return Response(200, "waited")


def small_app(**settings: Any) -> App:
    """An app that responds "fine" at ``/``, echoes a body at ``/echo``, and takes a second at ``/wait``."""
    return (
        App(**settings)
        .with_stateless_route("/", lambda _: Response(200, "fine"))
        .with_stateless_route("/echo", echo)
        .with_stateless_route("/wait", wait_a_second)
    )


def big_app(size: int, **settings: Any) -> App:
    """A small app with a response of so many bytes at ``/big``."""
    return small_app(**settings).with_stateless_route("/big", lambda _: Response(200, bytes(size)))
