"""One upgrade on its way through the layers of an app.

The layers run in a task of their own, and the route in the connection task. The route begins when the innermost
layer has called ``call_next``. ``call_next`` returns when the route has refused the upgrade, or is ready to accept
it. The 101 is sent after the outermost layer has returned. This module knows no layers: the caller passes a
function that runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import trio

from ..._http._headers import Headers
from ..._http._response import Response
from .._errors import HandshakeError

if TYPE_CHECKING:
    from ..._http._request import Request
    from ..._server._interface import Handover

# Layers add these to every response. A 101 has no content (RFC 9110, section 8.6), and its Connection field is
# part of the handshake.
_NOT_FOR_A_SWITCH = ("Connection", "Content-Length")

#: Runs the layers of a request around its argument, the innermost answer. Raises no ``Exception``.
RunLayers: TypeAlias = Callable[[Callable[["Request"], Awaitable[Response]]], Awaitable[Response]]

SWITCHING_PROTOCOLS = 101


class LayerGate:
    """Connects the route of one upgrade with the layers around it.

    Args:
        run_layers: runs the layers.
    """

    __slots__ = ("_answer", "_answered", "_entered", "_finished", "_outcome", "_request", "_run_layers")

    def __init__(self, run_layers: RunLayers) -> None:
        self._run_layers = run_layers
        self._request: Request | None = None  # the request that the innermost layer has passed on
        self._entered = trio.Event()  # the innermost layer has called call_next, or the layers have ended
        self._answer: Response | None = None  # the result of that call
        self._answered = trio.Event()
        self._outcome: Response | None = None  # the response of the outermost layer
        self._finished = trio.Event()

    async def serve(
        self, handover: Handover, upgrade: Callable[[Handover], Awaitable[Response | None]]
    ) -> Response | None:
        """Run the layers, and the route if they call it.

        Args:
            handover: the connection. It gets the request that the innermost layer has passed on.
            upgrade: runs the route, and the stream until it has ended. Returns the response that refuses the
                upgrade, or None. Raises no ``Exception``.

        Returns:
            The response that refuses the upgrade, from the layers or the route; or None.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run)
            await self._entered.wait()
            if self._request is not None:
                handover.pass_layers(self._request, self)
                refusal = await upgrade(handover)
                return None if refusal is None else await self._pass_refusal(refusal)
        return self._outcome

    async def pass_admitted(self) -> Headers:
        """Let the layers see that the route is ready to accept. Called by the task of the route.

        Returns:
            The header fields that the layers have added to the 101.

        Raises:
            HandshakeError: a layer has returned another response. The client receives that response.
        """
        outcome = await self._pass(Response.switching_protocols())
        if outcome.status != SWITCHING_PROTOCOLS:
            raise HandshakeError("a layer of the app has refused the upgrade", outcome.status)
        return _for_a_switch(outcome.headers)

    async def _pass_refusal(self, refusal: Response) -> Response:
        """Return what the client receives for a refusal of the route."""
        outcome = await self._pass(refusal)
        if outcome.status != SWITCHING_PROTOCOLS:
            return outcome
        # The layers have seen a 101, and then there was no place in the hook. The fields that they have added
        # belong to this response as well.
        for name, value in outcome.headers:
            refusal = refusal.with_header(name, value)
        return refusal

    async def _pass(self, answer: Response) -> Response:
        """Give ``call_next`` its result, if it has none yet, and return the response of the outermost layer."""
        if not self._answered.is_set():
            self._answer = answer
            self._answered.set()
        await self._finished.wait()
        assert self._outcome is not None
        return self._outcome

    async def _run(self) -> None:
        self._outcome = await self._run_layers(self._call_route)
        self._finished.set()
        self._entered.set()

    async def _call_route(self, request: Request) -> Response:
        """The innermost answer."""
        self._request = request
        self._entered.set()
        await self._answered.wait()
        assert self._answer is not None
        return self._answer


def _for_a_switch(headers: Headers) -> Headers:
    for name in _NOT_FOR_A_SWITCH:
        if name in headers:
            headers = headers.without_header(name)
    return headers
