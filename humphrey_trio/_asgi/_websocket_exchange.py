"""One WebSocket, as the messages of an ASGI app.

The app uses the stream in its own task. The route waits beside it, because a stream is closed when its route
returns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from .._hints import add_hint
from .._server._head import name_of
from .._websocket._errors import ConnectionClosed, HandshakeError
from .._websocket._limits import StreamLimits
from .._websocket._protocol._close_codes import ABNORMAL
from .._websocket._stream._admission import Accept, Admission
from .._websocket._stream._stream import WebsocketStream
from .._websocket._stream._upgrade import opening_of
from ._answer import Answer
from ._errors import ClientDisconnected, MessageError, only_disconnected
from ._fields import read_body, read_code, read_data, read_headers, read_start, read_text
from ._order import WEBSOCKET_ORDER, WebsocketPhase, next_phase

if TYPE_CHECKING:
    from .._http._response import Response
    from .._websocket._stream._upgrade import Upgrade

logger = logging.getLogger("humphrey_trio.websocket")

# The app decides which pages may connect: it has the Origin field.
_ADMISSION = Admission()
_LIMITS = StreamLimits()

# The close code of a stream whose app begins again in another server (1012: Service Restart).
_RESTART = 1012


class WebsocketExchange:
    """A ``Call`` for a WebSocket.

    Args:
        name: the name of the app, for log lines.
        upgrade: the request to open it.
        scope: the scope.

    Attributes:
        scope: as the argument.
    """

    __slots__ = (
        "_answer",
        "_decided",
        "_ended",
        "_failure",
        "_has_connect",
        "_has_route",
        "_is_cancelled",
        "_name",
        "_phase",
        "_settled",
        "_stream",
        "_upgrade",
        "scope",
    )

    def __init__(self, name: str, upgrade: Upgrade, scope: dict[str, Any]) -> None:
        self._name = name
        self._upgrade = upgrade
        self._phase = WebsocketPhase.CONNECTING
        self._is_cancelled = False
        self._has_connect = False  # whether the app has received websocket.connect
        self._stream: WebsocketStream | None = None
        self._answer: Answer | None = None  # the response that refuses
        self._failure: Exception | None = None  # what the route raises
        self._has_route = True  # whether the route waits
        self._decided = trio.Event()  # the app has accepted, refused or ended
        self._ended = trio.Event()  # the app has ended
        self._settled = trio.Event()  # the stream is open, or never will be
        self.scope = scope

    # For the app...

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> dict[str, Any]:
        """Return the next message of the client, or the disconnect."""
        if not self._has_connect:
            self._has_connect = True
            return {"type": "websocket.connect"}
        await self._settled.wait()
        if self._stream is None:
            return {"type": "websocket.disconnect", "code": ABNORMAL, "reason": ""}
        try:
            data = (await self._stream.receive()).data
        except ConnectionClosed as exc:
            await trio.lowlevel.checkpoint()
            return {"type": "websocket.disconnect", "code": exc.code, "reason": exc.reason}
        if isinstance(data, str):
            return {"type": "websocket.receive", "text": data}
        return {"type": "websocket.receive", "bytes": data}

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: Any) -> None:
        """Take a message.

        Raises:
            MessageError: it is malformed, or not expected.
            ClientDisconnected: the client has left.
        """
        kind, phase = next_phase(WEBSOCKET_ORDER, self._phase, message)
        if kind == "websocket.send":
            await self._send(message)
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            await self._close(message, phase)
        else:
            await self._refuse(message, phase)

    async def _send(self, message: Mapping[str, Any]) -> None:
        data = read_data(message)
        try:
            await (await self._open_stream()).send(data)
        except ConnectionClosed as exc:
            raise ClientDisconnected(str(exc)) from None

    async def _accept(self, message: Mapping[str, Any]) -> None:
        fields, _ = read_headers(message)
        subprotocol = read_text(message, "subprotocol") or None
        try:
            admitted = _ADMISSION.agree(self._upgrade.request, Accept(subprotocol=subprotocol, headers=fields))
        except ValueError as exc:
            raise MessageError(f"the {message['type']!r} is not possible: {exc}") from None
        self._phase = WebsocketPhase.OPEN
        try:
            connection = await opening_of(self._upgrade).accept(admitted, _LIMITS)
        except HandshakeError as exc:
            self._decide(exc)  # a layer has refused it, or the server is shutting down
            raise ClientDisconnected(str(exc)) from exc
        except RuntimeError as exc:
            raise ClientDisconnected("the client has left") from exc  # the route has ended
        self._stream = WebsocketStream(connection)
        self._settled.set()
        self._decide(None)

    async def _close(self, message: Mapping[str, Any], phase: WebsocketPhase) -> None:
        code, reason = read_code(message), read_text(message, "reason")
        if self._phase is WebsocketPhase.CONNECTING:
            self._phase = phase
            self._decide(HandshakeError("the ASGI app has refused the WebSocket", 403))
            return
        try:
            await (await self._open_stream()).close(code, reason)
        except ValueError as exc:
            raise MessageError(f"the {message['type']!r} is not possible: {exc}") from None
        self._phase = phase

    async def _refuse(self, message: Mapping[str, Any], phase: WebsocketPhase) -> None:
        """Take a part of the response that refuses the WebSocket."""
        if self._answer is None:
            answer = Answer(self._name, head_only=False)
            answer.start(*read_start(message))
            self._answer = answer
            self._decide(None)
        else:
            data = read_body(message)
            await self._answer.put(data, is_last=phase is WebsocketPhase.END)
        self._phase = phase

    async def _open_stream(self) -> WebsocketStream:
        if self._stream is None:
            await self._settled.wait()  # another task of the app is accepting
        if self._stream is None:
            raise ClientDisconnected("the client has left")  # while the upgrade was accepted
        return self._stream

    # For the server...

    async def run_route(self) -> Response | None:
        """Wait until the app has refused, or until it has ended.

        Returns:
            The response that refuses; None if the app has accepted.

        Raises:
            HandshakeError: the app or the server has refused it, without a response.
            Exception: the exception of the app.
        """
        try:
            await self._decided.wait()
            if self._answer is not None:
                return await self._answer.response()
            if self._failure is None:
                await self._ended.wait()
            if self._is_cancelled and self._stream is not None:
                # Only if it belongs to another server than the app: otherwise the connection is cancelled as well.
                await self._stream.close(_RESTART, "the ASGI app is restarted")
            failure, self._failure = self._failure, None
            try:
                if failure is not None:
                    raise failure
            finally:
                del failure  # break the reference cycle between the exception and this frame
            return None
        finally:
            self._has_route = False
            self._settled.set()

    def end(self, failure: Exception | None) -> None:
        """Note that the app has returned, or failed."""
        if failure is None:
            failure = self._incomplete()
        elif self._has_left and only_disconnected(failure):
            failure = None
        if failure is not None:
            failure.add_note(f"in {self._name}, for {name_of(self._upgrade.request)}")
            if not self._pass_on(failure):
                self.report(failure)
        self._ended.set()
        self._decided.set()

    def cancel(self) -> None:
        """Note that the app was cancelled, because the server ends."""
        self._is_cancelled = True
        if self._answer is not None:
            self._answer.cancel()
        elif self._phase is WebsocketPhase.CONNECTING:
            self._pass_on(HandshakeError("the server is shutting down", 503))
        self._ended.set()
        self._decided.set()

    def report(self, failure: Exception) -> None:
        """Log a failure that does not become a response or a close."""
        told = f"{self._name} failed after the end of its WebSocket {name_of(self._upgrade.request)}"
        add_hint(failure)
        logger.error("%s", told, exc_info=failure)

    def drain(self) -> None:
        """Note that a graceful shutdown has begun. The server closes the stream itself."""

    @property
    def _has_left(self) -> bool:
        """Whether the client has left: before or after the WebSocket was open."""
        return self._settled.is_set() if self._stream is None else self._stream.closed

    def _incomplete(self) -> MessageError | None:
        """Return the error of an app that has returned too early."""
        match self._phase:
            case WebsocketPhase.CONNECTING:
                return MessageError("the ASGI app has returned without accepting or closing the WebSocket")
            case WebsocketPhase.REFUSING | WebsocketPhase.MORE:
                return MessageError("the ASGI app has returned without sending the whole body of its response")
            case _:
                return None

    def _pass_on(self, failure: Exception) -> bool:
        """Let the route raise a failure. Returns whether it will."""
        if self._answer is not None:
            return self._answer.fail(failure)
        if self._has_route and self._failure is None:
            self._failure = failure
            return True
        return False

    def _decide(self, refusal: HandshakeError | None) -> None:
        self._failure = refusal
        self._decided.set()
