"""The HTTP part of a client: it sends the requests of a script, pipelined or not, and reads the responses.

h11 parses the responses. It is strict about their framing, so a response counts as whole only if its end was
marked.
"""

from __future__ import annotations

from contextlib import suppress

import h11
import trio

from humphrey_trio.testing import MemoryStream

from .exchanges import Exchange
from .http_handlers import MAX_BODY
from .journal import ClientLife, Journal
from .script import ClientPlan
from .streams import send_dripping

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

#: Seconds that a client waits for a 100 before it sends the body anyway (RFC 9110, section 10.1.1).
_CONTINUE_PATIENCE = 0.4

#: Seconds that a client waits for the end of file after the last response.
_END_PATIENCE = 1.5

_PATHS = {"missing": "/nowhere", "method": "/put-only", "bad": "/"}


class HttpSide:
    """Sends the requests of a client, and reads the responses.

    Args:
        plan: the client.
        stream: its end of the connection.
        life: the observations of the client.
        journal: gets the exchanges.
        over: set when all requests were sent, if there are no upgrades. The end of the run need not wait for the
            responses.

    Attributes:
        rest: the bytes after the last response.
        ended: whether the connection has ended, or ends after the last response.
    """

    def __init__(
        self, plan: ClientPlan, stream: MemoryStream, life: ClientLife, journal: Journal, over: trio.Event
    ) -> None:
        self._stream = stream
        self._life = life
        self._over = over
        self._exchanges = [Exchange(ask, plan.name, number) for number, ask in enumerate(plan.asks)]
        self._continue = trio.Event()
        self.rest = b""
        self.ended = False
        life.exchanges = self._exchanges
        journal.exchanges.update({exchange.name: exchange for exchange in self._exchanges})

    async def play(self) -> None:
        """Send all requests, and read all responses until the connection ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_all)
            for exchange in self._exchanges:
                await self._read(exchange)
                exchange.over.set()
                if self.ended:
                    break
            if self.ended:
                await self._read_to_the_end()
                nursery.cancel_scope.cancel()

    # Sending.

    async def _send_all(self) -> None:
        before: Exchange | None = None
        with suppress(*GONE):  # the reader gets the same exception
            for exchange in self._exchanges:
                await trio.sleep(exchange.ask.after)
                if before is not None and not exchange.ask.early:
                    await before.over.wait()
                if not self._may_send:
                    break
                await self._send(exchange)
                await self._misbehave(exchange)
                before = exchange
        if not self._life.plan.attempts:
            self._over.set()

    @property
    def _may_send(self) -> bool:
        is_last = any(exchange.closes or exchange.keeps_body for exchange in self._exchanges)
        return not self.ended and not is_last and self._life.left_at > trio.current_time()

    async def _send(self, exchange: Exchange) -> None:
        ask = exchange.ask
        exchange.begun = True
        head, content = request_head(exchange), request_content(exchange)
        if ask.then in ("cut", "hold"):
            self._life.misbehaviour.append(ask.then)
        half = len(head) + len(content) // 2 if content else len(head) // 2
        if not ask.expect:
            await self._send_bytes(exchange, head + content, half)
        else:
            self._continue = trio.Event()
            await self._send_bytes(exchange, head, half)
            with trio.move_on_after(_CONTINUE_PATIENCE) as scope:
                await self._continue.wait()
            exchange.waited_in_vain = scope.cancelled_caught
            if exchange.status:  # the final response
                exchange.keeps_body = True
                return
            await self._send_bytes(exchange, content, half - len(head))
        exchange.sent = ask.then != "cut"

    async def _send_bytes(self, exchange: Exchange, data: bytes, half: int) -> None:
        """Send bytes. A client that cuts or holds its request does so behind ``half`` of them."""
        ask = exchange.ask
        if ask.then in ("cut", "hold") and 0 < half < len(data):
            await send_dripping(self._stream, data[:half], ask.drip, self._count)
            if ask.then == "cut":
                self._leave()
                self._stream.send_eof_nowait()
                return
            await trio.sleep(ask.seconds)
            data = data[half:]
        await send_dripping(self._stream, data, ask.drip, self._count)

    def _count(self, size: int) -> None:
        self._life.http_sent += size

    async def _misbehave(self, exchange: Exchange) -> None:
        """What the client does after it has sent a request."""
        ask = exchange.ask
        if ask.then in ("", "cut", "hold"):
            return
        if ask.then == "stall":
            self._life.misbehaviour.append("stall")
            self._stream.stall()
            try:
                await trio.sleep(ask.seconds)
            finally:
                self._stream.stall(False)
            return
        await trio.sleep(ask.seconds)
        self._life.misbehaviour.append(ask.then)
        self._leave()
        {"eof": self._stream.send_eof_nowait, "reset": self._stream.reset, "leave": self._stream.close}[ask.then]()

    def _leave(self) -> None:
        self._life.left_at = min(self._life.left_at, trio.current_time())

    # Receiving.

    async def _read(self, exchange: Exchange) -> None:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=exchange.ask.method, target="/", headers=[("Host", "simulated")]))
        parser.send(h11.EndOfMessage())
        try:
            await self._read_events(exchange, parser)
        except h11.RemoteProtocolError as exc:
            self.ended = True
            if not parser.trailing_data[1]:
                self._life.faults.append(f"the response to {exchange.name} is malformed: {exc}")
        except GONE:
            self.ended = True

    async def _read_events(self, exchange: Exchange, parser: h11.Connection) -> None:
        data, self.rest = self.rest, b""
        while True:
            if data:
                parser.receive_data(data)
            event = parser.next_event()
            while event is not h11.NEED_DATA:
                if self._take(exchange, event, parser):
                    return
                event = parser.next_event()
            data = await self._stream.receive_some()
            self._life.http_received += len(data)
            if not data:
                parser.receive_data(b"")

    async def _read_to_the_end(self) -> None:
        """Read the end of file after the last response."""
        with suppress(*GONE), trio.move_on_after(_END_PATIENCE) as scope:
            if self.rest:
                self._life.faults.append(f"{len(self.rest)} bytes after the last response")
            while data := await self._stream.receive_some():
                self._life.faults.append(f"{len(data)} bytes after the last response")
        if scope.cancelled_caught:
            self._life.misses_end = True

    def _take(self, exchange: Exchange, event: object, parser: h11.Connection) -> bool:
        """Take an event of the parser. Returns whether the response has ended."""
        match event:
            case h11.InformationalResponse():
                self._continue.set()
                if not exchange.ask.expect or event.status_code != 100:
                    self._life.faults.append(f"a {event.status_code} for {exchange.name}")
            case h11.Response():
                exchange.status = event.status_code
                exchange.fields = {name.decode(): value.decode() for name, value in event.headers}
                self._continue.set()
            case h11.Data():
                exchange.body += event.data
            case h11.EndOfMessage():
                exchange.whole = True
                exchange.answered_at = trio.current_time()
                self.rest = parser.trailing_data[0]
                self.ended = exchange.closes or exchange.is_late
                return True
            case _:
                self.ended = True
                return True
        return False


def request_head(exchange: Exchange) -> bytes:
    """The head of a request."""
    ask = exchange.ask
    path = _PATHS.get(ask.route) or f"/{ask.route}/{'FINISH' if ask.finish else 'CANCEL'}"
    lines = [f"{ask.method} {path}?{exchange.name} HTTP/{ask.version}", "Host: simulated"]
    if ask.route == "bad":
        lines.append("Host: twice")
    if ask.close:
        lines.append("Connection: close")
    if ask.layer:
        lines.append(f"X-Layer: {ask.layer}")
    if ask.framing == "length":
        lines.append(f"Content-Length: {len(exchange.content)}")
    elif ask.framing:
        lines.append("Transfer-Encoding: chunked")
    if ask.expect:
        lines.append("Expect: 100-continue")
    return "\r\n".join([*lines, "", ""]).encode()


def request_content(exchange: Exchange) -> bytes:
    """The body of a request as it is sent."""
    ask, content = exchange.ask, exchange.content
    if ask.framing in ("", "length"):
        return content
    step = len(content) // ask.pieces + 1
    chunks = [content[start : start + step] for start in range(0, len(content), step)]
    encoded = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    return b"".join([*encoded, b"zz\r\n" if ask.framing == "malformed" else b"0\r\n\r\n"])


def is_too_long(exchange: Exchange) -> bool:
    """Whether the body of a request exceeds the limit of its route."""
    return len(exchange.content) > MAX_BODY
