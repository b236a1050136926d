"""What a connection asks of the application, and what it hands to it: the interfaces above the HTTP connection."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .._http._when_left import WhenLeft

if TYPE_CHECKING:
    from .._http._drain import Drain
    from .._http._headers import Headers
    from .._http._limits import Limits, Timeouts
    from .._http._proxies import TrustedProxies
    from .._http._request import Request
    from .._http._response import Response
    from ._clock import SweepClock
    from ._control import ConnectionControl
    from ._departures import Departures
    from ._fairness import Fairness
    from ._lingering import Lingering
    from ._observers import Observers
    from ._recording import Recording
    from ._request_reader import HeadParser
    from ._response_writer import ResponseWriter
    from ._transport import Transport


class Match(Protocol):
    """The outcome of ``Service.find``: what answers a request."""

    @property
    def served(self) -> bool:
        """Whether a handler gets the request. Otherwise ``Service.reject`` answers, and the body is not read."""
        ...

    @property
    def upgrades(self) -> bool:
        """Whether the handler is a WebSocket route. The request then goes to ``Service.upgrade``."""
        ...

    @property
    def handler(self) -> Any:
        """The handler, for ``Handover.route``."""
        ...

    @property
    def pattern(self) -> str | None:
        """The pattern of the route; None if no route was found."""
        ...

    @property
    def params(self) -> Mapping[str, str]:
        """The ``path_params`` of the request."""
        ...

    @property
    def max_body(self) -> int | None:
        """The limit of the body in bytes; None for ``Limits.body``."""
        ...

    @property
    def stream(self) -> bool:
        """Whether the handler reads the body itself."""
        ...

    @property
    def when_left(self) -> WhenLeft | None:
        """What happens to the handler when its client leaves; None for ``ServerSettings.when_left``."""
        ...


class Service(Protocol):
    """The interface of the application for a connection.

    No method raises an ``Exception``, except for ``BodyInterrupted`` of ``settle`` and ``fail``: the client has
    left in the middle of its request, and gets no response.
    """

    def find(self, host: str, method: str, path: str, wants_websocket: bool, /) -> Match:
        """Find what answers a request.

        Called with the head only: the body is not read if no handler gets the request.

        Args:
            host: the host of the request in lower case, as ``Request.host``.
            method: the method of the request.
            path: the path of the request.
            wants_websocket: whether it is a request to open a WebSocket.
        """
        ...

    def respond(self, request: Request, match: Any, /) -> Response | Awaitable[Response]:
        """Call the handler of a match from ``find``.

        Returns:
            The response, or an awaitable that must be passed to ``settle``.
        """
        ...

    async def settle(self, request: Request, match: Any, answer: Awaitable[Response], /) -> Response:
        """Await the result of ``respond``."""
        ...

    async def fail(self, request: Request | None, failure: Exception, failed: Response, /) -> Response:
        """Create the response for the failure of a body, which is logged unless it is an ``HttpError``.

        Args:
            request: the request.
            failure: the failure.
            failed: the response that it replaces, with the header fields of the layers.
        """
        ...

    async def reject(self, request: Request, match: Any, /) -> Response:
        """Create the response to a request whose match is not served."""
        ...

    async def refuse(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        """Create an error response."""
        ...

    async def upgrade(self, handover: Handover) -> Response | None:
        """Run a WebSocket route.

        Returns:
            None if the upgrade was accepted and the WebSocket is closed. Otherwise the response that refuses it:
            the connection continues with HTTP.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The objects that all connections of a server share."""

    service: Service
    limits: Limits
    timeouts: Timeouts
    drain: Drain
    parse_head: HeadParser
    writer: ResponseWriter
    fairness: Fairness
    clock: SweepClock
    departures: Departures
    when_left: WhenLeft
    observers: Observers
    proxies: TrustedProxies | None


class UpgradeGate(Protocol):
    """What an upgrade passes before it is accepted."""

    async def pass_admitted(self) -> Headers:
        """Wait until the upgrade may be accepted. Returns further header fields of the 101.

        Raises:
            Exception: the upgrade is refused.
        """
        ...


@dataclass(slots=True)
class Handover:
    """A connection for which the client has requested an upgrade.

    The receiver uses the transport until it returns. The connection task closes the transport.

    Attributes:
        request: the request for the upgrade.
        route: the handler of the match from ``Service.find``.
        close: whether the connection must be closed after the response if the upgrade is refused.
        rest: the bytes that were received after the head of the request.
        transport: the transport.
        control: the control of the connection. The receiver sets its deadline and callbacks.
        server: the objects that all connections of the server share.
        lingering: ends a connection so that the peer receives the last bytes.
        recording: records the 101; None if nothing does.
        gate: what the upgrade passes before it is accepted; None for nothing.
        in_flight: whether the request is counted as one without a response.
    """

    request: Request
    route: Any
    close: bool
    rest: bytearray
    transport: Transport
    control: ConnectionControl
    server: ServerSettings
    lingering: Lingering
    recording: Recording | None
    gate: UpgradeGate | None = None
    in_flight: bool = True

    def pass_layers(self, request: Request, gate: UpgradeGate) -> None:
        """Give the route the request that the innermost layer has passed on, and a gate to the layers.

        Not a copy: whether the request is in flight is noted in this object.

        Args:
            request, gate: see the attributes.
        """
        self.request, self.gate = request, gate

    def note_switched(self, size: int) -> None:
        """The 101 was sent: count and record it.

        Args:
            size: its bytes.
        """
        self.server.observers.counters.count_switched(size)
        self.end_request()
        if self.recording is not None:
            self.recording.record(self.request, 101, 0)

    def end_request(self) -> None:
        """The request is not in flight any more. Does nothing if it was not."""
        if self.in_flight:
            self.in_flight = False
            self.server.observers.counters.count_ended()
