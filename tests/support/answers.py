"""Answers of handlers that are called without an app."""

from __future__ import annotations

from collections.abc import Awaitable

from humphrey_trio.http import HttpError, Response


async def answered(answer: Awaitable[Response]) -> Response:
    """Await the answer of a handler. An HttpError becomes a response, as in an app."""
    try:
        return await answer
    except HttpError as error:
        return Response(error.status, headers=error.headers)
