"""What a server saw of a browser: a layer that records requests and the statuses of their responses."""

from __future__ import annotations

from typing import Any, NamedTuple

from humphrey_trio import Request, Response
from humphrey_trio.layers import CallNext


class Visit(NamedTuple):
    """A request, and the status of its response."""

    request: Request
    status: int


class Visits:
    """A layer that records all requests in the order of their responses."""

    def __init__(self) -> None:
        self.all: list[Visit] = []

    async def __call__(self, request: Request, state: Any, call_next: CallNext) -> Response:
        response = await call_next(request)
        self.all.append(Visit(request, response.status))
        return response

    def of(self, path: str) -> list[tuple[str, int]]:
        """The methods of the requests for a path, and the statuses of the responses."""
        return [(str(request.method), status) for request, status in self.all if request.path == path]

    def last(self, path: str) -> Request:
        """The last request for a path."""
        return [request for request, _ in self.all if request.path == path][-1]


def page(request: Request) -> Response:
    """An empty page, without the request for an icon."""
    return Response.html('<!doctype html><link rel="icon" href="data:,"><title>page</title>')
