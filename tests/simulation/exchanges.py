"""The observations of HTTP requests: what a client sent, what the server did, and what the client got."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

import trio

from .padding import padding
from .script import Ask

#: The length of the number at the begin of each piece.
DIGITS = 7


class ScriptedError(Exception):
    """The exception that a handler raises because of its script."""


@dataclass
class Piece:
    """One piece of a response body.

    Attributes:
        text: the whole piece. It begins with its number.
        called, returned: logical times of the write; ``returned`` is infinite if it has not returned.
        outcome: ok, cancelled, lost (the client has left), refused (the body is too long), or open.
        began_at, seconds: the virtual time of the write, and how long it took.
    """

    text: str
    called: int
    returned: float = inf
    outcome: str = "open"
    began_at: float = field(default_factory=trio.current_time)
    seconds: float = 0.0


@dataclass
class Work:
    """One call of a handler, or of the producer of a body.

    Attributes:
        began_at, ended_at: virtual times.
        outcome: ok, failed, error, lost (the client has left), cancelled, or open.
        status: the status that its exception asks for.
    """

    began_at: float = field(default_factory=trio.current_time)
    ended_at: float = inf
    outcome: str = "open"
    status: int = 0


@dataclass
class Exchange:
    """One HTTP request and its response.

    Attributes:
        name: the query of the request, by which the server finds the exchange.
        content: the body of the request.
        begun, sent: whether the client has begun to send the request, and has sent all of it.
        handlers, bodies: the calls of the handler, and of the producer. Each has at most one, see the model.
        layers: the calls of the outer layer.
        refused_with: the status of the inner layer, if it has answered.
        read, read_to_end: what the handler has read of the body, and whether it got the end.
        reading: the failure of reading: nothing, or the status of the ``HttpError``; 0 for a client that has left.
        returned: the body of a response that is not streamed.
        declared: the length of the response that the handler has declared, in bytes; None for none.
        pieces: the pieces of a response that is streamed.
        generators: generators that were begun and not closed.
        shielded: the seconds that its script has slept in a shield.
        status, fields, body: the response. The status is 0 without one.
        whole: whether the client's parser has seen the end of the response.
        keeps_body: whether the client has not sent the body, because it got no 100. It sends nothing more.
        waited_in_vain: whether the client got neither a 100 nor a response in time, and then sent the body.
        answered_at: the virtual time of the end of the response.
        raised: the exceptions that the script raised in the server's code.
        over: set when the client waits for nothing more.
    """

    ask: Ask
    client: str
    number: int
    begun: bool = False
    sent: bool = False
    handlers: list[Work] = field(default_factory=list)
    bodies: list[Work] = field(default_factory=list)
    layers: int = 0
    refused_with: int = 0
    read: bytearray = field(default_factory=bytearray)
    read_to_end: bool = False
    reading: int | None = None
    returned: bytes = b""
    declared: int | None = None
    pieces: list[Piece] = field(default_factory=list)
    generators: int = 0
    shielded: float = 0.0
    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False
    keeps_body: bool = False
    waited_in_vain: bool = False
    answered_at: float = inf
    raised: list[ScriptedError] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.name = f"{self.client}.{self.number}"
        self.content = padding(random.Random(self.name), self.ask.size if self.ask.framing else 0).encode()

    @property
    def works(self) -> list[Work]:
        """All calls for the request."""
        return [*self.handlers, *self.bodies]

    @property
    def closes(self) -> bool:
        """Whether the response says that the connection ends."""
        return "close" in self.fields.get("connection", "").lower()

    @property
    def is_late(self) -> bool:
        """Whether the end of file of the connection is the end of the response."""
        has_body = self.status not in (0, 204) and self.ask.method != "HEAD"
        return has_body and not {"content-length", "transfer-encoding"} & set(self.fields)

    def error(self) -> ScriptedError:
        """An exception for the script to raise."""
        self.raised.append(ScriptedError(f"{self.name}, {len(self.raised)}"))
        return self.raised[-1]

    def new_piece(self, called: int, size: int, source: random.Random) -> Piece:
        """A piece to be sent, with so many bytes of padding."""
        number = len(self.pieces)
        self.pieces.append(Piece(f"{number:0{DIGITS - 1}}|{padding(source, size)}", called))
        return self.pieces[-1]

    @contextmanager
    def working(self, works: list[Work]) -> Generator[Work]:
        """Record a call."""
        if any(work.outcome == "open" for work in self.works):
            self.faults.append("two calls run at once")
        work = Work()
        works.append(work)
        try:
            yield work
            work.outcome = "ok"
        except BaseException as exc:
            work.outcome, work.status = _outcome_of(exc)
            raise
        finally:
            work.ended_at = trio.current_time()


def _outcome_of(error: BaseException) -> tuple[str, int]:
    """The outcome of a call and the status of its failure. Of a group, only its failures count."""
    if isinstance(error, BaseExceptionGroup):
        failures = error.split(trio.Cancelled)[1]
        if failures is None:
            return "cancelled", 0
        if failures.split(trio.BrokenResourceError)[1] is None:
            return "lost", 0
        error = _only_cause(failures)
    if isinstance(error, trio.Cancelled):
        return "cancelled", 0
    if isinstance(error, trio.BrokenResourceError):
        return "lost", 0
    status = getattr(error, "status", None)
    return ("failed", 500) if status is None else ("error", status)


def _only_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
