"""The HTTP side of the application: handlers, bodies and layers perform the actions of a request's script."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager

import trio

from humphrey_trio import App, Request, Response, WhenLeft
from humphrey_trio.http import EventSender, HttpError, StatelessRequestHandler, Write
from humphrey_trio.layers import CallNext

from ..support.steps import at_step
from .exchanges import DIGITS, Exchange, Piece
from .journal import Journal
from .script import Act, Ask

#: The maximum number of bytes of a request body.
MAX_BODY = 50_000
#: The statuses of a handler, of its ``HttpError``, of a layer that answers, and of the ``HttpError`` of a layer.
OK, ERROR, LAYER, LAYER_ERROR = 200, 409, 299, 451

Send = Callable[[str], Awaitable[None]]


class HttpHandlers:
    """The handlers and layers of an app, for one run."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self._journal = journal
        self._padding = random.Random(seed)

    def add_to(self, app: App, *, layers: bool) -> None:
        """Add the routes and layers."""
        handlers: dict[str, StatelessRequestHandler] = {
            "whole": self._answer,
            "stream": self._answer,
            "plain": self._answer_now,
        }
        for route, handler in handlers.items():
            for policy in (WhenLeft.CANCEL, WhenLeft.FINISH):
                path, stream = f"/{route}/{policy.name}", route == "stream"
                app.with_stateless_route(path, handler, max_body=MAX_BODY, stream=stream, when_left=policy)
        app.with_stateless_route("/put-only", self._answer_now, methods=("PUT",))
        if layers:
            app.with_layer(self._outer_layer).with_layer(self._inner_layer)

    # Layers.

    async def _outer_layer(self, request: Request, state: None, call_next: CallNext) -> Response:
        exchange = self._journal.exchanges.get(request.query)
        if exchange is not None:
            exchange.layers += 1
        response = await call_next(request)
        return response.with_header("X-Outer", request.query)

    async def _inner_layer(self, request: Request, state: None, call_next: CallNext) -> Response:
        # An upgrade has no exchange.
        exchange = self._journal.exchanges.get(request.query) or Exchange(Ask(), request.query, 0)
        action = request.headers.get("X-Layer", "")
        if action == "answer":
            exchange.refused_with = LAYER
            return Response(LAYER, "the layer")
        if action == "error":
            exchange.refused_with = LAYER_ERROR
            raise HttpError(LAYER_ERROR)
        if action == "before":
            exchange.refused_with = 500
            raise exchange.error()
        if action == "slow":
            await trio.sleep(0.1)
        response = await call_next(request)
        if action == "slow":
            await trio.sleep(0.1)
        if action == "after":
            exchange.refused_with = 500
            raise exchange.error()
        return response.with_header("X-Inner", request.query)

    # Handlers.

    async def _answer(self, request: Request) -> Response:
        exchange = self._exchange_of(request)
        with exchange.working(exchange.handlers):
            if exchange.ask.route == "whole":
                exchange.read += request.content
                exchange.read_to_end = True
            await _Worker(self, exchange, request).perform(exchange.ask.acts)
            return self._response(exchange, request)

    def _answer_now(self, request: Request) -> Response:
        """A handler that is not async performs no actions but the last, if it raises."""
        exchange = self._exchange_of(request)
        with exchange.working(exchange.handlers):
            exchange.read += request.content
            exchange.read_to_end = True
            for act in exchange.ask.acts[-1:]:
                _raise(exchange, act.verb)
            return self._response(exchange, request)

    def _exchange_of(self, request: Request) -> Exchange:
        exchange = self._journal.exchanges[request.query]
        if request.method != exchange.ask.method:
            exchange.faults.append(f"its handler got {request.method}")
        return exchange

    def _response(self, exchange: Exchange, request: Request) -> Response:
        ask = exchange.ask
        worker = _Worker(self, exchange, request)
        length = exchange.declared = _length_of(ask.body, ask.length)
        match ask.answer:
            case "producer":
                return Response.stream(worker.produce, length=length)
            case "generator":
                return Response.stream(worker.generate(), length=length)
            case "events":
                return Response.events(worker.send_events)
            case "empty":
                return Response.empty(204)
            case "wrong":
                return "not a response"  # type: ignore[return-value]
        exchange.returned = f"the response to {exchange.name}".encode()
        fields = {"Connection": "close"} if ask.answer == "closing" else {}
        return Response(OK, exchange.returned, fields)

    def new_piece(self, exchange: Exchange, size: int) -> Piece:
        return exchange.new_piece(self._journal.now(), size, self._padding)

    @contextmanager
    def sending(self, piece: Piece) -> Generator[None]:
        """Record the outcome of one write."""
        try:
            yield
            piece.outcome = "ok"
        except trio.Cancelled:
            piece.outcome = "cancelled"
            raise
        except trio.BrokenResourceError:
            piece.outcome = "lost"
            raise
        except ValueError:
            piece.outcome = "refused"
            raise
        finally:
            piece.returned = self._journal.now()
            piece.seconds = trio.current_time() - piece.began_at


class _Worker:
    """Performs the actions of one handler or of the producer of its response."""

    def __init__(self, handlers: HttpHandlers, exchange: Exchange, request: Request) -> None:
        self._handlers = handlers
        self._exchange = exchange
        self._request = request

    async def produce(self, write: Write) -> None:
        with self._exchange.working(self._exchange.bodies):
            await self.perform(self._exchange.ask.body, write)

    async def send_events(self, events: EventSender) -> None:
        async def send(text: str) -> None:
            await events.send(text, event="scripted", id=text[: DIGITS - 1])

        with self._exchange.working(self._exchange.bodies):
            await self.perform(self._exchange.ask.body, send)

    async def generate(self) -> AsyncGenerator[str]:
        """The body as a generator. Nurseries are open around its yields."""
        exchange = self._exchange
        exchange.generators += 1
        task = trio.lowlevel.current_task()
        try:
            with exchange.working(exchange.bodies):
                for act in exchange.ask.body:
                    async with trio.open_nursery() as nursery:
                        if act.verb == "nursery":
                            nursery.start_soon(trio.sleep, 0.1)
                        for one in _writes(act):
                            piece = self._handlers.new_piece(exchange, one.size)
                            with self._handlers.sending(piece):
                                yield piece.text
                    if act.verb not in ("write", "nursery", "limited"):
                        await self.perform((act,))
        except GeneratorExit:
            exchange.bodies[-1].outcome = "cancelled"
            raise
        finally:
            exchange.generators -= 1
            if trio.lowlevel.current_task() is not task:
                exchange.faults.append("its generator was closed in another task than it was begun")

    async def perform(self, acts: tuple[Act, ...], send: Send | None = None) -> None:
        for act in acts:
            if act.after:
                await trio.sleep(act.after)
            await getattr(self, f"_do_{act.verb}")(act, send)

    # Actions.

    async def _do_write(self, act: Act, send: Send | None) -> None:
        for one in _writes(act) if send else ():
            piece = self._handlers.new_piece(self._exchange, one.size)
            with self._handlers.sending(piece):
                await send(piece.text)  # type: ignore[misc]

    async def _do_sleep(self, act: Act, send: Send | None) -> None:
        await trio.sleep(act.seconds)

    async def _do_shield(self, act: Act, send: Send | None) -> None:
        self._exchange.shielded += act.seconds
        with trio.CancelScope(shield=True):
            await trio.sleep(act.seconds)

    async def _do_read(self, act: Act, send: Send | None) -> None:
        """Read some pieces of the body, or all with the count 0."""
        exchange = self._exchange
        if exchange.ask.route != "stream" or exchange.read_to_end:
            return
        try:
            pieces = aiter(self._request.body)
            for _ in range(act.count or 1_000_000):
                piece = await anext(pieces, b"")
                exchange.read += piece
                if not piece:
                    exchange.read_to_end = True
                    return
        except HttpError as exc:
            exchange.reading = exc.status
            raise
        except trio.BrokenResourceError:
            exchange.reading = 0
            raise

    async def _do_fail(self, act: Act, send: Send | None) -> None:
        _raise(self._exchange, act.verb)

    async def _do_error(self, act: Act, send: Send | None) -> None:
        _raise(self._exchange, act.verb)

    async def _do_nursery(self, act: Act, send: Send | None) -> None:
        async with trio.open_nursery() as nursery:
            for branch in act.inner:
                nursery.start_soon(self.perform, (branch,), send)

    async def _do_limited(self, act: Act, send: Send | None) -> None:
        with trio.CancelScope() as scope, at_step(act.step, scope.cancel, trio.lowlevel.current_task()):
            await self.perform(act.inner, send)


def _raise(exchange: Exchange, verb: str) -> None:
    if verb == "fail":
        raise exchange.error()
    if verb == "error":
        raise HttpError(ERROR)


def _writes(act: Act) -> list[Act]:
    """The single writes of an action."""
    if act.verb == "write":
        return [act] * act.count
    return [one for inner in act.inner for one in _writes(inner)]


def _length_of(acts: tuple[Act, ...], length: str) -> int | None:
    """The length that the response declares."""
    if not length:
        return None
    total = sum(DIGITS + one.size for act in acts for one in _writes(act))
    return max(0, total + {"right": 0, "more": 5, "less": -5}[length])
