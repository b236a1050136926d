"""What the model may expect of HTTP requests and responses, from what handlers, layers and clients did."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from .exchanges import Exchange, Work
from .http_clients import is_too_long
from .journal import ClientLife, Journal
from .script import Script
from .times import DRAIN_SECONDS, HEAD_SECONDS


def exchanges_of(journal: Journal) -> Iterator[tuple[ClientLife, Exchange]]:
    """All requests that a client has begun to send."""
    for life in journal.clients.values():
        for exchange in life.exchanges:
            if exchange.begun:
                yield life, exchange


def is_stopped(journal: Journal, work: Work) -> bool:
    """Whether the HTTP app was cancelled, or its drain had taken too long, when a call ended."""
    hard_stop = journal.happened.get("drain", inf) + DRAIN_SECONDS - 2
    return "http cancelled" in journal.happened or work.ended_at >= hard_stop


def is_strict(script: Script, journal: Journal, life: ClientLife) -> bool:
    """Whether a client must get its responses: it stays, and neither the app nor its connection was cut."""
    # A new connection beyond max_connections closes the oldest one that lingers.
    return (
        not life.misbehaves and "http cancelled" not in journal.happened and script.setup.max_connections is None
    )


def done(work: list[Work]) -> str:
    """The outcome of a call; empty if there was none."""
    return work[-1].outcome if work else ""


def statuses_for(script: Script, exchange: Exchange) -> set[int]:
    """The statuses that a response may have."""
    ask = exchange.ask
    if ask.route == "bad":
        return {400}
    if script.setup.layers and exchange.refused_with:
        return {exchange.refused_with}
    if ask.route in ("missing", "method"):
        return {404 if ask.route == "missing" else 405}
    if not exchange.handlers:
        return refusals_of(exchange)
    if exchange.handlers[-1].outcome in ("failed", "error"):
        return {exchange.handlers[-1].status}
    if exchange.handlers[-1].outcome == "lost":
        return {400}
    return _statuses_of_answer(exchange)


def refusals_of(exchange: Exchange) -> set[int]:
    """The statuses of a request that did not get to its handler."""
    found = {413} if is_too_long(exchange) else set[int]()
    found |= {400} if exchange.ask.framing == "malformed" else set()
    return found | ({408} if exchange.ask.then in ("hold", "stall") else set())


def _statuses_of_answer(exchange: Exchange) -> set[int]:
    ask = exchange.ask
    if ask.answer == "wrong":
        return {500}
    if ask.answer == "empty":
        return {204}
    body = exchange.bodies[-1] if exchange.bodies else None
    if ask.length in ("more", "less"):
        return {200, 500} | ({body.status} if body else set[int]())
    if body is None or body.outcome == "ok":
        # A body that is shorter than its length fails after its producer has returned.
        return {200, 500} if ask.length else {200}
    if body.outcome == "lost":
        return {200, 400, 500}
    if body.outcome not in ("failed", "error"):
        return {200, 500}
    if any(piece.outcome == "ok" for piece in exchange.pieces):
        return {200}
    if not exchange.pieces and body.ended_at < body.began_at + HEAD_SECONDS - 0.01:
        return {body.status}
    return {200, body.status}


def may_close(script: Script, journal: Journal, exchange: Exchange) -> bool:
    """Whether there is a reason for the connection to end after a response."""
    ask = exchange.ask
    return (
        ask.close
        or ask.version == "1.0"
        or ask.answer == "closing"
        or ask.expect
        or ask.route == "bad"
        or exchange.reading is not None
        or ("drain" in journal.happened and exchange.answered_at >= journal.happened["drain"])
        or (bool(ask.framing) and not exchange.read_to_end and leaves_body(exchange))
    )


def leaves_body(exchange: Exchange) -> bool:
    """Whether the body of a request prevents another request on its connection."""
    rejected = exchange.ask.route in ("missing", "method")
    return rejected or is_too_long(exchange) or exchange.ask.framing == "malformed"


def ends_silently(exchange: Exchange) -> bool:
    """Whether a connection ends behind a response that does not say so."""
    # The body has failed behind its last byte, or the rest of the request cannot be read.
    return done(exchange.bodies) not in ("", "ok") or (leaves_body(exchange) and not exchange.read_to_end)


def goes_on(exchange: Exchange) -> bool:
    """Whether a body is produced after its last byte, or its producer waits for a request body that is kept."""
    return exchange.keeps_body or any(work.ended_at > exchange.answered_at for work in exchange.works)


def was_ended(journal: Journal, exchange: Exchange) -> bool:
    """Whether a drain has ended a stream of events."""
    return exchange.ask.answer == "events" and "drain" in journal.happened
