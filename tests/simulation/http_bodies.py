"""The check of response bodies: what a client got must be what was produced, or the begin of it."""

from __future__ import annotations

from collections.abc import Iterator

from .exchanges import DIGITS, Exchange, Piece
from .http_expected import done, exchanges_of, was_ended
from .journal import ClientLife, Journal
from .script import Script


def whole_bodies_are_right(script: Script, journal: Journal) -> Iterator[str]:
    """A body that looks whole is what was produced. One that does not is the begin of it."""
    for life, exchange in exchanges_of(journal):
        if exchange.status != 200 or exchange.ask.method == "HEAD":
            continue
        if exchange.ask.answer in ("bytes", "closing"):
            body = bytes(exchange.body)
            if not exchange.returned.startswith(body) or (exchange.whole and body != exchange.returned):
                yield f"{exchange.name}: got {body!r} instead of {exchange.returned!r}"
        elif exchange.ask.answer in ("producer", "generator", "events"):
            yield from _check_stream(journal, life, exchange)


def _check_stream(journal: Journal, life: ClientLife, exchange: Exchange) -> Iterator[str]:
    if ("content-length" in exchange.fields) != bool(exchange.ask.length and exchange.ask.answer != "events"):
        yield f"{exchange.name}: its length is {exchange.fields.get('content-length')}"
    whole = exchange.whole and not (exchange.is_late and life.plan.stream != "direct")
    got, rest = _split(exchange)
    texts = {piece.text: piece for piece in exchange.pieces}
    unknown = [text for text in got if text not in texts]
    if unknown or (whole and rest):
        yield f"{exchange.name}: got {[*unknown, rest]!r}, which was not produced"
        return
    begun = exchange.ask.answer == "events" or any(piece.text.startswith(rest) for piece in exchange.pieces)
    if rest and not begun:
        yield f"{exchange.name}: ends with {rest!r}, which was not produced"
    pieces = [texts[text] for text in got]
    yield from _check_pieces(exchange, pieces, whole=whole)
    has_all = exchange.bodies and exchange.ask.length  # the body has failed behind its last byte
    if whole and done(exchange.bodies) != "ok" and not was_ended(journal, exchange) and not has_all:
        yield f"{exchange.name}: looks whole, but its body is {done(exchange.bodies) or 'missing'!r}"


def _check_pieces(exchange: Exchange, pieces: list[Piece], *, whole: bool) -> Iterator[str]:
    if len(set(map(id, pieces))) < len(pieces):
        yield f"{exchange.name}: a piece was received twice"
    if any(piece.outcome == "refused" for piece in pieces):
        yield f"{exchange.name}: a piece was received whose write raised ValueError"
    missing = [piece.text[:DIGITS] for piece in exchange.pieces if piece.outcome == "ok" and piece not in pieces]
    if whole and missing:
        yield f"{exchange.name}: looks whole, but {missing} are missing"
    latest = 0
    for piece in pieces:
        if piece.returned < latest:
            yield f"{exchange.name}: {piece.text[:DIGITS]} was received too late"
        latest = max(latest, piece.called)


def _split(exchange: Exchange) -> tuple[list[str], str]:
    """The pieces of a received body, and an incomplete one at the end."""
    text = exchange.body.decode()
    if exchange.ask.answer == "events":
        return _split_events(text)
    sizes = {piece.text[:DIGITS]: len(piece.text) for piece in exchange.pieces}
    got, place = [], 0
    while place < len(text) and (size := sizes.get(text[place : place + DIGITS], 0)) and place + size <= len(text):
        got.append(text[place : place + size])
        place += size
    return got, text[place:]


def _split_events(text: str) -> tuple[list[str], str]:
    """Parse events (HTML standard, section 9.2.6)."""
    *blocks, rest = text.split("\n\n")
    got = []
    for block in blocks:
        lines = [line.partition(":")[::2] for line in block.split("\n")]
        data = [value.removeprefix(" ") for name, value in lines if name == "data"]
        if data:
            got.append("\n".join(data))
    return got, rest
